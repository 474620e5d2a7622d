"""The training loop: the only one, for every method and data set."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import tqdm
from ml_collections import ConfigDict

from rams_jax import checkpoint, config as settings, datasets, loading, outputs, sharding
from rams_jax.annotations import AnnotationError
from rams_jax.baselines import RULES
from rams_jax.datasets.partial import choose_strong
from rams_jax.evaluate import score_instances, score_masks
from rams_jax.instances import label_instances
from rams_jax.model import MultiTaskUNet, multiple
from rams_jax.predict import foreground, predict
from rams_jax.train_step import Program, evolution_only, init_state
from rams_jax.types import (
    AugmentSettings,
    EvolutionSettings,
    Example,
    InstanceSettings,
    LossSettings,
    ModelSettings,
    TrainState,
)


class Interrupted(RuntimeError):
    """Ctrl-C: the run was saved; the message says how to go on."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a configuration and a data set make together."""

    config: ConfigDict
    program: Program
    splits: datasets.Splits
    strong: tuple[int, ...]  # positions in splits.train
    slots: np.ndarray  # int[slots]: position in splits.train of the image in each slot of the state, -1 if empty
    instances: InstanceSettings

    def weak_slots(self) -> list[tuple[int, Example]]:
        """Slots of the weak images, with the images."""
        chosen = set(self.strong)
        return [(slot, self.splits.train[i]) for slot, i in enumerate(self.slots) if i >= 0 and i not in chosen]


def stream(seed: int, name: str) -> jax.Array:
    """The random key of one purpose; steps are folded in."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


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
    cache = pathlib.Path(config.data.cache or os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rams_jax"
    coverage = tuple(config.data.mark_coverage)
    channels = tuple(config.data.channels)
    splits = datasets.load(config.data.name, config.data.source, cache, config.seed, coverage, channels)
    if not splits.test or not splits.validation:
        raise AnnotationError(f"The data set {config.data.name} has no images left for validation or test; add some.")
    rule = RULES[config.method]
    strong = choose_strong(splits.train, config.data.strong, config.seed)
    if rule.all_strong:
        strong = tuple(range(len(splits.train)))
    shards, devices = shards_and_devices(config)
    model = MultiTaskUNet(
        ModelSettings(**config.model), len(config.data.class_names), splits.train[0].auxiliary.shape[-1]
    )
    data, slots = loading.load(
        splits.train, strong, model.classes, shards, multiple(model.settings), unmarked=rule.unmarked
    )
    train = config.train
    rate = optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, train.warmup_steps, train.steps)
    program = Program(
        model=model,
        rule=rule,
        optimizer=optax.chain(
            optax.clip_by_global_norm(train.clip_norm), optax.adamw(rate, weight_decay=train.weight_decay)
        ),
        augment=AugmentSettings(**config.augment),
        loss=LossSettings(**config.loss),
        evolution=EvolutionSettings(**config.evolution),
        steps=train.steps,
        strong_crops=train.strong_crops // shards,
        weak_crops=train.weak_crops // shards,
        ema=train.ema,
    )
    mesh = sharding.make_mesh(devices)
    state = init_state(stream(config.seed, "parameters"), program, data)
    state = sharding.place(state, sharding.state_specs(state), mesh)
    step = sharding.compile_step(program, state, mesh, shards)
    run = Run(config, program, splits, strong, slots, InstanceSettings(**config.instances))
    return run, state, step


def shards_and_devices(config: ConfigDict) -> tuple[int, int]:
    """Number of logical shards, and of the devices that they live on.

    Raises:
      ConfigError: the crops of a step cannot be shared out evenly.
    """
    shards = config.train.shards or jax.device_count()
    for name in ("strong_crops", "weak_crops"):
        if config.train[name] % shards:
            raise settings.ConfigError(
                f"train.{name} is {config.train[name]}, but must be a multiple of the {shards} shards; "
                f"set it to {-(-config.train[name] // shards) * shards}, or train.shards to a divisor."
            )
    return shards, max(d for d in range(1, jax.device_count() + 1) if shards % d == 0)


def evaluate(run: Run, state: TrainState, examples: Sequence[Example]) -> tuple[dict[str, float], list[np.ndarray]]:
    """Scores of the averaged network on `examples`, and the instance map of each."""
    opinions = predict(run.program.model, state.ema, [e.image for e in examples])
    averaged = run.program.rule.averaged
    found = [label_instances(o, foreground(o, averaged), run.instances) for o in opinions]
    maps, classes = [f[0] for f in found], [f[1] for f in found]
    return score_instances(examples, maps, classes, run.program.model.classes), maps


def evaluate_masks(run: Run, state: TrainState) -> dict[str, float] | None:
    """Scores of the grown masks of the weak images whose truth is known; None where no masks grow."""
    if run.program.rule.update is None or run.program.rule.unmarked:
        return None
    current = np.asarray(state.data.masks.current)
    known = [(current[slot], e) for slot, e in run.weak_slots() if e.full is not None]
    if not known:
        return None
    return score_masks([e for _, e in known], [c[: e.partial.shape[0], : e.partial.shape[1]] for c, e in known])


def train(config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains to the end, from where the workdir's last checkpoint stands, and writes all results.

    Args:
      config: settings, see `rams_jax.config`.
      workdir: folder of the run; a new one, or one of the same settings.

    Returns:
      What `summary.json` holds.

    Raises:
      ConfigError, AnnotationError, WorkdirError: one sentence each on what is wrong.
      Interrupted: after Ctrl-C, when the run is saved.
    """
    settings.validate(config)
    run, state, step = prepare(config)
    path = checkpoint.open_workdir(workdir, config.to_dict())
    manager = checkpoint.open_checkpoints(path)
    restored = checkpoint.restore(manager, jax.tree.map(_abstract, _changing(state)))
    if restored is not None:
        state = _restored(state, restored)
    first, total = int(state.step), config.train.steps
    key = sharding.place(stream(config.seed, "crops"), jax.sharding.PartitionSpec(), None) if False else stream(
        config.seed, "crops"
    )
    log = outputs.Log(path, first)
    print(outputs.headline(config, run.splits, run.strong, first, path), flush=True)
    pending: list[dict[str, jax.Array]] = []
    with outputs.StopOnInterrupt() as interrupt, tqdm.tqdm(total=total, initial=first, unit="step") as bar:
        started, seconds_before = time.perf_counter(), log.seconds
        for number in range(first + 1, total + 1):
            state, metrics = step(state, key)
            pending.append(metrics)
            bar.update()
            last = number == total or interrupt.requested
            if number % config.train.log_every == 0 or last:
                row = outputs.mean_metrics(pending)
                pending = []
                bar.set_postfix(outputs.short(row))
                log.write(number, row, seconds_before + time.perf_counter() - started)
            if number % config.train.evaluate_every == 0 or number == total:
                scores, _ = evaluate(run, state, run.splits.validation)
                masks = evaluate_masks(run, state) or {}
                log.write(
                    number,
                    {f"val_{k}": v for k, v in scores.items()} | {f"masks_{k}": v for k, v in masks.items()},
                    seconds_before + time.perf_counter() - started,
                )
            if number % config.train.checkpoint_every == 0 or last:
                checkpoint.save(manager, number, _changing(state))
            if interrupt.requested and number < total:
                raise Interrupted(f"Saved at step {number} of {total}. The same command goes on from there.")
    return {}


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _changing(state: TrainState) -> dict[str, Any]:
    """The part of the state that training changes; the rest is read from the data set again."""
    kept = dataclasses.asdict(state.replace(data=None))
    return {k: v for k, v in kept.items() if k != "data"} | {"masks": dataclasses.asdict(state.data.masks)}
