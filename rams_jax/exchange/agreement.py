"""One object, one id: in the full map of an image and in its marks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rams_jax.annotations import AnnotationError


def marks_to_objects(source: str, marks: np.ndarray, full: np.ndarray, labels: Mapping[int, str]) -> dict[int, int]:
    """For each mark the id of the object of the full map that it lies in, for the most part.

    Args:
      source: the file with the marks, for messages.
      marks: int32[H, W].
      full: int32[H, W].
      labels: how messages call the marks, by id.

    Raises:
      AnnotationError: marks that lie in no object, a line with a sentence for each.
    """
    found = _fullest(marks, full)
    lost = [
        f"{source}: {labels[mark]} lies in no object of the image's full mask; delete it, or outline its object."
        for mark in _ids(marks)
        if mark not in found
    ]
    if lost:
        raise AnnotationError("\n".join(lost))
    return found


def objects_to_marks(source: str, full: np.ndarray, marks: np.ndarray, labels: Mapping[int, str]) -> dict[int, int]:
    """For each object of a new full map the id of the mark in it; objects without a mark get ids that no mark has.

    Args:
      source: the file with the full map, for messages.
      full: int32[H, W].
      marks: int32[H, W].
      labels: how messages call the objects, by id.

    Raises:
      AnnotationError: marks in no object, or of different ids in one object, a line with a sentence for each.
    """
    found: dict[int, int] = {}
    mistakes = []
    for mark, number in _fullest(marks, full).items():
        if number in found:
            mistakes.append(
                f"{source}: {labels[number]} holds the marks {found[number]} and {mark} of the image's partial mask; "
                "make them one mark, or outline two objects."
            )
        found.setdefault(number, mark)
    lost = sorted(set(_ids(marks)) - set(_fullest(marks, full)))
    mistakes += [f"{source}: no object at mark {mark} of the image's partial mask; outline it." for mark in lost]
    if mistakes:
        raise AnnotationError("\n".join(mistakes))
    taken = set(_ids(marks))
    above = max([*taken, *_ids(full)], default=0)
    for number in _ids(full):
        if number not in found:
            above += number in taken
            found[number] = above if number in taken else number
    return found


def outside(marks: np.ndarray, full: np.ndarray, labels: Mapping[int, str]) -> list[str]:
    """What leaves its own object: `shape 3 (nucleus) leaves its object at 4 pixels`, for each such mark."""
    numbers, counts = np.unique(marks[(marks > 0) & (marks != full)], return_counts=True)
    return [
        f"{labels[number]} leaves its full mask at {count} pixels"
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    ]


def renumbered(values: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    """The map with its ids exchanged; int32[H, W]."""
    table = np.zeros(int(values.max(initial=0)) + 1, np.int32)
    for old, new in ids.items():
        table[old] = new
    return table[values]


def _ids(values: np.ndarray) -> list[int]:
    return np.unique(values[values > 0]).tolist()


def _fullest(marks: np.ndarray, full: np.ndarray) -> dict[int, int]:
    """For each mark that meets an object, the one that holds most of its pixels; the smaller id of two alike."""
    both = (marks > 0) & (full > 0)
    pairs, counts = np.unique(np.stack([marks[both], full[both]]), axis=1, return_counts=True)
    found: dict[int, int] = {}
    for position in sorted(range(len(counts)), key=lambda p: (-counts[p], pairs[1, p])):
        found.setdefault(int(pairs[0, position]), int(pairs[1, position]))
    return dict(sorted(found.items()))
