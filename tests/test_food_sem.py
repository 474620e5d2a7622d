import pathlib

import numpy as np
import pytest
from scipy import ndimage

from rams_jax import datasets
from rams_jax.annotations import check_example
from rams_jax.datasets import food_sem
from rams_jax.datasets.food_sem import BUBBLE, ICE, Scene
from rams_jax.types import MarkSettings

NAMES = [f"simulated_train_{i:02d}" for i in range(8)]
EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def images():
    return [food_sem.simulate(name) for name in NAMES]


def flat(shape=(128, 128)):
    return np.zeros(shape, np.int32), np.zeros(1, np.int32), np.zeros(shape), np.ones(shape)


def mean_signal(scene, times=24):
    """Over several detectors, shadings and lines that jump."""
    return np.mean([food_sem.illuminate(scene, np.random.default_rng(i)) for i in range(times)], axis=0)


def test_an_image_depends_on_its_name_alone(images):
    again = food_sem.simulate(NAMES[3])
    for a, b in zip(images[3], again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({image.tobytes() for image, _, _ in images}) == len(images)


def test_objects_are_whole_and_seen(images):
    for image, full, classes in images:
        assert image.shape == (128, 128, 1) and image.dtype == np.uint8
        assert (full.shape, classes[0]) == ((128, 128), 0)
        areas = np.bincount(full.ravel(), minlength=len(classes))
        assert len(areas) == len(classes) and (areas[1:] >= food_sem.SMALLEST).all()
        assert set(classes[1:]) == {BUBBLE, ICE}
        for index in range(1, len(classes)):
            assert ndimage.label(full == index, EIGHT)[1] == 1
        for kind in (BUBBLE, ICE):
            assert 0.15 < (classes[full] == kind).mean() < 0.6
        assert 0.2 < (full == 0).mean() < 0.5


def test_objects_touch_across_and_within_classes(images):
    pairs = {(BUBBLE, BUBBLE): 0, (BUBBLE, ICE): 0, (ICE, ICE): 0}
    for _, full, classes in images:
        below = np.stack([full[1:], full[:-1]], axis=-1).reshape(-1, 2)
        beside = np.stack([full[:, 1:], full[:, :-1]], axis=-1).reshape(-1, 2)
        sides = np.sort(np.concatenate([below, beside]), axis=1)
        touching = np.unique(sides[(sides[:, 0] > 0) & (sides[:, 0] != sides[:, 1])], axis=0)
        for a, b in touching:
            pairs[tuple(sorted((int(classes[a]), int(classes[b]))))] += 1
    assert min(pairs.values()) > 2 * len(images)


def test_look_of_the_classes(images):
    """Deep bubbles are dark with bright rims; ice is a little darker than the matrix and smoother."""
    inner, rim, ice, matrix, ice_grain, matrix_grain = ([] for _ in range(6))
    for image, full, classes in images:
        grey = image[..., 0].astype(float)
        fine = grey - ndimage.uniform_filter(grey, 5)
        bubbles = classes[full] == BUBBLE
        depth = ndimage.distance_transform_edt(bubbles)
        inner.append(grey[depth > 5].mean())
        rim.append(grey[ndimage.binary_dilation(bubbles, EIGHT) & (full == 0)].mean())
        deep_ice = ndimage.distance_transform_edt(classes[full] == ICE) > 4
        deep_matrix = ndimage.distance_transform_edt(full == 0) > 4
        ice.append(grey[deep_ice].mean())
        matrix.append(grey[deep_matrix].mean())
        ice_grain.append(fine[deep_ice].std())
        matrix_grain.append(fine[deep_matrix].std())
    assert np.mean(inner) < 0.6 * np.mean(matrix) and np.mean(rim) > 1.1 * np.mean(matrix)
    assert 0.6 * np.mean(matrix) < np.mean(ice) < 0.95 * np.mean(matrix), "low contrast"
    assert np.mean(ice_grain) < 0.9 * np.mean(matrix_grain)
    # Ice is flat: what is fine there is shot noise. DOSE = 110 electrons at the mean: 9.5 % of it.
    assert 0.06 < np.mean(ice_grain) / np.mean(ice) < 0.13


def test_a_flat_sample_shows_only_shading_and_lines():
    signal = food_sem.illuminate(Scene(*flat()), np.random.default_rng(0))
    assert 0.5 < signal.min() and signal.max() < 1.6
    within = signal - ndimage.uniform_filter(signal, (1, 31))
    assert np.abs(within[:, 20:-20]).max() < 0.02


def test_a_hollow_is_dark_in_the_middle_and_bright_at_its_rim():
    full, classes, height, material = flat()
    y, x = np.mgrid[:128, :128] - 64.0
    left = 20.0**2 - y**2 - x**2
    height = -np.sqrt(np.maximum(left, 0))
    signal = mean_signal(Scene(full, classes, height, material))
    radius = np.hypot(y, x)
    middle, rim, away = (signal[where].mean() for where in (radius < 8, abs(radius - 20) < 1.5, radius > 40))
    assert middle < 0.6 * away < away < rim


def test_a_step_is_bright_and_the_side_to_the_detector_brighter():
    full, classes, height, material = flat()
    height[40:80, 40:80] = 4.0
    signal = mean_signal(Scene(full, classes, height, material))
    top, bottom, inside = signal[38:42, 50:70].max(), signal[78:82, 50:70].max(), signal[50:70, 50:70].mean()
    assert min(top, bottom) > 1.1 * inside
    assert top > 1.05 * bottom, "the detector stands near the top of the image"


def test_charging_leaves_a_tail_along_the_line():
    full, classes, height, material = flat()
    material[60:68, 50:60] = 3.0
    signal = mean_signal(Scene(full, classes, height, material))
    row = signal[60:68].mean(axis=0) - (signal[40:52].mean(axis=0) + signal[76:88].mean(axis=0)) / 2
    assert row[64:74].mean() > 5 * abs(row[34:46].mean()) and row[64:74].mean() > 0.1
    assert row[64] > row[80] > row[100] > -0.02


def test_the_prepared_set(tmp_path):
    splits = datasets.load("food_sem", "", tmp_path, 0, MarkSettings(), (0,), ("separation",))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [61, 20, 40]
    for example in (splits.train[5], splits.test[-1]):
        check_example(example, 2)
        image, full, classes = food_sem.simulate(example.name)
        np.testing.assert_array_equal(example.full, full)
        np.testing.assert_array_equal(example.classes, classes)
        assert np.corrcoef(image.ravel(), example.image.ravel())[0, 1] > 0.999
        marked = example.partial > 0
        np.testing.assert_array_equal(example.partial[marked], full[marked])
    names = [example.name for part in (splits.train, splits.validation, splits.test) for example in part]
    assert len(set(names)) == 121 and all(name.startswith("simulated_") for name in names)


def test_it_is_called_simulated_wherever_it_is_described():
    root = pathlib.Path(__file__).resolve().parents[1]
    assert "simulat" in food_sem.__doc__.lower().splitlines()[0]
    assert "simulat" in (root / "configs" / "food_sem.py").read_text().lower().splitlines()[0]
