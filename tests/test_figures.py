import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rams_jax import figures
from rams_jax.curves import PANELS, spread
from rams_jax.types import Example

UPDATES = 4


def disc_example(height=60, width=80, channels=1, seed=0, name="disc"):
    """A bright disc of radius 14 at (30, 40); the mark has radius 6, update t adds radii 4 + 2 t to 6 + 2 t."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (height, width, channels)).astype(np.float32)
    y, x = np.indices((height, width))
    radius = np.hypot(y - 30, x - 40)
    full = (radius < 14).astype(np.int32)
    age = np.where(radius < 14, np.clip(np.floor((radius - 6) / 2) + 1, 0, UPDATES), 0).astype(np.int16)
    example = Example(
        name=name,
        image=full[..., None] + noise,
        full=full,
        partial=(radius < 6).astype(np.int32),
        valid=np.ones((height, width), bool),
        classes=np.array([0, 1], np.int32),
        auxiliary=np.zeros((height, width, 1), np.int8),
    )
    return example, full.astype(np.int16), age


def rendered(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def panels(figure):
    """The axes that show an image, left to right."""
    return [axes for axes in figure.axes if axes.images]


def screen_colour(figure, axes, y, x):
    """The colour on the screen at the centre of image pixel (y, x)."""
    pixels = rendered(figure)
    column, row = axes.transData.transform((x, y))
    return tuple(int(v) for v in pixels[int(pixels.shape[0] - row), int(column)])


def luminance(colours):
    """CIE Y of sRGB bytes: what a black-and-white printer sees."""
    linear = np.where((c := np.asarray(colours) / 255) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("updates", [1, 2, 7, 60])
def test_rings_get_darker_and_never_look_like_the_mark(updates):
    colours = figures.ring_colours(updates)
    assert colours.shape == (updates, 3)
    assert (np.diff(luminance(colours)) < 0).all()
    assert np.abs(colours.astype(int) - figures.MARK).sum(-1).min() > 100
    # The mark touches the first rings: they must differ from it without colour, too.
    assert luminance(colours[0]) > 3 * luminance(figures.MARK)


def test_error_colours_differ_in_lightness():
    levels = np.sort(116 * np.cbrt(luminance([figures.MISSED, figures.EXTRA, figures.CORRECT, (232, 232, 232)])) - 16)
    assert np.diff(levels).min() > 10


def test_rings_on_the_screen_have_the_colour_of_their_update():
    example, current, age = disc_example()
    figure = figures.growth_rings(example, current, age, "disc")
    plain, grown = panels(figure)
    colours = figures.ring_colours(UPDATES)
    assert screen_colour(figure, grown, 30, 40) == figures.MARK
    for update, x in ((1, 47), (2, 49), (3, 51), (4, 53)):  # radii 7, 9, 11, 13
        assert age[30, x] == update
        assert screen_colour(figure, grown, 30, x) == tuple(colours[update - 1])
    for axes in (plain, grown):  # grey where there is no mask
        red, green, blue = screen_colour(figure, axes, 5, 5)
        assert red == green == blue
    red, green, blue = screen_colour(figure, plain, 30, 40)
    assert red == green == blue > 200


def test_true_boundary_is_drawn_between_the_pixels():
    example, current, age = disc_example()
    figure = figures.growth_rings(example, current, age, "disc")
    grown = panels(figure)[1]
    assert example.full[30, 53] == 1 and example.full[30, 54] == 0
    assert screen_colour(figure, grown, 30, 53.5) == (255, 255, 255)


def test_the_last_update_of_the_masks_sets_the_scale_not_stale_ages():
    example, current, age = disc_example()
    age[0, 0] = 99  # outside every mask: must count for nothing
    figure = figures.growth_rings(example, current, age, "disc")
    assert screen_colour(figure, panels(figure)[1], 30, 53) == tuple(figures.ring_colours(UPDATES)[-1])


def test_no_statement_and_no_mask_look_like_the_image():
    example, current, age = disc_example()
    current[:20] = -1
    pixels = figures.growth_pixels(example, current, age, UPDATES)
    np.testing.assert_array_equal(pixels[:20], figures.grey_image(example.image, example.valid)[:20])


def test_pixels_nobody_looked_at_are_striped():
    example, current, age = disc_example()
    example.valid[50:] = False
    pixels = figures.growth_pixels(example, current, age, UPDATES)
    assert {tuple(p) for p in pixels[50:].reshape(-1, 3)} == {(190, 190, 190), (130, 130, 130)}


@pytest.mark.parametrize("height, width", [(100, 100), (64, 100), (210, 192)])
def test_small_images_are_shown_large_and_sharp(height, width):
    example, current, age = disc_example(height, width)
    figure = figures.growth_rings(example, current, age, "disc")
    grown = panels(figure)[1]
    box = grown.get_window_extent()
    scale = box.width / width
    assert scale >= (5 if max(height, width) <= 100 else 3)
    assert scale == pytest.approx(round(scale), abs=1e-9)
    assert box.height / height == pytest.approx(scale)
    colours = {screen_colour(figure, grown, 30 + dy, 47 + dx) for dy in (-0.3, 0, 0.3) for dx in (-0.3, 0, 0.3)}
    assert colours == {tuple(figures.ring_colours(UPDATES)[0])}


def test_outline_of_one_pixel_is_its_four_edges():
    labels = np.zeros((3, 3), int)
    labels[1, 1] = 7
    edges = {tuple(map(tuple, segment)) for segment in figures.outline_segments(labels)}
    assert edges == {
        ((0.5, 0.5), (1.5, 0.5)),
        ((0.5, 1.5), (1.5, 1.5)),
        ((0.5, 0.5), (0.5, 1.5)),
        ((1.5, 0.5), (1.5, 1.5)),
    }


def test_outline_separates_touching_objects_and_ignores_minus_one():
    assert figures.outline_segments(np.array([[1, 2]])).tolist() == [[[0.5, -0.5], [0.5, 0.5]]]
    assert figures.outline_segments(np.array([[-1, 0]])).shape == (0, 2, 2)


def test_prediction_errors_on_the_screen():
    example, _, _ = disc_example()
    instances = np.roll(example.full, 4, axis=1)  # four pixels too far right: left rim missed, right rim extra
    figure = figures.prediction_errors(example, instances, "Dice 0.82")
    errors = panels(figure)[2]
    assert screen_colour(figure, errors, 30, 40) == figures.CORRECT
    assert screen_colour(figure, errors, 30, 28) == figures.MISSED
    assert screen_colour(figure, errors, 30, 56) == figures.EXTRA
    assert min(screen_colour(figure, errors, 5, 5)) >= 232
    assert screen_colour(figure, errors, 30, 57.5) == (0, 0, 0)  # the outline of the predicted object
    assert any("Dice 0.82" in text.get_text() for text in figure.texts)


def test_error_pixels_count_what_is_right_and_wrong_among_valid_pixels():
    rng = np.random.default_rng(3)
    example, _, _ = disc_example()
    example.valid[:, 45:] = False
    instances = rng.integers(0, 3, example.full.shape)
    pixels = figures.error_pixels(example, instances)
    truth, found = (example.full > 0) & example.valid, (instances > 0) & example.valid
    counted = {c: int((pixels == c).all(-1).sum()) for c in (figures.CORRECT, figures.MISSED, figures.EXTRA)}
    assert counted == {
        figures.CORRECT: int((truth & found).sum()),
        figures.MISSED: int((truth & ~found).sum()),
        figures.EXTRA: int((found & ~truth).sum()),
    }


def test_grey_image_stretches_valid_pixels_and_keeps_colour_images_coloured():
    image = np.linspace(0, 1, 10000, dtype=np.float32).reshape(100, 100, 1)
    valid = np.ones((100, 100), bool)
    image[0, 0] = 1e6  # a hot pixel may not turn the rest black
    grey = figures.grey_image(image, valid)
    assert abs(int(grey[50, 0, 0]) - 127) <= 2
    colour = np.zeros((10, 10, 3), np.float32)
    colour[:5, :, 0] = 1
    assert figures.grey_image(colour, np.ones((10, 10), bool))[0, 0].tolist() == [255, 0, 0]
    two = np.stack([image[..., 0], -image[..., 0]], -1)
    np.testing.assert_array_equal(figures.grey_image(two, valid), grey)
    assert figures.grey_image(np.full((4, 4, 1), 7, np.float32), np.ones((4, 4), bool)).max() == 0


def test_gallery_shows_image_mark_and_growth_at_the_same_place():
    cases = [disc_example(seed=s) for s in range(2)]
    cases[1][2][cases[1][2] == 4] = 3  # the second image stopped one update earlier: the scale stays shared
    figure = figures.growth_gallery(*zip(*cases, strict=True), names=["one", "two"])
    shown = panels(figure)
    assert len(shown) == 6
    colours = figures.ring_colours(UPDATES)
    for row, last in ((0, 4), (1, 3)):
        plain, marked, grown = (np.asarray(axes.images[0].get_array()) for axes in shown[3 * row : 3 * row + 3])
        assert plain.shape == marked.shape == grown.shape
        red = (marked == figures.MARK).all(-1)
        assert red.sum() == (cases[row][0].partial > 0).sum()
        np.testing.assert_array_equal(red, (grown == figures.MARK).all(-1))
        assert (grown == colours[last - 1]).all(-1).sum() == (cases[row][2] == last).sum()
        assert (marked == colours[0]).all(-1).sum() == 0
    words = " ".join(text.get_text() for text in figure.texts)
    share = (cases[0][0].partial > 0).sum() / (cases[0][0].full > 0).sum()
    assert f"covers {share:.0%} of the objects; 0% of it lies outside" in words
    assert "covers 100% of the objects; 0% of it lies outside" in words
    assert "one" in words and "two" in words


def test_gallery_says_how_much_lies_outside():
    example, current, age = disc_example()
    example.full[:, 40:] = 0  # half of the mask is now outside
    words = [t.get_text() for t in figures.growth_gallery([example], [current], [age], ["x"]).texts]
    outside = ((current > 0) & (example.full == 0)).sum() / (current > 0).sum()
    assert f"covers 100% of the objects; {outside:.0%} of it lies outside" in words


def test_gallery_window_holds_the_growth_of_a_large_image():
    rng = np.random.default_rng(0)
    full = np.zeros((400, 500), np.int32)
    full[300:312, 400:412] = 1
    age = np.where(full > 0, rng.integers(1, 5, full.shape), 0)
    example = Example(
        name="large",
        image=rng.random((400, 500, 1)).astype(np.float32),
        full=full,
        partial=full,
        valid=np.ones(full.shape, bool),
        classes=np.array([0, 1]),
        auxiliary=np.zeros((*full.shape, 1), np.int8),
    )
    figure = figures.growth_gallery([example], [full], [age], ["large"])
    grown = np.asarray(panels(figure)[2].images[0].get_array())
    assert grown.shape == (96, 96, 3)  # eight objects of 12 x 12 across
    for update in range(1, 5):
        assert (grown == figures.ring_colours(4)[update - 1]).all(-1).sum() == (age == update).sum()


def test_gallery_refuses_unequal_rows():
    example, current, age = disc_example()
    with pytest.raises(ValueError, match="one current, age and name for each"):
        figures.growth_gallery([example], [current], [age], ["a", "b"])
    with pytest.raises(ValueError, match="at least one example"):
        figures.growth_gallery([], [], [], [])


def test_the_film_adds_the_ring_of_each_update():
    cases = [disc_example(seed=s) for s in range(2)]
    cases[1][2][cases[1][2] == 4] = 3  # the second image stopped one update earlier
    cases = [(dataclasses.replace(example, full=None), *maps) for example, *maps in cases]  # no line over the rings
    page = figures.growth_animation(*zip(*cases, strict=True)).to_jshtml()
    found = re.findall(r'frames\[\d+\] = "data:image/png;base64,([^"]+)"', page)
    film = [np.asarray(Image.open(io.BytesIO(base64.b64decode(f.replace("\\\n", ""))))) for f in found]
    assert len(film) == UPDATES + 1
    for ring, colour in enumerate([figures.MARK, *figures.ring_colours(UPDATES)]):
        drawn = [int((frame[..., :3] == colour).all(-1).sum()) for frame in film]
        pixels = sum(int(((age == ring) & (current > 0)).sum()) for _, current, age in cases)
        if ring == 0:
            assert set(np.diff(drawn)) == {0} and drawn[0] >= 16 * pixels
        else:  # an image pixel is 4 x 4 on the screen; the key is the same in each frame
            assert [count - drawn[0] for count in drawn] == [0] * ring + [16 * pixels] * (UPDATES + 1 - ring)


def test_the_film_refuses_unequal_panels():
    example, current, age = disc_example()
    with pytest.raises(ValueError, match="one current and age for each"):
        figures.growth_animation([example], [current], [])
    with pytest.raises(ValueError, match="at least one example"):
        figures.growth_animation([], [], [])


@pytest.mark.parametrize("height, width, channels", [(60, 300, 1), (300, 60, 2), (61, 81, 3)])
def test_any_shape_without_truth_or_growth(height, width, channels):
    example, current, _ = disc_example(height, width, channels)
    example = dataclasses.replace(example, full=None)
    none = np.zeros_like(current)
    for figure in (
        figures.growth_rings(example, current, none, "a <b> $x$"),
        figures.growth_gallery([example], [none], [none], ["x"]),
        figures.prediction_errors(example, current, ""),
    ):
        assert rendered(figure).std() > 0
    assert len(panels(figures.prediction_errors(example, current, ""))) == 2


def curve_rows(steps=50):
    rows = [
        {"step": s, "loss": 1 / (s + 1), "coverage": s / steps, "tau": [0.5, 0.4], "area": 1.0} for s in range(steps)
    ]
    return rows + [{"step": steps, "val_dice": 0.9, "val_aji": None, "held": 3}]


def test_curves_draw_what_was_logged_and_leave_out_the_rest():
    figure = figures.training_curves(curve_rows())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [p.title for p in PANELS if not p.title.startswith("Grown masks")]
    schedule = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Schedule"))
    np.testing.assert_allclose(schedule.lines[0].get_ydata(), np.arange(50) / 50)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "threshold τ, class 2 0.40" in words and "Dice 0.90" in words and "instances 3" in words
    assert not any(word.startswith("AJI") for word in words)


def test_curves_of_one_panel_differ_without_colour():
    for panel in PANELS:
        assert len({s.dash for s in panel.series}) == len({s.marker for s in panel.series}) == len(panel.series)


def test_curves_without_rows_and_with_nan():
    assert rendered(figures.training_curves([])).std() > 0
    figure = figures.training_curves([{"step": 0, "loss": float("nan")}, {"step": 5, "loss": 2.0}])
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[5.0, 2.0]]


def test_labels_are_spread_in_order():
    moved = spread(np.array([0.52, 0.5, 0.99, 1.0]), 0.1)
    order = np.argsort(moved)
    assert order.tolist() == [1, 0, 2, 3]
    assert np.diff(moved[order]).min() >= 0.1 - 1e-12 and moved.max() <= 1
    np.testing.assert_array_equal(spread(np.array([0.2, 0.8]), 0.1), [0.2, 0.8])


def test_png_is_the_same_every_time_and_keeps_the_size():
    case = disc_example()
    first, second = (figures.to_png(figures.growth_rings(*case, "disc")) for _ in range(2))
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert picture.format == "PNG" and "Software" not in picture.info
    assert picture.size == rendered(figures.growth_rings(*case, "disc")).shape[1::-1]
    assert len(first) < 300_000


def test_pyplot_is_left_alone():
    plt = pytest.importorskip("matplotlib.pyplot")
    before = plt.get_fignums()
    assert isinstance(figures.training_curves(curve_rows()), Figure)
    assert plt.get_fignums() == before
