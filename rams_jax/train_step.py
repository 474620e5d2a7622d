"""One training step: sample crops, update the parameters, let the next images' masks evolve.

`train_step` sees the part of the state that lives on one device, as blocks of logical shards. Devices exchange one sum
per step: gradients, metrics and the tallies that set the coverage threshold.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rams_jax import augment, evolution, losses
from rams_jax.baselines import Rule
from rams_jax.model import MultiTaskUNet, forward, predictions
from rams_jax.types import (
    UNKNOWN,
    YES,
    Annotation,
    AugmentSettings,
    Batch,
    DatasetState,
    EvolutionSettings,
    Level,
    LossSettings,
    MaskState,
    Predictions,
    TrainState,
    Update,
    View,
)

Array = jax.Array
Metrics = dict[str, Array]
Logits = tuple[Array, Array, Array]  # of the three tasks


@dataclasses.dataclass(frozen=True)
class Program:
    """All that is fixed while training: the network, the label rule and their constants."""

    model: MultiTaskUNet
    rule: Rule
    optimizer: optax.GradientTransformation
    augment: AugmentSettings
    loss: LossSettings
    evolution: EvolutionSettings
    steps: int  # of the whole training
    strong_crops: int  # per logical shard
    weak_crops: int
    ema: float  # decay of the parameter average


def init_state(key: Array, program: Program, data: DatasetState) -> TrainState:
    """Fresh parameters beside the dataset state."""
    side = program.augment.crop
    image = jnp.zeros((1, side, side, data.image.shape[-1]))
    params = program.model.init(key, image, jnp.ones((1, side, side), bool))
    return TrainState(
        step=jnp.int32(0),
        params=params,
        ema=jax.tree.map(jnp.copy, params),  # a buffer of its own: the state is donated
        opt_state=program.optimizer.init(params),
        tau=jnp.full(program.model.classes, evolution.CLOSED),
        data=data,
    )


def _sample(key: Array, data: DatasetState, slots: tuple[Array, Array, Array], program: Program) -> Batch:
    strong_slots, weak_slots, weak_count = slots
    strong_key, weak_key = jax.random.split(key)
    strong_count = jnp.int32(strong_slots.shape[0])
    if not program.rule.weak_images or weak_slots.shape[0] == 0:
        crops = program.strong_crops + program.weak_crops
        return augment.sample(strong_key, data, strong_slots, strong_count, crops, program.augment)
    strong = augment.sample(strong_key, data, strong_slots, strong_count, program.strong_crops, program.augment)
    weak = augment.sample(weak_key, data, weak_slots, weak_count, program.weak_crops, program.augment)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), strong, weak)


def batch_loss(logits: Logits, batch: Batch, progress: Array, chance: Array, program: Program) -> tuple[Array, Metrics]:
    """Loss of one logical shard's crops: the weighted sum of the losses of all tasks.

    Args:
      logits: of the crops, from `forward`.
      batch: B crops.
      progress, chance: as in `View`.
      program: what to do.

    Returns:
      float32[] and its parts by name, the sum itself among them.
    """
    view = View(progress, chance, jax.lax.stop_gradient(predictions(logits)))
    targets = program.rule.targets(batch, program.model.classes, program.loss, view)
    segmentation, approximation, auxiliary = logits
    weight = targets.segmentation_weight
    parts = {
        "loss_segmentation": losses.cross_entropy(segmentation, targets.segmentation, weight)
        + losses.soft_dice(segmentation, targets.segmentation, weight),
        "loss_approximation": program.loss.approximation
        * losses.binary_cross_entropy(approximation, targets.approximation, targets.approximation_weight),
    }
    if program.model.auxiliary:
        known = (batch.auxiliary != UNKNOWN) & batch.valid[..., None]
        yes = (batch.auxiliary == YES).astype(jnp.float32)
        parts["loss_auxiliary"] = jnp.float32(0)
        for i, weight in enumerate(program.loss.auxiliary):
            channel = (yes[..., i : i + 1], known[..., i : i + 1].astype(jnp.float32))
            # What it looks for is rare: the cross-entropy alone would say NO everywhere for long.
            parts["loss_auxiliary"] += weight * (
                losses.binary_cross_entropy(auxiliary[..., i : i + 1], *channel)
                + losses.binary_soft_dice(auxiliary[..., i : i + 1], *channel)
            )
    loss = sum(parts.values(), jnp.float32(0))
    return loss, parts | {"loss": loss}


def _evolve(state: TrainState, level: Level, blocks: DatasetState, program: Program) -> DatasetState:
    """The next images of every block take their turn; `blocks` has leading axes [blocks, images]."""
    assert program.rule.update is not None
    shards, images = blocks.image.shape[:2]
    turns = min(program.evolution.images_per_step, images)
    index = (state.step * turns + jnp.arange(turns)) % images

    def take(x: Array) -> Array:
        return x[:, index].reshape(shards * turns, *x.shape[2:])

    masks = blocks.masks
    note = Annotation(
        inside=take(blocks.inside),
        full=take(blocks.full).astype(jnp.int32),
        partial=take(blocks.partial).astype(jnp.int32),
        current=jnp.maximum(take(masks.current).astype(jnp.int32), 0),
        classes=take(blocks.classes),
        strong=take(blocks.strong),
        complete=take(blocks.complete),
        average=jax.tree.map(take, masks.average),
    )
    opinion = predictions(forward(program.model, state.ema, take(blocks.image), note.inside))
    change = program.rule.update

    def rule(opinion: Predictions, note: Annotation) -> Update:
        return change(opinion, note, level, program.evolution)

    # One image after the other is kinder to a processor's caches, and none waits for the slowest of them.
    update = jax.lax.platform_dependent(
        opinion,
        note,
        cpu=lambda *images: jax.lax.map(lambda image: rule(*image), images),
        default=jax.vmap(rule),
    )
    # The segmentation learns the masks: once they are full-grown it would say what it has learnt of them.
    before = take(masks.tally)[..., -3]
    asked = (level.progress < program.evolution.end) | (before == 0)
    tally = update.tally.at[..., -3].set(jnp.where(asked, update.tally[..., -3], before))
    count = take(masks.updates) + 1
    joined = (update.current > 0) & (update.current != note.partial)
    stayed = joined & (update.current == note.current)
    age = jnp.where(joined, jnp.where(stayed, take(masks.age), count[:, None, None].astype(jnp.int16)), 0)

    def put(x: Array, new: Array) -> Array:
        return x.at[:, index].set(new.reshape(shards, turns, *new.shape[1:]).astype(x.dtype))

    masks = MaskState(
        current=put(masks.current, update.current),
        age=put(masks.age, age),
        held=put(masks.held, update.held),
        tally=put(masks.tally, tally),
        updates=put(masks.updates, count),
        average=jax.tree.map(put, masks.average, update.average),
    )
    return dataclasses.replace(blocks, masks=masks)


def by_shard(x: Any, shards: int) -> Any:
    """An array of images, [N, ...], of jax or of NumPy, with leading axes [shards, N / shards]."""
    return x.reshape(shards, x.shape[0] // shards, *x.shape[1:])


def _blocks(data: DatasetState) -> DatasetState:
    """The arrays of the images with leading axes [blocks, images]; the other fields are left out."""
    shards = data.strong_slots.shape[0]
    blocks = jax.tree.map(lambda x: by_shard(x, shards), data.of_images())
    return DatasetState(**dict.fromkeys(field.name for field in dataclasses.fields(data)) | blocks)


def known_tally(data: DatasetState) -> Array:
    """float32[K, bins + 3]: summed over all images of `data`, those that stay on the host too."""
    return data.masks.tally.sum(0) + data.elsewhere.sum(0)


def evolution_turn(state: TrainState, tally: Array | None = None, *, program: Program) -> tuple[TrainState, Level]:
    """The part of a step that lets masks evolve.

    Args:
      state: as in `train_step`.
      tally: float32[K, bins + 3], summed over all images; None: over those of `state`.
      program: with a rule that has an update.

    Returns:
      The state with new masks and threshold, and the level that they were made with.
    """
    data = state.data
    tally = known_tally(data) if tally is None else tally
    progress = state.step / program.steps
    rho = evolution.estimated_rho(tally, data.rho, data.outlined, program.evolution.prior_objects)
    kappa = evolution.schedule(progress, rho, program.evolution)
    tau = evolution.coverage_threshold(tally, kappa, rho, program.evolution.tau_min)
    # As far above the objects' area as the masks are below it.
    beyond = evolution.coverage_threshold(tally, 2.0 - kappa, rho, 0.0)
    level = Level(progress=progress, rho=rho, kappa=kappa, tau=tau, beyond=beyond, largest=data.largest)
    blocks = _evolve(state, level, _blocks(data), program)
    masks = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), blocks.masks)
    return dataclasses.replace(state, tau=tau, data=dataclasses.replace(data, masks=masks)), level


def step_crops(data: DatasetState, step: Array, key: Array, shard_ids: Array, program: Program) -> tuple[Batch, Array]:
    """What the logical shards of `data` see in a step.

    Args:
      data: whole blocks of logical shards.
      step: int32[].
      key: random key of the training; the step and the shard are folded in.
      shard_ids: int32[blocks], which logical shards these are.
      program: what to do.

    Returns:
      Batch with leading axes [blocks, crops], and float32[blocks], the random number of `View`.
    """
    slots = (data.strong_slots, data.weak_slots, data.weak_count)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, step), shard_ids)
    batches = jax.vmap(_sample, in_axes=(0, 0, 0, None))(keys, _blocks(data), slots, program)
    # `_sample` takes the first two.
    return batches, jax.vmap(lambda key: jax.random.uniform(jax.random.split(key, 3)[2]))(keys)


def train_step(
    state: TrainState, key: Array, shard_ids: Array, program: Program, axis: str
) -> tuple[TrainState, Metrics]:
    """One step of one device, inside `shard_map` over `axis`.

    Args:
      state: the device's images (whole blocks of logical shards) and the replicated rest.
      key: random key of the training; the step and the shard are folded in.
      shard_ids: int32[blocks], which logical shards live here.
      program: what to do.
      axis: name of the mesh axis.

    Returns:
      The next state, and float32[] metrics averaged over the shards.
    """
    batches, chances = step_crops(state.data, state.step, key, shard_ids, program)
    progress = state.step / program.steps

    def mean_loss(params) -> tuple[Array, Metrics]:
        shards, crops = batches.slot.shape
        # One batch for the network: by shards, the gradient of a kernel would be a convolution of many groups.
        images, inside = (x.reshape(shards * crops, *x.shape[2:]) for x in (batches.image, batches.inside))
        logits = jax.tree.map(lambda x: by_shard(x, shards), forward(program.model, params, images, inside))
        values, parts = jax.vmap(batch_loss, in_axes=(0, 0, None, 0, None))(logits, batches, progress, chances, program)
        return values.mean(), jax.tree.map(jnp.mean, parts)

    gradients, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
    masks = state.data.masks
    tally = known_tally(state.data)
    held = masks.held.sum(dtype=jnp.float32)
    devices = jax.lax.axis_size(axis)
    # The step's only exchange between devices.
    means = jax.tree.map(lambda x: x / devices, (gradients, metrics))
    (gradients, metrics), tally, held = jax.lax.psum((means, tally, held), axis)
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves((gradients, metrics["loss"]))]).all()
    metrics["not_finite"] = 1.0 - finite
    updates, opt_state = program.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The average of the first steps forgets the initial parameters faster.
    decay = jnp.minimum(program.ema, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.ema, params)
    before, after = (state.params, state.opt_state, state.ema), (params, opt_state, ema)
    params, opt_state, ema = jax.tree.map(lambda a, b: jnp.where(finite, b, a), before, after)
    state = dataclasses.replace(state, params=params, opt_state=opt_state, ema=ema)

    if program.rule.update is not None:
        state, level = evolution_turn(state, tally, program=program)
        marks = jnp.maximum(tally[:, -2].sum(), 1.0)
        metrics |= {
            "coverage": level.kappa.mean(),
            "tau": level.tau.mean(),
            "area": tally[:, -1].sum() / marks,
            "goal": (tally[:, -2] * level.kappa / level.rho).sum() / marks,
            "held": held,
        }
    return dataclasses.replace(state, step=state.step + 1), metrics
