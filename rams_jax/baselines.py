"""Label rules: what each method lets the network learn from the same images, crops and augmentation.

A rule says what the tasks learn from a batch and how the masks of an image change when it takes its turn. `RAMS` is the
method; the others are what it is compared with. All train the same three heads, so that markers of instances come from
the approximation head for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rams_jax import evolution
from rams_jax.types import (
    BINS,
    Annotation,
    Batch,
    EvolutionSettings,
    Level,
    LossSettings,
    Predictions,
    Targets,
    Update,
    View,
)

Array = jax.Array
CONFIDENT = 0.9  # probability from which the averaged network's opinion becomes a pseudo-label
# Of Scribble2Label: the same of a running mean, the weight of what is new in it, and of the labels in the loss. The
# first two are those of `rams` too.
FILTERED, NEW, UNDRAWN = 0.8, 0.2, 0.5
RAMP = 0.4  # of DMSPS: share of the training over which the weight of mixed labels rises
SECOND_STAGE, LAST_STAGE = 1 / 3, 2 / 3  # of the three stages: shares of the training at which they begin
SEED, BACKGROUND = 0.85, 0.99  # of DSRG: probability from which regions grow, and from which a pixel is background


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a method does with full and partial masks."""

    targets: Callable[[Batch, int, LossSettings, View], Targets]
    update: Callable[[Predictions, Annotation, Level, EvolutionSettings], Update] | None = None
    all_strong: bool = False  # every training image is given with its full mask
    weak_images: bool = True  # the images without a full mask are trained on
    unmarked: int = 0  # what is known of unmarked pixels of weak images at first: 0 = background, -1 = nothing
    memory: bool = False  # `update` keeps a running mean of p in `Update.average`
    grows: bool = False  # masks grow object by object; at the end the mean of p and q is the segmentation, not p alone


def _approximation(classes: Array, batch: Batch, count: int) -> tuple[Array, Array]:
    """Labels and weights of the approximation task for int[B, h, w] class maps of masks."""
    labels = jax.nn.one_hot(classes - 1, count)
    weight = batch.valid & (batch.complete[:, None, None] | (classes > 0))
    return labels, jnp.broadcast_to(weight[..., None], labels.shape).astype(jnp.float32)


def _targets(batch: Batch, count: int, segmentation: Array, known: Array, masks: Array) -> Targets:
    approximation, weight = _approximation(masks, batch, count)
    return Targets(
        segmentation=jax.nn.one_hot(segmentation, count + 1),
        segmentation_weight=(batch.valid & known).astype(jnp.float32),
        approximation=approximation,
        approximation_weight=weight,
    )


def outlines(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """p learns Y on strong images, q learns the masks on all (Ke et al., arXiv 1906.12177)."""
    return _targets(batch, count, batch.full, batch.strong[:, None, None], jnp.maximum(batch.current, 0))


def recursive(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """As `outlines`, of masks that change (Ke et al., arXiv 2005.13053); p learns from weak images as well (ours).

    There it learns the marks, of the grown masks what it takes for their class itself, by a half, and beside them what
    `grown_masks` is sure of, with the weight `settings.weak`. So masks that hold too much do not carry it along.
    """
    strong = batch.strong[:, None, None]
    learnt = jnp.where(batch.current < 0, -1 - batch.current, batch.current)
    masks = jnp.maximum(batch.current, 0)
    agreed = (jax.nn.one_hot(masks - 1, count) * view.predictions.segmentation).sum(-1) >= 0.5
    known = strong | (batch.partial > 0) | jnp.where(masks > 0, agreed, batch.current != -1)
    targets = _targets(batch, count, jnp.where(strong, batch.full, learnt), known, masks)
    weight = targets.segmentation_weight * jnp.where(strong, 1.0, settings.weak)
    return dataclasses.replace(targets, segmentation_weight=weight)


def naive(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """Partial masks are taken for full ones."""
    strong = batch.strong[:, None, None]
    labels = jnp.where(strong, batch.full, batch.partial)
    return _targets(batch, count, labels, jnp.ones_like(batch.valid), batch.partial)


def ignore(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """Unmarked pixels of weak images count for nothing: partial cross-entropy (Tang et al. 2018, arXiv 1804.01346).

    With the soft Dice over the pixels that count it is nnU-Net's loss for ignore labels (Gotkowski et al. 2024,
    arXiv 2403.12834).
    """
    strong = batch.strong[:, None, None]
    labels = jnp.where(strong, batch.full, batch.partial)
    return _targets(batch, count, labels, strong | (batch.partial > 0), batch.partial)


def pseudo(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """Weak images teach what `pseudo_labels` found; the rest of them counts for nothing (Lee 2013)."""
    strong = batch.strong[:, None, None]
    labels = jnp.where(strong, batch.full, jnp.maximum(batch.current, 0))
    known = strong | (batch.current >= 0)
    return _targets(batch, count, labels, known, batch.partial)


def scribble2label(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """As `pseudo`, with half the weight where a label was not drawn (Lee and Jeong 2020, arXiv 2006.12890)."""
    targets = pseudo(batch, count, settings, view)
    drawn = batch.strong[:, None, None] | (batch.partial > 0)
    weight = targets.segmentation_weight * jnp.where(drawn, 1.0, UNDRAWN)
    return dataclasses.replace(targets, segmentation_weight=weight)


def threestage(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """Three stages of one training (Ke et al. 2020, arXiv 2012.00827); `stage_masks` makes the masks.

    The segmentation learns Y and the marks, in the last stage also the masks of all weak images; the approximation
    task, which is the head of the second stage, learns Y and whatever masks there are. Changed: the stages are thirds
    of one training, with the averaged network for a teacher, and not networks of their own.
    """
    strong = batch.strong[:, None, None]
    masks = jnp.where(strong, batch.full, batch.current)
    found = masks >= 0
    known = strong | (batch.partial > 0) | (found & (view.progress >= LAST_STAGE))
    targets = _targets(batch, count, jnp.maximum(masks, 0), known, jnp.maximum(masks, 0))
    weight = jnp.broadcast_to((batch.valid & found)[..., None], targets.approximation.shape)
    return dataclasses.replace(targets, approximation_weight=weight.astype(jnp.float32))


def dmsps(batch: Batch, count: int, settings: LossSettings, view: View) -> Targets:
    """Where nobody drew, two decoders learn a random mix of what both say (DMSPS: Han et al. 2024, MedIA 97).

    Changed: the decoders are those of the segmentation and the approximation task; the weight of the mix rises over the
    share RAMP of the training, as there, but to that of a drawn pixel; the second round of training is left out.
    """
    p, q = (_with_background(x) for x in (view.predictions.segmentation, view.predictions.approximation))
    strong = batch.strong[:, None, None]
    drawn = strong | (batch.partial > 0)
    labels = jax.nn.one_hot(jnp.where(strong, batch.full, batch.partial), count + 1)
    labels = jnp.where(drawn[..., None], labels, view.chance * p + (1 - view.chance) * q)
    rising = jnp.exp(-5 * (1 - jnp.minimum(view.progress / RAMP, 1)) ** 2)
    weight = batch.valid * jnp.where(drawn, 1.0, rising)
    return Targets(
        segmentation=labels,
        segmentation_weight=weight,
        approximation=labels[..., 1:],
        approximation_weight=jnp.broadcast_to(weight[..., None], p[..., 1:].shape),
    )


def _with_background(probabilities: Array) -> Array:
    """float[..., K + 1] that sum to 1, from those of the classes alone, which may sum to more."""
    background = jnp.maximum(1 - probabilities.sum(-1, keepdims=True), 0)
    shares = jnp.concatenate([background, probabilities], axis=-1)
    return shares / shares.sum(-1, keepdims=True)


def grown_masks(predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings) -> Update:
    """`evolution.evolve`, and what the running mean of p is sure of in no mask, from `settings.start` on (ours).

    The mean is that of `filtered_labels`, but background, which is 0, needs CONFIDENT. A class is told apart from the
    masks, so that the approximation task learns the masks alone. Where the marks leave no room for it, it is background
    if all objects are marked, and nothing is known otherwise.
    """
    update = evolution.evolve(predictions, note, level, settings)
    assert update.near is not None
    mean = _running_mean(predictions, note, level, settings)
    # What is called background lightly makes objects small, and the masks with them.
    sure = _confident(mean, FILTERED, note, background=CONFIDENT)
    there = jnp.where(update.near, -1 - sure, jnp.where(note.complete, 0, -1))
    sure = jnp.where((level.progress >= settings.start) & note.inside, jnp.where(sure > 0, there, sure), -1)
    current = jnp.where((update.current > 0) | note.strong, update.current, sure)
    return dataclasses.replace(update, current=current, average=_remembered(mean))


def pseudo_labels(predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings) -> Update:
    """Confident pixels of the averaged network as labels, from the share `settings.start` of the training on.

    Marks stay as they were drawn. A confident object pixel outside the marks has a class but no instance. Arguments and
    result are those of `evolution.evolve`.
    """
    return _labelled(_confident(predictions.segmentation, CONFIDENT, note), predictions, note, level, settings)


def filtered_labels(predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings) -> Update:
    """As `pseudo_labels`, of a running mean over the image's turns (Lee and Jeong 2020, arXiv 2006.12890, eq. 1 and 2).

    Changed: the mean is over predictions of the averaged network, one each turn instead of every fifth epoch; before
    `settings.start` it is the latest of them. Objects have marks, the background has none.
    """
    mean = _running_mean(predictions, note, level, settings)
    update = _labelled(_confident(mean, FILTERED, note), predictions, note, level, settings)
    return dataclasses.replace(update, average=_remembered(mean))


def grown_seeds(predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings) -> Update:
    """Regions of confident pixels that hang together with a mark (DSRG: Huang et al., CVPR 2018, eq. 3 and 4).

    Changed: the averaged network decides; regions have instances, and meet as in `evolution.grow`; 4-neighbours instead
    of 8; the background, which has no marks, is where it is likely enough. As `pseudo_labels` otherwise.
    """
    alone = dataclasses.replace(settings, alpha=0.0, closing=(), seams=())  # p decides, and nothing else
    p = predictions.segmentation
    regions = evolution.flood(evolution.Field(predictions, note, alone), note.partial, jnp.full(p.shape[-1], SEED))
    labels = jnp.where(regions > 0, regions, jnp.where(1 - p.sum(-1) >= BACKGROUND, 0, -1))
    return _labelled(labels, predictions, note, level, settings)


def stage_masks(predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings) -> Update:
    """Masks of the segmentation in the second stage of `threestage`, of the approximation task in the third."""
    last = level.progress >= LAST_STAGE
    labels = _confident(jnp.where(last, predictions.approximation, predictions.segmentation), 0.5, note)
    return _labelled(jnp.where(level.progress >= SECOND_STAGE, labels, -1), predictions, note, level, settings)


def _running_mean(predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings) -> Array:
    """float32[H, W, K]: of p over the image's turns, the latest of them weighing NEW.

    Before `settings.start`, and at its first turn, it is the latest.
    """
    assert note.average is not None
    old, new = note.average / 255.0, predictions.segmentation
    return jnp.where((level.progress >= settings.start) & (old > 0).any(), old + NEW * (new - old), new)


def _remembered(mean: Array) -> Array:
    """The mean as `MaskState.average` keeps it."""
    return jnp.rint(255 * mean).astype(jnp.uint8)


def _confident(p: Array, least: float, note: Annotation, background: float | None = None) -> Array:
    """int32[H, W]: 0 or a nameless instance of a class where float[H, W, K] reaches `least`, -1 elsewhere.

    The background must reach `background`, or `least` unless that is given.
    """
    nameless = note.classes.shape[0] - p.shape[-1] + jnp.argmax(p, axis=-1)
    outside = 1 - p.sum(-1) >= (least if background is None else background)
    return jnp.where(p.max(-1) >= least, nameless, jnp.where(outside, 0, -1))


def _labelled(
    labels: Array, predictions: Predictions, note: Annotation, level: Level, settings: EvolutionSettings
) -> Update:
    """The update to these labels: with the marks, in the image, not before `settings.start`, not on strong images."""
    p, count = predictions.segmentation, level.tau.shape[0]
    labels = jnp.where((level.progress >= settings.start) & note.inside, labels, -1)
    labels = jnp.where((note.partial > 0) | note.strong, note.partial, labels)
    pixel_class = jnp.where(labels > 0, note.classes[jnp.maximum(labels, 0)], 0)
    mark_class = note.classes[note.partial]
    likely = jnp.where(
        mark_class > 0, mark_class, jnp.where((p.max(-1) >= 0.5) & note.inside, jnp.argmax(p, -1) + 1, 0)
    )
    areas = jnp.array([[jnp.sum(m == k + 1) for m in (likely, mark_class, pixel_class)] for k in range(count)])
    tally = jnp.concatenate([jnp.zeros((count, BINS)), areas], axis=1)
    held = jnp.zeros_like(note.classes, bool)
    return Update(current=labels, held=held, tally=jnp.where(note.strong, 0.0, tally))


RULES = {
    "rams": Rule(recursive, update=grown_masks, unmarked=-1, memory=True, grows=True),
    "full": Rule(outlines, all_strong=True),
    "strong": Rule(outlines, weak_images=False),
    "naive": Rule(naive),
    "ignore": Rule(ignore),
    "multitask": Rule(outlines),
    "pseudo": Rule(pseudo, update=pseudo_labels, unmarked=-1),
    "scribble2label": Rule(scribble2label, update=filtered_labels, unmarked=-1, memory=True),
    "seedgrow": Rule(pseudo, update=grown_seeds, unmarked=-1),
    "threestage": Rule(threestage, update=stage_masks, unmarked=-1),
    "dmsps": Rule(dmsps),
}
