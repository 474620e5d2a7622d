"""What is measured of objects, worked out by hand."""

import numpy as np
import pytest

from rams_jax.measure import measure


def test_measurements_of_shapes_worked_out_by_hand():
    instances = np.zeros((30, 40), np.int32)
    instances[4:10, 5:25] = 1  # 6 x 20 pixels; centroid (6.5, 14.5)
    instances[20, 30] = 2
    image = np.zeros((30, 40, 2), np.uint16)
    image[4:10, 5:25, 0] = 100
    image[4, 5, 0] = 700
    image[20, 30, 1] = 9
    table = measure(instances, image, np.array([0, 2, 1]), ["round", "long"], 0.5)
    assert table["id"] == [1, 2] and table["class"] == ["long", "round"]
    assert table["area_px"] == [120, 1] and table["area_um2"] == [30.0, 0.25]
    assert table["centroid_row_px"] == [6.5, 20.0] and table["centroid_column_um"] == [7.25, 15.0]
    # the ellipse of the same moments: a row of n pixels has the variance (n^2 - 1) / 12, of which skimage adds 1 / 12
    # for the extent of a pixel; the axis is 4 standard deviations
    assert table["major_axis_px"][0] == pytest.approx(4 * np.sqrt(20**2 / 12), rel=0.01)
    assert table["minor_axis_px"][0] == pytest.approx(4 * np.sqrt(6**2 / 12), rel=0.03)
    assert table["major_axis_um"][0] == pytest.approx(table["major_axis_px"][0] / 2)
    assert table["eccentricity"][0] == pytest.approx(np.sqrt(1 - 6**2 / 20**2), abs=0.01)
    assert table["solidity"] == [1.0, 1.0]
    assert table["mean_intensity_0"] == [105.0, 0.0] and table["max_intensity_0"] == [700.0, 0.0]
    assert table["max_intensity_1"] == [0.0, 9.0]
    unknown = measure(instances, image, np.array([0, 2, 1]), ["round", "long"], None)
    assert unknown["area_um2"] == [None, None] and unknown["area_px"] == [120, 1]
    nothing = measure(np.zeros((5, 5), np.int32), image[:5, :5] > 0, np.zeros(1, int), ["a"], 1.0)
    assert set(nothing) == set(table) and all(len(column) == 0 for column in nothing.values())
