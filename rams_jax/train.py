"""The training loop: the only one, for every method and data set."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from clu import parameter_overview
from ml_collections import ConfigDict

from rams_jax import checkpoint, faults, outputs, processes
from rams_jax import config as settings
from rams_jax.experiment import Run, prepare, shards_and_devices, stream
from rams_jax.finish import finish, validation_scores
from rams_jax.types import TrainState


class Interrupted(RuntimeError):
    """Ctrl-C or SIGTERM: the run was saved; the message says how to go on."""


def train(config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains to the end, from where the workdir's last checkpoint stands, and writes all results.

    Args:
      config: settings, see `rams_jax.config`.
      workdir: folder of the run; a new one, or one of the same settings.

    Returns:
      What `summary.json` holds; {} on processes but the first one.

    Raises:
      ConfigError, AnnotationError, WorkdirError: one sentence each on what is wrong.
      Interrupted: after Ctrl-C or SIGTERM, when the run is saved.
      NotFinite: the loss stays infinite or NaN.
    """
    settings.validate(config)
    run, state, step = prepare(config)
    kept = config.to_dict()
    kept["train"]["shards"] = shards_and_devices(config)[0]  # where each image lies, and so its mask in a checkpoint
    path = checkpoint.open_workdir(workdir, kept)
    manager = checkpoint.open_checkpoints(path)
    state = _restore(manager, run, state)
    first, total, train = int(state.step), config.train.steps, config.train
    # On every device now, so that no step has to bring it there.
    key = jax.jit(lambda key: key, out_shardings=state.step.sharding)(stream(config.seed, "crops"))
    log = outputs.Log(path, first, run.program.rule.grows)
    if processes.first():
        for sentence in run.splits.warnings:
            print(f"Warning: {sentence}")
        print(_headline(run, first, parameter_overview.count_parameters(state.params)), flush=True)
    pending: list[dict[str, np.ndarray]] = []
    failed: list[str] = []
    busy, timed = 0.0, 0  # seconds and steps after the first call, which compiles
    began = time.perf_counter() - log.seconds
    with outputs.StopOnInterrupt() as interrupt, _progress(first, total) as bar:
        for call, (done, number) in enumerate(_calls(first, total, run.stride)):
            start = time.perf_counter()
            state = run.window.turn(state, done)
            state, metrics = step(state, key, number - done)
            reports = outputs.of_steps(metrics)
            if call:
                busy, timed = busy + time.perf_counter() - start, timed + number - done
            for one, report in enumerate(reports, start=done + 1):
                failed = faults.check(failed, one, report, run, state, key, path)
            pending += reports
            bar.update(number - done)
            stop = processes.stops(interrupt.requested, call) and number < total
            if number % train.log_every == 0 or number == total:
                row = outputs.mean_metrics(pending)
                pending = []
                log.write(number, row, time.perf_counter() - began)
                bar.set_postfix(outputs.short(row, log.alarms), refresh=False)
            if number % train.evaluate_every == 0 or number == total:
                log.write(number, validation_scores(run, state), time.perf_counter() - began)
            if number % train.checkpoint_every == 0 or number == total or stop:
                checkpoint.save(manager, number, _changing(run, state))
            if stop:
                raise Interrupted(
                    f"Stopped and saved at step {number} of {total}; the same command goes on from there."
                )
    rate = timed / busy if timed else None
    summary = finish(run, state, path, log.rows, rate, time.perf_counter() - began)
    processes.meet("the end")
    return summary


def _calls(first: int, total: int, stride: int) -> Iterator[tuple[int, int]]:
    """Steps done before and after each call: all multiples of the stride between the first step and the last."""
    done = first
    while done < total:
        number = min(done + stride - done % stride, total)
        yield done, number
        done = number


def _progress(first: int, total: int) -> tqdm.tqdm:
    """A bar with rate and time left; where nobody watches, a line now and then."""
    often = 0.5 if sys.stderr.isatty() else 15.0
    return tqdm.tqdm(total=total, initial=first, unit="step", mininterval=often, disable=not processes.first())


def _headline(run: Run, first: int, parameters: int) -> str:
    """What is about to be trained, in two lines."""
    splits, config = run.splits, run.config
    weak = len(splits.train) - len(run.strong)
    outlined = ", ".join(splits.train.names[i] for i in run.strong[:3]) + (", ..." if len(run.strong) > 3 else "")
    return (
        f"{config.data.name}: {len(run.strong)} outlined ({outlined}) and {weak} marked training images, "
        f"{len(splits.validation)} for validation, {len(splits.test)} for the test.\n"
        f"{config.method}, {parameters:,} parameters, on {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"from step {first} to {config.train.steps}; the first step compiles.{_window(run)}"
    )


def _window(run: Run) -> str:
    """A line on what is on the devices, where that is not all."""
    if not run.window.moves:
        return ""
    return f"\n{len(run.shown())} of {len(run.slots)} images are on the devices at a time, the others wait on the host."


def _changing(run: Run, state: TrainState) -> dict[str, Any]:
    """The part of the state that training changes; the rest is read from the data set again."""
    fields = ("step", "params", "ema", "opt_state", "tau")
    return {name: getattr(state, name) for name in fields} | {"masks": run.window.saved(state)}


def _restore(manager: Any, run: Run, state: TrainState) -> TrainState:
    """The state of the last checkpoint, if there is one."""

    def abstract(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) if isinstance(x, jax.Array) else x

    tree = checkpoint.restore(manager, jax.tree.map(abstract, _changing(run, state)))
    if tree is None:
        return state
    masks = tree.pop("masks")
    return run.window.put(dataclasses.replace(state, **tree), masks)
