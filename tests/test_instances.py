"""Instances from drawn probabilities: how many, where the cut goes, and what is left out."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage as ndi

from rams_jax.instances import label_instances
from rams_jax.metrics import aji_counts
from rams_jax.types import InstanceSettings, Predictions

SETTINGS = InstanceSettings(threshold=0.5, marker_sigma=2.0, marker_depth=0.1, min_area=10, dividing=(), beginning=())


def disc(centre, radius, shape=(64, 96), stretch=1.0):
    row, column = np.ogrid[: shape[0], : shape[1]]
    return (row - centre[0]) ** 2 + ((column - centre[1]) / stretch) ** 2 <= radius**2


def label(foreground, inner=None, separation=None, **settings):
    """One class, or [H, W, K]; the approximation is the foreground unless given; no auxiliary task unless given."""
    foreground = np.float32(foreground)
    inner = foreground if inner is None else np.float32(inner)
    if foreground.ndim == 2:
        foreground, inner = foreground[..., None], inner[..., None]
    auxiliary = np.zeros((*foreground.shape[:2], 0), np.float32) if separation is None else separation[..., None]
    predictions = Predictions(foreground, inner, auxiliary)
    settings = {"dividing": tuple(range(auxiliary.shape[-1])), **settings}
    return label_instances(predictions, foreground, dataclasses.replace(SETTINGS, **settings))


def test_two_touching_discs_on_a_plateau():
    left, right = disc((32, 40), 10), disc((32, 56), 10)  # they share the columns 46 to 50
    instances, classes = label(left | right)
    assert classes.tolist() == [0, 1, 1]
    assert instances.dtype == classes.dtype == np.int32
    np.testing.assert_array_equal(instances > 0, left | right)
    # by symmetry the cut is at column 48: every pixel left of it is one object, every pixel right of it the other
    for side, j in ((np.s_[:, :48], instances[32, 40]), (np.s_[:, 49:], instances[32, 56])):
        assert set(np.unique(instances[side]).tolist()) == {0, j}


def test_two_bumps_cut_an_outline_without_a_neck():
    foreground, inner = np.zeros((64, 96)), np.zeros((64, 96))
    foreground[20:44, 20:70] = 1
    inner[24:40, 24:42] = inner[24:40, 48:66] = 1  # the gap's middle is column 44.5
    instances, _ = label(foreground, inner)
    assert instances.max() == 2
    assert len(np.unique(instances[20:44, 20:44])) == len(np.unique(instances[20:44, 46:70])) == 1


def test_interiors_take_the_place_of_the_approximation():
    foreground, auxiliary = np.zeros((64, 96)), np.zeros((64, 96), np.float32)
    foreground[20:44, 20:70] = 1  # the approximation is this plateau too
    auxiliary[24:40, 24:42] = auxiliary[24:40, 48:66] = 1  # the gap's middle is column 44.5
    assert label(foreground, separation=auxiliary, dividing=())[0].max() == 1
    instances, _ = label(foreground, separation=auxiliary, dividing=(), beginning=(0,))
    assert instances.max() == 2
    assert len(np.unique(instances[20:44, 20:44])) == len(np.unique(instances[20:44, 46:70])) == 1


def test_a_predicted_interface_cuts():
    foreground, separation = np.zeros((64, 96)), np.zeros((64, 96), np.float32)
    foreground[20:44, 20:70] = 1
    assert label(foreground, separation=separation)[0].max() == 1
    separation[:, 44:46] = 1
    assert label(foreground, separation=separation)[0].max() == 2


def test_a_doubtful_interface_lowers_and_a_likely_one_ends_the_inside():
    foreground, separation = np.zeros((64, 96)), np.zeros((64, 96), np.float32)
    foreground[20:44, 20:70] = 1
    separation[:, 42:48] = 0.45  # q sinks to 0.55 there, blurred to about 0.6
    assert label(foreground, separation=separation, marker_depth=0.2)[0].max() == 2
    separation[:] = 0
    separation[:, 45] = 0.6  # blurred, q sinks by 0.6 x 0.2 = 0.12 only; but the depth falls from 12 to about 2
    assert label(foreground, separation=separation, marker_depth=0.3)[0].max() == 2


@pytest.mark.parametrize("shape", [disc((32, 48), 7, stretch=4), disc((32, 48), 20), disc((0, 0), 30)])
def test_one_convex_object_stays_one(shape):
    instances, _ = label(shape)
    np.testing.assert_array_equal(instances, shape)


def test_a_ragged_disc_with_a_noisy_approximation_stays_one():
    noise = ndi.gaussian_filter(np.random.default_rng(0).normal(size=(64, 96)), 2)
    noise /= noise.std()
    inside = disc((32, 48), 20)
    depth = ndi.distance_transform_edt(inside) - ndi.distance_transform_edt(~inside)
    foreground = ndi.label(depth + noise > 0)[0] == 1
    assert label(foreground, (0.6 + 0.05 * noise) * foreground)[0].max() == 1


def test_depth_is_relative_to_the_height():
    left, right = disc((32, 40), 10), disc((32, 56), 10)
    for scale in (1.0, 0.1):  # an approximation that is everywhere ten times smaller cuts the same
        assert label(left | right, scale * (left | right))[0].max() == 2
    assert label(left | right, marker_depth=0.6)[0].max() == 1


def test_the_depth_of_a_marker_worked():
    # in an image of one row every pixel is 1 from the outside, so unsmoothed heights are q: the maximum 0.8 sinks to
    # 0.4, half of its height, before it meets 1.0
    inner = np.array([[0.6, 0.8, 0.4, 0.7, 1.0]])
    for depth, count in ((0.49, 2), (0.51, 1)):
        assert label(np.ones((1, 5)), inner, marker_sigma=0.0, marker_depth=depth, min_area=0)[0].max() == count


def test_a_certain_interface_without_smoothing_is_finite_and_stays_object():
    separation = np.array([[0, 0, 1, 0, 0]], np.float32)
    with np.errstate(all="raise"):
        instances, _ = label(np.ones((1, 5)), separation=separation, marker_sigma=0.0, min_area=0)
    assert instances.min() == 1
    assert instances.max() == 2


def test_pieces_without_approximation_are_one_object_each():
    instances, classes = label(disc((20, 20), 8) | disc((40, 60), 8), np.zeros((64, 96)))
    assert classes.tolist() == [0, 1, 1]
    assert instances[20, 20] != instances[40, 60]


def test_diagonal_pieces_are_apart():
    foreground = np.zeros((20, 20))
    foreground[2:8, 2:8] = foreground[8:14, 8:14] = 1
    assert label(foreground)[0].max() == 2


def test_small_objects_are_dropped_and_ids_have_no_gaps():
    foreground = np.zeros((40, 40))
    foreground[2:5, 2:5] = 1  # 9 pixels
    foreground[20:25, 20:22] = 1  # 10
    foreground[30:36, 4:10] = 1
    instances, classes = label(foreground)
    assert classes.tolist() == [0, 1, 1]
    assert np.unique(instances, return_counts=True)[1].tolist() == [1600 - 46, 36, 10]
    assert instances[3, 3] == 0


def test_holes_are_filled_but_not_with_another_class():
    foreground = np.zeros((64, 96, 2))
    foreground[..., 0] = disc((32, 48), 20) & ~disc((32, 48), 5)
    assert np.array_equal(label(foreground[..., 0])[0] == 1, disc((32, 48), 20))
    foreground[..., 1] = disc((32, 48), 4)
    instances, classes = label(foreground)
    assert classes.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(instances == 2, disc((32, 48), 4))
    np.testing.assert_array_equal(instances == 1, disc((32, 48), 20) & ~disc((32, 48), 4))


def test_a_speck_in_a_hole_is_filled_and_nested_rings_keep_their_holes():
    foreground = np.zeros((64, 96, 2))
    foreground[..., 0] = disc((32, 48), 20) & ~disc((32, 48), 15)
    foreground[..., 1] = disc((32, 48), 10) & ~disc((32, 48), 5)
    foreground[32, 47:50, 0] = 1  # 3 pixels
    instances, classes = label(foreground, marker_sigma=0.0, marker_depth=0.9)  # low ridges: one marker a ring
    assert classes.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(instances == 2, disc((32, 48), 10))
    np.testing.assert_array_equal(instances == 1, disc((32, 48), 20) & ~disc((32, 48), 10))


def test_a_pixel_has_the_class_with_the_larger_probability():
    foreground = np.zeros((64, 96, 2))
    foreground[10:50, 10:50, 0] = 0.6
    foreground[10:50, 30:70, 1] = 0.8
    foreground[10:50, 75:90, 1] = 0.49
    instances, classes = label(foreground)
    assert classes.tolist() == [0, 2, 1]  # the larger one first
    np.testing.assert_array_equal(instances[10:50, 10:70], np.repeat([[2] * 20 + [1] * 40], 40, axis=0))
    assert (instances > 0).sum() == 40 * 60


def test_the_threshold_itself_is_object():
    assert label(np.full((8, 8), 0.5))[0].min() == 1
    assert label(np.full((8, 8), 0.499))[0].max() == 0


def test_a_flat_image_full_of_one_object_is_one_object():
    instances, classes = label(np.ones((1, 5)), marker_sigma=0.0, min_area=0)
    assert instances.tolist() == [[1] * 5]
    assert classes.tolist() == [0, 1]


def test_no_foreground():
    instances, classes = label(np.zeros((8, 9)))
    assert instances.shape == (8, 9)
    assert instances.max() == 0
    assert classes.tolist() == [0]


def test_every_object_is_connected_by_4_neighbours():
    noise = ndi.gaussian_filter(np.random.default_rng(0).normal(size=(80, 80)), 1)
    instances, _ = label(noise > 0.01, min_area=0)
    assert instances.max() > 20
    assert all(ndi.label(instances == j)[1] == 1 for j in range(1, instances.max() + 1))


def test_transposing_the_image_transposes_the_objects():
    rng = np.random.default_rng(3)
    foreground = ndi.gaussian_filter(rng.normal(size=(80, 60)), 4)
    foreground = 1 / (1 + np.exp(-40 * foreground))
    one, other = label(foreground)[0], label(foreground.T)[0].T
    assert one.max() == other.max() > 5
    # flooding order decides pixels at equal height, so only nearly all agree
    assert aji_counts(one, other).aji > 0.97
