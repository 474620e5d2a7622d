"""From probabilities to objects: markers from the approximation or an auxiliary task, watershed on the segmentation."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from rams_jax.types import InstanceSettings, Predictions

_CROSS = ndi.generate_binary_structure(2, 1)  # 4-neighbours: one adjacency for components, maxima and watershed
_FLOOR = 0.01  # an approximation below this is one plain, so that noise around 0 makes no markers
_BORDER = 0.5  # from this probability on, a border ends an object's inside as the background does


def label_instances(
    predictions: Predictions, foreground: np.ndarray, settings: InstanceSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the foreground of one image into objects.

    A pixel belongs to the class with the largest foreground probability if that is at least `settings.threshold`. The
    height of a pixel is its approximation q, or what the `beginning` channels of the auxiliary tasks say instead,
    lowered where the `dividing` ones see a border, q (1 - s), times
    its distance to the nearest pixel outside the class or on a border (s >= 0.5), both smoothed. A maximum of the
    height becomes a marker if every way from it to a higher one descends by at least the share `marker_depth` of the
    maximum's own height. From the markers the foreground is divided by a watershed; every connected piece of it holds
    at least one marker. Holes that an object encloses are filled, except for the objects in them; objects smaller than
    `min_area`, holes included, are dropped. Deterministic; neighbours are 4-neighbours.

    Args:
      predictions: of one image, NumPy arrays [H, W, K], [H, W, K], [H, W, S]; S may be 0.
      foreground: float[H, W, K], the probability used as the segmentation.
      settings: threshold, marker_sigma in pixels, marker_depth in [0, 1), min_area in pixels, channels of S.

    Returns:
      int32[H, W], 0 = background, ids 1..J without gaps, the largest first; int32[J + 1], the class of each id.
    """
    foreground = np.asarray(foreground)
    approximation, auxiliary = np.asarray(predictions.approximation), np.asarray(predictions.auxiliary)
    separation = auxiliary[..., list(settings.dividing)].max(-1, initial=0.0)
    beginning = auxiliary[..., list(settings.beginning)]
    class_map = np.where(foreground.max(-1) >= settings.threshold, foreground.argmax(-1) + 1, 0)
    found = []
    for k in np.unique(class_map[class_map > 0]).tolist():
        mask = class_map == k
        inner = beginning.max(-1) if settings.beginning else approximation[..., k - 1]
        height = _height(inner, separation, mask, settings.marker_sigma)
        objects = watershed(-height, _markers(height, mask, settings.marker_depth), connectivity=1, mask=mask)
        for j, box in enumerate(ndi.find_objects(objects), start=1):
            filled = np.asarray(ndi.binary_fill_holes(objects[box] == j))
            found.append((int(filled.sum()), k, box, filled))
    # what lies in the hole of another object is smaller, so painted after it, and keeps its pixels
    kept = sorted((f for f in found if f[0] >= settings.min_area), key=lambda f: -f[0])
    instances = np.zeros(class_map.shape, np.int32)
    for j, (_, _, box, filled) in enumerate(kept, start=1):
        instances[box][filled] = j
    return instances, np.array([0] + [k for _, k, _, _ in kept], np.int32)


def _height(inner: np.ndarray, separation: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    # the depth separates touching objects where q is one plateau, q where the outline shows no neck
    inner = ndi.gaussian_filter((inner * (1 - separation)).astype(np.float64), sigma)
    depth = np.asarray(ndi.distance_transform_edt(np.pad(mask & (separation < _BORDER), 1)))[1:-1, 1:-1]
    depth = ndi.gaussian_filter(np.maximum(depth, 0.5 * mask), sigma)  # above 0 on borders, for the logarithm
    return np.maximum(inner, _FLOOR) * depth


def _markers(height: np.ndarray, mask: np.ndarray, depth: float) -> np.ndarray:
    """Maxima whose prominence is at least `depth` times their height: h-maxima of the logarithm."""
    step = -np.log1p(-max(depth, 1e-6))
    level = np.full(height.shape, -np.inf)
    level[mask] = np.log(height[mask])
    outside = level[mask].min() - step - 1
    level[~mask] = outside
    flat = reconstruction(np.where(mask, level - step, outside), level, footprint=_CROSS)
    # padded, because an image that is one plateau has no maxima
    maxima = np.asarray(local_maxima(np.pad(flat, 1, constant_values=outside), footprint=_CROSS))[1:-1, 1:-1]
    return np.asarray(label(maxima & mask, connectivity=1))
