"""Rough marks simulated from full masks, the choice of strong images, and what follows from them for an example."""

from __future__ import annotations

import dataclasses
import heapq
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from rams_jax.annotations import AnnotationError
from rams_jax.datasets import auxiliary
from rams_jax.types import Example, MarkSettings

CAREFUL = MarkSettings()
_MARGIN = 0.15  # of an object's largest depth: how far a mark keeps from the boundary where there is room


def draw_partial(
    full: np.ndarray, seed: int, marks: MarkSettings = CAREFUL, valid: np.ndarray | None = None
) -> np.ndarray:
    """Marks every object as a hurried person would: one blob or stroke, off its centre, well inside it.

    A mark grows pixel by pixel around a short curve through a random inner pixel, nearest first, where near is
    distorted by smooth noise; so it is connected and its area is exact. Its area is a share of the object's, drawn
    uniformly from `marks.coverage`. It keeps off the boundary by 15 % of the object's largest depth, at least by one
    pixel: the outermost pixels, those with one of their eight neighbours outside, are never marked. Where the rest is
    too small for the share the mark is that rest; an object that has only outermost pixels is marked on those. The edge
    of the image is no boundary. The mark of an object depends on the seed, the object's id and shape, and nothing else.

    Careless marks are the same ones, moved. With `marks.shift` only a segment of that room is used, cut off on a random
    side: all of it at 0, as much as the mark fills at 1. With `marks.spill` the mark then moves over the nearest edge,
    also into a neighbour, until that share of its area lies outside; where the neighbour is marked its mark stays.

    Args:
      full: integer[H, W], instance map.
      seed: not negative.
      marks: how they are drawn; none is missing here, see `overlook`.
      valid: bool[H, W]; marks stay where it is True, unless an object lies outside altogether. None: everywhere.

    Returns:
      int32[H, W]: the ids of `full`, each in one 4-connected mark of at least one pixel.
    """
    low, high = marks.coverage
    if not 0 < low <= high <= 1:
        raise AnnotationError(f"Marks cannot cover from {low} to {high} of an object: give shares between 0 and 1.")
    partial = np.zeros(full.shape, np.int32)
    valid = np.ones(full.shape, bool) if valid is None else valid
    for index, box in enumerate(ndimage.find_objects(full.astype(np.int32)), start=1):
        if box is None:
            continue
        rng = np.random.default_rng([seed, index])
        inside = full[box] == index
        # One pixel more on each side, so that the edge of the box is outside and the edge of the image is not.
        sides = [(int(s.start > 0), int(s.stop < size)) for s, size in zip(box, full.shape, strict=True)]
        depth = ndimage.distance_transform_cdt(np.pad(inside, sides), "chessboard")
        depth = depth[tuple(slice(a, depth.shape[i] - b) for i, (a, b) in enumerate(sides))]
        depth = np.where(depth < 0, max(full.shape), depth)  # the transform says -1 where there is no outside at all
        unseen = not valid[box][inside].any()
        looked_at = valid[box] | unseen
        area = max(1, round(rng.uniform(low, high) * int(inside.sum())))
        for margin in (1 + int(_MARGIN * depth.max()), 1, 0):
            room = _largest((depth > margin) & looked_at)
            if room.sum() >= (area if margin > 1 else 1):
                break
        # Streams of their own, so that careless marks differ from careful ones in nothing else.
        if marks.shift:
            room = _segment(room, area, marks.shift, np.random.default_rng([seed, index, 1]))
            depth = ndimage.distance_transform_cdt(np.pad(room, 1), "chessboard")[1:-1, 1:-1]
        mark = _mark(room, depth, area, rng)
        if marks.spill:
            wide, moved = _moved_out(mark, box, full == index, marks.spill)
            own = full[wide] == index
            moved = _largest(moved & (valid[wide] | unseen) & (own | (partial[wide] == 0)))
            if (moved & own).any():  # a mark of a few pixels may be all outside after one step
                box, mark = wide, moved
        partial[box][mark] = index
    return partial


def overlook(partial: np.ndarray, seed: int, marks: MarkSettings) -> np.ndarray:
    """Takes away the marks of objects that a person has overlooked, by chance; an image can lose all.

    Args:
      partial: int32[H, W].
      seed: of the image, not negative.
      marks: `missing` and `missing_images`.
    """
    rng = np.random.default_rng([seed, 0, 1])
    if rng.random() >= marks.missing_images:
        return partial
    lost = rng.random(int(partial.max(initial=0)) + 1) < marks.missing
    return np.where(lost[partial], 0, partial)


def objects_shown(full: np.ndarray, partial: np.ndarray) -> int:
    """How many objects an image shows, for `choose_strong`; without any mark it counts as empty.

    Args:
      full: integer[H, W].
      partial: integer[H, W]; of marks still to be drawn, `overlook(full, ...)` tells as well if there will be any.
    """
    return len(np.setdiff1d(full, 0)) if partial.any() else 0


def choose_strong(objects: Sequence[int | None], count: int, seed: int) -> tuple[int, ...]:
    """Chooses the images that keep their full maps: at random, first among those with many objects.

    Nobody outlines an image that shows nothing to mark, so the images with at least the median number of objects go
    first, those without any mark counted as empty, then the others that have a full map.

    Args:
      objects: of each training image, as `objects_shown` says; None where it has no full map.
      count: how many, at least 1.
      seed: not negative.

    Returns:
      Positions in `objects`, rising.

    Raises:
      AnnotationError: fewer than `count` images have a full map, or `count` is below 1.
    """
    outlined = [i for i, shown in enumerate(objects) if shown is not None]
    if not 1 <= count <= len(outlined):
        raise AnnotationError(
            f"{count} images are to keep their full masks, but {len(outlined)} of {len(objects)} training images have "
            "one; set data.strong to a number between 1 and that."
        )
    shown = np.array([objects[i] for i in outlined])
    order = np.random.default_rng(seed).permutation(len(outlined))
    order = order[np.argsort(shown[order] < np.median(shown), kind="stable")]
    return tuple(sorted(outlined[i] for i in order[:count]))


def choose_weak(images: int, strong: Sequence[int], count: int, seed: int) -> tuple[int, ...]:
    """Chooses the images that show their marks, at random among those that are not strong; fewer are among more.

    Args:
      images: how many train.
      strong: positions of the strong ones.
      count: how many; 0 for all.
      seed: not negative.

    Returns:
      Positions, rising.

    Raises:
      AnnotationError: there are fewer than `count`.
    """
    order = np.random.default_rng([seed, 1]).permutation(images).tolist()
    others = [i for i in order if i not in strong]
    if count > len(others):
        raise AnnotationError(
            f"{count} images are to show their marks, but {len(others)} of {images} training images are left; "
            "set data.weak to a number up to that, or to 0 for all."
        )
    return tuple(sorted(others[: count or None]))


def within_square(example: Example, side: int, seed: int) -> Example:
    """Leaves of an outlined image what a person sees who outlines the objects in a square of it, and nothing else.

    The square has a random object in its middle, as far as the edge of the image lets it, among those around which most
    classes have a whole object. Objects that reach over the square's edge are not outlined: with all that lies outside
    they count as not looked at.

    Args:
      example: with a full map.
      side: of the square, pixels.
      seed: of the data set; see `image_seed`.

    Raises:
      AnnotationError: no square holds a whole object.
    """
    full, classes = example.full, example.classes
    assert full is not None
    found: list[tuple[int, np.ndarray, tuple[slice, ...]]] = []
    for box in ndimage.find_objects(np.where(example.valid, full, 0)):
        if box is None:
            continue
        middle = [(s.start + s.stop) // 2 for s in box]
        corner = [min(max(0, m - side // 2), max(0, n - side)) for m, n in zip(middle, full.shape, strict=True)]
        square = tuple(slice(c, c + side) for c in corner)
        outside = np.ones(full.shape, bool)
        outside[square] = False
        whole = np.setdiff1d(full[square], np.append(full[outside], 0))
        found.append((len(np.unique(classes[whole])), whole, square))
    most = max((count for count, *_ in found), default=0)
    if most == 0:
        raise AnnotationError(f"{example.name}: no square of {side} pixels holds a whole object; raise the side.")
    candidates = [(whole, square) for count, whole, square in found if count == most]
    whole, square = candidates[np.random.default_rng([image_seed(seed, example.name), 2]).integers(len(candidates))]
    looked_at = np.zeros_like(example.valid)
    looked_at[square] = example.valid[square] & np.isin(full[square], [0, *whole])
    return dataclasses.replace(
        example,
        full=np.where(looked_at, full, 0),
        partial=np.where(looked_at & np.isin(example.partial, whole), example.partial, 0),
        valid=looked_at,
        classes=np.where(np.isin(np.arange(len(classes)), whole), classes, 0),
    )


def image_seed(seed: int, name: str) -> int:
    """The seed of what is drawn on one image, so that it does not depend on the other images."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


def annotate(
    name: str,
    image: np.ndarray,
    full: np.ndarray | None,
    partial: np.ndarray | None,
    valid: np.ndarray,
    pixel_size: float,
    seed: int,
    marks: MarkSettings,
    tasks: Sequence[str],
    *,
    classes: np.ndarray | None = None,
    strokes: Mapping[str, np.ndarray] | None = None,
    complete: bool = True,
) -> Example:
    """An example; draws its marks where `partial` is None, and the strokes that nobody drew where `full` is known.

    Args:
      name: of the image.
      image: float32[H, W, C], normalised.
      full: int32[H, W], or None.
      partial: int32[H, W]; None to draw it from `full`, as `marks` say.
      valid: bool[H, W].
      pixel_size: micrometres.
      seed: of the data set; see `image_seed`.
      marks: of `draw_partial` and `overlook`; without `marks.complete` no image is said to be completely marked.
      tasks: auxiliary tasks, names in `auxiliary.TASKS`.
      classes: int32[J + 1], class of each id; None: all objects are of class 1.
      strokes: of some tasks, what a person drew (`auxiliary.read_strokes`).
      complete: whether the person says that every object is marked.

    Returns:
      An example, unchecked; not `complete` either if objects of `full` carry no mark.
    """
    seed = image_seed(seed, name)
    if partial is None:
        if full is None:
            raise AnnotationError(f"{name}: neither a full nor a partial mask.")
        partial = overlook(draw_partial(full, seed, marks, valid), seed, marks)
    drawn = partial if full is None else full
    if classes is None:
        classes = np.zeros(max(int(drawn.max(initial=0)), int(partial.max(initial=0)), 0) + 1, np.int32)
        classes[drawn[drawn > 0]] = 1
    complete = complete and marks.complete and np.isin(drawn[drawn > 0], partial).all().item()
    return Example(
        name=name,
        image=image,
        full=full,
        partial=partial,
        valid=valid,
        classes=classes,
        auxiliary=auxiliary.answer_some(full, partial, valid, tasks, strokes or {}, complete, seed),
        complete=complete,
        pixel_size=pixel_size,
    )


def _mark(room: np.ndarray, depth: np.ndarray, area: int, rng: np.random.Generator) -> np.ndarray:
    """bool[h, w]: `area` pixels of the connected `room` around a random curve, or all of it where it is smaller."""
    pixels = np.argwhere(room)
    if len(pixels) <= area:
        return room
    deep = depth[room]
    start = rng.choice(pixels[2 * deep >= deep.max()])
    aspect = rng.uniform(2.5, 5.0) if rng.random() < 0.5 else rng.uniform(1.0, 1.8)  # a stroke or a blob
    length = np.sqrt(area * aspect) - np.sqrt(area / aspect)  # of the curve; the ends are round
    ends = pixels[rng.integers(len(pixels), size=64)]
    end = ends[np.argmin(np.abs(np.linalg.norm(ends - start, axis=1) - length))]
    middle = (start + end) / 2 + rng.uniform(-0.35, 0.35) * (end - start)[::-1] * (1, -1)
    t = np.linspace(0, 1, 2 + 2 * int(length))[:, None]
    curve = np.rint((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end).astype(int)
    curve = np.clip(curve, 0, np.subtract(room.shape, 1))
    off = np.ones(room.shape, bool)
    off[tuple(curve.T)] = False
    noise = ndimage.gaussian_filter(rng.standard_normal(room.shape), max(1.0, np.sqrt(area) / 3))
    noise = np.clip(noise / noise[room].std(), -2, 2)
    return _grow(room, (ndimage.distance_transform_edt(off) + 0.5) * (1 + 0.2 * noise), start, area)


def _segment(room: np.ndarray, area: int, shift: float, rng: np.random.Generator) -> np.ndarray:
    """bool[h, w]: the part of the room beyond a straight line that leaves `area` pixels at a shift of 1, all at 0."""
    angle = rng.uniform(0, 2 * np.pi)
    pixels = np.argwhere(room)
    keep = max(1, round(len(pixels) + shift * (min(area, len(pixels)) - len(pixels))))
    beyond = pixels[np.argsort(-(pixels @ (np.sin(angle), np.cos(angle))), kind="stable")[:keep]]
    segment = np.zeros_like(room)
    segment[tuple(beyond.T)] = True
    return _largest(segment)


def _moved_out(
    mark: np.ndarray, box: tuple[slice, ...], inside: np.ndarray, share: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The mark moved over the nearest edge of its object until `share` of it lies outside; what is more is left out.

    Args:
      mark: bool[h, w].
      box: where in the image it is.
      inside: bool[H, W], the object.
      share: of the mark's area, rounded to pixels.

    Returns:
      A box that holds the mark where it lies now, and bool[h', w']. The same as before where nothing is to move, or the
      object fills the image.
    """
    beyond = round(share * int(mark.sum()))
    wide = tuple(slice(max(0, s.start - max(mark.shape) - 1), s.stop + max(mark.shape) + 1) for s in box)
    inside = inside[wide]
    if not beyond or inside.all():
        return box, mark
    pixels = np.argwhere(mark) + [b.start - w.start for b, w in zip(box, wide, strict=True)]
    depth, nearest = ndimage.distance_transform_edt(inside, return_indices=True)
    first = pixels[np.argmin(depth[tuple(pixels.T)])]
    way = nearest[:, first[0], first[1]] - first
    height = ndimage.distance_transform_edt(~inside)  # above the object
    for steps in range(1, 2 * max(mark.shape)):
        now = pixels + np.rint(steps * way / np.linalg.norm(way)).astype(int)
        now = now[((now >= 0) & (now < inside.shape)).all(axis=1)]
        out = now[~inside[tuple(now.T)]]
        if len(out) >= beyond:
            break
    moved = np.zeros_like(inside)
    moved[tuple(now.T)] = True
    moved[tuple(out[np.argsort(height[tuple(out.T)], kind="stable")[beyond:]].T)] = False
    return wide, moved


def _grow(room: np.ndarray, cost: np.ndarray, start: np.ndarray, area: int) -> np.ndarray:
    """bool[h, w]: the first `area` pixels of `room`, cheapest first, that are reached from `start` by 4-neighbours."""
    width = room.shape[1] + 2
    free = np.pad(room, 1).ravel().tolist()
    costs = np.pad(cost, 1).ravel().tolist()
    first = int(start[0] + 1) * width + int(start[1]) + 1
    front = [(costs[first], first)]
    taken: list[int] = []
    free[first] = False
    while front and len(taken) < area:
        _, at = heapq.heappop(front)
        taken.append(at)
        for near in (at - 1, at + 1, at - width, at + width):
            if free[near]:
                free[near] = False
                heapq.heappush(front, (costs[near], near))
    mark = np.zeros(len(free), bool)
    mark[taken] = True
    return mark.reshape(-1, width)[1:-1, 1:-1]


def _largest(mask: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(mask)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if count > 1 else mask
