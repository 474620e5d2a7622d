"""The multi-task U-Net: a shared encoder and lower decoder, and the finest decoder levels once per task."""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from rams_jax.types import ModelSettings, Predictions

Array = jax.Array


def multiple(settings: ModelSettings) -> int:
    """The number that height and width of the network's input must be divisible by."""
    return 2 ** (settings.depth - 1)


def _pool(x: Array) -> Array:
    """Largest value of each 2 x 2 window, as a reshape: the gradient of `max_pool` is slow on CPUs."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


class Block(nn.Module):
    """Two (or `layers`) 3 x 3 convolutions, each normalised over the channels of a pixel.

    The statistics are a pixel's own, and activations outside the image are set to zero as a convolution's own
    padding is: so neither padding, nor the tile, nor the other images of the batch change a result.
    """

    channels: int
    layers: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, inside: Array) -> Array:
        for _ in range(self.layers):
            x = nn.Conv(self.channels, (3, 3), dtype=self.dtype)(x)  # its bias lets brightness through the norm
            x = nn.LayerNorm(dtype=self.dtype)(x)
            x = nn.gelu(x) * inside
        return x


class Upsample(nn.Module):
    """2 x 2 stride-2 transposed convolution, written as a matrix product and a reshape (fast gradient on CPUs)."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, _ = x.shape
        x = nn.Dense(4 * self.channels, dtype=self.dtype)(x).reshape(b, h, w, 2, 2, self.channels)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, self.channels)


class MultiTaskUNet(nn.Module):
    """Images to the logits of the three tasks.

    Args of the call:
      image: float32[B, H, W, C]; H and W divisible by `multiple(settings)`.
      inside: bool[B, H, W], False where the image is padded.

    Returns:
      `(segmentation float32[B, H, W, K + 1], approximation float32[B, H, W, K], auxiliary float32[B, H, W, S])`:
      logits of a softmax over background and classes, and of independent sigmoids.
    """

    settings: ModelSettings
    classes: int
    auxiliary: int

    @nn.compact
    def __call__(self, image: Array, inside: Array) -> tuple[Array, Array, Array]:
        s, dtype = self.settings, jnp.dtype(self.settings.dtype)
        masks = [inside[..., None].astype(dtype)]
        for _ in range(s.depth - 1):
            masks.append(_pool(masks[-1]))
        widths = [s.width * 2**level for level in range(s.depth)]

        def up(x: Array, level: int, layers: int, task: str) -> Array:
            x = Upsample(widths[level], dtype, name=f"up{level}_{task}")(x)
            x = jnp.concatenate([x * masks[level], skips[level]], axis=-1)
            return Block(widths[level], layers, dtype, name=f"decoder{level}_{task}")(x, masks[level])

        # Centred and of unit spread: else the first norm leaves little of the contrast of a grey image.
        x = ((image - jnp.array(s.mean)) / jnp.array(s.std)).astype(dtype) * masks[0]
        skips = []
        for level in range(s.depth):
            x = Block(widths[level], 2, dtype, name=f"encoder{level}")(x, masks[level])
            skips.append(x)
            x = _pool(x) if level < s.depth - 1 else x
        for level in range(s.depth - 2, s.own_levels - 1, -1):
            x = up(x, level, 2, "shared")
        outputs = []
        tasks = (("segmentation", self.classes + 1), ("approximation", self.classes), ("auxiliary", self.auxiliary))
        for task, channels in tasks:
            if not channels:  # no auxiliary task
                outputs.append(jnp.zeros((*image.shape[:3], 0)))
                continue
            y = x
            for level in range(min(s.own_levels, s.depth - 1) - 1, -1, -1):
                y = up(y, level, 1, task)
            # Small first logits keep the first losses finite in low precision.
            head = nn.Dense(channels, kernel_init=nn.initializers.normal(0.02), name=f"{task}_logits")
            outputs.append(head(y.astype(jnp.float32)))
        return outputs[0], outputs[1], outputs[2]


def forward(model: MultiTaskUNet, params: Any, image: Array, inside: Array) -> tuple[Array, Array, Array]:
    """The three logits of `MultiTaskUNet`, with these parameters."""
    return cast(tuple[Array, Array, Array], model.apply(params, image, inside))


def predictions(logits: tuple[Array, Array, Array]) -> Predictions:
    """Logits of `MultiTaskUNet` to probabilities, in float32."""
    segmentation, approximation, auxiliary = logits
    return Predictions(
        segmentation=jax.nn.softmax(segmentation, axis=-1)[..., 1:],
        approximation=jax.nn.sigmoid(approximation),
        auxiliary=jax.nn.sigmoid(auxiliary),
    )
