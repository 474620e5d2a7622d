"""labelme: one JSON file an image.

Points are pixels of the image, x first, from its upper left corner: on labelme's canvas the upper left pixel reaches
from 0 to 1, which is also the convention of this package (Canvas.transformPos). labelme's own export fills up to a
pixel more, as it takes integers for centres and adds the pixels of the outline.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from rams_jax.annotations import AnnotationError
from rams_jax.exchange.files import bare_name, parse_json, read_bytes
from rams_jax.exchange.shapes import Drawing, Shape, class_text, ellipse, image_size, named, vertices

_LARGEST = 2**26  # pixels of a mask


def read(path: pathlib.Path) -> Drawing:
    """Reads polygons, rectangles, circles, masks, lines and points; the label is the class.

    Shapes of one label that share a group_id are parts of one object, as in labelme's own export.

    Raises:
      AnnotationError: not such a file, or a shape that cannot be read.
    """
    source, content = str(path), parse_json(str(path), read_bytes(path))
    if not is_labelme(content) or not all(isinstance(shape, dict) for shape in content["shapes"]):
        raise AnnotationError(f"{path}: is no labelme file; it needs a list of shapes.")
    size = image_size(content.get("imageHeight"), content.get("imageWidth"))
    found: dict[object, Shape] = {}
    for number, item in enumerate(content["shapes"], start=1):
        class_name = class_text(item.get("label"))
        group = item.get("group_id")
        key = number if group is None else (class_name, str(group))
        shape = _shape(source, named("shape", number, class_name), class_name, item, size)
        if key in found:
            shape = _joined(found[key], shape)
        found[key] = shape
    names = (path.stem, bare_name(content.get("imagePath") or path.stem))
    return Drawing(source, names, size, tuple(found.values()))


def is_labelme(content: Any) -> bool:
    """Whether parsed JSON is a labelme file."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _shape(
    source: str, label: str, class_name: str | None, item: dict[str, Any], size: tuple[int, int] | None
) -> Shape:
    points = vertices(item.get("points"), source, label)[:, ::-1]
    kind = item.get("shape_type") or "polygon"
    match kind, len(points):
        case "mask", 2:
            return Shape(label, class_name, spans=_mask(source, label, points, item.get("mask"), size))
        case "rectangle", 2:
            (top, left), (bottom, right) = points
            ring = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
            return Shape(label, class_name, areas=((ring,),))
        case "circle", 2:
            radius = np.hypot(*(points[1] - points[0]))
            return Shape(label, class_name, areas=((ellipse(points[0], np.diag([radius, radius])),),))
        case (("polygon" | "oriented_rectangle" | "rectangle"), _):
            return Shape(label, class_name, areas=((points,),))
        case (("line" | "linestrip" | "point"), _):
            return Shape(label, class_name, lines=(points,))
        case "points", _:
            return Shape(label, class_name, lines=tuple(points[:, None]))
    raise AnnotationError(
        f"{source}: {label}: what is a {str(kind)[:20]!a} of {len(points)} points? Draw it as a polygon."
    )


def _mask(source: str, label: str, points: np.ndarray, encoded: Any, size: tuple[int, int] | None) -> np.ndarray:
    """`Shape.spans` of a mask: a PNG in base64 whose upper left pixel is the first point, rounded."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",)) as image:
            # Before anything is decompressed.
            if size is None or image.height > size[0] or image.width > size[1] or image.height * image.width > _LARGEST:
                raise AnnotationError(
                    f"{source}: {label}: its mask is {image.height} x {image.width} pixels, which is too large; "
                    "draw it again."
                )
            filled = np.asarray(image.convert("L")) > 0
    except Exception as error:  # base64 and PNG have their own
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{source}: {label}: its mask cannot be read; draw it again.") from None
    top, left = np.rint(points[0]).astype(int).tolist()
    row, column = np.nonzero(filled)
    row, column = row + top, column + left
    kept = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    first = np.sort(column[kept] * size[0] + row[kept])
    return np.stack([first, np.ones_like(first)], axis=1)


def _joined(first: Shape, second: Shape) -> Shape:
    spans = [part.spans for part in (first, second) if part.spans is not None]
    return dataclasses.replace(
        first,
        areas=first.areas + second.areas,
        lines=first.lines + second.lines,
        spans=np.concatenate(spans) if spans else None,
    )
