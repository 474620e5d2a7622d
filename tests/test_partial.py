import zlib

import numpy as np
import pytest
from scipy import ndimage

from rams_jax.annotations import AnnotationError
from rams_jax.datasets import partial
from rams_jax.types import NO, MarkSettings

TASKS = ("separation",)

EIGHT = np.ones((3, 3))


def test_careful_marks_are_those_of_former_versions():
    marks = partial.draw_partial(ellipses(), 5)
    assert zlib.crc32(marks.tobytes()) == 3502467007, "the drawing has changed, and with it every simulated data set"


def squares(**given):
    """Of an image with 64 ellipses of two classes: the example, and what is left of it for some seeds."""
    full = ellipses()
    classes = np.concatenate([[0], 1 + np.arange(64) % 2]).astype(np.int32)
    valid = np.ones(full.shape, bool)
    valid[:7] = False
    whole = partial.annotate(
        "a", np.zeros((*full.shape, 1), np.float32), full, None, valid, 1.0, 0, MarkSettings(), TASKS, classes=classes
    )
    return whole, [partial.within_square(whole, seed=seed, **given) for seed in range(12)]


def test_a_square_of_an_outlined_image():
    whole, cuts = squares(side=60)
    for cut in cuts:
        rows, columns = (np.flatnonzero(cut.valid.any(axis)) for axis in (1, 0))
        assert columns[-1] - columns[0] == 59 and 53 <= rows[-1] - rows[0] + 1 <= 60 and rows[0] >= 7
        ids = np.setdiff1d(cut.full, 0)
        # Whole objects only, with their marks, of both classes; the others in the square were not looked at.
        assert (cut.full > 0).sum() == (np.isin(whole.full, ids) & whole.valid).sum()
        assert set(whole.classes[ids]) == {1, 2}
        assert (whole.full[cut.valid] == cut.full[cut.valid]).all() and not cut.full[~cut.valid].any()
        np.testing.assert_array_equal(cut.partial, np.where(np.isin(whole.partial, ids) & cut.valid, whole.partial, 0))
        assert set(np.flatnonzero(cut.classes)) == set(ids)
    assert len({tuple(np.setdiff1d(cut.full, 0)) for cut in cuts}) > 3


def test_a_square_as_large_as_the_image_shows_all_of_it():
    whole, cuts = squares(side=500)
    np.testing.assert_array_equal(cuts[0].valid, whole.valid)
    np.testing.assert_array_equal(cuts[0].full, np.where(whole.valid, whole.full, 0))
    np.testing.assert_array_equal(cuts[0].classes, whole.classes)


def test_a_square_that_is_too_small():
    with pytest.raises(AnnotationError, match="a: no square of 5 pixels holds a whole object; raise the side"):
        squares(side=5)


def test_a_shift_moves_marks_to_one_side():
    full = ellipses(spacing=40, axes=(14.0, 17.0))
    ids = np.arange(1, 17)
    centres = np.array(ndimage.center_of_mass(full > 0, full, ids))

    def drawn(shift):
        marks = partial.draw_partial(full, 0, MarkSettings(coverage=(0.2, 0.2), shift=shift))
        moved = np.array(ndimage.center_of_mass(marks > 0, marks, ids)) - centres
        return marks, moved, np.linalg.norm(moved, axis=1)

    marks, moved, distance = drawn(1.0)
    assert (np.bincount(marks.ravel())[1:] == np.rint(0.2 * np.bincount(full.ravel())[1:])).all()
    # A segment with a quarter of a disc's area (0.2 of the object, which is larger than the room by the margin) has its
    # centre of mass at about 0.6 of the radius; the room's radius is about 14 to 17 less 3.
    assert 5.5 < distance.min() and distance.max() < 9.5
    assert np.abs(np.mean(moved / distance[:, None], axis=0)).max() < 0.5, "each object has its own side"
    assert np.median(drawn(0.0)[2]) < np.median(drawn(0.5)[2]) < np.median(distance)
    for index in ids:
        depth = ndimage.distance_transform_cdt(full == index, "chessboard")
        assert depth[marks == index].min() > 1 and ndimage.label(marks == index)[1] == 1


@pytest.mark.parametrize("spill", [0.05, 0.3])
def test_marks_spill_over_the_edge(spill):
    full = ellipses(size=240, spacing=60, axes=(14.0, 17.0))  # with room around each
    careful = partial.draw_partial(full, 0)
    marks = partial.draw_partial(full, 0, MarkSettings(spill=spill))
    for index in range(1, 17):
        mark, inside = marks == index, full == index
        assert (mark & ~inside).sum() == round(spill * (careful == index).sum())
        # The last step of the way may have left more outside than was asked for, and that is left out.
        assert 0.85 * (careful == index).sum() <= mark.sum() <= (careful == index).sum()
        assert ndimage.label(mark)[1] == 1
        distance = ndimage.distance_transform_edt(~inside)
        assert distance[mark].max() < (4 if spill < 0.1 else 10), "just over the edge"


def test_spilling_marks_leave_the_marks_of_neighbours_alone():
    full = np.zeros((20, 40), np.int32)
    full[:, :20], full[:, 20:] = 1, 2  # the only edge is the one between them
    marks = partial.draw_partial(full, 3, MarkSettings(coverage=(0.5, 0.5), spill=0.1))
    careful = partial.draw_partial(full, 3, covering(0.5))
    assert ((marks == 1) & (full == 2)).any() or ((marks == 2) & (full == 1)).any()
    for index in (1, 2):
        assert 0.7 * (careful == index).sum() < (marks == index).sum() <= (careful == index).sum()
    alone = np.ones((9, 9), np.int32)
    spilled = partial.draw_partial(alone, 0, MarkSettings(spill=0.2))
    np.testing.assert_array_equal(spilled, partial.draw_partial(alone, 0), "there is nothing to spill over to")


def test_overlooked_objects():
    marks = np.arange(1001, dtype=np.int32)[None]
    everywhere = partial.overlook(marks, 1, MarkSettings(missing=0.1))
    assert set(np.unique(everywhere)) <= set(range(1001)) and ((everywhere == 0) | (everywhere == marks)).all()
    assert 70 < 1000 - (everywhere > 0).sum() < 130  # 100, standard deviation 9.5
    np.testing.assert_array_equal(everywhere, partial.overlook(marks, 1, MarkSettings(missing=0.1)))
    half = [(partial.overlook(marks, s, MarkSettings(missing=0.5, missing_images=0.1)) > 0).sum() for s in range(300)]
    touched = [count for count in half if count < 1000]
    assert 15 < len(touched) < 45  # 30, standard deviation 5.2
    assert 430 < min(touched) and max(touched) < 570  # 500, standard deviation 15.8
    np.testing.assert_array_equal(partial.overlook(marks, 1, partial.CAREFUL), marks)


def covering(share: float) -> MarkSettings:
    return MarkSettings(coverage=(share, share))


def ellipses(size: int = 160, spacing: int = 20, axes: tuple[float, float] = (6.0, 8.5)) -> np.ndarray:
    """Turned ellipses of about 160 pixels on a grid, 64 of them, none at the edge."""
    from skimage.draw import ellipse

    full = np.zeros((size, size), np.int32)
    for index, (y, x) in enumerate(np.ndindex(size // spacing, size // spacing), start=1):
        centre = (y * spacing + spacing // 2, x * spacing + spacing // 2)
        full[ellipse(*centre, *axes, shape=full.shape, rotation=index)] = index
    return full


def test_marks_are_as_promised_on_wide_objects():
    full = ellipses()
    marks = partial.draw_partial(full, seed=5)
    assert marks.dtype == np.int32
    shares = []
    for index in range(1, 65):
        inside, mark = full == index, marks == index
        shares.append(mark.sum() / inside.sum())
        assert ndimage.label(mark)[1] == 1, "a mark is one connected piece"
        # The outermost ring: pixels with one of their eight neighbours outside the object.
        assert not (mark & ~ndimage.binary_erosion(inside, EIGHT)).any(), "a mark keeps off the boundary"
    area = (full == 1).sum()
    assert 0.15 - 1 / area <= min(shares) and max(shares) <= 0.40 + 1 / area
    # Uniform on [0.15, 0.40]: mean 0.275, standard deviation 0.072, so the mean of 64 is within 0.036 of it (4 sigma).
    assert abs(np.mean(shares) - 0.275) < 0.036 and 0.05 < np.std(shares) < 0.095
    assert set(np.unique(marks)) == set(range(65))
    assert (marks[marks > 0] == full[marks > 0]).all()


def test_marks_are_off_centre_and_of_two_kinds():
    full = ellipses()
    marks = partial.draw_partial(full, 5, covering(0.2))
    ids = np.arange(1, 65)
    centres, marked = (np.array(ndimage.center_of_mass(m > 0, m, ids)) for m in (full, marks))
    assert 1.0 < np.median(np.linalg.norm(centres - marked, axis=1)) < 4.0  # the radius is 6 to 8.5
    length = []
    for index in ids:
        spread = np.linalg.eigvalsh(np.cov(np.argwhere(marks == index).T))
        length.append(np.sqrt(spread[1] / spread[0]))
    covered = np.mean([marks[tuple(np.rint(centre).astype(int))] == i for i, centre in zip(ids, centres, strict=True)])
    assert 0.2 < covered < 0.8, "some marks cover the centre of their object, others do not"
    assert np.percentile(length, 15) < 1.8 and np.percentile(length, 85) > 2.2


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_share_is_exact_where_there_is_room(share):
    full = ellipses(spacing=40, axes=(14.0, 17.0))
    marks = partial.draw_partial(full, 0, covering(share))
    for index in range(1, 17):
        assert (marks == index).sum() == max(1, round(share * (full == index).sum()))


def test_marks_keep_well_inside_large_objects():
    full = ellipses(size=300, spacing=150, axes=(50.0, 60.0))
    marks = partial.draw_partial(full, 0, covering(0.4))
    for index in range(1, 5):
        depth = ndimage.distance_transform_cdt(full == index, "chessboard")
        assert depth[marks == index].min() > 0.15 * depth.max() > 4


def test_a_mark_depends_on_seed_and_object_only():
    full = ellipses()
    marks = partial.draw_partial(full, 3)
    np.testing.assert_array_equal(marks, partial.draw_partial(full, 3))
    assert (marks != partial.draw_partial(full, 4)).any()
    alone = np.where(full == 28, full, 0)
    np.testing.assert_array_equal(partial.draw_partial(alone, 3) == 28, marks == 28)
    moved = partial.draw_partial(np.roll(alone, (3, -5), (0, 1)), 3)
    np.testing.assert_array_equal(moved == 28, np.roll(marks == 28, (3, -5), (0, 1)))


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    # Rows x columns of a rectangle, and how many pixels are left without its ring.
    [(1, 1, 0), (1, 20, 0), (2, 20, 0), (3, 9, 7), (4, 4, 4)],
)
def test_narrow_objects_are_marked_too(height, width, inner):
    full = np.zeros((12, 30), np.int32)
    full[4 : 4 + height, 5 : 5 + width] = 3
    for seed in range(5):
        mark = partial.draw_partial(full, seed, covering(0.5)) == 3
        expected = max(1, round(0.5 * height * width))
        assert mark.sum() == (min(expected, inner) if inner else expected)
        assert ndimage.label(mark)[1] == 1 and (full[mark] == 3).all()
        if inner:
            assert not mark[[4, 3 + height]].any() and not mark[:, [5, 4 + width]].any()


def test_the_edge_of_the_image_is_no_boundary():
    full = np.zeros((20, 20), np.int32)
    full[:4, :10] = 1  # cut by the top left corner: only row 3 and column 9 are boundary
    mark = partial.draw_partial(full, 0, covering(1.0)) == 1
    expected = np.zeros((20, 20), bool)
    expected[:3, :9] = True
    np.testing.assert_array_equal(mark, expected)
    assert (partial.draw_partial(np.ones((9, 8), np.int32), 0, covering(0.25)) == 1).sum() == 18


def test_marks_stay_where_somebody_looked():
    full = ellipses()
    valid = np.ones(full.shape, bool)
    valid[:, 70:] = False
    marks = partial.draw_partial(full, 1, valid=valid)
    cut = np.unique(full[valid & (full > 0)])
    assert (valid | ~np.isin(marks, cut)).all() and np.isin(cut, marks).all()
    assert np.isin(np.arange(1, 65), marks).all(), "an object that nobody looked at is still marked"


def test_objects_of_several_pieces_get_one_mark_in_the_largest():
    full = np.zeros((30, 30), np.int32)
    full[2:7, 2:7], full[10:25, 10:25] = 1, 1
    mark = partial.draw_partial(full, 0) == 1
    assert ndimage.label(mark)[1] == 1 and not mark[:9].any()


@pytest.mark.parametrize("coverage", [(0.0, 0.4), (0.5, 0.4), (0.2, 1.5)])
def test_impossible_coverage(coverage):
    with pytest.raises(AnnotationError, match="Marks cannot cover"):
        partial.draw_partial(np.ones((4, 4), np.int32), 0, MarkSettings(coverage=coverage))


def example(name: str, objects: int, marks: MarkSettings = partial.CAREFUL):
    full = np.zeros((30, 30), np.int32)
    for index in range(objects):
        full[6 * (index // 5) : 6 * (index // 5) + 5, 6 * (index % 5) : 6 * (index % 5) + 5] = index + 1
    image = np.zeros((30, 30, 1), np.float32)
    return partial.annotate(name, image, full, None, np.ones((30, 30), bool), 1.0, 0, marks, TASKS)


def test_strong_images_are_those_with_objects():
    objects = [0, 9, 1, 8, 7, 2]  # median 4.5: 1, 3, 4 are above
    chosen = [partial.choose_strong(objects, 2, seed) for seed in range(60)]
    assert set(chosen) == {(1, 3), (1, 4), (3, 4)}
    assert chosen[:5] == [partial.choose_strong(objects, 2, seed) for seed in range(5)]
    four = {partial.choose_strong(objects, 4, seed) for seed in range(60)}
    assert four == {tuple(sorted((1, 3, 4, i))) for i in (0, 2, 5)}
    assert partial.choose_strong(objects, 6, 0) == (0, 1, 2, 3, 4, 5)
    for count in (0, -1, 7):
        with pytest.raises(AnnotationError, match=f"{count} images are to keep their full masks, but 6 of 6"):
            partial.choose_strong(objects, count, 0)
    assert partial.choose_strong([None, 3, None], 1, 0) == (1,), "nobody outlined the others"
    overlooked = [0, 9, 1, 0, 7, 2]
    assert {partial.choose_strong(overlooked, 2, seed) for seed in range(60)} == {(1, 4), (1, 5), (4, 5)}


def test_whether_an_image_shows_marks_is_known_before_they_are_drawn():
    marks = MarkSettings(missing=0.7)
    made = [example(name, 3, marks) for name in "abcdefgh"]
    shown = [partial.objects_shown(e.full, e.partial) for e in made]
    assert set(shown) == {0, 3}
    early = [partial.overlook(e.full, partial.image_seed(0, e.name), marks) for e in made]
    assert [partial.objects_shown(e.full, m) for e, m in zip(made, early, strict=True)] == shown


def test_weak_images_are_chosen_among_the_others():
    assert partial.choose_weak(8, (2, 5), 0, 0) == (0, 1, 3, 4, 6, 7)
    few, more = (set(partial.choose_weak(8, (2, 5), count, 4)) for count in (2, 4))
    assert len(few) == 2 and len(more) == 4 and few < more and not more & {2, 5}
    assert len({partial.choose_weak(8, (2, 5), 2, seed) for seed in range(40)}) > 8  # of 15
    with pytest.raises(AnnotationError, match="7 images are to show their marks, but 6 of 8 training images are left"):
        partial.choose_weak(8, (2, 5), 7, 0)


def test_what_careless_people_say():
    careless = example("a", 9, MarkSettings(missing=0.5))
    assert not careless.complete and 0 < len(np.unique(careless.partial)) - 1 < 9
    assert (careless.auxiliary[..., 0] == NO).sum() == (careless.partial > 0).sum(), "nothing is known off the marks"
    silent = example("a", 9, MarkSettings(complete=False))
    assert not silent.complete and len(np.unique(silent.partial)) - 1 == 9


def test_annotate_derives_the_rest():
    made = example("a", 3)
    assert made.complete and made.classes.tolist() == [0, 1, 1, 1] and made.auxiliary.shape == (30, 30, 1)
    assert (made.partial != example("b", 3).partial).any(), "each image has its own stream"
    first = np.where(made.partial == 1, 1, 0).astype(np.int32)
    some = partial.annotate("a", made.image, made.full, first, made.valid, 1.0, 0, MarkSettings(), TASKS)
    assert not some.complete
    weak = partial.annotate("a", made.image, None, first, made.valid, 1.0, 0, MarkSettings(), TASKS)
    assert weak.complete and weak.full is None and weak.classes.tolist() == [0, 1]
    np.testing.assert_array_equal(weak.auxiliary[..., 0] == NO, first > 0)
    with pytest.raises(AnnotationError, match="a: neither"):
        partial.annotate("a", made.image, None, None, made.valid, 1.0, 0, MarkSettings(), TASKS)
