"""QuPath: objects as GeoJSON (File > Export objects as GeoJSON, and Import objects from file).

Coordinates are pixels of the full-resolution image, x first, from the upper left corner of the image: the upper left
pixel reaches from 0 to 1 and its centre is (0.5, 0.5), which is also the convention of this package.
(qupath.readthedocs.io, "Exporting annotations"; PathObjectTypeAdapters.java and ROITypeAdapters.java in QuPath.)
"""

from __future__ import annotations

import json
import pathlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
import shapely.geometry

from rams_jax.annotations import AnnotationError
from rams_jax.exchange.files import parse_json, read_bytes, read_zip
from rams_jax.exchange.outlines import outlines
from rams_jax.exchange.shapes import Drawing, Shape, class_text, named, vertices

# One a class, round and round; QuPath shows them.
_COLOURS = ((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230))


def read(path: pathlib.Path) -> list[Drawing]:
    """Reads a FeatureCollection, a bare list of Features or a single one, also as QuPath's zip of such a file.

    A Feature is an object: its class is properties.classification, in the forms of QuPath 0.2 to 0.6. (Multi)Polygons
    become areas, (Multi)LineStrings lines, each point of a MultiPoint an object of its own. Of cells the outer geometry
    counts, not the nucleus. Ignored classes (those with a * behind their name), tiles and TMA cores are left out with a
    warning.

    Raises:
      AnnotationError: not such a file; geometry that cannot be read; objects on several planes of a stack.
    """
    if path.suffix.lower() != ".zip":
        return [_drawing(str(path), path.stem, read_bytes(path))]
    return [
        _drawing(f"{path}/{name}", name.rpartition(".")[0], data)
        for name, data in read_zip(path, (".geojson", ".json"))
    ]


def write(instances: np.ndarray, name: str, classes: Mapping[int, str]) -> bytes:
    """An instance map as QuPath annotations, whose polygons follow the edges of the pixels.

    Nothing is lost: holes are holes, objects of several parts are MultiPolygons, and the id is in the name (`id 7`),
    by which `read` finds it again.

    Args:
      instances: integer[H, W].
      name: of the image; the same objects of the same image get the same UUIDs.
      classes: class name of each id; objects without one are unclassified.

    Returns:
      The text of a FeatureCollection.
    """
    order = list(dict.fromkeys(classes.values()))
    features = []
    for number, outline in outlines(instances).items():
        # x, the column, comes first.
        geometry = shapely.geometry.mapping(shapely.transform(outline, lambda points: points[:, ::-1]))
        properties: dict[str, Any] = {"objectType": "annotation", "name": f"id {number}"}
        if number in classes:
            colour = _COLOURS[order.index(classes[number]) % len(_COLOURS)]
            properties["classification"] = {"name": classes[number], "color": list(colour)}
        identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}/{number}"))
        features.append({"type": "Feature", "id": identity, "geometry": geometry, "properties": properties})
    text = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in features)
    return f'{{"type": "FeatureCollection", "features": [\n{text}\n]}}\n'.encode()


def is_geojson(content: Any) -> bool:
    """Whether parsed JSON is GeoJSON."""
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and first.get("type") in ("FeatureCollection", "Feature")


def _drawing(source: str, name: str, data: bytes) -> Drawing:
    content = parse_json(source, data)
    features = content.get("features") if isinstance(content, dict) and "features" in content else content
    features = [features] if isinstance(features, dict) else features
    if not isinstance(features, list) or not all(isinstance(f, dict) and f.get("type") == "Feature" for f in features):
        raise AnnotationError(f"{source}: is no GeoJSON of features; export the objects from QuPath as GeoJSON.")
    shapes: list[Shape] = []
    warnings: list[str] = []
    planes = set()
    for number, feature in enumerate(features, start=1):
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        kind = properties.get("objectType", properties.get("object_type", feature.get("id")))
        class_name, geometry = _class_name(properties.get("classification")), feature.get("geometry")
        label = named("object", number, properties.get("name") or class_name)
        if kind in ("root", "PathRootObject"):
            continue
        if kind in ("tile", "PathTileObject", "tmaCore", "tma_core", "TMACoreObject"):
            warnings.append(f"{source}: {label} is a {kind} and was left out.")
            continue
        if class_name is not None and class_name.endswith("*"):
            warnings.append(f"{source}: {label} has the ignored class {class_name} and was left out.")
            continue
        if not isinstance(geometry, dict):
            raise AnnotationError(f"{source}: {label} has no geometry; delete it in QuPath.")
        plane = geometry.get("plane")
        planes.add(f"{plane.get('z', 0)}, {plane.get('t', 0)}" if isinstance(plane, dict) else "0, 0")
        match = re.fullmatch(r"id (\d{1,9})", str(properties.get("name")))
        shapes += _shapes(source, label, geometry, class_name, int(match[1]) if match else None)
    if len(planes) > 1:
        raise AnnotationError(f"{source}: objects on {len(planes)} planes of a stack; export each plane by itself.")
    return Drawing(source, (name,), shapes=tuple(shapes), warnings=tuple(warnings))


def _class_name(classification: Any) -> str | None:
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = ": ".join(map(str, names)) if isinstance(names, list) else classification.get("name")
    return class_text(classification)


def _shapes(
    source: str, label: str, geometry: dict[str, Any], class_name: str | None, identity: int | None
) -> list[Shape]:
    try:
        parsed = shapely.geometry.shape(geometry)
    except Exception as error:  # GEOS, numpy and plain lookups each raise their own
        raise AnnotationError(
            f"{source}: {label}: its geometry cannot be read ({type(error).__name__}); draw it again."
        ) from None

    def swapped(part: shapely.Geometry) -> np.ndarray:
        return vertices(shapely.get_coordinates(part)[:, ::-1], source, label)

    parts = [part for part in shapely.get_parts(parsed) if not part.is_empty]
    match parsed.geom_type:
        case "Polygon" | "MultiPolygon":
            areas = tuple(tuple(swapped(ring) for ring in (part.exterior, *part.interiors)) for part in parts)
            return [Shape(label, class_name, identity, areas=areas)]
        case "LineString" | "MultiLineString" | "LinearRing":
            return [Shape(label, class_name, identity, lines=tuple(swapped(part) for part in parts))]
        case "Point":
            return [Shape(label, class_name, identity, lines=(swapped(parsed),))]
        case "MultiPoint":
            return [Shape(f"{label}, point {i}", class_name, lines=(swapped(p),)) for i, p in enumerate(parts, 1)]
    raise AnnotationError(f"{source}: {label} is a {parsed.geom_type}, which is not understood; split it in QuPath.")
