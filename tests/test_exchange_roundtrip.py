"""Instance maps out to each tool's format and in again, and what independent programs see in the files."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
import roifile
import shapely
import shapely.geometry
from matplotlib.path import Path
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask

from rams_jax.exchange import coco, imagej, labelme, napari, qupath
from rams_jax.exchange.outlines import outlines
from rams_jax.exchange.shapes import draw_instances

SEEDS = range(6)


def blobs(seed):
    """Touching objects at all edges of the image, with holes, several parts, corners that touch, ids with gaps."""
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(30, 70, 2))
    noise = ndimage.gaussian_filter(rng.normal(size=(9, *size)), (0, *rng.uniform(0.7, 3, 2)))
    instances = noise.argmax(axis=0)
    instances[noise.max(axis=0) < np.quantile(noise.max(axis=0), 0.4)] = 0
    return np.array([0, 1, 2, 5, 6, 40, 41, 300, 32767])[instances].astype(np.int32)


def tiny(seed):
    """Apart from each other, objects of ten connected pixels."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((60, 60), np.int32)
    for number, (row, column) in enumerate(np.ndindex(6, 6), start=1):
        cell = np.zeros((9, 9), bool)
        cell[4, 4] = True
        while cell.sum() < 10:
            rim = np.argwhere(ndimage.binary_dilation(cell) & ~cell)
            cell[tuple(rim[rng.integers(len(rim))])] = True
        instances[10 * row : 10 * row + 9, 10 * column : 10 * column + 9][cell] = number
    return instances


def simple(seed):
    """Touching objects of one part without holes, as all tools can hold them; ids without gaps."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 50, (12, 2))
    y, x = np.mgrid[:50, :64]
    nearest = np.argmin([(y - r) ** 2 + (x - c) ** 2 for r, c in seeds], axis=0)
    largest = np.zeros(y.shape, bool)
    for number in np.unique(nearest):
        parts, _ = ndimage.label(nearest == number)
        largest |= parts == np.bincount(parts[parts > 0]).argmax()
    return np.unique(np.where(largest, nearest + 1, 0), return_inverse=True)[1].reshape(y.shape).astype(np.int32)


def drawn(drawing, size):
    instances, _, warnings = draw_instances(drawing.source, drawing.shapes, size, None)
    assert not warnings
    return instances


def written(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [blobs, tiny, simple])
def test_geojson_gives_back_the_same_map(tmp_path, make, seed):
    instances = make(seed)
    classes = {int(i): "ice crystal" if i % 2 else "Luftblase, groß" for i in np.unique(instances) if i}
    (drawing,) = qupath.read(written(tmp_path, "a.geojson", qupath.write(instances, "a", classes)))
    assert np.array_equal(drawn(drawing, instances.shape), instances)
    assert {shape.id: shape.class_name for shape in drawing.shapes} == classes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [blobs, tiny, simple])
def test_roi_zips_give_back_the_same_map(tmp_path, make, seed):
    instances = make(seed)
    classes = {int(i): "ice crystal" if i % 2 else "Luftblase, groß" for i in np.unique(instances) if i}
    drawing = imagej.read([written(tmp_path, "a.zip", imagej.write(instances, classes))])
    assert np.array_equal(drawn(drawing, instances.shape), instances)
    assert {shape.id: shape.class_name for shape in drawing.shapes} == classes


@pytest.mark.parametrize("seed", SEEDS)
def test_shapely_sees_the_same_objects_in_geojson(seed):
    instances = blobs(seed)
    content = json.loads(qupath.write(instances, "a", {}))
    points = np.stack(np.mgrid[: instances.shape[0], : instances.shape[1]], axis=-1).reshape(-1, 2)[:, ::-1] + 0.5
    found = np.zeros(instances.size, int)
    for feature in content["features"]:
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid and geometry.geom_type == (
            "MultiPolygon" if len(shapely.get_parts(geometry)) > 1 else "Polygon"
        )
        found[shapely.contains_xy(geometry, points)] += int(feature["properties"]["name"].removeprefix("id "))
    assert np.array_equal(found.reshape(instances.shape), instances)


@pytest.mark.parametrize("seed", SEEDS)
def test_matplotlib_sees_the_same_objects_in_roi_zips(tmp_path, seed):
    instances = blobs(seed)
    path = written(tmp_path, "a.zip", imagej.write(instances, {}))
    points = np.stack(np.mgrid[: instances.shape[0], : instances.shape[1]], axis=-1).reshape(-1, 2)[:, ::-1] + 0.5
    found = np.zeros(instances.size, int)
    for roi in roifile.roiread(path):
        inside = np.zeros(instances.size, bool)
        for ring in roi.coordinates(multi=True):
            inside ^= Path(ring).contains_points(points)
        found[inside] += int(roi.name.removeprefix("id "))
        rows, columns = np.nonzero(instances == int(roi.name.removeprefix("id ")))
        assert (roi.top, roi.bottom, roi.left, roi.right) == (
            rows.min(),
            rows.max() + 1,
            columns.min(),
            columns.max() + 1,
        )
    assert np.array_equal(found.reshape(instances.shape), instances)


def test_what_qupath_and_imagej_are_told(tmp_path):
    instances = np.zeros((6, 9), np.int32)
    instances[1:3, 2:5] = 4
    instances[4:6, 0:2], instances[5, 1], instances[3, 8] = 2, 0, 2  # three pixels round a corner, and one elsewhere
    content = json.loads(qupath.write(instances, "cells", {4: "bubble", 2: "crystal"}))
    second, fourth = content["features"]
    assert content["type"] == "FeatureCollection" and fourth["type"] == "Feature"
    assert fourth["properties"] == {
        "objectType": "annotation",
        "name": "id 4",
        "classification": {"name": "bubble", "color": [230, 25, 75]},
    }
    assert second["properties"]["classification"] == {"name": "crystal", "color": [60, 180, 75]}
    corners = fourth["geometry"]["coordinates"][0]
    assert corners[0] == corners[-1] and sorted(corners[:-1]) == [[2, 1], [2, 3], [5, 1], [5, 3]]
    assert second["geometry"]["type"] == "MultiPolygon"
    assert len(second["id"]) == 36 and second["id"] != fourth["id"]
    data = imagej.write(instances, {4: "bubble", 2: "crystal"})
    assert data == imagej.write(instances, {4: "bubble", 2: "crystal"})  # the same bytes each time
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == ["id 00002.roi", "id 00004.roi"]
    composite, traced = roifile.roiread(written(tmp_path, "a.zip", data))
    assert traced.roitype == roifile.ROI_TYPE.TRACED and (traced.name, traced.group) == ("id 4 bubble", 1)
    assert composite.composite and (composite.name, composite.group) == ("id 2 crystal", 2)
    assert sorted(traced.coordinates().tolist()) == [[2, 1], [2, 3], [5, 1], [5, 3]]


@pytest.mark.parametrize("seed", SEEDS)
def test_outlines_are_exact_and_bare_of_needless_vertices(seed):
    instances = blobs(seed)
    for number, outline in outlines(instances).items():
        assert outline.is_valid and outline.area == (instances == number).sum()
        for part in shapely.get_parts(outline):
            assert part.exterior.is_ccw and not any(hole.is_ccw for hole in part.interiors)
            steps = np.diff(shapely.get_coordinates(part.exterior), axis=0)
            straight = (steps[1:] * steps[:-1]).sum(axis=1) != 0
            assert not straight.any()  # each vertex but the first is a right angle


def polygon_files(tmp_path, instances):
    """The outlines as labelme, COCO and napari write polygons; of their own making: rings of outlines without holes."""
    rings = {n: shapely.get_coordinates(o.exterior)[:-1] for n, o in outlines(instances).items()}
    shapes = [
        {"label": "a", "points": r[:, ::-1].tolist(), "shape_type": "polygon", "group_id": None} for r in rings.values()
    ]
    size = {"imageHeight": instances.shape[0], "imageWidth": instances.shape[1]}
    content = {"version": "5.5.0", "shapes": shapes, "imagePath": "a.png", "imageData": None} | size
    yield labelme.read(written(tmp_path, "a.json", content))
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": [r[:, ::-1].ravel().tolist()]}
        for n, r in rings.items()
    ]
    image = {"id": 1, "file_name": "a.png", "height": instances.shape[0], "width": instances.shape[1]}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    yield coco.read(written(tmp_path, "b.json", content))[0]
    rows = ["index,shape-type,vertex-index,axis-0,axis-1"]
    rows += [f"{n},polygon,{i},{y - 0.5},{x - 0.5}" for n, r in rings.items() for i, (y, x) in enumerate(r)]
    yield napari.read(written(tmp_path, "c.csv", "\n".join(rows).encode()))


@pytest.mark.parametrize("seed", SEEDS)
def test_labelme_coco_and_napari_polygons_give_back_the_same_map(tmp_path, seed):
    instances = simple(seed)
    for drawing in polygon_files(tmp_path, instances):
        assert np.array_equal(drawn(drawing, instances.shape), instances), drawing.source


@pytest.mark.parametrize("seed", SEEDS)
def test_coco_run_lengths_and_labelme_masks_give_back_the_same_map(tmp_path, seed):
    instances = np.unique(blobs(seed), return_inverse=True)[1].reshape(blobs(seed).shape)
    annotations, shapes = [], []
    for number in range(1, instances.max() + 1):
        down = np.concatenate([[0], (instances == number).T.ravel(), [0]]).astype(int)
        counts = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(down)), [instances.size]])).tolist()
        segmentation = {"size": list(instances.shape), "counts": counts}
        annotations.append({"id": number, "image_id": 1, "category_id": 1, "segmentation": segmentation})
        rows, columns = np.nonzero(instances == number)
        box = [[int(columns.min()), int(rows.min())], [int(columns.max()), int(rows.max())]]
        crop = (instances == number)[box[0][1] : box[1][1] + 1, box[0][0] : box[1][0] + 1]
        png = io.BytesIO()
        Image.fromarray(crop.astype(np.uint8)).save(png, "PNG")
        mask = base64.b64encode(png.getvalue()).decode()
        shapes.append({"label": "a", "points": box, "shape_type": "mask", "group_id": None, "mask": mask})
    height, width = instances.shape
    image = {"id": 1, "file_name": "a.png", "height": height, "width": width}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (drawing,) = coco.read(written(tmp_path, "a.json", content))
    assert np.array_equal(drawn(drawing, instances.shape), instances)
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": height, "imageWidth": width}
    assert np.array_equal(drawn(labelme.read(written(tmp_path, "b.json", content)), instances.shape), instances)


@pytest.mark.parametrize("seed", SEEDS)
def test_smooth_polygons_are_filled_as_scikit_image_and_pycocotools_do(tmp_path, seed):
    mask_api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 20 + 5 * np.sin(3 * angle + rng.uniform(0, 6)) + rng.normal(0, 0.2, 60)
    ring = rng.uniform(28, 32, 2) + np.stack([np.sin(angle), np.cos(angle)], axis=1) * radius[:, None]
    corners = ring[:, ::-1].tolist()
    geometry = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    path = written(tmp_path, "a.geojson", {"type": "Feature", "geometry": geometry, "properties": {}})
    found = drawn(qupath.read(path)[0], (60, 60)) > 0
    assert np.array_equal(found, polygon2mask((60, 60), ring - 0.5))
    theirs = mask_api.decode(mask_api.frPyObjects([ring[:, ::-1].ravel().tolist()], 60, 60))[..., 0] > 0
    assert (found & theirs).sum() / (found | theirs).sum() > 0.98  # which rounds vertices to fifths of a pixel
