"""Outlines and strokes to pixels, against independent rasterisers."""

import numpy as np
import pytest
import shapely
from matplotlib.path import Path
from scipy.spatial import Delaunay
from skimage.draw import polygon2mask

from rams_jax.annotations import AnnotationError
from rams_jax.exchange import pixels
from rams_jax.exchange.shapes import Shape, draw_instances, draw_strokes, ellipse, vertices

SIZE = (37, 53)
CENTRES = np.stack(np.mgrid[: SIZE[0], : SIZE[1]], axis=-1).reshape(-1, 2) + 0.5


def mask(runs):
    found = np.zeros(SIZE, int)
    for index in pixels.indices(runs, SIZE):
        np.add.at(found.reshape(-1), index, 1)
    assert found.max(initial=0) <= 1  # each pixel once
    return found.astype(bool)


def tangle(rng, count):
    """A ring that crosses itself and leaves the image."""
    return rng.uniform((-10, -10), (SIZE[0] + 10, SIZE[1] + 10), (count, 2))


@pytest.mark.parametrize("seed", range(8))
def test_the_inside_of_a_triangle_is_what_three_libraries_say(seed):
    ring = tangle(np.random.default_rng(seed), 3)
    found = mask(pixels.inside((ring,), SIZE))
    assert found.any()
    assert np.array_equal(found, polygon2mask(SIZE, ring - 0.5))
    assert np.array_equal(found.ravel(), Path(ring).contains_points(CENTRES))
    assert np.array_equal(found.ravel(), shapely.contains_xy(shapely.Polygon(ring), CENTRES))


@pytest.mark.parametrize("seed", range(8))
def test_a_tangle_is_filled_by_the_even_odd_rule(seed):
    ring = tangle(np.random.default_rng(seed), 30)
    valid = shapely.make_valid(shapely.Polygon(ring))  # which splits it by that rule
    assert np.array_equal(mask(pixels.inside((ring,), SIZE)).ravel(), shapely.contains_xy(valid, CENTRES))


def test_holes_are_not_inside():
    outer, inner = ellipse((18, 26), np.diag([15.0, 20.0])), ellipse((17, 24), np.diag([6.0, 9.0]))
    found = mask(pixels.inside((outer, inner), SIZE))
    expected = shapely.contains_xy(shapely.Polygon(outer, [inner]), CENTRES)
    assert np.array_equal(found.ravel(), expected)
    assert abs(found.sum() - np.pi * (15 * 20 - 6 * 9)) < 12  # the area of the ring


def test_a_square_by_hand():
    # From (1, 2) to (3, 5): rows 1 and 2, columns 2 to 4; from (1.5, 2.5) on, centres on the upper and left edge count.
    square = np.array([[1, 2], [1, 5], [3, 5], [3, 2.0]])
    assert np.argwhere(mask(pixels.inside((square,), SIZE))).tolist() == [[r, c] for r in (1, 2) for c in (2, 3, 4)]
    shifted = mask(pixels.inside((square + 0.5,), SIZE))
    assert np.argwhere(shifted).tolist() == [[r, c] for r in (1, 2) for c in (2, 3, 4)]


@pytest.mark.parametrize("seed", range(4))
def test_triangles_that_share_edges_leave_no_gap_and_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0], [0, SIZE[1]], [SIZE[0], 0], SIZE], float)
    # Corners, centres and edges of pixels among the vertices: the hard cases.
    points = np.concatenate([corners, np.round(rng.uniform((0, 0), SIZE, (60, 2)) * 2) / 2])
    total = np.zeros(SIZE, int)
    for triangle in Delaunay(np.unique(points, axis=0)).simplices:
        ring = np.unique(points, axis=0)[triangle]
        total += mask(pixels.inside((ring[:: rng.choice([-1, 1])],), SIZE))
    assert (total == 1).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 15])
def test_strokes_are_the_pixels_within_half_the_width(seed, count):
    rng = np.random.default_rng(seed)
    line, width = tangle(rng, count) * 0.7 + 5, rng.uniform(1, 9)
    found = mask(pixels.union([pixels.under(line, width, SIZE)]))
    path = shapely.Point(line[0]) if count == 1 else shapely.LineString(line)
    assert found.any()
    assert np.array_equal(found.ravel(), shapely.distance(path, shapely.points(CENTRES)) <= width / 2)


def test_level_and_upright_strokes_by_hand():
    line = np.array([[2.5, 3.5], [2.5, 6.5]])  # between centres of pixels
    assert np.argwhere(mask(pixels.union([pixels.under(line, 1.0, SIZE)]))).tolist() == [[2, c] for c in range(3, 7)]
    line = line[:, ::-1]
    assert np.argwhere(mask(pixels.union([pixels.under(line, 1.0, SIZE)]))).tolist() == [[r, 2] for r in range(3, 7)]


def test_the_union_of_parts_holds_every_pixel_once():
    rng = np.random.default_rng(0)
    rings = [tangle(rng, 5) for _ in range(6)]
    parts = [pixels.inside((ring,), SIZE) for ring in rings]
    assert np.array_equal(mask(pixels.union(parts)), np.logical_or.reduce([mask(part) for part in parts]))


def test_large_areas_come_in_pieces():
    size = (3000, 3000)
    square = np.array([[0, 0], [0, 3000], [3000, 3000], [3000, 0.0]])
    pieces = list(pixels.indices(pixels.inside((square,), size), size))
    assert len(pieces) > 1 and max(len(piece) for piece in pieces) < 2**23
    assert np.array_equal(np.concatenate(pieces), np.arange(9_000_000))


def square_at(row, column, side=4.0):
    corner = np.array([row, column], float)
    return ((corner + np.array([[0, 0], [0, side], [side, side], [side, 0]]),),)


def test_later_shapes_lie_on_top_and_the_overlap_is_told():
    shapes = [Shape("shape 1 (cell)", areas=square_at(1, 1)), Shape("shape 2", areas=square_at(3, 2))]
    instances, by_id, warnings = draw_instances("a.json", shapes, SIZE, None)
    expected = np.zeros(SIZE, int)
    expected[1:5, 1:5], expected[3:7, 2:6] = 1, 2
    assert np.array_equal(instances, expected) and instances.dtype == np.int32
    assert warnings == ["a.json: shape 2 lies on top of shape 1 (cell) (6 pixels)."]
    assert by_id[2].label == "shape 2"


def test_shapes_keep_the_id_they_were_exported_with():
    ids = [7, None, 7, 0, 3]  # the second 7 and 0 cannot be kept
    shapes = [Shape(f"shape {i}", id=number, areas=square_at(5 * i, 0)) for i, number in enumerate(ids)]
    instances, _, _ = draw_instances("a", shapes, SIZE, None)
    assert instances[::5, 0].tolist()[:5] == [7, 8, 9, 10, 3]


def test_every_shape_that_cannot_be_drawn_is_told():
    tiny = ((np.array([[5.6, 5.6], [5.6, 5.9], [5.9, 5.9]]),),)
    shapes = [
        Shape("shape 1", areas=square_at(1, 60)),
        Shape("shape 2", areas=tiny),
        Shape("shape 3", areas=square_at(10, 10, side=2)),
        Shape("shape 4", areas=square_at(9, 9)),
        Shape("shape 5", lines=(np.array([[1.0, 1], [9, 9]]),)),
    ]
    with pytest.raises(AnnotationError) as error:
        draw_instances("a.csv", shapes, SIZE, None)
    lines = str(error.value).splitlines()
    assert len(lines) == 4 and all(line.startswith("a.csv: shape ") for line in lines)
    assert "rows 1 to 5 and columns 60 to 64, outside the image of 37 x 53" in lines[0]
    assert "shape 2: it covers no pixel" in lines[1]
    assert "shape 5: a line or a point encloses nothing" in lines[2]
    assert "shape 3 lies wholly beneath shape 4" in lines[3]
    with pytest.raises(AnnotationError, match="shape 2: it covers no pixel"):
        draw_strokes("a.csv", shapes[1:], SIZE, 3.0)


def test_strokes_may_overlap():
    shapes = [Shape("1", areas=square_at(1, 1)), Shape("2", lines=(np.array([[2.5, 0.5], [2.5, 9.5]]),))]
    strokes = draw_strokes("a", shapes, SIZE, 1.0)
    expected = np.zeros(SIZE, int)
    expected[1:5, 1:5], expected[2, :10] = 1, 1
    assert np.array_equal(strokes, expected)


def test_absurd_shapes_are_refused():
    zigzag = np.stack([np.tile([0.0, 9000.0], 1000), np.arange(2000.0)], axis=1)
    with pytest.raises(AnnotationError, match=r"shape 1: it crosses \d+ pixel rows"):
        draw_instances("a", [Shape("shape 1", areas=((zigzag,),))], (9000, 10), None)
    whole = square_at(0, 0, 400.0)
    with pytest.raises(AnnotationError, match="cover the image 20 times"):
        draw_instances("a", [Shape(f"shape {i}", areas=whole) for i in range(30)], (400, 400), None)
    with pytest.raises(AnnotationError, match="40000 shapes, but an image can hold 32767"):
        draw_instances("a", [Shape("s")] * 40_000, SIZE, None)
    for points in ([[0, np.nan]], [[1e300, 0]], [[1, 2, 3]], [["a", "b"]], None, [], [[1, 2], [3]], {"a": 1}):
        with pytest.raises(AnnotationError, match="a.json: shape 9: its coordinates are"):
            vertices(points, "a.json", "shape 9")
