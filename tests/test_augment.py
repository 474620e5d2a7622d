"""Crops: image and maps move together, geometry by hand, what lies outside, randomness by key."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from rams_jax import augment
from rams_jax.loading import load
from rams_jax.types import AugmentSettings, Example

IDENTITY = AugmentSettings(
    crop=9,
    foreground=0.0,
    rotation=0.0,
    scale=1.0,
    aspect=1.0,
    flip=False,
    elastic=0.0,
    elastic_grid=8,
    brightness=(0.0,),
    contrast=1.0,
    noise=(0.0,),
    blur=0.0,
)
STRONG = dataclasses.replace(
    IDENTITY, crop=32, rotation=180.0, scale=1.4, aspect=1.2, flip=True, elastic=1.5, foreground=0.5
)
KEYS = jax.random.split(jax.random.key(0), 64)


@functools.cache
def images():
    """Three classes of discs; channel k of the image is 1 on class k and 0 elsewhere. Image 1 is smaller."""
    rng = np.random.default_rng(0)
    examples = []
    for name, (height, width) in (("a", (40, 48)), ("b", (25, 31))):
        y, x = np.mgrid[:height, :width]
        full = np.zeros((height, width), np.int32)
        for j in range(1, 7):
            cy, cx = rng.integers(4, height - 4), rng.integers(4, width - 4)
            full[(np.hypot(y - cy, x - cx) < 6) & (full == 0)] = j
        partial = np.where(ndimage.binary_erosion(full > 0, iterations=2), full, 0)
        ids = np.unique(partial[partial > 0])
        full = np.where(np.isin(full, ids), full, 0)
        classes = np.where(np.isin(np.arange(7), ids), (np.arange(7) - 1) % 3 + 1, 0).astype(np.int32)
        image = (classes[full][..., None] == np.arange(4)).astype(np.float32)
        valid = x < width - 3
        strokes = np.where(full > 3, 2, 1).astype(np.int8)[..., None]
        examples.append(Example(name, image, full, partial, valid, classes, strokes))
    state, _ = load(examples, [0, 1], number_of_classes=3, shards=1, multiple=8)
    # Something that is in no other map: the current masks are a part of the full ones.
    current = np.where(rng.random(state.full.shape) < 0.7, state.full, state.partial).astype(np.int16)
    current[:, :5] = np.where(state.inside[:, :5], -1, 0)
    current[:, 5:15] = np.where(state.inside[:, 5:15], -1 - state.full[:, 5:15], 0)  # taken for a class, in no mask
    return jax.tree.map(jnp.asarray, state.replace(masks=state.masks.replace(current=current)))


@functools.partial(jax.jit, static_argnames=("crop", "elastic_grid"))
def _crops(keys, data, index, numbers, crop, elastic_grid):
    # One compilation for all values of the settings; `augment.crop` reads them as attributes.
    settings = types.SimpleNamespace(**numbers, crop=crop, elastic_grid=elastic_grid)
    return jax.vmap(lambda key: augment.crop(key, data, index, settings))(keys)


def as_numpy(batch):
    return jax.tree.map(np.asarray, batch)


def crops(keys, index, settings):
    """A crop for each key of at most 64, as NumPy arrays."""
    padded = keys[jnp.arange(len(KEYS)) % len(keys)]
    batch = as_numpy(_crops(padded, images(), index, **split(settings)))
    return jax.tree.map(lambda x: x[: len(keys)], batch)


def split(settings):
    numbers = dict(vars(settings))
    return {"crop": numbers.pop("crop"), "elastic_grid": numbers.pop("elastic_grid"), "numbers": numbers}


@pytest.mark.parametrize("index", [0, 1])
def test_image_and_maps_move_together(index):
    batch = crops(KEYS, index, STRONG)
    assert batch.inside.mean() > 0.3
    # The nearest of the four pixels that a bilinear value mixes has at least a quarter of the weight.
    own_class = np.take_along_axis(batch.image, batch.full[..., None], -1)[..., 0]
    interior = batch.inside & batch.valid
    assert own_class[interior].min() >= 0.25 - 1e-4
    for k in (1, 2, 3):
        pure = interior & (batch.image[..., k] > 0.999)
        assert pure.sum() > 50
        assert (batch.full[pure] == k).all()
    # All maps were read at the same places: in the state marks lie in current masks, and those in full ones.
    assert (batch.full[batch.partial > 0] == batch.partial[batch.partial > 0]).all()
    assert (batch.full[batch.current > 0] == batch.current[batch.current > 0]).all()
    taken = batch.current < -1
    assert taken.any() and (batch.full[taken] == -1 - batch.current[taken]).all()
    assert set(np.unique(batch.current)) >= {-1, 0, 1, 2, 3}
    assert (batch.auxiliary[..., 0][(batch.full == 0) & batch.inside] == 1).all()


def test_maps_hold_only_what_the_image_holds():
    data = images()
    batch = crops(KEYS, 1, STRONG)
    present = np.unique(np.asarray(data.classes[1])[np.asarray(data.full[1])])
    assert set(np.unique(batch.full)) <= set(present)
    assert set(np.unique(batch.auxiliary)) <= {0, 1, 2}


def test_identity_settings_return_the_sub_image():
    data, side = images(), IDENTITY.crop
    batch = crops(KEYS[:16], 0, IDENTITY)
    image, full = np.asarray(data.image[0]), np.asarray(data.classes[0])[np.asarray(data.full[0])]
    valid, current = np.asarray(data.valid[0]), np.asarray(data.masks.current[0])
    classes = np.asarray(data.classes[0])
    current = np.where(current < 0, -1 - classes[np.maximum(-1 - current, 0)], classes[np.maximum(current, 0)])
    windows = np.lib.stride_tricks.sliding_window_view
    whole = 0
    for i in np.flatnonzero(batch.inside.all((1, 2))):
        # Among all windows of the image there is one whose pixels are those of the crop, in every map.
        channels_last = windows(image, (side, side), (0, 1)).transpose(0, 1, 3, 4, 2)
        same = np.abs(channels_last - batch.image[i]).max((2, 3, 4)) < 1e-6
        for map_, found in ((full, batch.full), (valid, batch.valid), (current, batch.current)):
            same &= (windows(map_, (side, side)) == found[i]).all((2, 3))
        assert same.any()
        whole += 1
    assert whole > 3


def test_an_even_crop_is_read_at_pixels():
    where = offsets(dataclasses.replace(IDENTITY, crop=4))[0]
    np.testing.assert_allclose(where, np.round(where), atol=1e-5)


def test_outside_is_nothing():
    # Image 1 has 25 x 31 pixels; a crop of 32 always leaves it.
    batch = crops(KEYS, 1, dataclasses.replace(STRONG, brightness=(1.0,), noise=(1.0,), contrast=2.0, blur=2.0))
    assert (~batch.inside).any((1, 2)).all()
    for field in ("image", "valid", "full", "partial", "current", "auxiliary"):
        assert not getattr(batch, field)[~batch.inside].any(), field
    assert (batch.inside | ~batch.valid).all()
    # Pixels that the annotator did not look at are in the image all the same.
    assert (batch.inside & ~batch.valid & (np.abs(batch.image).sum(-1) > 0)).any()


@functools.partial(jax.jit, static_argnames=("crop", "elastic_grid"))
def _coordinates(keys, centre, numbers, crop, elastic_grid):
    settings = types.SimpleNamespace(**numbers, crop=crop, elastic_grid=elastic_grid)
    return jax.vmap(lambda key: augment.coordinates(key, centre, settings))(keys)


def offsets(settings):
    """float64[64, crop, crop, 2]: where the crops of all keys are read, from their centre."""
    centre = np.array([10.0, 20.0])
    return np.asarray(_coordinates(KEYS, jnp.asarray(centre, jnp.float32), **split(settings)), float) - centre


def geometry(i, **changes):
    return offsets(dataclasses.replace(IDENTITY, **{"crop": 3, **changes}))[i]


def test_rotation_by_a_right_angle():
    # The angle is drawn between -rotation and rotation: read off which share of it this key draws, then ask for 90.
    for i in range(3):
        drawn = np.degrees(np.arctan2(*geometry(i, rotation=80.0)[2, 1]))  # of the offset (1, 0), below the centre
        right = geometry(i, rotation=80.0 * 90.0 / (90.0 - drawn))
        # (row, column) becomes (-column, row): the pixel below the centre is read to the right of it.
        expected = [[(1, -1), (0, -1), (-1, -1)], [(1, 0), (0, 0), (-1, 0)], [(1, 1), (0, 1), (-1, 1)]]
        np.testing.assert_allclose(right, expected, atol=1e-5)


def test_scale_and_aspect():
    for i in range(3):
        share = np.log(geometry(i, scale=2.0)[2, 1, 0]) / np.log(2)
        assert -1 <= share <= 1
        # A factor of exactly 3 reads three pixels apart, in both axes.
        np.testing.assert_allclose(geometry(i, scale=3.0 ** (1 / share))[2, 2], [3, 3], rtol=1e-4)
        rows, columns = geometry(i, aspect=4.0)[2, 2]
        np.testing.assert_allclose(rows * columns, 1, rtol=1e-5)  # the area stays
        assert 1 / 4 <= rows / columns <= 4 and abs(rows / columns - 1) > 1e-3


def test_geometry_stays_in_its_limits():
    settings = dataclasses.replace(IDENTITY, crop=3, rotation=30.0, scale=1.5, aspect=1.2)
    where = offsets(settings)
    matrices = np.stack([(where[:, 2, 1] - where[:, 1, 1]), (where[:, 1, 2] - where[:, 1, 1])], axis=-1)
    areas = np.sqrt(np.linalg.det(matrices))
    assert 1 / 1.5 <= areas.min() < 0.8 and 1.25 < areas.max() <= 1.5
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert -30.001 <= angles.min() < -20 and 20 < angles.max() <= 30.001
    ratio = np.linalg.norm(matrices[:, :, 0], axis=1) / np.linalg.norm(matrices[:, :, 1], axis=1)
    assert 1 / 1.2001 <= ratio.min() < 0.9 and 1.1 < ratio.max() <= 1.2001


def test_flips_are_independent_and_even():
    settings = dataclasses.replace(IDENTITY, crop=3, flip=True)
    where = offsets(settings)
    signs = where[:, 2, 2]
    np.testing.assert_array_equal(np.abs(signs), 1)
    counts = [((signs == np.array([a, b])).all(1)).sum() for a in (-1, 1) for b in (-1, 1)]
    assert min(counts) >= 8  # of 64 keys, 16 each


def test_elastic_displacement_is_smooth_and_of_the_size_asked_for():
    settings = dataclasses.replace(IDENTITY, crop=33, elastic_grid=8, elastic=2.0)
    still = dataclasses.replace(settings, elastic=0.0)
    shift = offsets(settings) - offsets(still)
    assert 1.0 < shift.std() < 2.2  # between the control points less than 2
    assert abs(shift.mean()) < 0.2
    assert np.abs(np.diff(shift, axis=1)).max() < 2.5 and np.abs(np.diff(shift, axis=1)).mean() < 0.5
    double = offsets(dataclasses.replace(settings, elastic=4.0)) - offsets(still)
    np.testing.assert_allclose(double, 2 * shift, atol=1e-4)


def test_reading_by_hand():
    image = jnp.arange(6.0).reshape(2, 3, 1)
    where = jnp.array([[[0.0, 1.0], [0.5, 0.5], [0.25, 1.0], [1.0, 2.0], [-3.0, 0.0], [9.0, 9.0]]])
    # Row 0 is 0 1 2, row 1 is 3 4 5; beyond the border the nearest edge.
    np.testing.assert_allclose(augment.read_image(image, where)[0, :, 0], [1, 2, 1.75, 5, 0, 5])
    maps = jnp.arange(1, 7).reshape(2, 3, 1)
    where = jnp.array([[[0.4, 1.4], [0.6, 1.6], [-0.4, 0.0], [-0.6, 0.0], [1.4, 2.4], [1.6, 0.0], [0.0, 2.6]]])
    np.testing.assert_array_equal(augment.read_maps(maps, where)[0, :, 0], [2, 6, 1, 0, 6, 0, 0])
    assert augment.read_maps(maps > 0, where).dtype == bool


def test_bilinear_reading_agrees_with_scipy():
    rng = np.random.default_rng(1)
    image, where = rng.normal(size=(7, 8, 2)), rng.uniform(-2, 9, (5, 6, 2))
    found = augment.read_image(jnp.asarray(image, jnp.float32), jnp.asarray(where, jnp.float32))
    for channel in range(2):
        expected = ndimage.map_coordinates(image[..., channel], np.moveaxis(where, -1, 0), order=1, mode="nearest")
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)


def test_crop_centres():
    inside = np.zeros((12, 14), bool)
    inside[:8, :9] = True
    labelled = np.zeros_like(inside)
    labelled[2, 3] = labelled[5, 1] = labelled[7, 8] = True
    draw = jax.jit(jax.vmap(augment.crop_centre, (0, None, None, None)))

    def centres(labelled, share):
        return np.asarray(draw(KEYS, jnp.asarray(inside), jnp.asarray(labelled), share)).astype(int)

    always, never, half = (centres(labelled, share) for share in (1.0, 0.0, 0.5))
    assert labelled[tuple(always.T)].all()
    assert len(np.unique(always, axis=0)) == 3
    assert inside[tuple(never.T)].all() and len(np.unique(never, axis=0)) > 30
    assert 16 <= labelled[tuple(half.T)].sum() <= 48
    unmarked = centres(np.zeros_like(labelled), 1.0)
    assert inside[tuple(unmarked.T)].all() and len(np.unique(unmarked, axis=0)) > 30


def test_foreground_crops_show_a_labelled_pixel_in_the_middle():
    batch = crops(KEYS, 0, dataclasses.replace(STRONG, crop=9, foreground=1.0, elastic=0.0))
    assert (batch.full[:, 4, 4] > 0).all()


def test_keys_decide():
    first, again, other = (crops(keys, 0, STRONG) for keys in (KEYS[:4], KEYS[:4], KEYS[4:8]))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (first.image == other.image).all((1, 2, 3)).any()
    assert not (first.image[0] == first.image[1]).all()


def test_intensities_never_touch_the_maps():
    loud = dataclasses.replace(STRONG, brightness=(0.5,), contrast=2.0, noise=(0.5,), blur=2.0)
    quiet, changed = crops(KEYS[:8], 0, STRONG), crops(KEYS[:8], 0, loud)
    for field in ("inside", "valid", "full", "partial", "current", "auxiliary"):
        np.testing.assert_array_equal(getattr(quiet, field), getattr(changed, field))
    assert (np.abs(quiet.image - changed.image).max((1, 2, 3)) > 0.05).all()


@jax.jit
def _shaded(image, numbers):
    settings = types.SimpleNamespace(**numbers)
    return jax.vmap(augment.intensities, (0, None, None))(KEYS, image, settings)


def shaded(settings, image):
    return np.asarray(_shaded(jnp.asarray(image, jnp.float32), split(settings)["numbers"]))


def test_brightness_and_contrast():
    image = np.random.default_rng(2).normal(3, 1, (6, 7, 2))
    brighter = shaded(dataclasses.replace(IDENTITY, brightness=(0.4,)), image) - image
    # One shift for each channel of a crop, between -0.4 and 0.4.
    np.testing.assert_allclose(brighter, brighter[:, :1, :1] * np.ones_like(image), atol=1e-5)
    shifts = brighter[:, 0, 0]
    assert -0.4 <= shifts.min() < -0.3 and 0.3 < shifts.max() <= 0.4
    assert np.abs(shifts[:, 0] - shifts[:, 1]).min() > 1e-4
    sharper = shaded(dataclasses.replace(IDENTITY, contrast=2.0), image)
    np.testing.assert_allclose(sharper.mean((1, 2)), np.broadcast_to(image.mean((0, 1)), (64, 2)), atol=1e-5)
    factors = sharper.std((1, 2)) / image.std((0, 1))
    assert 0.5 <= factors.min() < 0.6 and 1.7 < factors.max() <= 2.0001


def test_noise_and_blur():
    flat = np.full((24, 24, 1), 2.0)
    noise = shaded(dataclasses.replace(IDENTITY, noise=(0.5,)), flat) - flat
    sizes = noise.std((1, 2, 3))
    assert sizes.max() < 0.6 and sizes.min() < 0.1 and 0.18 < sizes.mean() < 0.32
    np.testing.assert_allclose(shaded(dataclasses.replace(IDENTITY, blur=2.0), flat), 2.0, rtol=1e-5)
    point = np.zeros((9, 9, 1))
    point[4, 4] = 1
    blurred = shaded(dataclasses.replace(IDENTITY, blur=2.0), point)[..., 0]
    np.testing.assert_allclose(blurred.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(blurred, blurred.transpose(0, 2, 1), atol=1e-6)
    np.testing.assert_allclose(blurred, blurred[:, ::-1], atol=1e-6)
    assert blurred[:, 4, 4].min() < 0.2 and blurred[:, 4, 4].max() > 0.9
    np.testing.assert_allclose(shaded(IDENTITY, point), np.broadcast_to(point, (64, 9, 9, 1)), atol=1e-6)


def test_sample_draws_from_the_slots_given():
    data = images()
    sampled = jax.jit(augment.sample, static_argnums=(4, 5))
    settings = dataclasses.replace(IDENTITY, crop=33)
    # Of two slots only the first counts: image 1, which is smaller than the crop.
    batch = as_numpy(sampled(KEYS[0], data, jnp.array([1, 0]), jnp.int32(1), 16, settings))
    assert batch.image.shape == (16, 33, 33, 4) and batch.strong.shape == (16,)
    assert (batch.inside.sum((1, 2)) <= 25 * 31).all()
    assert (batch.inside.any(2).sum(1) <= 25).all()
    both = as_numpy(sampled(KEYS[0], data, jnp.array([1, 0]), jnp.int32(2), 16, settings))
    from_large = both.inside.any(2).sum(1) > 25
    assert from_large.any() and not from_large.all()
