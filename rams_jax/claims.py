"""Files that claim more than they can hold, or than memory should be given to: refused before they are believed."""

from __future__ import annotations

import math
import pathlib
import shutil
import zipfile
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import tifffile

LARGEST_IMAGE = 2**32  # bytes of pixels
LARGEST_TEXT = 2**26  # bytes
_ANYBODY = 2**28  # bytes of pixels that any file may claim to hold
_PACKED = 2000  # times; deflate, which packs best of what is usual, makes 1032 bytes of one
_MOST_PLANES = 10_000  # of an OME-TIFF: channels, slices and time points


class ClaimError(ValueError):
    """Why a file is refused: the end of a sentence that begins with its name."""


def check_image(path: pathlib.Path, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raises ClaimError if an image of this shape is too large, or more than its file can hold."""
    size = math.prod(shape) * dtype.itemsize
    if size > LARGEST_IMAGE or size > max(_ANYBODY, _PACKED * path.stat().st_size):
        claim = " x ".join(map(str, shape))
        raise ClaimError(
            f"claims to hold {claim} values, too many for its size or for memory; save it again, or cut it into pieces."
        )


def check_tiff(path: pathlib.Path) -> bool:
    """Whether a TIFF is OME-TIFF.

    Raises:
      ClaimError: it claims too much, or its XML is absurdly long or defines entities, which may stand for other files
        or for a billion words.
      Exception: tifffile has several, for files that are none.
    """
    with tifffile.TiffFile(path) as file:
        if file.is_ome:
            _check_xml(file.pages.first.description)
        _check_pages(file)
        check_image(path, file.series[0].shape, file.series[0].dtype)
        return file.is_ome


def _check_pages(file: tifffile.TiffFile) -> None:
    """tifffile itself follows a circle of pages for ever."""
    seen: set[int] = set()
    for page in file.pages:
        if page.offset in seen or len(seen) == _MOST_PLANES:
            raise ClaimError("its list of pages goes round in a circle, or has no end; save it again.")
        seen.add(page.offset)


def check_members(members: Sequence[zipfile.ZipInfo], folder: pathlib.Path) -> None:
    """Raises ClaimError if files of a zip would land outside of the folder, or need more room than there is."""
    inside = folder.resolve()
    for member in members:
        # backslashes part folders where the zip was made on some systems, and so may hide a way out
        if not (inside / member.filename.replace("\\", "/")).resolve().is_relative_to(inside):
            raise ClaimError(f"its file {member.filename!r} would land outside of the folder; zip it anew.")
    disk = next(place for place in (inside, *inside.parents) if place.exists())
    if sum(member.file_size for member in members) > shutil.disk_usage(disk).free:
        raise ClaimError("larger than the disk when unpacked; make room, or zip fewer images.")


def _check_xml(text: str) -> None:
    if len(text) > LARGEST_TEXT or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ClaimError(
            "its OME-XML is absurdly long or defines entities; save it again from a program that you trust."
        )
    for pixels in ElementTree.fromstring(text).iter():
        sizes = [int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT"] if pixels.tag.endswith("Pixels") else []
        planes = math.prod(max(1, size) for size in sizes)
        if planes > _MOST_PLANES:  # a list of them is made before they are looked for
            raise ClaimError(f"holds {planes} planes or time points; save each as an image of its own.")
