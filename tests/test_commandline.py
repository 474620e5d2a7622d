"""Compiled programs are kept where the user keeps caches, unless that is impossible or jax is told otherwise."""

import os
import pathlib
import subprocess
import sys

import pytest

from rams_jax import commandline

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = "JAX_COMPILATION_CACHE_DIR"


def test_what_is_compiled_is_kept(tmp_path):
    program = "from rams_jax import commandline; commandline.keep_compiled(); import jax; jax.jit(lambda x: x + 1)(1.0)"
    environment = {name: value for name, value in os.environ.items() if name != NAME}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True, timeout=120)
    (folder,) = (tmp_path / "rams_jax").iterdir()
    assert list(folder.glob("jit__lambda*"))


@pytest.mark.parametrize("program", ["main", "predict"])
def test_programs_import_jax_only_after_that(program):
    check = f"import sys; sys.path.insert(0, 'launch'); import {program}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, timeout=120)


SHARES = """
import os, sys
from rams_jax import commandline
if sys.argv[1]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
    commandline.use_two_cores()
import jax
from rams_jax import config, experiment
default = config.default()
print(jax.device_count(), *experiment.shards_and_devices(default), end=" ")
default.train.weak_crops = 3
print(*experiment.shards_and_devices(default))
"""


@pytest.mark.parametrize(
    ("cores", "flag", "expected"),
    [
        ("1", "", "1 2 1 1 1"),  # devices; shards and the devices they lie on; of crops that two cannot share
        ("2", "", "2 2 2 1 1"),
        ("2", "--xla_force_host_platform_device_count=3", "3 3 3 3 3"),  # the user's own
        ("", "", "1 2 1 1 1"),  # a program that does not ask for it, such as a notebook
    ],
)
def test_a_run_on_a_cpu_has_two_shards_whatever_its_cores(cores, flag, expected):
    if cores and not (hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) >= int(cores)):
        pytest.skip("needs two cores, and a system that lends a process some of them")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    environment |= {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHARES, cores]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout.strip() == expected


def test_jax_has_the_last_word(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(NAME, "/elsewhere")
    commandline.keep_compiled()
    assert os.environ[NAME] == "/elsewhere" and not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(NAME, raising=False)
    commandline.keep_compiled()
    assert NAME not in os.environ
