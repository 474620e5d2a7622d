"""Probabilities of whole images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rams_jax.model import MultiTaskUNet, forward, multiple, predictions
from rams_jax.types import Predictions


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: MultiTaskUNet, params: Any, image: jax.Array, inside: jax.Array) -> Predictions:
    return predictions(forward(model, params, image, inside))


def predict(model: MultiTaskUNet, params: Any, images: Sequence[np.ndarray], batch: int = 8) -> list[Predictions]:
    """The three tasks' probabilities of images of any size; padding does not change them.

    Args:
      model: the network.
      params: its parameters, best the averaged ones.
      images: float32[H, W, C] each, normalised as in training.
      batch: images that go through the network together.

    Returns:
      For each image NumPy arrays float32[H, W, K], [H, W, K] and [H, W, S].
    """
    if not images:
        return []
    size = multiple(model.settings)
    height, width = (-(-max(x.shape[axis] for x in images) // size) * size for axis in (0, 1))
    results: list[Predictions] = []
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        padded = np.zeros((batch, height, width, images[0].shape[2]), np.float32)
        inside = np.zeros((batch, height, width), bool)
        for i, x in enumerate(part):
            padded[i, : x.shape[0], : x.shape[1]] = x
            inside[i, : x.shape[0], : x.shape[1]] = True
        out = jax.tree.map(np.asarray, _apply(model, params, jnp.asarray(padded), jnp.asarray(inside)))
        results += [jax.tree.map(lambda y, i=i, x=x: y[i, : x.shape[0], : x.shape[1]], out) for i, x in enumerate(part)]
    return results


def foreground(prediction: Predictions, averaged: bool) -> np.ndarray:
    """float32[H, W, K]: what an image is segmented by: the mean of p and q, or p alone (see `baselines.Rule`)."""
    if averaged:
        return (np.asarray(prediction.segmentation) + np.asarray(prediction.approximation)) / 2
    return np.asarray(prediction.segmentation)
