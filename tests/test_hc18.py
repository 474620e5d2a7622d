import csv
import hashlib
import os
import pathlib
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from served import png, serve

from rams_jax import biometry, datasets
from rams_jax.annotations import AnnotationError, check_example, normalise
from rams_jax.datasets import building, hc18
from rams_jax.types import MarkSettings

MARKS = MarkSettings()
SIZES = {"train": 204, "validation": 44, "test": 195}
real = pytest.mark.skipif("RAMS_DATA" not in os.environ, reason="RAMS_DATA names no local copy of the images")


def test_the_table_obeys_its_rule():
    listed = building.table("hc18")
    assert all(entry["name"] == f"{entry['patient']}_HC" for entry in listed), "the first image of each patient"
    patients = [entry["patient"] for entry in listed]
    assert len(set(patients)) == len(patients) == sum(SIZES.values())
    order = sorted(patients, key=lambda patient: zlib.crc32(patient.encode()))
    expected = dict.fromkeys(order[:204], "train") | dict.fromkeys(order[204:248], "validation")
    assert {entry["patient"]: entry["split"] for entry in listed} == {p: expected.get(p, "test") for p in patients}


@real
def test_every_suitable_patient_of_the_local_copy_is_in_the_table():
    with open(pathlib.Path(os.environ["RAMS_DATA"], "hc18", "measurements.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    square = {
        row["patient"]
        for row in rows
        if float(row["pixel_width_mm"]) == pytest.approx(float(row["pixel_height_mm"]), rel=1e-6)
    }
    assert square == {entry["patient"] for entry in building.table("hc18")}


@real
def test_the_binned_masks_have_the_measured_circumference():
    folder = pathlib.Path(os.environ["RAMS_DATA"], "hc18")
    read = hc18.copy_reader(folder)
    measured, of_the_copy, reference = [], [], []
    for entry in building.table("hc18")[::12]:
        found = read(entry["name"])
        row = hc18.binned(entry["name"], found)
        raw = np.asarray(Image.open(folder / "images" / f"{entry['name']}.png"), float)
        np.testing.assert_allclose(row["image"][..., 0], raw.reshape(135, 2, 200, 2).mean((1, 3)), atol=0.5)
        assert row["full"].shape == (135, 200) and row["full"].max() == 1
        assert row["pixel_size"] == pytest.approx(2000 * found.pixel_size)  # twice as many micrometres as before
        measured.append(biometry.circumference(row["full"], float(row["pixel_size"])))
        of_the_copy.append(biometry.circumference(found.head, 1000 * found.pixel_size))
        reference.append(float(row["circumference"]))
    after, before = biometry.agreement(measured, reference), biometry.agreement(of_the_copy, reference)
    assert abs(after["bias"]) < 0.2 and after["deviation"] < 0.2 and after["missed"] == 0
    assert before["bias"] > 0.8, "why the line's width is taken off"


@real
def test_the_set_is_the_local_copy(tmp_path):
    splits = datasets.load("ultrasound", "", tmp_path, 0, MARKS, (0,), ("background",))
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    assert {split: len(part) for split, part in parts.items()} == SIZES
    for entry in building.table("hc18")[::40]:
        example = next(e for e in parts[entry["split"]] if e.name == entry["name"])
        check_example(example, 1)
        assert example.image.shape == (135, 200, 1) and example.classes.tolist() == [0, 1]
        assert 40 < example.circumference < 350 and 80 < example.pixel_size < 1400


LINE = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 0, 1, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    bool,
)
HEAD = LINE | np.pad(np.ones((2, 3), bool), ((2, 2), (2, 2)))


@pytest.mark.parametrize("seen", [np.s_[:], np.s_[2:], np.s_[:4], np.s_[:, 3:], np.s_[:, :4], np.s_[:4, :4]], ids=str)
def test_a_line_that_leaves_the_image_is_filled(seen):
    np.testing.assert_array_equal(hc18.filled(LINE[seen]), HEAD[seen])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The form of the source, each image of 12 x 14 pixels with a line drawn, and measurements."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "training_set").mkdir()
    line = np.kron(LINE, np.ones((2, 2))) > 0
    rng = np.random.default_rng(0)
    with open(folder / hc18.MEASUREMENTS, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("filename", "pixel size(mm)", "head circumference (mm)"))
        for number, entry in enumerate(building.table("hc18")):
            name = entry["name"]
            pixels = rng.integers(0, 255, (12, 14), dtype=np.uint8)
            (folder / "training_set" / f"{name}.png").write_bytes(png(pixels))
            (folder / "training_set" / f"{name}_Annotation.png").write_bytes(png(line.astype(np.uint8) * 255))
            writer.writerow((f"{name}.png", 0.05 + number / 10000, 100 + number / 4))
    return folder


def pack(original, site):
    site.mkdir()
    with zipfile.ZipFile(site / "training_set.zip", "w") as archive:
        for path in (original / "training_set").iterdir():
            archive.write(path, path.relative_to(original))
    (site / hc18.MEASUREMENTS).write_bytes((original / hc18.MEASUREMENTS).read_bytes())
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in site.iterdir()}


def test_the_form_of_the_source_is_read_and_downloaded(original, tmp_path, monkeypatch):
    monkeypatch.delenv("RAMS_DATA", raising=False)
    splits = datasets.load("ultrasound", str(original), tmp_path / "cache", 0, MARKS, (), ())
    example = splits.test[7]
    (number,) = (i for i, entry in enumerate(building.table("hc18")) if entry["name"] == example.name)
    assert example.circumference == 100 + number / 4
    assert example.pixel_size == pytest.approx(4000 * (0.05 + number / 10000))  # halved twice
    raw = np.asarray(Image.open(original / "training_set" / f"{example.name}.png"), float)
    expected = normalise(raw.reshape(3, 4, 14, 1)[:, :, :12].reshape(3, 4, 3, 4).mean((1, 3))[..., None])
    np.testing.assert_allclose(example.image, expected, atol=0.03)  # rounded twice
    # Halved once it is HEAD; halved again, the blocks that lie inside: rows 2 and 3, columns 2 to 5.
    np.testing.assert_array_equal(example.full, [[0, 0, 0], [0, 1, 1], [0, 0, 0]])

    checksums = pack(original, tmp_path / "site")
    with serve(tmp_path / "site") as address:
        monkeypatch.setattr(hc18, "URL", address)
        with pytest.raises(
            AnnotationError, match=r"training_set\.zip: holds another file than it should; name a local"
        ):
            datasets.load("ultrasound", "", tmp_path / "cache", 0, MARKS, (), ())
        monkeypatch.setattr(hc18, "MD5", checksums)
        downloaded = datasets.load("ultrasound", "", tmp_path / "cache", 0, MARKS, (), ())
    for a, b in zip(downloaded.test, splits.test, strict=True):
        assert (a.name, a.circumference, a.pixel_size) == (b.name, b.circumference, b.pixel_size)
        np.testing.assert_array_equal(a.image, b.image)


def test_what_cannot_be_loaded(original, tmp_path):
    def load(source):
        datasets.load("ultrasound", str(source), tmp_path / "cache", 0, MARKS, (), ())

    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="empty: holds neither hc18/images and masks nor training_set"):
        load(tmp_path / "empty")
    (tmp_path / "copy" / "hc18").mkdir(parents=True)
    table = tmp_path / "copy" / "hc18" / "measurements.csv"
    with pytest.raises(AnnotationError, match="measurements.csv: no table with the column 'file'"):
        load(tmp_path / "copy")
    table.write_text("file,patient,pixel_width_mm,pixel_height_mm,head_circumference_mm\n999_HC,999,0.1,0.1,44.3\n")
    with pytest.raises(AnnotationError, match="measurements.csv: has no line for 000_HC, which hc18.csv lists"):
        load(tmp_path / "copy")
