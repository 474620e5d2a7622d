"""Scores against worked examples, slow obvious code, scikit-image and panoptica, and by their properties."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from rams_jax import metrics


def worked():
    """Truth 1 (8 pixels) is cut into 5 (6 of them) and 9 (2 of them and 2 outside); truth 2 (4 pixels) is missed."""
    truth, predicted = np.zeros((6, 8), np.int32), np.zeros((6, 8), np.int32)
    truth[0:2, 0:4] = 1
    truth[4:6, 0:2] = 2
    predicted[0:2, 0:3] = 5
    predicted[0:2, 3:5] = 9
    return truth, predicted


def blobs(seed, size=48, count=12):
    """Random rectangles, later ones on top; the prediction is the truth with shifted, lost, split and new objects."""
    rng = np.random.default_rng(seed)
    truth, predicted = np.zeros((size, size), np.int32), np.zeros((size, size), np.int32)
    for j in range(1, count + 1):
        r, c = rng.integers(0, size - 12, 2)
        h, w = rng.integers(3, 12, 2)
        truth[r : r + h, c : c + w] = j
        dr, dc = rng.integers(0, 3, 2)
        if rng.random() < 0.8:
            predicted[r + dr : r + h + dr, c + dc : c + w] = j + 100
            if rng.random() < 0.3:
                predicted[r + dr : r + h + dr, c + dc : c + w // 2] = j + 200
    predicted[size - 4 : size, size - 5 : size] = 7
    return truth, predicted


def slow_iou(truth, predicted):
    t, p = (np.unique(m[m > 0]) for m in (truth, predicted))
    return np.array(
        [[((truth == i) & (predicted == j)).sum() / ((truth == i) | (predicted == j)).sum() for j in p] for i in t]
    )


def test_pixels_worked():
    truth, predicted = worked()
    # truth 8 + 4 = 12, predicted 6 + 4 = 10, both 6 + 2 = 8, either 12 + 10 - 8 = 14
    counts = metrics.pixel_counts(truth > 0, predicted > 0, np.ones_like(truth, bool))
    assert counts == metrics.PixelCounts(8, 12, 10)
    assert counts.dice == pytest.approx(16 / 22)
    assert counts.iou == pytest.approx(8 / 14)
    assert counts.precision == pytest.approx(8 / 10)
    assert counts.recall == pytest.approx(8 / 12)


def test_pixels_only_valid_ones_count():
    truth, predicted = worked()
    valid = np.ones_like(truth, bool)
    valid[:, 0] = False  # takes 2 pixels of truth 1, 2 of truth 2 and 2 of predicted 5 (all inside truth 1)
    assert metrics.pixel_counts(truth > 0, predicted > 0, valid) == metrics.PixelCounts(6, 8, 8)


def test_matches_worked():
    # IoU(1, 5) = 6 / 8 matches; IoU(1, 9) = 2 / (8 + 4 - 2) does not; 2 is missed
    counts = metrics.match_counts(*worked())
    assert counts == metrics.MatchCounts(tp=1, fp=1, fn=1, iou=0.75)
    assert counts.pq == pytest.approx(0.75 / (1 + 0.5 + 0.5))
    assert counts.ap50 == pytest.approx(1 / 3)


def test_match_needs_more_than_half():
    truth, predicted = np.array([[1, 1, 1, 1]]), np.array([[4, 4, 0, 0]])  # IoU is 2 / 4
    assert metrics.match_counts(truth, predicted) == metrics.MatchCounts(0, 1, 1, 0.0)
    predicted[0, 2] = 4
    assert metrics.match_counts(truth, predicted) == metrics.MatchCounts(1, 0, 0, 0.75)


def test_aji_worked():
    # 1 takes 5: 6 / 8; 2 has no overlap: union + 4; 9 is taken by none: union + 4
    counts = metrics.aji_counts(*worked())
    assert counts == metrics.AjiCounts(6, 16)
    assert counts.aji == pytest.approx(0.375)


def test_aji_lets_two_objects_take_the_same_prediction():
    truth, predicted = np.array([[1, 1, 2, 2]]), np.array([[3, 3, 3, 3]])
    # twice intersection 2 and union 4
    assert metrics.aji_counts(truth, predicted) == metrics.AjiCounts(4, 8)


def test_aji_takes_the_largest_iou_not_the_largest_intersection():
    truth = np.array([[1] * 6 + [0] * 8])
    predicted = np.array([[1] * 2 + [2] * 12])  # IoU 2 / 6 = 0.33 against 4 / 14 = 0.29; intersections 2 against 4
    # takes 1: intersection 2, union 6; the other is unused: union + 12
    assert metrics.aji_counts(truth, predicted) == metrics.AjiCounts(2, 18)


def test_object_dice_worked():
    # truth: 1 with 5: 12 / 14, area 8; 2: 0, area 4 -> (48 / 7) / 12 = 4 / 7
    # predicted: 5 with 1: 6 / 7, area 6; 9 with 1: 4 / 12, area 4 -> (36 / 7 + 4 / 3) / 10 = 68 / 105
    assert metrics.object_dice_sums(*worked()).object_dice == pytest.approx(0.5 * (60 / 105 + 68 / 105))


def test_object_hausdorff_worked():
    # truth: 1 with 5: column 3 is 1 away, area 8; 2 overlaps nothing, 5 is nearest: (0, 2) to (4, 1), sqrt(17), area 4
    # predicted: 5 with 1: 1, area 6; 9 with 1: column 0 is 3 from column 3, area 4
    expected = 0.5 * ((8 * 1 + 4 * 17**0.5) / 12 + (6 * 1 + 4 * 3) / 10)
    assert metrics.object_hausdorff_sums(*worked()).object_hausdorff == pytest.approx(expected)


def test_hausdorff_is_between_all_pixels_not_contours():
    truth, predicted = np.ones((5, 5), np.int32), np.zeros((5, 5), np.int32)
    truth[1:4, 1:4] = 0
    predicted[1:4, 1:4] = 1
    # a 3 x 3 square in the hole of a frame: its centre is 2 from the frame, more than any pixel of its contour
    assert metrics.object_hausdorff_sums(truth, predicted).object_hausdorff == pytest.approx(2.0)


def test_hausdorff_with_objects_on_one_side_is_the_diagonal():
    truth, predicted = np.zeros((30, 40), np.int32), np.zeros((30, 40), np.int32)
    truth[3:5, 3:5] = 1
    assert metrics.object_hausdorff_sums(truth, predicted).object_hausdorff == pytest.approx(50.0)
    assert metrics.object_hausdorff_sums(predicted, truth).object_hausdorff == pytest.approx(50.0)


def test_an_object_that_fills_the_image():
    truth, predicted = np.ones((4, 5), np.int32), np.ones((4, 5), np.int32)
    assert metrics.object_hausdorff_sums(truth, predicted).object_hausdorff == 0
    predicted[:, 2:] = 0  # column 4 is 3 from column 1
    assert metrics.object_hausdorff_sums(truth, predicted).object_hausdorff == pytest.approx(3.0)


def test_invalid_pixels_become_background():
    truth, predicted = worked()
    valid = np.ones_like(truth, bool)
    valid[:, 0] = False
    before = truth.copy()
    seen_truth, seen = metrics.hide_invalid(truth, predicted, valid)
    np.testing.assert_array_equal(truth, before)
    assert seen_truth.dtype == truth.dtype
    # 2 of the 6 pixels of predicted 5 are gone; 2 of the 4 of truth 2: half is left of it, and it stays
    assert [(seen_truth == j).sum() for j in (1, 2)] == [6, 2]
    assert [(seen == j).sum() for j in (5, 9)] == [4, 4]


@pytest.mark.parametrize(("hidden", "left"), [(2, 2), (3, 0)])
def test_a_prediction_more_than_half_invalid_is_dropped(hidden, left):
    truth, predicted = np.zeros((1, 6), np.int32), np.array([[3, 3, 3, 3, 0, 0]])
    valid = np.arange(6)[None] >= hidden
    assert (metrics.hide_invalid(truth, predicted, valid)[1] > 0).sum() == left


def test_a_prediction_more_than_half_invalid_stays_if_the_rest_matches():
    truth, predicted = np.array([[0, 0, 0, 2, 2, 0]]), np.array([[3, 3, 3, 3, 3, 0]])
    valid = np.arange(6)[None] >= 3
    seen_truth, seen = metrics.hide_invalid(truth, predicted, valid)
    assert metrics.match_counts(seen_truth, seen) == metrics.MatchCounts(1, 0, 0, 1.0)


def scores(truth, predicted):
    pixels = metrics.pixel_counts(truth > 0, predicted > 0, np.ones(truth.shape, bool))
    matches = metrics.match_counts(truth, predicted)
    return {
        "dice": pixels.dice,
        "iou": pixels.iou,
        "pq": matches.pq,
        "ap50": matches.ap50,
        "aji": metrics.aji_counts(truth, predicted).aji,
        "object_dice": metrics.object_dice_sums(truth, predicted).object_dice,
        "object_hausdorff": metrics.object_hausdorff_sums(truth, predicted).object_hausdorff,
    }


def test_perfect_and_empty():
    truth, _ = blobs(0)
    nothing = np.zeros_like(truth)
    perfect = {"dice": 1, "iou": 1, "pq": 1, "ap50": 1, "aji": 1, "object_dice": 1, "object_hausdorff": 0}
    assert scores(truth, truth) == perfect
    assert scores(nothing, nothing) == perfect
    worst = dict.fromkeys(perfect, 0) | {"object_hausdorff": pytest.approx(np.hypot(*truth.shape))}
    assert scores(truth, nothing) == worst
    assert scores(nothing, truth) == worst


@pytest.mark.parametrize("seed", range(4))
def test_ids_carry_no_meaning(seed):
    truth, predicted = blobs(seed)
    rng = np.random.default_rng(seed)
    renamed = [np.r_[0, 1 + rng.permutation(400)][m] for m in (truth, predicted)]
    assert scores(*renamed) == pytest.approx(scores(truth, predicted))


@pytest.mark.parametrize("seed", range(4))
def test_symmetry(seed):
    truth, predicted = blobs(seed)
    one, other = scores(truth, predicted), scores(predicted, truth)
    for name in one.keys() - {"aji"}:  # AJI is about the true objects' partners
        assert one[name] == pytest.approx(other[name])


@pytest.mark.parametrize("seed", range(4))
def test_matches_equal_an_optimal_assignment(seed):
    truth, predicted = blobs(seed)
    iou = slow_iou(truth, predicted)
    rows, columns = linear_sum_assignment(-np.where(iou > 0.5, iou, 0))
    kept = iou[rows, columns][iou[rows, columns] > 0.5]
    counts = metrics.match_counts(truth, predicted)
    assert counts.tp == len(kept) > 0
    assert counts.iou == pytest.approx(kept.sum())
    assert (counts.tp + counts.fn, counts.tp + counts.fp) == iou.shape


@pytest.mark.parametrize(
    ("seed", "counts", "pq", "dice"),
    [
        (0, (5, 7, 7), 0.3101420454545455, 0.7355769230769231),
        (1, (6, 9, 6), 0.3057730121193245, 0.7924130663856691),
        (2, (2, 12, 10), 0.10235427420370138, 0.606826801517067),
        (3, (7, 8, 5), 0.357519610737067, 0.8479834539813857),
    ],
)
def test_panoptica_agrees(seed, counts, pq, dice):
    """Values of panoptica 2.1.7 (unmatched instances, naive matching above 0.5, binary Dice) on `blobs(seed)`.

    It is not installed with the tests, because it pins an old NumPy.
    """
    truth, predicted = blobs(seed)
    found = metrics.match_counts(truth, predicted)
    assert (found.tp, found.fp, found.fn) == counts
    assert found.pq == pytest.approx(pq)
    assert scores(truth, predicted)["dice"] == pytest.approx(dice)


@pytest.mark.parametrize("seed", range(4))
def test_aji_equals_slow_code(seed):
    truth, predicted = blobs(seed)
    iou = slow_iou(truth, predicted)
    t, p = (np.unique(m[m > 0]) for m in (truth, predicted))
    intersection = union = 0
    used = set()
    for i, row in zip(t, iou, strict=True):
        if row.max() == 0:
            union += (truth == i).sum()
            continue
        j = p[row.argmax()]
        used.add(j)
        intersection += ((truth == i) & (predicted == j)).sum()
        union += ((truth == i) | (predicted == j)).sum()
    union += sum((predicted == j).sum() for j in p if j not in used)
    assert metrics.aji_counts(truth, predicted) == metrics.AjiCounts(intersection, union)


@pytest.mark.parametrize("seed", range(4))
def test_object_scores_equal_slow_code_with_scikit_image(seed):
    from skimage.metrics import hausdorff_distance

    truth, predicted = blobs(seed)

    def sides(own, others):
        dice = distance = 0.0
        for i in np.unique(own[own > 0]):
            a = own == i
            ids, counts = np.unique(others[a & (others > 0)], return_counts=True)
            if len(ids):
                b = others == ids[counts.argmax()]
                dice += a.sum() * 2 * (a & b).sum() / (a.sum() + b.sum())
                distance += a.sum() * hausdorff_distance(a, b)
            else:
                distance += a.sum() * min(hausdorff_distance(a, others == j) for j in np.unique(others[others > 0]))
        return dice / (own > 0).sum(), distance / (own > 0).sum()

    expected = np.mean([sides(truth, predicted), sides(predicted, truth)], axis=0)
    assert metrics.object_dice_sums(truth, predicted).object_dice == pytest.approx(expected[0])
    assert metrics.object_hausdorff_sums(truth, predicted).object_hausdorff == pytest.approx(expected[1])


@pytest.mark.parametrize("function", ["match_counts", "aji_counts", "object_dice_sums"])
def test_adding_equals_scoring_the_images_side_by_side(function):
    score = getattr(metrics, function)
    pairs = [blobs(seed) for seed in range(3)]
    apart = sum((score(*pair) for pair in pairs[1:]), start=score(*pairs[0]))
    beside = [
        np.hstack([np.where(m > 0, m + 1000 * i, 0) for i, m in enumerate(side)]) for side in zip(*pairs, strict=True)
    ]
    together = score(*beside)
    for name, value in vars(together).items():
        assert getattr(apart, name) == pytest.approx(value)
    assert together + type(together)() == together


def test_pixels_and_distances_add():
    assert metrics.PixelCounts(1, 2, 3) + metrics.PixelCounts(10, 20, 30) == metrics.PixelCounts(11, 22, 33)
    # areas 10 and 30 with mean distances 2 and 6 on the truth's side: (20 + 180) / 40; on the other 5
    total = metrics.ObjectHausdorffSums(20, 10, 5, 1) + metrics.ObjectHausdorffSums(180, 30, 0, 0)
    assert total.object_hausdorff == pytest.approx(0.5 * (5 + 5))
    with pytest.raises(TypeError):
        metrics.PixelCounts() + metrics.AjiCounts()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="must be equal"):
        metrics.match_counts(np.zeros((2, 3), int), np.zeros((3, 3), int))
