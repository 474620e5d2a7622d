"""Update E, written slowly: loops over pixels and instances, float64, no logarithms.

What `rams_jax.evolution` must agree with. Nothing here is shared with it but three constants.
"""

import dataclasses
import math

import numpy as np

from rams_jax.evolution import LAGGARD, SEAM
from rams_jax.types import BINS


@dataclasses.dataclass
class Case:
    """One image with the network's opinion of it; arrays as in `rams_jax.types`, without leading axes."""

    p: np.ndarray  # float[H, W, K]
    q: np.ndarray  # float[H, W, K]
    s: np.ndarray  # float[H, W, S]
    inside: np.ndarray  # bool[H, W]
    full: np.ndarray  # int[H, W]
    partial: np.ndarray  # int[H, W]
    current: np.ndarray  # int[H, W]
    classes: np.ndarray  # int[J + 1]
    tau: np.ndarray  # float[K]
    rho: np.ndarray  # float[K]
    kappa: np.ndarray  # float[K]
    largest: np.ndarray  # float[K]


@dataclasses.dataclass
class Outcome:
    current: np.ndarray  # int[H, W]
    held: set  # ids
    leaked: set  # ids that only the leak brake holds
    rested: set  # ids
    healed: int  # pixels that left their region
    reachable: list  # per class: scores of the pixels that could ever join
    likely: list  # per class: pixels of the marks, and of the places in reach that p takes for an object
    contested: int  # pixels that more than one instance wanted in the same step
    shared: int  # pixels of seams that joined


def neighbours(pixel, shape):
    row, column = pixel
    for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if 0 <= other[0] < shape[0] and 0 <= other[1] < shape[1]:
            yield other


def pixels(mask):
    return [tuple(int(i) for i in pixel) for pixel in np.argwhere(mask)]


class Opinion:
    """The network's opinion of pixels as members of instances."""

    def __init__(self, case, settings):
        self.case, self.settings = case, settings
        self.mean, self.divisors = {}, None
        for j in range(1, len(case.classes)):
            members = pixels(case.current == j)
            if members:
                self.mean[j] = sum(float(case.q[u][case.classes[j] - 1]) for u in members) / len(members)

    def own_threshold(self, tau, marks, foretold, scores, prior):
        """The first edge of a bin that is no lower than what the area at this edge asks for."""
        own = 1.0
        for edge in np.arange(BINS) / BINS:
            area = marks + sum(score >= edge for score in scores)
            if edge >= tau * (area / foretold) ** prior:
                own = edge
                break
        own = max(own, self.settings.tau_min * LAGGARD)
        return tau if abs(own - tau) <= 1 / BINS or tau > 1 else own

    def weigh(self, territory):
        """From now on scores depend on how the areas at this threshold compare with what the marks foretell."""
        scores, marks, foretold, divisors = {}, {}, {}, {}
        for j in self.mean:
            k = self.case.classes[j] - 1
            scores[j] = [self.score(u, j) for u in pixels((territory == j) & (self.case.partial == 0))]
            marks[j] = (self.case.partial == j).sum()
            foretold[j] = marks[j] * self.case.kappa[k] / self.case.rho[k]
        for k in range(len(self.case.tau)):
            tau, prior = self.case.tau[k], self.settings.size_prior
            ids = [j for j in self.mean if self.case.classes[j] == k + 1]
            everything = [score for j in ids for score in scores[j]]
            sums = [sum(values[j] for j in ids) for values in (marks, foretold)]
            image = self.own_threshold(tau, *sums, everything, prior * (len(ids) - 1)) if ids else tau
            for j in ids:
                divisors[j] = self.own_threshold(image, marks[j], foretold[j], scores[j], prior) / tau
        self.divisors = divisors

    def relative(self, u, j):
        return float(self.case.q[u][self.case.classes[j] - 1]) / self.mean[j]

    def score(self, u, j):
        alpha = self.settings.alpha
        p = float(self.case.p[u][self.case.classes[j] - 1])
        score = p ** (1 - alpha) * min(1.0, self.relative(u, j)) ** alpha
        return score / self.divisors[j] if self.divisors else score

    def says_yes(self, u, channels):
        return any(float(self.case.s[u][c]) >= self.settings.tau_auxiliary for c in channels)

    def open(self, u, seams):
        free = bool(self.case.inside[u]) and not self.says_yes(u, self.settings.closing)
        return free and self.says_yes(u, self.settings.seams) == seams

    def admissible(self, u, j, tau, seams=False):
        return self.open(u, seams) and self.score(u, j) >= tau[self.case.classes[j] - 1]


def grow(opinion, labels, tau, steps, seams=False):
    """Regions after `steps` rounds (None: until nothing moves), and how many pixels were contested."""
    labels, contested = labels.copy(), 0
    done = 0
    while steps is None or done < steps:
        joined = {}
        for u in pixels(labels == 0):
            wanted_by = {int(labels[v]) for v in neighbours(u, labels.shape) if labels[v] > 0}
            wanted_by = [j for j in wanted_by if opinion.admissible(u, j, tau, seams)]
            if wanted_by:
                joined[u] = min(wanted_by, key=lambda j: (-opinion.relative(u, j), j))
                contested += len(wanted_by) > 1
        for u, j in joined.items():
            labels[u] = j
        done += 1
        if not joined:
            break
    return labels, contested


def heal(opinion, current, partial, tau):
    """Marks, and the admissible pixels of each region that hang together with them."""
    labels = partial.copy()
    for j in opinion.mean:
        todo = pixels(partial == j)
        while todo:
            for v in neighbours(todo.pop(), labels.shape):
                if labels[v] == 0 and current[v] == j and opinion.admissible(v, j, tau):
                    labels[v] = j
                    todo.append(v)
    return labels


def evolve(case, settings):
    """Update E for one weak image."""
    opinion = Opinion(case, settings)
    count = len(case.tau)
    floor = np.full(count, settings.tau_min * LAGGARD)
    territory, _ = grow(opinion, case.partial, floor, None)
    territory, _ = grow(opinion, territory, floor, SEAM, seams=True)
    opinion.weigh(territory)
    old, largest = case.current, case.largest
    start = old if settings.monotone else heal(opinion, old, case.partial, case.tau)
    new, contested = grow(opinion, start, case.tau, settings.reach)
    before_seams = new
    new, _ = grow(opinion, new, case.tau, SEAM, seams=True)
    shared = int((new != before_seams).sum())
    held, leaked, rested = set(), set(), set()
    for j in opinion.mean:
        before, after = int((old == j).sum()), int((new == j).sum())
        radius = math.sqrt(before / math.pi) + settings.reach  # of the disc that a disc of this area would become
        k = case.classes[j] - 1
        if after > settings.max_area_factor * max(largest[k], (case.partial == j).sum() / case.rho[k]):
            held.add(j)
        elif after > settings.leak_factor * math.pi * radius**2:
            leaked.add(j)
        if abs(after - before) < settings.stop_growth * before:
            rested.add(j)
    held |= leaked
    result = new.copy()
    for u in pixels(new > 0):
        if new[u] in held | rested:
            result[u] = 0
    for u in pixels(result == 0):
        if old[u] in held | rested:
            result[u] = old[u]
    reachable = [[] for _ in range(count)]
    for u in pixels((territory > 0) & (case.partial == 0)):
        j = int(territory[u])
        reachable[case.classes[j] - 1].append(min(opinion.score(u, j), 1.0))
    likely = [0] * count
    for u in pixels(territory > 0):
        k = case.classes[territory[u]] - 1
        likely[k] += bool(case.partial[u] > 0 or case.p[u][k] >= 0.5)
    healed = int(((old > 0) & (start != old)).sum())
    return Outcome(result, held, leaked, rested, healed, reachable, likely, contested, shared)
