"""The program that segments images: its exit codes and sentences, and that a kill loses nothing."""

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from test_inference import rows, write_image
from trained import blob_network

from rams_jax.network import save_network

ROOT = pathlib.Path(__file__).resolve().parent.parent


def launch(*options, **more):
    command = [sys.executable, "launch/predict.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **more)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    save_network(path / "network", blob_network())
    return path


def test_the_program(tmp_path, workdir):
    folder = tmp_path / "images"
    truth = {f"img{i}": write_image(folder / f"img{i}.tif", i) for i in range(3)}
    (folder / "bad.tif").write_bytes(b"II*\0")
    options = (f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--nooverlays")
    done = launch(*options, f"--images={folder}")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-2:][0] == "1 of 4 images failed:" and str(folder / "bad.tif") in done.stderr
    assert "4/4" in done.stderr and ("image/s" in done.stderr or "s/image" in done.stderr)  # the bar, with a rate
    assert done.stdout == f"3 images segmented, 0 finished before: {tmp_path / 'out'}\n"
    for name, full in truth.items():
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "instances" / f"{name}.tif") > 0, full > 0)


def test_a_kill_in_the_middle_loses_nothing(tmp_path, workdir):
    folder, out = tmp_path / "images", tmp_path / "out"
    for i in range(200):
        write_image(folder / f"{i:03}.png", i % 7)
    options = [f"--workdir={workdir}", f"--out={out}"]
    command = [sys.executable, "launch/predict.py", *options, f"--images={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("measurements/*.csv"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(out.glob("measurements/*.csv")))
    assert 3 <= finished < 200
    for path in out.glob("instances/*.tif"):
        assert tifffile.imread(path).shape == (50, 60)
    # a shell that expands a pattern itself leaves several arguments
    done = launch(*options, "--images", *sorted(folder.glob("*.png"))[: finished + 5])
    assert done.returncode == 0, done.stderr
    assert f"{finished} finished before" in done.stdout
    keys = [(row["file"], row["id"]) for row in rows(out / "measurements.csv")]
    assert len(keys) == len(set(keys)) and len({file for file, _ in keys}) == finished + 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--workdir is missing"),
        (["--workdir=x", "--images=y"], "--out is missing"),
        (["--wrkdir=x"], "Did you mean: workdir"),
        (["--format=jpeg"], "tiff|ome-zarr"),
        (["--halo=-1"], "--halo=-1"),
        (["--pixel_size=0"], "--pixel_size=0"),
        (["--workdir={tmp}", "--images={tmp}/a.csv", "--out={tmp}/out"], "holds no network"),
    ],
)
def test_a_mistake_gets_one_sentence(tmp_path, options, words):
    (tmp_path / "a.csv").write_text("x")
    done = launch(*(option.format(tmp=tmp_path) for option in options))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "out").exists()
