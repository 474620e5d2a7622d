"""Random crops with augmentation, in jit: one resampling per crop moves image and maps together.

Geometry (rotation, scale, aspect, flips, elastic displacement) is a single map from crop to image coordinates. The
image is read there bilinearly, maps by nearest neighbour. Intensities follow. Every method trains on the same crops.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rams_jax.types import AugmentSettings, Batch, DatasetState

Array = jax.Array


def _factor(key: Array, largest: float) -> Array:
    """Log-uniform in [1 / largest, largest]."""
    return jnp.exp(jax.random.uniform(key, minval=-1.0, maxval=1.0) * jnp.log(largest))


def crop_centre(key: Array, valid: Array, labelled: Array, foreground: float) -> Array:
    """A random pixel that was looked at: with probability `foreground` a labelled one, if there is any.

    Args:
      key: random key.
      valid: bool[H, W], the pixels that were looked at.
      labelled: bool[H, W].
      foreground: probability.

    Returns:
      float32[2]: row and column.
    """
    choose, draw = jax.random.split(key)
    candidates = jnp.where((jax.random.uniform(choose) < foreground) & labelled.any(), labelled, valid)
    noise = jax.random.uniform(draw, valid.shape)
    position = jnp.argmax(jnp.where(candidates, noise, -1.0))
    return jnp.stack([position // valid.shape[1], position % valid.shape[1]]).astype(jnp.float32)


def coordinates(key: Array, centre: Array, settings: AugmentSettings) -> Array:
    """Where each pixel of a crop is read in the image.

    Args:
      key: random key.
      centre: float32[2], pixels.
      settings: what to draw.

    Returns:
      float32[crop, crop, 2]: row and column, pixels; may lie outside the image.
    """
    keys = jax.random.split(key, 5)
    side = settings.crop
    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(side) - side // 2.0,) * 2, indexing="ij"), axis=-1)
    nodes = max(2, side // settings.elastic_grid + 1)
    displacement = settings.elastic * jax.random.normal(keys[4], (nodes, nodes, 2))
    grid = grid + jax.image.resize(displacement, (side, side, 2), "cubic")
    angle = jnp.deg2rad(settings.rotation) * jax.random.uniform(keys[0], minval=-1.0, maxval=1.0)
    aspect = jnp.sqrt(_factor(keys[2], settings.aspect))
    scale = _factor(keys[1], settings.scale) * jnp.stack([aspect, 1 / aspect])
    flip = jnp.where(settings.flip & jax.random.bernoulli(keys[3], shape=(2,)), -1.0, 1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = jnp.array([[cos, -sin], [sin, cos]])
    return centre + (grid * scale * flip) @ rotation.T


def read_maps(maps: Array, where: Array) -> Array:
    """Nearest neighbour; 0 (False) outside.

    Args:
      maps: [H, W, M], any dtype.
      where: float32[h, w, 2].

    Returns:
      [h, w, M].
    """
    height, width = maps.shape[:2]
    row, column = jnp.moveaxis(jnp.floor(where + 0.5).astype(jnp.int32), -1, 0)
    known = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    values = maps[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(known[..., None], values, jnp.zeros_like(values))


def read_image(image: Array, where: Array) -> Array:
    """Bilinear; the nearest edge outside.

    Args:
      image: float32[H, W, C].
      where: float32[h, w, 2].

    Returns:
      float32[h, w, C].
    """
    height, width = image.shape[:2]
    limit = jnp.array([height - 1, width - 1], jnp.float32)
    where = jnp.clip(where, 0.0, limit)
    low = jnp.floor(where).astype(jnp.int32)
    high = jnp.minimum(low + 1, limit.astype(jnp.int32))
    part = (where - low)[..., None, :]
    top = image[low[..., 0], low[..., 1]] * (1 - part[..., 1]) + image[low[..., 0], high[..., 1]] * part[..., 1]
    bottom = image[high[..., 0], low[..., 1]] * (1 - part[..., 1]) + image[high[..., 0], high[..., 1]] * part[..., 1]
    return top * (1 - part[..., 0]) + bottom * part[..., 0]


def _blur(image: Array, sigma: Array) -> Array:
    """Separable Gaussian of at most 2 pixels' radius; `sigma` 0 leaves the image as it is."""
    offsets = jnp.arange(-2.0, 3.0)
    kernel = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (0, 1):
        padded = jnp.pad(image, [(2, 2) if a == axis else (0, 0) for a in range(3)], mode="edge")
        length = image.shape[axis]
        taps = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(5)]
        image = jnp.stack([kernel[i] * tap for i, tap in enumerate(taps)]).sum(0)
    return image


def intensities(key: Array, image: Array, settings: AugmentSettings) -> Array:
    """Random blur, contrast, brightness and noise; contrast and brightness act on each channel by itself.

    Args:
      key: random key.
      image: float32[h, w, C].
      settings: what to draw.

    Returns:
      float32[h, w, C].
    """
    keys = jax.random.split(key, 5)
    channels = image.shape[-1]
    image = _blur(image, settings.blur * jax.random.uniform(keys[0]))
    mean = image.mean((0, 1), keepdims=True)
    contrast = jnp.exp(jax.random.uniform(keys[1], (channels,), minval=-1, maxval=1) * jnp.log(settings.contrast))
    brightness = jnp.array(settings.brightness) * jax.random.uniform(keys[2], (channels,), minval=-1.0, maxval=1.0)
    noise = jnp.array(settings.noise) * jax.random.uniform(keys[3]) * jax.random.normal(keys[4], image.shape)
    return (image - mean) * contrast + mean + brightness + noise


def crop(key: Array, data: DatasetState, index: Array, settings: AugmentSettings) -> Batch:
    """One augmented crop of image `index`, without a batch axis."""
    centre_key, shape_key, value_key = jax.random.split(key, 3)
    full, current, partial = data.full[index], data.masks.current[index], data.partial[index]
    inside, valid = data.inside[index], data.valid[index]
    centre = crop_centre(centre_key, valid, (full > 0) | (partial > 0), settings.foreground)
    where = coordinates(shape_key, centre, settings)
    stacked = jnp.stack([full, partial, current, inside.astype(jnp.int16), valid.astype(jnp.int16)], axis=-1)
    maps = read_maps(stacked, where).astype(jnp.int32)
    classes = data.classes[index]
    image = intensities(value_key, read_image(data.image[index], where), settings)
    known = maps[..., 3] > 0
    return Batch(
        image=jnp.where(known[..., None], image, 0.0),
        inside=known,
        valid=maps[..., 4] > 0,
        full=classes[maps[..., 0]],
        partial=classes[maps[..., 1]],
        current=jnp.where(maps[..., 2] < 0, -1 - classes[-1 - maps[..., 2]], classes[jnp.maximum(maps[..., 2], 0)]),
        auxiliary=read_maps(data.auxiliary[index], where),
        strong=data.strong[index],
        complete=data.complete[index],
        slot=index,
    )


def sample(key: Array, data: DatasetState, slots: Array, count: Array, crops: int, settings: AugmentSettings) -> Batch:
    """`crops` augmented crops of images drawn at random among the first `count` of `slots`.

    Args:
      key: random key.
      data: one shard's images.
      slots: int32[M], positions of the images.
      count: int32[].
      crops: number of crops, B.
      settings: what to draw.

    Returns:
      Batch of B crops.
    """
    choose, draw = jax.random.split(key)
    index = slots[jax.random.randint(choose, (crops,), 0, jnp.maximum(count, 1))]
    return jax.vmap(crop, in_axes=(0, None, 0, None))(jax.random.split(draw, crops), data, index, settings)
