import os
import pathlib
import shutil

import numpy as np
import pytest

from rams_jax import datasets
from rams_jax.annotations import AnnotationError, check_example
from rams_jax.datasets import folder

TASKS = ("separation",)


@pytest.fixture
def annotated(tmp_path) -> pathlib.Path:
    """Six images of 24 x 30 with two objects each: a-e with full masks, b with marks too, f with marks only."""
    import tifffile

    rng = np.random.default_rng(0)
    for part in ("images", "masks", "partial"):
        (tmp_path / part).mkdir()
    full = np.zeros((24, 30), np.uint16)
    full[2:12, 3:13], full[12:22, 15:27] = 1, 4
    marks = np.zeros_like(full)
    marks[5:8, 6:9], marks[15:18, 18:20] = 1, 4
    for name in "abcdef":
        resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", rng.integers(0, 999, (24, 30), np.uint16), **resolution)
        if name != "f":
            tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", full)
        if name in "bf":
            tifffile.imwrite(tmp_path / "partial" / f"{name}.tif", marks)
    return tmp_path


def read(path):
    return folder.read_folder(path, 0, (0.15, 0.40), TASKS)


def write_mask(path, array):
    import tifffile

    tifffile.imwrite(path, array)


def test_read_folder(annotated):
    examples = {example.name: example for example in read(annotated)}
    assert list(examples) == list("abcdef")
    for example in examples.values():
        check_example(example, 1)
        assert example.image.shape == (24, 30, 1) and example.pixel_size == pytest.approx(0.5, rel=1e-4)
        assert example.classes.tolist() == [0, 1, 0, 0, 1] and example.complete
    assert examples["f"].full is None
    np.testing.assert_array_equal(examples["b"].partial, examples["f"].partial)
    assert (examples["b"].partial == 1).sum() == 9
    # Drawn by the library: 15 to 40 % of 100 and 120 pixels, inside, others for each image.
    for name in "acde":
        areas = np.bincount(examples[name].partial.ravel(), minlength=5)
        assert 15 <= areas[1] <= 40 and 18 <= areas[4] <= 48
    assert (examples["a"].partial != examples["c"].partial).any()


def test_bad_folders(annotated):
    with pytest.raises(AnnotationError, match="nowhere: there is no such folder"):
        read(annotated / "nowhere")
    (annotated / "empty" / "images").mkdir(parents=True)
    with pytest.raises(AnnotationError, match="empty: no images; put them into .*images"):
        read(annotated / "empty")
    (annotated / "masks" / "c.tif").unlink()
    with pytest.raises(AnnotationError, match="c.tif: no annotation; draw .*partial.*c.tif"):
        read(annotated)


def test_a_mask_without_image(annotated):
    (annotated / "images" / "d.tif").unlink()
    with pytest.raises(AnnotationError, match="d.tif: belongs to no image"):
        read(annotated)


def test_two_files_of_one_name(annotated):
    shutil.copy(annotated / "images" / "d.tif", annotated / "images" / "d.ome.tif")
    with pytest.raises(AnnotationError, match="has the same name"):
        read(annotated)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.ones((24, 29), np.uint16), "a.tif: 24 x 29 pixels, but a.tif has 24 x 30"),
        (np.ones((24, 30), np.float32), "a.tif: a mask of float32"),
        (np.full((24, 30), -2, np.int16), "a.tif: the mask holds -2"),
    ],
)
def test_bad_masks(annotated, array, sentence):
    (annotated / "masks" / "a.tif").unlink()
    write_mask(annotated / "masks" / "a.tif", array)
    with pytest.raises(AnnotationError, match=sentence):
        read(annotated)


def test_a_mark_outside_its_object(annotated):
    marks = np.zeros((24, 30), np.uint16)
    marks[3:6, 4:7], marks[12:14, 13:17] = 1, 4
    (annotated / "partial" / "b.tif").unlink()
    write_mask(annotated / "partial" / "b.tif", marks)
    with pytest.raises(AnnotationError, match="b: the mark of object 4 .* at 4 pixels, first at row 12, column 13"):
        read(annotated)


def test_an_image_with_nan(annotated):
    image = np.ones((24, 30), np.float32)
    image[3, 4] = np.nan
    (annotated / "images" / "e.tif").unlink()
    write_mask(annotated / "images" / "e.tif", image)
    with pytest.raises(AnnotationError, match="e.tif: holds NaN"):
        read(annotated)


def test_split_by_chance(annotated):
    examples = read(annotated)
    parts = folder.split(examples, annotated, 0)
    assert [len(part) for part in parts] == [4, 1, 1]
    assert sorted(example.name for part in parts for example in part) == list("abcdef")
    assert "f" in [example.name for example in parts[0]], "an image without a full mask can only train"
    tests = {folder.split(examples, annotated, seed)[2][0].name for seed in range(30)}
    assert tests == set("abcde")
    with pytest.raises(AnnotationError, match="2 images have a full mask, but three are needed"):
        folder.split([examples[0], examples[1], examples[5]], annotated, 0)


def test_split_by_table(annotated):
    table = annotated / "splits.csv"
    kinds = dict(zip("abcdef", ["test", "train", "validation", "test", "train", "train"], strict=True))
    table.write_text("name,split\n" + "\n".join(f"{name},{kind}" for name, kind in kinds.items()) + "\n")
    splits = datasets.load("folder", str(annotated), annotated / "cache", 0, (0.15, 0.40), (0,), TASKS)
    assert [[e.name for e in part] for part in (splits.train, splits.validation, splits.test)] == [
        ["b", "e", "f"],
        ["c"],
        ["a", "d"],
    ]
    good = table.read_text()
    for text, sentence in (
        (good.replace("f,train", "f,test"), "f is for test, but has no full mask"),
        (good.replace("e,train", "e,training"), "line 6: e is for 'training'"),
        (good.replace("e,train", "x,train"), "line 6: there is no image 'x'"),
        (good.replace("e,train", "b,train"), "line 6: b is listed twice"),
        (good.replace("e,train\n", ""), "e and 0 others are missing"),
        (good.replace("name,split", "image,part"), "line 2: needs the columns name and split"),
        (good.replace("c,validation", "c,train"), "no image is for validation"),
    ):
        table.write_text(text)
        with pytest.raises(AnnotationError, match=f"splits.csv: {sentence}"):
            folder.split(read(annotated), annotated, 0)


def test_channels_that_are_not_there(annotated):
    with pytest.raises(AnnotationError, match=r"asks for \(0, 2\), but the image has only 0 to 0"):
        datasets.load("folder", str(annotated), annotated / "cache", 0, (0.15, 0.40), (0, 2), TASKS)


def test_reveal_tells_strong_images_everything(annotated):
    examples = read(annotated)
    revealed = datasets.reveal(examples, (0, 2), TASKS)
    for i, (before, after) in enumerate(zip(examples, revealed, strict=True)):
        assert (after.auxiliary > 0).all() == (i in (0, 2))
        np.testing.assert_array_equal(after.partial, before.partial)
    with pytest.raises(AnnotationError, match="f: chosen as a strong image"):
        datasets.reveal(examples, (5,), TASKS)


@pytest.mark.skipif("RAMS_DATA" not in os.environ, reason="RAMS_DATA does not name the folder of further real images")
@pytest.mark.parametrize("name", ["dsb2018_histology", "dsb2018_fluorescence", "hc18"])
def test_real_folders(name, tmp_path):
    source = pathlib.Path(os.environ["RAMS_DATA"]) / name
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for file in sorted((source / part).iterdir())[:4]:
            shutil.copy(file, tmp_path / part)
    splits = datasets.load("folder", str(tmp_path), tmp_path / "cache", 0, (0.15, 0.40), (), TASKS)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2, 1, 1]
    for example in (*splits.train, *splits.validation, *splits.test):
        check_example(example, 1)
        share = (example.partial > 0).sum() / (example.full > 0).sum()
        assert example.complete and 0.1 < share < 0.4
