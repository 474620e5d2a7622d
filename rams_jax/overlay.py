"""Outlines of the objects on the image, to see at a glance how an image was segmented."""

from __future__ import annotations

import io

import numpy as np
import scipy.ndimage as ndi
from PIL import Image
from skimage.segmentation import find_boundaries

from rams_jax.figures import grey_image

_LONGEST, _SHORTEST = 2048, 512  # larger images are shown smaller, smaller ones larger, by whole factors
# Of the classes 1, 2, ...: seen on dark and on light, and told apart by colour-blind eyes.
_COLOURS = np.array([(255, 176, 0), (86, 180, 233), (220, 38, 127), (0, 158, 115), (120, 94, 240)], np.uint8)


def overlay(image: np.ndarray, instances: np.ndarray, classes: np.ndarray) -> bytes:
    """A PNG of the image, its objects outlined in the colour of their class.

    Args:
      image: number[H, W, C], raw intensities; colour if C is 3, else the first channel in grey.
      instances: int[H, W], ids 1..J.
      classes: int[J + 1], class of each id.
    """
    step = -(-max(instances.shape) // _LONGEST)
    shown, labels = _means(image, step), instances[::step, ::step]
    grow = max(1, _SHORTEST // max(labels.shape))
    shown, labels = (np.repeat(np.repeat(x, grow, axis=0), grow, axis=1) for x in (shown, labels))
    pixels = grey_image(shown, np.ones(labels.shape, bool))
    edge = find_boundaries(labels, mode="thick")  # a pixel on either side
    nearest = ndi.maximum_filter(classes[labels], 3)
    pixels[edge] = _COLOURS[(nearest[edge] - 1) % len(_COLOURS)]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _means(image: np.ndarray, step: int) -> np.ndarray:
    """float32[ceil(H / step), ceil(W / step), C]: means of squares, of what there is of them at the lower right."""
    shape = tuple(-(-side // step) for side in image.shape[:2])
    means = np.empty((*shape, image.shape[2]), np.float32)
    for row in range(shape[0]):
        strip = image[row * step : (row + 1) * step].mean(axis=0, dtype=np.float32)
        sums = np.add.reduceat(strip, np.arange(0, strip.shape[0], step), axis=0)
        means[row] = sums / np.diff(np.append(np.arange(0, strip.shape[0], step), strip.shape[0]))[:, None]
    return means
