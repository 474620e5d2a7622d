import math

import numpy as np
import pytest
from scipy.special import ellipe

from rams_jax import biometry, canvas, curves


def exact(a, b):
    """By the complete elliptic integral of the second kind."""
    a, b = max(a, b), min(a, b)
    return 4 * a * ellipe(1 - (b / a) ** 2)


def drawn(a, b, angle, shape=(140, 210), centre=(66.3, 103.8)):
    y, x = np.mgrid[: shape[0], : shape[1]] - np.reshape(centre, (2, 1, 1))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along / a) ** 2 + (across / b) ** 2 <= 1


def test_perimeter_of_a_circle_and_of_ellipses():
    assert biometry.perimeter(3.0, 3.0) == pytest.approx(6 * math.pi, rel=1e-15)
    assert biometry.perimeter(1.0, 0.0) == pytest.approx(4, rel=4.1e-4)  # a line, there and back: the worst case
    for a, b in ((10, 9), (10, 7), (10, 5.1), (3, 10)):
        assert biometry.perimeter(a, b) == biometry.perimeter(b, a)
        assert biometry.perimeter(a, b) == pytest.approx(exact(a, b), rel=1e-9 if min(a, b) > 5 else 1e-6)


@pytest.mark.parametrize("a, b, angle", [(60, 45, 0.0), (60, 45, 0.7), (25, 24, 1.2), (80, 50, -0.3)])
def test_circumference_of_drawn_ellipses(a, b, angle):
    instances = drawn(a, b, angle).astype(np.int32) * 5
    # Pixels of 250 um, so a quarter of a millimetre.
    assert biometry.circumference(instances, 250.0) == pytest.approx(exact(a, b) / 4, rel=3e-3)


def test_circumference_of_a_head_in_two_pieces_with_a_hole():
    whole = drawn(60, 45, 0.4).astype(np.int32)
    cut = whole.copy()
    cut[:, 110:] *= 2  # two objects that touch
    cut[60:70, 90:100] = 0
    cut[0:6, 0:6] = 3  # dirt
    assert biometry.circumference(cut, 100.0) == biometry.circumference(whole, 100.0)
    assert math.isnan(biometry.circumference(np.zeros((5, 5), np.int32), 100.0))


def test_agreement_by_hand():
    # Differences 1, 3, -1, 5 and one that was missed: mean 2, squares about it 1 + 1 + 9 + 9 = 20, over 3.
    found = biometry.agreement([101.0, 203.0, math.nan, 149.0, 85.0], [100.0, 200.0, 50.0, 150.0, 80.0])
    assert (found["images"], found["missed"]) == (5, 1)
    assert found["mean_absolute_error"] == pytest.approx(2.5)
    assert found["bias"] == pytest.approx(2.0)
    assert found["deviation"] == pytest.approx(math.sqrt(20 / 3))
    assert found["lower"] == pytest.approx(2 - 1.96 * 2.58199, abs=1e-4)
    assert found["upper"] == pytest.approx(2 + 1.96 * 2.58199, abs=1e-4)


def test_agreement_of_too_little():
    one = biometry.agreement([12.0], [10.0])
    assert one["bias"] == one["mean_absolute_error"] == 2.0
    assert math.isnan(one["deviation"]) and math.isnan(one["lower"])
    none = biometry.agreement([math.nan], [10.0])
    assert (none["images"], none["missed"]) == (1, 1) and math.isnan(none["bias"])


def test_limits_hold_95_percent():
    reference = np.full(20000, 200.0)
    measured = reference + np.random.default_rng(0).normal(1.0, 3.0, 20000)
    found = biometry.agreement(measured, reference)
    inside = (measured - reference > found["lower"]) & (measured - reference < found["upper"])
    assert inside.mean() == pytest.approx(0.95, abs=0.005)


def test_bland_altman_shows_every_image_and_three_lines():
    rng = np.random.default_rng(0)
    reference = rng.uniform(60, 320, 50)
    measured = reference + rng.normal(1, 3, 50)
    measured[7] = math.nan
    figure = curves.bland_altman(measured, reference, "Circumference", "mm")
    (axes,) = figure.axes
    points = np.asarray(axes.collections[0].get_offsets())
    assert len(points) == 49
    np.testing.assert_allclose(points[:7, 0], (measured[:7] + reference[:7]) / 2)
    np.testing.assert_allclose(points[:7, 1], measured[:7] - reference[:7])
    found = biometry.agreement(measured, reference)
    heights = {round(line.get_ydata()[0], 6) for line in axes.lines}
    assert heights == {0.0, *(round(found[key], 6) for key in ("lower", "bias", "upper"))}
    low, high = axes.get_ylim()
    assert low < min(found["lower"], points[:, 1].min()) and max(found["upper"], points[:, 1].max()) < high
    assert any(f"bias {found['bias']:+.2f} mm" == text.get_text() for text in axes.texts)


@pytest.mark.parametrize("measured", [[], [math.nan], [101.0]])
def test_bland_altman_of_nearly_nothing(measured):
    png = canvas.to_png(curves.bland_altman(measured, [100.0] * len(measured), "Circumference", "mm"))
    assert png[:4] == b"\x89PNG"


def test_a_run_reports_the_circumference_where_it_was_measured():
    import dataclasses
    import re

    from rams_jax import outputs, report
    from rams_jax.types import Example

    head = drawn(60, 45, 0.2).astype(np.int32)
    example = Example(
        name="a",
        image=np.zeros((*head.shape, 1), np.float32),
        full=head,
        partial=head,
        valid=head >= 0,
        classes=np.array([0, 1]),
        auxiliary=np.zeros((*head.shape, 0), np.int8),
        pixel_size=500.0,
    )
    assert outputs.circumferences([example], [head]) == (None, {})
    measured = dataclasses.replace(example, circumference=exact(60, 45) / 2 - 3.0)
    empty = np.zeros_like(head)
    found, pictures = outputs.circumferences([measured, example, measured], [head, head, empty])
    assert (found["images"], found["missed"]) == (2, 1)
    assert found["bias"] == pytest.approx(3.0, abs=0.3)
    summary = {
        "method": "rams",
        "data": "ultrasound",
        "seed": 0,
        "strong": 1,
        "weak": 2,
        "steps": 3,
        "test": {"dice": 0.9},
        "circumference": found,
    }
    page = report.render({"data": {"class_names": ("head",)}}, summary, [], pictures)
    assert "on 1 of 2 images" in page
    assert re.search(rf"Bias</th><td class=\"number\">{found['bias']:.2f} mm", page)
    assert page.count("data:image/png") == 1 and "predicted and measured circumference" in page
    assert "Circumference" not in report.render(
        {"data": {"class_names": ("head",)}}, summary | {"circumference": None}, [], {}
    )
