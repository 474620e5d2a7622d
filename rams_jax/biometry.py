"""The circumference of a head from an instance map, and how it agrees with what a person measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.measure import regionprops


def perimeter(a: float, b: float) -> float:
    """Of an ellipse, by Ramanujan's second formula.

    pi (a + b) (1 + 3 h / (10 + sqrt(4 - 3 h))) with h = ((a - b) / (a + b))^2.
    S. Ramanujan, "Modular equations and approximations to pi", Quart. J. Pure Appl. Math. 45 (1914) 350-372. The
    relative error is below 4e-4 for any ellipse, and below 1e-9 where b > a / 2.

    Args:
      a: one semi-axis, not negative.
      b: the other one, of the same unit; not both are 0.
    """
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def circumference(instances: np.ndarray, pixel_size: float) -> float:
    """Of the ellipse with the second moments of the largest connected foreground, its holes filled.

    Objects that touch are one here: a head may have been cut in two.

    Args:
      instances: int[H, W], 0 = background.
      pixel_size: micrometres.

    Returns:
      Millimetres; NaN where there is no object.
    """
    pieces, count = ndimage.label(instances > 0, np.ones((3, 3)))
    if count == 0:
        return math.nan
    largest = ndimage.binary_fill_holes(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
    (region,) = regionprops(largest.astype(np.uint8))
    return perimeter(region.axis_major_length / 2, region.axis_minor_length / 2) * pixel_size / 1000


def agreement(measured: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """How well two ways to measure agree, by the differences d = measured - reference.

    J. M. Bland, D. G. Altman, "Statistical methods for assessing agreement between two methods of clinical
    measurement", The Lancet 327 (1986) 307-310. The limits hold 95 % of the differences if those are independent and
    normal.

    Args:
      measured: N values; those that are NaN are counted as missed and left out of everything else.
      reference: N values of the same unit.

    Returns:
      images (N), missed, mean_absolute_error (of d), bias (mean of d), deviation (standard deviation of d, with N - 1),
      lower and upper limit of agreement (bias -+ 1.96 deviations). What too few values do not tell is NaN.
    """
    differences = np.subtract(measured, reference)
    found = differences[~np.isnan(differences)]
    bias = float(found.mean()) if len(found) else math.nan
    deviation = float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return {
        "images": len(differences),
        "missed": len(differences) - len(found),
        "mean_absolute_error": float(np.abs(found).mean()) if len(found) else math.nan,
        "bias": bias,
        "deviation": deviation,
        "lower": bias - 1.96 * deviation,
        "upper": bias + 1.96 * deviation,
    }
