"""Whole images of any size, in order, as if each were alone; and large ones in tiles, as if each were whole."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rams_jax.model import MultiTaskUNet, multiple, predictions
from rams_jax.predict import TileError, _apply, foreground, predict, predict_rows, receptive_radius, split_tasks, tiling
from rams_jax.types import ModelSettings, Predictions

MODEL = MultiTaskUNet(ModelSettings(width=4, depth=2, own_levels=1, dtype="float32"), classes=2, auxiliary=1)
SIZES = [(9, 7), (12, 12), (3, 15), (8, 8), (1, 1)]


@functools.cache
def params(model=MODEL):
    side = multiple(model.settings)
    image, inside = jnp.zeros((1, side, side, 3)), jnp.ones((1, side, side), bool)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, inside))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32) + (len(x.shape) == 1), shapes)


def images():
    rng = np.random.default_rng(2)
    return [rng.normal(size=(*size, 3)).astype(np.float32) for size in SIZES]


def test_mixed_sizes_come_back_in_order():
    found = predict(MODEL, params(), images(), batch=2)
    assert [x.segmentation.shape for x in found] == [(*size, 2) for size in SIZES]
    assert [x.approximation.shape for x in found] == [(*size, 2) for size in SIZES]
    assert [x.auxiliary.shape for x in found] == [(*size, 1) for size in SIZES]
    for x in found:
        for values in jax.tree.leaves(x):
            assert isinstance(values, np.ndarray) and values.dtype == np.float32
            assert 0 <= values.min() and values.max() <= 1
        assert (x.segmentation.sum(-1) <= 1 + 1e-6).all()


def test_together_is_as_one_by_one():
    together = predict(MODEL, params(), images(), batch=2)  # three batches, the last one short
    large = predict(MODEL, params(), images(), batch=8)
    for i, image in enumerate(images()):
        (alone,) = predict(MODEL, params(), [image], batch=2)
        for a, b, c in zip(*map(jax.tree.leaves, (alone, together[i], large[i])), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
            np.testing.assert_allclose(a, c, atol=1e-5)


def test_agrees_with_the_network_itself():
    image = images()[1]
    (found,) = predict(MODEL, params(), [image], batch=2)
    expected = predictions(MODEL.apply(params(), image[None], np.ones((1, 12, 12), bool)))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b[0], atol=2e-6)
    assert found.segmentation.std() > 0.01


def test_no_images():
    assert predict(MODEL, params(), []) == []


@pytest.mark.parametrize(("averaged", "expected"), [(True, [0.5, 0.3]), (False, [0.8, 0.2])])
def test_foreground(averaged, expected):
    prediction = Predictions(
        segmentation=np.array([[[0.8, 0.2]]], np.float32),
        approximation=np.array([[[0.2, 0.4]]], np.float32),
        auxiliary=np.zeros((1, 1, 0), np.float32),
    )
    found = foreground(prediction, averaged)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, [[expected]], rtol=1e-6)


def network(depth, own_levels, dtype="float32"):
    return MultiTaskUNet(ModelSettings(width=8, depth=depth, own_levels=own_levels, dtype=dtype), 2, 1)


def tiled(model, image, side, asked=None):
    """p, q and s of all rows, put together."""
    asked = [] if asked is None else asked

    def read(rows, columns):
        asked.append((rows, columns))
        return image[rows, columns]

    return np.concatenate(list(predict_rows(model, params(model), read, image.shape[:2], tiling(model.settings, side))))


# By hand, a row x of the output asks for x -+ 2 at depth 1. At depth 2 with one own level: x -+ 1, of the coarse level
# floor((x -+ 1) / 2) -+ 2, twice that as fine rows (the upper one + 1), -+ 2: for x = 0 from 2 * -3 - 2 = -8 to
# 2 * 2 + 1 + 2 = 7; for x = 1 from 2 * -2 - 2 = -6 to 2 * 3 + 1 + 2 = 9: 8 away at most.
@pytest.mark.parametrize(("depth", "own_levels", "expected"), [(1, 0, 2), (2, 1, 8), (2, 0, 9)])
def test_receptive_radius_by_hand(depth, own_levels, expected):
    assert receptive_radius(network(depth, own_levels).settings) == expected


@pytest.mark.parametrize(("depth", "own_levels"), [(1, 0), (2, 0), (2, 1), (3, 1)])
def test_nothing_beyond_the_receptive_radius_counts(depth, own_levels):
    model = network(depth, own_levels)
    radius, step = receptive_radius(model.settings), multiple(model.settings)
    image = np.random.default_rng(0).normal(size=(step, 128, 3)).astype(np.float32)
    images = [image]
    for column in range(64, 64 + step):  # all places on the grid of the coarsest level
        images.append(image.copy())
        images[-1][:, column] += 1
    # One by one: places in a batch may be rounded differently.
    before, *after = predict(model, params(model), images, batch=1)
    furthest = []
    for column, x in enumerate(after, start=64):
        moved = np.flatnonzero((x.segmentation != before.segmentation).any(axis=(0, 2)))
        furthest.append(np.abs(moved - column).max())
    assert max(furthest) == radius


@pytest.mark.parametrize("shape", [(150, 210), (301, 97), (5, 260)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_tiles_are_as_the_whole_image(shape):
    model = network(3, 1)
    image = np.random.default_rng(3).normal(size=(*shape, 3)).astype(np.float32)
    (whole,) = predict(model, params(model), [image], batch=1)
    found = tiled(model, image, 96)
    assert found.shape == (*shape, 5) and found.dtype == np.float32
    assert whole.segmentation.std() > 0.01
    for a, b in zip(jax.tree.leaves(split_tasks(found, 2)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


def test_a_margin_that_is_too_small_shows():
    """That the test above can fail: with tiles that see less than the network there are seams."""
    model = network(3, 1)
    image = np.random.default_rng(3).normal(size=(150, 210, 3)).astype(np.float32)
    (whole,) = predict(model, params(model), [image], batch=1)
    narrow = dataclasses.replace(tiling(model.settings, 96), margin=4, side=56)
    rows = predict_rows(model, params(model), lambda r, c: image[r, c], (150, 210), narrow)
    found = split_tasks(np.concatenate(list(rows)), 2)
    assert np.abs(found.segmentation - whole.segmentation).max() > 1e-3


def test_images_of_many_sizes_share_few_shapes_of_tiles():
    model = network(2, 1)
    before = _apply._cache_size()
    for shape in [(300, 300), (290, 295), (280, 301)]:  # 4 x 4 tiles of up to 128
        tiled(model, np.zeros((*shape, 3), np.float32), 128)
    assert _apply._cache_size() == before + 1
    for side in range(1, 65, 7):  # small ones are padded
        assert tiled(model, np.zeros((side, 65 - side, 3), np.float32), 128).shape == (side, 65 - side, 5)
    assert _apply._cache_size() == before + 2


def test_tiles_are_no_larger_than_the_image_asks_for():
    asked = []
    tiled(network(2, 1), np.zeros((700, 100, 3), np.float32), 640, asked)
    # two tiles along the image, of 350 + 8 rows of their own, a margin of 8 and half of an overlap of 16: 64 * 6
    assert {rows.stop - rows.start for rows, _ in asked} <= set(range(700 - 368 + 1, 385))
    assert len(asked) == 2 and asked[0][0] == slice(0, 376)


def test_reads_no_more_than_a_tile_at_a_time_and_inside_the_image():
    asked = []
    tiled(network(3, 1), np.zeros((210, 130, 3), np.float32), 96, asked)
    for rows, columns in asked:
        assert 0 <= rows.start < rows.stop <= min(210, rows.start + 96)
        assert 0 <= columns.start < columns.stop <= min(130, columns.start + 96)
    assert len(asked) > 6


def test_tiles_fit_the_grid_of_the_coarsest_level():
    for depth in range(1, 7):
        settings = network(depth, depth - 1).settings
        tiles = tiling(settings)
        for value in (tiles.side, tiles.margin, tiles.overlap, tiles.stride):
            assert value > 0 and value % multiple(settings) == 0
        assert tiles.margin >= receptive_radius(settings)
        assert tiles.side == 2 * tiles.margin + tiles.overlap + tiles.stride


def test_a_tile_that_is_all_margin_is_refused():
    with pytest.raises(TileError, match=r"Tiles of 64 pixels are too small .* at least 96\.$"):
        tiling(network(3, 1).settings, 64)
    assert tiling(network(3, 1).settings, 96).side == 96
    assert tiling(network(3, 1).settings, 98).side == 100
