"""Good files for every reader, what chance makes of them, and what a reader may do: read them, or say one sentence."""

import base64
import dataclasses
import io
import json
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import tifffile
import trained
from drawings import CELLS, CLASSES, SIZE
from hypothesis import strategies as st
from PIL import Image

from rams_jax import checkpoint, network, outputs
from rams_jax.annotations import AnnotationError, read_image, read_instances, read_pixel_size
from rams_jax.datasets import project as tables
from rams_jax.datasets.findings import stop
from rams_jax.exchange import imagej, qupath
from rams_jax.exchange.project import read_project
from rams_jax.exchange.reading import read
from rams_jax.exchange.shapes import draw_instances, draw_strokes

SENTENCES = (AnnotationError, network.NetworkError, checkpoint.WorkdirError)
TOKENS = [
    b"",
    b"\0",
    b"\xff" * 8,
    b"[" * 3000,
    b"{",
    b'"',
    b",",
    b"\n",
    b"nan",
    b"1e999",
    b"-1",
    b"9" * 30,
    b"9" * 5000,
]
TOKENS += ["\N{SNOWMAN}\u202e".encode(), b"../../etc/passwd", b"%s%n", b"<!DOCTYPE a>", b"true", b"null", b"0"]
NODES = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "9" * 5000,
    "../../x",
    "\0",
    [],
    {},
    [[]],
    [[[]]],
]
NODES += [[1, 2], [[0, 0]] * 3, ["a", "b"], {"a": {}}, [[1e7, -1e7]] * 4, [None] * 5, "id 99999", "AAAA"]


@dataclasses.dataclass(frozen=True)
class Reader:
    """One kind of file."""

    name: str  # of the file
    seeds: tuple[bytes, ...]
    read: Callable  # of the path; its result does not matter


@st.composite
def damaged(draw, seeds):
    """Bytes of a seed after a few changes; of JSON also of its tree."""
    content = draw(st.sampled_from(seeds))
    if content[:1] in (b"{", b"[") and b"}\n{" not in content and draw(st.integers(0, 3)):
        tree = json.loads(content)
        for _ in range(draw(st.integers(1, 3))):
            tree = _changed(draw, tree)
        return json.dumps(tree).encode()
    for _ in range(draw(st.integers(1, 4))):
        # Most that matters stands at the beginning or at the end.
        size = len(content)
        at = draw(
            st.one_of(st.integers(0, min(size, 400)), st.integers(0, size), st.integers(max(0, size - 100), size))
        )
        length = draw(st.sampled_from([1, 2, 4, 8, 64]))
        match draw(st.sampled_from(["byte", "number", "delete", "repeat", "insert", "cut", "splice"])):
            case "byte":
                new = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
            case "number":
                form = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q", ">f", "<d"]))
                value = draw(st.sampled_from([0, 1, 2, 7, 127, 255, 256, 32767, 65535, 2**31 - 1, 2**32 - 1, 2**63]))
                value = float(value) if form[1] in "fd" else value % 256 ** struct.calcsize(form)
                new = content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]
            case "delete":
                new = content[:at] + content[at + length :]
            case "repeat":
                new = (
                    content[:at]
                    + content[at : at + length] * draw(st.sampled_from([2, 3, 500]))
                    + content[at + length :]
                )
            case "insert":
                new = content[:at] + draw(st.sampled_from(TOKENS)) + content[at:]
            case "cut":
                new = content[:at]
            case _:
                other = draw(st.sampled_from(seeds))
                new = content[:at] + other[min(at, len(other)) :]
        content = new
    return content


def _changed(draw, tree):
    """The tree with one node that is another, or missing, or there twice."""
    if isinstance(tree, dict | list) and tree and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(tree) if isinstance(tree, dict) else range(len(tree))))
        changed = tree.copy()
        match draw(st.integers(0, 9)):
            case 0:
                changed.pop(key)
            case 1 if isinstance(changed, list):
                changed.insert(key, changed[key])
            case _:
                changed[key] = _changed(draw, changed[key])
        return changed
    return draw(st.sampled_from(NODES))


def outcome(reader, folder, content):
    """`read` or `refused`; raises what should not have happened."""
    path = folder / reader.name
    path.write_bytes(content)
    try:
        reader.read(path)
    except SENTENCES as error:
        lines = str(error).splitlines()
        assert lines and all(len(line) < 1000 for line in lines), lines
        assert str(folder) in str(error) or folder.name in str(error), f"names no file: {error}"
        return "refused"
    return "read"


def _draw(path):
    """Reads as import does, and paints what was read."""
    for drawing in read([path], None):
        if drawing.labels is None:
            shapes = drawing.shapes
            for kind in (None, 3.0):
                try:
                    draw_instances(drawing.source, shapes, SIZE, kind)
                except AnnotationError:
                    draw_strokes(drawing.source, shapes, SIZE, 3.0)


def _image(path):
    read_image(path)
    read_pixel_size(path)


def _table(function, *arguments):
    return lambda path: function(path, *arguments, stop)


def _log(path):
    log = outputs.Log(path.parent, 10**9, True)
    log.write(1, {"loss": 1.0, "area": 1.0, "goal": 1.0}, 1.0)


def _buffer(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _zip(name, content):
    def write(buffer):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
            archive.writestr(f"__MACOSX/._{name}", b"x")

    return _buffer(write)


def _json(value):
    return json.dumps(value).encode()


def _rois():
    with zipfile.ZipFile(io.BytesIO(imagej.write(CELLS, CLASSES))) as archive:
        return tuple(archive.read(name) for name in archive.namelist())


def _labelme():
    mask = base64.b64encode(_buffer(lambda b: Image.fromarray(np.full((3, 4), 255, np.uint8)).save(b, "PNG"))).decode()
    forms = [("polygon", [[1, 1], [6, 1], [6, 5]]), ("rectangle", [[1, 1], [4, 4]]), ("circle", [[6, 6], [8, 6]])]
    forms += [("line", [[1, 1], [4, 4]]), ("point", [[1, 1]]), ("points", [[1, 1], [3, 3]])]
    shapes = [{"label": "cell", "points": p, "group_id": None, "shape_type": kind, "flags": {}} for kind, p in forms]
    shapes += [{"label": "cell", "points": [[2, 2], [6, 5]], "group_id": 1, "shape_type": "mask", "mask": mask}]
    content = {"version": "5.5", "shapes": shapes, "imagePath": "a.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    return (_json(content),)


def _coco():
    outlines = [[[1, 1, 5, 1, 5, 5, 1, 5]], {"size": list(SIZE), "counts": [10, 20, SIZE[0] * SIZE[1] - 30]}]
    outlines += [{"size": list(SIZE), "counts": ":5a5"}]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "segmentation": outline, "iscrowd": 0, "bbox": [1, 1, 4, 4]}
        for i, outline in enumerate(outlines, 1)
    ]
    images = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    return (_json({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}),)


NAPARI = b"index,shape-type,vertex-index,axis-0,axis-1\n" + b"".join(
    b"%d,%s,%d,%d,%d\n" % (index, kind, i, y, x)
    for index, kind in enumerate((b"polygon", b"ellipse"))
    for i, (y, x) in enumerate([(1, 1), (1, 5), (5, 5), (5, 1)])
)


def _tiffs():
    image = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    options = [
        {},
        {"compression": "zlib"},
        {"tile": (16, 16), "compression": "zlib", "bigtiff": True},
        {"imagej": True},
    ]
    options += [{"byteorder": ">", "predictor": True, "compression": "zlib"}, {"resolution": (1e4, 1e4)}]
    labels = [_buffer(lambda b, o=o: tifffile.imwrite(b, image % 5, **o)) for o in options]
    ome = [
        _buffer(lambda b: tifffile.imwrite(b, image, ome=True, metadata={"axes": "YX", "PhysicalSizeY": 0.5})),
        _buffer(lambda b: tifffile.imwrite(b, np.stack([image] * 2), ome=True, metadata={"axes": "CYX"})),
    ]
    return tuple(labels), tuple(ome)


def _pngs():
    grey = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
    images = [Image.fromarray(grey), Image.fromarray(np.stack([grey] * 3, -1)), Image.fromarray(grey).convert("P")]
    images += [Image.fromarray(grey.astype(np.uint16) * 200)]
    return tuple(_buffer(lambda b, image=image: image.save(b, "PNG")) for image in images)


def _dicom(folder):
    import pydicom
    from test_dicom import write

    grey = np.arange(24 * 30, dtype=np.uint16).reshape(24, 30)
    region = pydicom.Dataset()
    region.PhysicalUnitsYDirection, region.PhysicalDeltaY = 3, 0.02
    plain = write(folder / "a.dcm", grey, PixelSpacing=[0.2, 0.3])
    colour = write(
        folder / "b.dcm", np.stack([grey.astype(np.uint8)] * 3, -1), "RGB", SequenceOfUltrasoundRegions=[region]
    )
    packed = pydicom.dcmread(plain)
    packed.compress(pydicom.uid.RLELossless)
    packed.save_as(folder / "c.dcm")
    return tuple(path.read_bytes() for path in (plain, colour, folder / "c.dcm"))


def _network(folder):
    """The two files of a network, in one: its description and, behind a line, the parameters."""
    network.save_network(folder / "network", trained.small_network())
    description = json.loads((folder / "network" / "network.json").read_text())
    return _json(description), (folder / "network" / "parameters.npz").read_bytes()


def readers(folder):
    """All readers by name; `folder` is for what is needed to make the seeds."""
    rois, (labels, ome), pngs = _rois(), _tiffs(), _pngs()
    geojson = (qupath.write(CELLS, "a", CLASSES), _json([json.loads(qupath.write(CELLS, "a", {}))["features"][0]]))
    description, parameters = _network(folder)
    project = b'class_names = ["a", "b"]\npixel_size = 0.5\nchannels = [0]\ncomplete = true\nincomplete = ["x"]\n'
    classes = b"name,id,class\nx,1,a\nx,2,b\n"

    def beside(name, content):
        """Reads a network of which the other file is good, and says so."""

        def read(path):
            other = path.parent / name
            said = json.loads(content) if name == "network.json" else None
            if said is not None:  # which vouches for the damaged parameters
                said["parameters"]["sha256"] = network._digest(path)
            other.write_bytes(content if said is None else _json(said))
            network.load_network(path.parent)

        return read

    def in_project(path):
        read_project(path.parent)

    return {
        "roi": Reader("a.roi", rois, _draw),
        "roi zip": Reader("a.zip", (imagej.write(CELLS, CLASSES), *(_zip("a.roi", roi) for roi in rois)), _draw),
        "geojson": Reader("a.geojson", geojson, _draw),
        "geojson zip": Reader("a.zip", tuple(_zip("a.geojson", g) for g in geojson), _draw),
        "labelme": Reader("a.json", _labelme(), _draw),
        "coco": Reader("a.json", _coco(), _draw),
        "napari": Reader("a.csv", (NAPARI, b"index,axis-0,axis-1\n0,1,2\n1,3,4\n"), _draw),
        "tiff": Reader("a.tif", labels, read_instances),
        "ome-tiff": Reader("a.ome.tif", ome, _image),
        "png": Reader("a.png", pngs, _image),
        "dicom": Reader("a.dcm", _dicom(folder), _image),
        "project.toml": Reader("project.toml", (project,), _table(tables.read_project, ("x",))),
        "project.toml, import": Reader("project.toml", (project,), in_project),
        "classes.csv": Reader("classes.csv", (classes,), _table(tables.read_classes, ("x",), ("a", "b"))),
        "classes.csv, import": Reader("classes.csv", (classes,), in_project),
        "splits.csv": Reader(
            "splits.csv", (b"name,split\nx,train\ny,validation\nz,test\n",), _table(tables.read_splits, "xyz", "xyz")
        ),
        "network.json": Reader("network.json", (description,), beside("parameters.npz", parameters)),
        "parameters.npz": Reader("parameters.npz", (parameters,), beside("network.json", description)),
        "config.json": Reader(
            "config.json",
            (_json({"seed": 1, "data": {"name": "a", "channels": [0]}}),),
            lambda path: checkpoint.open_workdir(path.parent, {"seed": 1}),
        ),
        "metrics.jsonl": Reader("metrics.jsonl", (b'{"step": 1, "loss": 2, "area": 1.0, "goal": 1.0}\n' * 3,), _log),
    }
