"""Data sets that TFDS builders prepare once, and that are read from the cache ever after."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from rams_jax.annotations import AnnotationError, normalise
from rams_jax.config import COPIED
from rams_jax.datasets.images import Images
from rams_jax.datasets.partial import annotate, image_seed, objects_shown, overlook
from rams_jax.types import Example, MarkSettings

SPLITS = ("train", "validation", "test")
_FORMAT = "array_record"  # needs no TensorFlow


def load(
    name: str, source: str, cache: pathlib.Path, seed: int, marks: MarkSettings, tasks: tuple[str, ...]
) -> tuple[Images, Images, Images]:
    """The images that train, validate and test, in the order of their names; prepares what is not prepared yet.

    Args:
      name: scratch_assay, histology, fluorescence, ultrasound or food_sem.
      source: a local copy of histology, fluorescence or ultrasound; "" for the one that the environment variable
        RAMS_DATA names or, without it, to download.
      cache: folder for prepared data sets, made if missing. What came from a local copy is kept apart from what was
        downloaded, and is prepared again where the copy has changed.
      seed, marks, tasks: of the marks and strokes, see `partial.annotate`.

    Raises:
      AnnotationError: the cache cannot be written, or the data set cannot be had.
    """
    # Here, because the other modules must import where tensorflow-datasets is not installed.
    import tensorflow_datasets as tfds

    source = (source or os.environ.get("RAMS_DATA", "")) if name in COPIED else ""
    builder = _builder(name, source)
    cache = pathlib.Path(cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnnotationError(f"{cache}: cannot hold prepared data sets ({error.strerror}); set data.cache.") from error
    if source:
        cache = cache / f"copy-{_fingerprint(pathlib.Path(source)):08x}"
        cache.mkdir(exist_ok=True)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    tfds.disable_progress_bar()
    try:
        parts = None
        with contextlib.suppress(Exception):  # nothing there yet, or in part: every layer has errors of its own
            parts = _read(tfds, builder, cache)
        if parts is None:
            _prepare(tfds, builder, cache)
            parts = _read(tfds, builder, cache)
    finally:
        logging.set_verbosity(verbosity)
    train, validation, test = (_images(*part, seed, marks, tasks) for part in parts)
    return train, validation, test


def _builder(name: str, source: str) -> Callable[..., Any]:
    """What makes the builder of a data set, given `data_dir`."""
    match name:
        case "scratch_assay":
            from rams_jax.datasets.scratch_assay import ScratchAssay

            return functools.partial(ScratchAssay, file_format=_FORMAT)
        case "histology" | "fluorescence":
            from rams_jax.datasets.dsb2018 import Dsb2018

            return functools.partial(Dsb2018, file_format=_FORMAT, config=name, source=source)
        case "ultrasound":
            from rams_jax.datasets.hc18 import Hc18

            return functools.partial(Hc18, file_format=_FORMAT, source=source)
        case "food_sem":
            from rams_jax.datasets.food_sem import FoodSem

            return functools.partial(FoodSem, file_format=_FORMAT)
        case _:
            raise AnnotationError(f"There is no data set {name!r}; data.name must be one of those in rams_jax.config.")


def _fingerprint(source: pathlib.Path) -> int:
    """Of the files in a folder: their paths, sizes and dates."""
    if not source.is_dir():
        raise AnnotationError(f"{source}: there is no such folder; data.source or RAMS_DATA must name the local copy.")
    files = sorted(path for path in source.resolve().rglob("*") if path.is_file())
    facts = [(str(path), (found := path.stat()).st_size, found.st_mtime_ns) for path in files]
    return zlib.crc32(repr(facts).encode())


# The names of a split in their order (the files are shuffled), and from a position to the row or to its full map.
_Part = tuple[Sequence[str], Callable[[int], dict[str, Any]], Callable[[int], np.ndarray]]


def _read(tfds: Any, builder: Callable[..., Any], cache: pathlib.Path) -> list[_Part]:
    """The three splits; every record is read once here, and so found whole, but only its name is decoded."""
    prepared = builder(data_dir=cache)
    # Decoders of a row are for TensorFlow only, but a dictionary of one feature reads that one from the record.
    alone = {name: tfds.features.FeaturesDict({name: prepared.info.features[name]}) for name in ("name", "full")}

    def part(split: str) -> _Part:
        rows = prepared.as_data_source(split=split)

        def decode(record: int, feature: str) -> Any:
            return alone[feature].deserialize_example_np(rows.data_source[record])[feature]

        found = [decode(i, "name").decode() for i in range(len(rows))]
        order = sorted(range(len(found)), key=lambda i: found[i])
        return [found[i] for i in order], lambda i: rows[order[i]], lambda i: decode(order[i], "full")

    return [part(split) for split in SPLITS]


def _prepare(tfds: Any, builder: Callable[..., Any], cache: pathlib.Path) -> None:
    """Writes the files aside and moves them into place at once, so that a kill or a second process does no harm."""
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=cache) as aside:
        written = builder(data_dir=aside)
        with contextlib.redirect_stdout(io.StringIO()):
            written.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        final = cache / pathlib.Path(written.data_path).relative_to(aside)
        if final.exists():
            shutil.rmtree(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            pathlib.Path(written.data_path).rename(final)
        except OSError:
            if not final.is_dir():  # otherwise another process was first
                raise


def _images(
    names: Sequence[str],
    row: Callable[[int], dict[str, Any]],
    full: Callable[[int], np.ndarray],
    seed: int,
    marks: MarkSettings,
    tasks: tuple[str, ...],
) -> Images:
    def objects(position: int) -> int:
        found = full(position)
        return objects_shown(found, overlook(found, image_seed(seed, names[position]), marks))

    return Images(names, lambda i: _from_row(row(i), seed, marks, tasks), objects)


def _from_row(row: dict[str, Any], seed: int, marks: MarkSettings, tasks: tuple[str, ...]) -> Example:
    example = annotate(
        name=row["name"].decode(),
        image=normalise(row["image"], row["limits"]),
        full=row["full"].astype(np.int32),
        partial=None,
        valid=row["valid"],
        pixel_size=float(row["pixel_size"]),
        seed=seed,
        marks=marks,
        tasks=tasks,
        classes=row["classes"].astype(np.int32) if "classes" in row else None,
    )
    measured = float(row.get("circumference", math.nan))
    return example if math.isnan(measured) else dataclasses.replace(example, circumference=measured)
