"""Whole images of any size, in order, as if each were alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rams_jax.model import MultiTaskUNet, predictions
from rams_jax.predict import foreground, predict
from rams_jax.types import ModelSettings, Predictions

MODEL = MultiTaskUNet(ModelSettings(width=4, depth=2, own_levels=1, dtype="float32"), classes=2, auxiliary=1)
SIZES = [(9, 7), (12, 12), (3, 15), (8, 8), (1, 1)]


@functools.cache
def params():
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2), bool)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32) + (len(x.shape) == 1), shapes)


def images():
    rng = np.random.default_rng(2)
    return [rng.normal(size=(*size, 3)).astype(np.float32) for size in SIZES]


def test_mixed_sizes_come_back_in_order():
    found = predict(MODEL, params(), images(), batch=2)
    assert [x.segmentation.shape for x in found] == [(*size, 2) for size in SIZES]
    assert [x.approximation.shape for x in found] == [(*size, 2) for size in SIZES]
    assert [x.auxiliary.shape for x in found] == [(*size, 1) for size in SIZES]
    for x in found:
        for values in jax.tree.leaves(x):
            assert isinstance(values, np.ndarray) and values.dtype == np.float32
            assert 0 <= values.min() and values.max() <= 1
        assert (x.segmentation.sum(-1) <= 1 + 1e-6).all()


def test_together_is_as_one_by_one():
    together = predict(MODEL, params(), images(), batch=2)  # three batches, the last one short
    large = predict(MODEL, params(), images(), batch=8)
    for i, image in enumerate(images()):
        (alone,) = predict(MODEL, params(), [image], batch=2)
        for a, b, c in zip(*map(jax.tree.leaves, (alone, together[i], large[i])), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
            np.testing.assert_allclose(a, c, atol=2e-6)


def test_agrees_with_the_network_itself():
    image = images()[1]
    (found,) = predict(MODEL, params(), [image], batch=2)
    expected = predictions(MODEL.apply(params(), image[None], np.ones((1, 12, 12), bool)))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b[0], atol=2e-6)
    assert found.segmentation.std() > 0.01


def test_no_images():
    assert predict(MODEL, params(), []) == []


@pytest.mark.parametrize(("averaged", "expected"), [(True, [0.5, 0.3]), (False, [0.8, 0.2])])
def test_foreground(averaged, expected):
    prediction = Predictions(
        segmentation=np.array([[[0.8, 0.2]]], np.float32),
        approximation=np.array([[[0.2, 0.4]]], np.float32),
        auxiliary=np.zeros((1, 1, 0), np.float32),
    )
    found = foreground(prediction, averaged)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, [[expected]], rtol=1e-6)
