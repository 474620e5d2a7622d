"""Bad input through the command line: one sentence, exit code 2, no traceback, and nothing written."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]


def launch(workdir, *options):
    command = [
        sys.executable,
        "launch/main.py",
        "--config=configs/microscopy.py:smoke",
        f"--workdir={workdir}",
        *options,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def one_mask_of_another_shape(folder):
    """A folder of three images of 16 x 16, the first of which has a mask of 8 x 8."""
    for name, side in (("images", 16), ("masks", 8)):
        (folder / name).mkdir(parents=True)
        for image in ("cell", "other", "third"):
            size = side if image == "cell" else 16
            Image.fromarray(np.full((size, size), 1, np.uint8)).save(folder / name / f"{image}.png")
    return folder


@pytest.mark.parametrize("case", ["missing folder", "mask shape", "zero strong"])
def test_bad_input_gets_a_sentence(tmp_path, case):
    folder = tmp_path / "folder"
    match case:
        case "missing folder":
            options, words = ["--config.data.name=folder", f"--config.data.source={folder}"], [str(folder)]
        case "mask shape":
            one_mask_of_another_shape(folder)
            options, words = ["--config.data.name=folder", f"--config.data.source={folder}"], ["cell", "8", "16"]
        case _:
            options, words = ["--config.data.strong=0"], ["data.strong", "0", "at least 1"]
    workdir = tmp_path / "run"
    done = launch(workdir, *options)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not workdir.exists()
