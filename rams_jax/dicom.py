"""DICOM images, as ultrasound machines save them, through pydicom (the extra `dicom`)."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from rams_jax import claims

_ENDINGS = (".dcm", ".dicom", ".ima")
_MAGIC = 128  # position of the letters DICM
_CENTIMETRES = 3  # code of the unit in a region of an ultrasound image


class DicomError(ValueError):
    """Why a DICOM file cannot be used: the end of a sentence that begins with its name."""


def is_dicom(path: pathlib.Path) -> bool:
    """By the ending or the first bytes: machines name their files 1.2.840.113619, or IM_0001."""
    if path.suffix.lower() in _ENDINGS:
        return True
    with open(path, "rb") as file:
        return file.read(_MAGIC + 4)[_MAGIC:] == b"DICM"


def read_pixels(path: pathlib.Path) -> np.ndarray:
    """The image: number[H, W, C], grey or RGB, where larger is brighter.

    Raises:
      DicomError: pydicom is not installed; not DICOM, no image or several frames; no decoder for its compression.
      ClaimError: it claims more than it can hold.
    """
    data = _read(path)
    from pydicom import pixels

    if "PixelData" not in data:
        raise DicomError("holds no image, perhaps a report; leave it out.")
    if (frames := int(data.get("NumberOfFrames") or 1)) > 1:
        raise DicomError(f"holds {frames} frames; save each as an image of its own.")
    shape = [int(data.get(key) or 1) for key in ("Rows", "Columns", "SamplesPerPixel")]
    claims.check_image(path, shape, np.dtype(f"u{max(1, int(data.get('BitsAllocated') or 8) // 8)}"))
    try:
        array = pixels.pixel_array(data)
    except Exception as error:  # each decoder has its own
        packing = data.file_meta.TransferSyntaxUID.name
        raise DicomError(
            f"its pixels cannot be decoded ({type(error).__name__}, {packing}); pip install 'pylibjpeg[all]' or export "
            "it uncompressed."
        ) from error
    kind = data.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        array = pixels.apply_color_lut(array, data)
    elif kind == "MONOCHROME1":  # 0 is white
        array = array.max() - array
    return array.reshape(*array.shape[:2], -1)


def read_pixel_size(path: pathlib.Path) -> float | None:
    """The height of a pixel in micrometres; None where the file says nothing. Raises as `read_pixels`."""
    data = _read(path)
    for region in data.get("SequenceOfUltrasoundRegions") or ():
        if region.get("PhysicalUnitsYDirection") == _CENTIMETRES and region.get("PhysicalDeltaY"):
            return abs(float(region.PhysicalDeltaY)) * 1e4
    spacing = data.get("PixelSpacing") or data.get("ImagerPixelSpacing")
    return float(spacing[0]) * 1e3 if spacing else None  # millimetres, between rows first


def _read(path: pathlib.Path) -> Any:
    try:
        import pydicom
    except ModuleNotFoundError:
        raise DicomError("is DICOM, which needs pydicom; pip install pydicom, or convert it to PNG.") from None
    try:
        packing = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if packing == pydicom.uid.DeflatedExplicitVRLittleEndian:  # it would be unpacked whole, however large
            raise DicomError("is deflated as a whole; export it uncompressed.")
        return pydicom.dcmread(path)
    except DicomError:
        raise
    except Exception as error:
        raise DicomError(f"cannot be read as DICOM ({type(error).__name__}); export it again.") from error
