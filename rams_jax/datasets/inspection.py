"""What instance maps and images look like when something went wrong with them.

What is certain, or would train on nonsense, is an error; what may be meant so is a warning. The numbers are ours. On
826 maps drawn by hand (nuclei in two stains, fetal heads) they find no error, and one object in two pieces.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence, Sized

import numpy as np
from scipy import ndimage
from skimage.measure import label

from rams_jax.datasets.findings import Report, error, warning

THUMBNAIL = 16  # pixels, the sides of the small images that are compared
SIMILAR = 0.95  # their correlation; between ultrasound images of different patients it was at most 0.91
_BETWEEN = 0.25  # share of in-between values on the rims of objects; at most 0.04 in hand-drawn maps
_PIECE = 0.1  # size of a piece of an object, relative to its largest, below which it is a slip of the brush
_APART = 0.25  # gap between two pieces, relative to the diameter of the larger, from which they are apart
_SPECK = 4  # pixels
_OUTLIER = 3.5  # robust standard deviations of the logarithm of the area
_GAP = 0.4  # of the logarithm: a factor of 1.5
_SPREAD = 0.2  # least robust standard deviation that is believed
_MANY = 240  # different ids in an 8-bit map from which it may have overflown
_LONGEST = 1.5  # of an object, relative to the longest outlined one


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The 8-connected pieces of the objects of a map, P in all; the largest of an object first."""

    ids: np.ndarray  # int[P], rising
    areas: np.ndarray  # int[P], pixels
    boxes: np.ndarray  # int[P, 4]: first row, first column, end row, end column

    def gaps(self) -> np.ndarray:
        """float[P]: pixels between the box of each piece and that of its object's largest; 0 for that one itself."""
        first = np.searchsorted(self.ids, self.ids)
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        return np.maximum(np.maximum(low - high[first], low[first] - high), 0).max(-1, initial=0).astype(float)

    def apart(self) -> np.ndarray:
        """bool[P]: pieces that hardly belong to the object that shares their id."""
        largest = self.areas[np.searchsorted(self.ids, self.ids)]
        diameter = 2 * np.sqrt(largest / np.pi)
        return (self.gaps() > np.maximum(2, _APART * diameter)) & (self.areas >= _PIECE * largest)


def pieces(instances: np.ndarray) -> Pieces:
    """Finds the pieces of the objects of an instance map, integer[H, W]."""
    parts = label(instances, connectivity=2, background=0)
    areas = np.bincount(parts.ravel())[1:]
    ids = np.zeros(len(areas) + 1, int)
    ids[parts.ravel()] = instances.ravel()
    found = ndimage.find_objects(parts)
    boxes = np.array([[r.start, c.start, r.stop, c.stop] for r, c in found], int).reshape(-1, 4)
    order = np.lexsort((-areas, ids[1:]))
    return Pieces(ids[1:][order], areas[order], boxes[order])


def inspect_map(path: pathlib.Path, instances: np.ndarray, marks: bool, report: Report) -> Pieces:
    """Reports the first that applies of unlabelled, id-overflow, blurred-mask, binary-mask and reused-id, and specks.

    Args:
      path: of the map, for the sentences.
      instances: integer[H, W].
      marks: a partial mask: then several strokes of one id may lie in one object, which `inspect_marks` judges.
      report: takes the findings.
    """
    found = pieces(instances)
    ids = np.unique(found.ids)
    apart = found.apart()
    reused = np.unique(found.ids[apart])
    if len(ids) > 1 and ids[-1] == 255 and ids[-2] <= 2 * (len(ids) - 1) and ids[-2] < 200:
        remedy = f"make it 0 if nothing is there, {ids[-2] + 1} if it is an object, or outline what is left."
        wrong = f"the value 255 stands alone above the ids 1 to {ids[-2]}, as if for 'not labelled'; {remedy}"
        error(report, "unlabelled", path, wrong)
    elif len(ids) >= _MANY and ids[-1] <= 255 and len(reused) > 2:
        wrong = f"{len(reused)} ids are in two places and none is above 255: numbered beyond 255 in 8 bits"
        error(report, "id-overflow", path, f"{wrong}; save it again from its source with 16 bits.")
    elif (share := between(instances)) > _BETWEEN:
        wrong = f"{share:.0%} of the rims of objects have values between those of their neighbours: smoothed or resized"
        error(report, "blurred-mask", path, f"{wrong}; draw without anti-aliasing, resize by nearest neighbour.")
    elif not marks and len(ids) == 1 and apart.sum() > 1:
        error(report, "binary-mask", path, _one_id(int(apart.sum()) + 1, int(ids[0]), "objects"))
    elif not marks and len(reused):
        row, column, *_ = found.boxes[np.flatnonzero(apart)[0]]
        wrong = f"object {reused[0]} has another piece far from it, from row {row}, column {column} on{_more(reused)}"
        warning(report, "reused-id", path, f"{wrong}; give every object an id of its own.")
    if not marks and len(ids) > 2:
        areas = np.bincount(instances.ravel())[ids]
        rim = np.concatenate([instances[0], instances[-1], instances[:, 0], instances[:, -1]])
        small = ids[(areas <= _SPECK) & (areas < 0.05 * np.median(areas)) & ~np.isin(ids, rim)]
        if len(small):
            wrong = f"objects of {_SPECK} pixels or less, such as {small[0]} ({len(small)} in all)"
            warning(report, "speck", path, f"{wrong}: slips of the brush; erase them.")
    return found


def inspect_marks(path: pathlib.Path, found: Pieces, longest: float, report: Report) -> None:
    """Reports binary-mask and reused-id for marks: pieces of one id that no object is large enough to hold.

    Args:
      path: of the partial mask.
      found: its pieces.
      longest: longer side of the bounding box of the largest outlined object, pixels.
      report: takes the findings.
    """
    wide = []
    ids = np.unique(found.ids)
    for index in ids:
        boxes = found.boxes[found.ids == index]
        span = int((boxes[:, 2:].max(0) - boxes[:, :2].min(0)).max())
        if len(boxes) > 1 and span > _LONGEST * longest:
            wide.append((int(index), len(boxes), span))
    if wide and len(ids) == 1 and wide[0][1] > 2:
        error(report, "binary-mask", path, _one_id(wide[0][1], wide[0][0], "marks"))
    elif wide:
        index, count, span = wide[0]
        wrong = (
            f"mark {index} has {count} pieces over {span} pixels, but no outlined object is longer than {longest:.0f}"
        )
        remedy = "give the marks of every object an id of its own."
        warning(report, "reused-id", path, f"{wrong}{_more(wide)}; {remedy}")


def between(instances: np.ndarray) -> float:
    """Of the object pixels with another value among their eight neighbours, the share with a lower and a higher one."""
    low, high = (f(instances, size=3, mode="nearest") for f in (ndimage.minimum_filter, ndimage.maximum_filter))
    rim = (instances > 0) & (low != high)
    return float(((low < instances) & (instances < high)).sum() / max(rim.sum(), 1))


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small grey copy of an image, for comparison: float32[256] of mean 0 and norm 1, or zeros if it is constant.

    Args:
      image: number[H, W, C].
    """
    small = image.mean(axis=-1, dtype=np.float64)
    for axis in (0, 1):
        side = small.shape[axis]
        edges = np.arange(THUMBNAIL) * side // THUMBNAIL if side >= THUMBNAIL else np.arange(side)
        counts = np.diff(np.append(edges, side))
        small = np.add.reduceat(small, edges, axis) / np.expand_dims(counts, 1 - axis)
    small = np.resize(small, (THUMBNAIL, THUMBNAIL)).ravel() - small.mean()
    norm = np.linalg.norm(small)
    return (small / norm if norm > 0 else np.zeros_like(small)).astype(np.float32)


def duplicates(thumbnails: np.ndarray, splits: Sequence[str]) -> list[tuple[int, int, float]]:
    """Images for validation or test whose near copy stands before them in the order train, validation, test.

    Args:
      thumbnails: float32[N, 256].
      splits: of each image.

    Returns:
      `(image, its most similar one, correlation)` for each such image, as positions.
    """
    order = np.array([("train", "validation", "test").index(kind) for kind in splits])
    found = []
    for i in np.flatnonzero(order > 0):
        before = np.flatnonzero(order < order[i])
        alike = thumbnails[before] @ thumbnails[i]
        if len(before) and alike.max() >= SIMILAR:
            found.append((int(i), int(before[alike.argmax()]), float(alike.max())))
    return found


def misfits(areas: Sequence[float], others: Sequence[float]) -> list[int]:
    """Positions of median areas that stand out among `areas` on the side of `others`, and are nearer to their middle.

    They must lie beyond a gap: where areas of all sizes occur, as of heads that grow, small ones do not stand out.

    Args:
      areas: pixels, above 0: of each file of a folder the median over its objects.
      others: of the files of the other folder.
    """
    if len(areas) < 3 or not others:
        return []
    logs = np.log(areas)
    middle, other = np.median(logs), np.median(np.log(others))
    away = (logs - middle) * np.sign(other - middle)
    spread = max(1.4826 * float(np.median(abs(away))), _SPREAD)
    order = np.argsort(away)
    beyond = np.append(0, np.diff(away[order])) >= _GAP
    beyond &= (away[order] > _OUTLIER * spread) & (away[order] > abs(other - middle) / 2)
    return sorted(order[np.argmax(beyond) :].tolist()) if beyond.any() else []


def _one_id(count: int, index: int, what: str) -> str:
    remedy = "number them, such as by skimage.measure.label, or by ImageJ's Analyze Particles, Show: Count Masks."
    return f"{count} separate {what} share the id {index}; {remedy}"


def _more(ids: Sized) -> str:
    return f", and {len(ids) - 1} more ids likewise" if len(ids) > 1 else ""
