"""What each label rule teaches, worked out by hand on a row of eight pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rams_jax import baselines
from rams_jax.types import BINS, Annotation, Batch, EvolutionSettings, Level, LossSettings, Predictions, View

LABELLING = ("pseudo", "scribble2label", "seedgrow", "threestage")
LOSS = LossSettings(approximation=1.0, auxiliary=(0.0,), weak=0.5)
FULL = [0, 1, 1, 1, 0, 2, 2, 0]
PARTIAL = [0, 0, 1, 0, 0, 2, 0, 0]
CURRENT = [0, 1, 1, 0, 0, 2, 0, 0]
VALID = [1, 1, 1, 1, 1, 1, 1, 0]  # nobody looked at the last pixel


def batch(strong, complete, current=CURRENT):
    """One crop of 1 x 8 pixels; a weak one has no full map."""

    def maps(values, dtype=jnp.int32):
        return jnp.asarray(values, dtype)[None, None]

    return Batch(
        image=jnp.zeros((1, 1, 8, 1)),
        inside=jnp.ones((1, 1, 8), bool),
        valid=maps(VALID, bool),
        full=maps(FULL if strong else [0] * 8),
        partial=maps(PARTIAL),
        current=maps(current),
        auxiliary=jnp.zeros((1, 1, 8, 0), jnp.int8),
        strong=jnp.array([strong]),
        complete=jnp.array([complete]),
        slot=jnp.array([0]),
    )


STRONG, WEAK, INCOMPLETE = (True, True), (False, True), (False, False)


def check_targets(targets, segmentation, known, masks, approximation_weight):
    """Rows of eight values; labels count only where there is weight."""
    known = np.array(known)
    np.testing.assert_array_equal(targets.segmentation_weight[0, 0], known)
    expected = np.array(segmentation)[known > 0][:, None] == np.arange(3)
    np.testing.assert_array_equal(np.asarray(targets.segmentation[0, 0])[known > 0], expected)
    expected = np.array([[m == 1, m == 2] for m in masks], float)
    np.testing.assert_array_equal(targets.approximation[0, 0], expected)
    weight = np.broadcast_to(np.asarray(targets.approximation_weight), (1, 1, 8, 2))[0, 0]
    np.testing.assert_array_equal(weight, np.array(approximation_weight)[:, None] * [1, 1])


NONE, ALL = [0] * 8, VALID


def view(progress=0.5, chance=0.25, p=0.0, q=0.0):
    """Two classes; what is said of class 1 is said of class 2 nowhere."""
    maps = [jnp.zeros((1, 1, 8, 2)).at[..., 0].set(jnp.array(x)) for x in (p, q)]
    return View(jnp.float32(progress), jnp.float32(chance), Predictions(*maps, jnp.zeros((1, 1, 8, 0))))


VIEW = view()


@pytest.mark.parametrize("rule", ["full", "strong", "multitask"])
def test_outlines(rule):
    targets = baselines.RULES[rule].targets
    # On strong images p learns Y and q the current masks.
    check_targets(targets(batch(*STRONG), 2, LOSS, VIEW), FULL, ALL, CURRENT, ALL)
    # On weak ones p learns nothing.
    check_targets(targets(batch(*WEAK), 2, LOSS, VIEW), NONE, NONE, CURRENT, ALL)
    # Not all objects are marked: nothing is background.
    marked = [0, 1, 1, 0, 0, 1, 0, 0]
    check_targets(targets(batch(*INCOMPLETE), 2, LOSS, VIEW), NONE, NONE, CURRENT, marked)


def test_recursive():
    targets = baselines.RULES["rams"].targets
    check_targets(targets(batch(*STRONG), 2, LOSS, VIEW), FULL, ALL, CURRENT, ALL)
    # Masks at 1, 2 and 5; background at 0; at 4 class 2 is taken for sure, which q does not learn; 7 is not valid.
    found = [0, 1, 1, -1, -3, 2, -1, 0]
    # Of the masks p learns the marks, at 2 and 5, and what it takes for their class by a half or more.
    labels, half, apart = [0, 1, 1, 0, 2, 2, 0, 0], [0.5, 0.5, 0.5, 0, 0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0, 0.5, 0.5, 0, 0]
    check_targets(targets(batch(*WEAK, found), 2, LOSS, view(p=0.5)), labels, half, CURRENT, ALL)
    check_targets(targets(batch(*WEAK, found), 2, LOSS, view(p=0.49)), labels, apart, CURRENT, ALL)
    marked = [0, 1, 1, 0, 0, 1, 0, 0]
    check_targets(targets(batch(*INCOMPLETE, found), 2, LOSS, view(p=0.5)), labels, half, CURRENT, marked)
    # The paper's setting.
    none = LossSettings(approximation=1.0, auxiliary=(0.0,), weak=0.0)
    check_targets(targets(batch(*WEAK, found), 2, none, VIEW), NONE, NONE, CURRENT, ALL)


def test_naive():
    targets = baselines.RULES["naive"].targets
    check_targets(targets(batch(*STRONG), 2, LOSS, VIEW), FULL, ALL, PARTIAL, ALL)
    check_targets(targets(batch(*WEAK), 2, LOSS, VIEW), PARTIAL, ALL, PARTIAL, ALL)


def test_ignore():
    targets = baselines.RULES["ignore"].targets
    marked = [0, 0, 1, 0, 0, 1, 0, 0]
    check_targets(targets(batch(*STRONG), 2, LOSS, VIEW), FULL, ALL, PARTIAL, ALL)
    check_targets(targets(batch(*WEAK), 2, LOSS, VIEW), PARTIAL, marked, PARTIAL, ALL)
    check_targets(targets(batch(*INCOMPLETE), 2, LOSS, VIEW), PARTIAL, marked, PARTIAL, marked)


def test_pseudo():
    targets = baselines.RULES["pseudo"].targets
    opinion = [0, -1, 1, 1, -1, 2, -1, 0]
    check_targets(targets(batch(*STRONG), 2, LOSS, VIEW), FULL, ALL, PARTIAL, ALL)
    check_targets(
        targets(batch(*WEAK, opinion), 2, LOSS, VIEW),
        [0, 9, 1, 1, 9, 2, 9, 0],
        [1, 0, 1, 1, 0, 1, 0, 0],
        PARTIAL,
        ALL,
    )


SETTINGS = EvolutionSettings(1, 0.2, 0.8, 1.0, 15.0, 0.5, 0.0, 0.3, 0.5, 3, False, 0.02, 3.0, 2.0, (), ())


# background, class 1, class 2 of six pixels in the image, and of two of padding
ROW = [
    (0.95, 0.03, 0.02),
    (0.05, 0.92, 0.03),
    (0.02, 0.03, 0.95),
    (0.3, 0.6, 0.1),
    (0.03, 0.02, 0.95),
    (0.98, 0.01, 0.01),
    (0.01, 0.98, 0.01),
    (0.98, 0.01, 0.01),
]


def opinion(
    progress, strong=False, update=baselines.pseudo_labels, p=ROW, average=None, complete=True, beyond=0.0, rho=0.3
):
    """Labels of one row: six pixels of the image, two of padding; ids 1 and 2 of classes 2 and 1."""
    p = jnp.array(p)[None, :, 1:]
    note = Annotation(
        inside=jnp.array([[True] * 6 + [False] * 2]),
        full=jnp.array([[0, 0, 1, 1, 0, 2, 0, 0]]),
        partial=jnp.array([[0, 0, 1, 0, 0, 2, 0, 0]]),
        current=jnp.array([[-1, -1, 1, -1, -1, 2, 0, 0]]),
        classes=jnp.array([0, 2, 1, 1, 2]),  # ids 3 and 4: class 1 and 2 without an instance
        strong=jnp.array(strong),
        complete=jnp.array(complete),
        average=average,
    )
    predictions = Predictions(p, jnp.full_like(p, 0.5), jnp.zeros((1, 8, 0)))
    level = Level(
        jnp.float32(progress),
        jnp.full(2, rho),
        jnp.full(2, 0.5),
        jnp.full(2, 0.5),
        jnp.full(2, beyond),
        jnp.full(2, 9.0),
    )
    return update(predictions, note, level, SETTINGS)


# Running means, 255 for 1: of an image that has not had a turn, and of one that has.
FIRST = jnp.zeros((1, 8, 2), jnp.uint8)
OLD = jnp.array([[(51, 26), (230, 10), (0, 0), (220, 0), (0, 178), (0, 0), (0, 0), (0, 0)]], jnp.uint8)


def test_grown_masks_by_hand():
    # q is the same everywhere, so that the score is the root of p: no neighbour of a mark reaches 0.5. Beside the masks
    # pixel 0 is background for sure, 1 and 4 are classes 1 and 2, ids 3 and 4.
    late = opinion(0.5, update=baselines.grown_masks, average=FIRST)
    np.testing.assert_array_equal(late.current, [[0, -4, 1, -1, -5, 2, -1, -1]])
    # No mark leaves room for them where a score of 0.5 is beyond: 1 and 4 are reached with roots of 0.03 and 0.02.
    beyond = opinion(0.5, update=baselines.grown_masks, average=FIRST, beyond=0.5)
    np.testing.assert_array_equal(beyond.current, [[0, 0, 1, -1, 0, 2, -1, -1]])
    beyond = opinion(0.5, update=baselines.grown_masks, average=FIRST, beyond=0.5, complete=False)
    np.testing.assert_array_equal(beyond.current, [[0, -1, 1, -1, -1, 2, -1, -1]])
    # Nor where a mark foretells less than half of what lies near its object: 1/0.6 pixels of the four near object 1,
    # that are 0 to 3, and of the two near object 2.
    crowded = opinion(0.5, update=baselines.grown_masks, average=FIRST, rho=0.6)
    np.testing.assert_array_equal(crowded.current, [[0, 0, 1, -1, -5, 2, -1, -1]])
    # To call it background takes 0.9, unlike there.
    doubted = [(0.85, 0.1, 0.05), *ROW[1:]]
    doubt = opinion(0.5, update=baselines.grown_masks, average=FIRST, p=doubted)
    np.testing.assert_array_equal(doubt.current, [[-1, -4, 1, -1, -5, 2, -1, -1]])
    assert opinion(0.5, update=baselines.filtered_labels, average=FIRST, p=doubted).current[0, 0] == 0
    early = opinion(0.1, update=baselines.grown_masks, average=FIRST)
    np.testing.assert_array_equal(early.current, [[-1, -1, 1, -1, -1, 2, -1, -1]])
    # On strong images the masks alone: of Y, and 0 where it has no object.
    strong = opinion(0.5, strong=True, update=baselines.grown_masks, average=FIRST)
    np.testing.assert_array_equal(strong.current >= 0, [[True] * 8])
    # The running mean decides what is sure, as in `filtered_labels`: not 0 and 4, but 3, which p alone does not know.
    mean = opinion(0.5, update=baselines.grown_masks, average=OLD)
    np.testing.assert_array_equal(mean.current, [[-1, -4, 1, -4, -1, 2, -1, -1]])
    np.testing.assert_array_equal(mean.average[0, [0, 3]], [(42, 22), (207, 5)])


def test_filtered_labels_by_hand():
    # The new means are OLD + 0.2 (p - OLD). Pixel 0: background 0.75; 1: class 1 0.904; 3: class 1 0.810, where p alone
    # is no label; 4: class 2 0.748, where p alone would be one.
    late = opinion(0.5, update=baselines.filtered_labels, average=OLD)
    np.testing.assert_array_equal(late.current, [[-1, 3, 1, 3, -1, 2, -1, -1]])
    # 51 + 0.2 (0.03 x 255 - 51) = 42.3, 26 + 0.2 (5.1 - 26) = 21.8; 220 + 0.2 (153 - 220) = 206.6, 0.2 x 25.5 = 5.1
    np.testing.assert_array_equal(late.average[0, [0, 3]], [(42, 22), (207, 5)])
    assert late.average.dtype == jnp.uint8
    # Before the start nothing is a label, and the mean is the latest prediction.
    early = opinion(0.1, update=baselines.filtered_labels, average=OLD)
    np.testing.assert_array_equal(early.current, [[-1, -1, 1, -1, -1, 2, -1, -1]])
    np.testing.assert_array_equal(early.average[0, [0, 3]], [(8, 5), (153, 26)])
    # Likewise at the first turn of an image, if that is late.
    first = opinion(0.5, update=baselines.filtered_labels, average=FIRST)
    np.testing.assert_array_equal(first.current, [[0, 3, 1, -1, 4, 2, -1, -1]])


def test_scribble2label():
    targets = baselines.RULES["scribble2label"].targets
    labels = [0, -1, 1, 1, -1, 2, -1, 0]
    check_targets(targets(batch(*STRONG), 2, LOSS, VIEW), FULL, ALL, PARTIAL, ALL)
    half = [0.5, 0, 1, 0.5, 0, 1, 0, 0]  # marks at 2 and 5
    check_targets(targets(batch(*WEAK, labels), 2, LOSS, VIEW), [0, 9, 1, 1, 9, 2, 9, 0], half, PARTIAL, ALL)


def test_grown_seeds_by_hand():
    # Confident pixels, but next to a mark of the other class, or parted from that of their own by an unsure pixel;
    # background of 0.95 is not sure enough.
    apart = opinion(0.5, update=baselines.grown_seeds)
    np.testing.assert_array_equal(apart.current, [[-1, -1, 1, -1, -1, 2, -1, -1]])
    # The unsure one becomes sure: id 1 of class 2 grows through it to the next, but not into what is padding.
    joined = opinion(0.5, update=baselines.grown_seeds, p=[(0.99, 0.01, 0), *ROW[1:3], (0.04, 0.1, 0.86), *ROW[4:]])
    np.testing.assert_array_equal(joined.current, [[0, -1, 1, 1, 1, 2, -1, -1]])
    early = opinion(0.1, update=baselines.grown_seeds, p=[*ROW[:3], (0.04, 0.1, 0.86), *ROW[4:]])
    np.testing.assert_array_equal(early.current, [[-1, -1, 1, -1, -1, 2, -1, -1]])


def test_threestage():
    targets = baselines.RULES["threestage"].targets
    labels = [0, -1, 1, 1, -1, 2, -1, 0]  # a weak image; marks at 2 and 5
    found, marked = [1, 0, 1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1, 0, 0]
    masks = [max(x, 0) for x in labels]
    for progress, known in ((0.5, marked), (0.65, marked), (0.67, found)):
        check_targets(targets(batch(*WEAK, labels), 2, LOSS, view(progress)), masks, known, masks, found)
    # On strong images both tasks learn Y, whatever the masks say.
    check_targets(targets(batch(*STRONG, [-1] * 8), 2, LOSS, VIEW), FULL, ALL, FULL, ALL)


def test_masks_of_three_stages_by_hand():
    def q_says_half(predictions, *rest):
        # The approximation of class 2 is 0.6 everywhere.
        q = jnp.zeros_like(predictions.segmentation).at[..., 1].set(0.6)
        return baselines.stage_masks(predictions.replace(approximation=q), *rest)

    nothing = opinion(0.3, update=q_says_half)
    np.testing.assert_array_equal(nothing.current, [[-1, -1, 1, -1, -1, 2, -1, -1]])
    second = opinion(0.5, update=q_says_half)  # as p has it: background, class 1, the mark, class 1, class 2, the mark
    np.testing.assert_array_equal(second.current, [[0, 3, 1, 3, 4, 2, -1, -1]])
    third = opinion(0.7, update=q_says_half)
    np.testing.assert_array_equal(third.current, [[4, 4, 1, 4, 4, 2, -1, -1]])


def test_dmsps_by_hand():
    targets = baselines.RULES["dmsps"].targets
    weak = targets(batch(*WEAK), 2, LOSS, view(progress=0.2, chance=0.25, p=0.8, q=0.4))
    # The mix has 0.25 x 0.8 + 0.75 x 0.4 = 0.5 of class 1; marks at 2 and 5 are what was drawn.
    expected = np.tile([0.5, 0.5, 0.0], (8, 1))
    expected[2], expected[5] = [0, 1, 0], [0, 0, 1]
    np.testing.assert_allclose(weak.segmentation[0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(weak.approximation[0, 0], expected[:, 1:], atol=1e-6)
    # Halfway up the ramp the weight is exp(-5 / 4); nobody looked at the last pixel.
    weight = np.array([1, 1, 0, 1, 1, 0, 1, 0]) * np.exp(-1.25) + [0, 0, 1, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(weak.segmentation_weight[0, 0], weight, rtol=1e-6)
    np.testing.assert_allclose(weak.approximation_weight[0, 0], np.tile(weight[:, None], 2), rtol=1e-6)
    late = targets(batch(*WEAK), 2, LOSS, view(progress=0.4))
    np.testing.assert_array_equal(late.segmentation_weight[0, 0], VALID)
    # Probabilities of independent tasks that sum to more than 1 are shares all the same.
    both = View(*[jnp.float32(1.0)] * 2, Predictions(*[jnp.full((1, 1, 8, 2), 0.8)] * 2, jnp.zeros((1, 1, 8, 0))))
    np.testing.assert_allclose(targets(batch(*WEAK), 2, LOSS, both).segmentation[0, 0, 0], [0, 0.5, 0.5], atol=1e-6)
    check_targets(targets(batch(*STRONG), 2, LOSS, VIEW), FULL, ALL, FULL, ALL)


def test_pseudo_labels_by_hand():
    late = opinion(0.5)
    # Confident background; confident class 1; the mark; undecided; confident class 2; the mark against all confidence.
    np.testing.assert_array_equal(late.current, [[0, 3, 1, -1, 4, 2, -1, -1]])
    # Areas: class 1 has the mark of id 2 and gains one pixel, class 2 has that of id 1 and gains one.
    np.testing.assert_array_equal(late.tally[:, -2:], [[1, 2], [1, 2]])
    # By p, inside the image: class 1 in columns 1, 3 and 5 (a mark), class 2 in columns 2 (a mark) and 4.
    np.testing.assert_array_equal(late.tally[:, -3], [3, 2])
    assert late.tally.shape == (2, BINS + 3) and not late.tally[:, :-3].any()
    assert not late.held.any() and late.held.shape == (5,)


def test_pseudo_labels_wait_for_the_start():
    np.testing.assert_array_equal(opinion(0.19).current, [[-1, -1, 1, -1, -1, 2, -1, -1]])
    np.testing.assert_array_equal(opinion(0.2).current, opinion(0.9).current)


def test_pseudo_labels_leave_strong_images_alone():
    update = opinion(0.5, strong=True)
    np.testing.assert_array_equal(update.current, [[0, 0, 1, 0, 0, 2, 0, 0]])
    assert not update.tally.any()


def test_which_rules_do_what():
    rules = baselines.RULES
    assert set(rules) == {"rams", "full", "strong", "naive", "ignore", "multitask", "dmsps", *LABELLING}
    assert {name for name, rule in rules.items() if rule.update is not None} == {"rams", *LABELLING}
    assert [name for name, rule in rules.items() if rule.grows] == ["rams"]
    assert [name for name, rule in rules.items() if rule.all_strong] == ["full"]
    assert [name for name, rule in rules.items() if not rule.weak_images] == ["strong"]
    assert {name: rule.unmarked for name, rule in rules.items() if rule.unmarked} == dict.fromkeys(
        ("rams", *LABELLING), -1
    )


def test_targets_work_in_jit_and_keep_their_types():
    for name, rule in baselines.RULES.items():
        targets = jax.eval_shape(lambda one, rule=rule: rule.targets(one, 2, LOSS, VIEW), batch(*WEAK))
        assert targets.segmentation.shape == (1, 1, 8, 3), name
        assert targets.approximation.shape == (1, 1, 8, 2), name
        for weight in (
            targets.segmentation,
            targets.segmentation_weight,
            targets.approximation_weight,
        ):
            assert weight.dtype == jnp.float32, name
