"""Grown masks and predictions for the tools that people correct them with."""

from __future__ import annotations

import json
import pathlib

import tqdm

from rams_jax.annotations import AnnotationError, read_instances, read_pixel_size, write_instances
from rams_jax.exchange import ENDINGS, imagej, qupath
from rams_jax.exchange.project import read_classes
from rams_jax.exchange.reading import image_name


def export_annotations(workdir: pathlib.Path, out: pathlib.Path, form: str, what: str) -> int:
    """Writes the instance maps of a run, one file an image.

    Args:
      workdir: of a run; or any folder of instance maps, with a classes.csv (name, id, class) in it or beside it if
        objects have classes.
      out: folder, made if missing; nothing in it is overwritten.
      form: roi (a zip for Fiji's ROI Manager), geojson (for QuPath) or labels (TIFF).
      what: masks (the grown masks of the training images) or predictions (of the test images).

    Returns:
      The number of images.

    Raises:
      AnnotationError: no maps; a map that cannot be read or written; a file that exists already, before any is written.
    """
    maps = _maps(workdir, what)
    places = {name: out / f"{name}{ENDINGS[form]}" for name in maps}
    for place in places.values():
        if place.exists():
            raise AnnotationError(f"{place}: exists already and is not overwritten; name a new folder with --out.")
    only, classes = _only_class(workdir), _classes(next(iter(maps.values())).parent)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, path in tqdm.tqdm(maps.items(), unit="image", delay=2, disable=None):
            instances, pixel_size = read_instances(path), read_pixel_size(path)
            if form == "labels":
                write_instances(places[name], instances, pixel_size)
                continue
            known = classes.get(name, {})
            if only is not None and not known:
                known = dict.fromkeys(range(1, int(instances.max(initial=0)) + 1), only)
            data = imagej.write(instances, known) if form == "roi" else qupath.write(instances, name, known)
            with open(places[name], "xb") as file:
                file.write(data)
    except OSError as error:
        raise AnnotationError(f"{out}: cannot be written ({error.strerror}); name another folder with --out.") from None
    return len(maps)


def _maps(workdir: pathlib.Path, what: str) -> dict[str, pathlib.Path]:
    """The instance maps by the names of their images."""
    if not workdir.is_dir():
        raise AnnotationError(f"{workdir}: there is no such folder; --workdir must name a run or a folder of TIFFs.")
    folder, pattern = workdir, "*.tif"
    if (workdir / "config.json").is_file() or (workdir / "predictions").is_dir():
        folder, pattern = (
            (workdir / "evolved", "*_masks.tif") if what == "masks" else (workdir / "predictions", "*.tif")
        )
    files = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if not files:
        raise AnnotationError(f"{folder}: holds no {pattern}; has the run finished, and does its method grow masks?")
    return {image_name(file.name).removesuffix("_masks"): file for file in files}


def _classes(folder: pathlib.Path) -> dict[str, dict[int, str]]:
    return read_classes(folder) or read_classes(folder.parent)


def _only_class(workdir: pathlib.Path) -> str | None:
    """The class of all objects of a run, if there is only one."""
    path = workdir / "config.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["data"]["class_names"] if path.is_file() else []
    except (OSError, ValueError, KeyError, TypeError):
        raise AnnotationError(f"{path}: cannot be read as the configuration of a run.") from None
    return names[0] if len(names) == 1 else None
