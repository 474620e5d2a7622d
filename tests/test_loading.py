"""From examples to the state on the devices: who is dealt where, what the network may see, what is refused."""

import dataclasses

import numpy as np
import pytest

from rams_jax.annotations import AnnotationError
from rams_jax.loading import deal, load, mark_statistics, statistics
from rams_jax.types import BINS, Example


def example(name, height=6, width=7, classes=(0, 1, 2), channels=1, tasks=1, seed=0):
    """Id 1 has 2 x 3 pixels and a mark of 2, id 2 has 3 x 3 and a mark of 3."""
    full = np.zeros((height, width), np.int32)
    full[0:2, 0:3], full[3:6, 4:7] = 1, 2
    partial = np.zeros_like(full)
    partial[0, 0:2], partial[4, 4:7] = 1, 2
    rng = np.random.default_rng(seed)
    return Example(
        name=name,
        image=rng.normal(size=(height, width, channels)).astype(np.float32),
        full=full,
        partial=partial,
        valid=np.ones((height, width), bool),
        classes=np.array(classes, np.int32),
        auxiliary=rng.integers(0, 3, (height, width, tasks)).astype(np.int8),
    )


def test_deal_by_hand():
    strong, weak = deal([3, 7], [0, 1, 2, 4, 5], 2)
    np.testing.assert_array_equal(strong, [[3], [7]])
    np.testing.assert_array_equal(weak, [[0, 2, 5], [1, 4, -1]])


def test_few_strong_images_are_repeated():
    strong, weak = deal([4], [0, 1, 2, 3], 3)
    np.testing.assert_array_equal(strong, [[4], [4], [4]])
    np.testing.assert_array_equal(weak, [[0, 3], [1, -1], [2, -1]])
    # Five over two shards: six slots, the first image twice.
    np.testing.assert_array_equal(deal([0, 1, 2, 3, 4], [], 2)[0], [[0, 2, 4], [1, 3, 0]])


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("strong", "weak"), [(1, 0), (1, 5), (3, 11), (5, 2), (9, 16)])
def test_every_shard_sees_strong_images_and_every_weak_image_is_dealt_once(strong, weak, shards):
    order = np.random.default_rng(0).permutation(strong + weak)
    strong_images, weak_images = deal(order[:strong].tolist(), order[strong:].tolist(), shards)
    assert len(strong_images) == len(weak_images) == shards
    assert set(strong_images.ravel()) == set(order[:strong])  # no empty slot, none forgotten
    dealt = weak_images[weak_images >= 0]
    assert sorted(dealt) == sorted(order[strong:])
    # Empty slots are the last of their shard, and shards differ by one image at most.
    assert (np.diff((weak_images >= 0).astype(int), axis=1) <= 0).all()
    counts = (weak_images >= 0).sum(1)
    assert counts.max() - counts.min() <= 1
    for images in strong_images:
        if strong >= shards:
            assert len(set(images)) == len(images)


def test_layout_of_the_state():
    examples = [example(str(i), seed=i) for i in range(6)]
    state, slots = load(examples, strong=[4, 1], number_of_classes=2, shards=2, multiple=4)
    np.testing.assert_array_equal(slots, [1, 0, 3, 4, 2, 5])  # shard 0: strong 1, weak 0 3; shard 1: strong 4, weak 2 5
    np.testing.assert_array_equal(state.strong, [True, False, False, True, False, False])
    np.testing.assert_array_equal(state.strong_slots, [[0], [0]])
    np.testing.assert_array_equal(state.weak_slots, [[1, 2], [1, 2]])
    np.testing.assert_array_equal(state.weak_count, [2, 2])
    assert state.image.shape == (6, 8, 8, 1)
    for slot, position in enumerate(slots):
        source = examples[position]
        np.testing.assert_array_equal(state.image[slot, :6, :7], source.image)
        np.testing.assert_array_equal(state.partial[slot, :6, :7], source.partial)
        np.testing.assert_array_equal(state.auxiliary[slot, :6, :7], source.auxiliary)
        np.testing.assert_array_equal(state.classes[slot], [0, 1, 2, 1, 2])  # the last two: a class without an instance
    dtypes = {"image": "float32", "inside": "bool", "full": "int16", "partial": "int16", "auxiliary": "int8"}
    dtypes |= {"classes": "int32", "rho": "float32", "outlined": "float32", "largest": "float32", "weak_count": "int32"}
    assert {name: getattr(state, name).dtype.name for name in dtypes} == dtypes


def test_masks_at_the_start():
    examples = [example(str(i)) for i in range(3)]
    state, slots = load(examples, [0], 2, 1, 4)
    np.testing.assert_array_equal(state.masks.current, state.partial)
    assert state.masks.current.dtype == np.int16
    for name, shape in {"age": (3, 8, 8), "held": (3, 5), "tally": (3, 2, BINS + 3), "updates": (3,)}.items():
        assert getattr(state.masks, name).shape == shape
        assert not getattr(state.masks, name).any()
    # Pseudo-labels begin with no statement, on weak images only and only in the image.
    state, _ = load(examples, [0], 2, 1, 4, unmarked=-1)
    np.testing.assert_array_equal(state.masks.current[0], state.partial[0])
    for slot in (1, 2):
        np.testing.assert_array_equal(
            state.masks.current[slot][:6, :7], np.where(examples[slot].partial > 0, examples[slot].partial, -1)
        )
        assert not state.masks.current[slot][~state.inside[slot]].any()


def test_full_maps_of_weak_images_are_nowhere_in_the_state():
    examples = [example(str(i), seed=i) for i in range(4)]
    shown, _ = load(examples, [2], 2, 2, 4)
    # The same set, had nobody ever outlined the weak images or had they outlined something else.
    hidden = [dataclasses.replace(e, full=None) if i != 2 else e for i, e in enumerate(examples)]
    other = [
        dataclasses.replace(e, full=np.where(e.full > 0, e.full, 1)) if i != 2 else e for i, e in enumerate(examples)
    ]
    for changed in (hidden, other):
        state, _ = load(changed, [2], 2, 2, 4)
        for field in dataclasses.fields(state):
            if field.name != "masks":
                np.testing.assert_array_equal(getattr(state, field.name), getattr(shown, field.name), field.name)
        np.testing.assert_array_equal(state.masks.current, shown.masks.current)
    assert not shown.full[~shown.strong].any()
    np.testing.assert_array_equal(shown.full[0, :6, :7], examples[2].full)


def test_mixed_sizes_are_padded():
    examples = [example("a", 6, 7), example("b", 9, 8), example("c", 7, 13)]
    examples[2] = dataclasses.replace(examples[2], valid=np.arange(13)[None] < 10 * np.ones((7, 1)))
    state, slots = load(examples, [1], 2, 1, 4)
    assert state.image.shape == (3, 12, 16, 1)
    for slot, position in enumerate(slots):
        h, w = examples[position].partial.shape
        inside = np.zeros((12, 16), bool)
        inside[:h, :w] = True
        np.testing.assert_array_equal(state.inside[slot], inside)
        np.testing.assert_array_equal(state.valid[slot][:h, :w], examples[position].valid)
        for name in ("valid", "full", "partial", "auxiliary"):
            assert not getattr(state, name)[slot][~inside].any(), name
        rows, columns = np.minimum(np.arange(12), h - 1), np.minimum(np.arange(16), w - 1)
        repeated = examples[position].image[rows[:, None], columns]  # the nearest pixel of the image
        np.testing.assert_array_equal(state.image[slot], repeated)
        assert not state.masks.current[slot][~inside].any()
    assert load(examples[:1], [0], 2, 1, 1)[0].image.shape == (1, 6, 7, 1)


def test_empty_slots_are_empty():
    examples = [example(str(i)) for i in range(4)]
    state, slots = load(examples, [0], 2, 2, 4)  # three weak images on two shards
    empty = slots < 0
    np.testing.assert_array_equal(slots, [0, 1, 3, 0, 2, -1])
    np.testing.assert_array_equal(state.weak_count, [2, 1])
    for name in ("image", "inside", "valid", "full", "partial", "auxiliary", "classes", "strong", "complete"):
        assert not np.asarray(getattr(state, name))[empty].any(), name


def test_complete_flag():
    examples = [example(str(i)) for i in range(3)]
    examples = [
        dataclasses.replace(examples[0], complete=False),
        dataclasses.replace(examples[1], complete=False),
        examples[2],
    ]
    state, slots = load(examples, [0], 2, 1, 4)
    # A full map says everything of its image, marked or not.
    assert dict(zip(slots.tolist(), state.complete.tolist(), strict=True)) == {0: True, 1: False, 2: True}


def test_rho_and_largest_by_hand():
    a, b = example("a"), example("b")
    full = b.full.copy()
    full[2:6, 0:3] = 3  # 12 pixels, of class 1
    b = dataclasses.replace(b, full=full, partial=np.where(full == 3, 3, b.partial), classes=np.array([0, 1, 2, 1]))
    # Class 1: marks 2 + 2 + 12 of 6 + 6 + 12 pixels; class 2: 3 + 3 of 9 + 9.
    rho, outlined, largest = mark_statistics({0: a, 1: b}, 2)
    np.testing.assert_allclose(rho, [16 / 24, 6 / 18], rtol=1e-6)
    np.testing.assert_array_equal(outlined, [3, 2])
    np.testing.assert_array_equal(largest, [12, 9])
    # Where the annotator did not look nothing counts: without row 4, id 2 has no mark left but 6 pixels.
    blind = dataclasses.replace(a, valid=np.arange(6)[:, None] * np.ones((1, 7)) != 4)
    rho, outlined, largest = mark_statistics({0: blind, 1: b}, 2)
    np.testing.assert_allclose(rho, [16 / 24, 3 / 15], rtol=1e-6)
    np.testing.assert_array_equal(outlined, [3, 2])
    # An object without a mark tells nothing of how large marks are: 2 + 2 of 6 + 6 pixels are left of class 1.
    overlooked = dataclasses.replace(b, partial=np.where(b.partial == 3, 0, b.partial), complete=False)
    np.testing.assert_allclose(mark_statistics({0: a, 1: overlooked}, 2)[0], [4 / 12, 6 / 18], rtol=1e-6)
    # A mark that spills over tells its whole area, but is cut to the outline where that is known.
    spilled = a.partial.copy()
    spilled[2, 0] = 1  # below the object
    spilling = dataclasses.replace(a, partial=spilled)
    np.testing.assert_allclose(mark_statistics({0: spilling}, 2)[0], [3 / 6, 3 / 9], rtol=1e-6)
    cut, uncut = (load([spilling, b], [strong], 2, 1, 4)[0] for strong in (0, 1))
    assert int((cut.partial == 1).sum()) == 2 + 2 and int((uncut.partial == 1).sum()) == 2 + 3
    # The state has the numbers of the strong images, each counted once although it is dealt to three shards.
    state, _ = load([a, b], [1], 2, 3, 4)
    np.testing.assert_allclose(state.rho, [14 / 18, 3 / 9], rtol=1e-6)
    np.testing.assert_array_equal(state.outlined, [2, 1])
    np.testing.assert_array_equal(state.largest, [12, 9])


def test_a_class_that_no_strong_image_shows():
    examples = [example("first", classes=(0, 1, 1)), example("second")]
    with pytest.raises(AnnotationError, match=r"No strong image \(first\) shows a marked object of class 2; outline"):
        load(examples, [0], 2, 1, 4)
    load(examples, [1], 2, 1, 4)


def wide(count):
    """An image with `count` objects of a pixel each."""
    side = int(np.ceil(np.sqrt(count)))
    ids = np.arange(1, side * side + 1).reshape(side, side)
    ids = np.where(ids <= count, ids, 0).astype(np.int32)
    return Example(
        name="dust",
        image=np.zeros((side, side, 1), np.float32),
        full=ids,
        partial=ids,
        valid=np.ones(ids.shape, bool),
        classes=np.array([0] + [1] * count, np.int32),
        auxiliary=np.zeros((side, side, 0), np.int8),
    )


def test_too_many_objects():
    for count in (32767, 33000):
        with pytest.raises(AnnotationError, match=str(count)):
            load([wide(count)], [0], 1, 1, 4)
    state, _ = load([wide(32700)], [0], 1, 1, 1)
    assert state.full.max() == 32700 and state.full.min() == 0


@pytest.mark.parametrize(
    ("changes", "strong", "sentence"),
    [
        ({}, [], "No image is strong"),
        ({}, [2], "must be different positions"),
        ({}, [0, 0], "must be different positions"),
        ({"full": None}, [1], "second: chosen as a strong image, but it has no full mask"),
        ({"image": np.zeros((6, 7, 2), np.float32)}, [0], "second: the image has 2 channels, but first has 1"),
        ({"image": np.full((6, 7, 1), np.nan, np.float32)}, [0], "second: the image holds 42 NaN"),
        ({"partial": np.zeros((6, 8), np.int32)}, [0], "second: the partial mask has shape"),
        ({"partial": np.zeros((6, 7), np.float32)}, [0], "second: the partial mask holds float32"),
        ({"classes": np.array([0, 1, 2, 2])}, [0], "second: object 3 has a class, but no pixel"),
        ({"classes": np.array([0, 1, 3])}, [0], "second: object 2 of the partial mask has class 3"),
        ({"auxiliary": np.zeros((6, 7, 2), np.int8)}, [0], "second: strokes for 2 auxiliary tasks, but first has 1"),
        ({"image": np.zeros((6, 7), np.float32)}, [0], "second: the image has shape"),
    ],
)
def test_what_is_refused(changes, strong, sentence):
    examples = [example("first"), dataclasses.replace(example("second"), **changes)]
    with pytest.raises(AnnotationError, match=sentence):
        load(examples, strong, 2, 1, 4)


def test_an_empty_set_is_refused():
    with pytest.raises(AnnotationError, match="empty"):
        load([], [0], 1, 1, 4)


def test_statistics_are_those_of_all_pixels():
    first, second = example("first", channels=2), example("second", channels=2, seed=1)
    second = dataclasses.replace(second, image=second.image[:3, :5] + 7)
    mean, std = statistics({0: first, 1: second})
    pixels = np.concatenate([first.image.reshape(-1, first.image.shape[2]), second.image.reshape(15, -1)])
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-6)
    flat = dataclasses.replace(first, image=np.full_like(first.image, 3.0))
    assert statistics({0: flat})[1] == (1.0,) * first.image.shape[2]
