"""Networks that were never trained: one that segments bright blobs, images of such blobs, and random ones."""

import dataclasses
import functools

import jax
import numpy as np

from rams_jax.annotations import PERCENTILES
from rams_jax.model import MultiTaskUNet
from rams_jax.network import Network
from rams_jax.types import InstanceSettings, ModelSettings

MODEL = MultiTaskUNet(ModelSettings(width=2, depth=2, own_levels=1, dtype="float32"), classes=1, auxiliary=1)
INSTANCES = InstanceSettings(
    threshold=0.5, marker_sigma=1.0, marker_depth=0.2, min_area=10, dividing=(0,), beginning=()
)


def blobs(seed, shape=(64, 64), count=6, channels=1):
    """uint16[H, W, C] with blobs of radius 4 to 7 in the first channel, and int32[H, W]: them, without overlap."""
    rng = np.random.default_rng(seed)
    row, column = np.ogrid[: shape[0], : shape[1]]
    full = np.zeros(shape, np.int32)
    for _ in range(count):
        radius = rng.uniform(4, 7)
        disc = np.hypot(row - rng.uniform(0, shape[0]), column - rng.uniform(0, shape[1])) < radius
        near = np.hypot(*np.gradient(disc.astype(float))) + disc > 0
        if not full[near].any():
            full[disc] = full.max() + 1
    image = np.where(full > 0, 9000, 1000) + rng.normal(0, 300, shape)
    others = [rng.normal(3000, 100, shape) for _ in range(channels - 1)]
    return np.stack([image, *others], axis=-1).round().clip(0).astype(np.uint16), full


@functools.cache
def blob_network():
    """Made by hand: p and q are above 0.99 where the normalised image is above 0.5, else below 0.01; s is 0.02.

    The first convolution gives (a, -a), a = 24 x - 12; the second and those of the tasks hand on c (a, -a) rectified
    and centred, with some c > 0, over the skip connection. What comes from the coarse level is 0.
    """
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), np.zeros((1, 2, 2, 1)), np.ones((1, 2, 2), bool))
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    layers = params["params"]
    difference = np.array([(1, -1), (-1, 1)])  # of mean 0, as kernels are made to be; its columns have norm 2^0.5
    encoder = layers["encoder0"]
    encoder["Convolution_0"]["kernel"][1, 1, 0] = 1, -1
    encoder["Convolution_0"]["gain"][:] = 24
    encoder["Convolution_0"]["bias"][:] = -12, 12
    encoder["Convolution_1"]["kernel"][1, 1] = difference
    encoder["Convolution_1"]["gain"][:] = 1
    for task, kernel in (("segmentation", [(-4, 4), (4, -4)]), ("approximation", [(8,), (-8,)])):
        layers[f"decoder0_{task}"]["Convolution_0"]["kernel"][1, 1, 2:] = difference
        layers[f"decoder0_{task}"]["Convolution_0"]["gain"][:] = 1
        layers[f"{task}_logits"]["kernel"][:] = kernel
    layers["auxiliary_logits"]["bias"][:] = -4
    return Network(
        model=MODEL,
        params=params,
        class_names=("blob",),
        auxiliary=("separation",),
        channels=(0,),
        percentiles=PERCENTILES,
        averaged=True,
        instances=INSTANCES,
        pixel_size=0.5,
        largest_object=14,
        card={"method": "rams", "test": {"dice": 0.9}},
    )


SETTINGS = dataclasses.replace(MODEL.settings, width=4)


def small_network(settings=SETTINGS, classes=2, auxiliary=("separation",), channels=(0, 2)):
    """Random parameters of a network for some channels."""
    model = MultiTaskUNet(settings, classes, len(auxiliary))
    side = 2 ** (settings.depth - 1)
    image, inside = np.zeros((1, side, side, len(channels)), np.float32), np.ones((1, side, side), bool)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, inside)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)
    names = tuple(f"class{i}" for i in range(classes))
    instances = dataclasses.replace(INSTANCES, dividing=tuple(range(len(auxiliary))))
    card = {"method": "rams", "test": {"dice": 0.5}, "versions": {"jax": "0"}}
    return Network(model, params, names, auxiliary, channels, (2.0, 99.0), False, instances, 0.25, 33, card)
