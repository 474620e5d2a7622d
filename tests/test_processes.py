"""Two real processes on this machine: stopped by one signal, both ended by one loss, and in the end the run of one."""

import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import synthetic
import tifffile

from rams_jax import train
from rams_jax.network import load_network

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 200
SETTINGS = {
    "data": {"strong": 2},
    "model": {"width": 4, "depth": 2},
    "augment": {"crop": 16, "elastic_grid": 8},
    "train": {"steps": STEPS, "warmup_steps": 3, "strong_crops": 4, "weak_crops": 4, "shards": 2, "ema": 0.9}
    | {"log_every": 5, "evaluate_every": STEPS, "checkpoint_every": 25, "learning_rate": 0.01},
    "evolution": {"images_per_step": 4, "reach": 2},
    # Two sums differ in their last bit by the order of the processes. Labels of its own opinion, in or out by a
    # threshold, would make more of that in two hundred steps than can be compared.
    "loss": {"weak": 0.0},
}


def start_two(folder, workdir, *flags):
    """The two processes of a run."""
    port = free_port()
    flags = (f"--coordinator=127.0.0.1:{port}", "--processes=2", *flags)
    return [start(folder, workdir, f"--process={process}", *flags) for process in (0, 1)]


def start(folder, workdir, *flags):
    command = [sys.executable, "launch/main.py", f"--config=configs/folder.py:{folder}", f"--workdir={workdir}"]
    command += [f"--config.{part}.{k}={v}" for part, values in SETTINGS.items() for k, v in values.items()]
    return begin([*command, *flags])


def begin(command):
    """A process with one device."""
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def alone(folder, workdir):
    """The same run as one process with two devices, here."""
    spec = importlib.util.spec_from_file_location("folder", ROOT / "configs" / "folder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(str(folder))
    config.update(SETTINGS)
    return train.train(config, workdir)


def assert_same_run(found, expected):
    """The same masks, and parameters up to the order of sums."""
    masks = sorted(path.name for path in (expected / "evolved").iterdir())
    assert masks and masks == sorted(path.name for path in (found / "evolved").iterdir())
    for name in masks:
        assert (found / "evolved" / name).read_bytes() == (expected / "evolved" / name).read_bytes(), name
    pairs = (jax.tree.leaves(load_network(path / "network").params) for path in (found, expected))
    for a, b in zip(*pairs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def last_row(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((int(line.split(",")[0].rpartition(" ")[2]) for line in lines if line.endswith("}")), default=0)


def wait_for_row(workdir, step, processes):
    end = time.monotonic() + 600
    while last_row(workdir) < step:
        dead = [p for p in processes if p.poll() is not None]
        assert not dead and time.monotonic() < end, [p.communicate() for p in dead]
        time.sleep(0.01)


def told(outcomes):
    return "\n\n".join(complaint[-3000:] for *_, complaint in outcomes)


def ends(process, seconds):
    said, complaint = process.communicate(timeout=seconds)
    return process.returncode, said, complaint


def test_two_processes_stop_and_end_together_and_are_the_run_of_one(tmp_path, capsys):
    folder, workdir, whole = synthetic.write_folder(tmp_path / "data", images=8), tmp_path / "run", tmp_path / "whole"

    # What a cluster does before it takes one of two machines back.
    pair = start_two(folder, workdir)
    wait_for_row(workdir, 10, pair)
    pair[1].send_signal(signal.SIGTERM)
    outcomes = [ends(process, 60) for process in pair]
    assert [code for code, *_ in outcomes] == [130, 130], told(outcomes)
    assert all("Stopped and saved at step" in complaint for *_, complaint in outcomes)
    assert ["on 2 x cpu, from step 0" in said for _, said, _ in outcomes] == [True, False]
    stopped = last_row(workdir)
    assert 10 <= stopped < STEPS

    # What it does without a word.
    pair = start_two(folder, workdir)
    wait_for_row(workdir, stopped + 5, pair)
    pair[1].kill()
    killed = time.monotonic()
    code, _, complaint = ends(pair[0], 60)
    assert code == 3 and "Another process was lost" in complaint and "; start all again" in complaint, complaint
    assert time.monotonic() - killed < 60
    pair[1].communicate()

    # One process takes up what two have left.
    single = shutil.copytree(workdir, tmp_path / "single")
    pair = start_two(folder, workdir)
    alone(folder, whole)
    capsys.readouterr()
    alone(folder, single)
    assert f"from step 0 to {STEPS}" not in (said := capsys.readouterr().out) and "on 4 x cpu, from step" in said
    assert_same_run(single, whole)
    outcomes = [ends(process, 600) for process in pair]
    assert [code for code, *_ in outcomes] == [0, 0], told(outcomes)
    assert ["rams on folder, seed 0: test dice" in said for _, said, _ in outcomes] == [True, False]
    assert f"from step 0 to {STEPS}" not in outcomes[0][1] and (workdir / "report.html").exists()
    assert_same_run(workdir, whole)


def test_a_set_that_does_not_fit_is_shared_out_over_processes(tmp_path):
    """A run of one process, and the second half of it again as one of two; each holds a window of its own images."""
    folder, whole, resumed = synthetic.write_folder(tmp_path / "data", images=10), tmp_path / "one", tmp_path / "two"
    flags = "--config.train.window=2", "--config.train.steps=50", "--config.train.evaluate_every=25"
    code, said, complaint = ends(start(folder, whole, *flags), 600)
    assert code == 0 and "6 of 8 images are on the devices at a time" in said, complaint
    shutil.copytree(whole / "checkpoints" / "25", resumed / "checkpoints" / "25")
    shutil.copy(whole / "config.json", resumed)
    outcomes = [ends(process, 600) for process in start_two(folder, resumed, *flags)]
    assert [code for code, *_ in outcomes] == [0, 0], told(outcomes)
    assert "on 2 x cpu, from step 25 to 50" in outcomes[0][1]
    assert_same_run(resumed, whole)
    for path in (resumed / "evolved").glob("*_masks.tif"):
        marks = tifffile.imread(folder / "partial" / path.name.replace("_masks", ""))
        assert (tifffile.imread(path) > 0).sum() > 1.1 * (marks > 0).sum()


LEFT_ALONE = """
import os, sys
import jax
from rams_jax import checkpoint, processes, sharding
port, process, folder = sys.argv[1:]
processes.join("127.0.0.1:" + port, 2, int(process))
manager, everywhere = checkpoint.open_checkpoints(folder), jax.P()
tree = {"step": jax.jit(lambda: 1, out_shardings=jax.NamedSharding(sharding.make_mesh(2), everywhere))()}
checkpoint.save(manager, 1, tree)
if process == "1":
    os._exit(9)
try:
    checkpoint.save(manager, 2, tree)
except Exception as error:
    print(processes.explain(error), flush=True)
os._exit(0)
"""


def test_a_loss_in_the_middle_of_a_save_is_not_called_a_full_disk(tmp_path):
    port = str(free_port())
    commands = [[sys.executable, "-c", LEFT_ALONE, port, process, str(tmp_path / "checkpoints")] for process in "01"]
    pair = [begin(command) for command in commands]
    (code, said, complaint), (lost, *_) = [ends(process, 120) for process in pair]
    assert (code, lost) == (0, 9) and "Another process was lost" in said and "make room" not in said, said + complaint


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--cluster"], "The processes of this run did not find each other"),
        (["--coordinator=127.0.0.1:1", "--processes=2", "--process=2"], "did not find each other"),
        (["--processes=2", "--process=1"], "but not --coordinator=HOST:PORT where they meet."),
    ],
)
def test_what_cannot_be_joined_is_told_in_a_sentence(flags, sentence, tmp_path):
    command = [sys.executable, "launch/main.py", "--config=configs/microscopy.py", f"--workdir={tmp_path}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr, done.stderr
