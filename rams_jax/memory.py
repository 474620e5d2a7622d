"""How much memory there is, and arrays that lie in files where there is not enough."""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from rams_jax.types import Example

_KEPT_FREE = 0.25  # of the host's memory


def free(device: jax.Device) -> float:
    """Bytes that may still be taken on a device; of the host's memory an equal part for each device that uses it."""
    if device.platform == "cpu":
        return _available() / jax.local_device_count()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.zeros`; in a file that vanishes with the array, in the system's folder for such files (TMPDIR), where
    a quarter of the host's memory would not stay free.

    Raises:
      OSError: there is no room for it on the disk.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size == 0 or _available() - size >= _KEPT_FREE * _total():
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is noticed now, and not when the array is written to
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)


def keep(example: Example) -> Example:
    """The same with its arrays where `zeros` puts them."""
    changed: dict[str, Any] = {}
    for name in ("image", "full", "partial", "valid", "auxiliary"):
        array = getattr(example, name)
        if array is not None and _available() < _KEPT_FREE * _total():
            changed[name] = zeros(array.shape, array.dtype)
            changed[name][...] = array
    return dataclasses.replace(example, **changed) if changed else example


def _meminfo(name: str) -> float:
    """Bytes; infinitely many where the system does not say."""
    path = pathlib.Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), math.inf)


def _available() -> float:
    return _meminfo("MemAvailable")


def _total() -> float:
    return _meminfo("MemTotal")
