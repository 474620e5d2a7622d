import collections
import os
import pathlib
import shutil
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from served import png, serve

from rams_jax import datasets
from rams_jax.annotations import AnnotationError, check_example, normalise
from rams_jax.datasets import building, dsb2018, prepared
from rams_jax.types import MarkSettings

MARKS = MarkSettings()
SIZES = {"histology": {"train": 60, "validation": 8, "test": 17}, "fluorescence": {"train": 100, "validation": 18}}
SIZES["fluorescence"]["test"] = 64
EOSIN = "4193474b2f1c72f7"
real = pytest.mark.skipif("RAMS_DATA" not in os.environ, reason="RAMS_DATA names no local copy of the images")


def entries(kind):
    return [entry for entry in building.table("dsb2018") if entry["kind"] == kind]


@pytest.mark.parametrize("kind", SIZES)
def test_the_table_obeys_its_rule(kind):
    listed = entries(kind)
    assert len({entry["name"] for entry in listed}) == len(listed)
    assert collections.Counter(entry["split"] for entry in listed) == SIZES[kind]
    fields = collections.defaultdict(list)
    for entry in listed:
        fields[entry["field"]].append(entry)
    splits = {}
    for field, members in fields.items():
        assert field == min(entry["name"] for entry in members)
        (splits[field],) = {entry["split"] for entry in members}
    order = sorted(fields, key=lambda field: (field != EOSIN, zlib.crc32(field.encode())))
    expected, left = {}, dict(SIZES[kind])
    for split in ("train", "validation"):
        room = 9 if (kind, split) == ("histology", "validation") else left[split]
        for field in order:
            if field not in expected and len(fields[field]) <= room:
                expected[field], room = split, room - len(fields[field])
    assert splits == {field: expected.get(field, "test") for field in fields}


@real
@pytest.mark.parametrize("kind", SIZES)
def test_tiles_that_continue_each_other_are_of_one_field(kind):
    folder = pathlib.Path(os.environ["RAMS_DATA"], f"dsb2018_{kind}", "images")
    listed = entries(kind)
    assert {path.stem for path in folder.iterdir()} == {entry["name"] for entry in listed}
    by_size = collections.defaultdict(list)
    for entry in listed:
        pixels = np.asarray(Image.open(folder / f"{entry['name']}.png").convert("RGB"), float).mean(axis=-1)
        by_size[pixels.shape].append((entry["field"], pixels))
    joined = 0
    for tiles in by_size.values():
        fields = np.array([field for field, _ in tiles])
        for first, second in ((np.s_[:, -1], np.s_[:, 0]), (np.s_[-1], np.s_[0])):
            a, b = (np.stack([pixels[edge] for _, pixels in tiles]) for edge in (first, second))
            a0, b0 = (e - e.mean(axis=1, keepdims=True) for e in (a, b))
            scale = np.linalg.norm(a0, axis=1)[:, None] * np.linalg.norm(b0, axis=1) + 1e-9
            apart = np.sqrt(((a[:, None] - b) ** 2).mean(axis=-1)) / (a.std(axis=1)[:, None] + 1)
            continued = (a0 @ b0.T / scale > 0.88) & (apart < 0.5) & ~np.eye(len(tiles), dtype=bool)
            i, j = np.nonzero(continued)
            joined += len(i)
            assert (fields[i] == fields[j]).all()
    assert joined > 40


@real
def test_histology_is_the_local_copy(tmp_path):
    splits = datasets.load("histology", "", tmp_path, 0, MARKS, (0, 1, 2), ("separation",))
    folder = pathlib.Path(os.environ["RAMS_DATA"], "dsb2018_histology")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == list(SIZES["histology"].values())
    for example in (*splits.train[::9], *splits.test):
        check_example(example, 1)
        raw = np.asarray(Image.open(folder / "images" / f"{example.name}.png"))
        np.testing.assert_array_equal(example.image, normalise(raw))
        np.testing.assert_array_equal(example.full, np.asarray(Image.open(folder / "masks" / f"{example.name}.png")))
        assert example.complete and example.valid.all() and example.circumference is None
        assert example.auxiliary.shape == (256, 320, 1)
    assert sum(int(example.full.max()) for example in splits.train) > 1500


@real
def test_large_fluorescence_images_are_halved():
    folder = pathlib.Path(os.environ["RAMS_DATA"], "dsb2018_fluorescence")
    read = dsb2018.copy_reader(folder)
    sizes = collections.Counter()
    for entry in entries("fluorescence")[::6]:
        raw, labels = read(entry["name"])
        image, full = dsb2018.binned(raw, labels)
        sizes[image.shape] += 1
        assert full.shape == image.shape[:2] and image.dtype == np.uint8
        if raw.shape[0] == 256:
            assert image is raw
            continue
        assert image.shape == (raw.shape[0] // 2, raw.shape[1] // 2, 1)
        assert image.mean() == pytest.approx(raw.mean(), abs=0.1)
        lost = np.setdiff1d(labels, full)
        assert (np.bincount(labels.ravel())[lost] < 8).all(), "only specks may vanish"
        assert (full > 0).mean() == pytest.approx((labels > 0).mean(), rel=0.02)
    assert set(sizes) == {(256, 256, 1), (180, 180, 1), (260, 348, 1)}


def test_binning_by_hand():
    pixels = np.array([[1, 2, 10, 20, 99], [3, 5, 30, 40, 99], [0, 0, 7, 7, 99], [1, 1, 8, 8, 99], [9, 9, 9, 9, 9]])
    np.testing.assert_array_equal(building.blocks(pixels)[0], [[1, 2, 3, 5], [10, 20, 30, 40]])
    means = building.halve(pixels.astype(np.uint8)[..., None])
    np.testing.assert_array_equal(means[..., 0], [[3, 25], [0, 8]])  # 2.75, 25, 0.5 and 7.5, halves to the even one
    labels = np.zeros((258, 4), np.uint16)
    labels[:2] = [[4, 0, 6, 6], [4, 4, 7, 7]]  # three of four; a tie, which the first in reading order wins
    labels[2:4] = [[0, 8, 1, 2], [0, 8, 3, 3]]
    _, full = dsb2018.binned(np.zeros((258, 4, 1), np.uint8), labels)
    np.testing.assert_array_equal(full[:2], [[4, 6], [0, 3]])
    assert full.shape == (129, 2)


@pytest.fixture
def original(tmp_path):
    """The form of the source for the histology images, each of 6 x 8 pixels with two nuclei."""
    folder = tmp_path / "original"
    rng = np.random.default_rng(0)
    for number, entry in enumerate(entries("histology")):
        one = folder / "stage1_train" / (entry["name"] + "0" * 48)
        (one / "images").mkdir(parents=True)
        (one / "masks").mkdir()
        pixels = rng.integers(0, 255, (6, 8, 4), dtype=np.uint8)
        pixels[0, 0, :3] = number
        (one / "images" / f"{one.name}.png").write_bytes(png(pixels))
        for name, box in (("a", np.s_[1:3, 1:4]), ("b", np.s_[3:6, 4:8])):
            mask = np.zeros((6, 8), np.uint8)
            mask[box] = 255
            (one / "masks" / f"{name}.png").write_bytes(png(mask))
    return folder


def test_the_form_of_the_source_is_read(original, tmp_path):
    splits = datasets.load("histology", str(original), tmp_path / "cache", 0, MARKS, (), ())
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == list(SIZES["histology"].values())
    for number, entry in enumerate(entries("histology")):
        example = next(e for e in getattr(splits, entry["split"]) if e.name == entry["name"])
        (path,) = (original / "stage1_train").glob(f"{entry['name']}*/images/*.png")
        raw = np.asarray(Image.open(path))
        assert (raw[0, 0, :3] == number).all()
        np.testing.assert_array_equal(example.image, normalise(raw[..., :3]))
        expected = np.zeros((6, 8), int)
        expected[1:3, 1:4], expected[3:6, 4:8] = 1, 2
        np.testing.assert_array_equal(example.full, expected)


def test_download(original, tmp_path, monkeypatch):
    monkeypatch.delenv("RAMS_DATA", raising=False)
    (tmp_path / "site").mkdir()
    with zipfile.ZipFile(tmp_path / "site" / "stage1_train.zip", "w") as archive:
        for path in (original / "stage1_train").rglob("*.png"):
            archive.write(path, path.relative_to(original / "stage1_train"))
    with serve(tmp_path / "site") as address:
        monkeypatch.setattr(dsb2018, "URL", f"{address}stage1_train.zip")
        downloaded = datasets.load("histology", "", tmp_path / "cache", 0, MARKS, (), ())
    copied = datasets.load("histology", str(original), tmp_path / "cache", 0, MARKS, (), ())
    for a, b in zip(downloaded.test, copied.test, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.full, b.full)
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(kept) == 2 and kept[1] == "dsb2018" and kept[0].startswith("copy-"), "nothing else is left behind"


def test_a_changed_copy_is_prepared_again(original, tmp_path):
    before = datasets.load("histology", str(original), tmp_path / "cache", 0, MARKS, (), ())
    path = next((original / "stage1_train").glob(f"{before.test[0].name}*/masks/b.png"))
    path.unlink()
    after = datasets.load("histology", str(original), tmp_path / "cache", 0, MARKS, (), ())
    assert before.test[0].full.max() == 2 and after.test[0].full.max() == 1
    np.testing.assert_array_equal(before.test[1].full, after.test[1].full)


def test_what_cannot_be_loaded(original, tmp_path, monkeypatch):
    monkeypatch.delenv("RAMS_DATA", raising=False)

    def load(source, kind="histology"):
        datasets.load(kind, str(source), tmp_path / "cache", 0, MARKS, (), ())

    with pytest.raises(AnnotationError, match="nowhere: there is no such folder; data.source or RAMS_DATA must name"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="empty: holds neither dsb2018_histology/images"):
        load(tmp_path / "empty")
    missing = entries("histology")[40]["name"]
    shutil.rmtree(next((original / "stage1_train").glob(f"{missing}*")))
    with pytest.raises(AnnotationError, match=f"{missing}, which dsb2018.csv lists, is missing"):
        load(original)
    copy = tmp_path / "copy" / "dsb2018_fluorescence" / "images"
    copy.mkdir(parents=True)
    (copy / f"{entries('fluorescence')[0]['name']}.png").write_bytes(b"not a picture")
    with pytest.raises(AnnotationError, match=r"\.png: cannot be read .*; the local copy is incomplete"):
        load(tmp_path / "copy", "fluorescence")
    with serve(tmp_path / "empty") as address:
        monkeypatch.setattr(dsb2018, "URL", f"{address}stage1_train.zip")
        with pytest.raises(AnnotationError, match="cannot be downloaded .*; name a local copy in data.source"):
            load("")
    assert not list((tmp_path / "cache").rglob("*.array_record*")), "nothing is left behind"


def test_the_names_that_read_a_copy_are_those_of_the_settings():
    from rams_jax import config

    assert prepared.COPIED == config.COPIED
