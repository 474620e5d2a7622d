import dataclasses
import os
import pathlib

import numpy as np
import pytest

from rams_jax import annotations
from rams_jax.annotations import AnnotationError
from rams_jax.types import Example


def good() -> Example:
    """6 x 7 pixels, two objects, marked in their middle."""
    full = np.zeros((6, 7), np.int32)
    full[1:4, 1:4], full[1:5, 4:6] = 1, 2
    partial = np.zeros_like(full)
    partial[2, 2], partial[2:4, 5] = 1, 2
    return Example(
        name="cells_07",
        image=np.random.default_rng(0).random((6, 7, 2), np.float32),
        full=full,
        partial=partial,
        valid=np.ones((6, 7), bool),
        classes=np.array([0, 1, 2], np.int32),
        auxiliary=np.zeros((6, 7, 1), np.int8),
    )


def edited(array: np.ndarray, where, value) -> np.ndarray:
    copy = array.copy()
    copy[where] = value
    return copy


def test_a_good_example_passes():
    example = good()
    annotations.check_example(example, 2)
    annotations.check_example(dataclasses.replace(example, full=None), 2)
    unmarked = edited(example.partial, example.partial == 2, 0)
    annotations.check_example(dataclasses.replace(example, partial=unmarked, complete=False), 2)
    annotations.check_dataset([example, dataclasses.replace(example, full=None)], [0])
    spilling = dataclasses.replace(example, partial=edited(example.partial, (0, 2), 1))
    annotations.check_example(spilling, 2, careful=False)
    with pytest.raises(AnnotationError, match="mark of object 1 leaves its own full mask at 1 pixels"):
        annotations.check_example(spilling, 2)


E = good()
MISTAKES = {
    "NaN image": (dict(image=edited(E.image, (2, 3, 0), np.nan)), "1 NaN or infinite"),
    "infinite image": (dict(image=edited(E.image, (2, slice(3), 0), np.inf)), "3 NaN or infinite"),
    "integer image": (dict(image=np.ones((6, 7, 2), np.uint16)), "holds uint16"),
    "no channel axis": (dict(image=E.image[..., 0]), r"\(6, 7\)"),
    "no pixels": (dict(image=np.zeros((0, 7, 2), np.float32)), "no pixels"),
    "wrong shape of the full mask": (dict(full=E.full[:5]), r"full mask has shape \(5, 7\).* 6 x 7"),
    "wrong shape of the partial mask": (dict(partial=E.partial.T), r"partial mask has shape \(7, 6\)"),
    "float full mask": (dict(full=E.full.astype(np.float32)), "full mask holds float32"),
    "float partial mask": (dict(partial=E.partial / 1.0), "partial mask holds float64"),
    "negative id": (dict(partial=edited(E.partial, (0, 0), -1)), "the id -1"),
    "id without pixels": (dict(classes=np.array([0, 1, 2, 1])), "object 3 has a class, but no pixel"),
    "id without a mark": (dict(partial=edited(E.partial, E.partial == 2, 0)), "object 2 has no pixel in the partial"),
    "id beyond the classes": (dict(partial=edited(E.partial, (2, 5), 3)), "partial mask holds the id 3"),
    "missing class": (dict(classes=np.array([0, 1])), "classes go from 1 to 1"),
    "class 0": (dict(classes=np.array([0, 1, 0])), "object 2 of the partial mask has class 0"),
    "class out of range": (dict(classes=np.array([0, 3, 1])), "object 1 .* class 3, but must have one from 1 to 2"),
    "class of background": (dict(classes=np.array([1, 1, 1])), "begins with 0"),
    "mark outside": (
        dict(partial=edited(E.partial, (5, 6), 2)),
        "mark of object 2 leaves its own full mask at 1 pixels, first at row 5, column 6",
    ),
    "mark in another object": (
        dict(partial=edited(E.partial, (2, 4), 1)),
        "mark of object 1 lies over objects 1 and 2, first at row 2, column 4",
    ),
    "float valid mask": (dict(valid=E.valid.astype(np.float32)), "valid mask is float32"),
    "wrong shape of the valid mask": (dict(valid=E.valid[:, :4]), r"valid mask is bool \(6, 4\)"),
    "unknown stroke": (dict(auxiliary=np.full((6, 7, 1), 3, np.int8)), "auxiliary strokes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_with_the_name(mistake):
    change, sentence = MISTAKES[mistake]
    with pytest.raises(AnnotationError, match=f"cells_07: .*{sentence}"):
        annotations.check_example(dataclasses.replace(good(), **change), 2)


def test_ids_must_fit_into_the_state():
    example = good()
    full = np.where(example.full == 2, 40000, example.full)
    classes = np.zeros(40001, np.int32)
    classes[[1, 40000]] = 1
    partial = np.where(example.partial == 2, 40000, example.partial)
    with pytest.raises(AnnotationError, match="largest one possible is 32767"):
        annotations.check_example(dataclasses.replace(example, full=full, partial=partial, classes=classes), 1)


def test_check_dataset():
    example = good()
    weak = dataclasses.replace(example, name="cells_08", full=None)
    with pytest.raises(AnnotationError, match="data set is empty"):
        annotations.check_dataset([], [])
    with pytest.raises(AnnotationError, match="No image is strong"):
        annotations.check_dataset([example], [])
    with pytest.raises(AnnotationError, match="cells_08: .* has no full mask"):
        annotations.check_dataset([example, weak], [0, 1])
    for positions in ([2], [-1], [0, 0]):
        with pytest.raises(AnnotationError, match="different positions among the 2"):
            annotations.check_dataset([example, weak], positions)
    grey = dataclasses.replace(weak, image=weak.image[..., :1])
    with pytest.raises(AnnotationError, match="cells_08: the image has 1 channels, but cells_07 has 2"):
        annotations.check_dataset([example, grey], [0])


def test_normalise_maps_the_percentiles_to_0_and_1():
    rng = np.random.default_rng(1)
    image = np.stack([rng.gamma(2, 100, (50, 60)), np.full((50, 60), 7.0), -rng.random((50, 60))], -1)
    result = annotations.normalise(image)
    assert result.dtype == np.float32 and result.shape == image.shape
    for channel in (0, 2):
        np.testing.assert_allclose(np.percentile(result[..., channel], [1, 99.8]), [0, 1], atol=1e-5)
        # Linear, and nothing cut inside [-4, 4].
        slope = (result[1:, :, channel] - result[:-1, :, channel]) / np.diff(image[..., channel], axis=0)
        np.testing.assert_allclose(slope, slope[0, 0], rtol=1e-2)
    assert (result[..., 0] > 1).any() and (result[..., 1] == 0).all()


def test_normalise_with_limits_of_another_image_and_with_outliers():
    image = np.array([[[100.0], [150.0]], [[1e9], [-1e9]]])
    between = np.array([[100.0], [200.0]])
    np.testing.assert_array_equal(annotations.normalise(image, between)[..., 0], [[0, 0.5], [4, -4]])
    assert np.isnan(annotations.normalise(np.array([[[1.0], [np.nan]]]), between)[0, 1, 0])


@pytest.mark.parametrize("ids", [[0, 1, 65535], [0, -1, 300]])
def test_write_and_read_round_trip(tmp_path, ids):
    tifffile = pytest.importorskip("tifffile")
    instances = np.random.default_rng(2).choice(np.array(ids, np.int32), (40, 31))
    path = tmp_path / "map.tif"
    annotations.write_instances(path, instances, 0.619)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].dtype == (np.int16 if min(ids) < 0 else np.uint16)
        assert file.pages[0].compression != 1
        np.testing.assert_array_equal(file.asarray(), instances)
    assert annotations.read_pixel_size(path) == pytest.approx(0.619, rel=1e-4)
    if min(ids) >= 0:
        result = annotations.read_instances(path)
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result, instances)
    else:
        with pytest.raises(AnnotationError, match="holds -1"):
            annotations.read_instances(path)


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "mine.tif"
    path.write_bytes(b"the work of a week")
    with pytest.raises(AnnotationError, match="mine.tif: exists already"):
        annotations.write_instances(path, np.ones((3, 3), np.int32), 1.0)
    assert path.read_bytes() == b"the work of a week"


@pytest.mark.parametrize(
    ("instances", "pixel_size", "sentence"),
    [
        (np.full((3, 3), 65536), 1.0, "do not fit into 16 bits"),
        (np.array([[-1, 40000]]), 1.0, "do not fit into 16 bits"),
        (np.ones((3, 3)), 1.0, "must be integer"),
        (np.ones((3, 3, 1), int), 1.0, "must be integer"),
        (np.ones((3, 3), int), 0.0, "pixel size of 0.0"),
    ],
)
def test_what_cannot_be_written(tmp_path, instances, pixel_size, sentence):
    with pytest.raises(AnnotationError, match=sentence):
        annotations.write_instances(tmp_path / "map.tif", instances, pixel_size)
    assert not list(tmp_path.iterdir())


def test_read_image_gives_height_width_channels(tmp_path):
    import tifffile
    from PIL import Image

    rng = np.random.default_rng(3)
    grey, colour = rng.integers(0, 60000, (20, 30), np.uint16), rng.integers(0, 255, (20, 30, 4), np.uint8)
    channels = rng.integers(0, 900, (5, 20, 30), np.uint16)
    tifffile.imwrite(tmp_path / "grey.tif", grey)
    tifffile.imwrite(tmp_path / "channels.ome.tif", channels, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "colour.tif", colour[..., :3], photometric="rgb")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colour).save(tmp_path / "transparent.png")
    tifffile.imwrite(tmp_path / "float.tif", grey.astype(np.float32))
    for name, expected in {
        "grey.tif": grey[..., None],
        "grey.png": grey[..., None],
        "channels.ome.tif": np.moveaxis(channels, 0, -1),
        "colour.tif": colour[..., :3],
        "transparent.png": colour[..., :3],
        "float.tif": grey[..., None].astype(np.float32),
    }.items():
        result = annotations.read_image(tmp_path / name)
        assert result.dtype == expected.dtype, name
        np.testing.assert_array_equal(result, expected, err_msg=name)


def test_what_cannot_be_read(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "stack.ome.tif", np.zeros((4, 8, 9), np.uint16), metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((8, 9), np.float32))
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "whole.tif", np.random.default_rng(0).integers(0, 99, (80, 90), np.uint16))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "text.tif").write_text("not an image")
    for name, sentence in {
        "missing.png": "there is no such file",
        "stack.ome.tif": "4 planes",
        "float.tif": "a mask of float32",
        "colour.tif": "a mask with 3 channels",
        "text.png": "cannot be read as an image",
        "text.tif": "cannot be read as an image",
        "cut.tif": "cannot be read as an image",
    }.items():
        with pytest.raises(AnnotationError, match=f"{name}: .*{sentence}"):
            annotations.read_instances(tmp_path / name)


@pytest.mark.skipif("RAMS_DATA" not in os.environ, reason="RAMS_DATA does not name the folder of further real images")
@pytest.mark.parametrize("folder", ["dsb2018_histology", "dsb2018_fluorescence", "hc18"])
def test_real_folders(folder):
    path = pathlib.Path(os.environ["RAMS_DATA"]) / folder
    for image in sorted((path / "images").iterdir())[:3]:
        pixels = annotations.read_image(image)
        instances = annotations.read_instances(path / "masks" / image.name)
        assert pixels.shape == (*instances.shape, 3 if folder == "dsb2018_histology" else 1)
        assert np.percentile(annotations.normalise(pixels), 50) < 1.5
        assert (np.unique(instances) == np.arange(instances.max() + 1)).all()
