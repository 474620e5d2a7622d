"""The recursion on images of 5 x 5 pixels: contest, score, reach, brakes, healing."""

import dataclasses

import numpy as np
import pytest
from evolution_cases import BRAKED, CORRIDOR, SETTINGS, case_of, fast, row

from rams_jax import evolution


@pytest.mark.parametrize(
    ("marks", "q", "expected"),
    [
        # Column 1 is one step from id 1 and two from id 2, whose q / m_j is larger there: 0.6 / 0.6 against 0.6 / 0.9.
        pytest.param((1, 0, 0, 2, 0), (0.9, 0.6, 0.6, 0.6, 0.6), (1, 1, 2, 2, 2), id="fewer steps"),
        pytest.param((2, 0, 0, 1, 0), (0.9, 0.6, 0.6, 0.6, 0.6), (2, 2, 1, 1, 1), id="fewer steps, other ids"),
        # Column 2 is two steps from both; q / m_j is 0.5 / 0.8 from the left and 0.5 / 0.5 from the right.
        pytest.param((1, 0, 0, 0, 2), (0.8, 0.5, 0.5, 0.5, 0.5), (1, 1, 2, 2, 2), id="larger q / m"),
        pytest.param((2, 0, 0, 0, 1), (0.5, 0.5, 0.5, 0.5, 0.8), (2, 2, 2, 1, 1), id="larger q / m, other side"),
        # q above both means: the larger q / m_j wins although both scores are capped at 1: 0.6 / 0.4 against 0.6 / 0.5.
        pytest.param((1, 0, 0, 0, 2), (0.5, 0.6, 0.6, 0.6, 0.4), (1, 1, 2, 2, 2), id="larger q / m above 1"),
        pytest.param((1, 0, 0, 0, 2), (0.5, 0.5, 0.5, 0.5, 0.5), (1, 1, 1, 2, 2), id="smaller id"),
        pytest.param((2, 0, 0, 0, 1), (0.5, 0.5, 0.5, 0.5, 0.5), (2, 2, 1, 1, 1), id="smaller id, on the right"),
    ],
)
def test_contest(marks, q, expected):
    update = fast([case_of(row(*marks), q=row(*q), inside=CORRIDOR)])
    np.testing.assert_array_equal(update.current[0], row(*expected))


def test_score_and_threshold():
    # m = 0.8. Scores sqrt(p min(1, q / m)): 1 px sqrt(0.9 * 0.4 / 0.8) = 0.671, 2 px sqrt(0.9 * 1) = 0.949.
    case = case_of(row(0, 0, 1, 0, 0), q=row(0.8, 0.4, 0.8, 0.9, 0.9), p=row(0.9, 0.9, 0.9, 0.9, 0.9), inside=CORRIDOR)
    found = fast([dataclasses.replace(case, tau=np.array([tau])) for tau in (0.66, 0.68, 0.94, 0.96)]).current[:, 2]
    np.testing.assert_array_equal(found, [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 0, 0]])


def test_the_size_that_a_mark_foretells():
    # At tau = 0.5 object 1 would have 3 pixels and object 2 two; with kappa / rho = 2 their marks of 1 foretell 2 each.
    # Both together have 5 pixels where 4 are foretold, so the image asks for 0.5 x 1.25^size_prior. Object 1 asks for
    # 1.5^size_prior times that, and its scores of 0.6 fall short from ln(1.2) / ln(1.25 x 1.5) = 0.29 on; object 2 has
    # what was foretold and asks for no more than the image, 0.6 from ln(1.2) / ln(1.25) = 0.817 on. Bins are 1 / 256.
    marks = row(0, 0, 1, 0, 0) + np.arange(5)[:, None] // 4 * 2 * (np.arange(5) == 0)
    p = row(0.0, 0.6, 0.6, 0.6, 0.0) ** 2 + (np.arange(5)[:, None] == 4) * row(0.6, 0.6, 0.0, 0.0, 0.0)[2] ** 2
    case = case_of(marks, p=p)
    for prior, one, two in ((0.0, 1, 2), (0.26, 1, 2), (0.31, 0, 2), (0.75, 0, 2), (0.9, 0, 0)):
        update = fast([case], dataclasses.replace(SETTINGS, size_prior=prior))
        np.testing.assert_array_equal(update.current[0, 2], (0, one, 1, one, 0))
        np.testing.assert_array_equal(update.current[0, 4], (2, two, 0, 0, 0))


def test_an_object_that_lags_behind_is_helped():
    # No pixel beside the mark reaches tau = 0.5, and four were foretold. With the two scores of 0.4 there would be 3,
    # which ask for 0.5 x (3 / 4)^size_prior: 0.4 is enough from ln(0.8) / ln(0.75) = 0.776 on. With all four it is 0.5.
    case = dataclasses.replace(case_of(row(0, 1, 0, 0, 0), p=row(0.4, 1.0, 0.4, 0.32, 0.2) ** 2), rho=np.array([0.125]))
    for prior, expected in ((0.0, (0, 1, 0, 0, 0)), (0.76, (0, 1, 0, 0, 0)), (0.79, (1, 1, 1, 0, 0))):
        update = fast([case], dataclasses.replace(SETTINGS, size_prior=prior))
        np.testing.assert_array_equal(update.current[0, 2], expected)


def test_an_object_that_lags_behind_goes_below_the_least_score():
    # With tau at tau_min = 0.3 and eight pixels foretold, 0.25 alone asks for 0.3 x 2 / 8, 0.11 too for 0.3 x 3 / 8 =
    # 0.1125. A tenth of tau_min, 0.03, is what 0.029 does not reach, whatever is foretold.
    p = row(0.029, 1.0, 0.25, 0.11, 0) ** 2
    settings = dataclasses.replace(SETTINGS, size_prior=1.0, tau_min=0.3)
    for foretold, expected in ((1, (0, 1, 0, 0, 0)), (8, (0, 1, 1, 0, 0)), (9, (0, 1, 1, 1, 0)), (99, (0, 1, 1, 1, 0))):
        case = case_of(row(0, 1, 0, 0, 0), p=p, tau=0.3, inside=CORRIDOR, kappa=1.0)
        update = fast([dataclasses.replace(case, rho=np.array([1 / foretold]))], settings)
        np.testing.assert_array_equal(update.current[0, 2], expected)


def test_a_seam_is_shared_by_those_that_come_to_it():
    # Both marks come to the seam in one step, and halve it afterwards; a seam of 7 is wider than twice SEAM = 3.
    for width, expected in ((2, [1] * 4 + [2] * 4), (3, [1] * 5 + [2] * 4), (7, [1] * 6 + [0] + [2] * 6)):
        marks = np.array([[1, 0, *[0] * (width + 2), 0, 2]])
        s = np.array([[0, 0, 0, *[1] * width, 0, 0, 0]])[..., None]
        case = dataclasses.replace(case_of(marks), s=np.concatenate([0 * s, s], axis=-1))
        np.testing.assert_array_equal(fast([case]).current[0], [expected])
        # With a seam that nobody comes to, and with a task that closes, nothing happens.
        np.testing.assert_array_equal(fast([case], dataclasses.replace(SETTINGS, reach=1)).current[0][0, 2:-2], 0)
        case = dataclasses.replace(case, s=np.concatenate([s, s], axis=-1))
        np.testing.assert_array_equal(fast([case]).current[0], [[1] * 3 + [0] * width + [2] * 3])


def test_a_threshold_of_zero_floods_all():
    case = case_of(row(0, 1, 0, 0, 0), p=row(0.01, 1.0, 0.01, 0.01, 0.01), tau=0.0, inside=CORRIDOR)
    update = fast([case], dataclasses.replace(SETTINGS, size_prior=1.0, tau_min=0.0, reach=5))
    np.testing.assert_array_equal(update.current[0, 2], 1)
    assert np.isfinite(update.tally).all()


def test_alpha_weighs_q_against_p():
    # Left pixel: p = 0.9, q / m = 0.1; right pixel: p = 0.1, q / m = 0.9.
    case = case_of(row(0, 0, 1, 0, 0), q=row(0, 0.05, 0.5, 0.45, 0), p=row(0, 0.9, 1.0, 0.1, 0), inside=CORRIDOR)
    for alpha, expected in ((0.0, (0, 1, 1, 0, 0)), (1.0, (0, 0, 1, 1, 0)), (0.5, (0, 0, 1, 0, 0))):
        update = fast([case], dataclasses.replace(SETTINGS, alpha=alpha))
        np.testing.assert_array_equal(update.current[0, 2], expected)


def test_reach_counts_four_neighbour_steps():
    marks = np.zeros((5, 5), int)
    marks[2, 2] = 1
    distance = np.abs(np.arange(5) - 2)[:, None] + np.abs(np.arange(5) - 2)
    for reach in (1, 2, 3):
        update = fast([case_of(marks)], dataclasses.replace(SETTINGS, reach=reach))
        np.testing.assert_array_equal(update.current[0] > 0, distance <= reach)


def test_brake_largest_object():
    # From one pixel two steps reach 1 + 4 + 8 = 13 pixels: more than 3 x 4, not more than 3 x 5. A mark says 1 / rho.
    marks = np.zeros((5, 5), int)
    marks[2, 2] = 2
    settings = dataclasses.replace(SETTINGS, max_area_factor=3.0)
    small = case_of(marks, largest=4.0)
    cases = [small, case_of(marks, largest=5.0), dataclasses.replace(small, rho=np.array([0.2]))]
    update = fast(cases, settings)
    np.testing.assert_array_equal(update.current[0], marks)
    assert (update.current[1] == 2).sum() == (update.current[2] == 2).sum() == 13
    np.testing.assert_array_equal(update.held, [[False, False, True, False], [False] * 4, [False] * 4])


def test_brake_leak():
    # A mark of 2 x 3 grows to 6 + 3 + 3 + 2 + 2 = 16 pixels in one step; a disc of 6 pixels, by one pixel on all sides,
    # to pi (sqrt(6 / pi) + 1)^2 = 6 + 2 sqrt(6 pi) + pi = 17.82: 16 is more than 0.89 of it, not more than 0.90.
    marks = np.zeros((5, 5), int)
    marks[1:3, 1:4] = 1
    for factor, area in ((0.89, 6), (0.90, 16)):
        update = fast([case_of(marks)], dataclasses.replace(SETTINGS, reach=1, leak_factor=factor))
        assert (update.current[0] == 1).sum() == area
        assert update.held[0].tolist() == [False, area == 6, False, False]


def test_a_leak_is_held_by_the_default_brake():
    # Twice what a disc of one pixel becomes in 3 steps is 2 pi (sqrt(1 / pi) + 3)^2 = 79.8: no single update leaks from
    # a point. A line of 31 pixels floods 31 x 7 = 217 in 3 steps: more than 1.8 x pi (sqrt(31 / pi) + 3)^2 = 213.4,
    # less than 1.9 x 118.5.
    marks = np.zeros((31, 31), int)
    marks[15] = 1
    for factor, area in ((1.8, 31), (1.9, 217)):
        update = fast([case_of(marks)], dataclasses.replace(SETTINGS, reach=3, leak_factor=factor))
        assert (update.current[0] == 1).sum() == area
        assert update.held[0].tolist() == [False, area == 31, False, False]


def test_a_small_mark_is_no_leak():
    # One pixel grows to 5 in one step, as every pixel does that is free to.
    marks = np.zeros((5, 5), int)
    marks[2, 2] = 1
    update = fast([case_of(marks)], dataclasses.replace(SETTINGS, reach=1, leak_factor=1.0))
    assert (update.current[0] == 1).sum() == 5
    assert not update.held.any()


def test_the_leak_brake_does_not_hold_a_disc_for_ever():
    # Marks of 9 to 109 pixels in an open disc of 12 pixels' radius, with the default constants.
    y, x = np.mgrid[:31, :31]
    distance = np.hypot(y - 15, x - 15)
    settings = dataclasses.replace(SETTINGS, reach=3, leak_factor=2.0)
    p = np.where(distance < 12, 1.0, 0.01)
    cases = [case_of((distance < radius).astype(int), p=p, largest=460.0) for radius in (2, 3, 4, 5, 6)]
    for _ in range(6):
        update = fast(cases, settings)
        cases = [dataclasses.replace(case, current=a) for case, a in zip(cases, update.current, strict=True)]
    np.testing.assert_array_less(300, (update.current == 1).sum((1, 2)))


def test_brake_rest():
    # A mark of 16 pixels may gain one: 1 / 16 = 0.0625.
    marks = np.zeros((5, 5), int)
    marks[:4, :4] = 1
    p = (marks > 0).astype(float)
    p[0, 4] = 1
    for stop, area in ((0.06, 17), (0.065, 16)):
        update = fast([case_of(marks, p=p)], dataclasses.replace(SETTINGS, reach=1, stop_growth=stop))
        assert (update.current[0] == 1).sum() == area
        assert not update.held.any()  # resting is no alarm


def test_a_held_instance_does_not_stop_its_neighbour():
    # id 1 would take 2 pixels and is held at 1; id 2 grows as it does without it.
    case = case_of(row(1, 0, 0, 0, 2), q=0.5, inside=CORRIDOR)
    case = dataclasses.replace(case, classes=np.array([0, 1, 2, 1, 2]), p=np.repeat(case.p, 2, axis=-1))
    case = dataclasses.replace(
        case, q=np.repeat(case.q, 2, axis=-1), tau=np.full(2, 0.5), kappa=np.full(2, 0.5), largest=np.array([1.0, 9.0])
    )
    case = dataclasses.replace(case, rho=np.ones(2))
    update = fast([case], dataclasses.replace(SETTINGS, max_area_factor=1.0, reach=1))
    np.testing.assert_array_equal(update.current[0], row(1, 0, 0, 2, 2))
    np.testing.assert_array_equal(update.held[0], [False, True, False, False, False])


def test_closed_threshold_admits_nothing():
    marks = row(0, 1, 0, 2, 0)
    update = fast([case_of(marks, tau=evolution.CLOSED)])
    np.testing.assert_array_equal(update.current[0], marks)


def test_an_image_without_marks_stays_empty():
    update = fast([case_of(np.zeros((5, 5), int))], BRAKED)
    assert not update.current.any() and not update.held.any() and not update.tally.any()


def test_a_leak_heals_when_the_opinion_is_right_again():
    marks, region = np.zeros((5, 5), int), np.zeros((5, 5), bool)
    region[:, :2] = True
    marks[2, 0] = 1
    right = np.where(region, 1.0, 0.01)
    wrong = right.copy()
    wrong[2] = 1.0  # a corridor out of the object
    for monotone in (False, True):
        settings = dataclasses.replace(SETTINGS, reach=4, monotone=monotone)
        current = marks
        for p in (right, wrong):
            current = fast([case_of(marks, p=p, current=current)], settings).current[0]
        assert (current[2] == 1).all()
        current = fast([case_of(marks, p=right, current=current)], settings).current[0]
        np.testing.assert_array_equal(current[region], 1)
        np.testing.assert_array_equal(current[2, 2:], [1, 1, 1] if monotone else [0, 0, 0])
