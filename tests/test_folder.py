import os
import pathlib
import shutil

import folders
import numpy as np
import pytest
from folders import HALF_MICROMETRE, both, marks, noise, objects, project, put, remove

from rams_jax import datasets
from rams_jax.annotations import AnnotationError, check_example
from rams_jax.datasets import folder
from rams_jax.types import MarkSettings

TASKS = ("separation",)


@pytest.fixture
def annotated(tmp_path) -> pathlib.Path:
    """Six images of 24 x 30 with two objects each: a-d with full masks, a, e, f with marks."""
    return folders.healthy(tmp_path / "cells")


def read(path, seed=0, **options):
    """All examples, by name."""
    return {
        example.name: example for part in folder.load(path, seed, MarkSettings(), TASKS, **options) for example in part
    }


def load(path, channels=(), names=()):
    return datasets.load("folder", str(path), path / "cache", 0, MarkSettings(), channels, TASKS, names)


def test_examples(annotated):
    examples = read(annotated)
    assert sorted(examples) == list("abcdef")
    for example in examples.values():
        check_example(example, 1)
        assert example.image.shape == (24, 30, 1) and example.pixel_size == pytest.approx(0.5, rel=1e-4)
        assert example.classes.tolist() == [0, 1, 0, 0, 1] and example.complete
    for name in "abcd":
        np.testing.assert_array_equal(examples[name].full, objects())
    for name in "aef":
        np.testing.assert_array_equal(examples[name].partial, marks())
    assert examples["e"].full is None
    # Drawn by the library: 15 to 40 % of 100 and 120 pixels, inside, others for each image.
    for name in "bcd":
        areas = np.bincount(examples[name].partial.ravel(), minlength=5)
        assert 15 <= areas[1] <= 40 and 18 <= areas[4] <= 48
    assert (examples["b"].partial != examples["c"].partial).any()


def test_split_by_table(annotated):
    splits = load(annotated)
    parts = [[e.name for e in part] for part in (splits.train, splits.validation, splits.test)]
    assert parts == [["a", "b", "e", "f"], ["c"], ["d"]]


def test_split_by_chance(annotated):
    (annotated / "splits.csv").unlink()

    def parts(seed):
        opened = folder.open_folder(annotated, seed, folder.stop)
        return {kind: {e.name for e in opened.entries if e.split == kind} for kind in ("train", "validation", "test")}

    assert [len(names) for names in parts(0).values()] == [4, 1, 1]
    assert parts(0) == parts(0)
    tests = [parts(seed)["test"] for seed in range(30)]
    assert set.union(*tests) == set("abcd"), "an image without a full mask can only train"
    assert all(not set.intersection(*parts(seed).values()) for seed in range(30))


def test_files_of_all_kinds(annotated):
    """8 bits, 16 bits, float, PNG, OME-TIFF, and other sizes: each is normalised by itself."""
    import tifffile
    from PIL import Image

    images = annotated / "images"
    pixels = noise(3).astype(np.uint16)
    both(remove("images/b.tif", "images/c.tif", "images/e.tif"), put("images/a", (pixels // 4).astype(np.uint8)))(
        annotated
    )
    Image.fromarray(pixels).save(images / "b.png")
    tifffile.imwrite(images / "c.ome.tif", pixels, metadata={"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25})
    both(put("images/d", pixels / np.float32(999)), put("images/f", noise(4, (40, 50))))(annotated)
    both(put("images/e", noise(5)), put("partial/f", np.pad(marks(), ((0, 16), (0, 20)))))(annotated)
    examples = read(annotated)
    assert {e.image.dtype for e in examples.values()} == {np.dtype(np.float32)}
    assert examples["f"].image.shape == (40, 50, 1) and examples["f"].partial.shape == (40, 50)
    assert examples["c"].pixel_size == pytest.approx(0.25) and examples["b"].pixel_size == 1.0
    for name, tolerance in (("a", 0.01), ("c", 1e-6), ("d", 1e-5)):
        np.testing.assert_allclose(examples[name].image, examples["b"].image, atol=tolerance)


def test_what_project_toml_changes(annotated):
    both(
        project('class_names = ["cell"]\npixel_size = 0.3\nchannels = [2, 0]\nincomplete = ["e"]'),
        *(put(f"images/{name}", noise(seed, (24, 30, 3))) for seed, name in enumerate("abcde")),
    )(annotated)
    colours = noise(9, (4, 24, 30))  # four channels, where others have three
    put("images/f", colours, imagej=True, metadata={"axes": "CYX"})(annotated)
    splits = load(annotated, channels=(2, 0))
    examples = {e.name: e for e in splits.train}
    assert [examples[name].complete for name in "abef"] == [True, True, False, True]
    assert examples["f"].image.shape == (24, 30, 2) and examples["a"].pixel_size == 0.3
    both(put("images/f", colours[[2, 0]], imagej=True, metadata={"axes": "CYX"}), project("channels = [0, 1]"))(
        annotated
    )
    np.testing.assert_array_equal(load(annotated, (0, 1)).train[3].image, examples["f"].image)
    (annotated / "project.toml").write_text("complete = false\n")
    put("images/f", noise(9, (24, 30, 3)))(annotated)
    # What is drawn by the library is complete.
    assert [e.complete for e in load(annotated).train] == [False, True, False, False]


@pytest.mark.parametrize("dots", [72, 96, 300])
def test_a_resolution_for_paper_is_no_pixel_size(annotated, dots):
    put("images/a", noise(0), resolution=(dots, dots), resolutionunit="INCH")(annotated)
    project("pixel_size = 0.3")(annotated)
    assert [read(annotated)[name].pixel_size for name in "ab"] == [0.3, pytest.approx(0.5, rel=1e-4)]


def test_class_names_must_agree(annotated):
    assert load(annotated, names=("anything",)).train
    with pytest.raises(AnnotationError, match="cells: all objects are of one class, but data.class_names is .'a', 'b'"):
        load(annotated, names=("a", "b"))
    project('class_names = ["cell"]')(annotated)
    assert load(annotated, names=("cell",)).train
    assert load(annotated, names=("nucleus",)).train, "the default, which nobody chose"
    with pytest.raises(AnnotationError, match="project.toml: the classes are cell, but data.class_names is .'yeast'"):
        load(annotated, names=("yeast",))


def test_many_warnings_are_cut_short(annotated):
    for seed in range(12):
        put(f"images/g{seed}", noise(seed + 20), **HALF_MICROMETRE)(annotated)
        put(f"partial/g{seed}", 0 * marks())(annotated)
    folders.write_splits(annotated, folders.SPLITS | {f"g{seed}": "train" for seed in range(12)})
    warnings = load(annotated).warnings
    assert len(warnings) == 11 and warnings[-1] == f"and 2 more; python launch/check.py {annotated} lists all."


def test_channels_that_are_not_there(annotated):
    with pytest.raises(AnnotationError, match=r"asks for \(0, 2\), but the image has only 0 to 0"):
        load(annotated, channels=(0, 2))


def test_reveal_tells_strong_images_everything(annotated):
    examples = load(annotated).train
    revealed = datasets.reveal(examples, (0, 1), TASKS)
    for i, (before, after) in enumerate(zip(examples, revealed, strict=True)):
        assert (after.auxiliary > 0).all() == (i in (0, 1))
        np.testing.assert_array_equal(after.partial, before.partial)
    with pytest.raises(AnnotationError, match="e: chosen as a strong image"):
        datasets.reveal(examples, (2,), TASKS)[2]


@pytest.mark.skipif("RAMS_DATA" not in os.environ, reason="RAMS_DATA does not name the folder of further real images")
@pytest.mark.parametrize("name", ["dsb2018_histology", "dsb2018_fluorescence", "hc18"])
def test_real_folders(name, tmp_path):
    source = pathlib.Path(os.environ["RAMS_DATA"]) / name
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for file in sorted((source / part).iterdir())[:4]:
            shutil.copy(file, tmp_path / part)
    splits = load(tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2, 1, 1]
    for example in (*splits.train, *splits.validation, *splits.test):
        check_example(example, 1)
        share = (example.partial > 0).sum() / (example.full > 0).sum()
        assert example.complete and 0.1 < share < 0.4
