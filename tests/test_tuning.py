"""The instance settings chosen on validation images: the best ones of those tried, and no change without a reason."""

import dataclasses

import numpy as np
import pytest

from rams_jax.evaluate import pixel_sums, pooled, score_instances, shape_sums
from rams_jax.instances import label_instances
from rams_jax.tuning import first_as_good, tune
from rams_jax.types import Example, InstanceSettings, Predictions

SETTINGS = InstanceSettings(0.5, 1.0, 0.2, 4, (), ())
Y, X = np.mgrid[:40, :60]


def example(full, classes=(0, 1, 1)):
    return Example(
        name="a",
        image=np.zeros((*full.shape, 1), np.float32),
        full=full.astype(np.int32),
        partial=full.astype(np.int32),
        valid=np.ones(full.shape, bool),
        classes=np.array(classes, np.int32),
        auxiliary=np.zeros((*full.shape, 0), np.int8),
    )


def discs(*centres, radius=9):
    full = np.zeros(Y.shape, int)
    for j, (row, column) in enumerate(centres, start=1):
        full[np.hypot(Y - row, X - column) < radius] = j
    return full


def opinion(foreground, inner):
    foreground = foreground[..., None].astype(np.float32)
    return Predictions(foreground, inner[..., None].astype(np.float32), np.zeros((*Y.shape, 0), np.float32)), foreground


def test_a_hesitant_network_gets_a_lower_threshold():
    full = discs((20, 15), (20, 45))
    rim = discs((20, 15), (20, 45), radius=12) > 0
    p, f = opinion(np.where(full > 0, 0.37, np.where(rim, 0.28, 0.02)), full > 0)
    chosen = tune([example(full)] * 3, [p] * 3, [f] * 3, SETTINGS)
    assert chosen.threshold == 0.35  # 0.3 does as well, but is further from 0.5
    assert (chosen.min_area, chosen.dividing, chosen.beginning) == (4, (), ())


def test_bumps_in_a_large_object_ask_for_smoother_or_deeper_markers():
    full = discs((20, 25), radius=17)
    bumps = 0.6 + 0.4 * np.cos(X * 1.1) * np.cos(Y * 1.1)
    p, f = opinion((full > 0) * 0.9, np.where(full > 0, bumps, 0))
    settings = dataclasses.replace(SETTINGS, marker_depth=0.1, marker_sigma=0.7)
    assert label_instances(p, f, settings)[0].max() > 1  # as given it falls to pieces
    chosen = tune([example(full, (0, 1))] * 2, [p] * 2, [f] * 2, settings)
    assert label_instances(p, f, chosen)[0].max() == 1


def test_nothing_changes_without_a_reason():
    full = discs((20, 15), (20, 45))
    p, f = opinion(np.where(full > 0, 0.9, 0.1), full > 0)
    assert tune([example(full)] * 2, [p] * 2, [f] * 2, SETTINGS) == SETTINGS
    p, f = opinion(np.where(full > 0, 0.4, 0.1), full > 0)
    assert tune([example(full)], [p], [f], SETTINGS) == SETTINGS  # one image is no evidence
    empty = np.zeros(Y.shape, int)
    p, f = opinion(np.full(Y.shape, 0.1), empty)
    assert tune([example(empty, (0,))] * 2, [p] * 2, [f] * 2, SETTINGS) == SETTINGS


def sums(*pairs):
    return np.array(pairs)[:, None, :]


def test_a_standard_error_by_hand():
    # Best: 16 / 20 = 0.8. The other: 15 / 20 = 0.75. Without image 1 they are 0.7 and 0.8, without image 2 0.9 and 0.7:
    # differences -0.1 and 0.2, variance 0.0225, standard error sqrt((2 - 1) 0.0225) = 0.15, and 0.05 is less.
    best = sums((9, 10), (7, 10))
    assert first_as_good([sums((7, 10), (8, 10)), best]) == 0
    # Both images say so: differences 0.1 and 0.1, no error.
    assert first_as_good([sums((8, 10), (6, 10)), best]) == 1
    assert first_as_good([sums((1, 10)), sums((9, 10))]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_short_scores_are_those_of_the_long_table(seed):
    rng = np.random.default_rng(seed)
    full = discs((12, 14), (24, 30), (16, 48))
    truth = dataclasses.replace(example(full, (0, 1, 2, 2)), valid=rng.random(Y.shape) < 0.9)
    found = np.roll(full, rng.integers(-4, 5, 2), (0, 1))
    classes = np.array([0, 1, 2, 1], np.int32)
    scores = score_instances([truth, truth], [found, full], [classes, truth.classes], 2)
    assert pooled(shape_sums([truth, truth], [found, full], [classes, truth.classes], 2)) == pytest.approx(
        scores["aji"]
    )
    maps = [classes[found], truth.classes[full]]
    assert pooled(pixel_sums([truth, truth], maps, 2)) == pytest.approx(scores["dice"])
