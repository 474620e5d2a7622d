"""Overlays: a picture of a size to look at, with lines where the objects end."""

import io

import numpy as np
import pytest
from PIL import Image

from rams_jax.overlay import overlay


@pytest.mark.parametrize(
    ("shape", "shown"), [((100, 130), (300, 390)), ((600, 700), (600, 700)), ((4100, 60), (1367, 20))]
)
def test_overlays_are_of_a_size_to_look_at(shape, shown):
    image = np.full((*shape, 1), 500, np.uint16)
    image[: shape[0] // 2] = 100
    instances = np.zeros(shape, np.int32)
    instances[shape[0] // 4 : shape[0] // 2, 10 : shape[1] // 2] = 1
    picture = np.asarray(Image.open(io.BytesIO(overlay(image, instances, np.array([0, 1])))))
    assert picture.shape == (*shown, 3)
    grey = (picture == picture[..., :1]).all(-1)
    assert 0 < (~grey).sum() < 0.2 * grey.size  # a line
    rows_, columns = np.nonzero(~grey)
    scale = shown[0] / shape[0]
    assert abs(rows_.min() - shape[0] // 4 * scale) <= 2 and abs(columns.max() - shape[1] // 2 * scale) <= 2
    assert picture[-1, -1, 0] > picture[0, -1, 0]  # the light half is below
