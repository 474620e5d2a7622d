"""Annotations as other tools hold them, and how they become instance maps.

Here a coordinate is (row, column), and (0, 0) is the upper left corner of the upper left pixel, whose centre is
(0.5, 0.5). Each reader of this package turns its tool's convention into this one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from rams_jax.annotations import LARGEST_ID, AnnotationError
from rams_jax.exchange import pixels

_MOST_VERTICES = 1_000_000  # of a shape
_MOST_LAYERS = 20  # area of all shapes of an image, relative to the image
_FARTHEST = 1e7  # pixels; beyond, coordinates are damage
_MOST_WARNINGS = 20  # about overlaps in one image


@dataclasses.dataclass(frozen=True)
class Shape:
    """One annotated object, mark or stroke."""

    label: str  # how messages call it, such as: shape 3 (nucleus)
    class_name: str | None = None
    id: int | None = None  # of the object that it was exported from
    areas: tuple[tuple[np.ndarray, ...], ...] = ()  # parts; each part rings float64[V, 2], inside by the even-odd rule
    lines: tuple[np.ndarray, ...] = ()  # open paths, float64[V, 2]; one of a single vertex is a point
    spans: np.ndarray | None = None  # int64[R, 2]: first pixel and number of pixels, counted down the image's columns


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What an annotation file says of one image."""

    source: str  # the file, for messages
    names: tuple[str, ...]  # of the image, the likeliest first; with or without ending
    size: tuple[int, int] | None = None  # height and width of the image that was drawn on, as the file says
    shapes: tuple[Shape, ...] = ()  # the later ones lie on top
    labels: np.ndarray | None = None  # int32[H, W]: an instance map, instead of shapes
    warnings: tuple[str, ...] = ()


def draw_instances(
    source: str, shapes: Sequence[Shape], size: tuple[int, int], width: float | None
) -> tuple[np.ndarray, dict[int, Shape], list[str]]:
    """Paints the shapes of an image, later ones over earlier ones.

    A pixel belongs to an area if its centre lies inside. A shape keeps the id that it was exported with; the others
    are numbered after these, in their order.

    Args:
      source: the file, for messages.
      size: height and width of the image.
      width: of lines and points, pixels; None: only areas are allowed.

    Returns:
      The instance map int32[H, W], the shape of each id, and a sentence for each overlap.

    Raises:
      AnnotationError: shapes that lie outside the image, cover no pixel, are hidden by others, or are lines where an
        area is needed: a line with a sentence for each; too many or too large shapes.
    """
    if len(shapes) > LARGEST_ID:
        raise AnnotationError(f"{source}: {len(shapes)} shapes, but an image can hold {LARGEST_ID} objects; tile it.")
    instances = np.zeros(size, np.int32)
    flat = instances.reshape(-1)
    by_id: dict[int, Shape] = {}
    overlaps: dict[tuple[int, int], int] = {}
    mistakes: list[str] = []
    ids = _number(shapes)
    for position, index in _all_covered(source, shapes, size, width, mistakes):
        number = ids[position]
        by_id[number] = shapes[position]
        counts = np.bincount(flat[index], minlength=number + 1)
        counts[[0, number]] = 0
        for other in np.flatnonzero(counts).tolist():
            overlaps[other, number] = overlaps.get((other, number), 0) + int(counts[other])
        flat[index] = number
    for number in sorted(set(by_id) - set(np.unique(instances).tolist())):
        above = " and ".join(by_id[b].label for a, b in overlaps if a == number)
        mistakes.append(f"{source}: {by_id[number].label} lies wholly beneath {above}; delete one of them.")
    if mistakes:
        raise AnnotationError("\n".join(mistakes))
    found = [
        f"{source}: {by_id[above].label} lies on top of {by_id[below].label} ({count} pixels)."
        for (below, above), count in overlaps.items()
    ]
    if len(found) > _MOST_WARNINGS:
        found[_MOST_WARNINGS:] = [f"{source}: {len(found) - _MOST_WARNINGS} more overlaps."]
    return instances, by_id, found


def draw_strokes(source: str, shapes: Sequence[Shape], size: tuple[int, int], width: float) -> np.ndarray:
    """Paints strokes: int32[H, W], 1 where one of the shapes lies, 0 elsewhere. Otherwise as `draw_instances`."""
    strokes = np.zeros(size, np.int32)
    mistakes: list[str] = []
    for _, index in _all_covered(source, shapes, size, width, mistakes):
        strokes.reshape(-1)[index] = 1
    if mistakes:
        raise AnnotationError("\n".join(mistakes))
    return strokes


def named(kind: str, number: int, name: object) -> str:
    """How messages call a shape: its place in the file, and what its tool shows of it."""
    text = re.sub(r"[^\w .:;,+()/*-]+", "?", str(name).strip())[:40] if name else ""
    return f"{kind} {number} ({text})" if text else f"{kind} {number}"


def class_text(value: object) -> str | None:
    """The name of a class as a file has it: one line of printable text, or None."""
    text = "" if value is None else "".join(c if c.isprintable() else " " for c in str(value))
    return " ".join(text.split()) or None


def image_size(height: object, width: object) -> tuple[int, int] | None:
    """The size that a file says an image has, where it says one that is possible."""
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    return (height, width) if 0 < height < 2**31 and 0 < width < 2**31 else None


def vertices(points: object, source: str, label: str) -> np.ndarray:
    """Coordinates out of a file as float64[V, 2].

    Raises:
      AnnotationError: not pairs of finite numbers, too many of them, or absurdly large ones.
    """
    try:
        array = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        raise AnnotationError(f"{source}: {label}: its coordinates are not pairs of numbers; draw it again.")
    if not (np.abs(array) <= _FARTHEST).all():  # nor NaN
        raise AnnotationError(f"{source}: {label}: its coordinates are NaN or beyond {_FARTHEST:g}; draw it again.")
    if len(array) > _MOST_VERTICES:
        raise AnnotationError(f"{source}: {label} has {len(array)} vertices, more than {_MOST_VERTICES}; simplify it.")
    return array


def ellipse(centre: Sequence[float], axes: np.ndarray, count: int = 256) -> np.ndarray:
    """A ring of `count` vertices on the ellipse around `centre` whose half axes are the rows of `axes`, float[2, 2]."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.asarray(centre) + np.stack([np.cos(angle), np.sin(angle)], axis=1) @ axes


def _number(shapes: Sequence[Shape]) -> list[int]:
    """An id for each shape: its own where no earlier shape has it, else the next one above all of these."""
    kept: list[int | None] = []
    taken: set[int] = set()
    for shape in shapes:
        good = shape.id is not None and 1 <= shape.id <= LARGEST_ID and shape.id not in taken
        kept.append(shape.id if good else None)
        taken.update([shape.id] if good and shape.id is not None else [])
    above = max(taken, default=0)
    if above + kept.count(None) > LARGEST_ID:
        above = 0
    free = (number for number in range(above + 1, LARGEST_ID + 1) if number not in taken)
    return [next(free) if number is None else number for number in kept]


def _all_covered(
    source: str, shapes: Sequence[Shape], size: tuple[int, int], width: float | None, mistakes: list[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """The positions of the shapes with the pixels they cover, as flat indices; what is wrong is added to `mistakes`."""
    left = _MOST_LAYERS * size[0] * size[1]
    for position, shape in enumerate(shapes):
        found = False
        try:
            for index in _covered(shape, size, width):
                found, left = True, left - index.size
                yield position, index
            if not found:
                raise AnnotationError(_why_nothing(shape, size))
        except AnnotationError as error:
            mistakes.append(f"{source}: {shape.label}: {error}")
        if left < 0:
            raise AnnotationError(
                f"{source}: its shapes cover the image {_MOST_LAYERS} times; is this the right image?"
            )


def _covered(shape: Shape, size: tuple[int, int], width: float | None) -> Iterator[np.ndarray]:
    if shape.lines and width is None:
        raise AnnotationError(
            "a line or a point encloses nothing; outline the object, or import these with --kind=partial."
        )
    areas = (pixels.inside(part, size) for part in shape.areas)
    lines = (pixels.under(line, width, size) for line in shape.lines if width is not None)
    parts, total = [], 0
    for runs in itertools.chain(areas, lines):
        parts.append(runs)
        total += len(runs.row)
        if total > pixels.MOST_CROSSINGS:
            raise AnnotationError(f"it has more than {pixels.MOST_CROSSINGS} runs of pixels; simplify it.")
    if parts:
        overlapping = len(parts) > 1 or len(shape.lines) > 0
        yield from pixels.indices(pixels.union(parts) if overlapping else parts[0], size)
    if shape.spans is not None:
        for index in pixels.counted(shape.spans[:, 0], shape.spans[:, 1]):
            yield index % size[0] * size[1] + index // size[0]


def _why_nothing(shape: Shape, size: tuple[int, int]) -> str:
    """Why a shape covers no pixel."""
    arrays = [ring for part in shape.areas for ring in part] + list(shape.lines)
    points = np.concatenate([*arrays, np.zeros((0, 2))])
    if not len(points):
        return "it is empty, or outside the image; delete it."
    low, high = points.min(axis=0), points.max(axis=0)
    place = f"rows {low[0]:g} to {high[0]:g} and columns {low[1]:g} to {high[1]:g}"
    if (high <= 0).any() or (low >= size).any():
        return (
            f"it lies at {place}, outside the image of {size[0]} x {size[1]} pixels; was it drawn on another image, or "
            "at another scale?"
        )
    return f"it covers no pixel: at {place} no centre of a pixel lies inside; delete or enlarge it."
