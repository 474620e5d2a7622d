"""The recursion: from the masks A_t of one image and the network's opinion to A_{t+1} (METHOD: update E).

Approximation tasks and their recursion are those of Ke et al., arXiv 2005.13053. The score, the coverage levels, the
contest and the brakes are ours. All functions take one image, work in jit, and are mapped over images with `vmap`.

The score of a pixel as a member of object j is `g = p^(1 - alpha) min(1, q / m_j)^alpha`, compared as logarithms; `m_j`
is the mean of q over A_j. The mark of an object foretells its area, so an object that runs ahead of that asks for a
higher score than the others, and one that lags behind for a lower one (`_divisors`).
"""

from __future__ import annotations

import copy
import functools

import jax
import jax.numpy as jnp

from rams_jax.types import BINS, Annotation, EvolutionSettings, Level, Predictions, Update

Array = jax.Array
CLOSED = 2.0  # a threshold that no score reaches
LAGGARD = 0.1  # of `tau_min`, down to which objects may go that hold less than their marks foretell
SEAM = 3  # pixels that a region may grow into a border between objects, once it has grown elsewhere
ROOM = 2.0  # area near an object, relative to what its mark foretells, up to which it may be the object's
BELIEVED = 1.5  # factor by which the segmentation's estimate of rho may differ from the outlined objects'
_SMALLEST = 1e-6


def _neighbours(x: Array) -> list[Array]:
    """The four 4-neighbours of every pixel; 0 beyond the border."""
    padded = jnp.pad(x, 1)
    return [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]


def _of_class(maps: Array, classes: Array) -> Array:
    """`maps[u, classes[u] - 1]` for float[H, W, K] and int[H, W]; a select per class is faster than a gather."""
    value = maps[..., 0]
    for k in range(1, maps.shape[-1]):
        value = jnp.where(classes == k + 1, maps[..., k], value)
    return value


def sizes(labels: Array, count: int) -> Array:
    """float32[count]: pixels of each id of int[H, W]."""
    return jnp.zeros(count).at[labels.reshape(-1)].add(1.0)


def instance_means(values: Array, labels: Array, count: int) -> Array:
    """float32[count]: mean of float[H, W] over the pixels of each id; 0 for ids without pixels."""
    total = jnp.zeros(count).at[labels.reshape(-1)].add(values.reshape(-1))
    return total / jnp.maximum(sizes(labels, count), 1.0)


class Field:
    """What decides whether a pixel may join: log p, log q, what holds for each object, and where nothing may grow."""

    def __init__(self, predictions: Predictions, note: Annotation, settings: EvolutionSettings):
        p, q, s = predictions.segmentation, predictions.approximation, predictions.auxiliary
        self.alpha = settings.alpha
        self.log_p = jnp.log(jnp.maximum(p, _SMALLEST))
        self.log_q = jnp.log(jnp.maximum(q, _SMALLEST))

        def clear(channels: tuple[int, ...]) -> Array:
            return note.inside & (s[..., jnp.array(channels, int)] < settings.tau_auxiliary).all(-1)

        self.open = clear(settings.closing + settings.seams)
        self.seams = clear(settings.closing) & ~self.open
        self.classes = note.classes
        means = instance_means(_of_class(q, note.classes[note.current]), note.current, note.classes.shape[0])
        self.log_mean = jnp.log(jnp.maximum(means, _SMALLEST))
        self.log_divisor: Array | None = None

    def divided(self, divisors: Array) -> Field:
        """The same with scores divided by `divisors[j]`, float32[J + 1]."""
        other = copy.copy(self)
        other.log_divisor = jnp.log(divisors)
        return other

    def at_seams(self) -> Field:
        """The same with nothing open but the seams."""
        other = copy.copy(self)
        other.open = self.seams
        return other

    def score(self, classes: Array, log_mean: Array, log_divisor: Array | float = 0.0) -> tuple[Array, Array]:
        """`(log g, log q - log m)` of each pixel as a member of an instance with these constants."""
        ratio = _of_class(self.log_q, classes) - log_mean
        log_g = (1 - self.alpha) * _of_class(self.log_p, classes) + self.alpha * jnp.minimum(0.0, ratio)
        return log_g - log_divisor, ratio

    def owners(self, labels: Array) -> tuple[Array, ...]:
        """Class, log m and, if scores are divided, log divisor of the object that each pixel of int[H, W] is in."""
        constants = (self.classes, self.log_mean, self.log_divisor)
        return tuple(constant[labels] for constant in constants if constant is not None)

    def of_owners(self, labels: Array) -> Array:
        """log g of each pixel as a member of the object that int[H, W] says."""
        return self.score(*self.owners(labels))[0]


def _spread(field: Field, log_tau: Array, labels: Array) -> Array:
    """One 4-neighbour step of all regions at once."""
    best, won = jnp.full(labels.shape, -jnp.inf), jnp.zeros_like(labels)
    # Looked up at each step: to carry an owner's constants along takes longer.
    for label, *constants in zip(*map(_neighbours, (labels, *field.owners(labels))), strict=True):
        log_g, ratio = field.score(*constants)
        may = (label > 0) & (log_g >= _of_class(log_tau[None, None, :], constants[0]))
        better = may & ((ratio > best) | ((ratio == best) & (label < won)))
        best, won = jnp.where(better, ratio, best), jnp.where(better, label, won)
    return jnp.where((labels == 0) & field.open & (won > 0), won, labels)


def grow(field: Field, labels: Array, tau: Array, steps: int) -> Array:
    """Regions after `steps` 4-neighbour steps through admissible pixels.

    A pixel wanted by several instances goes to the one that arrives in fewer steps, then to the larger `q / m_j`,
    then to the smaller id.

    Args:
      field: the scores.
      labels: int32[H, W], where the regions start.
      tau: float32[K], the score that a pixel of each class needs.
      steps: how far.

    Returns:
      int32[H, W].
    """
    return jax.lax.fori_loop(0, steps, lambda _, x: _spread(field, jnp.log(tau), x), labels)


def flood(field: Field, labels: Array, tau: Array) -> Array:
    """What `grow` comes to when no step moves anything, for scores that are not divided.

    Within a class the pixel does not matter: of two objects the one with the smaller (m_j, id) has the larger `q / m_j`
    everywhere, and enters wherever the other may. So ids become ranks, the best the highest, and what a pixel needs to
    know is the lowest rank of each class that may enter it: a step then takes a third of the time.

    Args:
      field: the scores, not divided.
      labels: int32[H, W], where the regions start.
      tau: float32[K], the score that a pixel of each class needs.

    Returns:
      int32[H, W].
    """
    count, classes = field.classes.shape[0], range(1, tau.shape[0] + 1)
    ids = jnp.arange(count)
    ids = jnp.lexsort((-ids, -field.log_mean, field.classes.at[0].set(-1)))  # by rank; 0 stays nobody
    rank = jnp.zeros_like(ids).at[ids].set(jnp.arange(count))
    ends = [jnp.sum(field.classes[ids] <= k).astype(ids.dtype) for k in (0, *classes)]  # the last class ends at J + 1
    log_mean = field.log_mean[ids]

    def lowest(k: int) -> Array:
        """int32[H, W]: by bisection, the rank from which on objects of class k may enter a pixel; its end if none."""
        low, high = jnp.broadcast_to(ends[k - 1], labels.shape), jnp.broadcast_to(ends[k], labels.shape)
        for _ in range(count.bit_length()):
            middle = (low + high) // 2
            may = field.score(jnp.int32(k), log_mean[middle])[0] >= jnp.log(tau[k - 1])
            low, high = jnp.where(may | (low == high), low, middle + 1), jnp.where(may, middle, high)
        return jnp.where(field.open, low, count)

    floors = [lowest(k) for k in classes]

    def moved(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        ranks, _ = carry
        near = _neighbours(ranks)
        best, won = jnp.full(labels.shape, -jnp.inf), jnp.zeros_like(ranks)
        for k, floor in zip(classes, floors, strict=True):
            first = functools.reduce(jnp.maximum, [jnp.where(n < ends[k], n, 0) for n in near])
            may = (first >= floor) & (first > 0)
            if len(classes) > 1:
                ratio = jnp.where(may, field.score(jnp.int32(k), log_mean[first])[1], -jnp.inf)
                may = may & ((ratio > best) | ((ratio == best) & (ids[first] < ids[won])))
                best = jnp.where(may, ratio, best)
            won = jnp.where(may, first, won)
        new = jnp.where(ranks == 0, won, ranks)
        return new, jnp.any(new != ranks)

    start = rank[labels]
    return ids[jax.lax.while_loop(lambda carry: carry[1], moved, (start, jnp.bool_(True)))[0]]


def heal(field: Field, current: Array, partial: Array, tau: Array) -> Array:
    """The part of each region that is still admissible and connected to its mark through itself.

    Args:
      field: the scores.
      current: int32[H, W], A_t.
      partial: int32[H, W], P, inside A_t.
      tau: float32[K].

    Returns:
      int32[H, W] between P and A_t.
    """
    classes = field.classes[current]
    stays = (current > 0) & field.open & (field.of_owners(current) >= _of_class(jnp.log(tau)[None, None, :], classes))

    def moved(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        labels, _ = carry
        touched = functools.reduce(jnp.logical_or, [n == current for n in _neighbours(labels)])
        new = jnp.where(stays & touched, current, labels)
        return new, jnp.any(new != labels)

    return jax.lax.while_loop(lambda carry: carry[1], moved, (partial, jnp.bool_(True)))[0]


def threshold(histogram: Array, target: Array) -> Array:
    """The score above which a histogram holds `target` pixels, linear within a bin.

    Args:
      histogram: float32[bins], pixels by score in 0..1.
      target: float32[], pixels.

    Returns:
      float32[]: 0 if the histogram holds fewer pixels, `CLOSED` for a target of 0 or less.
    """
    bins = histogram.shape[0]
    above = jnp.cumsum(histogram[::-1])[::-1]  # pixels in this bin and the ones above it
    fits = above >= target
    index = jnp.max(jnp.where(fits, jnp.arange(bins), -1))
    inside = jnp.maximum(index, 0)
    part = (above[inside] - target) / jnp.maximum(histogram[inside], 1e-9)
    value = jnp.where(index < 0, 0.0, (inside + jnp.clip(part, 0.0, 1.0)) / bins)
    return jnp.where(target <= 0, CLOSED, value)


def estimated_rho(tally: Array, rho: Array, outlined: Array, prior_objects: float) -> Array:
    """Share of the objects' area that the marks cover, from the outlined objects and from the segmentation (ours).

    Marks differ in size by about a quarter, so a few outlined objects tell `rho` only roughly; the segmentation
    sees all objects but may be off at their edges. Their logarithms are averaged. What it saw of an image counts as it
    was when the schedule ended: later it would repeat the masks that it has learnt.

    Args:
      tally: float32[K, bins + 3], summed over the weak images that took a turn.
      rho: float32[K], on the strong images.
      outlined: float32[K], objects that `rho` was found on.
      prior_objects: how many outlined objects the segmentation's estimate is worth.

    Returns:
      float32[K]; `rho` itself while no image has taken a turn.
    """
    found = jnp.where(tally[:, -2] > 0, tally[:, -2] / jnp.maximum(tally[:, -3], 1.0), rho)
    found = jnp.clip(found, rho / BELIEVED, rho * BELIEVED)  # at first the segmentation sees nothing, or everything
    share = prior_objects / (outlined + prior_objects)
    return jnp.exp((1 - share) * jnp.log(rho) + share * jnp.log(found))


def coverage_threshold(tally: Array, kappa: Array, rho: Array, tau_min: float) -> Array:
    """tau_t: where the regions of all images together hold `kappa * area(P) / rho`.

    Args:
      tally: float32[K, bins + 3], summed over the weak images that took a turn.
      kappa: float32[K], share of the objects' area.
      rho: float32[K], area of marks / area of objects.
      tau_min: the least threshold.

    Returns:
      float32[K]: in `tau_min`..1, or `CLOSED`.
    """
    marks = tally[:, -2]
    growth = kappa / rho - 1.0
    target = jnp.where(growth > 1e-4, growth, 0.0) * marks  # what rounding leaves before the start opens nothing
    return jnp.maximum(jax.vmap(threshold)(tally[:, :-3], target), tau_min)


def _histogram(score: Array, classes: Array, where: Array, count: int) -> Array:
    """float32[K, BINS]: scores in 0..1 of the pixels `where`, by class."""
    row = jnp.where(where, classes - 1, count)  # an index beyond the end is dropped, -1 would wrap around
    column = jnp.clip((score * BINS).astype(jnp.int32), 0, BINS - 1)
    return jnp.zeros((count, BINS)).at[row.reshape(-1), column.reshape(-1)].add(1.0, mode="drop")


def _strong_level(field: Field, note: Annotation, kappa: Array) -> Array:
    """The best-scoring part of Y with area `kappa * area(Y)`, marks included."""
    classes = note.classes[note.full]
    score = jnp.exp(field.of_owners(note.full))
    free = (note.full > 0) & (note.partial == 0)
    count = kappa.shape[0]
    histogram = _histogram(score, classes, free, count)
    area = jnp.stack([jnp.sum(classes == k + 1) for k in range(count)]).astype(jnp.float32)
    target = kappa * area - (area - histogram.sum(1))
    tau = jax.vmap(threshold)(histogram, target)
    joins = free & ((score >= _of_class(tau[None, None, :], classes)) | (_of_class(kappa[None, None, :], classes) >= 1))
    return jnp.where(joins, note.full, note.partial)


def _own_thresholds(histogram: Array, marks: Array, foretold: Array, tau: Array, prior: Array, low: float) -> Array:
    """float32[N]: for each of N regions the score `x = tau (area(x) / foretold)^prior`, from `low` on.

    The area at a score, `marks` and what the rows of float32[N, BINS] count from there on, falls as the score rises:
    there is one solution, and it is found among the edges of the bins. A closed threshold stays closed.
    """
    area = marks[:, None] + jnp.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    asked = tau[:, None] * (area / jnp.maximum(foretold, 1.0)[:, None]) ** prior[:, None]
    own = jnp.maximum(jnp.sum(jnp.arange(BINS) / BINS < asked, axis=1) / BINS, low)
    return jnp.where((jnp.abs(own - tau) <= 1 / BINS) | (tau > 1), tau, own)  # within a bin nothing is known


def _divisors(field: Field, territory: Array, note: Annotation, level: Level, settings: EvolutionSettings) -> Array:
    """float32[J + 1]: the score that each object asks for over the common `tau`.

    A mark foretells the area `E_j = |P_j| kappa / rho` of its object, and all n marks of a class in an image that of
    their sum, about sqrt(n) times as exactly. So first the image's threshold of a class moves, as n - 1 objects would
    wish it, then that of each object. What holds the common `tau` up is `tau_min`; an image or an object may go lower,
    for it grows no further than its marks foretell.
    """
    instances = note.classes.shape[0]
    marks = sizes(note.partial, instances)
    of_class = (note.classes == jnp.arange(1, level.tau.shape[0] + 1)[:, None]).astype(jnp.float32)  # [K, J + 1]
    foretold = marks * (of_class.T @ (level.kappa / level.rho))
    score = jnp.exp(field.of_owners(territory))
    free = (territory > 0) & (note.partial == 0)
    row = jnp.where(free, territory, instances)  # an index beyond the end is dropped
    column = jnp.clip((score * BINS).astype(jnp.int32), 0, BINS - 1)
    histogram = jnp.zeros((instances, BINS)).at[row.reshape(-1), column.reshape(-1)].add(1.0, mode="drop")
    tau = jnp.maximum(level.tau, _SMALLEST)
    low = settings.tau_min * LAGGARD
    others = jnp.maximum(of_class @ (marks > 0) - 1, 0)
    sums = (of_class @ histogram, of_class @ marks, of_class @ foretold)
    image = _own_thresholds(*sums, tau, settings.size_prior * others, low)
    own = jnp.concatenate([jnp.ones(1), image])[note.classes]
    own = _own_thresholds(histogram, marks, foretold, own, jnp.full(instances, settings.size_prior), low)
    return own / jnp.concatenate([jnp.ones(1), tau])[note.classes]


def evolve(predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings) -> Update:
    """Update E for one image.

    Args:
      predictions: float32[H, W, K], [H, W, K], [H, W, S], of the averaged network on the un-augmented image.
      note: the image's masks.
      level: thresholds and coverage of this moment.
      settings: constants of the recursion.

    Returns:
      The next masks, the instances that a brake held, the image's tally, and where objects may be.
    """
    count, instances = level.tau.shape[0], note.classes.shape[0]
    field = Field(predictions, note, settings)
    seam = SEAM if settings.seams else 0
    # Everything that could be reached at all: the histogram says where the next threshold lies.
    floor = jnp.full(count, settings.tau_min * LAGGARD)
    territory = flood(field, note.partial, floor)
    territory = grow(field.at_seams(), territory, floor, seam)
    field = field.divided(_divisors(field, territory, note, level, settings))

    old = note.current
    start = old if settings.monotone else heal(field, old, note.partial, level.tau)
    new = grow(field, start, level.tau, settings.reach)
    new = grow(field.at_seams(), new, level.tau, seam)
    before, after = sizes(old, instances), sizes(new, instances)
    # The outlined objects may all be small ones: what the mark foretells has a say too.
    foretold = sizes(note.partial, instances) * jnp.concatenate([jnp.zeros(1), 1 / level.rho])[note.classes]
    largest = jnp.maximum(jnp.concatenate([jnp.full(1, jnp.inf), level.largest])[note.classes], foretold)
    # What a disc of this area becomes when it grows by `reach` on all sides is no leak yet.
    expected = jnp.pi * (jnp.sqrt(before / jnp.pi) + settings.reach) ** 2
    leak = after > settings.leak_factor * expected
    held = (after > settings.max_area_factor * largest) | leak
    held = held & (before > 0) & (note.classes > 0) & ~note.strong
    rests = jnp.abs(after - before) < settings.stop_growth * before
    keeps = (held | rests).at[0].set(False)
    new = jnp.where(keeps[new], 0, new)
    new = jnp.where((new == 0) & keeps[old], old, new)
    new = jnp.where(note.strong, _strong_level(field, note, level.kappa), new)

    classes = note.classes[territory]
    score = jnp.exp(field.of_owners(territory))
    histogram = _histogram(score, classes, (territory > 0) & (note.partial == 0), count)

    def areas(labels: Array) -> Array:
        pixel_class = note.classes[labels]
        return jnp.stack([jnp.sum(pixel_class == k + 1) for k in range(count)])[:, None]

    likely = (_of_class(predictions.segmentation, classes) >= 0.5) | (note.partial > 0)
    objects = areas(jnp.where(likely, territory, 0))
    tally = jnp.concatenate([histogram, objects, areas(note.partial), areas(new)], axis=1)
    near = (territory > 0) & (score >= _of_class(level.beyond[None, None, :], classes))
    # Where far more around an object scores high than its mark foretells, that says nothing.
    fits = sizes(jnp.where(near | (note.partial > 0), territory, 0), instances) <= ROOM * foretold
    near = near & (fits & ~held)[territory]
    return Update(current=new, held=held, tally=jnp.where(note.strong, 0.0, tally), near=near)


def schedule(progress: Array, rho: Array, settings: EvolutionSettings) -> Array:
    """kappa_t: `rho` until `start`, then in a straight line to `coverage` at `end`.

    Args:
      progress: float32[], share of the training that is done.
      rho: float32[K].
      settings: `start`, `end` and `coverage`.

    Returns:
      float32[K].
    """
    ramp = jnp.clip((progress - settings.start) / max(settings.end - settings.start, 1e-6), 0.0, 1.0)
    return rho + (settings.coverage - rho) * ramp
