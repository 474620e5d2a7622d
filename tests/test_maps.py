"""Maps as files, read again by other libraries."""

import numpy as np
import pytest
import tifffile

from rams_jax.maps import write_probabilities, write_tiff, write_zarr


@pytest.mark.parametrize(("highest", "dtype"), [(0, np.uint16), (65535, np.uint16), (65536, np.uint32)])
def test_ids_of_any_number_fit(tmp_path, highest, dtype):
    instances = np.zeros((1100, 30), np.int32)
    instances[1000, 20] = highest
    write_tiff(tmp_path / "a.tif", instances, 0.25)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        assert page.dtype == dtype and page.is_tiled
        assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1] == 40000
        np.testing.assert_array_equal(page.asarray(), instances)


def test_probabilities_are_named_layers(tmp_path):
    from bioio import BioImage

    values = np.arange(3 * 20 * 30, dtype=np.uint8).reshape(3, 20, 30)
    write_probabilities(tmp_path / "p.ome.tif", values, ["segmentation blob", "approximation blob", "separation"], 0.3)
    image = BioImage(tmp_path / "p.ome.tif")
    np.testing.assert_array_equal(image.get_image_data("CYX"), values)
    assert list(image.channel_names) == ["segmentation blob", "approximation blob", "separation"]
    assert image.physical_pixel_sizes.Y == pytest.approx(0.3)


def test_ome_zarr(tmp_path):
    zarr = pytest.importorskip("zarr", reason="the extra [zarr] is not installed")
    instances = np.arange(1100 * 1300, dtype=np.int32).reshape(1100, 1300) % 70000
    write_zarr(tmp_path / "a.ome.zarr", instances, 0.25)
    group = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5" and "image-label" in ome
    (scales,) = ome["multiscales"]
    assert [axis["name"] for axis in scales["axes"]] == ["y", "x"]
    assert all(axis == {"name": axis["name"], "type": "space", "unit": "micrometer"} for axis in scales["axes"])
    assert len(scales["datasets"]) == 2
    for level, dataset in enumerate(scales["datasets"]):
        array = group[dataset["path"]]
        np.testing.assert_array_equal(array[:], instances[:: 2**level, :: 2**level])
        assert array.dtype == np.uint32 and array.metadata.dimension_names == ("y", "x")
        assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [0.25 * 2**level] * 2}]
