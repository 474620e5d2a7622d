"""Scores of one class: arrays of one image in, sums that can be added over images out, a value at the end.

Every function below reads one image and one class and returns a frozen dataclass of sums and counts. `a + b` pools two
images (or shards, or processes), an instance without arguments is the zero of that addition, and the properties give
the score. So a score is never a mean of images' scores: images with more pixels or objects weigh more, and an image
without objects adds only what was wrongly predicted there.

Conventions that all of them share:
- Object maps are int[H, W], 0 for background and any positive ids; ids carry no meaning beyond equality.
- Both sides empty, over everything pooled: the perfect value (1, or distance 0). One side empty: the worst (0; for the
  distance see `object_hausdorff_sums`).
- Objects cut by the image border count like all others.
- Invalid pixels (where nobody looked) are dealt with once, by `hide_invalid`, before objects are compared.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import scipy.spatial


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Fields are numbers that add."""

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 1.0


@dataclasses.dataclass(frozen=True)
class PixelCounts(_Sums):
    """Pixels of one class, pooled."""

    intersection: int = 0
    truth: int = 0
    predicted: int = 0

    @property
    def dice(self) -> float:
        """2 |T and P| / (|T| + |P|); 1 if both are empty."""
        return _ratio(2 * self.intersection, self.truth + self.predicted)

    @property
    def iou(self) -> float:
        """|T and P| / |T or P| (Jaccard); 1 if both are empty."""
        return _ratio(self.intersection, self.truth + self.predicted - self.intersection)

    @property
    def precision(self) -> float:
        """|T and P| / |P|; if nothing is predicted: 1 if nothing was to be found, else 0."""
        return float(self.intersection / self.predicted) if self.predicted else float(self.truth == 0)

    @property
    def recall(self) -> float:
        """|T and P| / |T|; if there is no truth: 1 if nothing is predicted, else 0."""
        return float(self.intersection / self.truth) if self.truth else float(self.predicted == 0)


@dataclasses.dataclass(frozen=True)
class MatchCounts(_Sums):
    """Matched and unmatched objects of one class, pooled. A match has IoU > 0.5."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou: float = 0.0  # sum over the matches

    @property
    def pq(self) -> float:
        """Panoptic quality: sum of the matches' IoU / (TP + FP / 2 + FN / 2) (Kirillov et al., CVPR 2019)."""
        return _ratio(self.iou, self.tp + 0.5 * self.fp + 0.5 * self.fn)

    @property
    def ap50(self) -> float:
        """TP / (TP + FP + FN), "average precision" as the Data Science Bowl 2018 and StarDist use the word."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)


@dataclasses.dataclass(frozen=True)
class AjiCounts(_Sums):
    """Pixels of paired objects of one class, pooled."""

    intersection: int = 0
    union: int = 0

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index."""
        return _ratio(self.intersection, self.union)


@dataclasses.dataclass(frozen=True)
class ObjectDiceSums(_Sums):
    """Sums over objects of area x Dice with the partner, and of area; from the truth's side and the prediction's."""

    truth: float = 0.0
    truth_area: int = 0
    predicted: float = 0.0
    predicted_area: int = 0

    @property
    def object_dice(self) -> float:
        """Mean of the two sides' area-weighted Dice; both empty: 1; one empty: 0."""
        if not self.truth_area or not self.predicted_area:
            return float(self.truth_area == self.predicted_area)
        return 0.5 * float(self.truth / self.truth_area + self.predicted / self.predicted_area)


@dataclasses.dataclass(frozen=True)
class ObjectHausdorffSums(_Sums):
    """Sums over objects of area x distance to the partner in pixels, and of area; from both sides."""

    truth: float = 0.0
    truth_area: int = 0
    predicted: float = 0.0
    predicted_area: int = 0

    @property
    def object_hausdorff(self) -> float:
        """Mean of the two sides' area-weighted distance, pixels; a side without objects says nothing; both empty: 0."""
        sides = [(self.truth, self.truth_area), (self.predicted, self.predicted_area)]
        values = [total / area for total, area in sides if area]
        return float(np.mean(values)) if values else 0.0


@dataclasses.dataclass(frozen=True)
class _Overlaps:
    """Areas of all objects and of all intersections that are not empty."""

    truth_ids: np.ndarray  # int[n], ascending
    truth_area: np.ndarray  # int[n]
    predicted_ids: np.ndarray  # int[m], ascending
    predicted_area: np.ndarray  # int[m]
    row: np.ndarray  # int[pairs]: position in truth_ids
    column: np.ndarray  # int[pairs]: position in predicted_ids
    intersection: np.ndarray  # int[pairs]

    @property
    def union(self) -> np.ndarray:
        return self.truth_area[self.row] + self.predicted_area[self.column] - self.intersection


def _overlaps(truth: np.ndarray, predicted: np.ndarray) -> _Overlaps:
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has the shape {truth.shape} and the prediction {predicted.shape}; they must be equal")
    truth_ids, truth_area = np.unique(truth[truth > 0], return_counts=True)
    predicted_ids, predicted_area = np.unique(predicted[predicted > 0], return_counts=True)
    both = (truth > 0) & (predicted > 0)
    row = np.searchsorted(truth_ids, truth[both])
    column = np.searchsorted(predicted_ids, predicted[both])
    pairs, intersection = np.unique(row * max(len(predicted_ids), 1) + column, return_counts=True)
    row, column = np.divmod(pairs, max(len(predicted_ids), 1))
    return _Overlaps(truth_ids, truth_area, predicted_ids, predicted_area, row, column, intersection)


def _best_partner(objects: np.ndarray, partners: np.ndarray, score: np.ndarray, count: int) -> np.ndarray:
    """For each of `count` objects the pair with the largest score; ties: the smaller partner; -1: no pair."""
    order = np.lexsort((partners, -score, objects))
    found, first = np.unique(objects[order], return_index=True)
    best = np.full(count, -1)
    best[found] = order[first]
    return best


def hide_invalid(truth: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes the pixels where nobody looked out of both object maps of one class.

    The rule of panoptic quality for its void pixels (Kirillov et al. 2019): invalid pixels become background on both
    sides; a predicted object that had more than half of its area on invalid pixels is then removed altogether, since
    nothing is known about it, unless what is left of it matches a true object with IoU > 0.5.

    Args:
      truth: int[H, W].
      predicted: int[H, W].
      valid: bool[H, W].

    Returns:
      Copies of truth and predicted, of the same dtypes.
    """
    seen_truth, seen = np.where(valid, truth, 0), np.where(valid, predicted, 0)
    ids, position = np.unique(predicted, return_inverse=True)
    area = np.bincount(position.ravel(), minlength=len(ids))
    hidden = np.bincount(position.ravel(), weights=~valid.ravel(), minlength=len(ids))
    unknown = ids[(2 * hidden > area) & (ids > 0)]
    if len(unknown):
        o = _overlaps(seen_truth, seen)
        matched = o.predicted_ids[o.column[2 * o.intersection > o.union]]
        seen[np.isin(seen, np.setdiff1d(unknown, matched))] = 0
    return seen_truth, seen


def pixel_counts(truth: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> PixelCounts:
    """Pixels of one class for Dice, IoU, precision and recall.

    Only valid pixels count. Pooled: sums over images before the ratio.

    Args:
      truth: bool[H, W], the pixels of the class.
      predicted: bool[H, W].
      valid: bool[H, W].
    """
    truth, predicted = truth & valid, predicted & valid
    return PixelCounts(int((truth & predicted).sum()), int(truth.sum()), int(predicted.sum()))


def match_counts(truth: np.ndarray, predicted: np.ndarray) -> MatchCounts:
    """Objects matched at IoU > 0.5, for panoptic quality and AP at 0.5.

    Threshold: a pair matches when its IoU is strictly larger than 0.5; then an object has at most one partner and no
    assignment is needed (Kirillov et al. 2019). At exactly 0.5 there is no match; StarDist's `>=` with an optimal
    assignment differs only there. Pooled: counts and IoU are summed over images before the ratio.

    Args:
      truth: int[H, W], objects of one class, invalid pixels hidden.
      predicted: int[H, W].
    """
    o = _overlaps(truth, predicted)
    match = 2 * o.intersection > o.union
    tp = int(match.sum())
    iou = float((o.intersection[match] / o.union[match]).sum())
    return MatchCounts(tp, len(o.predicted_ids) - tp, len(o.truth_ids) - tp, iou)


def aji_counts(truth: np.ndarray, predicted: np.ndarray) -> AjiCounts:
    """Pixels for the aggregated Jaccard index (Kumar et al., IEEE TMI 2017, algorithm 1).

    Each true object takes the predicted object with the largest IoU, however small (no threshold; ties: the smaller
    id) and adds their intersection and union; without any overlap it adds its own area to the union. A predicted
    object may be taken by several true ones, as in the original and unlike AJI+. Predicted objects that none took add
    their area to the union. Pooled: intersection and union are summed over images, where Kumar et al. average the
    ratio over images.

    Args:
      truth: int[H, W], objects of one class, invalid pixels hidden.
      predicted: int[H, W].
    """
    o = _overlaps(truth, predicted)
    best = _best_partner(o.row, o.column, o.intersection / o.union, len(o.truth_ids))
    taken = best[best >= 0]
    unused = np.ones(len(o.predicted_ids), bool)
    unused[o.column[taken]] = False
    union = o.union[taken].sum() + o.truth_area[best < 0].sum() + o.predicted_area[unused].sum()
    return AjiCounts(int(o.intersection[taken].sum()), int(union))


def object_dice_sums(truth: np.ndarray, predicted: np.ndarray) -> ObjectDiceSums:
    """Sums for the object-level Dice of the GlaS challenge (Sirinukunwattana et al., Medical Image Analysis 2017).

    Every object of either side is compared with the object of the other side that covers most of its pixels (no
    threshold; ties: the smaller id); one that nothing overlaps has Dice 0. Each side's Dice is weighted by the object's
    area over the area of all objects of that side in all images pooled; the score is the mean of both sides.

    Args:
      truth: int[H, W], objects of one class, invalid pixels hidden.
      predicted: int[H, W].
    """
    o = _overlaps(truth, predicted)
    dice = 2 * o.intersection / (o.truth_area[o.row] + o.predicted_area[o.column])
    of_truth = _best_partner(o.row, o.column, o.intersection, len(o.truth_ids))
    of_predicted = _best_partner(o.column, o.row, o.intersection, len(o.predicted_ids))
    has_truth, has_predicted = of_truth >= 0, of_predicted >= 0
    return ObjectDiceSums(
        float((o.truth_area[has_truth] * dice[of_truth[has_truth]]).sum()),
        int(o.truth_area.sum()),
        float((o.predicted_area[has_predicted] * dice[of_predicted[has_predicted]]).sum()),
        int(o.predicted_area.sum()),
    )


def object_hausdorff_sums(truth: np.ndarray, predicted: np.ndarray) -> ObjectHausdorffSums:
    """Sums for the object-level Hausdorff distance of the GlaS challenge, in pixels; smaller is better.

    Partners and weights as in `object_dice_sums`, except that an object that nothing overlaps is compared with the one
    of the other side whose Hausdorff distance to it is smallest. The distance is between the sets of all pixels of both
    objects: max over both directions of the largest Euclidean distance from a pixel centre to the nearest of the other
    set. Where an image has objects on one side only, the challenge's distance is infinite; here it is the image's
    diagonal, so that means over images, classes and seeds stay finite.

    Args:
      truth: int[H, W], objects of one class, invalid pixels hidden.
      predicted: int[H, W].
    """
    o = _overlaps(truth, predicted)
    of_truth = _best_partner(o.row, o.column, o.intersection, len(o.truth_ids))
    of_predicted = _best_partner(o.column, o.row, o.intersection, len(o.predicted_ids))
    partner_of_truth = np.where(of_truth >= 0, np.append(o.column, -1)[of_truth], -1)
    partner_of_predicted = np.where(of_predicted >= 0, np.append(o.row, -1)[of_predicted], -1)
    a, b = _PointSets.of(truth), _PointSets.of(predicted)
    return ObjectHausdorffSums(
        float((o.truth_area * _distances(a, b, partner_of_truth)).sum()),
        int(o.truth_area.sum()),
        float((o.predicted_area * _distances(b, a, partner_of_predicted)).sum()),
        int(o.predicted_area.sum()),
    )


@dataclasses.dataclass(frozen=True)
class _PointSets:
    """The pixels of every object of a map, in ascending order of ids."""

    labels: np.ndarray  # int[H, W]
    ids: np.ndarray  # int[n]
    points: list[np.ndarray]  # n x int[pixels, 2]
    trees: list[scipy.spatial.KDTree]  # of the boundary pixels: the nearest pixel of an object is one of them
    boxes: np.ndarray  # int[n, 4]: smallest and largest row and column

    @classmethod
    def of(cls, labels: np.ndarray) -> _PointSets:
        points = np.argwhere(labels > 0)
        ids, counts = np.unique(labels[labels > 0], return_counts=True)
        order = np.argsort(labels[labels > 0], kind="stable")
        ends = np.cumsum(counts)[:-1]
        padded = np.pad(labels, 1, mode="edge")
        neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        edge = np.logical_or.reduce([n != labels for n in neighbours])[labels > 0]
        split = np.split(points[order], ends) if len(ids) else []
        edges = np.split(edge[order], ends) if len(ids) else []
        # an object that fills the image has no boundary pixel and no pixel outside it; its tree holds them all
        trees = [scipy.spatial.KDTree(p[e] if e.any() else p) for p, e in zip(split, edges, strict=True)]
        boxes = np.array([(*p.min(0), *p.max(0)) for p in split]).reshape(-1, 4)
        return cls(labels, ids, split, trees, boxes)


def _hausdorff(a: _PointSets, i: int, b: _PointSets, j: int) -> float:
    one, other = a.points[i], b.points[j]
    one = one[b.labels[tuple(one.T)] != b.ids[j]]
    other = other[a.labels[tuple(other.T)] != a.ids[i]]
    to_other = b.trees[j].query(one)[0].max() if len(one) else 0.0
    to_one = a.trees[i].query(other)[0].max() if len(other) else 0.0
    return float(max(to_other, to_one))


def _distances(own: _PointSets, others: _PointSets, partner: np.ndarray) -> np.ndarray:
    """Distance of each own object to its partner, or to the nearest object where partner is -1."""
    distances = np.full(len(own.ids), float(np.hypot(*own.labels.shape)))
    for i in range(len(own.ids)):
        if partner[i] >= 0:
            distances[i] = _hausdorff(own, i, others, partner[i])
        elif len(others.ids):
            # no distance is smaller than the largest shift between two sides of the bounding boxes
            bound = np.abs(others.boxes - own.boxes[i]).max(1)
            nearest = np.inf
            for j in np.argsort(bound, kind="stable"):
                if bound[j] >= nearest:
                    break
                nearest = min(nearest, _hausdorff(own, i, others, int(j)))
            distances[i] = nearest
    return distances
