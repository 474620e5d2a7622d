"""Files in the form that each tool writes, made by hand; each draws the same rectangle, rows 1-2 and columns 3-6."""

import base64
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from rams_jax.annotations import AnnotationError
from rams_jax.exchange import coco, imagej, labelme, napari, qupath
from rams_jax.exchange.reading import detect, match, read
from rams_jax.exchange.shapes import draw_instances, draw_strokes

SIZE = (8, 10)
RECTANGLE = np.zeros(SIZE, int)
RECTANGLE[1:3, 3:7] = 1
CORNERS = [[3, 1], [7, 1], [7, 3], [3, 3]]  # x, y, where (0, 0) is the corner of the image


def drawn(drawing, width=None):
    return draw_instances(drawing.source, drawing.shapes, SIZE, width)[0]


def roi_bytes(kind, points=(), name="", group=0, box=(1, 3, 3, 7), subpixel=(), extra=b"", **header):
    """An ImageJ ROI, byte by byte as RoiEncoder.java describes it; points are x, y."""
    n, options = len(points), 128 if subpixel else 0
    top, left, bottom, right = box
    place = struct.pack(">ffff", *header.get("line", (0, 0, 0, 0)))
    head = b"Iout" + struct.pack(">hBxhhhhH", 228, kind, top, left, bottom, right, n) + place
    head += struct.pack(">hiIIhhBBhi", 0, header.get("shape", 0), 0, 0, header.get("subtype", 0), 0, 0, 0, 0, 0)
    options |= header.get("options", 0)
    head = head[:50] + struct.pack(">h", options) + head[52:]
    xs, ys = [p[0] - left for p in points], [p[1] - top for p in points]
    body = struct.pack(f">{n}h{n}h", *xs, *ys) if n else extra
    body += struct.pack(f">{len(subpixel) * 2}f", *[p[0] for p in subpixel], *[p[1] for p in subpixel])
    second = struct.pack(">iiiiii", 0, 0, 0, header.get("frame", 0), 64 + len(body) + 64, len(name))
    second += struct.pack(">ihBB", 0, 0, group, 0) + bytes(64 - len(second) - 8)
    head = head[:60] + struct.pack(">i", 64 + len(body))
    return head + body + second + name.encode("utf-16be")


def roi(tmp_path, *contents):
    path = tmp_path / "RoiSet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, content in enumerate(contents):
            archive.writestr(f"{i:04d}-0003-0005.roi", content)
    return imagej.read([path])


def test_imagej_areas(tmp_path):
    for kind in (0, 7, 8):  # polygon, freehand, traced
        assert np.array_equal(drawn(roi(tmp_path, roi_bytes(kind, CORNERS))), RECTANGLE)
    assert np.array_equal(drawn(roi(tmp_path, roi_bytes(1))), RECTANGLE)
    moved = [(x - 0.4, y - 0.4) for x, y in CORNERS]  # still over the same centres
    assert np.array_equal(drawn(roi(tmp_path, roi_bytes(0, CORNERS, subpixel=moved))), RECTANGLE)
    path = [0, 3, 1, 1, 7, 1, 1, 7, 3, 1, 3, 3, 4] + [0, 4, 1, 1, 5, 1, 1, 5, 2, 1, 4, 2, 4]
    composite = roi(tmp_path, roi_bytes(1, shape=len(path), extra=struct.pack(f">{len(path)}f", *path)))
    holed = RECTANGLE.copy()
    holed[1, 4] = 0
    assert np.array_equal(drawn(composite), holed)


def test_an_imagej_oval_is_an_ellipse_in_its_box(tmp_path):
    drawing = roi(tmp_path, roi_bytes(2, box=(0, 0, 60, 80)))
    instances, _, _ = draw_instances("a", drawing.shapes, (60, 80), None)
    y, x = np.mgrid[:60, :80] + 0.5
    ellipse = ((y - 30) / 30) ** 2 + ((x - 40) / 40) ** 2 <= 1
    assert (instances.astype(bool) ^ ellipse).sum() <= 4


def test_imagej_lines_and_points_are_at_centres(tmp_path):
    line = roi(tmp_path, roi_bytes(3, line=(3, 1, 6, 1)))
    assert np.argwhere(drawn(line, 1.0)).tolist() == [[1, c] for c in (3, 4, 5, 6)]
    path = roi(tmp_path, roi_bytes(5, [(3, 1), (3, 4)]))
    assert np.argwhere(drawn(path, 1.0)).tolist() == [[r, 3] for r in (1, 2, 3, 4)]
    points = drawn(roi(tmp_path, roi_bytes(10, [(3, 1), (8, 6)])), 1.0)
    assert points[1, 3] == 1 and points[6, 8] == 2 and np.count_nonzero(points) == 2


def test_imagej_names_and_groups(tmp_path):
    contents = [
        roi_bytes(0, CORNERS, "id 7 air bubble", 2),
        roi_bytes(0, [(0, 5), (2, 5), (2, 7), (0, 7)], "0012-0034", 2, box=(5, 0, 7, 2)),
        roi_bytes(10, [(9, 7)]),
    ]
    first, second, third = roi(tmp_path, *contents).shapes
    assert (first.id, first.class_name, first.label) == (7, "air bubble", "ROI 1 (id 7 air bubble)")
    assert (second.id, second.class_name, second.label) == (None, "group 2", "ROI 2 (0012-0034)")
    assert (third.id, third.class_name) == (None, None)


def test_imagej_rois_that_cannot_be_taken(tmp_path):
    curve = struct.pack(">13f", 0, 3, 1, 3, 7, 1, 7, 3, 3, 3, 1, 3, 3)
    for content, words in [
        (roi_bytes(0, CORNERS, "a", options=1), "fitted spline"),
        (roi_bytes(1, shape=13, extra=curve), "curved edges"),
        (roi_bytes(6), "not understood"),
        (roi_bytes(0, CORNERS)[:70], "cannot be read as an ImageJ ROI"),
        (b"no ROI", "cannot be read as an ImageJ ROI"),
    ]:
        with pytest.raises(AnnotationError, match=words):
            roi(tmp_path, content)
    with pytest.raises(AnnotationError, match="ROIs on 2 slices or frames"):
        roi(tmp_path, roi_bytes(0, CORNERS, frame=1), roi_bytes(0, CORNERS, frame=2))
    text = roi(tmp_path, roi_bytes(1, subtype=1, extra=bytes(40)), roi_bytes(0, CORNERS))
    assert len(text.shapes) == 1 and "is text or an image and was left out" in text.warnings[0]


def feature(geometry, **properties):
    return {"type": "Feature", "id": "0b3a4c5d-0000-4000-8000-000000000000", "geometry": geometry} | {
        "properties": {"objectType": "annotation"} | properties
    }


def ring(corners):
    return [*corners, corners[0]]


def qupath_file(tmp_path, *features):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return qupath.read(path)[0]


def test_qupath_objects(tmp_path):
    hole = [[4, 1], [5, 1], [5, 2], [4, 2]]
    drawing = qupath_file(
        tmp_path,
        feature({"type": "Polygon", "coordinates": [ring(CORNERS), ring(hole)]}, classification={"name": "Tumor"}),
        feature({"type": "MultiPolygon", "coordinates": [[ring([[x, 6], [x + 1, 6], [x, 8]])] for x in (0, 5)]}),
        feature({"type": "LineString", "coordinates": [[8.5, 0.5], [8.5, 3.5]]}, name="id 9"),
        feature({"type": "MultiPoint", "coordinates": [[9.5, 5.5], [7.5, 5.5]]}),
    )
    instances = drawn(drawing, 1.0)
    expected = np.where(RECTANGLE, 10, 0)
    expected[1, 4] = 0
    expected[[6, 6], [0, 5]] = 11
    expected[0:4, 8] = 9
    expected[5, 9], expected[5, 7] = 12, 13
    assert np.array_equal(instances, expected)
    assert [shape.class_name for shape in drawing.shapes] == ["Tumor", None, None, None, None]


def test_qupath_classes_of_all_versions(tmp_path):
    square = {"type": "Polygon", "coordinates": [ring(CORNERS)]}
    forms = {
        "Tumor": {"name": "Tumor", "color": [200, 0, 0]},
        "Stroma": {"name": "Stroma", "colorRGB": -6895466},
        "Tumor: Positive": {"names": ["Tumor", "Positive"], "color": [250, 62, 62]},
    }
    for name, form in forms.items():
        assert qupath_file(tmp_path, feature(square, classification=form)).shapes[0].class_name == name
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps([feature(square), feature(square)]))
    assert detect(bare) == "geojson" and len(qupath.read(bare)[0].shapes) == 2
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("cells_1.geojson", json.dumps(feature(square)))
    (drawing,) = read([zipped], None)
    assert drawing.names == ("cells_1",) and np.array_equal(drawn(drawing), RECTANGLE)


def test_qupath_leaves_out_what_is_no_object(tmp_path):
    square = {"type": "Polygon", "coordinates": [ring(CORNERS)]}
    drawing = qupath_file(
        tmp_path,
        feature(square, classification={"name": "Ignore*"}),
        feature(square, objectType="tile"),
        {"type": "Feature", "id": "PathRootObject", "geometry": None, "properties": {}},
        {"type": "Feature", "id": "PathCellObject", "geometry": square, "nucleusGeometry": None, "properties": None},
    )
    assert len(drawing.shapes) == 1 and len(drawing.warnings) == 2
    planes = [feature(square | {"plane": {"c": -1, "z": z, "t": 0}}) for z in (0, 1)]
    with pytest.raises(AnnotationError, match="2 planes of a stack"):
        qupath_file(tmp_path, *planes)
    for geometry in (None, {"type": "Polygon"}, {"type": "Polygon", "coordinates": [[[0, 0]]]}, {"type": "Circle"}):
        with pytest.raises(AnnotationError, match=r"a.geojson: object 1 has no geometry|object 1: its geometry cannot"):
            qupath_file(tmp_path, feature(geometry))


def napari_file(tmp_path, rows, header="index,shape-type,vertex-index,axis-0,axis-1"):
    path = tmp_path / "a.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return napari.read(path)


def test_napari_shapes_are_at_centres(tmp_path):
    corners = [(0.5, 2.5), (0.5, 6.5), (2.5, 6.5), (2.5, 2.5)]  # row, column, where (0, 0) is the first pixel's centre
    for kind in ("polygon", "rectangle"):
        rows = [f"0,{kind},{i}.0,{r},{c}" for i, (r, c) in enumerate(corners)]
        assert np.array_equal(drawn(napari_file(tmp_path, rows)), RECTANGLE)
    rows = ["0,line,0,1.0,3.0", "0,line,1,1.0,6.0", "1,path,0,4,0", "1,path,1,4,2", "1,path,2,6,2"]
    expected = np.zeros(SIZE, int)
    expected[1, 3:7], expected[4, 0:3], expected[4:7, 2] = 1, 2, 2
    assert np.array_equal(drawn(napari_file(tmp_path, rows), 1.0), expected)
    box = [(0.3, 0.1), (0.3, 80.1), (60.3, 80.1), (60.3, 0.1)]
    rows = [f"0,ellipse,{i},{r},{c}" for i, (r, c) in enumerate(box)]
    y, x = np.mgrid[:70, :90]
    ellipse = ((y - 30.3) / 30) ** 2 + ((x - 40.1) / 40) ** 2 <= 1
    instances, _, _ = draw_instances("a", napari_file(tmp_path, rows).shapes, (70, 90), None)
    assert (instances.astype(bool) ^ ellipse).sum() <= 4


def test_napari_points_and_further_axes(tmp_path):
    points = drawn(napari_file(tmp_path, ["0.0,1.0,3.0", "1.0,6.0,8.0"], "index,axis-0,axis-1"), 1.0)
    assert points[1, 3] == 1 and points[6, 8] == 2 and np.count_nonzero(points) == 2
    header = "index,shape-type,vertex-index,axis-0,axis-1,axis-2"
    rows = [f"0,polygon,{i},4.0,{r},{c}" for i, (r, c) in enumerate([(0.5, 2.5), (0.5, 6.5), (2.5, 6.5), (2.5, 2.5)])]
    assert np.array_equal(drawn(napari_file(tmp_path, rows, header)), RECTANGLE)
    with pytest.raises(AnnotationError, match="2 slices of a stack"):
        napari_file(tmp_path, [*rows, "1,path,0,5.0,1,1", "1,path,1,5.0,1,2"], header)
    for rows, words in [
        (["0,ellipse,0,1,2"], "'ellipse' of 1 vertices"),
        (["0,polygon,0,one,2"], "not pairs of numbers"),
        (["0,polygon,0,1"], "line 2 has 4 columns"),
    ]:
        with pytest.raises(AnnotationError, match=words):
            napari_file(tmp_path, rows)
    with pytest.raises(AnnotationError, match="needs the columns"):
        napari_file(tmp_path, ["1,2"], "name,class")


def labelme_file(tmp_path, *shapes):
    path = tmp_path / "a.json"
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "..\\raw\\cells_1.png"}
    path.write_text(json.dumps(content | {"imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}))
    assert detect(path) == "labelme"
    return labelme.read(path)


def labelme_shape(kind, points, label="nucleus", group=None, **more):
    shape = {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": {}}
    return shape | more


def test_labelme_shapes(tmp_path):
    drawing = labelme_file(tmp_path, labelme_shape("polygon", CORNERS))
    assert np.array_equal(drawn(drawing), RECTANGLE) and drawing.shapes[0].class_name == "nucleus"
    assert drawing.names == ("a", "cells_1.png") and drawing.size == SIZE
    for corners in ([[3, 1], [7, 3]], [[7, 3], [3, 1]]):
        assert np.array_equal(drawn(labelme_file(tmp_path, labelme_shape("rectangle", corners))), RECTANGLE)
    png = io.BytesIO()
    Image.fromarray(np.array([[1, 0, 1, 1], [1, 1, 1, 1]], np.uint8)).save(png, "PNG")
    mask = labelme_shape("mask", [[3, 1], [6, 2]], mask=base64.b64encode(png.getvalue()).decode())
    expected = RECTANGLE.copy()
    expected[1, 4] = 0
    assert np.array_equal(drawn(labelme_file(tmp_path, mask)), expected)
    strokes = [labelme_shape("line", [[3.5, 1.5], [6.5, 1.5]]), labelme_shape("linestrip", [[0.5, 4.5], [0.5, 6.5]])]
    strokes.append(labelme_shape("point", [[9.5, 7.5]]))
    drawing = labelme_file(tmp_path, *strokes)
    expected = np.zeros(SIZE, int)
    expected[1, 3:7], expected[4:7, 0], expected[7, 9] = 1, 1, 1
    assert np.array_equal(draw_strokes("a", drawing.shapes, SIZE, 1.0), expected)
    circle = labelme_file(tmp_path, labelme_shape("circle", [[30, 30], [50, 30]]))
    y, x = np.mgrid[:60, :60] + 0.5
    instances, _, _ = draw_instances("a", circle.shapes, (60, 60), None)
    assert (instances.astype(bool) ^ (np.hypot(y - 30, x - 30) <= 20)).sum() <= 4


def test_labelme_groups_are_one_object_of_several_parts(tmp_path):
    parts = [labelme_shape("rectangle", [[x, 1], [x + 1, 2]], "a", 4) for x in (1, 4)]
    other = labelme_shape("rectangle", [[7, 1], [8, 2]], "b", 4)
    drawing = labelme_file(tmp_path, parts[0], other, parts[1])
    assert drawn(drawing)[1].tolist() == [0, 1, 0, 0, 1, 0, 0, 2, 0, 0]
    assert [shape.class_name for shape in drawing.shapes] == ["a", "b"]


@pytest.mark.parametrize(
    "shape, words",
    [
        (labelme_shape("polygon", None), "its coordinates are not pairs of numbers"),
        (labelme_shape("blob", CORNERS), "what is a 'blob'"),
        (labelme_shape("mask", [[0, 0], [1, 1]], mask="!!"), "its mask cannot be read"),
        (labelme_shape("mask", [[0, 0], [1, 1]]), "its mask cannot be read"),
    ],
)
def test_labelme_shapes_that_cannot_be_taken(tmp_path, shape, words):
    with pytest.raises(AnnotationError, match=rf"a.json: shape 1 \(nucleus\): {words}"):
        labelme_file(tmp_path, shape)


# 8 x 10, down the columns: 25 pixels before row 1 of column 3, then 2 in each of 4 columns.
COUNTS = [25, 2, 6, 2, 6, 2, 6, 2, 29]


def coco_file(tmp_path, *segmentations, **more):
    annotations = [
        {"id": i, "image_id": 5, "category_id": 2, "segmentation": s, "iscrowd": 0} | more
        for i, s in enumerate(segmentations, start=100)
    ]
    images = [{"id": i, "file_name": f"train/cells_{i}.png", "height": 8, "width": 10} for i in (5, 6)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 2, "name": "nucleus"}]}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    assert detect(path) == "coco"
    return coco.read(path)


def test_coco_polygons_and_run_lengths(tmp_path):
    polygon = [[float(v) for point in CORNERS for v in point]]
    plain = {"size": [8, 10], "counts": COUNTS}
    # Groups of five bits, + 48, + 32 if more follow: 25 needs a second group for its sign, so chr(25 + 32 + 48) = i,
    # and 0. From the fourth on differences to the one before the last: five times 0, then 29 - 6 = 23, which is g0.
    packed = {"size": [8, 10], "counts": "i0" + "26" + "00000" + "g0"}
    for form in (polygon, plain, packed):
        (drawing,) = coco_file(tmp_path, form)
        assert np.array_equal(drawn(drawing), RECTANGLE), form
        assert drawing.names == ("cells_5.png",) and drawing.size == SIZE
        assert drawing.shapes[0].class_name == "nucleus"
        assert "1 of its 2 images have no annotation" in drawing.warnings[0]
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 4, 1, 4, 2, 1, 2]]  # overlap counts as inside
    assert drawn(coco_file(tmp_path, parts)[0])[:2].tolist() == [[1, 1] + [0] * 8, [1, 1, 1, 1] + [0] * 6]


def test_run_lengths_agree_with_pycocotools():
    mask_api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.uniform(0, 1)
        packed = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        found = np.zeros(mask.T.size, bool)
        for start, length in coco.decode(packed, mask.shape):
            found[start : start + length] = True
        assert np.array_equal(found.reshape(mask.T.shape).T, mask)


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ([], "has a box only"),
        ([[1, 2, 3]], "at least three x, y pairs"),
        ({"size": [10, 8], "counts": COUNTS}, "run lengths are of a"),
        ({"size": [8, 10], "counts": COUNTS[:-1]}, "run lengths are damaged"),
        ({"size": [8, 10], "counts": [-5, 85]}, "run lengths are damaged"),
        ({"size": [8, 10], "counts": [2**70]}, "run lengths are damaged"),
        ({"size": [8, 10], "counts": "\x7f~~~~~~"}, "run lengths are damaged"),
        ({"size": [8, 10], "counts": None}, "run lengths are damaged"),
    ],
)
def test_coco_annotations_that_cannot_be_taken(tmp_path, segmentation, words):
    with pytest.raises(AnnotationError, match=rf"instances.json: annotation 100 \(nucleus\).*{words}"):
        coco_file(tmp_path, segmentation)


def test_coco_crowds_and_strangers(tmp_path):
    (first,) = coco_file(tmp_path, {"size": [8, 10], "counts": COUNTS}, iscrowd=1)
    assert first.shapes == () and "is a crowd" in first.warnings[0]
    with pytest.raises(AnnotationError, match="holds no annotations"):
        coco_file(tmp_path)
    with pytest.raises(AnnotationError, match="belongs to image 77"):
        coco_file(tmp_path, [[0, 0, 1, 1, 2, 2]], image_id=77)


def test_files_find_their_image():
    images = ["cells_1", "cells_1_b", "scan.v2", "x"]
    for name, expected in [
        ("cells_1", "cells_1"),
        ("cells_1.tif", "cells_1"),
        ("cells_1.ome.tif", "cells_1"),
        ("RoiSet_cells_1", "cells_1"),
        ("cells_1 RoiSet", "cells_1"),
        ("cells_1_b_shapes", "cells_1_b"),
        ("cells_1_cp_masks", "cells_1"),
        ("cells_1.tif_labels", "cells_1"),
        ("scan.v2", "scan.v2"),
        ("scan.v2.png", "scan.v2"),
        ("cells_1_c", None),
        ("RoiSet", None),
    ]:
        assert match((name,), images) == expected, name
    assert match(("unknown", "x.png"), images) == "x"


def test_unknown_files_are_told(tmp_path):
    for name, content in [("a.json", "{}"), ("a.json", "[1]"), ("b.txt", "x"), ("c.json", "{"), ("d.zip", "x")]:
        (tmp_path / name).write_text(content)
        with pytest.raises(AnnotationError, match=name):
            read([tmp_path / name], None)
