"""Settings of the instance step, chosen on the validation images once a network is trained.

A network that has seen few outlines is seldom sure at 0.5, and markers must be as smooth as the objects are large. The
thresholds of StarDist are chosen in the same way (Schmidt et al., MICCAI 2018). Validation images are few, so a setting
moves only as far as they agree on (ours): the rule of one standard error (Breiman et al. 1984, section 3.4.3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rams_jax.evaluate import pixel_sums, pooled, shape_sums
from rams_jax.instances import label_instances
from rams_jax.types import Example, InstanceSettings, Predictions

THRESHOLDS = tuple(round(0.2 + 0.05 * i, 2) for i in range(13))
SIGMAS = (1.0, 0.5, 2.0, 3.0)  # relative to the one given
DEPTHS = (0.1, 0.2, 0.35)


def tune(
    examples: Sequence[Example],
    predictions: Sequence[Predictions],
    foregrounds: Sequence[np.ndarray],
    settings: InstanceSettings,
) -> InstanceSettings:
    """First the threshold by pixel Dice, then the markers by AJI: of all that do as well as the best within a standard
    error, the threshold nearest to the given one, and the first markers in the order tried, the given ones before all.
    A single image moves nothing.

    Args:
      examples: N images with full masks.
      predictions: of each, as `label_instances` takes them.
      foregrounds: float[H, W, K] of each, the probability used as the segmentation.
      settings: what was given; `min_area` and the channels stay.
    """
    classes = foregrounds[0].shape[-1]

    def pixels(threshold: float) -> np.ndarray:
        found = [np.where(f.max(-1) >= threshold, f.argmax(-1) + 1, 0) for f in foregrounds]
        return pixel_sums(examples, found, classes)

    near = sorted({*THRESHOLDS, settings.threshold}, key=lambda t: abs(t - settings.threshold))
    settings = dataclasses.replace(settings, threshold=near[first_as_good([pixels(t) for t in near])])

    def shapes(candidate: InstanceSettings) -> np.ndarray:
        found = [label_instances(p, f, candidate) for p, f in zip(predictions, foregrounds, strict=True)]
        return shape_sums(examples, [f[0] for f in found], [f[1] for f in found], classes)

    others = [
        dataclasses.replace(settings, marker_sigma=factor * settings.marker_sigma, marker_depth=depth)
        for factor in SIGMAS
        for depth in DEPTHS
    ]
    candidates = list(dict.fromkeys([settings, *others]))
    return candidates[first_as_good([shapes(c) for c in candidates])]


def first_as_good(sums: Sequence[np.ndarray]) -> int:
    """The first of several scores that is within a standard error of the best.

    Args:
      sums: int[N, K, 2] of each, as `pooled` takes them, of the same N images. The standard error is that of the
        difference to the best, by the jackknife over images; of one image it is infinite.
    """
    scores = [pooled(s) for s in sums]
    best = sums[int(np.argmax(scores))]
    count = len(best)

    def behind(candidate: np.ndarray) -> bool:
        without = [pooled(np.delete(best, i, axis=0)) - pooled(np.delete(candidate, i, axis=0)) for i in range(count)]
        error = math.sqrt((count - 1) * np.var(without)) if count > 1 else math.inf
        return pooled(best) - pooled(candidate) > error

    return next(i for i, candidate in enumerate(sums) if not behind(candidate))
