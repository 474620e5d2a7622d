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
