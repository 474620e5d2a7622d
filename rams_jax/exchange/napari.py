"""napari: shapes and points layers as CSV (File > Save Selected Layers). Labels layers are plain instance maps.

The centre of a pixel has integer coordinates: the upper left pixel reaches from -0.5 to 0.5. So half a pixel is added.
Coordinates are those of the layer's data, without its scale. (napari.org, "layers at a glance"; napari issue 310.)
"""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Sequence

import numpy as np

from rams_jax.annotations import AnnotationError
from rams_jax.exchange.files import read_bytes
from rams_jax.exchange.shapes import Drawing, Shape, ellipse, vertices


def read(path: pathlib.Path) -> Drawing:
    """Reads a layer: columns index, shape-type, vertex-index, axis-0 (row), axis-1 (column), or a points layer's.

    Polygons, rectangles and ellipses become areas, lines and paths lines. Of layers with more axes the last two count.

    Raises:
      AnnotationError: not such a table; shapes on several slices; a rectangle or ellipse without its four corners.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: cannot be read as CSV ({error}); save the layer again.") from None
    header = [name.strip() for name in rows[0]] if rows else []
    axes = sorted((name for name in header if name.startswith("axis-")), key=lambda name: (len(name), name))
    if len(axes) < 2 or not ({"index", "shape-type"} <= set(header) or "shape-type" not in header):
        raise AnnotationError(
            f"{path}: needs the columns index, shape-type, vertex-index, axis-0 and axis-1, as napari saves them."
        )
    place = {name: header.index(name) for name in header}
    points_only = "shape-type" not in header
    grouped: dict[str, list[Sequence[str]]] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) < len(header):
            raise AnnotationError(f"{path}: line {line} has {len(row)} columns instead of {len(header)}.")
        grouped.setdefault(str(line) if points_only else row[place["index"]], []).append(row)
    shapes, planes = [], set()
    for number, (index, members) in enumerate(grouped.items(), start=1):
        label = f"point {number}" if points_only else f"shape {index[:20]}"
        planes |= {tuple(row[place[name]] for name in axes[:-2]) for row in members}
        points = vertices([[row[place[name]] for name in axes[-2:]] for row in members], str(path), label) + 0.5
        kind = "point" if points_only else members[0][place["shape-type"]].strip()
        shapes.append(_shape(str(path), label, kind, points))
    if len(planes) > 1:
        raise AnnotationError(f"{path}: shapes on {len(planes)} slices of a stack; save those of each slice alone.")
    return Drawing(str(path), (path.stem,), shapes=tuple(shapes))


def _shape(source: str, label: str, kind: str, points: np.ndarray) -> Shape:
    match kind:
        case "polygon" | "rectangle":
            return Shape(label, areas=((points,),))
        case "ellipse" if len(points) == 4:  # the corners of its box, in turn
            centre = points.mean(axis=0)
            return Shape(label, areas=((ellipse(centre.tolist(), (points[1:3] - points[0:2]) / 2),),))
        case "line" | "path" | "point":
            return Shape(label, lines=(points,))
    raise AnnotationError(
        f"{source}: {label}: what is a {kind[:20]!a} of {len(points)} vertices? Draw it as a polygon."
    )
