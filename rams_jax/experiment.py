"""What a configuration and a data set make together: the program, the first state, the compiled step."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rams_jax import config as settings
from rams_jax import datasets, loading, processes, sharding
from rams_jax.annotations import AnnotationError
from rams_jax.baselines import RULES
from rams_jax.datasets import auxiliary
from rams_jax.datasets.partial import choose_strong, choose_weak
from rams_jax.model import MultiTaskUNet, multiple
from rams_jax.train_step import Program, init_state
from rams_jax.types import (
    AugmentSettings,
    EvolutionSettings,
    Example,
    InstanceSettings,
    LossSettings,
    MarkSettings,
    ModelSettings,
    TrainState,
)
from rams_jax.window import Window

_LONGEST_CALL = 10  # steps; a signal to stop is heard after each call


@dataclasses.dataclass(frozen=True)
class Run:
    """What a configuration and a data set make together."""

    config: ConfigDict
    program: Program
    splits: datasets.Splits
    strong: tuple[int, ...]  # positions in splits.train
    slots: np.ndarray  # int[slots]: position in splits.train of the image in each slot, -1 if empty
    own: np.ndarray  # int[own slots]: those of this process
    window: Window  # which of these are on the devices
    instances: InstanceSettings
    stride: int  # steps of one call

    def weak(self) -> list[tuple[int, int]]:
        """Of each weak image of this process its place in `own`, and its position in splits.train."""
        chosen = set(self.strong)
        return [(at, i) for at, i in enumerate(self.slots[self.own].tolist()) if i >= 0 and i not in chosen]

    def shown(self) -> np.ndarray:
        """int[slots on the devices]: position in splits.train of the image in each now, -1 if empty."""
        return self.slots[self.window.rows()] if self.window.moves else self.slots

    def own_weak(self) -> list[tuple[int, Example]]:
        """The weak images of this process, each with its place in `own`."""
        return [(at, self.splits.train[i]) for at, i in self.weak()]


def stream(seed: int, name: str) -> jax.Array:
    """The random key of one purpose; steps are folded in."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def load(config: ConfigDict) -> datasets.Splits:
    """Reads the data set of a configuration.

    Args:
      config: validated settings.

    Raises:
      AnnotationError: it cannot be used.
    """
    cache = pathlib.Path(config.data.cache or os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rams_jax"
    data = config.data
    marks = MarkSettings(
        coverage=tuple(data.mark_coverage),
        **{name: data[f"mark_{name}"] for name in ("shift", "spill", "missing", "missing_images", "complete")},
    )
    chosen = (tuple(data.channels), tuple(data.auxiliary), tuple(data.class_names))
    return datasets.load(data.name, data.source, cache, config.seed, marks, *chosen)


def prepare(config: ConfigDict) -> tuple[Run, TrainState, Any]:
    """Reads the data and compiles nothing yet.

    Args:
      config: validated settings.

    Returns:
      The run, its first state on the devices, and the compiled step.

    Raises:
      AnnotationError: the data set cannot be used.
      ConfigError: the settings do not fit the data or the devices.
    """
    tasks = tuple(config.data.auxiliary)
    splits = processes.first_alone(lambda: load(config))  # it writes what it has prepared
    if not splits.test or not splits.validation:
        raise AnnotationError(f"The data set {config.data.name} has no images left for validation or test; add some.")
    rule = RULES[config.method]
    strong = choose_strong(splits.train.outlined_objects(), config.data.strong, config.seed)
    if rule.all_strong:
        strong = tuple(range(len(splits.train)))
    else:
        kept = sorted({*strong, *choose_weak(len(splits.train), strong, config.data.weak, config.seed)})
        splits = dataclasses.replace(splits, train=splits.train.kept(kept))
        strong = tuple(kept.index(i) for i in strong)
    side = 0 if rule.all_strong else config.data.outlined_side
    splits = dataclasses.replace(splits, train=datasets.reveal(splits.train, strong, tasks, side, config.seed))
    shards, devices = shards_and_devices(config)
    mesh = sharding.make_mesh(devices)
    own = sharding.own_blocks(mesh, shards)
    slots, _ = loading.slots_of(strong, len(splits.train), shards)
    known = processes.agreed(lambda: {i: splits.train[i] for i in loading.images_in(slots[own])}, AnnotationError)
    mean, std = loading.statistics(known)
    plan = program(config, mean, std, shards)
    multiple_of = multiple(plan.model.settings)
    data, slots = loading.load(
        splits.train, strong, plan.model.classes, shards, multiple_of, rule.unmarked, rule.memory, own
    )
    stride = steps_of_a_call(config, mesh)
    window = Window(data, mesh, config.train.window, plan.evolution.images_per_step, stride)
    state = init_state(stream(config.seed, "parameters"), plan, window.shown())
    state = sharding.place(state, sharding.state_specs(state), mesh)
    step = sharding.compile_step(plan, state, mesh, shards)
    instances = InstanceSettings(
        **config.instances,
        dividing=auxiliary.channels(tasks, "divides"),
        beginning=auxiliary.channels(tasks, "begins"),
    )
    run = Run(config, plan, splits, strong, slots, sharding.own_blocks(mesh, len(slots)), window, instances, stride)
    return run, state, step


def steps_of_a_call(config: ConfigDict, mesh: Mesh) -> int:
    """How many steps are one program: on a CPU one, for its loops are slow, else so many that the host can be idle.

    All that happens between steps happens at multiples of it.
    """
    if mesh.devices.flat[0].platform == "cpu":
        return 1
    common = math.gcd(config.train.log_every, config.train.evaluate_every, config.train.checkpoint_every)
    return max(n for n in range(1, _LONGEST_CALL + 1) if common % n == 0)


def program(config: ConfigDict, mean: tuple[float, ...], std: tuple[float, ...], shards: int) -> Program:
    """What to do in a step.

    Args:
      config: validated settings.
      mean, std: of each channel over the training images.
      shards: number of logical shards.
    """
    tasks = tuple(config.data.auxiliary)
    model = MultiTaskUNet(
        ModelSettings(**config.model, mean=mean, std=std), len(config.data.class_names), len(auxiliary.channels(tasks))
    )
    train = config.train
    rate = optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, train.warmup_steps, train.steps)
    return Program(
        model=model,
        rule=RULES[config.method],
        optimizer=optax.chain(
            optax.clip_by_global_norm(train.clip_norm), optax.adamw(rate, weight_decay=train.weight_decay)
        ),
        augment=AugmentSettings(
            **{**config.augment, **{k: tuple(config.augment[k] * s for s in std) for k in ("brightness", "noise")}}
        ),
        loss=LossSettings(
            **{**config.loss, "auxiliary": tuple(config.loss.auxiliary * w for w in auxiliary.weights(tasks))}
        ),
        evolution=EvolutionSettings(
            **{**config.evolution, "images_per_step": max(1, config.evolution.images_per_step // shards)},
            closing=auxiliary.channels(tasks, "closes"),
            seams=auxiliary.channels(tasks, "shares"),
        ),
        steps=train.steps,
        strong_crops=train.strong_crops // shards,
        weak_crops=train.weak_crops // shards,
        ema=train.ema,
    )


def shards_and_devices(config: ConfigDict) -> tuple[int, int]:
    """Number of logical shards, and of the devices that they live on.

    Unless `train.shards` says otherwise there is a shard a device, on as many devices as share a step's crops evenly;
    on a CPU at least two, so that a run is the same where its cores are one device and where they are two.

    Raises:
      ConfigError: the crops of a step cannot be shared out evenly over the shards asked for.
    """
    crops = (config.train.strong_crops, config.train.weak_crops)
    most = max(jax.device_count(), 2 if jax.default_backend() == "cpu" else 1)
    shards = config.train.shards or max(n for n in range(1, most + 1) if not any(count % n for count in crops))
    if any(count % shards for count in crops):
        raise settings.ConfigError(
            f"train.shards is {shards}, but must divide train.strong_crops and train.weak_crops, which are "
            f"{crops[0]} and {crops[1]}."
        )
    devices = max(n for n in range(1, jax.device_count() + 1) if shards % n == 0)
    if processes.several() and devices < jax.device_count():
        raise settings.ConfigError(
            f"The processes of this run have {jax.device_count()} devices, but {shards} shards lie on {devices}; let "
            "the number of devices divide train.shards, train.strong_crops and train.weak_crops."
        )
    return shards, devices
