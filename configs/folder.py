"""Your own images: a folder as README.md describes it, with settings chosen from the sizes of its objects.

Command:   python launch/main.py --config=configs/folder.py:FOLDER
Before:    python launch/check.py FOLDER says what would spoil it.
Hardware:  2 CPU cores will do; takes a GPU or TPU where jax finds one. All training images must fit into its memory.
Time:      grows with the crop, the images and their number; the progress bar says what is left.
Score:     on the test images of the folder, against their full masks.

What it finds and chooses is printed first and kept in config.json; each setting can be changed as always, such as
--config.augment.crop=64. The rule, with d the median diameter of a disc of an object's area, in pixels:

- model.depth: the least from 3 to 5 with which the network sees at least 1.5 d, an object and what surrounds it.
- augment.crop: 3 d, so that a crop shows whole objects and their neighbours; from 48 to 256, no larger than the images,
  and a multiple of 2^(depth - 1).
- train.strong_crops, train.weak_crops: 6 up to crops of 64 pixels, 4 up to 128, then 2, as a crop costs its area.
- evolution.reach: d / 8, at least 2. A mark has about half the diameter, so some updates reach the boundary, and a leak
  in one update stays small beside the object.
- evolution.images_per_step: as many as cost no more than the crops; at most 16.
- train.steps: so many that each image takes 10 turns to evolve; from 700 to 5000, where images_per_step grows instead.
- instances.marker_sigma: d / 8, at least 1: bumps that are smaller make no object of their own.
- instances.min_area: a quarter of the area that 9 of 10 objects exceed, at least 4 pixels.
- data.auxiliary: the tasks that strokes were drawn for; separation and interior if an image shows several objects.
- data.strong: all training images with a full mask; data.channels, data.class_names: as project.toml says.

With several classes d is that of the class with the largest objects for depth and crop, with the smallest for the rest.
"""

import math

from ml_collections import ConfigDict

from rams_jax import config as settings
from rams_jax.annotations import AnnotationError
from rams_jax.datasets.survey import Survey, survey

TOLD = ("augment.crop", "model.depth", "train.steps", "evolution.reach", "evolution.images_per_step", "data.auxiliary")
SLOW = 100  # pixels of diameter from which smaller images would do


def get_config(arg: str = "") -> ConfigDict:
    """The settings for a folder; `arg` is what follows the colon: its path."""
    if not arg:
        raise settings.ConfigError("configs/folder.py needs a folder: --config=configs/folder.py:FOLDER")
    config = settings.default()
    try:
        found = survey(arg, config.seed)
    except AnnotationError as error:
        raise settings.ConfigError(str(error)) from None
    for key, value in choose(found).items():
        section, name = key.split(".")
        config[section][name] = value
    config.data.name = "folder"
    config.data.source = arg
    print("\n".join(report(arg, found, config)), flush=True)
    config.lock()
    return config


def choose(found: Survey) -> dict[str, object]:
    """The settings that follow from a survey, by their dotted names; the rule is at the head of this file."""
    medians = [float(d[len(d) // 2]) for d in found.diameters]
    large, small = max(medians), min(medians)
    least = min(float(d[len(d) // 10]) for d in found.diameters)
    depth = next((depth for depth in (3, 4) if sight(depth) >= 1.5 * large), 5)
    multiple = 2 ** (depth - 1)
    most = min(256, max(multiple, multiple * (min(found.height, found.width) // multiple)))
    crop = multiple * round(min(max(48, 3 * large), most) / multiple)
    crops = 6 if crop <= 64 else 4 if crop <= 128 else 2
    turns = 10 * (found.outlined + found.marked)  # strong images take turns as well
    images = min(16, max(1, 2 * crops * crop**2 // found.largest))
    images = max(images, math.ceil(turns / 5000))
    several = ("separation", "interior") if found.several else ()
    return {
        "data.strong": found.outlined,
        "data.channels": found.channels,
        "data.class_names": found.class_names or ("object",),
        "data.auxiliary": tuple(task for task in settings.AUXILIARY if task in several + found.strokes),
        "model.depth": depth,
        "augment.crop": crop,
        "train.strong_crops": crops,
        "train.weak_crops": crops,
        "train.steps": max(700, 100 * math.ceil(turns / images / 100)),
        "evolution.images_per_step": images,
        "evolution.reach": max(2, round(small / 8)),
        "instances.marker_sigma": round(max(1.0, small / 8), 1),
        "instances.min_area": max(4, round(math.pi / 16 * least**2)),
    }


def sight(depth: int) -> int:
    """Side of the square of pixels that an output pixel depends on, on average, with `model.own_levels` = 1.

    Two 3 x 3 convolutions a level see 4 pixels of that level more, of 2^level image pixels each, on the way down and on
    the way up (but one on the finest level), and each pooling one pixel more of the level above it.
    """
    down = sum(4 * 2**level for level in range(depth)) + sum(2**level for level in range(depth - 1))
    return 1 + down + 2 + sum(4 * 2**level for level in range(1, depth - 1))


def report(path: str, found: Survey, config: ConfigDict) -> list[str]:
    """What was found and chosen, in a few lines."""
    size = f"{found.height} x {found.width}"
    lines = [f"{path}: {found.outlined} outlined and {found.marked} marked training images of {size}."]
    for name, d in zip(config.data.class_names, found.diameters, strict=True):
        low, middle, high = (f"{d[len(d) * tenths // 10]:.0f}" for tenths in (1, 5, 9))
        lines.append(f"{name}: {low} to {high} pixels across, {middle} in the middle.")
    values = settings.flatten(config)
    lines.append("Chosen: " + ", ".join(f"{key} {values[key]}" for key in TOLD) + ".")
    if max(d[len(d) // 2] for d in found.diameters) > SLOW:
        lines.append(f"Objects are larger than {SLOW} pixels: images and masks of half the size would train faster.")
    return lines
