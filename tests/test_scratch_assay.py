import pathlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from rams_jax import datasets
from rams_jax.annotations import AnnotationError, check_example
from rams_jax.datasets import scratch_assay
from rams_jax.types import MarkSettings

MARKS = MarkSettings()
TASKS = ("separation",)
EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def splits(cache) -> datasets.Splits:
    return datasets.load("scratch_assay", "", cache, 0, MARKS, (), TASKS)


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    """The file as tifffile reads it, channel first: uint16[4, 10, 210, 576]."""
    import importlib.util

    import tifffile

    origin = pathlib.Path(importlib.util.find_spec("ndev_sampledata").origin)
    return tifffile.imread(origin.parent / "samples" / "scratch-assay-labeled-10T-2Ch.tiff")


def parts(splits):
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


def place(name: str) -> tuple[str, int, tuple[slice, slice]]:
    """Split, frame and pixels of a tile, worked out again from its name."""
    split, frame, row, column = name.split("_")
    left = {"train": 0, "validation": 297, "test": 390}[split] + 46 * int(column[3:])
    top = 52 * int(row[3:])
    return split, int(frame[5:]), (slice(top, top + 52), slice(left, left + 46))


def test_sizes_and_contents(splits):
    assert [len(part) for part in parts(splits).values()] == [240, 80, 160]
    names = [example.name for part in parts(splits).values() for example in part]
    assert len(set(names)) == 480
    for part in parts(splits).values():
        assert [example.name for example in part] == sorted(example.name for example in part)
        for example in part:
            check_example(example, 1)
            assert example.image.shape == (52, 46, 2) and example.pixel_size == pytest.approx(0.619)
            assert example.complete and example.auxiliary.shape == (52, 46, 1)
            assert not ((example.full > 0) & ~example.valid).any(), "a nucleus that counts lies where somebody looked"
    objects = {name: sum(int(e.full.max()) for e in part) for name, part in parts(splits).items()}
    assert objects["train"] > 400 and objects["validation"] > 40 and objects["test"] > 280


def test_tiles_are_the_pixels_of_the_file(splits, series):
    for kind, part in parts(splits).items():
        for example in part[::27]:
            split, frame, box = place(example.name)
            assert split == kind
            low, high = np.percentile(series[:2, frame], [1, 99.8], axis=(1, 2))
            raw = np.moveaxis(series[:2, frame][(slice(None), *box)], 0, -1)
            np.testing.assert_allclose(example.image, np.clip((raw - low) / (high - low), -4, 4), atol=1e-4)
            labelled = series[2, frame][box] > 0
            np.testing.assert_array_equal((example.full > 0)[example.valid], labelled[example.valid])


def test_ids_are_consecutive_and_each_is_one_piece_of_one_nucleus(splits, series):
    for part in parts(splits).values():
        for example in part:
            ids = np.unique(example.full)
            np.testing.assert_array_equal(ids, np.arange(len(ids)))
            assert example.classes.tolist() == [0] + [1] * (len(ids) - 1)
            _, frame, box = place(example.name)
            for i in ids[1:]:
                assert ndimage.label(example.full == i, EIGHT)[1] == 1 and (example.full == i).sum() >= 5
                assert len(np.unique(series[2, frame][box][example.full == i])) == 1


def test_no_nucleus_is_on_two_sides(splits, series):
    # Followed in another way than the builder does: nuclei of consecutive frames that overlap are one.
    labels = series[2].astype(np.int64)
    offset = np.cumsum([0] + [int(frame.max()) for frame in labels])
    numbered = np.where(labels > 0, labels + offset[:-1, None, None], 0)
    parent = np.arange(offset[-1] + 1)

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for before, after in zip(numbered[:-1], numbered[1:], strict=True):
        for a, b in np.unique(np.stack([before, after], -1)[(before > 0) & (after > 0)], axis=0):
            parent[root(a)] = root(b)
    seen = {}
    for kind, part in parts(splits).items():
        seen[kind] = set()
        for example in part:
            _, frame, box = place(example.name)
            seen[kind] |= {root(i) for i in np.unique(numbered[frame][box][example.full > 0])}
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    assert min(len(nuclei) for nuclei in seen.values()) >= 8


def test_bright_nuclei_without_label_are_invalid(splits):
    # Found by eye in frame 1: a dividing nucleus at row 193, column 109 and its neighbour at row 178, column 97.
    example = next(e for e in splits.train if e.name == "train_frame01_row3_col2")
    for row, column in ((193 - 156, 109 - 92), (178 - 156, 97 - 92)):
        assert example.image[row, column, 0] > 0.4 and example.full[row, column] == 0
        assert not example.valid[row - 3 : row + 4, column - 3 : column + 4].any()
    share = np.mean([1 - e.valid.mean() for part in parts(splits).values() for e in part])
    assert 0.005 < share < 0.05, "little is lost"
    for part in parts(splits).values():
        for e in part:
            smooth = ndimage.gaussian_filter(e.image[..., 0], 1)
            away = ~ndimage.binary_dilation(e.full > 0, iterations=2)  # the halo of a label is background
            bright = ndimage.binary_erosion((smooth > 0.3) & away & e.valid, EIGHT)
            assert not bright.any(), f"{e.name} shows a nucleus that counts as background"


def test_an_empty_wound_is_dark(splits):
    example = next(e for e in splits.train if e.name == "train_frame00_row0_col4")
    assert example.full.max() == 0 and example.valid.all()
    assert np.abs(example.image[..., 0]).max() < 0.2, "noise is not blown up"


def test_marks_of_the_data_set(splits):
    for part in parts(splits).values():
        marked = sum(int((e.partial > 0).sum()) for e in part)
        outlined = sum(int((e.full > 0).sum()) for e in part)
        assert 0.24 < marked / outlined < 0.31  # the middle of 0.15 to 0.40 is 0.275


def test_the_seed_draws_the_marks(splits, cache):
    same = datasets.load("scratch_assay", "", cache, 0, MARKS, (1,), TASKS)
    other = datasets.load("scratch_assay", "", cache, 1, MARKS, (1, 0), TASKS)
    for a, b, c in zip(splits.train, same.train, other.train, strict=True):
        np.testing.assert_array_equal(a.partial, b.partial)
        np.testing.assert_array_equal(a.full, c.full)
        np.testing.assert_array_equal(a.image[..., 1:], b.image)
        np.testing.assert_array_equal(a.image[..., ::-1], c.image)
    assert sum((a.partial != c.partial).any() for a, c in zip(splits.train, other.train, strict=True)) > 160


def test_what_cannot_be_loaded(cache, tmp_path):
    with pytest.raises(AnnotationError, match="no data set 'cells'"):
        datasets.load("cells", "", cache, 0, MARKS, (), TASKS)
    with pytest.raises(AnnotationError, match=r"asks for \(2,\), but the image has only 0 to 1"):
        datasets.load("scratch_assay", "", cache, 0, MARKS, (2,), TASKS)
    (tmp_path / "file").write_text("")
    with pytest.raises(AnnotationError, match="file: cannot hold prepared data sets"):
        datasets.load("scratch_assay", "", tmp_path / "file", 0, MARKS, (), TASKS)


@pytest.mark.parametrize("damage", ["cut", "no records", "no description", "half a description"])
def test_a_half_written_cache_is_written_again(splits, cache, tmp_path, damage):
    import shutil

    shutil.copytree(cache / "scratch_assay", tmp_path / "scratch_assay")
    written = tmp_path / "scratch_assay" / "1.0.0"
    records = next(written.glob("*test.array_record*"))
    match damage:
        case "cut":
            records.write_bytes(records.read_bytes()[:70000])
        case "no records":
            records.unlink()
        case "no description":
            (written / "dataset_info.json").unlink()
        case "half a description":
            (written / "dataset_info.json").write_text('{"name": "scr')
    again = datasets.load("scratch_assay", "", tmp_path, 0, MARKS, (), TASKS)
    for a, b in zip(splits.test, again.test, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.full, b.full)
    assert [path.name for path in (tmp_path / "scratch_assay").iterdir()] == ["1.0.0"], "nothing is left behind"


def test_neither_tensorflow_nor_chatter(tmp_path):
    code = f"""
import pathlib, sys
from rams_jax import datasets
from rams_jax.types import MarkSettings
assert 'tensorflow_datasets' not in sys.modules, 'floor 2 and above must import without it'
datasets.load('scratch_assay', '', pathlib.Path({str(tmp_path)!r}), 0, MarkSettings(), (0,), ('separation',))
assert 'tensorflow' not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def squares(*corners: tuple[int, int], shape=(60, 200), ids=None) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for i, (row, column) in enumerate(corners):
        labels[row : row + 8, column : column + 8] = (ids or range(1, 99))[i]
    return labels


def test_tracking_by_hand():
    maps = [
        squares((10, 10), (40, 40), ids=[3, 7]),
        squares((10, 30), (40, 44), ids=[9, 2]),  # 20 and 4 pixels on, and other ids
        squares((40, 48), (10, 150)),  # the first is missed; a new one comes in
        squares((10, 38), (40, 52), (10, 154)),  # it is back, 8 pixels on
        squares((10, 44), (34, 46), (46, 58), (10, 158)),  # the second divides
        squares((10, 50), (28, 40), (50, 66), (10, 198 - 8)),  # the last one jumps 32 pixels: another nucleus
    ]
    tracks = scratch_assay.track(maps)
    at = [[int(t[r, c]) for r, c in spots] for t, spots in zip(
        tracks,
        [
            [(12, 12), (42, 42)],
            [(12, 32), (42, 46)],
            [(42, 50), (12, 152)],
            [(12, 40), (42, 54), (12, 156)],
            [(12, 46), (36, 48), (48, 60), (12, 160)],
            [(12, 52), (30, 42), (52, 68), (12, 192)],
        ],
        strict=True,
    )]  # fmt: skip
    assert at == [[1, 2], [1, 2], [2, 3], [1, 2, 3], [1, 2, 2, 3], [1, 2, 2, 4]]
    for labels, track in zip(maps, tracks, strict=True):
        np.testing.assert_array_equal(labels > 0, track > 0)
    assert [int(t.max()) for t in scratch_assay.track([np.zeros((5, 5), int), squares((1, 1))])] == [0, 1]


def test_owners_by_hand():
    first, second = np.zeros((2, 10, 576), np.int32)
    first[0, 5], first[1, 285], first[2, 300], first[3, 385] = 1, 2, 3, 4
    second[0, 300], second[1, 300], second[2, 300], second[3, 391] = 1, 2, 3, 4  # 1 and 4 have moved
    assert scratch_assay.owners([first, second]) == {1: "train", 2: "validation", 3: "validation", 4: "test"}


def test_relabel_by_hand():
    labels = np.array(
        [
            [7, 7, 7, 0, 0, 0, 0, 2],
            [7, 7, 7, 0, 0, 0, 0, 2],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [7, 7, 7, 0, 0, 0, 0, 0],
            [7, 7, 7, 0, 9, 9, 9, 9],
            [0, 0, 0, 0, 9, 9, 9, 9],
        ]
    )
    full, valid = scratch_assay.relabel(labels, np.ones(labels.shape, bool))
    expected = np.zeros(labels.shape, int)
    expected[:2, :3], expected[3:5, :3], expected[4:, 4:] = 1, 2, 3
    np.testing.assert_array_equal(full, expected)
    # The sliver of two pixels and what is within two steps of it.
    np.testing.assert_array_equal(~valid[:4], np.array([
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ], bool))  # fmt: skip
    assert valid[4:].all()


def test_trust_by_hand():
    rng = np.random.default_rng(0)
    hoechst = rng.normal(500, 20, (80, 100))
    labels = np.zeros((80, 100), np.int32)
    labels[10:20, 10:20], labels[0:2, 50:54], labels[50:53, 10:13] = (
        1,
        2,
        3,
    )  # the second at the edge, the third a speck
    hoechst[labels > 0] = 1500
    hoechst[40:50, 60:70] = 1500  # nobody labelled this one
    hoechst[10:20, 20] = 1500  # a label drawn one pixel too small is no overlooked nucleus
    hoechst[70, 90] = 2500  # nor is a hot pixel
    kept, valid = scratch_assay.trust(hoechst.astype(np.uint16), labels)
    assert set(np.unique(kept)) == {0, 1, 2}
    assert not valid[40:50, 60:70].any() and not valid[50:53, 10:13].any()
    assert valid[kept > 0].all() and valid[10:20, 20:25].all() and valid[65:75, 85:95].all()
    # Overlooked: 10 x 10, smoothed and widened by 3 in each direction; speck: 3 x 3 widened by 2.
    assert 150 < (~valid[30:60, 50:80]).sum() < 330 and (~valid[45:60, :30]).sum() == 9 + 4 * 6 + 4
