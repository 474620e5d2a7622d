"""The data that moves through the library: frozen dataclasses whose fields say their shapes.

Symbols: N images, H x W pixels, C channels, K object classes, J the largest instance id, S auxiliary tasks, B crops.
Instance maps hold 0 for "in no object" and 1..J for the objects of that image. Class 0 is background.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from flax import struct

# Of jax on the devices, of NumPy on the host; a shape or a partition where only the structure of a state counts.
Array = Any
UNKNOWN, NO, YES = 0, 1, 2  # what an auxiliary stroke says of a pixel
BINS = 256  # of the score histograms in `MaskState.tally`


@dataclasses.dataclass(frozen=True)
class Example:
    """One annotated image on the host, as a dataset yields it."""

    name: str
    image: np.ndarray  # float32[H, W, C], normalised
    full: np.ndarray | None  # int32[H, W]: every object outlined; None if nobody did
    partial: np.ndarray  # int32[H, W]: rough marks, the ids are those of `full`
    valid: np.ndarray  # bool[H, W]: False where the annotator did not look
    classes: np.ndarray  # int32[J + 1]: class of each id; classes[0] = 0
    auxiliary: np.ndarray  # int8[H, W, S]: UNKNOWN, NO or YES for each auxiliary task
    complete: bool = True  # every object of the image carries a mark
    pixel_size: float = 1.0  # micrometres
    circumference: float | None = None  # of the one object, millimetres, where a person measured it


@struct.dataclass
class MaskState:
    """What the recursion changes: the current approximations of all images."""

    # int16[N, H, W]: A_t. In no mask: 0 = background, -1 = nothing is known, -1 - id = taken for the class of this id.
    current: Array
    age: Array  # int16[N, H, W]: the update at which the pixel joined; 0 = drawn by the user, or in no mask
    held: Array  # bool[N, J + 1 + K]: instances that a brake held back at their last update
    # float32[N, K, bins + 3], at the image's last turn: scores of pixels in reach; area of the objects by p, of P, of A
    tally: Array
    updates: Array  # int32[N]: how often the image took its turn
    average: Array | None = None  # uint8[N, H, W, K]: running mean of p, 255 for 1; of rules with `memory` only


@struct.dataclass
class DatasetState:
    """All training images with their annotations, on the devices; logical shard r owns the r-th block of images."""

    image: Array  # float32[N, H, W, C], padded with its edge
    inside: Array  # bool[N, H, W]: False where padded
    valid: Array  # bool[N, H, W]: inside, and looked at by the annotator
    full: Array  # int16[N, H, W]: 0 everywhere on weak images
    partial: Array  # int16[N, H, W]
    auxiliary: Array  # int8[N, H, W, S]
    classes: Array  # int32[N, J + 1 + K]: class of each id; the last K ids are "class k, no instance known"
    strong: Array  # bool[N]
    complete: Array  # bool[N]
    rho: Array  # float32[K]: area of the marks / area of the objects, on the strong images
    outlined: Array  # float32[K]: number of strong objects, which rho and largest were found on
    largest: Array  # float32[K]: area of the largest strong object, pixels
    strong_slots: Array  # int32[shards, strong per shard]: positions in the shard's block that hold strong images
    weak_slots: Array  # int32[shards, weak per shard]
    weak_count: Array  # int32[shards]: how many of weak_slots hold an image; the rest is padding
    elsewhere: Array  # float32[shards, K, bins + 3]: summed tallies of the shard's images that stay on the host
    masks: MaskState

    def of_images(self) -> dict[str, Any]:
        """The arrays, by name, that have a row for each image."""
        others = ("rho", "outlined", "largest", "strong_slots", "weak_slots", "weak_count", "elsewhere")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in others}


@struct.dataclass
class Annotation:
    """What is known of one whole image when its masks take their turn; a slice of `DatasetState`."""

    inside: Array  # bool[H, W]
    full: Array  # int32[H, W]
    partial: Array  # int32[H, W]
    current: Array  # int32[H, W]: A_t, 0 = in no mask
    classes: Array  # int32[J + 1 + K]
    strong: Array  # bool[]
    complete: Array  # bool[]
    average: Array | None = None  # uint8[H, W, K]


@struct.dataclass
class Level:
    """How far the recursion has come."""

    progress: Array  # float32[]: share of the training that is done
    rho: Array  # float32[K]: share of the objects' area that the marks cover, as far as known now
    kappa: Array  # float32[K]: share of the objects' area that the masks should hold
    tau: Array  # float32[K]: score above which pixels join on weak images
    beyond: Array  # float32[K]: score below which no object is expected, however well the masks grow
    largest: Array  # float32[K]: as in DatasetState


@struct.dataclass
class Update:
    """The masks of one image after its turn."""

    current: Array  # int32[H, W]
    held: Array  # bool[J + 1 + K]
    tally: Array  # float32[K, bins + 3]
    near: Array | None = None  # bool[H, W]: may belong to a marked object; of `evolution.evolve` only
    average: Array | None = None  # uint8[H, W, K]


@struct.dataclass
class Batch:
    """Augmented crops with their labels as class maps."""

    image: Array  # float32[B, h, w, C]
    inside: Array  # bool[B, h, w]
    valid: Array  # bool[B, h, w]
    full: Array  # int32[B, h, w]: class map of the full masks
    partial: Array  # int32[B, h, w]: class map of the marks
    current: Array  # int32[B, h, w]: class map of A_t; in no mask -1 - k = taken for class k, -1 = nothing is known
    auxiliary: Array  # int8[B, h, w, S]
    strong: Array  # bool[B]
    complete: Array  # bool[B]
    slot: Array  # int32[B]: where its image lies among the shard's


@struct.dataclass
class Targets:
    """What each task learns from a batch."""

    segmentation: Array  # float32[B, h, w, K + 1]: shares of background and the classes
    segmentation_weight: Array  # float32[B, h, w]
    approximation: Array  # float32[B, h, w, K]
    approximation_weight: Array  # float32[B, h, w]


@struct.dataclass
class Predictions:
    """Probabilities of the three tasks."""

    segmentation: Array  # float32[..., H, W, K]: p, without background
    approximation: Array  # float32[..., H, W, K]: q
    auxiliary: Array  # float32[..., H, W, S]: s


@struct.dataclass
class View:
    """What the network in training makes of a batch, and when; nothing is learnt through it."""

    progress: Array  # float32[]: share of the training that is done
    chance: Array  # float32[] in 0..1, a new one each step
    predictions: Predictions  # of the batch


@struct.dataclass
class TrainState:
    """Everything that a training step reads and writes."""

    step: Array  # int32[]
    params: Any
    ema: Any  # exponential moving average of params
    opt_state: Any
    tau: Array  # float32[K]: the score above which pixels join, from the last step's histograms
    data: DatasetState


@dataclasses.dataclass(frozen=True)
class MarkSettings:
    """How the person who marks images is simulated; the defaults are careful and complete."""

    coverage: tuple[float, float] = (0.15, 0.40)  # least and largest share of an object that its mark covers
    shift: float = 0.0  # 0 = anywhere in the object, 1 = in the segment at one side of it that the mark just fills
    spill: float = 0.0  # share of a mark's area that lies over the edge of its object
    missing: float = 0.0  # chance of an object to have no mark, in the images where marks are missing
    missing_images: float = 1.0  # chance of an image to be one where marks are missing
    complete: bool = True  # images whose objects are all marked are said to be so; False = nothing is said of any


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    width: int  # channels at full resolution; doubled at each level
    depth: int  # number of resolutions
    own_levels: int  # decoder levels, from the finest down, that each task has for itself
    dtype: str  # of activations; parameters stay float32
    mean: tuple[float, ...] = (0.0,)  # of each channel over the training images; the network sees (image - mean) / std
    std: tuple[float, ...] = (1.0,)


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    crop: int  # side of the square crops, pixels
    foreground: float  # share of crops centred on a labelled pixel
    rotation: float  # largest angle, degrees
    scale: float  # largest factor, both ways
    aspect: float  # largest factor between the axes, both ways
    flip: bool
    elastic: float  # standard deviation of the displacement, pixels
    elastic_grid: int  # spacing of its control points, pixels
    brightness: tuple[float, ...]  # largest shift of each channel, in units of the normalised image
    contrast: float  # largest factor, both ways
    noise: tuple[float, ...]  # largest standard deviation in each channel, in the same units
    blur: float  # largest standard deviation, pixels


@dataclasses.dataclass(frozen=True)
class LossSettings:
    approximation: float
    auxiliary: tuple[float, ...]  # of each of the S channels
    weak: float  # of a pixel of a weak image in the segmentation loss, an outlined one being 1; 0 in the paper


@dataclasses.dataclass(frozen=True)
class EvolutionSettings:
    images_per_step: int  # m: per logical shard
    start: float  # share of the training at which the coverage leaves rho
    end: float  # share of the training at which it reaches `coverage`
    coverage: float  # kappa at the end: 1 = the masks hold as much area as the objects
    prior_objects: float  # how many outlined objects the segmentation's estimate of rho is worth
    alpha: float  # weight of q against p in the score
    size_prior: float  # how strongly an object is held to the area that its mark foretells; 0 = not at all
    tau_min: float  # no pixel joins below this score, or a tenth of it where an object lags behind its mark
    tau_auxiliary: float  # nor above this probability in a channel of `closing`, nor at first in one of `seams`
    reach: int  # 4-neighbour steps a region may grow in one update
    monotone: bool  # A_t stays inside A_{t+1}
    stop_growth: float  # relative change of area below which an instance rests
    max_area_factor: float  # of the largest strong object of the class, or of what the mark foretells if that is more
    leak_factor: float  # largest area after one update, relative to a disc that grew by `reach` on all sides
    closing: tuple[int, ...]  # auxiliary channels that say where no mask grows
    seams: tuple[int, ...]  # those that see borders of objects: masks grow up to them, and then share them


@dataclasses.dataclass(frozen=True)
class InstanceSettings:
    threshold: float  # probability above which a pixel is object
    marker_sigma: float  # smoothing of the approximation before its maxima become markers, pixels
    marker_depth: float  # height by which a maximum must stand out to be a marker of its own
    min_area: int  # smaller objects are dropped, pixels
    dividing: tuple[int, ...]  # auxiliary channels that say where objects are divided
    beginning: tuple[int, ...]  # auxiliary channels that say where objects begin; () = the approximation says it
