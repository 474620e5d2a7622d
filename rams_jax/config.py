"""The settings of a run: their default values, what they mean, and which values make sense.

The sections `model`, `augment`, `loss`, `evolution` and `instances` hold the fields of the settings dataclasses of
`rams_jax.types`, but for what follows from `data.auxiliary` and from
the images.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

METHODS = tuple("full rams strong multitask pseudo scribble2label seedgrow threestage dmsps ignore naive".split())
DATASETS = ("scratch_assay", "folder", "histology", "fluorescence", "ultrasound", "food_sem")
COPIED = ("histology", "fluorescence", "ultrasound")  # read from a local copy, or downloaded
DTYPES = ("float32", "bfloat16")
CLASS_NAMES = ("nucleus",)  # unless a configuration says otherwise
AUXILIARY = ("separation", "boundary", "background", "interior")  # names in rams_jax.datasets.auxiliary.TASKS


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or impossible; the message holds one sentence a mistake."""


def default() -> ConfigDict:
    """The settings that every experiment starts from; `configs/` overrides a few of them."""
    config = ConfigDict()
    config.method = "rams"  # how the weak images are labelled: one of METHODS
    config.seed = 0  # of everything random: choice of strong images, marks, parameters, crops

    config.data = ConfigDict()
    config.data.name = "scratch_assay"  # one of DATASETS
    config.data.source = ""  # the annotated folder; the local copy of one of COPIED, "" = $RAMS_DATA or download
    config.data.cache = ""  # where prepared data sets are kept; "" = the user's cache directory
    config.data.strong = 1  # images that keep their full masks; the others show only their marks
    config.data.outlined_side = 0  # of the square on each of them where objects are outlined, pixels; 0 = everywhere
    config.data.weak = 0  # images that show only their marks; 0 = all the others
    config.data.mark_coverage = (0.15, 0.40)  # least and largest share of an object that its simulated mark covers
    config.data.mark_shift = 0.0  # where it lies: 0 = anywhere in the object, 1 = as far to one side as it fits
    config.data.mark_spill = 0.0  # share of its area that lies over the edge of the object
    config.data.mark_missing = 0.0  # chance of an object to be without a mark, in images where marks are missing
    config.data.mark_missing_images = 1.0  # chance of an image to be one of those
    config.data.mark_complete = True  # images whose objects are all marked are said to be so; False = none is
    config.data.channels = (0,)  # of the images, in this order, that the network sees; the first is 0
    config.data.auxiliary = ("separation", "interior")  # auxiliary tasks, of AUXILIARY; () for none
    config.data.class_names = CLASS_NAMES  # names of the object classes 1, 2, ...

    config.model = ConfigDict()
    config.model.width = 16  # channels at full resolution; doubled at each level
    config.model.depth = 3  # number of resolutions
    config.model.own_levels = 1  # decoder levels, from the finest down, that each task has for itself
    config.model.dtype = "float32"  # of activations, one of DTYPES; parameters stay float32

    config.augment = ConfigDict()
    config.augment.crop = 48  # side of the square crops, pixels
    config.augment.foreground = 0.5  # share of crops centred on a labelled pixel
    config.augment.rotation = 180.0  # largest angle, degrees
    config.augment.scale = 1.4  # largest factor, both ways
    config.augment.aspect = 1.2  # largest factor between the axes, both ways
    config.augment.flip = True  # mirror half of the crops
    config.augment.elastic = 1.5  # standard deviation of the displacement, pixels
    config.augment.elastic_grid = 16  # spacing of its control points, pixels
    config.augment.brightness = 0.5  # largest shift, in standard deviations of the channel over all training images
    config.augment.contrast = 1.6  # largest factor, both ways
    config.augment.noise = 0.3  # largest standard deviation, in the same unit
    config.augment.blur = 1.0  # largest standard deviation, pixels

    config.train = ConfigDict()
    config.train.steps = 700  # updates of the parameters
    config.train.strong_crops = 6  # crops a step from images with full masks
    config.train.weak_crops = 6  # crops a step from images with marks only
    config.train.learning_rate = 2e-3  # at its highest
    config.train.warmup_steps = 50  # over which the learning rate rises from 0
    config.train.weight_decay = 1e-4  # of AdamW
    config.train.clip_norm = 1.0  # largest norm of the gradient
    config.train.ema = 0.99  # how much of the averaged parameters stays at each step
    config.train.log_every = 50  # steps between two lines of metrics
    config.train.evaluate_every = 100  # steps between two scores on the validation images
    config.train.checkpoint_every = 350  # steps between two checkpoints
    config.train.tune_instances = True  # choose threshold and markers on the validation images at the end
    config.train.window = 0  # marked images of a shard on the devices at a time; 0 = all, or as many as they can hold
    config.train.shards = 0  # parts that images and crops are dealt to; 0 = one a device, on a CPU at least two, if
    # they share the crops evenly

    config.loss = ConfigDict()
    config.loss.approximation = 1.0  # weight of the approximation task
    config.loss.auxiliary = 0.3  # weight of the auxiliary tasks
    config.loss.weak = 1.0  # of a pixel of a marked image in the segmentation, an outlined one being 1; 0 in the paper

    config.evolution = ConfigDict()
    config.evolution.images_per_step = 4  # images whose masks are updated in a step; at least one a shard
    config.evolution.start = 0.15  # share of the training at which the masks begin to grow
    config.evolution.end = 0.6  # share of the training at which they reach `coverage`
    config.evolution.coverage = 1.0  # area of the masks at the end, relative to the area of the objects
    config.evolution.prior_objects = 15.0  # how many outlined objects the segmentation's own estimate of rho is worth
    config.evolution.alpha = 0.5  # weight of the approximation against the segmentation in a pixel's score
    config.evolution.size_prior = 1.0  # how strongly an object is held to the area that its mark foretells
    config.evolution.tau_min = 0.3  # no pixel joins below this score; below a tenth of it if its object lags behind
    config.evolution.tau_auxiliary = 0.5  # nor above this probability of background, nor at first of an interface
    config.evolution.reach = 3  # 4-neighbour steps, in pixels, that a region may grow in one update
    config.evolution.monotone = False  # masks never shrink; False = grown again from the marks at each update
    config.evolution.stop_growth = 0.02  # relative change of area below which an instance rests
    config.evolution.max_area_factor = (
        3.0  # largest area, relative to the largest strong object, or what the mark foretells
    )
    config.evolution.leak_factor = (
        2.0  # largest area after one update, relative to a disc grown by `reach` on all sides
    )

    config.instances = ConfigDict()
    config.instances.threshold = 0.5  # probability above which a pixel is object
    config.instances.marker_sigma = 1.5  # smoothing before maxima of the approximation become markers, pixels
    config.instances.marker_depth = 0.2  # height by which a maximum must stand out, relative to its own
    config.instances.min_area = 10  # smaller objects are dropped, pixels
    return config


def shorten(config: ConfigDict) -> None:
    """Makes a trial of an experiment: a narrow network, few steps, early scores. The crops stay as they are."""
    config.model.width = 8
    config.train.steps = 120
    config.train.warmup_steps = 10
    config.train.learning_rate = 5e-3
    config.train.ema = 0.95
    config.train.log_every = 20
    config.train.evaluate_every = 60
    config.train.checkpoint_every = 60


def validate(config: ConfigDict) -> None:
    """Checks every setting and their combinations.

    Raises:
      ConfigError: one sentence, on a line of its own, for each mistake found.
    """
    values, known = flatten(config), flatten(default())
    mistakes = [unknown_key(key, known) for key in values if key not in known]
    mistakes += [f"{key} is missing; start from rams_jax.config.default()." for key in known if key not in values]
    bad = set()
    for key, (_, test) in _RULES.items():
        if key in values and not test(values[key]):
            mistakes.append(impossible_value(key, values[key]))
            bad.add(key)
    for keys, test, sentence in _COMBINATIONS:
        if all(key in values and key not in bad for key in keys) and not test(*(values[key] for key in keys)):
            mistakes.append(sentence.format(*(values[key] for key in keys)))
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """All settings by their dotted names, such as `train.steps`."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            values |= flatten(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence for a setting that does not exist, with the most similar one that does."""
    known = list(known)
    by_last_name = {name.rsplit(".")[-1]: name for name in known}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    last = difflib.get_close_matches(key.rsplit(".")[-1], by_last_name, n=1, cutoff=0.7)
    near = near or [by_last_name[name] for name in last]
    hint = f"did you mean {near[0]}?" if near else "rams_jax/config.py lists all of them."
    return f"There is no setting {key}; {hint}"


def impossible_value(key: str, value: Any) -> str:
    """The sentence for a value that the setting `key` cannot have, with what it can be."""
    allowed = _RULES[key][0] if key in _RULES else "given by the settings in it, one by one"
    return f"{key} is {value!r}, but must be {allowed}."


# What a setting may be, in words and as a test.
Rule = tuple[str, Callable[[Any], bool]]


def _integer(low: int) -> Rule:
    return f"an integer of at least {low}", lambda value: type(value) is int and value >= low


def _number(allowed: str, test: Callable[[float], bool]) -> Rule:
    return allowed, lambda value: type(value) in (int, float) and math.isfinite(value) and test(value)


def _choice(options: tuple[str, ...]) -> Rule:
    return f"one of {', '.join(options)}", lambda value: value in options


def _sequence(allowed: str, test: Callable[[tuple], bool]) -> Rule:
    return allowed, lambda value: isinstance(value, tuple | list) and test(tuple(value))


def _is_coverage(value: tuple) -> bool:
    return len(value) == 2 and all(type(v) in (int, float) for v in value) and 0 < value[0] <= value[1] < 1


def _is_channels(value: tuple) -> bool:
    return all(type(v) is int and v >= 0 for v in value) and 0 < len(value) == len(set(value))


def _is_auxiliary(value: tuple) -> bool:
    return all(v in AUXILIARY for v in value) and len(value) == len(set(value))


def _is_names(value: tuple) -> bool:
    return all(isinstance(v, str) and v for v in value) and 0 < len(value) == len(set(value))


_TEXT: Rule = ("a text", lambda value: isinstance(value, str))
_SWITCH: Rule = ("True or False", lambda value: isinstance(value, bool))
_POSITIVE = _number("a number above 0", lambda value: value > 0)
_NOT_NEGATIVE = _number("a number of at least 0", lambda value: value >= 0)
_FACTOR = _number("a factor of at least 1", lambda value: value >= 1)
_SHARE = _number("a number from 0 to 1", lambda value: 0 <= value <= 1)
_INNER_SHARE = _number("a number between 0 and 1, neither of them", lambda value: 0 < value < 1)
_BELOW_ONE = _number("a number of at least 0 and below 1", lambda value: 0 <= value < 1)

_RULES: dict[str, Rule] = {
    "method": _choice(METHODS),
    "seed": ("an integer from 0 to 4294967295", lambda value: type(value) is int and 0 <= value < 2**32),
    "data.name": _choice(DATASETS),
    "data.source": _TEXT,
    "data.cache": _TEXT,
    "data.strong": _integer(1),
    "data.outlined_side": _integer(0),
    "data.weak": _integer(0),
    "data.mark_coverage": _sequence("two numbers between 0 and 1, the smaller first", _is_coverage),
    "data.mark_shift": _SHARE,
    "data.mark_spill": _number("a number from 0 to 0.5", lambda value: 0 <= value <= 0.5),
    "data.mark_missing": _BELOW_ONE,
    "data.mark_missing_images": _SHARE,
    "data.mark_complete": _SWITCH,
    "data.channels": _sequence("one or more different integers, counted from 0", _is_channels),
    "data.auxiliary": _sequence(f"any of {', '.join(AUXILIARY)}, each once", _is_auxiliary),
    "data.class_names": _sequence("one or more different names", _is_names),
    "model.width": _integer(1),
    "model.depth": _integer(1),
    "model.own_levels": _integer(0),
    "model.dtype": _choice(DTYPES),
    "augment.crop": _integer(8),
    "augment.foreground": _SHARE,
    "augment.rotation": _number("an angle from 0 to 180 degrees", lambda value: 0 <= value <= 180),
    "augment.scale": _FACTOR,
    "augment.aspect": _FACTOR,
    "augment.flip": _SWITCH,
    "augment.elastic": _NOT_NEGATIVE,
    "augment.elastic_grid": _integer(2),
    "augment.brightness": _NOT_NEGATIVE,
    "augment.contrast": _FACTOR,
    "augment.noise": _NOT_NEGATIVE,
    "augment.blur": _NOT_NEGATIVE,
    "train.steps": _integer(1),
    "train.strong_crops": _integer(1),
    "train.weak_crops": _integer(1),
    "train.learning_rate": _POSITIVE,
    "train.warmup_steps": _integer(0),
    "train.weight_decay": _NOT_NEGATIVE,
    "train.clip_norm": _POSITIVE,
    "train.ema": _BELOW_ONE,
    "train.log_every": _integer(1),
    "train.evaluate_every": _integer(1),
    "train.checkpoint_every": _integer(1),
    "train.tune_instances": _SWITCH,
    "train.window": _integer(0),
    "train.shards": _integer(0),
    "loss.approximation": _NOT_NEGATIVE,
    "loss.auxiliary": _NOT_NEGATIVE,
    "loss.weak": _NOT_NEGATIVE,
    "evolution.images_per_step": _integer(1),
    "evolution.start": _SHARE,
    "evolution.end": _SHARE,
    "evolution.coverage": _number("a number above 0 and at most 2", lambda value: 0 < value <= 2),
    "evolution.prior_objects": _NOT_NEGATIVE,
    "evolution.alpha": _SHARE,
    "evolution.size_prior": _NOT_NEGATIVE,
    "evolution.tau_min": _SHARE,
    "evolution.tau_auxiliary": _SHARE,
    "evolution.reach": _integer(1),
    "evolution.monotone": _SWITCH,
    "evolution.stop_growth": _BELOW_ONE,
    "evolution.max_area_factor": _POSITIVE,
    "evolution.leak_factor": _FACTOR,
    "instances.threshold": _INNER_SHARE,
    "instances.marker_sigma": _NOT_NEGATIVE,
    "instances.marker_depth": _BELOW_ONE,
    "instances.min_area": _integer(0),
}

_COMBINATIONS: tuple[tuple[tuple[str, ...], Callable[..., bool], str], ...] = (
    (
        ("data.name", "data.source"),
        lambda name, source: name in COPIED or (name == "folder") == bool(source),
        "data.source is {1!r} while data.name is {0!r}; it must name the folder for 'folder', may name a local copy "
        f"for {', '.join(COPIED)}, and must be empty otherwise.",
    ),
    (
        ("model.own_levels", "model.depth"),
        lambda own, depth: own < depth,
        "model.own_levels is {0}, but must be below model.depth, which is {1}.",
    ),
    (
        ("augment.crop", "model.depth"),
        lambda crop, depth: crop % 2 ** (depth - 1) == 0,
        "augment.crop is {0}, but must be a multiple of 2^(model.depth - 1), and model.depth is {1}.",
    ),
    (
        ("train.warmup_steps", "train.steps"),
        lambda warmup, steps: warmup < steps,
        "train.warmup_steps is {0}, but must be below train.steps, which is {1}.",
    ),
    (
        ("evolution.start", "evolution.end"),
        lambda start, end: start <= end,
        "evolution.start is {0}, but must not be above evolution.end, which is {1}.",
    ),
)
