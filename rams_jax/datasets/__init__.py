"""Annotated images, by name."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from rams_jax import processes
from rams_jax.annotations import AnnotationError
from rams_jax.datasets import folder, prepared
from rams_jax.datasets.auxiliary import answer_all
from rams_jax.datasets.findings import keep_warnings
from rams_jax.datasets.images import Images, decoded
from rams_jax.datasets.partial import within_square
from rams_jax.types import Example, MarkSettings

_MOST_WARNINGS = 10  # that are told before training


@dataclasses.dataclass(frozen=True)
class Splits:
    """The images of a data set; no object is in two of the parts."""

    train: Images
    validation: Images
    test: Images
    warnings: tuple[str, ...] = ()  # sentences on what may spoil the training


def load(
    name: str,
    source: str,
    cache: pathlib.Path,
    seed: int,
    marks: MarkSettings,
    channels: tuple[int, ...],
    tasks: tuple[str, ...],
    class_names: tuple[str, ...] = (),
) -> Splits:
    """Loads a data set, with marks drawn where nobody drew any.

    One process decodes all images at once; each of several decodes and checks those that it asks for.

    All examples keep their full maps: which of them training may see is the caller's choice. The auxiliary strokes are
    those of a weak image (`auxiliary.answer_some`); `reveal` gives strong images theirs.

    Args:
      name: folder, or one of those that `prepared.load` knows.
      source: the folder, for `folder`; else as `prepared.load` says.
      cache: folder for prepared data sets, made if missing.
      seed: of the marks and strokes, each image's derived from it and the image's name; for `folder` of the split too.
      marks: how they are drawn.
      channels: of the images, in this order; empty for all.
      tasks: auxiliary tasks, names in `auxiliary.TASKS`.
      class_names: that the caller expects of a folder; () for those of its project.toml.

    Raises:
      AnnotationError: an unknown name, data that cannot be had or used, or a channel that the images do not have.
    """
    match name:
        case "folder":
            warnings: list[str] = []
            report = keep_warnings(warnings)
            path = pathlib.Path(source).expanduser()
            train, validation, test = folder.load(path, seed, marks, tasks, class_names, report)
            if len(warnings) > _MOST_WARNINGS:
                more = f"and {len(warnings) - _MOST_WARNINGS} more; python launch/check.py {source} lists all."
                warnings[_MOST_WARNINGS:] = [more]
            splits = Splits(train, validation, test, tuple(warnings))
        case _:
            splits = Splits(*prepared.load(name, source, cache, seed, marks, tasks))
    parts = (splits.train, splits.validation, splits.test)
    train, validation, test = (part.changed(lambda _, example: _select(example, channels)) for part in parts)
    if not processes.several():
        train, validation, test = (decoded(map(part.glance, range(len(part)))) for part in (train, validation, test))
    return Splits(train, validation, test, splits.warnings)


def reveal(images: Images, strong: Sequence[int], tasks: tuple[str, ...], side: int = 0, seed: int = 0) -> Images:
    """What the strong images show: outlines, and all the answers to the auxiliary tasks that follow from them.

    Args:
      images: those of training.
      strong: positions of the strong images in `images`; they have full maps.
      tasks: as in `load`.
      side, seed: outlined is a square of each, as `partial.within_square` says; 0: everything.
    """
    chosen = set(strong)

    def answered(position: int, example: Example) -> Example:
        if position not in chosen:
            return example
        if example.full is None:
            raise AnnotationError(f"{example.name}: chosen as a strong image, but it has no full mask.")
        if side:
            example = within_square(example, side, seed)
        assert example.full is not None
        marks = np.where(example.partial == example.full, example.partial, 0)
        answers = answer_all(example.full, marks, example.valid, tasks)
        return dataclasses.replace(example, auxiliary=answers)

    return images.changed(answered)


def _select(example: Example, channels: tuple[int, ...]) -> Example:
    if not channels:
        return example
    count = example.image.shape[2]
    if max(channels) >= count or min(channels) < 0:
        raise AnnotationError(
            f"{example.name}: data.channels asks for {tuple(channels)}, but the image has only 0 to {count - 1}."
        )
    return dataclasses.replace(example, image=example.image[..., list(channels)])
