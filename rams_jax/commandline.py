"""What the programs in launch/ share: flags, and the one sentence that a mistake ends with."""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform
import sys
import zlib
from typing import NoReturn

from absl import flags

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, in glibc's malloc.h
INTERRUPTED = 130  # what a shell reports after Ctrl-C


def parse_flags(argv: list[str]) -> list[str]:
    """Reads the command line; a mistake in it ends the program with one sentence."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(" ".join(str(error).split()))


def keep_compiled() -> None:
    """Lets jax keep what it compiles in the user's cache directory, so that the next start is quick.

    To be called before jax is imported. JAX_COMPILATION_CACHE_DIR and jax's other variables have the last word, and
    where nothing can be written nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # A home may be shared by machines, and what is compiled for one may be wrong for another.
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    name = f"compiled-{platform.machine()}-{zlib.crc32(features.encode()):08x}"
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rams_jax" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def keep_memory() -> None:
    """Lets the process keep the memory that it frees, so that a step need not ask the system for it again.

    A step on the CPU takes its space anew each time, and the C library gives large pieces back at once: to have the
    pages cleared again took a sixth of a step. Does something where there is glibc, and no more than its own variables
    MALLOC_MMAP_MAX_ and MALLOC_TRIM_THRESHOLD_ do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)


def use_two_cores() -> None:
    """Makes two devices of a CPU with two cores or more, each of which trains on half of a step's crops.

    To be called before jax is imported. A second core makes the layers of one device little faster: two devices make
    1.28 times as many steps as one on two cores (benchmarks/results/explored/speed.json). Another number that jax has
    been told stays.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(cores, 2)))


def fail(message: object, code: int = 2) -> NoReturn:
    """Ends the program with a sentence on stderr and this exit status."""
    print(message, file=sys.stderr)
    sys.exit(code)
