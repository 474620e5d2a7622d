"""Masked losses against float64 formulas, optax and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from rams_jax import losses

SHAPE = (2, 4, 5)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def make(seed, classes=3, binary=False):
    """Random logits, labels and weights, a third of them 0."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (*SHAPE, classes))
    labels = rng.random((*SHAPE, classes)) if binary else rng.integers(0, classes, SHAPE)
    weights = rng.random(logits.shape if binary else SHAPE) * (rng.random(logits.shape if binary else SHAPE) > 0.3)
    return logits, labels, weights


def slow_cross_entropy(logits, labels, weights):
    total = 0.0
    for index in np.ndindex(labels.shape):
        total -= weights[index] * np.log(softmax(logits[index])[labels[index]])
    return total / max(weights.sum(), 1)


def slow_dice(logits, labels, weights):
    scores = []
    for k in range(1, logits.shape[-1]):
        truth = (labels == k).astype(float)
        if (weights * truth).sum() == 0:
            continue
        p = softmax(logits)[..., k]
        scores.append(1 - 2 * (weights * p * truth).sum() / ((weights * p).sum() + (weights * truth).sum()))
    return float(np.mean(scores)) if scores else 0.0


def slow_binary(logits, labels, weights):
    p = 1 / (1 + np.exp(-logits))
    terms = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    return (weights * terms).sum() / max(weights.sum(), 1)


def slow_binary_dice(logits, labels, weights):
    p = 1 / (1 + np.exp(-logits))
    overlap, area = ((weights * x).sum((0, 1, 2)) for x in (p * labels, p + labels))
    return float(np.mean(1 - 2 * overlap / area))


def of_labels(loss):
    """The loss as a function of int labels; -1 is no class at all."""
    return lambda logits, labels, weights: loss(logits, jax.nn.one_hot(labels, logits.shape[-1]), weights)


cross_entropy, soft_dice = of_labels(losses.cross_entropy), of_labels(losses.soft_dice)
CASES = {
    "cross_entropy": (cross_entropy, slow_cross_entropy, False),
    "soft_dice": (soft_dice, slow_dice, False),
    "binary_cross_entropy": (losses.binary_cross_entropy, slow_binary, True),
    "binary_soft_dice": (losses.binary_soft_dice, slow_binary_dice, True),
}
each_loss = pytest.mark.parametrize(("loss", "slow", "binary"), CASES.values(), ids=CASES)


@each_loss
def test_agrees_with_the_float64_formula(loss, slow, binary):
    for seed in range(4):
        case = make(seed, binary=binary)
        np.testing.assert_allclose(loss(*map(jnp.asarray, case)), slow(*case), rtol=2e-6)


@each_loss
def test_gradient_agrees_with_finite_differences(loss, slow, binary):
    logits, labels, weights = make(5, binary=binary)
    with jax.enable_x64(True):
        check_grads(lambda x: loss(x, jnp.asarray(labels), jnp.asarray(weights)), (jnp.asarray(logits),), 1, ["rev"])
        gradient = np.asarray(jax.grad(loss)(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights)))
    # Central differences of the slow formula itself, in a few places.
    for index in [(0, 0, 0, 0), (0, 1, 2, 1), (1, 3, 4, 2), (1, 2, 2, 1)]:
        step = np.zeros_like(logits)
        step[index] = 1e-5
        difference = (slow(logits + step, labels, weights) - slow(logits - step, labels, weights)) / 2e-5
        np.testing.assert_allclose(gradient[index], difference, rtol=1e-6, atol=1e-9)


@each_loss
def test_a_mask_is_a_selection(loss, slow, binary):
    logits, labels, _ = make(6, binary=binary)
    chosen = np.random.default_rng(7).random(SHAPE) < 0.5
    weights = np.broadcast_to(chosen[..., None], logits.shape) if binary else chosen
    masked = loss(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights, jnp.float32))
    picked = [jnp.asarray(x[chosen])[None, None] for x in (logits, labels)]
    alone = loss(*picked, jnp.ones(picked[0].shape if binary else picked[0].shape[:3]))
    np.testing.assert_allclose(masked, alone, rtol=1e-6)
    changed = np.where(weights if binary else chosen[..., None], logits, -logits + 1)
    np.testing.assert_allclose(masked, loss(jnp.asarray(changed), jnp.asarray(labels), jnp.asarray(weights)), rtol=1e-6)


@each_loss
def test_an_empty_mask_gives_zero_and_a_finite_gradient(loss, slow, binary):
    logits, labels, weights = make(8, binary=binary)
    for values in (logits, np.full_like(logits, np.nan)):
        value, gradient = jax.value_and_grad(loss)(
            jnp.asarray(values), jnp.asarray(labels), jnp.zeros(weights.shape, jnp.float32)
        )
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@each_loss
def test_nan_without_weight_reaches_neither_value_nor_gradient(loss, slow, binary):
    logits, labels, weights = make(9, binary=binary)
    known = weights > 0 if binary else np.broadcast_to((weights > 0)[..., None], logits.shape)
    spoilt = np.where(known, logits, np.nan)
    spoilt[~known & (np.arange(spoilt.shape[-1]) == 0)] = np.inf
    if binary:
        labels = np.where(known, labels, np.nan)
        clean = np.where(known, labels, 0)
    else:
        labels = np.where(weights > 0, labels, -1)  # no class at all
        clean = np.where(weights > 0, labels, 0)
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(spoilt), jnp.asarray(labels), jnp.asarray(weights))
    expected = jax.value_and_grad(loss)(jnp.asarray(logits), jnp.asarray(clean), jnp.asarray(weights))
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6, atol=1e-9)
    assert (np.asarray(gradient)[~known] == 0).all()
    assert (np.asarray(gradient)[known] != 0).any()


def test_cross_entropies_with_full_weight_are_optax_means():
    logits, labels, _ = make(10)
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(SHAPE))
    expected = optax.softmax_cross_entropy(jnp.asarray(logits), jax.nn.one_hot(labels, 3)).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    logits, labels, _ = make(11, binary=True)
    found = losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.ones((*SHAPE, 1)))
    expected = optax.sigmoid_binary_cross_entropy(jnp.asarray(logits), jnp.asarray(labels)).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_shares_of_classes_as_labels():
    logits, one, weights = make(12)
    other = (one + 1) % 3
    mixed = 0.3 * jax.nn.one_hot(one, 3) + 0.7 * jax.nn.one_hot(other, 3)
    found = losses.cross_entropy(jnp.asarray(logits), mixed, jnp.asarray(weights))
    expected = 0.3 * slow_cross_entropy(logits, one, weights) + 0.7 * slow_cross_entropy(logits, other, weights)
    np.testing.assert_allclose(found, expected, rtol=2e-6)  # linear in the labels
    # Probability 0.5 of the one class, which holds half of the pixel: 1 - 2 x 0.5 x 0.5 / (0.5 + 0.5).
    half = jnp.array([[[[0.5, 0.5]]]])
    np.testing.assert_allclose(losses.soft_dice(jnp.zeros((1, 1, 1, 2)), half, jnp.ones((1, 1, 1))), 0.5, rtol=1e-6)


def test_masked_mean_by_hand():
    values = jnp.array([1.0, 2.0, jnp.nan, 4.0])
    # (2 * 1 + 1 * 4) / 3; less than one pixel's weight in all is not blown up: 0.25 * 4 / 1.
    np.testing.assert_allclose(losses.masked_mean(values, jnp.array([2.0, 0.0, 0.0, 1.0])), 2.0)
    np.testing.assert_allclose(losses.masked_mean(values, jnp.array([0.0, 0.0, 0.0, 0.25])), 1.0)
    # Weights are broadcast: the second column alone, over two rows.
    np.testing.assert_allclose(losses.masked_mean(jnp.array([[1.0, 3.0], [5.0, 9.0]]), jnp.array([0.0, 1.0])), 6.0)


def test_soft_dice_by_hand():
    # Two classes beside background; class 2 is absent and does not count. Probabilities of class 1: 0.5 and 0.25.
    logits = jnp.log(jnp.array([[[[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]]]))
    labels = jnp.array([[[1, 0]]])
    # 1 - 2 * 0.5 / (0.75 + 1) = 3 / 7.
    np.testing.assert_allclose(soft_dice(logits, labels, jnp.ones((1, 1, 2))), 3 / 7, rtol=1e-6)
    sure = jnp.array([[[[-50.0, 50.0, -50.0], [50.0, -50.0, -50.0]]]])
    np.testing.assert_allclose(soft_dice(sure, labels, jnp.ones((1, 1, 2))), 0, atol=1e-6)


def test_binary_soft_dice_by_hand():
    # Probabilities 0.5 and 0.25; the second task has nothing to find and does not count.
    logits = jnp.log(jnp.array([[[[1.0, 1.0], [1 / 3, 1.0]]]]))
    labels = jnp.array([[[[1.0, 0.0], [0.0, 0.0]]]])
    np.testing.assert_allclose(losses.binary_soft_dice(logits, labels, jnp.ones((1, 1, 2, 1))), 3 / 7, rtol=1e-6)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[[80.0, -80.0], [-80.0, 80.0]]]])
    value, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.array([[[1, 1]]]), jnp.ones((1, 1, 2)))
    np.testing.assert_allclose(value, 80.0)
    assert np.isfinite(gradient).all()
    value, gradient = jax.value_and_grad(losses.binary_cross_entropy)(logits, jnp.ones((1, 1, 2, 2)), jnp.ones(()))
    np.testing.assert_allclose(value, 40.0)
    assert np.isfinite(gradient).all()
