"""The multi-task U-Net: a shared encoder and lower decoder, and the finest decoder levels once per task."""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from rams_jax.types import ModelSettings, Predictions

Array = jax.Array
_GAIN = 1.7  # of the rectified values: 1 / their standard deviation where x is normal, as in the same paper
_FEW = 16  # channels


def multiple(settings: ModelSettings) -> int:
    """The number that height and width of the network's input must be divisible by."""
    return 2 ** (settings.depth - 1)


def _pool(x: Array) -> Array:
    """Largest value of each 2 x 2 window, as a reshape: the gradient of `max_pool` is slow on CPUs."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def _plain(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _swapped(x: Array, gradient: Array) -> Array:
    """The kernel's gradient, with the image as the kernel of a convolution and not the result's gradient."""
    turned = jax.lax.conv_general_dilated(gradient, x, (1, 1), [(1, 1)] * 2, dimension_numbers=("CHWN", "IHWO", "NHWC"))
    return turned[:, ::-1, ::-1].transpose(1, 2, 3, 0)


@jax.custom_vjp
def convolve(x: Array, kernel: Array) -> Array:
    """3 x 3 convolution with zeros around the image, whose kernel's gradient takes a third of the time on a CPU.

    XLA gives a convolution on a CPU to YNNPACK only if one side has more than 16 channels. Of the kernel's gradient
    these are the crops on one side, and on the other the channels of the result, or of the image if we like.

    Args:
      x: float[B, H, W, I].
      kernel: float[3, 3, I, O].

    Returns:
      float[B, H, W, O].
    """
    return _plain(x, kernel)


def _convolve_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept

    def usual(x: Array, gradient: Array) -> Array:
        (found,) = jax.linear_transpose(lambda kernel: _plain(x, kernel), kernel)(gradient)
        return found

    (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel), x)(gradient)
    quick = _swapped if kernel.shape[2] > _FEW >= kernel.shape[3] else usual
    return of_x, jax.lax.platform_dependent(x, gradient, cpu=quick, default=usual)


convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), _convolve_backward)


class Convolution(nn.Module):
    """3 x 3 convolution whose kernels have norm `gain` and, if `centred`, mean 0.

    Scaled weight standardisation (Brock et al., 2021, arXiv 2101.08692, eq. 1): activations stay near unit variance
    without a normalisation of their own. So a pixel's result depends on nothing but the pixels around it, and contrast
    is not lost.
    """

    channels: int
    dtype: jnp.dtype
    centred: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.channels))
        gain = self.param("gain", nn.initializers.ones, (self.channels,))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        kernel = kernel - kernel.mean((0, 1, 2)) if self.centred else kernel
        kernel = kernel * (gain / jnp.sqrt((kernel**2).sum((0, 1, 2)) + 1e-6))
        return convolve(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)


class Block(nn.Module):
    """Two (or `layers`) convolutions.

    Activations outside the image are set to zero as a convolution's own padding is: so neither padding, nor the tile,
    nor the other images of the batch change a result.
    """

    channels: int
    layers: int
    dtype: jnp.dtype
    first: bool = False  # its input is the image, and centred kernels would see no brightness in a grey one

    @nn.compact
    def __call__(self, x: Array, inside: Array) -> Array:
        for layer in range(self.layers):
            x = Convolution(self.channels, self.dtype, centred=not self.first or layer > 0)(x)
            x = _GAIN * nn.leaky_relu(x) * inside
        return x


class Upsample(nn.Module):
    """Twice the height and width: a mix of the channels, repeated for 2 x 2 pixels (Odena et al. 2016).

    The convolution that follows does what a transposed one would, without its checkerboard.
    """

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, _ = x.shape
        x = nn.Dense(self.channels, dtype=self.dtype)(x)[:, :, None, :, None]
        return jnp.broadcast_to(x, (b, h, 2, w, 2, self.channels)).reshape(b, 2 * h, 2 * w, self.channels)


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

        def up(x: Array, level: int, task: str) -> Array:
            x = Upsample(widths[level], dtype, name=f"up{level}_{task}")(x)
            return jnp.concatenate([x * masks[level], skips[level]], axis=-1)

        def decode(x: Array, level: int, layers: int, task: str) -> Array:
            return Block(widths[level], layers, dtype, name=f"decoder{level}_{task}")(x, masks[level])

        # Centred and of unit spread, as the kernels expect.
        x = ((image - jnp.array(s.mean)) / jnp.array(s.std)).astype(dtype) * masks[0]
        skips = []
        for level in range(s.depth):
            x = Block(widths[level], 2, dtype, first=level == 0, name=f"encoder{level}")(x, masks[level])
            skips.append(x)
            x = _pool(x) if level < s.depth - 1 else x
        for level in range(s.depth - 2, s.own_levels - 1, -1):
            x = decode(up(x, level, "shared"), level, 2, "shared")
        own = min(s.own_levels, s.depth - 1)
        x = up(x, own - 1, "shared") if own else x
        outputs = []
        tasks = (("segmentation", self.classes + 1), ("approximation", self.classes), ("auxiliary", self.auxiliary))
        for task, channels in tasks:
            if not channels:  # no auxiliary task
                outputs.append(jnp.zeros((*image.shape[:3], 0)))
                continue
            y = x
            for level in range(own - 1, -1, -1):
                y = decode(y if level == own - 1 else up(y, level, task), level, 1, task)
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
