"""A small annotated folder to try things on, made of the images that come with the package ndev-sampledata."""

from __future__ import annotations

import pathlib

import numpy as np
import tifffile

from rams_jax.annotations import write_instances
from rams_jax.datasets.partial import draw_partial, image_seed
from rams_jax.datasets.scratch_assay import PIXEL_SIZE, STRIPS, read_frames, tiles

SIZE = (104, 92)  # of an annotated image, pixels: four tiles of the default experiment
COUNTS = {"train": 12, "validation": 2, "test": 2}
OUTLINED = 2  # of the training images; the others carry marks only
_LEAST = 4  # nuclei in an annotated image


def write_sample(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes nuclei (Hoechst) as `datasets.folder` describes it, and one larger image that nobody annotated.

    The images are those whose labels can be trusted most, of the parts of the dish that train, validate and test in the
    default experiment. Marks are simulated (`partial.draw_partial`).

    Args:
      path: made if missing; nothing in it is overwritten.

    Returns:
      The annotated folder `path/annotated`, and `path/new`.

    Raises:
      AnnotationError: the package is missing, or the masks exist already.
    """
    annotated, new = path / "annotated", path / "new"
    for folder in (*(annotated / part for part in ("images", "masks", "partial")), new):
        folder.mkdir(parents=True, exist_ok=True)
    frames = read_frames()
    rows = ["name,split"]
    for split, count in COUNTS.items():
        found = [(n, f) for n, f in tiles(frames, split, *SIZE) if f["full"].max() >= _LEAST]
        found.sort(key=lambda item: -int(item[1]["valid"].sum()))
        chosen = sorted(found[:count], key=lambda item: -int(item[1]["full"].max()))  # the fullest are outlined
        for number, (name, features) in enumerate(chosen):
            full = features["full"]
            if split != "train" or number < OUTLINED:
                write_instances(annotated / "masks" / f"{name}.tif", full, PIXEL_SIZE)
            if split == "train":
                marks = draw_partial(full, image_seed(0, name))
                write_instances(annotated / "partial" / f"{name}.tif", marks, PIXEL_SIZE)
            _write_image(annotated / "images" / f"{name}.tif", features["image"][..., 0])
            rows.append(f"{name},{split}")
    (annotated / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _write_image(new / "dish.tif", frames[-1, 0, :, slice(*STRIPS["test"])])
    return annotated, new


def _write_image(path: pathlib.Path, image: np.ndarray) -> None:
    resolution = (1e4 / PIXEL_SIZE, 1e4 / PIXEL_SIZE)
    tifffile.imwrite(path, image, photometric="minisblack", resolution=resolution, resolutionunit="CENTIMETER")
