"""The annotated folder that is made of the package's own images."""

import numpy as np
import pytest

from rams_jax.annotations import AnnotationError, read_image, read_instances, read_pixel_size
from rams_jax.check import check, lines
from rams_jax.datasets.sample import write_sample
from rams_jax.datasets.scratch_assay import STRIPS, read_frames


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample"))


def test_the_checker_finds_nothing_wrong(sample):
    result = check(sample[0])
    assert not result.findings, lines(result)
    assert result.images == {
        "all": 16, "train": 12, "train, outlined": 2, "train, marked": 10, "validation": 2, "validation, outlined": 2,
        "test": 2, "test, outlined": 2,
    }  # fmt: skip


def test_images_are_cut_from_the_strip_of_their_split(sample):
    frames = read_frames()
    paths = sorted((sample[0] / "images").iterdir())
    assert len(paths) == 16
    for path in paths:
        split, frame, row, column = path.stem.split("_")
        top, left = 104 * int(row[3:]), STRIPS[split][0] + 92 * int(column[3:])
        assert left + 92 <= STRIPS[split][1]
        image = read_image(path)
        np.testing.assert_array_equal(image[..., 0], frames[int(frame[5:]), 0, top : top + 104, left : left + 92])
        assert image.shape == (104, 92, 1) and read_pixel_size(path) == pytest.approx(0.619, rel=1e-3)


def test_marks_lie_in_nuclei_and_the_fullest_images_are_outlined(sample):
    outlined = {path.stem for path in (sample[0] / "masks").iterdir()}
    frames = read_frames()
    objects = {}
    for path in sorted((sample[0] / "partial").iterdir()):
        _, frame, row, column = path.stem.split("_")
        nuclei = frames[int(frame[5:]), 2, 104 * int(row[3:]) :, 92 * int(column[3:]) :][:104, :92]
        marks = read_instances(path)
        assert 0 < (marks > 0).sum() < 0.5 * (nuclei > 0).sum() and (nuclei[marks > 0] > 0).all()
        objects[path.stem] = marks.max()
    assert min(objects[name] for name in outlined & set(objects)) >= max(
        count for name, count in objects.items() if name not in outlined
    )


def test_the_new_image_is_larger_and_of_the_test_strip(sample):
    (path,) = sample[1].iterdir()
    np.testing.assert_array_equal(read_image(path)[..., 0], read_frames()[9, 0, :, 390:574])


def test_nothing_is_overwritten(sample):
    before = {path: path.stat().st_mtime_ns for path in sample[0].rglob("*.tif")}
    with pytest.raises(AnnotationError, match="exists already"):
        write_sample(sample[0].parent)
    assert before == {path: path.stat().st_mtime_ns for path in sample[0].rglob("*.tif")}
