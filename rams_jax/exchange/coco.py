"""COCO: one JSON file for many images.

Polygons are x, y, x, y, ... from the upper left corner of the image: the upper left pixel reaches from 0 to 1, which is
also the convention of this package ("bbox=[0 0 1 1] encloses first pixel", pycocotools). Run lengths (RLE) count pixels
down the columns, from left to right, zeros first.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from rams_jax.annotations import AnnotationError
from rams_jax.exchange.files import bare_name, parse_json, read_bytes
from rams_jax.exchange.shapes import Drawing, Shape, class_text, image_size, named, vertices


def read(path: pathlib.Path) -> list[Drawing]:
    """Reads instance annotations with polygons or run lengths, plain or compressed; the category is the class.

    The polygons of one annotation are parts of one object. Crowds (iscrowd = 1) are no objects and are left out with a
    warning.

    Returns:
      A drawing for each image that has annotations.

    Raises:
      AnnotationError: not such a file; no annotations; one of an unknown image, or without outline.
    """
    content = parse_json(str(path), read_bytes(path))
    if not is_coco(content):
        raise AnnotationError(f"{path}: is no COCO file; it needs the lists images and annotations.")
    images = {image.get("id"): image for image in _dicts(path, content, "images")}
    classes = {category.get("id"): category.get("name") for category in _dicts(path, content, "categories")}
    shapes: dict[Any, list[Shape]] = {key: [] for key in images}
    warnings: dict[Any, list[str]] = {key: [] for key in images}
    for item in _dicts(path, content, "annotations"):
        key, class_name = item.get("image_id"), class_text(classes.get(item.get("category_id")))
        label = named("annotation", item.get("id", 0), class_name)
        if key not in images:
            raise AnnotationError(f"{path}: {label} belongs to image {key!a:.20}, which the file does not list.")
        if item.get("iscrowd") == 1:
            warnings[key].append(f"{path}: {label} is a crowd, not an object, and was left out.")
            continue
        size = image_size(images[key].get("height"), images[key].get("width"))
        shapes[key].append(_shape(str(path), label, class_name, item, size))
    told = [key for key in images if shapes[key] or warnings[key]]
    if not told:
        raise AnnotationError(f"{path}: holds no annotations.")
    if len(told) < len(images):
        # Nobody says that they show no objects.
        rest = f"{path}: {len(images) - len(told)} of its {len(images)} images have no annotation and were left out."
        warnings[told[0]].append(rest)
    return [
        Drawing(
            f"{path} for {bare_name(images[key].get('file_name'))}",
            (bare_name(images[key].get("file_name")),),
            image_size(images[key].get("height"), images[key].get("width")),
            tuple(shapes[key]),
            warnings=tuple(warnings[key]),
        )
        for key in told
    ]


def is_coco(content: Any) -> bool:
    """Whether parsed JSON is a COCO file."""
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in ("images", "annotations"))


def decode(counts: Any, size: tuple[int, int]) -> np.ndarray:
    """Run lengths as `Shape.spans`, int64[R, 2].

    Args:
      counts: list of integers, or COCO's compressed text: each number in groups of 5 bits from the lowest up, 48 added
        to each group, 32 if more follow; from the fourth on a number is the difference to the one before the last.
      size: height and width.

    Raises:
      ValueError: not run lengths, or not of an image of this size.
    """
    lengths = np.array(_uncompressed(counts) if isinstance(counts, str) else counts)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer) or (lengths < 0).any():
        raise ValueError("not run lengths")
    stops = np.cumsum(lengths.astype(np.int64))
    if (lengths > size[0] * size[1]).any() or len(stops) == 0 or stops[-1] != size[0] * size[1]:
        raise ValueError("run lengths of another size")
    return np.stack([stops[0::2][: len(lengths) // 2], lengths[1::2]], axis=1)


def _uncompressed(text: str) -> list[int]:
    found: list[int] = []
    value = shift = 0
    for group in text.encode():
        group -= 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("not run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    return found


def _shape(
    source: str, label: str, class_name: str | None, item: dict[str, Any], size: tuple[int, int] | None
) -> Shape:
    outline = item.get("segmentation")
    if isinstance(outline, dict):
        declared = outline.get("size")
        if size is None or declared != list(size):
            raise AnnotationError(
                f"{source}: {label}: its run lengths are of a {declared!a:.20} image, but the file says {size}."
            )
        try:
            return Shape(label, class_name, spans=decode(outline.get("counts"), size))
        except (TypeError, ValueError, OverflowError):
            raise AnnotationError(f"{source}: {label}: its run lengths are damaged; export it again.") from None
    if not isinstance(outline, list) or not outline:
        raise AnnotationError(f"{source}: {label} has a box only; outline the object, or delete the annotation.")
    areas = []
    for polygon in outline:
        if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
            raise AnnotationError(f"{source}: {label}: a polygon needs at least three x, y pairs; draw it again.")
        pairs = list(zip(polygon[0::2], polygon[1::2], strict=True))
        areas.append((vertices(pairs, source, label)[:, ::-1],))
    return Shape(label, class_name, areas=tuple(areas))


def _dicts(path: pathlib.Path, content: dict[str, Any], key: str) -> Iterable[dict[str, Any]]:
    items = content.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise AnnotationError(f"{path}: {key} is no list of entries; export it again.")
    if any(isinstance(value, list | dict) for item in items for name, value in item.items() if name.endswith("id")):
        raise AnnotationError(f"{path}: {key} has an id that is no number; export it again.")
    return items
