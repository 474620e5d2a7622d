"""Masked losses: every mean is `sum(weight * loss) / max(sum(weight), 1)`, so an empty mask gives 0 and no NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def masked_mean(values: Array, weights: Array) -> Array:
    """Weighted mean of `values` where `weights > 0`; 0 where no weight is.

    Args:
      values: float[...]; what stands where the weight is 0 is never read, NaN included.
      weights: float[...], broadcast against `values`.

    Returns:
      float32[]: `sum(w * v) / max(sum(w), 1)`.
    """
    weights = jnp.broadcast_to(weights, values.shape)
    values = jnp.where(weights > 0, values, 0.0)
    return jnp.sum(weights * values) / jnp.maximum(jnp.sum(weights), 1.0)


def cross_entropy(logits: Array, labels: Array, weights: Array) -> Array:
    """Masked mean of the softmax cross-entropy.

    Args:
      logits: float[B, h, w, K + 1].
      labels: float[B, h, w, K + 1], shares that sum to 1; what stands where the weight is 0 does not matter.
      weights: float[B, h, w].

    Returns:
      float32[], nats.
    """
    known = weights[..., None] > 0
    losses = optax.softmax_cross_entropy(jnp.where(known, logits, 0.0), jnp.where(known, labels, 0.0))
    return masked_mean(losses, weights)


def soft_dice(logits: Array, labels: Array, weights: Array) -> Array:
    """One minus the soft Dice of each class over the whole batch, averaged over the classes present (V-Net, eq. in
    section 3 of Milletari et al. 2016, with plain instead of squared denominators as in nnU-Net).

    Args:
      logits: float[B, h, w, K + 1].
      labels: float[B, h, w, K + 1], as in `cross_entropy`.
      weights: float[B, h, w].

    Returns:
      float32[] in 0..1; 0 if no pixel of any class has weight.
    """
    weights = weights[..., None]
    probability = jax.nn.softmax(jnp.where(weights > 0, logits, 0.0), axis=-1)[..., 1:]
    return _dice(probability, jnp.where(weights > 0, labels, 0.0)[..., 1:], weights)


def binary_soft_dice(logits: Array, labels: Array, weights: Array) -> Array:
    """`soft_dice` of independent tasks.

    Args:
      logits: float[B, h, w, T].
      labels: float[B, h, w, T] in 0..1.
      weights: float[B, h, w, T] or broadcast to it.

    Returns:
      float32[] in 0..1; 0 if no task has a label above 0 where it has weight.
    """
    weights = jnp.broadcast_to(weights, logits.shape)
    probability = jax.nn.sigmoid(jnp.where(weights > 0, logits, 0.0))
    return _dice(probability, jnp.where(weights > 0, labels, 0.0), weights)


def _dice(probability: Array, truth: Array, weights: Array) -> Array:
    axes = (0, 1, 2)
    overlap = jnp.sum(weights * probability * truth, axes)
    area = jnp.sum(weights * (probability + truth), axes)
    present = jnp.sum(weights * truth, axes) > 0
    dice = 2 * overlap / jnp.maximum(area, 1e-6)
    return masked_mean(1 - dice, present.astype(jnp.float32))


def binary_cross_entropy(logits: Array, labels: Array, weights: Array) -> Array:
    """Masked mean of the sigmoid cross-entropy of independent tasks.

    Args:
      logits: float[B, h, w, T].
      labels: float[B, h, w, T] in 0..1.
      weights: float[B, h, w, T] or broadcast to it.

    Returns:
      float32[], nats.
    """
    weights = jnp.broadcast_to(weights, logits.shape)
    logits = jnp.where(weights > 0, logits, 0.0)
    labels = jnp.where(weights > 0, labels, 0.0)
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, labels), weights)
