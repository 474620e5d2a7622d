"""Which tool wrote an annotation file, and which image it belongs to."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Iterable, Sequence

from rams_jax.annotations import AnnotationError, read_instances
from rams_jax.exchange import coco, imagej, labelme, napari, qupath
from rams_jax.exchange.files import parse_json, read_bytes, zip_names
from rams_jax.exchange.shapes import Drawing

ENDINGS = (".roi", ".zip", ".geojson", ".json", ".csv")  # of files that hold shapes
LABELS = (".tif", ".tiff", ".png")
# What people and programs put around the name of an image; Fiji's own default is RoiSet.zip.
_AFFIXES = re.compile(
    r"^roi(?:set|s)[ _-]+|[ _-]+(?:roi|cp_mask|mask|label|shape|point|object|annotation)s?$|[ _-]+roiset$",
    re.IGNORECASE,
)


def read(paths: Sequence[pathlib.Path], form: str | None) -> list[Drawing]:
    """Reads annotation files that belong together: one file, or the ROI files of one image.

    Args:
      paths: at least one.
      form: one of FORMATS; None: found from the file's ending and content.

    Raises:
      AnnotationError: the file is not understood; see the readers.
    """
    path = paths[0]
    match form or detect(path):
        case "roi":
            return [imagej.read(paths)]
        case "geojson":
            return qupath.read(path)
        case "napari":
            return [napari.read(path)]
        case "labelme":
            return [labelme.read(path)]
        case "coco":
            return coco.read(path)
    labels = read_instances(path)
    return [Drawing(str(path), (path.stem,), labels=labels)]


def detect(path: pathlib.Path) -> str:
    """The format of an annotation file, one of FORMATS.

    Raises:
      AnnotationError: none of them.
    """
    ending = path.suffix.lower()
    if ending == ".roi":
        return "roi"
    if ending == ".csv":
        return "napari"
    if ending in LABELS:
        return "labels"
    if ending == ".zip":
        names = [name.lower() for name in zip_names(path)]
        if any(name.endswith(".roi") for name in names) or not names:
            return "roi"
        if any(name.endswith((".geojson", ".json")) for name in names):
            return "geojson"
        raise AnnotationError(f"{path}: holds neither .roi nor .geojson files; save it from Fiji or QuPath again.")
    if ending in (".json", ".geojson"):
        content = parse_json(str(path), read_bytes(path))
        if qupath.is_geojson(content) or content == []:
            return "geojson"
        if labelme.is_labelme(content):
            return "labelme"
        if coco.is_coco(content):
            return "coco"
    raise AnnotationError(
        f"{path}: is no annotation that is understood; give ImageJ ROIs (.roi, .zip), QuPath GeoJSON, napari CSV, "
        "labelme or COCO JSON, or label images (.tif, .png), or say which with --format."
    )


def annotation_files(path: pathlib.Path, form: str | None) -> list[pathlib.Path]:
    """The annotation files at a path: itself, or those in the folder, in the order of their names.

    Label images count where they are asked for (form labels) or where there is nothing else.

    Raises:
      AnnotationError: nothing there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise AnnotationError(f"{path}: there is no such file or folder; --annotations must name one.")
    files = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")]
    shapes = [p for p in files if p.suffix.lower() in ENDINGS]
    found = shapes if form != "labels" and (shapes or form) else [p for p in files if p.suffix.lower() in LABELS]
    if not found:
        raise AnnotationError(f"{path}: holds no annotation files; export them from your tool into this folder.")
    return found


def image_files(path: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The images at a path, by name without ending: the file itself, or those in the folder.

    Raises:
      AnnotationError: nothing there.
    """
    if path.is_file():
        return {image_name(path.name): [path]}
    if not path.is_dir():
        raise AnnotationError(f"{path}: there is no such file or folder; --images must name one.")
    found: dict[str, list[pathlib.Path]] = {}
    for file in sorted(path.iterdir()):
        ignored = (*ENDINGS, ".txt", ".toml", ".md", ".xml", ".db", ".ini")
        if file.is_file() and not file.name.startswith(".") and file.suffix.lower() not in ignored:
            found.setdefault(image_name(file.name), []).append(file)
    if not found:
        raise AnnotationError(f"{path}: holds no images.")
    return found


def image_name(file: str) -> str:
    """The name of an image as the folder format has it: `a` for a.png and a.ome.tif."""
    return file.removesuffix(pathlib.PurePath(file).suffix).removesuffix(".ome")


def match(names: Iterable[str], images: Collection[str]) -> str | None:
    """The image that one of these names means: itself, with an ending, or with what tools put around it.

    `cells_1` is meant by cells_1, cells_1.tif, RoiSet_cells_1, cells_1_shapes and cells_1.tif_masks.
    """
    for name in names:
        stripped = _AFFIXES.sub("", name)
        for candidate in (name, image_name(name), stripped, image_name(stripped)):
            if candidate in images:
                return candidate
    return None
