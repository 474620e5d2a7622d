"""Scores over several images: pooling, classes, invalid pixels, and what cannot be scored."""

import dataclasses
import math

import numpy as np
import pytest

from rams_jax.annotations import AnnotationError
from rams_jax.evaluate import mask_counts, score_instances, score_masks
from rams_jax.types import Example

NAMES = ["dice", "iou", "aji", "pq", "ap50", "object_dice", "object_hausdorff"]


def example(full, classes=None, partial=None, valid=None):
    full = np.array(full, np.int32)
    classes = np.minimum(np.arange(full.max() + 1), 1) if classes is None else np.array(classes)
    return Example(
        name="plate-3",
        image=np.zeros((*full.shape, 1), np.float32),
        full=full,
        partial=full if partial is None else np.array(partial, np.int32),
        valid=np.ones(full.shape, bool) if valid is None else np.array(valid, bool),
        classes=classes.astype(np.int32),
        auxiliary=np.zeros((*full.shape, 0), np.int8),
    )


ROW = example([[1, 1, 1, 1, 0, 2, 2, 0]])
FOUND, FOUND_CLASSES = np.array([[1, 1, 1, 0, 0, 0, 0, 2]]), np.array([0, 1, 1])


def test_worked_image():
    # truth 4 + 2 pixels, found 3 + 1, common 3; IoU(1, 1) = 3 / 4 matches, one missed, one invented
    # AJI: 3 / (4 + 2 missed + 1 invented). Object Dice: (4 x 6/7 + 0) / 6 = 4/7 and (3 x 6/7 + 0) / 4 = 9/14
    # Hausdorff: 1 with 1 is 1; truth 2 (5, 6) with found 2 (7) is 2 -> (4 x 1 + 2 x 2) / 6;
    # found 2 with truth 2 is 2 -> (3 x 1 + 1 x 2) / 4
    assert score_instances([ROW], [FOUND], [FOUND_CLASSES], 1) == {
        "dice": pytest.approx(6 / 10),
        "iou": pytest.approx(3 / 7),
        "aji": pytest.approx(3 / 7),
        "pq": pytest.approx(0.75 / 2),
        "ap50": pytest.approx(1 / 3),
        "object_dice": pytest.approx((4 / 7 + 9 / 14) / 2),
        "object_hausdorff": pytest.approx((8 / 6 + 5 / 4) / 2),
    }


def test_images_are_pooled_not_averaged():
    other = example(np.ones((10, 10)))
    scores = score_instances([ROW, other], [FOUND, np.ones((10, 10), int)], [FOUND_CLASSES, np.array([0, 1])], 1)
    assert scores["dice"] == pytest.approx(206 / 210)  # mean of the images would be 0.8
    assert scores["pq"] == pytest.approx(1.75 / 3)
    assert scores["aji"] == pytest.approx(103 / 107)


def test_an_empty_image_adds_only_what_was_invented():
    empty = example(np.zeros((1, 8)))
    nothing = score_instances([ROW, empty], [FOUND, np.zeros((1, 8), int)], [FOUND_CLASSES, np.array([0])], 1)
    assert nothing == score_instances([ROW], [FOUND], [FOUND_CLASSES], 1)
    invented = score_instances([ROW, empty], [FOUND, FOUND], [FOUND_CLASSES, FOUND_CLASSES], 1)
    assert invented["pq"] == pytest.approx(0.75 / (1 + 1.5 + 0.5))


def test_all_empty_is_perfect():
    empty = example(np.zeros((4, 4)))
    scores = score_instances([empty], [np.zeros((4, 4), int)], [np.array([0])], 1)
    assert scores == dict.fromkeys(NAMES, 1) | {"object_hausdorff": 0}


def test_objects_match_within_their_class_only():
    truth = example([[1, 1, 1, 0, 2, 2, 2, 2]], classes=[0, 1, 2])
    found = np.array([[2, 2, 2, 0, 1, 1, 1, 1]])  # other ids
    right = score_instances([truth], [found], [np.array([0, 2, 1])], 3)
    assert [right[name] for name in NAMES] == [1, 1, 1, 1, 1, 1, 0]
    assert right["dice_1"] == right["pq_2"] == 1
    assert all(math.isnan(right[f"{name}_3"]) for name in NAMES)  # and the mean is over the other two
    swapped = score_instances([truth], [found], [np.array([0, 1, 2])], 3)
    assert [swapped[name] for name in NAMES[:6]] == [0] * 6


def test_the_mean_is_over_classes_not_objects():
    truth = example([[1, 0, 2, 0, 3, 0, 4, 0]], classes=[0, 1, 1, 1, 2])
    found = np.array([[1, 0, 2, 0, 3, 0, 0, 0]])
    scores = score_instances([truth], [found], [np.array([0, 1, 1, 1])], 2)
    assert (scores["ap50_1"], scores["ap50_2"], scores["ap50"]) == (1, 0, 0.5)


def test_invalid_pixels_do_not_count():
    seen = example([[1, 1, 1, 1, 0, 0, 0, 0]], valid=[[1, 1, 1, 1, 1, 0, 0, 0]])
    scores = score_instances([seen], [np.array([[1, 1, 1, 1, 2, 2, 2, 0]])], [np.array([0, 1, 1])], 1)
    assert scores["pq"] == scores["ap50"] == scores["object_dice"] == 1  # 2 lies mostly where nobody looked
    assert scores["dice"] == pytest.approx(8 / 9)  # but its valid pixel is a wrong one


def test_masks_worked():
    truth = example(
        [[1, 1, 1, 1, 2, 2, 0, 3]],
        partial=[[0, 1, 0, 0, 2, 0, 0, 0]],  # 3 carries no mark: it is not wanted
        valid=[[0, 1, 1, 1, 1, 1, 1, 1]],
    )
    mask = np.array([[1, 1, 1, 2, 2, -1, 2, 3]])
    # claimed on valid pixels: columns 1 2 3 4 6 7 = 6; wanted: 1 2 3 4 5 = 5;
    # right: 1 2 4 = 3 (column 3 has the neighbour's id, 6 is background, 7 belongs to an object without a mark)
    expected = {"precision": 3 / 6, "recall": 3 / 5, "dice": 6 / 11}
    assert score_masks(mask_counts([truth], [mask])) == pytest.approx(expected)
    # pooled with an image of 8 right pixels of 8
    both = score_masks(mask_counts([truth, example([[1] * 8])], [mask, np.ones((1, 8), int)]))
    assert both == pytest.approx({"precision": 11 / 14, "recall": 11 / 13, "dice": 22 / 27})


def test_masks_perfect_and_empty():
    assert score_masks(mask_counts([ROW], [ROW.full])) == {"precision": 1, "recall": 1, "dice": 1}
    assert score_masks(mask_counts([ROW], [np.zeros((1, 8), int)])) == {"precision": 0, "recall": 0, "dice": 0}
    empty = example(np.zeros((1, 8)))
    assert score_masks(mask_counts([empty], [np.zeros((1, 8), int)])) == {"precision": 1, "recall": 1, "dice": 1}
    assert score_masks(mask_counts([empty], [np.ones((1, 8), int)])) == {"precision": 0, "recall": 0, "dice": 0}


def test_what_cannot_be_scored():
    weak = dataclasses.replace(ROW, full=None)
    with pytest.raises(AnnotationError, match="plate-3 has no full masks"):
        score_instances([weak], [FOUND], [FOUND_CLASSES], 1)
    with pytest.raises(AnnotationError, match="plate-3 has no full masks"):
        score_masks(mask_counts([weak], [FOUND]))
    with pytest.raises(AnnotationError, match=r"shape \(2, 8\)"):
        score_masks(mask_counts([ROW], [np.zeros((2, 8), int)]))
    with pytest.raises(AnnotationError, match="class 2 occurs"):
        score_instances([ROW], [FOUND], [np.array([0, 1, 2])], 1)
    with pytest.raises(AnnotationError, match="no image"):
        score_instances([], [], [], 1)
    with pytest.raises(ValueError, match="2 examples and 1 instance maps"):
        score_instances([ROW, ROW], [FOUND], [FOUND_CLASSES], 1)
