"""Annotated images, by name."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from rams_jax.annotations import AnnotationError, normalise
from rams_jax.datasets import folder
from rams_jax.datasets.auxiliary import answer_all
from rams_jax.datasets.partial import annotate
from rams_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Splits:
    """The images of a data set; no object is in two of the parts."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


def load(
    name: str,
    source: str,
    cache: pathlib.Path,
    seed: int,
    mark_coverage: tuple[float, float],
    channels: tuple[int, ...],
    tasks: tuple[str, ...],
) -> Splits:
    """Loads a data set, with marks drawn where nobody drew any.

    All examples keep their full maps: which of them training may see is the caller's choice. The auxiliary strokes are
    those of a weak image (`auxiliary.answer_some`); `reveal` gives strong images theirs.

    Args:
      name: scratch_assay or folder.
      source: the folder, for `folder`.
      cache: folder for prepared data sets, made if missing.
      seed: of the marks and strokes, each image's derived from it and the image's name; for `folder` of the split too.
      mark_coverage: least and largest share of an object that its mark covers.
      channels: of the images, in this order; empty for all.
      tasks: auxiliary tasks, names in `auxiliary.TASKS`.

    Raises:
      AnnotationError: an unknown name, a folder that cannot be used, or a channel that the images do not have.
    """
    match name:
        case "scratch_assay":
            splits = _scratch_assay(cache, seed, mark_coverage, tasks)
        case "folder":
            path = pathlib.Path(source)
            splits = Splits(*folder.split(folder.read_folder(path, seed, mark_coverage, tasks), path, seed))
        case _:
            raise AnnotationError(f"There is no data set {name!r}; data.name is scratch_assay or folder.")
    parts = (splits.train, splits.validation, splits.test)
    return Splits(*(tuple(_select(example, channels) for example in part) for part in parts))


def reveal(examples: Sequence[Example], strong: Sequence[int], tasks: tuple[str, ...]) -> tuple[Example, ...]:
    """Gives the strong images all the answers to the auxiliary tasks that follow from their full maps.

    Args:
      examples: the training images.
      strong: positions of the strong images in `examples`; they have full maps.
    """
    revealed = list(examples)
    for i in strong:
        full = examples[i].full
        if full is None:
            raise AnnotationError(f"{examples[i].name}: chosen as a strong image, but it has no full mask.")
        revealed[i] = dataclasses.replace(examples[i], auxiliary=answer_all(full, examples[i].valid, tasks))
    return tuple(revealed)


def _select(example: Example, channels: tuple[int, ...]) -> Example:
    if not channels:
        return example
    count = example.image.shape[2]
    if max(channels) >= count or min(channels) < 0:
        raise AnnotationError(
            f"{example.name}: data.channels asks for {tuple(channels)}, but the image has only 0 to {count - 1}."
        )
    return dataclasses.replace(example, image=example.image[..., list(channels)])


def _scratch_assay(cache: pathlib.Path, seed: int, coverage: tuple[float, float], tasks: tuple[str, ...]) -> Splits:
    # Here, because the other modules must import where tensorflow-datasets is not installed.
    import tensorflow_datasets as tfds

    from rams_jax.datasets.scratch_assay import ScratchAssay

    cache = pathlib.Path(cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnnotationError(f"{cache}: cannot hold prepared data sets ({error.strerror}); set data.cache.") from error
    final = cache / ScratchAssay.name / str(ScratchAssay.VERSION)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    tfds.disable_progress_bar()
    try:
        parts = None
        with contextlib.suppress(Exception):  # nothing there yet, or in part: every layer has errors of its own
            parts = _read(ScratchAssay, cache)
        if parts is None:
            _prepare(tfds, ScratchAssay, final)
            parts = _read(ScratchAssay, cache)
    finally:
        logging.set_verbosity(verbosity)
    return Splits(*(tuple(_from_row(row, seed, coverage, tasks) for row in rows) for rows in parts))


def _read(builder_class: type, cache: pathlib.Path) -> list[list[dict[str, Any]]]:
    """The rows of the three splits, in the order of their names: the files are shuffled."""
    builder = builder_class(data_dir=cache, file_format="array_record")
    sources = [builder.as_data_source(split=split) for split in ("train", "validation", "test")]
    return [sorted(source, key=lambda row: row["name"]) for source in sources]


def _prepare(tfds: Any, builder_class: type, final: pathlib.Path) -> None:
    """Writes the files aside and moves them into place at once, so that a kill or a second process does no harm."""
    if final.exists():
        shutil.rmtree(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=final.parent) as aside:
        builder = builder_class(data_dir=aside, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        try:
            pathlib.Path(builder.data_path).rename(final)
        except OSError:
            if not final.is_dir():  # otherwise another process was first
                raise


def _from_row(row: dict[str, Any], seed: int, coverage: tuple[float, float], tasks: tuple[str, ...]) -> Example:
    return annotate(
        name=row["name"].decode(),
        image=normalise(row["image"], row["limits"]),
        full=row["full"].astype(np.int32),
        partial=None,
        valid=row["valid"],
        pixel_size=float(row["pixel_size"]),
        seed=seed,
        coverage=coverage,
        tasks=tasks,
    )
