"""Outlines of objects along the edges of their pixels."""

from __future__ import annotations

import numpy as np
import shapely
from scipy import ndimage


def outlines(instances: np.ndarray) -> dict[int, shapely.Polygon | shapely.MultiPolygon]:
    """The area of each object, exactly.

    Vertices are corners of pixels. Pixels that touch at a corner only are parts of their own, or the hole between them
    touches the outline there. Outlines turn one way, holes the other.

    Args:
      instances: integer[H, W].

    Returns:
      By id, in ascending order; the x and y of the polygons are row and column.
    """
    found = {}
    for number, box in enumerate(ndimage.find_objects(instances.astype(np.int32)), start=1):
        if box is None:
            continue
        steps = np.diff(np.pad(instances[box] == number, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        (row, first), (_, stop) = np.nonzero(steps == 1), np.nonzero(steps == -1)
        row, first, stop = row + box[0].start, first + box[1].start, stop + box[1].start
        # Rows that end at the same column leave vertices in a straight edge, which a tolerance of 0 removes.
        area = shapely.simplify(shapely.union_all(shapely.box(row, first, row + 1, stop)), 0)
        found[number] = shapely.orient_polygons(area)
    return found
