"""The training loop: the only one, for every method and data set."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from clu import parameter_overview
from ml_collections import ConfigDict

from rams_jax import checkpoint, outputs
from rams_jax import config as settings
from rams_jax.evaluate import score_instances, score_masks
from rams_jax.experiment import Run, prepare, stream
from rams_jax.instances import label_instances
from rams_jax.predict import foreground, predict
from rams_jax.train_step import Metrics, evolution_turn
from rams_jax.types import Example, TrainState


class Interrupted(RuntimeError):
    """Ctrl-C: the run was saved; the message says how to go on."""


def share_of_evolution(run: Run, state: TrainState, seconds_per_step: float) -> float:
    """Time of the masks' turn, run by itself on one shard's images, relative to a whole step; 0 where none evolve."""
    if run.program.rule.update is None:
        return 0.0
    turn = jax.jit(functools.partial(evolution_turn, program=run.program))
    jax.block_until_ready(turn(state))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(turn(state))
        times.append(time.perf_counter() - start)
    return min(times) / seconds_per_step


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
    state = _restore(manager, state)
    first, total, train = int(state.step), config.train.steps, config.train
    key = stream(config.seed, "crops")
    log = outputs.Log(path, first)
    print(_headline(run, first, parameter_overview.count_parameters(state.params)), flush=True)
    pending: list[Metrics] = []
    busy, timed = 0.0, 0  # seconds in steps after the first, which compiles
    began = time.perf_counter() - log.seconds
    with outputs.StopOnInterrupt() as interrupt, _progress(first, total) as bar:
        for number in range(first + 1, total + 1):
            start = time.perf_counter()
            state, metrics = step(state, key)
            pending.append(jax.block_until_ready(metrics))
            if number > first + 1:
                busy, timed = busy + time.perf_counter() - start, timed + 1
            bar.update()
            stop = interrupt.requested and number < total
            if number % train.log_every == 0 or number == total:
                row = outputs.mean_metrics(pending)
                pending = []
                bar.set_postfix(outputs.short(row), refresh=False)
                log.write(number, row, time.perf_counter() - began)
            if number % train.evaluate_every == 0 or number == total:
                scores = {f"val_{k}": v for k, v in evaluate(run, state, run.splits.validation)[0].items()}
                masks = {f"masks_{k}": v for k, v in (evaluate_masks(run, state) or {}).items()}
                log.write(number, scores | masks, time.perf_counter() - began)
            if number % train.checkpoint_every == 0 or number == total or stop:
                checkpoint.save(manager, number, _changing(state))
            if stop:
                raise Interrupted(
                    f"Stopped and saved at step {number} of {total}; the same command goes on from there."
                )
    rate = timed / busy if timed else None
    return _finish(run, state, path, log, rate, time.perf_counter() - began)


def _finish(
    run: Run, state: TrainState, path: pathlib.Path, log: outputs.Log, rate: float | None, seconds: float
) -> dict[str, Any]:
    """Scores the test images, writes everything, returns the summary."""
    config, splits = run.config, run.splits
    pictures: dict[str, bytes] = {}
    scores, maps = evaluate(run, state, splits.test)
    masks = evaluate_masks(run, state)
    current, age = np.asarray(state.data.masks.current), np.asarray(state.data.masks.age)
    grown = []
    for slot, example in run.weak_slots():
        h, w = example.partial.shape
        grown.append((example, current[slot, :h, :w], age[slot, :h, :w]))
    if masks is not None:
        outputs.write_maps(path / "evolved", {f"{e.name}_masks": (c, e.pixel_size) for e, c, _ in grown})
        outputs.write_maps(path / "evolved", {f"{e.name}_age": (a, e.pixel_size) for e, _, a in grown})
        pictures |= outputs.growth_figures(grown)
    outputs.write_maps(
        path / "predictions", {e.name: (m, e.pixel_size) for e, m in zip(splits.test, maps, strict=True)}
    )
    pictures |= outputs.prediction_figures(splits.test, maps)
    summary = {
        "method": config.method,
        "data": config.data.name,
        "seed": config.seed,
        "strong": len(run.strong),
        "weak": len(splits.train) - len(run.strong) if run.program.rule.weak_images else 0,
        "steps": config.train.steps,
        "test": scores,
        "masks": masks,
        "seconds": round(seconds, 1),
        "steps_per_second": round(rate, 3) if rate else None,
        "evolution_share": round(share_of_evolution(run, state, 1 / rate), 3) if rate else None,
        "warnings": _warnings(run, state, log.rows),
        **outputs.environment(),
    }
    outputs.finish(path, config.to_dict(), summary, log.rows, pictures)
    print(f"Report: {path / 'report.html'}")
    return summary


def _progress(first: int, total: int) -> tqdm.tqdm:
    """A bar with rate and time left; where nobody watches, a line now and then."""
    return tqdm.tqdm(total=total, initial=first, unit="step", mininterval=0.5 if sys.stderr.isatty() else 15.0)


def _headline(run: Run, first: int, parameters: int) -> str:
    """What is about to be trained, in two lines."""
    splits, config = run.splits, run.config
    weak = len(splits.train) - len(run.strong)
    outlined = ", ".join(splits.train[i].name for i in run.strong[:3]) + (", ..." if len(run.strong) > 3 else "")
    return (
        f"{config.data.name}: {len(run.strong)} outlined ({outlined}) and {weak} marked training images, "
        f"{len(splits.validation)} for validation, {len(splits.test)} for the test.\n"
        f"{config.method}, {parameters:,} parameters, on {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"from step {first} to {config.train.steps}; the first step compiles."
    )


def _warnings(run: Run, state: TrainState, rows: list[dict[str, Any]]) -> list[str]:
    """Sentences on masks that did not do what the schedule asked of them."""
    areas = [row for row in rows if "area" in row]
    if not areas or run.program.rule.unmarked:
        return []
    found = []
    share = areas[-1]["area"] / areas[-1]["goal"]
    if share < 0.85:
        found.append(f"The masks stalled: they hold {share:.0%} of the area that the schedule asked for.")
    if share > 1.15:
        found.append(f"The masks overshot: they hold {share:.0%} of the area that the schedule asked for.")
    held = [(e.name, int(h)) for s, e in run.weak_slots() if (h := np.asarray(state.data.masks.held[s]).sum())]
    if held:
        names = ", ".join(f"{name} ({count})" for name, count in held[:5]) + (", ..." if len(held) > 5 else "")
        found.append(f"A brake held {sum(h for _, h in held)} objects that were about to leak: {names}.")
    return found


def _changing(state: TrainState) -> dict[str, Any]:
    """The part of the state that training changes; the rest is read from the data set again."""
    fields = ("step", "params", "ema", "opt_state", "tau")
    return {name: getattr(state, name) for name in fields} | {"masks": state.data.masks}


def _restore(manager: Any, state: TrainState) -> TrainState:
    """The state of the last checkpoint, if there is one."""

    def abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    tree = checkpoint.restore(manager, jax.tree.map(abstract, _changing(state)))
    if tree is None:
        return state
    masks = tree.pop("masks")
    return dataclasses.replace(state, **tree, data=dataclasses.replace(state.data, masks=masks))
