"""Probabilities of images: small ones as a whole, large ones in overlapping tiles."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rams_jax.model import MultiTaskUNet, forward, multiple, predictions
from rams_jax.types import ModelSettings, Predictions

_SIDE = 640  # of a tile, pixels, unless the margins would be most of it
_STEP = 64  # to which the sides of small images are padded, so that a thousand sizes are not compiled a thousand times


class TileError(ValueError):
    """Tiles of this size cannot be; the message is one sentence that says which can."""


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


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Overlapping tiles that cover an image; in pixels, all multiples of `model.multiple`."""

    side: int  # the largest
    margin: int  # of a tile on every side, seen by the network but weighted 0: no less than `receptive_radius`
    overlap: int  # between the margins, over which the weight goes from one tile to the next

    @property
    def stride(self) -> int:
        """Pixels from one tile to the next."""
        return self.side - 2 * self.margin - self.overlap


def receptive_radius(settings: ModelSettings) -> int:
    """How far away an input pixel can be, in rows or columns, and still change an output pixel.

    Follows the rows that an output row depends on back through `MultiTaskUNet`: a 3 x 3 convolution adds a row on both
    sides, and row i of a level is made of, or becomes, rows 2 i and 2 i + 1 of the next finer one. No layer normalises
    over pixels, so nothing else reaches further.
    """
    radius = 0
    for row in range(multiple(settings)):  # the place on the grid of the coarsest level matters
        low = high = row
        for level in range(settings.depth - 1):
            layers = 1 if level < settings.own_levels else 2
            low, high = (low - layers) // 2, (high + layers) // 2
        low, high = low - 2, high + 2
        for _ in range(settings.depth - 1):
            low, high = 2 * low - 2, 2 * high + 1 + 2
        radius = max(radius, row - low, high - row)
    return radius


def tiling(settings: ModelSettings, side: int = 0) -> Tiling:
    """Tiles for a network: of `side` pixels or a little more, or by default (0) of 640, or 8 margins if that is more.

    Raises:
      TileError: the tiles would be all margin.
    """
    step = multiple(settings)
    margin = -(-receptive_radius(settings) // step) * step
    overlap = max(step, 16)  # a multiple, both being powers of 2
    side = -(-(side or max(_SIDE, 8 * margin)) // step) * step
    if side < 2 * margin + 3 * overlap:
        raise TileError(
            f"Tiles of {side} pixels are too small for a network that looks {receptive_radius(settings)} pixels far; "
            f"take at least {2 * margin + 3 * overlap}."
        )
    return Tiling(side, margin, overlap)


def predict_rows(
    model: MultiTaskUNet,
    params: Any,
    read: Callable[[slice, slice], np.ndarray],
    shape: tuple[int, int],
    tiles: Tiling,
) -> Iterator[np.ndarray]:
    """The three tasks' probabilities of one image of any size, from top to bottom, in memory for a row of tiles.

    A tile's margin has weight 0 and is as wide as the network can see, so that every pixel that counts has seen what it
    would see in the whole image; between the margins the weights of neighbours cross over linearly and add up to 1. The
    result is that of the whole image but for rounding. All tiles of an image have one shape, of multiples of 64 pixels,
    so that the network is compiled seldom. An image that fits into a tile goes through as a whole.

    Args:
      model: the network.
      params: its parameters.
      read: gives float32[h, w, C], normalised, of the rows and columns asked for; they lie inside the image.
      shape: H, W of the image.
      tiles: of `tiling(model.settings)`; the largest allowed.

    Yields:
      float32[h, W, 2 K + S], p and q and s side by side; all h add up to H. See `split_tasks`.
    """
    height, width = shape
    step = max(_STEP, multiple(model.settings))
    if max(shape) <= tiles.side:
        whole = (-(-height // step) * step, -(-width // step) * step)
        yield _predict_tile(model, params, read, shape, (0, 0), whole)[:height, :width]
        return
    down, across = (_fit(tiles, length, step) for length in shape)
    carried = None
    for i in range(down.count):
        band: np.ndarray | None = None
        for j in range(across.count):
            corner = (i * down.stride - tiles.margin, j * across.stride - tiles.margin)
            found = _predict_tile(model, params, read, shape, corner, (down.side, across.side))
            found = found[tiles.margin : -tiles.margin, tiles.margin : -tiles.margin]
            if band is None:
                columns = across.count * across.stride + tiles.overlap
                band = np.zeros((found.shape[0], columns, found.shape[2]), np.float32)
            weights = np.outer(*(axis.weights(place, tiles.overlap) for axis, place in ((down, i), (across, j))))
            band[:, j * across.stride :][:, : found.shape[1]] += found * weights[..., None]
        assert band is not None
        if carried is not None:
            band[: tiles.overlap] += carried
        carried = band[down.stride :]
        yield band[: down.stride if i < down.count - 1 else height - i * down.stride, :width]


def split_tasks(stacked: np.ndarray, classes: int) -> Predictions:
    """What `predict_rows` yields as `Predictions`, without a copy."""
    return Predictions(stacked[..., :classes], stacked[..., classes : 2 * classes], stacked[..., 2 * classes :])


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Tiles along one axis of an image."""

    count: int
    side: int
    stride: int

    def weights(self, place: int, overlap: int) -> np.ndarray:
        """float32[stride + overlap]: of a tile between its margins; the ends of the image have no partner."""
        weights = np.ones(self.stride + overlap, np.float32)
        ramp = ((np.arange(overlap) + 0.5) / overlap).astype(np.float32)
        if place > 0:
            weights[:overlap] = ramp
        if place < self.count - 1:
            weights[-overlap:] = 1 - ramp
        return weights


def _fit(tiles: Tiling, length: int, step: int) -> _Axis:
    """As few tiles as possible, and these as small as possible, in steps."""
    around = tiles.overlap + 2 * tiles.margin
    count = max(1, -(-(length - tiles.overlap) // tiles.stride))
    side = min(tiles.side, -(-(-(-(length - tiles.overlap) // count) + around) // step) * step)
    return _Axis(count, side, side - around)


def _predict_tile(
    model: MultiTaskUNet,
    params: Any,
    read: Callable[[slice, slice], np.ndarray],
    shape: tuple[int, int],
    corner: tuple[int, int],
    sides: tuple[int, int],
) -> np.ndarray:
    """float32[h, w, 2 K + S] of a tile that may hang over the edges of the image; what hangs over is padding."""
    spans = [slice(max(0, c), min(n, c + side)) for n, c, side in zip(shape, corner, sides, strict=True)]
    rows, columns = (slice(span.start - c, span.stop - c) for span, c in zip(spans, corner, strict=True))
    pixels = read(*spans)
    image = np.zeros((1, *sides, pixels.shape[-1]), np.float32)
    inside = np.zeros((1, *sides), bool)
    image[0, rows, columns], inside[0, rows, columns] = pixels, True
    found = _apply(model, params, jnp.asarray(image), jnp.asarray(inside))
    return np.concatenate([np.asarray(x[0]) for x in jax.tree.leaves(found)], axis=-1)
