"""The recursion against a slow reference and by its properties."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evolution_cases import BRAKED, SETTINGS, channels, fast, random_case
from evolution_reference import Case
from evolution_reference import evolve as slow_evolve
from scipy import ndimage

from rams_jax import evolution
from rams_jax.types import BINS

SEEDS = range(8)


@pytest.mark.parametrize(
    ("classes", "auxiliary", "monotone"),
    [
        (1, 0, False),
        (1, 0, True),
        (1, 1, False),
        (2, 0, True),
        (2, 1, False),
        (2, 1, True),
        (1, 2, False),
        (2, 2, True),
    ],
)
def test_agrees_with_the_slow_reference(classes, auxiliary, monotone):
    settings = dataclasses.replace(BRAKED, monotone=monotone, size_prior=0.3, leak_factor=0.4, max_area_factor=0.5)
    cases = [random_case(seed, classes, auxiliary) for seed in SEEDS]
    update = fast(cases, settings)
    seen = {"held": 0, "leaked": 0, "unlikely": 0, "rested": 0, "healed": 0, "contested": 0, "grown": 0, "shared": 0}
    for i, case in enumerate(cases):
        expected = slow_evolve(case, dataclasses.replace(settings, **channels(case)))
        np.testing.assert_array_equal(update.current[i], expected.current, err_msg=f"seed {i}")
        assert set(np.flatnonzero(update.held[i])) == expected.held
        for k, scores in enumerate(expected.reachable):
            histogram = np.histogram(scores, BINS, (0, 1))[0]
            # A score on the edge of a bin may round to either side.
            assert np.abs(np.cumsum(update.tally[i, k, :BINS] - histogram)).max() <= 1
            assert update.tally[i, k, :BINS].sum() == len(scores)
            marks = (case.classes[case.partial] == k + 1).sum()
            areas = [expected.likely[k], marks, (case.classes[expected.current] == k + 1).sum()]
            np.testing.assert_array_equal(update.tally[i, k, BINS:], areas)
            seen["unlikely"] += len(scores) + marks - expected.likely[k]
        seen["held"] += len(expected.held - expected.leaked)
        seen["leaked"] += len(expected.leaked)
        seen["rested"] += len(expected.rested)
        seen["healed"] += expected.healed
        seen["contested"] += expected.contested
        seen["shared"] += expected.shared
        seen["grown"] += int(((expected.current > 0) & (case.current == 0)).sum())
    # The random maps must make every part of the rule work, or the comparison says nothing.
    assert all(seen[name] > 0 for name in ("held", "leaked", "unlikely", "rested", "contested", "grown")), seen
    assert (seen["healed"] > 0) == (not monotone)
    assert (seen["shared"] > 0) == (auxiliary == 2)


def test_auxiliary_task_closes_pixels():
    case = random_case(3, 2, 1)
    apart = fast([case])
    together = fast([dataclasses.replace(case, s=np.zeros_like(case.s))])
    closed = (case.s[..., 0] >= SETTINGS.tau_auxiliary) & (case.partial == 0)
    assert closed.any()
    assert (apart.current[0][closed] == 0).all()
    assert (together.current[0][closed] > 0).any()


def distance_in(mask, start):
    """4-neighbour steps from `start` through `mask`; inf where there is no way."""
    steps = np.where(start, 0.0, np.inf)
    reached, count = start, 0
    while True:
        count += 1
        new = ndimage.binary_dilation(reached) & (mask | start) & ~reached
        if not new.any():
            return steps
        steps[new] = count
        reached = reached | new


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("settings", [SETTINGS, BRAKED], ids=["free", "braked"])
def test_marks_stay_and_growth_is_admissible_and_within_reach(settings, monotone):
    settings = dataclasses.replace(settings, monotone=monotone)
    cases = [random_case(seed, 2, 1) for seed in range(20, 28)]
    update = fast(cases, settings)
    grown = 0
    for case, new in zip(cases, update.current, strict=True):
        marked = case.partial > 0
        np.testing.assert_array_equal(new[marked], case.partial[marked])  # marks are never lost
        assert set(np.unique(new)) <= set(np.unique(case.partial)), "no new ids, and an id means one object"
        if monotone:
            np.testing.assert_array_equal(new[case.current > 0], case.current[case.current > 0])
        for j in np.unique(case.partial[marked]):
            k = case.classes[j] - 1
            mean = case.q[case.current == j, k].mean()
            score = np.sqrt(case.p[..., k] * np.minimum(1, case.q[..., k] / mean))
            admissible = (score >= case.tau[k] - 1e-5) & case.inside & (case.s[..., 0] < settings.tau_auxiliary)
            joined = (new == j) & (case.current != j)
            assert admissible[joined].all()
            steps = distance_in(admissible & (new == j), case.current == j)
            assert (steps[joined] <= settings.reach).all()
            grown += joined.sum()
    assert grown > 10


def test_padding_changes_nothing():
    rng = np.random.default_rng(0)
    cases = [random_case(seed, 2, 1) for seed in range(30, 34)]
    strong_cases = []
    for case in cases:
        full = ndimage.grey_dilation(case.partial, 5) * case.inside
        full = np.where(case.partial > 0, case.partial, full)
        strong_cases.append(dataclasses.replace(case, full=full))

    def pad(case):
        frame = {}
        for field in dataclasses.fields(Case):
            value = getattr(case, field.name)
            if value.ndim < 2:
                frame[field.name] = value
                continue
            # Outside the image the network may say what it likes.
            shape = (case.inside.shape[0] + 9, case.inside.shape[1] + 6, *value.shape[2:])
            big = rng.uniform(0.9, 1, shape) if value.dtype.kind == "f" else np.zeros(shape, value.dtype)
            big[4:-5, 2:-4] = value
            frame[field.name] = big * 0 if field.name == "s" and value.size == 0 else big
        frame["s"][:4] = frame["s"][-5:] = 0
        frame["s"][:, :2] = frame["s"][:, -4:] = 0
        return Case(**frame)

    for group, strong in ((cases, False), (strong_cases, True)):
        alone, framed = fast(group, BRAKED, strong), fast([pad(case) for case in group], BRAKED, strong)
        np.testing.assert_array_equal(framed.current[:, 4:-5, 2:-4], alone.current)
        np.testing.assert_array_equal(framed.held, alone.held)
        np.testing.assert_array_equal(framed.tally, alone.tally)
        assert (framed.current > 0).sum() == (alone.current > 0).sum()


@pytest.mark.parametrize("monotone", [False, True])
def test_a_fixed_point_stays(monotone):
    settings = dataclasses.replace(BRAKED, stop_growth=0.05, monotone=monotone)
    cases = [random_case(seed, 2, 1) for seed in range(40, 48)]
    moved = []
    while not moved or moved[-1]:
        assert len(moved) < 60, "the masks still move after 60 updates of the same opinion"
        new = fast(cases, settings).current
        moved.append(any((case.current != a).any() for case, a in zip(cases, new, strict=True)))
        cases = [dataclasses.replace(case, current=a) for case, a in zip(cases, new, strict=True)]
    assert len(moved) > 2
    again = fast(cases, settings)
    for case, a in zip(cases, again.current, strict=True):
        np.testing.assert_array_equal(a, case.current)


def test_permuted_ids_come_out_permuted():
    rng = np.random.default_rng(1)
    cases = [random_case(seed, 2, 1) for seed in range(50, 56)]
    orders, renamed = [], []
    for case in cases:
        order = np.concatenate([[0], 1 + rng.permutation(len(case.classes) - 1)])
        classes = np.zeros_like(case.classes)
        classes[order] = case.classes
        orders.append(order)
        renamed.append(
            dataclasses.replace(case, partial=order[case.partial], current=order[case.current], classes=classes)
        )
    plain, other = fast(cases, BRAKED), fast(renamed, BRAKED)
    for i, order in enumerate(orders):
        np.testing.assert_array_equal(order[plain.current[i]], other.current[i])
        np.testing.assert_array_equal(plain.held[i], other.held[i][order])
    np.testing.assert_array_equal(plain.tally, other.tally)


def test_strong_level_is_the_best_part_of_the_object():
    rng = np.random.default_rng(2)
    full = np.zeros((18, 22), int)
    full[2:10, 2:12], full[9:16, 13:20] = 1, 2
    full[9, 13] = 0
    partial = np.where(rng.random(full.shape) < 0.2, full, 0)
    base = dataclasses.replace(random_case(0, 1, 0), full=full, partial=partial, current=partial)
    kappas = (0.1, 0.4, 0.7, 0.9, 1.0, 1.2)
    cases = [dataclasses.replace(base, kappa=np.array([kappa])) for kappa in kappas]
    update = fast(cases, SETTINGS, strong=True)
    area, marks = (full > 0).sum(), (partial > 0).sum()
    means = [base.q[partial == j, 0].mean() for j in (1, 2)]
    relative = base.q[..., 0] / np.where(full == 1, means[0], means[1])
    score = np.sqrt(base.p[..., 0] * np.minimum(1, relative))
    previous = partial > 0
    for kappa, current in zip(kappas, update.current, strict=True):
        taken = current > 0
        np.testing.assert_array_equal(current[taken], full[taken])
        assert (previous <= taken).all()
        free = (full > 0) & (partial == 0)
        fullest_bin = np.histogram(score[free], BINS, (0, 1))[0].max()
        assert abs(taken.sum() - np.clip(kappa * area, marks, area)) <= fullest_bin
        if (free & taken).any() and (free & ~taken).any():
            assert score[free & taken].min() >= score[free & ~taken].max() - 1e-6
        previous = taken
    np.testing.assert_array_equal(update.current[0], partial)  # kappa below what the marks cover
    np.testing.assert_array_equal(update.current[4], full)
    assert not update.tally.any()  # only weak images count for the threshold
    assert not update.held.any()


def test_threshold_is_within_a_bin_of_sorting():
    rng = np.random.default_rng(3)
    scores = rng.beta(2, 1.5, size=5000)
    histogram = jnp.asarray(np.histogram(scores, BINS, (0, 1))[0], jnp.float32)
    targets = np.array([1, 10, 500, 2500, 4999, 5000])
    found = jax.vmap(evolution.threshold, (None, 0))(histogram, jnp.asarray(targets, jnp.float32))
    exact = np.sort(scores)[::-1][targets - 1]
    np.testing.assert_allclose(found, exact, atol=1 / BINS)


def test_threshold_by_hand():
    histogram = jnp.array([4.0, 2.0, 0.0, 8.0])  # bins of width 0.25
    targets = jnp.array([-1.0, 0.0, 2.0, 8.0, 9.0, 14.0, 14.5])
    # 2 of the 8 pixels above 0.75 lie above 1 - 0.25 x 2 / 8; all 8 above 0.75; half of the next two above 0.375.
    expected = [evolution.CLOSED, evolution.CLOSED, 0.9375, 0.75, 0.375, 0.0, 0.0]
    np.testing.assert_allclose(jax.vmap(evolution.threshold, (None, 0))(histogram, targets), expected)


def test_coverage_threshold_is_within_a_bin_of_sorting():
    rng = np.random.default_rng(4)
    kappa, rho, marks = np.array([0.8, 0.6]), np.array([0.25, 0.3]), np.array([300.0, 200.0])
    scores = [rng.beta(3, 1, 2000), rng.beta(1, 2, 1500)]
    histograms = [np.histogram(x, BINS, (0, 1))[0] for x in scores]
    tally = np.stack([np.concatenate([h, [-1.0, m, -1.0]]) for h, m in zip(histograms, marks, strict=True)])
    tau = evolution.coverage_threshold(jnp.asarray(tally, jnp.float32), jnp.asarray(kappa), jnp.asarray(rho), 0.05)
    for k in range(2):
        objects = marks[k] / rho[k]
        wanted = round(kappa[k] * objects - marks[k])  # pixels beside the marks: 660 and 200
        assert abs(tau[k] - np.sort(scores[k])[::-1][wanted - 1]) <= 1 / BINS
    floored = evolution.coverage_threshold(jnp.asarray(tally, jnp.float32), jnp.asarray(kappa), jnp.asarray(rho), 0.9)
    np.testing.assert_allclose(floored, [0.9, 0.9])
    closed = evolution.coverage_threshold(jnp.asarray(tally, jnp.float32), jnp.asarray(rho), jnp.asarray(rho), 0.05)
    np.testing.assert_allclose(closed, evolution.CLOSED)
    rounded = jnp.asarray(rho, jnp.float32) * (1 + 3e-7)  # as two ways to compute the same rho may differ
    closed = evolution.coverage_threshold(jnp.asarray(tally, jnp.float32), rounded, jnp.asarray(rho), 0.05)
    np.testing.assert_allclose(closed, evolution.CLOSED)


def test_schedule_by_hand():
    rho = jnp.array([0.25, 0.5])
    found = [evolution.schedule(jnp.float32(t), rho, SETTINGS) for t in (0.0, 0.2, 0.35, 0.5, 0.8, 1.0)]
    expected = [(0.25, 0.5), (0.25, 0.5), (0.4375, 0.625), (0.625, 0.75), (1.0, 1.0), (1.0, 1.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    to_half = dataclasses.replace(SETTINGS, coverage=0.75)
    np.testing.assert_allclose(evolution.schedule(jnp.float32(0.5), rho, to_half), (0.5, 0.625), rtol=1e-6)


def test_schedule_that_jumps():
    # start = end: all at once, and no division by zero.
    rho = jnp.array([0.25, 0.5])
    jump = dataclasses.replace(SETTINGS, start=0.5, end=0.5)
    found = [evolution.schedule(jnp.float32(t), rho, jump) for t in (0.0, 0.499, 0.5, 0.501, 1.0)]
    np.testing.assert_array_equal(found[:3], [[0.25, 0.5]] * 3)
    np.testing.assert_array_equal(found[3:], [[1.0, 1.0]] * 2)
    at_once = dataclasses.replace(SETTINGS, start=0.0, end=0.0)
    np.testing.assert_array_equal(evolution.schedule(jnp.float32(0.01), rho, at_once), [1.0, 1.0])


def tally_of(objects, marks, histogram=0.0):
    """float32[K, BINS + 3] with these areas of the objects by p and of the marks, in pixels."""
    areas = np.stack([objects, marks, np.full(len(marks), 77.0)], axis=1)
    return jnp.asarray(np.concatenate([np.full((len(marks), BINS), histogram), areas], axis=1), jnp.float32)


def test_estimated_rho_by_hand():
    # Class 1: 0.25 on 15 objects and 90 / 250 = 0.36 on all, worth the same: sqrt(0.25 x 0.36) = 0.3.
    # Class 2: 1/2 on 5 objects and 10 / 320 on all, which is too far away to be believed: 1/2 / 1.5 = 1/3 instead, and
    # it weighs 15 / 20: (1/2)^(1/4) x (1/3)^(3/4) = 0.8409 x 0.4387 = 0.3689.
    tally = tally_of([250.0, 320.0], [90.0, 10.0])
    found = evolution.estimated_rho(tally, jnp.array([0.25, 0.5]), jnp.array([15.0, 5.0]), 15.0)
    np.testing.assert_allclose(found, [0.3, 0.3689], rtol=2e-4)
    # What could be reached, and the masks themselves, have no say: a halo of the masks cannot feed on itself.
    other = tally_of([250.0, 320.0], [90.0, 10.0], histogram=9.0).at[:, -1].set(5000.0)
    np.testing.assert_array_equal(
        evolution.estimated_rho(other, jnp.array([0.25, 0.5]), jnp.array([15.0, 5.0]), 15.0), found
    )


def test_estimated_rho_without_turns_is_that_of_the_strong_images():
    rho = jnp.array([0.21, 0.37])
    found = evolution.estimated_rho(tally_of([0.0, 0.0], [0.0, 0.0]), rho, jnp.array([3.0, 400.0]), 15.0)
    np.testing.assert_allclose(found, rho, rtol=1e-6)
    # One class has had turns, the other has not.
    found = evolution.estimated_rho(tally_of([100.0, 0.0], [40.0, 0.0]), rho, jnp.array([3.0, 400.0]), 15.0)
    assert 0.21 < found[0] < 0.4
    np.testing.assert_allclose(found[1], 0.37, rtol=1e-6)


def test_estimated_rho_does_not_ask_the_segmentation_when_told_so():
    rho = jnp.array([0.21, 0.37])
    found = evolution.estimated_rho(tally_of([100.0, 900.0], [90.0, 10.0]), rho, jnp.array([3.0, 400.0]), 0.0)
    np.testing.assert_allclose(found, rho, rtol=1e-6)


def test_estimated_rho_trusts_many_outlined_objects():
    tally, few = tally_of([100.0] * 3, [30.0] * 3), jnp.array([2.0, 20.0, 20000.0])
    distance = np.abs(np.asarray(evolution.estimated_rho(tally, jnp.full(3, 0.2), few, 15.0)) - 0.2)
    assert distance[0] > distance[1] > distance[2] and distance[2] < 1e-3 and distance[0] > 0.05


def test_sizes_and_means():
    labels = jnp.array([[0, 1, 1], [3, 3, 3]])
    values = jnp.array([[9.0, 1.0, 2.0], [3.0, 4.0, 8.0]])
    np.testing.assert_array_equal(evolution.sizes(labels, 4), [1, 2, 0, 3])
    np.testing.assert_allclose(evolution.instance_means(values, labels, 4), [9, 1.5, 0, 5])
