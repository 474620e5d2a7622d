"""ImageJ and Fiji: regions of interest (ROI Manager > More > Save, and Open).

Of areas (polygon, freehand, traced, rectangle, oval, composite) integer coordinates are corners of pixels: the upper
left pixel reaches from 0 to 1, as in this package. Of lines and points they are centres of pixels, so half a pixel is
added to them. (Roi.useLineSubpixelConvention and PolygonFiller.java in ImageJ.)
"""

from __future__ import annotations

import io
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from rams_jax.annotations import AnnotationError
from rams_jax.exchange.files import read_bytes, read_zip
from rams_jax.exchange.outlines import outlines
from rams_jax.exchange.shapes import Drawing, Shape, class_text, ellipse, named, vertices

_AREAS = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
_LINES = (ROI_TYPE.LINE, ROI_TYPE.POLYLINE, ROI_TYPE.FREELINE, ROI_TYPE.ANGLE)


def read(paths: Sequence[pathlib.Path]) -> Drawing:
    """Reads the ROIs of one image from .roi files and zips of them.

    Areas and composite ROIs become areas, lines lines, each point of a multi-point ROI an object of its own. The class
    of an object stands behind its id in its name (`id 7 nucleus`, as `write` has it), else its group is its class
    (`group 2`). Text and images are left out with a warning.

    Raises:
      AnnotationError: not ROI files; damaged or unknown ROIs, fitted splines and curved composites; ROIs on different
        slices of a stack.
    """
    shapes: list[Shape] = []
    warnings: list[str] = []
    planes, slices, source = set(), set(), str(paths[0])
    for path in paths:
        single = path.suffix.lower() != ".zip"
        for name, data in [(path.name, read_bytes(path))] if single else read_zip(path, (".roi",)):
            roi = _parse(f"{path}" if single else f"{path}/{name}", data)
            label = named("ROI", len(shapes) + 1, roi.name or name.rpartition(".")[0])
            if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
                warnings.append(f"{path}: {label} is text or an image and was left out.")
                continue
            planes.add((roi.z_position, roi.t_position))
            slices.add(roi.position)
            shapes += _shapes(str(path), label, roi)
    if len(planes) > 1:
        raise AnnotationError(f"{source}: ROIs on {len(planes)} slices or frames of a stack; save those of each alone.")
    if len(slices) > 1:
        warnings.append(f"{source}: ROIs on {len(slices)} slices of a stack; they are all taken as of this one image.")
    return Drawing(source, (paths[0].stem,), shapes=tuple(shapes), warnings=tuple(warnings))


def write(instances: np.ndarray, classes: Mapping[int, str]) -> bytes:
    """An instance map as a zip for the ROI Manager, whose outlines follow the edges of the pixels.

    An object of one part without holes becomes a traced ROI, any other a composite one, so that no pixel is lost. Id
    and class are in the name (`id 7 nucleus`), and each class is a group of its own, which ImageJ colours.

    Args:
      instances: integer[H, W].
      classes: class name of each id; objects without one have no group.

    Returns:
      The bytes of the zip.
    """
    groups = {name: number for number, name in enumerate(dict.fromkeys(classes.values()), start=1)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, outline in outlines(instances).items():
            roi = _composite(outline) if len(_rings(outline)) > 1 else _traced(_rings(outline)[0])
            top, left, bottom, right = (int(b) for b in outline.bounds)
            roi.top, roi.left, roi.bottom, roi.right = top, left, bottom, right
            roi.name = f"id {number} {classes.get(number, '')}".strip()
            roi.group = groups.get(classes.get(number, ""), 0)
            member = zipfile.ZipInfo(f"id {number:05d}.roi")  # of 1980: the same map gives the same bytes
            archive.writestr(member, roi.tobytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _rings(outline: shapely.Geometry) -> list[np.ndarray]:
    """Rings in x and y, the first vertex not repeated."""
    rings = [ring for part in shapely.get_parts(outline) for ring in (part.exterior, *part.interiors)]
    return [shapely.get_coordinates(ring)[:-1, ::-1] for ring in rings]


def _traced(ring: np.ndarray) -> ImagejRoi:
    roi = ImagejRoi.frompoints(ring.astype(np.int32))
    roi.roitype, roi.options = ROI_TYPE.TRACED, roi.options & ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    return roi


def _composite(outline: shapely.Geometry) -> ImagejRoi:
    path = []  # of java.awt.geom.PathIterator: 0 moves, 1 draws a line, 4 closes
    for ring in _rings(outline):
        commands = np.column_stack([np.ones(len(ring)), ring])
        commands[0, 0] = 0
        path += [*commands.ravel(), 4]
    return ImagejRoi(roitype=ROI_TYPE.RECT, shape_roi_size=len(path), multi_coordinates=np.array(path, np.float32))


def _parse(source: str, data: bytes) -> ImagejRoi:
    try:
        return ImagejRoi.frombytes(data)
    except Exception as error:  # struct, numpy and roifile each raise their own
        raise AnnotationError(
            f"{source}: cannot be read as an ImageJ ROI ({type(error).__name__}); save it again."
        ) from None


def _shapes(source: str, label: str, roi: ImagejRoi) -> list[Shape]:
    match = re.fullmatch(r"id (\d{1,9})(?: (.+))?", roi.name.strip())
    identity = int(match[1]) if match else None
    class_name = class_text(match[2]) if match and match[2] else f"group {roi.group}" if roi.group > 0 else None
    if roi.options & ROI_OPTIONS.SPLINE_FIT:
        raise AnnotationError(
            f"{source}: {label} is a fitted spline, of which the file holds the knots only; in ImageJ run Edit > "
            "Selection > Interpolate on it."
        )
    if roi.roitype == ROI_TYPE.POINT:
        points = _coordinates(source, label, roi)[0] + 0.5
        several = len(points) > 1
        return [
            Shape(f"{label}, point {i}" if several else label, class_name, None if several else identity, lines=(p,))
            for i, p in enumerate(points[:, None], start=1)
        ]
    if roi.roitype in _LINES:
        return [Shape(label, class_name, identity, lines=tuple(c + 0.5 for c in _coordinates(source, label, roi)))]
    if roi.roitype in _AREAS or roi.composite:
        return [Shape(label, class_name, identity, areas=(tuple(_coordinates(source, label, roi)),))]
    if roi.roitype not in (ROI_TYPE.RECT, ROI_TYPE.OVAL) or roi.rounded_rect_arc_size > 0:
        raise AnnotationError(
            f"{source}: {label} is of a kind that is not understood; in ImageJ run Edit > Selection > Create Mask and "
            "Create Selection on it."
        )
    x, y, width, height = (
        (roi.xd, roi.yd, roi.widthd, roi.heightd)
        if roi.subpixelrect
        else (roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top)
    )
    if roi.roitype == ROI_TYPE.OVAL:
        ring = ellipse((y + height / 2, x + width / 2), np.diag([height / 2, width / 2]))
    else:
        ring = np.array([[y, x], [y, x + width], [y + height, x + width], [y + height, x]], np.float64)
    return [Shape(label, class_name, identity, areas=((vertices(ring, source, label),),))]


def _coordinates(source: str, label: str, roi: ImagejRoi) -> list[np.ndarray]:
    """float64[V, 2] each, row and column."""
    try:
        found = roi.coordinates(multi=True)
    except Exception:  # roifile has several, for paths that it does not know and for those that make no sense
        raise AnnotationError(
            f"{source}: {label} has curved edges, or is damaged; in ImageJ run Edit > Selection > Create Mask and "
            "Create Selection, or draw it again."
        ) from None
    return [vertices(np.asarray(points)[:, ::-1], source, label) for points in found]
