"""Which pixels lie inside outlines and under strokes, as horizontal runs.

Coordinates are (row, column); (0, 0) is the upper left corner of the upper left pixel, whose centre is (0.5, 0.5). Time
and memory are bounded by the number of pixel rows that an outline crosses, not by its vertices times its area.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from rams_jax.annotations import AnnotationError

MOST_CROSSINGS = 4_000_000  # of an outline with the middle lines of pixel rows
_CHUNK = 2**22  # pixels that are listed at once


@dataclasses.dataclass(frozen=True)
class Runs:
    """R horizontal runs of pixels."""

    row: np.ndarray  # int64[R]
    first: np.ndarray  # int64[R]: column
    stop: np.ndarray  # int64[R]: column behind the last one


def inside(rings: Sequence[np.ndarray], size: tuple[int, int]) -> Runs:
    """The pixels whose centres lie inside closed rings by the even-odd rule.

    Edges that two rings share are met at the very same columns, whatever their direction: touching objects neither
    overlap nor leave a gap.

    Args:
      rings: float64[V, 2] each; the edge from the last vertex to the first is implied.
      size: height and width of the image; what lies outside is cut off.

    Raises:
      AnnotationError: the outline crosses too many pixel rows.
    """
    begin = np.concatenate(list(rings))
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    downward = (begin[:, 0] <= end[:, 0])[:, None]
    upper, lower = np.where(downward, begin, end), np.where(downward, end, begin)
    edge, row = _rows(np.ceil(upper[:, 0] - 0.5), np.ceil(lower[:, 0] - 0.5), size[0])
    share = (row + 0.5 - upper[edge, 0]) / (lower[edge, 0] - upper[edge, 0])
    crossing = upper[edge, 1] + share * (lower[edge, 1] - upper[edge, 1])
    column = np.ceil(crossing - 0.5).clip(0, size[1]).astype(np.int64)
    order = np.lexsort((column, row))  # each row is crossed an even number of times
    row, column = row[order], column[order]
    return Runs(row[::2], column[::2], column[1::2])


def under(line: np.ndarray, width: float, size: tuple[int, int]) -> Runs:
    """The pixels whose centres are at most half a width away from a path: round ends, a disc around a single vertex.

    Args:
      line: float64[V, 2], open.
      width: pixels.
      size: height and width of the image; what lies outside is cut off.

    Returns:
      Runs that may overlap; `union` them.

    Raises:
      AnnotationError: the path crosses too many pixel rows.
    """
    radius = width / 2
    begin, end = (line[:-1], line[1:]) if len(line) > 1 else (line, line)
    top, bottom = np.minimum(begin[:, 0], end[:, 0]) - radius, np.maximum(begin[:, 0], end[:, 0]) + radius
    part, row = _rows(np.ceil(top - 0.5), np.floor(bottom - 0.5) + 1, size[0])
    begin, along = begin[part], (end - begin)[part]
    y, length = row + 0.5 - begin[:, 0], np.hypot(along[:, 0], along[:, 1])
    ends = []  # columns, relative to `begin`, at which the row meets the segment's rim
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where it does not
        for share in (0.0, 1.0):
            reach = np.sqrt(radius**2 - (y - share * along[:, 0]) ** 2)
            ends += [share * along[:, 1] - reach, share * along[:, 1] + reach]
        for side in (-radius, radius):
            normal = side * along / length[:, None]
            share = (y - normal[:, 1]) / along[:, 0]
            met = (share >= 0) & (share <= 1)
            ends.append(np.where(met, share * along[:, 1] - normal[:, 0], np.nan))
    low, high = np.fmin.reduce(ends) + begin[:, 1], np.fmax.reduce(ends) + begin[:, 1]
    good = ~np.isnan(low)
    first = np.ceil(low[good] - 0.5).clip(0, size[1]).astype(np.int64)
    stop = (np.floor(high[good] - 0.5) + 1).clip(0, size[1]).astype(np.int64)
    return Runs(row[good], first, np.maximum(first, stop))


def union(parts: Sequence[Runs]) -> Runs:
    """The pixels that are in one of the parts, each once."""
    row, first, stop = (np.concatenate([getattr(p, name) for p in parts]) for name in ("row", "first", "stop"))
    order = np.lexsort((first, row))
    row, first, stop = row[order], first[order], stop[order]
    apart = 1 + int(stop.max(initial=0))  # shifts the rows apart, so that one running maximum serves all
    reached = np.maximum.accumulate(np.append(0, row * apart + stop))[:-1] - row * apart
    return Runs(row, np.minimum(np.maximum(first, reached), stop), stop)


def indices(runs: Runs, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The pixels of runs as indices into the flat image, int64[P], in pieces of bounded size."""
    return counted(runs.row * size[1] + runs.first, runs.stop - runs.first)


def counted(start: np.ndarray, length: np.ndarray) -> Iterator[np.ndarray]:
    """All integers from each start on, as many as its length says; int64[P], in pieces of bounded size."""
    start, length = start[length > 0], length[length > 0]
    pieces = -(-int(length.sum()) // _CHUNK)
    for part in np.array_split(np.arange(len(start)), pieces) if pieces else ():
        before = np.cumsum(length[part]) - length[part]
        yield np.repeat(start[part] - before, length[part]) + np.arange(int(length[part].sum()))


def _rows(first: np.ndarray, stop: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows from `first` to before `stop` of each edge: the edge's position and the row, int64[N] each."""
    first, stop = (row.clip(0, height).astype(np.int64) for row in (first, stop))
    counts = stop - first
    if counts.sum() > MOST_CROSSINGS:
        raise AnnotationError(f"it crosses {counts.sum()} pixel rows, more than {MOST_CROSSINGS}; simplify it.")
    edge = np.repeat(np.arange(len(counts)), counts)
    return edge, np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
