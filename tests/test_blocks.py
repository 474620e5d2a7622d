"""Objects by overlapping blocks: as by the undivided image, however the blocks lie."""

import tracemalloc

import numpy as np
import pytest
import scipy.ndimage as ndi

from rams_jax.blocks import default_halo, label_rows
from rams_jax.instances import label_instances
from rams_jax.predict import foreground, split_tasks
from rams_jax.types import InstanceSettings

SETTINGS = InstanceSettings(threshold=0.5, marker_sigma=1.0, marker_depth=0.1, min_area=10, dividing=(0,), beginning=())


def crowd(seed, shape=(150, 170), count=90, classes=2):
    """Probabilities [H, W, 2 K + 1] of many blobs of radius 3 to 8, of which some touch, and the largest diameter."""
    rng = np.random.default_rng(seed)
    row, column = np.ogrid[: shape[0], : shape[1]]
    stack = np.full((*shape, 2 * classes + 1), 0.02, np.float32)
    for _ in range(count):
        k, radius = rng.integers(classes), rng.uniform(3, 8)
        distance = np.hypot(row - rng.uniform(0, shape[0]), column - rng.uniform(0, shape[1])) / radius
        for layer in (k, classes + k):
            stack[..., layer] = np.maximum(stack[..., layer], 0.9 - 0.4 * distance)
    noise = ndi.gaussian_filter(rng.normal(size=stack.shape), (1, 1, 0)).astype(np.float32)
    return np.clip(stack + 0.05 * noise, 0, 1)


def undivided(stack, classes=2, averaged=True, settings=SETTINGS):
    part = split_tasks(stack, classes)
    return label_instances(part, foreground(part, averaged), settings)


def divided(stack, block, halo, classes=2, averaged=True, settings=SETTINGS, height=13):
    """The rows arrive `height` at a time."""
    rows = (stack[i : i + height] for i in range(0, len(stack), height))
    return label_rows(rows, stack.shape[:2], classes, averaged, settings, halo, block)


def assert_same_objects(found, expected):
    """The same pixels together and of the same class, whatever the ids."""
    (a, of_a), (b, of_b) = found, expected
    assert a.dtype == np.int32 and a.shape == b.shape and len(of_a) == len(of_b)
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    assert pairs.shape[1] == len(of_a)  # each id of one meets a single id of the other
    np.testing.assert_array_equal(of_a[pairs[0]], of_b[pairs[1]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [30, 61])
def test_blocks_find_the_objects_of_the_undivided_image(seed, block):
    stack = crowd(seed)
    expected = undivided(stack)
    assert len(expected[1]) > 40
    instances, classes, cut = divided(stack, block, halo=40)
    assert cut == 0
    assert_same_objects((instances, classes), expected)
    areas = np.bincount(instances.ravel(), minlength=len(classes))[1:]
    assert (np.diff(areas) <= 0).all() and areas.min() > 0  # the largest first, without gaps


def test_touching_objects_are_divided_in_the_same_place():
    """That the crowd is one: many objects share a border, so that a block's edge through a clump would show."""
    instances, _ = undivided(crowd(0))
    right, below = instances[:, 1:], instances[1:]
    touching = ((instances[:, :-1] != right) & (instances[:, :-1] > 0) & (right > 0)).sum()
    touching += ((instances[:-1] != below) & (instances[:-1] > 0) & (below > 0)).sum()
    assert touching > 50


def test_without_a_halo_objects_are_cut_and_counted():
    stack = crowd(1)
    instances, _, cut = divided(stack, 30, halo=0)
    expected, _ = undivided(stack)
    assert cut > 10
    assert (instances != 0).sum() == pytest.approx((expected != 0).sum(), rel=0.05)


def test_an_object_in_the_hole_of_another_keeps_its_pixels():
    row, column = np.mgrid[:90, :90]
    distance = np.hypot(row - 45, column - 45)
    stack = np.zeros((90, 90, 5), np.float32)
    for layer in (0, 2):
        stack[(distance < 40) & (distance > 20), layer] = 0.9
    for layer in (1, 3):
        stack[distance < 8, layer] = 0.9
    instances, classes, cut = divided(stack, 44, halo=90)
    assert cut == 0
    assert_same_objects((instances, classes), undivided(stack))
    assert classes[instances[45, 45]] == 2 and classes[instances[45, 15]] == 1
    assert instances[45, 33] == instances[45, 15]  # the hole is filled around it


def test_the_separation_task_divides_in_blocks_too():
    stack = np.zeros((40, 120, 3), np.float32)
    stack[10:30, 20:100, :2] = 0.9
    stack[10:30, 59:61, 2] = 0.9  # an interface beside the border of the blocks
    instances, _, cut = divided(stack, 58, halo=60, classes=1)
    assert cut == 0
    assert_same_objects((instances, np.array([0, 1, 1])), undivided(stack, classes=1))
    assert len(np.unique(instances)) == 3


@pytest.mark.parametrize("averaged", [True, False])
def test_one_block_is_the_undivided_image_itself(averaged):
    stack = crowd(2)
    instances, classes, cut = divided(stack, 85, halo=0, averaged=averaged)  # 170 is twice 85
    expected = undivided(stack, averaged=averaged)
    assert cut == 0
    assert_same_objects((instances, classes), expected)


def test_nothing_to_find():
    instances, classes, cut = divided(np.zeros((50, 70, 5), np.float32), 20, halo=5)
    assert not instances.any() and classes.tolist() == [0] and cut == 0


def test_memory_is_for_a_row_of_blocks():
    def rows():
        for _ in range(0, 8000, 10):
            yield np.zeros((10, 50, 23), np.float32)

    tracemalloc.start()
    label_rows(rows(), (8000, 50), 11, True, SETTINGS, halo=5, block=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8000 * 50 * 23 * 4 / 5  # of the probabilities, which are never there at once


def test_the_halo_has_room_for_the_largest_object_and_its_neighbour():
    assert default_halo(100, SETTINGS) == 204
    assert default_halo(0, SETTINGS) == 64
