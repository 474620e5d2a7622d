"""Objects of an image too large to be labelled at once: in overlapping blocks, each object by the one that owns it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.ndimage as ndi

from rams_jax.instances import label_instances
from rams_jax.predict import foreground, split_tasks
from rams_jax.types import InstanceSettings

BLOCK = 1024  # pixels along each side that a block owns; an image of up to twice that is not divided
_LEAST_HALO = 64  # pixels


def default_halo(largest_object: int, settings: InstanceSettings) -> int:
    """Pixels around a block: room for an object that begins in it, for one that touches this, and for the smoothing.

    Args:
      largest_object: of the training images, the longer side of its bounding box, pixels.
      settings: those of `label_instances`.
    """
    return max(_LEAST_HALO, 2 * largest_object + int(np.ceil(4 * settings.marker_sigma)))


def label_rows(
    rows: Iterable[np.ndarray],
    shape: tuple[int, int],
    classes: int,
    averaged: bool,
    settings: InstanceSettings,
    halo: int,
    block: int = BLOCK,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels the objects of an image while its probabilities arrive, in memory for a row of blocks and the result.

    An image of up to 2 x `block` pixels a side goes through `label_instances` at once. Otherwise a block is labelled
    with `halo` pixels around it, and keeps the objects whose first pixel, the leftmost of the topmost, lies in it. The
    result is that of the undivided image where an object and those that it touches fit into the halo.

    Args:
      rows: float32[h, W, 2 K + S] from top to bottom, as `predict.predict_rows` yields them.
      shape: H, W.
      classes: K.
      averaged: see `predict.foreground`.
      settings: of `label_instances`.
      halo: pixels, not negative.
      block: pixels, positive.

    Returns:
      int32[H, W], 0 = background, ids 1..J without gaps, the largest first; int32[J + 1], the class of each id; and the
      number of objects that were cut off at the edge of a halo, being larger.
    """
    tops, lefts = (_spans(length, length if max(shape) <= 2 * block else block, halo) for length in shape)
    instances = np.zeros(shape, np.int32)
    found_classes = [np.zeros(1, np.int32)]
    count = cut = 0
    for down, window in zip(tops, _windows(rows, tops), strict=True):
        for across in lefts:
            part = split_tasks(window[:, across.start : across.stop], classes)
            found, of_class = label_instances(part, foreground(part, averaged), settings)
            owned, cut_off = _owned(found, down, across)
            cut += cut_off
            renumbered = np.zeros(len(of_class), np.int32)
            renumbered[owned] = np.arange(count + 1, count + 1 + len(owned))
            count += len(owned)
            found_classes.append(of_class[owned])
            kept = renumbered[found]
            target = instances[down.start : down.stop, across.start : across.stop]
            np.copyto(target, kept, where=kept > 0)
    return *_largest_first(instances, np.concatenate(found_classes)), cut


@dataclasses.dataclass(frozen=True)
class _Span:
    """Rows, or columns, of a block."""

    first: int  # it owns first..last
    last: int
    start: int  # and sees start..stop
    stop: int
    length: int  # of the image

    def owns(self, position: int) -> bool:
        """Whether the position, counted from `start`, is the block's own."""
        return self.first <= position + self.start < self.last

    def cuts(self, low: int, high: int) -> bool:
        """Whether low..high, counted from `start`, touches an edge that is not the image's own."""
        return (low == 0 and self.start > 0) or (high == self.stop - self.start and self.stop < self.length)


def _spans(length: int, block: int, halo: int) -> list[_Span]:
    spans = []
    for first in range(0, length, block):
        last = min(first + block, length)
        spans.append(_Span(first, last, max(0, first - halo), min(length, last + halo), length))
    return spans


def _windows(rows: Iterable[np.ndarray], spans: Sequence[_Span]) -> Iterator[np.ndarray]:
    """The rows start..stop of each span, holding no more than these and what has arrived with them."""
    arriving = iter(rows)
    held, first = next(arriving), 0
    for span in spans:
        parts, end = [held[span.start - first :]], first + len(held)
        while end < span.stop:
            parts.append(next(arriving))
            end += len(parts[-1])
        held, first = np.concatenate(parts), span.start
        yield held[: span.stop - first]


def _owned(found: np.ndarray, down: _Span, across: _Span) -> tuple[list[int], int]:
    """Ids of the objects whose first pixel is the block's own, and how many of them an edge of the halo cuts."""
    owned, cut = [], 0
    for j, box in enumerate(ndi.find_objects(found), start=1):
        rows, columns = box
        column = columns.start + int(np.argmax(found[rows.start, columns] == j))
        if down.owns(rows.start) and across.owns(column):
            owned.append(j)
            cut += down.cuts(rows.start, rows.stop) or across.cuts(columns.start, columns.stop)
    return owned, cut


def _largest_first(instances: np.ndarray, of_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumbers by area, in place; an id that has no pixels left is dropped."""
    parts = np.array_split(instances, max(1, len(instances) // 256))  # for `bincount` makes int64 of them
    areas = np.zeros(len(of_class), int)
    for part in parts:
        areas += np.bincount(part.ravel(), minlength=len(of_class))
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]
    renumbered = np.zeros(len(of_class), np.int32)
    renumbered[order] = np.arange(1, len(order) + 1)
    for part in parts:
        part[:] = renumbered[part]
    return instances, np.append(0, of_class[order]).astype(np.int32)
