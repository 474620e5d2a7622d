"""Instance maps and probability maps as files: TIFF of any size and number of objects, OME-Zarr."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile

_TILE = 512  # pixels; of larger images, so that viewers need not read all of it


def write_tiff(path: pathlib.Path, instances: np.ndarray, pixel_size: float | None) -> None:
    """Writes int[H, W] ids from 0 up as a compressed TIFF: 16-bit for up to 65535 objects, else 32-bit.

    Args:
      pixel_size: micrometres, which the resolution says; None: unknown.
    """
    dtype = np.uint16 if instances.max() <= np.iinfo(np.uint16).max else np.uint32
    known: dict[str, Any] = {}
    if pixel_size is not None:
        known = {"resolution": (1e4 / pixel_size, 1e4 / pixel_size), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path, instances.astype(dtype), photometric="minisblack", compression="zlib", **_tiles(instances.shape), **known
    )


def write_probabilities(
    path: pathlib.Path, probabilities: np.ndarray, names: Sequence[str], pixel_size: float | None
) -> None:
    """Writes uint8[L, H, W], 255 for a probability of 1, as an OME-TIFF of L named channels."""
    known: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": list(names)}}
    if pixel_size is not None:
        known |= {f"PhysicalSize{axis}": pixel_size for axis in "XY"}
        known |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    tiles = _tiles(probabilities.shape[1:])
    tifffile.imwrite(
        path, probabilities, ome=True, photometric="minisblack", compression="zlib", metadata=known, **tiles
    )


def write_zarr(path: pathlib.Path, instances: np.ndarray, pixel_size: float | None) -> None:
    """Writes int[H, W] ids from 0 up as an OME-Zarr 0.5 label image, with smaller copies for viewers.

    A copy takes every second pixel of the one before, so that ids stay ids.
    """
    import zarr  # an extra

    dtype = np.uint16 if instances.max() <= np.iinfo(np.uint16).max else np.uint32
    group = zarr.open_group(str(path), mode="w-", zarr_format=3)
    datasets: list[Any] = []
    step = 1
    while step == 1 or max(instances.shape) // step >= _TILE:
        level = instances[::step, ::step].astype(dtype)
        chunks = tuple(min(_TILE, side) for side in level.shape)
        array = group.create_array(
            str(len(datasets)), shape=level.shape, dtype=dtype, chunks=chunks, dimension_names=("y", "x")
        )
        array[:] = level
        scale = [(pixel_size or 1.0) * step] * 2
        datasets.append({"path": array.basename, "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        step *= 2
    unit = {} if pixel_size is None else {"unit": "micrometer"}
    axes = [{"name": axis, "type": "space", **unit} for axis in "yx"]
    multiscales: list[Any] = [{"axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales, "image-label": {}}


def _tiles(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"tile": (_TILE, _TILE)} if max(shape) > 2 * _TILE else {}
