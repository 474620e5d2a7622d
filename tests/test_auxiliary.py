import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import find_boundaries

from rams_jax import config
from rams_jax.datasets import auxiliary, partial
from rams_jax.types import NO, UNKNOWN, YES

EIGHT = np.ones((3, 3), bool)
NO_MARKS = np.zeros((0, 0), np.int32)  # tasks that strokes are drawn for do not look at them
WITH_STROKES = tuple(name for name, task in auxiliary.TASKS.items() if task.unmarked == UNKNOWN)


def test_the_names_are_those_of_the_configuration():
    assert tuple(auxiliary.TASKS) == config.AUXILIARY


def test_interfaces_by_hand():
    valid = np.ones((3, 10), bool)
    valid[:, 9] = False
    U, N, Y = UNKNOWN, NO, YES
    for row, expected in (
        # Objects that touch: the pixels on both sides of the contact.
        ([1, 1, 1, 2, 2, 2, 0, 0, 0, 0], [N, N, Y, Y, N, N, N, N, N, U]),
        # One, two and three pixels apart: the gap, as far as both objects are within two pixels.
        ([1, 1, 0, 2, 2, 2, 0, 0, 0, 0], [N, N, Y, N, N, N, N, N, N, U]),
        ([1, 1, 0, 0, 2, 2, 0, 0, 0, 0], [N, N, Y, Y, N, N, N, N, N, U]),
        ([1, 1, 0, 0, 0, 2, 2, 0, 0, 0], [N, N, N, Y, N, N, N, N, N, U]),
        # Four apart: no pixel is within two of both.
        ([1, 1, 0, 0, 0, 0, 2, 2, 0, 0], [N, N, N, N, N, N, N, N, N, U]),
        # Three objects; ids do not matter.
        ([7, 7, 0, 3, 3, 0, 5, 5, 0, 0], [N, N, Y, N, N, Y, N, N, N, U]),
    ):
        result = auxiliary.interfaces(np.array([row] * 3, np.int32), NO_MARKS, valid)[..., 0]
        assert result.dtype == np.int8
        np.testing.assert_array_equal(result, [expected] * 3)


def test_interfaces_against_distances_to_every_object():
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.standard_normal((60, 60)), 2) > 0.03
    full = ndimage.label(blobs)[0].astype(np.int32)
    full[:, 30:][full[:, 30:] > 0] += 100  # cut in the middle: some touch
    ids = np.unique(full[full > 0])
    distance = np.sort([ndimage.distance_transform_edt(full != i) for i in ids], axis=0)
    expected = np.where(full > 0, distance[1] < 1.5, distance[1] <= 2)
    result = auxiliary.interfaces(full, NO_MARKS, np.ones(full.shape, bool))[..., 0]
    np.testing.assert_array_equal(result == YES, expected)
    assert expected.sum() > 50


def test_strokes_are_sparse_and_true():
    full = np.kron(np.arange(1, 101).reshape(10, 10), np.ones((9, 9), int)).astype(np.int32)
    full[:, ::9], full[::9] = 0, 0  # 8 x 8 objects, one pixel apart
    full[:, 45:48] = 0
    interfaces = auxiliary.interfaces(full, NO_MARKS, np.ones(full.shape, bool))[..., 0]
    marks = partial.draw_partial(full, 0)
    rng = np.random.default_rng(7)
    drawn = auxiliary.pieces(interfaces[..., None], marks, rng, share=0.5)[..., 0]
    assert (interfaces[drawn] == YES).all()
    pieces, count = ndimage.label(interfaces == YES, EIGHT)
    whole = [np.unique(drawn[pieces == i]).tolist() for i in range(1, count + 1)]
    assert all(len(values) == 1 for values in whole), "an interface is drawn whole or not at all"
    assert not auxiliary.pieces(interfaces[..., None], marks, rng, share=0.0).any()
    everything = auxiliary.pieces(interfaces[..., None], marks, rng, share=1.0)[..., 0]
    np.testing.assert_array_equal(everything, interfaces == YES)


def blobs(seed=0):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((60, 70)), 3)
    return ndimage.label(smooth > 0.06)[0].astype(np.int32)


def test_boundaries_are_those_of_scikit_image():
    full = blobs()
    result = auxiliary.boundaries(full, NO_MARKS, np.ones(full.shape, bool))[..., 0]
    np.testing.assert_array_equal(result == YES, find_boundaries(full, connectivity=1, mode="thick"))


@pytest.mark.parametrize("task", WITH_STROKES)
def test_what_a_person_says_is_sparse_and_true(task):
    full = blobs()
    full += (100 * (np.arange(70) // 12) * (full > 0)).astype(np.int32)  # cut: the pieces touch
    valid = np.ones(full.shape, bool)
    valid[:, 60:] = False
    marks = partial.draw_partial(full, 0, valid=valid)
    truth = auxiliary.answer_all(full, marks, valid, (task,))
    assert set(np.unique(truth[valid])) == {NO, YES}
    assert (truth[~valid] == UNKNOWN).all()
    said = auxiliary.answer_some(full, marks, valid, (task,), {}, True, 0)
    known = said != UNKNOWN
    assert (said[known] == truth[known]).all()
    assert 0 < (said == YES).sum() < 0.9 * (truth == YES).sum()
    np.testing.assert_array_equal(said == NO, (marks > 0)[..., None] & (truth == NO))
    np.testing.assert_array_equal(said, auxiliary.answer_some(full, marks, valid, (task,), {}, True, 0))
    assert (said != auxiliary.answer_some(full, marks, valid, (task,), {}, True, 1)).any()


def test_drawn_strokes_win_and_marks_are_no():
    marks = np.array([[0, 0, 1, 1]], np.int32)
    drawn = auxiliary.read_strokes(np.array([[1, 0, 0, 1]]), "background")
    np.testing.assert_array_equal(drawn[..., 0], [[YES, UNKNOWN, UNKNOWN, YES]])
    valid = np.ones(marks.shape, bool)
    said = auxiliary.answer_some(None, marks, valid, ("background", "separation"), {"background": drawn}, True, 0)
    np.testing.assert_array_equal(said[0], [[YES, UNKNOWN], [UNKNOWN, UNKNOWN], [NO, NO], [YES, NO]])
    np.testing.assert_array_equal(
        auxiliary.read_strokes(np.array([[0, 1, 2]]), "separation")[0, :, 0], [UNKNOWN, YES, NO]
    )
    with pytest.raises(ValueError, match="strokes for separation hold 3, but may hold 0 to 2 only"):
        auxiliary.read_strokes(np.array([[3]]), "separation")


def test_an_empty_image_is_background():
    empty = np.zeros((20, 30), np.int32)
    said = auxiliary.answer_some(empty, empty, empty == 0, tuple(auxiliary.TASKS), {}, True, 0)
    assert not (said[..., :2] == YES).any() and (said[..., 2] == YES).sum() > 20


def test_the_interior_is_where_the_marks_are():
    # Objects 1 and 2; only 1 is marked. The last pixel was not looked at.
    full = np.array([[1, 1, 1, 0, 0, 2, 2, 0]], np.int32)
    marks = np.array([[0, 1, 0, 0, 0, 0, 0, 0]], np.int32)
    valid = np.arange(8)[None] < 7
    U, N, Y = UNKNOWN, NO, YES

    def said(full, complete):
        return auxiliary.answer_some(full, marks, valid, ("interior",), {}, complete, 0)[0, :, 0].tolist()

    # The outlines say what is background, but not where a person would have marked object 2.
    assert auxiliary.answer_all(full, marks, valid, ("interior",))[0, :, 0].tolist() == [N, Y, N, N, N, U, U, U]
    assert said(None, True) == said(full, True) == [N, Y, N, N, N, N, N, U], "every object is said to be marked"
    assert said(None, False) == said(full, False) == [U, Y, U, U, U, U, U, U]
    drawn = auxiliary.read_strokes(np.array([[1, 2, 0, 0, 0, 0, 0, 0]]), "interior")
    corrected = auxiliary.answer_some(None, marks, valid, ("interior",), {"interior": drawn}, False, 0)
    assert corrected[0, :3, 0].tolist() == [Y, N, U]


def test_channels_and_their_uses():
    assert auxiliary.channels(("separation", "interior", "background"), "begins") == (1,)
    tasks = ("background", "separation", "boundary")
    assert auxiliary.channels(tasks) == (0, 1, 2) and auxiliary.channels(()) == ()
    assert auxiliary.channels(tasks, "closes") == (0,) and auxiliary.channels(tasks, "shares") == (1,)
    assert auxiliary.channels(tasks, "divides") == (1, 2)
    assert auxiliary.weights(tasks) == (1.0, 1.0, 1.0)
