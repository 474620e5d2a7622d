"""A network over many files: what is written, that a stop loses nothing, and that a bad file hurts only itself."""

import csv
import dataclasses
import pathlib
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from trained import blob_network, blobs

from rams_jax import inference
from rams_jax.annotations import write_instances
from rams_jax.inference import Wanted, infer
from rams_jax.predict import TileError
from rams_jax.results import InferenceError, find_images

ROOT = pathlib.Path(__file__).resolve().parent.parent
PIXEL = 0.5  # micrometres


def write_image(path, seed, shape=(50, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image, full = blobs(seed, shape, 6)
    if path.suffix == ".png":
        Image.fromarray((image[..., 0] // 64).astype(np.uint8)).save(path)
    else:
        resolution = (1e4 / PIXEL, 1e4 / PIXEL)
        tifffile.imwrite(path, image[..., 0], resolution=resolution, resolutionunit="CENTIMETER")
    return full


@pytest.fixture
def images(tmp_path):
    """Three TIFFs in a folder, with their truth by name."""
    folder = tmp_path / "images"
    return folder, {f"img{i}": write_image(folder / f"img{i}.tif", i) for i in range(3)}


def run(folder, out, **wanted):
    base, found = find_images([str(folder)])
    return infer(blob_network(), base, found, out, Wanted(**wanted))


def files(out):
    return {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written(images, tmp_path):
    folder, truth = images
    out = tmp_path / "out"
    outcome = run(folder, out, probabilities=True)
    assert outcome == inference.Outcome(3, 0, (), ())
    expected = {"predict.json", "measurements.csv"}
    for name in truth:
        expected |= {f"instances/{name}.tif", f"overlays/{name}.png", f"measurements/{name}.csv"}
        expected |= {f"probabilities/{name}.ome.tif"}
    assert files(out) == expected
    for name, full in truth.items():
        found = tifffile.imread(out / f"instances/{name}.tif")
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found > 0, full > 0)
        assert found.max() == full.max()
        probabilities = tifffile.imread(out / f"probabilities/{name}.ome.tif")
        np.testing.assert_array_equal(probabilities[0] > 127, full > 0)
    table = rows(out / "measurements.csv")
    assert [(row["file"], int(row["id"])) for row in table] == [
        (f"{name}.tif", j + 1) for name, full in sorted(truth.items()) for j in range(full.max())
    ]
    # against the masks: the areas of all objects, largest first
    for name, full in truth.items():
        areas = sorted(np.bincount(full.ravel())[1:].tolist(), reverse=True)
        mine = [row for row in table if row["file"] == f"{name}.tif"]
        assert [int(row["area_px"]) for row in mine] == areas
        assert [float(row["area_um2"]) for row in mine] == pytest.approx([a * PIXEL**2 for a in areas], rel=1e-5)
        assert all(row["class"] == "blob" and 7000 < float(row["mean_intensity_0"]) < 11000 for row in mine)


def test_finished_images_are_skipped_and_no_row_is_doubled(images, tmp_path):
    folder, _ = images
    out = tmp_path / "out"
    run(folder, out)
    before = {name: (out / name).read_bytes() for name in files(out)}
    times = {name: (out / name).stat().st_mtime_ns for name in before if "/" in name}
    write_image(folder / "img3.tif", 3)
    (out / "overlays" / "img1.png").unlink()
    outcome = run(folder, out)
    assert (outcome.finished, outcome.skipped) == (2, 2)
    assert (out / "overlays" / "img1.png").read_bytes() == before["overlays/img1.png"]
    for name, at in times.items():
        assert (out / name).read_bytes() == before[name]
        assert (out / name).stat().st_mtime_ns == at or name == "overlays/img1.png"
    table = rows(out / "measurements.csv")
    keys = [(row["file"], row["id"]) for row in table]
    assert len(set(keys)) == len(keys)
    assert {file for file, _ in keys} == {f"img{i}.tif" for i in range(4)}
    again = run(folder, out, probabilities=True)  # more is wanted: it is added
    assert (again.finished, again.skipped) == (4, 0)
    assert rows(out / "measurements.csv") == table


def test_half_written_files_are_not_taken_for_finished(images, tmp_path, monkeypatch):
    folder, truth = images
    out = tmp_path / "out"
    real = inference.overlay

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "overlay", killed)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out)
    assert {p for p in files(out) if not p.endswith(".unfinished")} == {"predict.json", "instances/img0.tif"}
    (out / "instances" / ".img1.tif.unfinished").write_bytes(b"II*")  # as a kill would leave it
    monkeypatch.setattr(inference, "overlay", real)
    assert run(folder, out).finished == 3
    assert not any(p.endswith(".unfinished") for p in files(out))
    np.testing.assert_array_equal(tifffile.imread(out / "instances" / "img1.tif") > 0, truth["img1"] > 0)


def test_a_bad_file_is_reported_and_the_rest_is_done(images, tmp_path):
    folder, _ = images
    (folder / "a_bad.tif").write_bytes(b"II*\0garbage")
    (folder / "empty.png").write_bytes(b"")
    tifffile.imwrite(folder / "nan.tif", np.full((20, 20), np.nan, np.float32))
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    outcome = run(folder, out)
    assert outcome.finished == 3 and len(outcome.failures) == 3
    for failure, name in zip(outcome.failures, ("a_bad.tif", "empty.png", "nan.tif"), strict=True):
        assert failure.startswith(str(folder / name)) and "\n" not in failure and failure.endswith(".")
    assert "400 NaN" in outcome.failures[2]
    assert len({row["file"] for row in rows(out / "measurements.csv")}) == 3
    write_image(folder / "nan.tif", 9)  # mended
    assert (run(folder, out).finished, run(folder, out).skipped) == (1, 4)


def test_what_the_user_has_in_the_folder_stays(images, tmp_path):
    folder, _ = images
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("precious")
    with pytest.raises(InferenceError, match=r"holds 'thesis.doc' but no predict.json; give a new or empty folder"):
        run(folder, out)
    assert files(out) == {"thesis.doc"}
    with pytest.raises(InferenceError, match="is a file"):
        run(folder, out / "thesis.doc")
    out = tmp_path / "mine"
    run(folder, out)
    corrected = np.zeros((50, 60), np.int32)
    (out / "instances" / "img0.tif").unlink()
    write_instances(out / "instances" / "img0.tif", corrected, PIXEL)
    with open(out / "measurements.csv", "a") as file:
        file.write("my own remark\n")
    (out / "measurements" / "img0.csv").unlink()
    outcome = run(folder, out)
    assert outcome.finished == 1 and "was changed by hand" in outcome.notes[0]
    assert not tifffile.imread(out / "instances" / "img0.tif").any()
    assert (out / "measurements.csv").read_text().endswith("my own remark\n")


@pytest.mark.parametrize("change", ["network", "images", "halo", "pixel_size"])
def test_what_another_command_made_is_not_mixed(images, tmp_path, change):
    folder, _ = images
    out = tmp_path / "out"
    base, found = find_images([str(folder / "img0.tif")])
    infer(blob_network(), base, found, out, Wanted())
    network, wanted = blob_network(), Wanted()
    match change:
        case "network":
            network = dataclasses.replace(network, params={"params": {"x": np.ones(3, np.float32)}})
        case "images":
            write_image(tmp_path / "others" / "img0.tif", 5)
            base, found = find_images([str(tmp_path / "others")])
        case "halo":
            wanted = Wanted(halo=50)
        case _:
            wanted = Wanted(pixel_size=0.1)
    with pytest.raises(
        InferenceError, match=rf"was made with {change} = .*, not with .*; give a new folder as --out\.$"
    ):
        infer(network, base, found, out, wanted)
    (out / "predict.json").write_text("{")
    with pytest.raises(InferenceError, match="is damaged"):
        infer(network, base, found, out, wanted)


def test_tiles_too_small_are_not_the_fault_of_each_image(images, tmp_path):
    with pytest.raises(TileError, match="Tiles of 8 pixels are too small"):
        run(images[0], tmp_path / "out", tile=8)
    assert not (tmp_path / "out").exists()


def test_a_run_to_ome_zarr(images, tmp_path):
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    folder, truth = images
    (tmp_path / "out" / "instances").parent.mkdir()
    assert run(folder, tmp_path / "out", format="ome-zarr", overlays=False).finished == 3
    for name, full in truth.items():
        array = zarr.open_group(str(tmp_path / "out" / "instances" / f"{name}.ome.zarr"), mode="r")["0"]
        np.testing.assert_array_equal(array[:] > 0, full > 0)
    assert not (tmp_path / "out" / "overlays").exists()
    assert run(folder, tmp_path / "out", format="ome-zarr", overlays=False).skipped == 3


def test_without_zarr_there_is_a_sentence(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InferenceError, match="needs the package zarr; install it"):
        run(images[0], tmp_path / "out", format="ome-zarr")


def test_notes_say_what_may_be_wrong(images, tmp_path):
    folder, _ = images
    write_image(folder / "grey.png", 8)
    (note,) = run(folder, tmp_path / "out").notes
    assert note.startswith("1 of 4 images do not say how large a pixel is")
    table = rows(tmp_path / "out" / "measurements.csv")
    assert {row["area_um2"] == "" for row in table if row["file"] == "grey.png"} == {True}
    (note,) = run(folder, tmp_path / "coarse", pixel_size=2.0).notes
    assert "4 images have pixels of 2 to 2 micrometres, but the network was trained on 0.5" in note
