"""Sizes, shapes and intensities of the objects of an image, as columns of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.measure import regionprops_table

_PROPERTIES = {
    "label": "id",
    "area": "area_px",
    "axis_major_length": "major_axis_px",
    "axis_minor_length": "minor_axis_px",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "centroid-0": "centroid_row_px",
    "centroid-1": "centroid_column_px",
}


def measure(
    instances: np.ndarray,
    image: np.ndarray,
    classes: np.ndarray,
    class_names: Sequence[str],
    pixel_size: float | None,
) -> dict[str, list]:
    """One row an object, by scikit-image's `regionprops`, whose documentation defines the measures.

    Args:
      instances: int[H, W], ids 1..J.
      image: number[H, W, C], raw intensities.
      classes: int[J + 1], class of each id.
      class_names: names of the classes 1..K.
      pixel_size: micrometres; None: unknown, and what is in micrometres stays empty.

    Returns:
      Columns of J values by name: `id`, `class`; `area_px`, `area_um2`; axes of the ellipse with the same moments and
      the centroid, ending in `_px` and `_um`, where 0 is the middle of the first pixel; `eccentricity` and `solidity`,
      from 0 to 1; `mean_intensity_c` and `max_intensity_c` of each channel c from 0 up.
    """
    names = ["label", "area", "axis_major_length", "axis_minor_length", "eccentricity", "solidity", "centroid"]
    intensity = image.astype(np.uint8) if image.dtype == bool else image
    found = regionprops_table(instances, intensity, properties=[*names, "intensity_mean", "intensity_max"])
    table: dict[str, list] = {}
    for theirs, ours in _PROPERTIES.items():
        values = found[theirs].astype(int) if ours in ("id", "area_px") else found[theirs]
        table[ours] = values.tolist()
        if ours == "id":
            table["class"] = [class_names[classes[j] - 1] for j in values]
        if ours.endswith("_px"):
            power, ending = (2, "_um2") if ours == "area_px" else (1, "_um")
            scaled = [None if pixel_size is None else value * pixel_size**power for value in values.tolist()]
            table[ours.removesuffix("_px") + ending] = scaled
    for c in range(image.shape[2]):
        for measure_name in ("mean", "max"):
            table[f"{measure_name}_intensity_{c}"] = found[f"intensity_{measure_name}-{c}"].tolist()
    return table
