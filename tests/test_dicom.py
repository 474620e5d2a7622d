"""DICOM as ultrasound machines write it, made here with pydicom."""

import sys

import numpy as np
import pytest

from rams_jax.annotations import AnnotationError, read_image, read_pixel_size

pydicom = pytest.importorskip("pydicom", reason="the extra [dicom] is not installed")
GREY = np.arange(24 * 30, dtype=np.uint16).reshape(24, 30)


def write(path, array, kind="MONOCHROME2", **tags):
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if array is not None:
        data.set_pixel_data(array, kind, 8 * array.dtype.itemsize)
    for tag, value in tags.items():
        setattr(data, tag, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("name", ["scan.dcm", "IM_0001", "1.2.840.113619"])
def test_grey(tmp_path, name):
    path = write(tmp_path / name, GREY, PixelSpacing=[0.2, 0.3])
    np.testing.assert_array_equal(read_image(path), GREY[..., None])
    assert read_pixel_size(path) == pytest.approx(200.0)  # 0.2 mm between rows


def test_white_is_zero(tmp_path):
    path = write(tmp_path / "scan.dcm", GREY, "MONOCHROME1")
    np.testing.assert_array_equal(read_image(path)[..., 0], 719 - GREY)


def test_colour(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (24, 30, 3), np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "scan.dcm", array, "RGB")), array)


def test_pixel_size_of_ultrasound_regions(tmp_path):
    region = pydicom.Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # centimetres
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.03, -0.02
    path = write(tmp_path / "scan.dcm", GREY, SequenceOfUltrasoundRegions=[region])
    assert read_pixel_size(path) == pytest.approx(200.0)
    assert read_pixel_size(write(tmp_path / "other.dcm", GREY), 7.0) == 7.0


def test_what_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    film = write(tmp_path / "film.dcm", np.stack([GREY] * 3))
    report = write(tmp_path / "report.dcm", None)
    packed = write(tmp_path / "packed.dcm", GREY)
    data = pydicom.dcmread(packed)
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    data.PixelData = pydicom.encaps.encapsulate([b"\0" * 8])
    data.save_as(packed)
    (tmp_path / "text.dcm").write_text("no scan")
    for path, words in (
        (film, "film.dcm: holds 3 frames; save each"),
        (report, "report.dcm: holds no image"),
        (packed, "packed.dcm: its pixels cannot be decoded .*JPEG-LS.*pylibjpeg"),
        (tmp_path / "text.dcm", "text.dcm: cannot be read as DICOM"),
    ):
        with pytest.raises(AnnotationError, match=words):
            read_image(path)
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as if it were not installed
    with pytest.raises(AnnotationError, match="film.dcm: is DICOM, which needs pydicom; pip install"):
        read_image(film)
