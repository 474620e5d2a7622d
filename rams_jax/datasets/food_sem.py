"""SIMULATED electron microscopy of a frozen food foam, as of ice cream, as a TFDS builder.

No microscope took these images. 121 of 128 x 128 pixels of 1 um: 61 train, 20 validate, 40 test. Two classes of objects
lie in a matrix: air bubbles (1) and ice crystals (2). Sizes and looks follow what is known of cryo-SEM of such foams:
bubbles and crystals of some tens of um, smooth round hollows and flat rounded facets in a freeze-concentrated matrix
that looks grainy (Caillet et al., Lebensm.-Wiss. u.-Technol. 36 (2003) 743-749; Goff and Hartel, Ice Cream, 7th ed.,
Springer 2013). All constants are ours.

Scene. Objects are set one after the other at random, each in front of the earlier ones. So they touch and occlude each
other; but one that would hide more than HIDDEN of another, cut it in two, or lie on it with more than HIDDEN of its own
area, is not set.
- A bubble is a disc, slightly elliptic, of a diameter from a log-normal distribution.
- A crystal is a convex polygon of 5 to 8 sides with rounded corners.
The scene is a height map h (um): matrix 0 with the relief of etching; a bubble is a spherical hollow, -sqrt(R^2 - r^2);
a crystal lies about STEP higher and is tilted a little, as facets break.

Signal of a pixel, in this order (L. Reimer, Scanning Electron Microscopy, 2nd ed., Springer 1998, chapters 3, 4, 6):
1. Material: the backscattering coefficients of ice, matrix and bubble wall differ by a few per cent, and those of two
   crystals by their orientation (channelling); the matrix has bright fat globules of about 2 um.
2. Tilt: the secondary yield grows as 1 / cos(angle) of the surface, capped: rims and steps are bright.
3. Hollows: only part of the electrons leaves a hollow, exp(h / ESCAPE): deep bubbles are dark inside.
4. Detector at one side: surfaces that face it are brighter (slope along its direction), and the field is shaded.
5. Charging of the insulating sample: what is brighter than the mean of its line leaves a tail along the fast scan
   direction, exp(-x / CHARGING), and a line now and then is lighter or darker as a whole.
6. Probe: a Gaussian blur. Drift: each line is shifted against the one before it by a random walk; outlines shift too.
7. Shot noise: Poisson with DOSE electrons a pixel at the mean signal. Then gain and offset to 8 bits.

An image depends on its name and nothing else.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from scipy import ndimage

from rams_jax.datasets.building import features, row

SIDE = 128  # pixels of 1 um
IMAGES = {"train": 61, "validation": 20, "test": 40}
BUBBLE, ICE = 1, 2
PROPOSALS = 250  # objects that are tried
FILLED = 0.72  # share of the area at which no more are set
HIDDEN = 0.4  # largest share of an object that others may hide, and of one that may lie on another
SMALLEST = 40  # pixels that must be seen of an object
STEP = 1.5  # um
ESCAPE = 14.0  # um
CHARGING = 18.0  # pixels
DOSE = 110.0  # electrons


class FoodSem(tfds.core.GeneratorBasedBuilder):
    """Simulated images with the map of bubbles and crystals; see the head of this file."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    code_path = epath.Path(__file__)  # see ScratchAssay

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            license="MIT, as rams_jax; simulated, no third party's data",
            citation="Simulated by rams_jax.datasets.food_sem.",
            features=features(1),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in IMAGES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for number in range(IMAGES[split]):
            name = f"simulated_{split}_{number:02d}"
            image, full, classes = simulate(name)
            yield name, row(name, image, full, classes=classes)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What lies before the microscope, pixel by pixel."""

    full: np.ndarray  # int32[H, W]: the object that is seen
    classes: np.ndarray  # int32[J + 1]
    height: np.ndarray  # float[H, W], um
    material: np.ndarray  # float[H, W]: signal of a flat surface


def simulate(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image.

    Args:
      name: any text; it seeds everything random.

    Returns:
      uint8[SIDE, SIDE, 1] image, int32[SIDE, SIDE] map of what is seen of each object, int32[J + 1] classes.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drift = np.cumsum(rng.normal(0, 0.12, SIDE))  # of each line, pixels
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    scene = build(y, x + drift[:, None], rng)
    signal = illuminate(scene, rng)
    electrons = rng.poisson(DOSE * signal / signal.mean())
    contrast, middle = rng.uniform(0.75, 1.05), rng.uniform(95, 125)
    grey = middle * (1 + contrast * (electrons / DOSE - 1))
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], scene.full, scene.classes


def build(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> Scene:
    """Sets objects into the matrix.

    Args:
      y: float[H, W], position of each pixel on the sample, um.
      x: float[H, W].
      rng: random generator.
    """
    full = np.zeros(y.shape, np.int32)
    grain = ndimage.gaussian_filter(rng.standard_normal(y.shape), 1.2)
    height = 0.9 * grain / grain.std()
    globules = ndimage.gaussian_filter((rng.random(y.shape) < 0.02).astype(float), 0.8)
    material = 1.0 + 0.35 * np.minimum(globules / 0.2, 1) + 0.04 * grain / grain.std()
    classes, areas = [0], [0]
    for _ in range(PROPOSALS):
        kind = BUBBLE if rng.random() < 0.5 else ICE
        centre = rng.uniform(-8, SIDE + 8, 2)
        if full[tuple(np.clip(np.rint(centre), 0, SIDE - 1).astype(int))]:
            continue  # it would mostly not fit
        inside, surface, brightness = (_bubble if kind == BUBBLE else _crystal)(y - centre[0], x - centre[1], rng)
        if not _fits(inside, full, areas):
            continue
        full[inside] = len(classes)
        height = np.where(inside, surface, height)
        material = np.where(inside, brightness, material)
        classes.append(kind)
        areas.append(int(inside.sum()))
        if (full > 0).mean() > FILLED:
            break
    return Scene(full, np.array(classes, np.int32), height, material)


def illuminate(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The expected signal of each pixel, float[H, W], above 0: steps 1 to 6 of the head of this file, without drift."""
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(scene.height, 0.7))
    tilt = np.minimum(np.sqrt(1 + slope_y**2 + slope_x**2), 2.2)
    signal = scene.material * (1 + 0.45 * (tilt - 1)) * np.exp(np.minimum(scene.height, 0) / ESCAPE)
    angle = rng.uniform(-0.5, 0.5) - np.pi / 2  # of the detector, near the top of the image
    facing = slope_y * np.sin(angle) + slope_x * np.cos(angle)
    signal *= 1 - 0.12 * np.clip(facing, -2, 2)
    rows, columns = (np.linspace(-1, 1, size) for size in signal.shape)
    a, b, c = rng.uniform(-0.14, 0.14, 3)
    signal *= 1 + a * rows[:, None] + b * columns + c * rows[:, None] * columns
    signal = ndimage.gaussian_filter(signal, 0.7)
    return np.maximum(_charge(signal, rng), 0.05)


def _bubble(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """bool[H, W] inside, float[H, W] height, and the signal of its wall."""
    radius = float(np.clip(rng.lognormal(np.log(12.0), 0.35), 5.0, 22.0))
    aspect, angle = rng.uniform(1.0, 1.18), rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    left = radius**2 - along**2 / aspect - across**2 * aspect
    return left > 0, -np.sqrt(np.maximum(left, 0)), rng.uniform(0.95, 1.05)


def _crystal(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """The same of a crystal: a soft maximum of the distances from its sides."""
    radius = float(np.clip(rng.lognormal(np.log(13.0), 0.3), 6.5, 22.0))
    sides = rng.integers(5, 9)
    angles = (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) * 2 * np.pi / sides + rng.uniform(0, 2 * np.pi)
    reach = radius * rng.uniform(0.75, 1.15, sides)
    beyond = x[..., None] * np.cos(angles) + y[..., None] * np.sin(angles) - reach
    sharp = 5.0 / radius
    outside = np.log(np.exp(np.minimum(sharp * beyond, 50)).sum(-1)) / sharp
    slope = rng.normal(0, 0.08, 2)
    step = STEP * rng.uniform(0.4, 1.6)
    return outside < 0, step + slope[0] * y + slope[1] * x, rng.uniform(0.78, 0.94)


def _fits(inside: np.ndarray, full: np.ndarray, areas: list[int]) -> bool:
    """Whether all objects remain to be seen well enough if this one is set in front of them."""
    if inside.sum() < SMALLEST:
        return False
    for index in np.setdiff1d(full[inside], 0):
        rest = (full == index) & ~inside
        if (inside & (full == index)).sum() > HIDDEN * inside.sum():
            return False
        if rest.sum() < max(SMALLEST, (1 - HIDDEN) * areas[index]) or ndimage.label(rest)[1] > 1:
            return False
    return True


def _charge(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds tails along the lines, and lines that are lighter or darker as a whole."""
    excess = np.maximum(signal - np.median(signal, axis=1, keepdims=True), 0)
    tail = np.exp(-np.arange(1, 4 * int(CHARGING)) / CHARGING) / CHARGING
    spread = np.stack([np.convolve(line, tail)[: signal.shape[1]] for line in excess])
    jumps = np.where(
        rng.random(len(signal)) < 0.06, rng.normal(0, 0.10, len(signal)), rng.normal(0, 0.012, len(signal))
    )
    return (signal + 0.8 * spread) * (1 + jumps[:, None])
