"""Images and instance maps: reading, checking, normalising, writing.

An instance map is an integer image: 0 is "in no object", 1..J are the objects. Files are read through `bioio`, so
that vendors' formats work once the plugin for them is installed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pathlib
import warnings
from collections.abc import Iterator, Sequence

import bioio
import bioio_ome_tiff
import bioio_tifffile
import numpy as np
import tifffile

from rams_jax import claims, dicom
from rams_jax.types import Example

LARGEST_ID = 32767  # of an object: maps are int16 on the devices
PERCENTILES = (1.0, 99.8)  # of a channel's intensities, which become 0 and 1
# Micrometres that stand in files where nobody knows: 1, and those of screens and paper (72, 96 and 300 dots an inch).
_UNKNOWN = np.array([1.0, 25400 / 72, 25400 / 96, 25400 / 300])
_HIGHEST = 4.0  # normalised intensities beyond +-4 are debris or hot pixels


class AnnotationError(ValueError):
    """An image or an annotation cannot be used; the message is one sentence that names it."""


def check_example(example: Example, number_of_classes: int, careful: bool = True) -> None:
    """Checks that image, maps, mask and classes of an example fit together.

    Args:
      example: shapes and dtypes as `rams_jax.types.Example` says.
      number_of_classes: K, without background.
      careful: marks must keep to the objects of the full mask, as those that people draw do.

    Raises:
      AnnotationError: the first mistake found, with the name of the example.
    """
    name, image, classes = example.name, example.image, example.classes
    _require(image.ndim == 3, f"{name}: the image has shape {image.shape}, but must be height x width x channels.")
    _require(
        np.issubdtype(image.dtype, np.floating),
        f"{name}: the image holds {image.dtype}; normalise it to float32 first (rams_jax.annotations.normalise).",
    )
    _require(min(image.shape) > 0, f"{name}: the image has shape {image.shape}: it holds no pixels.")
    bad = int((~np.isfinite(image)).sum())
    _require(bad == 0, f"{name}: the image holds {bad} NaN or infinite values; replace them before training.")
    size = image.shape[:2]
    _check_map(name, "partial", example.partial, size)
    if example.full is not None:
        _check_map(name, "full", example.full, size)
    valid, auxiliary = example.valid, example.auxiliary
    _require(
        valid.dtype == np.bool_ and valid.shape == size,
        f"{name}: the valid mask is {valid.dtype} {valid.shape}, but must be bool {size} like the image.",
    )
    _require(
        auxiliary.ndim == 3 and auxiliary.shape[:2] == size and bool(np.isin(auxiliary, (0, 1, 2)).all()),
        f"{name}: the auxiliary strokes must be height x width x tasks, of 0 (unknown), 1 (no) and 2 (yes).",
    )
    _require(
        classes.ndim == 1 and len(classes) > 0 and np.issubdtype(classes.dtype, np.integer) and classes[0] == 0,
        f"{name}: classes must be a list of integers, one for each id from 0 up, that begins with 0 for background.",
    )
    _check_ids(example, number_of_classes)
    if example.full is not None and careful:
        for _, sentence in mark_mistakes(name, example.full, example.partial):
            raise AnnotationError(sentence)


def check_dataset(examples: Sequence[Example], strong: Sequence[int]) -> None:
    """Checks that there is something to learn from.

    Args:
      examples: the training images.
      strong: positions in `examples` of the images that keep their full maps.

    Raises:
      AnnotationError: no images; no strong image; a position outside the list or twice in it; a strong image without
        a full map; images of different numbers of channels or auxiliary tasks.
    """
    _require(len(examples) > 0, "The data set is empty: it has no training images.")
    _require(
        len(strong) > 0,
        "No image is strong: at least one training image must keep its full mask, for the segmentation to learn from.",
    )
    positions = [int(i) for i in strong]
    _require(
        all(0 <= i < len(examples) for i in positions) and len(set(positions)) == len(positions),
        f"The strong images {positions} must be different positions among the {len(examples)} training images.",
    )
    for i in positions:
        _require(
            examples[i].full is not None,
            f"{examples[i].name}: chosen as a strong image, but it has no full mask; outline all of its objects.",
        )
    first = examples[0]
    for example in examples:
        _require(
            example.image.shape[2] == first.image.shape[2],
            f"{example.name}: the image has {example.image.shape[2]} channels, but {first.name} has "
            f"{first.image.shape[2]}; all images need the same channels.",
        )
        _require(
            example.auxiliary.shape[2] == first.auxiliary.shape[2],
            f"{example.name}: strokes for {example.auxiliary.shape[2]} auxiliary tasks, but {first.name} has "
            f"{first.auxiliary.shape[2]}.",
        )


def check_largest_id(name: str, kind: str, instances: np.ndarray) -> None:
    """Raises AnnotationError if an instance map holds an id that does not fit into 16 bits with a sign."""
    highest = int(instances.max(initial=0))
    _require(
        highest <= LARGEST_ID,
        f"{name}: the {kind} mask holds the id {highest}; the largest one possible is {LARGEST_ID}: number from 1 up.",
    )


def mark_mistakes(name: str, full: np.ndarray, partial: np.ndarray) -> Iterator[tuple[str, str]]:
    """What is wrong with marks in the light of the full mask: one of each kind, with the number of others like it.

    Args:
      name: of the image or of the file with the marks, for the sentences.
      full: integer[H, W].
      partial: integer[H, W].

    Yields:
      A code (mark-over-two, mark-renumbered or mark-outside) and a sentence.
    """
    astray = (partial > 0) & (partial != full)
    over: dict[str, list[tuple[int, list[int]]]] = {"mark-over-two": [], "mark-renumbered": [], "mark-outside": []}
    for mark in np.unique(partial[astray]).tolist():
        objects = np.setdiff1d(full[partial == mark], 0).tolist()
        kind = "mark-outside" if objects in ([], [mark]) else "mark-over-two" if len(objects) > 1 else "mark-renumbered"
        over[kind].append((mark, objects))
    for kind, marks in over.items():
        if not marks:
            continue
        mark, objects = marks[0]
        row, column = np.argwhere(astray & (partial == mark))[0]
        count = int((astray & (partial == mark)).sum())
        place = f"first at row {row}, column {column}"
        more = f" ({len(marks) - 1} more likewise)" if len(marks) > 1 else ""
        if kind == "mark-over-two":
            listed = ", ".join(map(str, objects[:-1])) + f" and {objects[-1]}"
            wrong = (
                f"the mark of object {mark} lies over objects {listed}, {place}{more}; keep each mark in one object."
            )
        elif kind == "mark-renumbered":
            wrong = f"mark {mark} lies in object {objects[0]}{more}; give marks the ids that the full mask has."
        else:
            wrong = f"the mark of object {mark} leaves its own full mask at {count} pixels, {place}{more}; correct "
            wrong += "the mark or the mask."
        yield kind, f"{name}: {wrong}"


def limits(image: np.ndarray) -> np.ndarray:
    """The intensities that `normalise` maps to 0 and 1: float32[2, C], the percentiles 1 and 99.8 of each channel."""
    return np.percentile(image.astype(np.float64), PERCENTILES, axis=(0, 1)).astype(np.float32)


def normalise(image: np.ndarray, between: np.ndarray | None = None) -> np.ndarray:
    """Scales each channel linearly so that its percentiles 1 and 99.8 become 0 and 1.

    Values beyond are kept, so that noise and bright nuclei keep their statistics; only what lies outside [-4, 4]
    is cut.
    A channel whose two percentiles agree (a constant one) becomes zeros.

    Args:
      image: number[H, W, C].
      between: float[2, C], the intensities for 0 and 1. For tiles, give `limits` of the whole image: an empty tile
        scaled by its own percentiles would show its noise as if it were objects. None: `limits(image)`.

    Returns:
      float32[H, W, C]; NaN stays NaN, for `check_example` to find.
    """
    low, high = np.asarray(limits(image) if between is None else between, np.float64)
    constant = high <= low
    with np.errstate(invalid="ignore"):  # infinite values are for check_example to find
        scaled = (image.astype(np.float64) - low) / np.where(constant, 1.0, high - low)
    return np.clip(np.where(constant, 0.0, scaled), -_HIGHEST, _HIGHEST).astype(np.float32)


def read_image(path: pathlib.Path | str) -> np.ndarray:
    """Reads a two-dimensional image of any format that `bioio` knows.

    Returns:
      number[H, W, C] in the dtype of the file: one channel for grey images, three for colour (transparency is dropped).

    Raises:
      AnnotationError: the file is missing or unreadable, or is a stack or a series; it is DICOM and pydicom is missing.
    """
    path = pathlib.Path(path)
    if _is_dicom(path):
        with _dicom_errors(path):
            return dicom.read_pixels(path)
    with _opened(path) as image:
        planes = image.dims.T * image.dims.Z
        _require(planes == 1, f"{path}: holds {planes} planes or time points; save each as an image of its own.")
        claims.check_image(path, image.shape, image.dtype)
        samples = getattr(image.dims, "S", None)
        if samples is None:
            return np.moveaxis(image.get_image_data("CYX"), 0, -1)
        colour = image.get_image_data("YXCS")[..., : samples - 1 if samples in (2, 4) else samples]
        return colour.reshape(*colour.shape[:2], -1)


def read_pixel_size(path: pathlib.Path | str, otherwise: float = 1.0) -> float:
    """The height of a pixel in micrometres, as the file says, or `otherwise` where it says nothing.

    Raises:
      AnnotationError: the file is missing or unreadable.
    """
    path = pathlib.Path(path)
    if _is_dicom(path):
        with _dicom_errors(path):
            return dicom.read_pixel_size(path) or otherwise
    with _opened(path) as image:
        said = image.physical_pixel_sizes.Y
        return float(said) if said and not np.isclose(said, _UNKNOWN, rtol=1e-4).any() else otherwise


def read_instances(path: pathlib.Path | str) -> np.ndarray:
    """Reads an instance map.

    Returns:
      int32[H, W].

    Raises:
      AnnotationError: the file is missing or unreadable, is a colour image, or does not hold integers from 0 up.
    """
    path = pathlib.Path(path)
    data = read_image(path)
    _require(
        data.shape[2] == 1,
        f"{path}: a mask with {data.shape[2]} channels; save an instance map: one channel, an integer for each object.",
    )
    _require(
        np.issubdtype(data.dtype, np.integer) or data.dtype == np.bool_,
        f"{path}: a mask of {data.dtype}; save an instance map of integers: 0 for background, 1, 2, ... for objects.",
    )
    _require(data.size > 0, f"{path}: the mask holds no pixels.")
    _require(data.min() >= 0, f"{path}: the mask holds {data.min()}; ids of objects begin at 1, background is 0.")
    _require(data.max() < 2**31, f"{path}: the mask holds {data.max()}; number the objects 1, 2, ...")
    return data[..., 0].astype(np.int32)


def write_instances(path: pathlib.Path | str, instances: np.ndarray, pixel_size: float) -> None:
    """Writes an instance or age map as a compressed 16-bit TIFF whose resolution says the pixel size.

    Args:
      path: a new file; its folder must exist.
      instances: integer[H, W], from -32768 to 32767 (int16) or from 0 to 65535 (uint16).
      pixel_size: micrometres.

    Raises:
      AnnotationError: the file exists already; not an integer map; ids beyond 16 bits; a pixel size not above 0.
    """
    path = pathlib.Path(path)
    _require(
        instances.ndim == 2 and np.issubdtype(instances.dtype, np.integer),
        f"{path}: an instance map must be integer height x width, not {instances.dtype} {instances.shape}.",
    )
    low, high = (int(instances.min()), int(instances.max())) if instances.size else (0, 0)
    dtype = np.uint16 if low >= 0 else np.int16
    _require(
        np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max,
        f"{path}: ids from {low} to {high} do not fit into 16 bits; number the objects consecutively.",
    )
    _require(np.isfinite(pixel_size) and pixel_size > 0, f"{path}: a pixel size of {pixel_size} micrometres.")
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        instances.astype(dtype),
        photometric="minisblack",
        compression="zlib",
        resolution=(1e4 / pixel_size, 1e4 / pixel_size),
        resolutionunit="CENTIMETER",
    )
    try:
        with open(path, "xb") as file:  # "x": nor is a file overwritten that another process wrote meanwhile
            file.write(buffer.getvalue())
    except FileExistsError:
        raise AnnotationError(f"{path}: exists already and is not overwritten; move it, or name a new file.") from None


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise AnnotationError(sentence)


def _check_map(name: str, kind: str, instances: np.ndarray, size: tuple[int, ...]) -> None:
    _require(
        instances.shape == size,
        f"{name}: the {kind} mask has shape {instances.shape}, but the image is {size[0]} x {size[1]} pixels.",
    )
    _require(
        np.issubdtype(instances.dtype, np.integer),
        f"{name}: the {kind} mask holds {instances.dtype}; it must hold integers: 0, and an id for each object.",
    )
    lowest = int(instances.min())
    _require(lowest >= 0, f"{name}: the {kind} mask holds the id {lowest}; ids begin at 1, and 0 is no object.")


def _check_ids(example: Example, number_of_classes: int) -> None:
    name, full, partial, classes = example.name, example.full, example.partial, example.classes
    ids = len(classes) - 1
    for kind, instances in (("partial", partial), ("full", full)):
        if instances is None:
            continue
        highest = int(instances.max())
        _require(
            highest <= ids,
            f"{name}: the {kind} mask holds the id {highest}, but classes go from 1 to {ids} only.",
        )
        check_largest_id(name, kind, instances)
        used = np.unique(instances[instances > 0])
        wrong = used[(classes[used] < 1) | (classes[used] > number_of_classes)]
        if len(wrong):
            raise AnnotationError(
                f"{name}: object {wrong[0]} of the {kind} mask has class {classes[wrong[0]]}, but must have one from "
                f"1 to {number_of_classes}."
            )
    listed = np.flatnonzero(classes)
    drawn = partial if full is None else np.maximum(full, partial)
    absent = np.setdiff1d(listed, drawn)
    if len(absent):
        raise AnnotationError(f"{name}: object {absent[0]} has a class, but no pixel in the masks; draw or unlist it.")
    if example.complete:
        unmarked = np.setdiff1d(listed, partial)
        if len(unmarked):
            raise AnnotationError(
                f"{name}: object {unmarked[0]} has no pixel in the partial mask; mark it, or set complete=False."
            )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[bioio.BioImage]:
    if not path.is_file():
        raise AnnotationError(f"{path}: there is no such file.")
    try:
        with _quiet():
            yield bioio.BioImage(path, reader=_reader(path))
    except AnnotationError:
        raise
    except claims.ClaimError as error:
        raise AnnotationError(f"{path}: {error}") from None
    except Exception as error:  # each plugin has its own, and some read late
        raise AnnotationError(
            f"{path}: cannot be read as an image ({type(error).__name__}); convert it to TIFF or PNG, or install the "
            "bioio plugin for its format."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The readers warn of what metadata lack, and log each other's failures; what matters is raised."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _is_dicom(path: pathlib.Path) -> bool:
    return path.is_file() and dicom.is_dicom(path)


@contextlib.contextmanager
def _dicom_errors(path: pathlib.Path) -> Iterator[None]:
    try:
        with _quiet():
            yield
    except (dicom.DicomError, claims.ClaimError) as error:
        raise AnnotationError(f"{path}: {error}") from None
    except Exception as error:  # pydicom understands a tag when it is asked for
        raise AnnotationError(f"{path}: cannot be read as DICOM ({type(error).__name__}); export it again.") from error


def _reader(path: pathlib.Path) -> type | None:
    # Left to itself bioio tries the OME reader on every TIFF and logs its failure.
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    return bioio_ome_tiff.Reader if claims.check_tiff(path) else bioio_tifffile.Reader
