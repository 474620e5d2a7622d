"""Scores of instance maps and of grown masks over a set of annotated images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rams_jax import metrics
from rams_jax.annotations import AnnotationError
from rams_jax.types import Example


@dataclasses.dataclass(frozen=True)
class _ClassSums:
    pixels: metrics.PixelCounts = metrics.PixelCounts()
    matches: metrics.MatchCounts = metrics.MatchCounts()
    aji: metrics.AjiCounts = metrics.AjiCounts()
    dice: metrics.ObjectDiceSums = metrics.ObjectDiceSums()
    hausdorff: metrics.ObjectHausdorffSums = metrics.ObjectHausdorffSums()

    def __add__(self, other: _ClassSums) -> _ClassSums:
        names = [field.name for field in dataclasses.fields(self)]
        return _ClassSums(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def absent(self) -> bool:
        return not (self.pixels.truth or self.pixels.predicted)

    def values(self) -> dict[str, float]:
        return {
            "dice": self.pixels.dice,
            "iou": self.pixels.iou,
            "aji": self.aji.aji,
            "pq": self.matches.pq,
            "ap50": self.matches.ap50,
            "object_dice": self.dice.object_dice,
            "object_hausdorff": self.hausdorff.object_hausdorff,
        }


def _full(example: Example) -> np.ndarray:
    if example.full is None:
        raise AnnotationError(
            f"{example.name} has no full masks, so nothing can be scored on it; outline every object or leave it out"
        )
    return example.full


def _check_count(examples: Sequence[Example], what: str, maps: Sequence) -> None:
    if len(examples) != len(maps):
        raise ValueError(f"there are {len(examples)} examples and {len(maps)} {what}; there must be one for each")
    if not examples:
        raise AnnotationError("there is no image to score; give at least one with full masks")


def _check_shape(example: Example, found: np.ndarray) -> None:
    if found.shape != example.valid.shape:
        raise AnnotationError(
            f"{example.name}: the map to score has the shape {found.shape} and the annotation {example.valid.shape}; "
            "make the map for this very image"
        )


def _of_class(instances: np.ndarray, classes: np.ndarray, k: int) -> np.ndarray:
    return np.where(classes[instances] == k, instances, 0)


def _class_sums(truth: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> _ClassSums:
    pixels = metrics.pixel_counts(truth > 0, predicted > 0, valid)
    truth, predicted = metrics.hide_invalid(truth, predicted, valid)
    return _ClassSums(
        pixels,
        metrics.match_counts(truth, predicted),
        metrics.aji_counts(truth, predicted),
        metrics.object_dice_sums(truth, predicted),
        metrics.object_hausdorff_sums(truth, predicted),
    )


def score_instances(
    examples: Sequence[Example],
    instances: Sequence[np.ndarray],
    classes: Sequence[np.ndarray],
    number_of_classes: int,
) -> dict[str, float]:
    """Scores instance maps against the full masks, with the conventions of `rams_jax.metrics`.

    All images are pooled: each score is computed once from sums over the images. Objects are compared within their
    class only. A score is the mean over the classes that occur, in truth or prediction, on a valid pixel of any image;
    if none does, all is perfect (1; distance 0). Dice and IoU are of the pixels of the instance maps.

    Args:
      examples: N images with full masks.
      instances: N maps int[H, W], 0 = background, ids 1..J.
      classes: N arrays int[J + 1], the class of each id; entry 0 is 0.
      number_of_classes: K, background not counted.

    Returns:
      dice, iou, aji, pq, ap50, object_dice and object_hausdorff (pixels); with more than one class also dice_1 and so
      on for each class, NaN for a class that does not occur.

    Raises:
      AnnotationError: no image, an image without full masks, a map of another shape, a class beyond K.
    """
    _check_count(examples, "instance maps", instances)
    _check_count(examples, "class arrays", classes)
    sums = {k: _ClassSums() for k in range(1, number_of_classes + 1)}
    for example, found, found_classes in zip(examples, instances, classes, strict=True):
        full = _full(example)
        _check_shape(example, found)
        largest = max(int(example.classes.max()), int(found_classes.max()))
        if largest > number_of_classes:
            raise AnnotationError(
                f"{example.name}: class {largest} occurs, but there are only {number_of_classes} classes; "
                "correct the annotation or the number of classes"
            )
        for k in np.union1d(example.classes, found_classes)[1:].tolist():
            truth, predicted = _of_class(full, example.classes, k), _of_class(found, found_classes, k)
            sums[k] += _class_sums(truth, predicted, example.valid)

    values = {k: total.values() for k, total in sums.items()}
    present = [values[k] for k, total in sums.items() if not total.absent] or [_ClassSums().values()]
    scores = {name: float(np.mean([value[name] for value in present])) for name in present[0]}
    if number_of_classes > 1:
        for k, total in sums.items():
            scores |= {f"{name}_{k}": float("nan") if total.absent else v for name, v in values[k].items()}
    return scores


def pixel_sums(examples: Sequence[Example], found: Sequence[np.ndarray], number_of_classes: int) -> np.ndarray:
    """int64[N, K, 2] of int[H, W] class maps: summed over images, the first over the second is Dice of each class."""
    sums = np.zeros((len(examples), number_of_classes, 2), np.int64)
    for i, (example, class_map) in enumerate(zip(examples, found, strict=True)):
        truth = example.classes[_full(example)]
        for k in range(number_of_classes):
            counts = metrics.pixel_counts(truth == k + 1, class_map == k + 1, example.valid)
            sums[i, k] = 2 * counts.intersection, counts.truth + counts.predicted
    return sums


def shape_sums(
    examples: Sequence[Example], instances: Sequence[np.ndarray], classes: Sequence[np.ndarray], number_of_classes: int
) -> np.ndarray:
    """int64[N, K, 2]: summed over images, the first over the second is the AJI of each class (`score_instances`)."""
    sums = np.zeros((len(examples), number_of_classes, 2), np.int64)
    for i, (example, found, found_classes) in enumerate(zip(examples, instances, classes, strict=True)):
        for k in range(number_of_classes):
            truth = _of_class(_full(example), example.classes, k + 1)
            predicted = _of_class(found, found_classes, k + 1)
            counts = metrics.aji_counts(*metrics.hide_invalid(truth, predicted, example.valid))
            sums[i, k] = counts.intersection, counts.union
    return sums


def pooled(sums: np.ndarray) -> float:
    """The score that int[N, K, 2] makes: the mean over the classes that occur, 1 if none does."""
    above, below = sums.sum(0).T
    return float(np.mean(above[below > 0] / below[below > 0])) if below.any() else 1.0


def mask_counts(examples: Sequence[Example], current: Sequence[np.ndarray]) -> metrics.PixelCounts:
    """Compares grown masks with the full masks of the objects that carry a mark.

    Strict, instance by instance: a pixel is right only if it holds the id that the truth has there; a pixel grown into
    a neighbour is as wrong as one on background. Wanted are the pixels of all objects with a mark in `partial`;
    claimed are all pixels in a mask. Only valid pixels count.

    Args:
      examples: N images with full masks; the ids of `partial` are those of `full`.
      current: N maps int[H, W] of the same ids; 0 or less = in no mask.

    Returns:
      Right, wanted and claimed pixels, summed over the images.

    Raises:
      AnnotationError: an image without full masks, a map of another shape.
    """
    counts = metrics.PixelCounts()
    for example, mask in zip(examples, current, strict=True):
        full = _full(example)
        _check_shape(example, mask)
        marked = np.unique(example.partial[example.partial > 0])
        claimed = (mask > 0) & example.valid
        wanted = np.isin(full, marked) & example.valid
        right = claimed & wanted & (mask == full)
        counts += metrics.PixelCounts(int(right.sum()), int(wanted.sum()), int(claimed.sum()))
    return counts


def score_masks(counts: metrics.PixelCounts) -> dict[str, float]:
    """Precision = right / claimed, recall = right / wanted, Dice = 2 right / (claimed + wanted) of `mask_counts`.

    Nothing claimed and nothing wanted: 1 throughout; only one of them: 0.
    """
    return {"precision": counts.precision, "recall": counts.recall, "dice": counts.dice}
