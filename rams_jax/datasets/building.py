"""What the TFDS builders share: the form of a row, tables of images, local copies, downloads, binning."""

from __future__ import annotations

import csv
import importlib.resources
import pathlib
import zipfile
from typing import Any

import numpy as np
import pooch
import tensorflow_datasets as tfds
from PIL import Image

from rams_jax import claims
from rams_jax.annotations import AnnotationError, limits

REMEDY = "name a local copy in data.source or RAMS_DATA"


def features(channels: int) -> tfds.features.FeaturesDict:
    """Of a row with an 8-bit image of any size."""

    def pixels(dtype: type, *last: int) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None, None, *last), dtype=dtype, encoding="zlib")

    return tfds.features.FeaturesDict(
        {
            "name": tfds.features.Text(),
            "image": pixels(np.uint8, channels),
            "full": pixels(np.uint16),
            "valid": pixels(np.bool_),
            "classes": tfds.features.Tensor(shape=(None,), dtype=np.uint8),  # of the ids 0, 1, ...
            "limits": tfds.features.Tensor(shape=(2, channels), dtype=np.float32),
            "pixel_size": tfds.features.Scalar(dtype=np.float32),  # micrometres
            "circumference": tfds.features.Scalar(dtype=np.float32),  # millimetres; NaN where nobody measured it
        }
    )


def row(
    name: str,
    image: np.ndarray,
    full: np.ndarray,
    pixel_size: float = 1.0,
    classes: np.ndarray | None = None,
    circumference: float = float("nan"),
) -> dict[str, Any]:
    """A row of `features`, all of it looked at; the image is scaled by its own percentiles.

    Args:
      name: of the image.
      image: uint8[H, W, C].
      full: integer[H, W], instance map.
      pixel_size: micrometres.
      classes: integer[J + 1], class of each id; None: all objects are of class 1.
      circumference: of the one object, millimetres, as a person measured it.
    """
    if classes is None:
        classes = np.isin(np.arange(int(full.max()) + 1), np.setdiff1d(full, 0))
    return {
        "name": name,
        "image": image,
        "full": full.astype(np.uint16),
        "valid": np.ones(full.shape, bool),
        "classes": classes.astype(np.uint8),
        "limits": limits(image),
        "pixel_size": np.float32(pixel_size),
        "circumference": np.float32(circumference),
    }


def table(name: str) -> list[dict[str, str]]:
    """The rows of `NAME.csv` beside this file."""
    text = (importlib.resources.files(__package__) / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def read_png(path: pathlib.Path) -> np.ndarray:
    """The pixels of a PNG file: integer[H, W] or integer[H, W, C].

    Raises:
      AnnotationError: the file is missing or unreadable.
    """
    try:
        with Image.open(path) as image:
            return np.array(image)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error}); the local copy is incomplete.") from error


def fetch(url: str, md5: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads a file into a folder, with a progress bar.

    Args:
      url: where the file is.
      md5: its checksum, as the source publishes it; "" if it publishes none.
      folder: made if missing.

    Raises:
      AnnotationError: no answer, or another file than expected.
    """
    pooch.get_logger().setLevel("ERROR")
    try:
        return pathlib.Path(pooch.retrieve(url, f"md5:{md5}" if md5 else None, path=folder, progressbar=True))
    except ValueError as error:  # of another checksum
        raise AnnotationError(f"{url}: holds another file than it should; {REMEDY}.") from error
    except OSError as error:  # of the network
        raise AnnotationError(f"{url}: cannot be downloaded ({type(error).__name__}); {REMEDY}.") from error


def unpack(archive: pathlib.Path) -> pathlib.Path:
    """Unpacks a zip file into a folder beside it; its checksums are tested on the way.

    Raises:
      AnnotationError: not a whole zip file, larger than the disk, or with a file that would land elsewhere.
    """
    folder = archive.parent / f"{archive.name}.unpacked"
    try:
        with zipfile.ZipFile(archive) as file:
            claims.check_members(file.infolist(), folder)
            file.extractall(folder)
    except claims.ClaimError as error:
        raise AnnotationError(f"{archive}: {error}") from error
    except zipfile.BadZipFile as error:
        raise AnnotationError(f"{archive}: not a whole zip file ({error}); try the download again.") from error
    return folder


def blocks(pixels: np.ndarray) -> np.ndarray:
    """The 2 x 2 blocks of an image: [H, W, ...] -> [H // 2, W // 2, 4, ...]; an odd last row or column is left out."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    corners = [pixels[i : 2 * height : 2, j : 2 * width : 2] for i in (0, 1) for j in (0, 1)]
    return np.stack(corners, axis=2)


def halve(image: np.ndarray) -> np.ndarray:
    """The mean of each 2 x 2 block, rounded: uint8[H, W, C] -> uint8[H // 2, W // 2, C]."""
    return np.rint(blocks(image).mean(axis=2)).astype(np.uint8)
