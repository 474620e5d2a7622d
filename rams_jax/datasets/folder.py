"""A folder of images that somebody annotated.

    images/NAME.*    the images, of any format that bioio reads
    masks/NAME.*     full masks: instance maps with every object outlined
    partial/NAME.*   partial masks: instance maps with rough marks; the ids are those of the full mask, if there is one
    splits.csv       optional, columns name and split (train, validation or test)

An image needs a full or a partial mask. Where only the full one is there, marks are drawn from it.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence

import numpy as np

from rams_jax.annotations import AnnotationError, check_example, normalise, read_image, read_instances, read_pixel_size
from rams_jax.datasets.partial import annotate, image_seed
from rams_jax.types import Example

SPLITS = ("train", "validation", "test")


def read_folder(path: pathlib.Path, seed: int, coverage: tuple[float, float], tasks: tuple[str, ...]) -> list[Example]:
    """Reads all images of a folder, in the order of their names. Objects are of one class.

    Args:
      path: laid out as the head of this file says.
      seed: of the marks that are drawn.
      coverage: least and largest share of an object that such a mark covers.
      tasks: auxiliary tasks, names in `auxiliary.TASKS`.

    Raises:
      AnnotationError: no such folder, no images, an image without annotation, an annotation without image, two files
        of one name, or whatever `annotations.check_example` finds.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise AnnotationError(f"{path}: there is no such folder; data.source must name one that holds images/.")
    images, full, partial = (_files(path / part) for part in ("images", "masks", "partial"))
    if not images:
        raise AnnotationError(f"{path}: no images; put them into {path / 'images'}.")
    for files in (full, partial):
        for name in sorted(set(files) - set(images)):
            raise AnnotationError(f"{files[name]}: belongs to no image; {path / 'images'} holds no {name}.*.")
    for name in sorted(set(images) - set(full) - set(partial)):
        raise AnnotationError(
            f"{images[name]}: no annotation; draw {path / 'partial' / name}.tif or {path / 'masks' / name}.tif."
        )
    return [
        _read(name, images[name], full.get(name), partial.get(name), seed, coverage, tasks) for name in sorted(images)
    ]


def split(examples: Sequence[Example], path: pathlib.Path, seed: int) -> tuple[tuple[Example, ...], ...]:
    """Deals the examples to train, validation and test: by splits.csv, or by chance.

    By chance, 15 % of the images with a full mask validate and 15 % test, at least one each; the rest and all images
    without one train. Images that share objects (a time series, slices, one patient) need a splits.csv.

    Raises:
      AnnotationError: fewer than three images with full masks and no splits.csv, or one that does not fit the images.
    """
    table = pathlib.Path(path) / "splits.csv"
    outlined = [example.name for example in examples if example.full is not None]
    if table.is_file():
        part = _read_splits(table, [example.name for example in examples])
        for name in sorted(set(part) - set(outlined)):
            if part[name] != "train":
                raise AnnotationError(f"{table}: {name} is for {part[name]}, but has no full mask to compare with.")
    else:
        if len(outlined) < 3:
            raise AnnotationError(
                f"{path}: {len(outlined)} images have a full mask, but three are needed: one each to train, validate "
                "and test."
            )
        order = sorted(outlined, key=lambda name: (image_seed(seed, name), name))
        share = max(1, round(0.15 * len(order)))
        part = dict.fromkeys(order[:share], "validation") | dict.fromkeys(order[share : 2 * share], "test")
    return tuple(tuple(example for example in examples if part.get(example.name, "train") == kind) for kind in SPLITS)


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    files: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not path.is_file():
            continue
        name = path.name.removesuffix(path.suffix).removesuffix(".ome")
        if name in files:
            raise AnnotationError(f"{path}: {files[name].name} has the same name; keep one of the two.")
        files[name] = path
    return files


def _read(
    name: str,
    image: pathlib.Path,
    full: pathlib.Path | None,
    partial: pathlib.Path | None,
    seed: int,
    coverage: tuple[float, float],
    tasks: tuple[str, ...],
) -> Example:
    pixels = read_image(image)
    maps: list[np.ndarray | None] = []
    for path in (full, partial):
        instances = None if path is None else read_instances(path)
        if instances is not None and instances.shape != pixels.shape[:2]:
            raise AnnotationError(
                f"{path}: {instances.shape[0]} x {instances.shape[1]} pixels, but {image.name} has {pixels.shape[0]} x "
                f"{pixels.shape[1]}; a mask must have the size of its image."
            )
        maps.append(instances)
    if np.issubdtype(pixels.dtype, np.inexact) and not np.isfinite(pixels).all():
        raise AnnotationError(f"{image}: holds NaN or infinite values; replace them before training.")
    valid = np.ones(pixels.shape[:2], bool)
    size = read_pixel_size(image)
    example = annotate(name, normalise(pixels), maps[0], maps[1], valid, size, seed, coverage, tasks)
    check_example(example, number_of_classes=1)
    return example


def _read_splits(table: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    with open(table, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    part: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        name, kind = row.get("name"), row.get("split")
        if name is None or kind is None:
            raise AnnotationError(f"{table}: line {line}: needs the columns name and split.")
        if name not in names:
            raise AnnotationError(f"{table}: line {line}: there is no image {name!r}; give names without ending.")
        if kind not in SPLITS:
            raise AnnotationError(f"{table}: line {line}: {name} is for {kind!r}, but must be for {', '.join(SPLITS)}.")
        if name in part:
            raise AnnotationError(f"{table}: line {line}: {name} is listed twice.")
        part[name] = kind
    missing = sorted(set(names) - set(part))
    if missing:
        raise AnnotationError(f"{table}: {missing[0]} and {len(missing) - 1} others are missing; list every image.")
    absent = sorted(set(SPLITS) - set(part.values()))
    if absent:
        raise AnnotationError(f"{table}: no image is for {absent[0]}.")
    return part
