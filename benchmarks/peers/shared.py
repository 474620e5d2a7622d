"""What every peer is given, and what is made of its answer: the images, outlines and marks of our own runs.

Images are those that our networks see: each channel of each image scaled linearly, so that its percentiles 1 and 99.8
are 0 and 1. A tool that scales channels by itself, as all of these do, gets from them what it gets from the raw ones.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from scipy import ndimage

from rams_jax import experiment
from rams_jax.datasets import auxiliary, reveal
from rams_jax.datasets.partial import choose_strong
from rams_jax.instances import label_instances
from rams_jax.tuning import tune
from rams_jax.types import YES, Example, InstanceSettings, Predictions

UNKNOWN = -1
MARGIN = 32  # pixels around what somebody looked at, for the context; of crops of 96 around 64 each holds all of those
Found = tuple[np.ndarray, np.ndarray]  # int32[H, W], ids 1..J; int32[J + 1], class of each id


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a peer may know of one training image."""

    name: str
    image: np.ndarray  # float32[H, W, C]
    labels: np.ndarray  # int32[H, W]: class of the pixel, 0 for background, or UNKNOWN
    instances: np.ndarray | None  # int32[H, W], ids 1..J, UNKNOWN where nobody looked; None where there are only marks
    classes: np.ndarray  # int32[J + 1], class of each id


@dataclasses.dataclass(frozen=True)
class Task:
    """All that a peer may train and choose settings on; test images are not among it."""

    outlined: tuple[Shown, ...]  # with a margin that nobody looked at, as far as the images go
    whole: tuple[Shown, ...]  # the same without it, all objects outlined as far as seen: for tools that know no UNKNOWN
    marked: tuple[Shown, ...]
    validation: tuple[Shown, ...]  # outlined; for thresholds and the like, as in our runs
    number_of_classes: int  # K, background not counted
    seed: int


def load(config: ConfigDict) -> tuple[Task, tuple[Example, ...], tuple[Example, ...]]:
    """The task of a configuration: the outlined images and the marks that its methods see.

    Returns:
      The task, and the validation and test images with their truth.

    Raises:
      AnnotationError: the data set cannot be had or used.
    """
    splits = experiment.load(config)
    strong = choose_strong(splits.train.outlined_objects(), config.data.strong, config.seed)
    shown = reveal(splits.train, strong, (), config.data.outlined_side, config.seed)
    background = auxiliary.channels(tuple(config.data.auxiliary), "closes")
    task = Task(
        outlined=tuple(_outlined(_cut(shown[i], _box(shown[i], MARGIN))) for i in strong),
        whole=tuple(_outlined(_cut(splits.train[i], _box(shown[i]))) for i in strong),
        marked=tuple(_marked(e, background) for i, e in enumerate(splits.train) if i not in strong),
        validation=tuple(map(_outlined, splits.validation)),
        number_of_classes=len(config.data.class_names),
        seed=config.seed,
    )
    return task, splits.validation, splits.test


def _box(example: Example, margin: int = 0) -> tuple[slice, ...]:
    """Around what somebody has looked at, and a margin."""
    box = ndimage.find_objects(example.valid.astype(int))[0]
    return tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)


def _cut(example: Example, box: tuple[slice, ...]) -> Example:
    maps = {name: getattr(example, name)[box] for name in ("image", "full", "partial", "valid", "auxiliary")}
    return dataclasses.replace(example, **maps)


def _outlined(example: Example) -> Shown:
    full = np.where(example.valid, example.full, UNKNOWN).astype(np.int32)
    return Shown(example.name, example.image, _labels(full, example), full, example.classes)


def _marked(example: Example, background: Sequence[int]) -> Shown:
    """Marks and, of data that have them, strokes on the background; strokes between objects are of no class."""
    strokes = (example.auxiliary[..., list(background)] == YES).any(-1)
    known = np.where(example.partial > 0, example.partial, np.where(strokes, 0, UNKNOWN))
    return Shown(
        example.name, example.image, _labels(np.where(example.valid, known, UNKNOWN), example), None, example.classes
    )


def _labels(ids: np.ndarray, example: Example) -> np.ndarray:
    return np.where(ids >= 0, example.classes[np.maximum(ids, 0)], UNKNOWN).astype(np.int32)


def extent(task: Task) -> float:
    """Median diameter of the outlined objects, pixels: that of the disc with the same area."""
    areas = np.concatenate([np.unique(s.instances[s.instances > 0], return_counts=True)[1] for s in task.outlined])
    return float(np.median(2 * np.sqrt(areas / np.pi)))


def divide(
    validation: Sequence[Example],
    on_validation: Sequence[np.ndarray],
    on_test: Sequence[np.ndarray],
    settings: InstanceSettings,
) -> tuple[list[Found], InstanceSettings]:
    """Objects from maps of probabilities, by the watershed and with the choice of settings that our runs have.

    The probability stands for the approximation as well; there are no auxiliary tasks.

    Args:
      validation: N images with their truth.
      on_validation: float[H, W, K] of each, the probabilities of the classes of objects.
      on_test: the same of the test images.
      settings: those of the configuration.

    Returns:
      The objects of each test image, and the settings that were chosen.
    """
    settings = dataclasses.replace(settings, dividing=(), beginning=())
    settings = tune(validation, [_opinion(p) for p in on_validation], on_validation, settings)
    return [label_instances(_opinion(p), p, settings) for p in on_test], settings


def _opinion(probabilities: np.ndarray) -> Predictions:
    nothing = np.zeros((*probabilities.shape[:2], 0), np.float32)
    return Predictions(probabilities, probabilities, nothing)


def class_map(probabilities: np.ndarray) -> np.ndarray:
    """int[H, W]: the likeliest class, 0 for background, of float[H, W, K] without background."""
    background = 1 - probabilities.sum(-1, keepdims=True)
    return np.concatenate([background, probabilities], axis=-1).argmax(-1)
