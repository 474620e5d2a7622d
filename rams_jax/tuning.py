"""Settings of the instance step, chosen on the validation images once a network is trained.

A network that has seen few outlines is seldom sure at 0.5, and markers must be as smooth as the objects are large. The
thresholds of StarDist are chosen in the same way (Schmidt et al., MICCAI 2018).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rams_jax.evaluate import score_pixels, score_shapes
from rams_jax.instances import label_instances
from rams_jax.types import Example, InstanceSettings, Predictions

THRESHOLDS = (0.5, 0.45, 0.55, 0.4, 0.6, 0.35, 0.65, 0.3, 0.7, 0.25, 0.75, 0.2, 0.8)
SIGMAS = (1.0, 0.5, 2.0, 3.0)  # relative to the one given
DEPTHS = (0.1, 0.2, 0.35)


def tune(
    examples: Sequence[Example],
    predictions: Sequence[Predictions],
    foregrounds: Sequence[np.ndarray],
    settings: InstanceSettings,
) -> InstanceSettings:
    """The settings with the best scores: first the threshold by pixel Dice, then the markers by AJI.

    Where several do equally well the given marker settings stay, and the threshold nearest to 0.5.

    Args:
      examples: N images with full masks.
      predictions: of each, as `label_instances` takes them.
      foregrounds: float[H, W, K] of each, the probability used as the segmentation.
      settings: where the search begins; `min_area` and the channels stay.
    """

    def dice(threshold: float) -> float:
        found = [np.where(f.max(-1) >= threshold, f.argmax(-1) + 1, 0) for f in foregrounds]
        return score_pixels(examples, found, foregrounds[0].shape[-1])

    settings = dataclasses.replace(settings, threshold=max(THRESHOLDS, key=dice))

    def aji(candidate: InstanceSettings) -> float:
        found = [label_instances(p, f, candidate) for p, f in zip(predictions, foregrounds, strict=True)]
        return score_shapes(examples, [f[0] for f in found], [f[1] for f in found], foregrounds[0].shape[-1])

    candidates = [settings] + [
        dataclasses.replace(settings, marker_sigma=factor * settings.marker_sigma, marker_depth=depth)
        for factor in SIGMAS
        for depth in DEPTHS
    ]
    return max(candidates, key=aji)
