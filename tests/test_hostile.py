"""Files made to hurt: claims without end, bombs, pickles, a hundred thousand objects. Refused soon, in a sentence."""

import dataclasses
import io
import json
import os
import pathlib
import pickle
import resource
import struct
import time
import zipfile
import zlib

import jax
import numpy as np
import pytest
import tifffile
from drawings import SIZE, square
from flax import traverse_util
from test_exchange_formats import CORNERS, roi_bytes
from test_network import rewrite, vouch
from trained import small_network

from rams_jax import claims
from rams_jax.annotations import AnnotationError, read_image, read_pixel_size
from rams_jax.exchange.reading import read
from rams_jax.exchange.shapes import draw_instances
from rams_jax.network import NetworkError, load_network, save_network

TINY = np.arange(64, dtype=np.uint8).reshape(8, 8)
OME = (
    '<?xml version="1.0"?>{}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Description>{}</Description><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" '
    'SizeZ="{}" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData/></Pixels></Image></OME>'
)
LAUGHS = "<!DOCTYPE a [" + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10 if i else "ha"}">' for i in range(20)
)


class Owned:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def described(text):
    return lambda path: tifffile.imwrite(path, TINY, description=text, metadata=None)


def claiming(width, height, **options):
    def write(path):
        tifffile.imwrite(path, np.zeros((16, 16), np.uint8), metadata=None, **options)
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags["ImageWidth"].overwrite(width)
            file.pages[0].tags["ImageLength"].overwrite(height)

    return write


def circle(path):
    """The page after the only one is that page."""
    tifffile.imwrite(path, TINY, metadata=None)
    content = bytearray(path.read_bytes())
    (page,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, page)
    struct.pack_into("<I", content, page + 2 + 12 * tags, page)
    path.write_bytes(content)


def png(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b""))


def dicom(change):
    def write(path):
        pydicom = pytest.importorskip("pydicom", reason="the extra [dicom] is not installed")
        from test_dicom import write

        data = pydicom.dcmread(write(path, np.zeros((24, 30), np.uint16)))
        change(pydicom, data)
        data.save_as(path)

    return write


def deflated(pydicom, data):
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.PixelData = bytes(2**24)


def vast(pydicom, data):
    data.compress(pydicom.uid.RLELossless)
    data.Rows = data.Columns = 65535


IMAGES = {
    "a.tif": (claiming(2**20, 2**20), "claims to hold 1048576 x 1048576 values"),
    "packed.tif": (claiming(2**20, 2**20, compression="zlib"), "claims to hold"),
    "tiles.tif": (claiming(2**20, 2**20, compression="zlib", tile=(16, 16)), "claims to hold"),
    "shaped.tif": (described(json.dumps({"shape": [10**6, 10**6, 8, 8]})), "claims to hold 1000000 x 1000000 x 8 x 8"),
    "planes.ome.tif": (described(OME.format("", "", 10**9)), "holds 1000000000 planes"),
    "laughs.ome.tif": (described(OME.format(f"{LAUGHS}]>", "&u;", 1)), "defines entities"),
    "passwd.ome.tif": (
        described(OME.format('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>', "&b;", 1)),
        "defines entities",
    ),
    "circle.tif": (circle, "its list of pages goes round in a circle"),
    "a.png": (png(2**30, 2**30), "cannot be read as an image"),
    "a.dcm": (dicom(vast), "claims to hold 65535 x 65535 x 1 values"),
    "deflated.dcm": (dicom(deflated), "is deflated as a whole"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_claims_the_world_is_refused(name, tmp_path, capfd):
    write, words = IMAGES[name]
    write(tmp_path / name)
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for function in (read_image, read_pixel_size) if "claims" not in words or "tif" in name else (read_image,):
        with pytest.raises(AnnotationError, match=words) as error:
            function(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and len(str(error.value).splitlines()) == 1
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # KiB
    assert capfd.readouterr() == ("", "")


def test_an_image_claims_no_more_than_its_file_can_hold(tmp_path):
    path, byte = tmp_path / "a", np.dtype(np.uint8)
    for held, most in ((1000, 2**28), (10**6, 2 * 10**9), (10**7, 2**32)):
        with path.open("wb") as file:
            file.truncate(held)
        claims.check_image(path, (1, most), byte)
        with pytest.raises(claims.ClaimError, match=f"claims to hold 1 x {most + 1} values"):
            claims.check_image(path, (1, most + 1), byte)


def test_honest_files_are_still_read(tmp_path):
    blank = np.zeros((4096, 4096), np.uint16)  # packs to a thousandth
    tifffile.imwrite(tmp_path / "blank.tif", blank, compression="zlib")
    assert (tmp_path / "blank.tif").stat().st_size < blank.nbytes / 500
    np.testing.assert_array_equal(read_image(tmp_path / "blank.tif")[..., 0], blank)
    described(OME.format("", "fine", 1))(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif")[..., 0], TINY)


@pytest.mark.parametrize("ending", ["npy", "npz", "pkl", "tif", "png", "gif", "dcm", "roi", "zip", "json", "csv"])
def test_nothing_is_unpickled(ending, tmp_path):
    owned = tmp_path / "owned"
    path, buffer = tmp_path / f"a.{ending}", io.BytesIO()
    array = np.array([Owned(owned)], dtype=object)
    if ending in ("npy", "npz"):
        (np.save if ending == "npy" else np.savez)(buffer, array, allow_pickle=True)
    path.write_bytes(buffer.getvalue() or pickle.dumps(Owned(owned)))
    with pytest.raises(AnnotationError):
        read([path], None) if ending in ("roi", "zip", "json", "csv") else read_image(path)
    assert not owned.exists()
    pickle.loads(pickle.dumps(Owned(owned)))
    assert owned.exists(), "the trap is none"


def test_the_library_asks_for_no_pickle():
    for path in (pathlib.Path(__file__).parents[1] / "rams_jax").rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text and "allow_pickle=True" not in text and "np.load(" not in text, path


def test_a_network_of_more_numbers_than_its_file_holds_is_refused(tmp_path):
    """Description and arrays agree on a petabyte, of which the file holds the shapes only."""
    save_network(tmp_path, small_network())
    model = small_network().model
    model = dataclasses.replace(model, settings=dataclasses.replace(model.settings, width=4096, depth=10))
    rewrite(tmp_path, "model.width", 4096)
    rewrite(tmp_path, "model.depth", 10)
    image = np.zeros((1, 512, 512, 1), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, np.ones(image.shape[:3], bool))
    with zipfile.ZipFile(tmp_path / "parameters.npz", "w") as archive:
        for name, array in traverse_util.flatten_dict(shapes, sep="/").items():
            header = io.BytesIO()
            said = {"descr": "<f4", "fortran_order": False, "shape": array.shape}
            np.lib.format.write_array_header_1_0(header, said)
            archive.writestr(f"{name}.npy", header.getvalue())
    vouch(tmp_path)
    with pytest.raises(NetworkError, match=r"parameters\.npz: is too small for the [\d,]{17,} numbers of network"):
        load_network(tmp_path)


def many_squares():
    return json.dumps([square(x % 16, x // 6250, 1) for x in range(100_000)]).encode()


def many_rows():
    return b"index,axis-0,axis-1\n" + b"".join(b"%d,%d,%d\n" % (i, i % 12, i % 16) for i in range(100_000))


def many_rois():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        roi = roi_bytes(0, CORNERS)
        for i in range(49_999):  # of more files none is opened
            archive.writestr(f"{i}.roi", roi)
    return buffer.getvalue()


def many_annotations():
    polygon = {"image_id": 1, "segmentation": [[1, 1, 3, 1, 3, 3]]}
    images = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    return json.dumps({"images": images, "annotations": [polygon] * 100_000}).encode()


MANY = {"a.geojson": many_squares, "a.csv": many_rows, "a.zip": many_rois, "a.json": many_annotations}


@pytest.mark.parametrize("name", MANY)
def test_a_hundred_thousand_objects_are_refused(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(MANY[name]())
    began = time.process_time()
    (drawing,) = read([path], None)
    with pytest.raises(AnnotationError, match=rf"{name}.*shapes, but an image can hold 32767 objects"):
        draw_instances(drawing.source, drawing.shapes, SIZE, 3.0)
    assert time.process_time() - began < 60
