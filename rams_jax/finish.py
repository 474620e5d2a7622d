"""The end of a run: scores, maps, pictures, the network, the report."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rams_jax import outputs, processes
from rams_jax.evaluate import score_instances, score_masks
from rams_jax.experiment import Run
from rams_jax.instances import label_instances
from rams_jax.network import save_network, trained
from rams_jax.predict import foreground, predict
from rams_jax.train_step import evolution_turn
from rams_jax.tuning import tune
from rams_jax.types import Example, Predictions, TrainState


def evaluate(
    run: Run, state: TrainState, examples: Sequence[Example]
) -> tuple[dict[str, float], list[np.ndarray], list[np.ndarray]]:
    """Scores of the averaged network on `examples`, the instance map of each, and the classes of its ids."""
    found = [label_instances(o, f, run.instances) for o, f in zip(*_opinions(run, state, examples), strict=True)]
    maps, classes = [f[0] for f in found], [f[1] for f in found]
    return score_instances(examples, maps, classes, run.program.model.classes), maps, classes


def _opinions(run: Run, state: TrainState, examples: Sequence[Example]) -> tuple[list[Predictions], list[np.ndarray]]:
    """What the averaged network says of each image, and the probability used as its segmentation."""
    opinions = predict(run.program.model, processes.whole(state.ema), [e.image for e in examples])
    return opinions, [foreground(o, run.program.rule.averaged) for o in opinions]


def validation_scores(run: Run, state: TrainState) -> dict[str, float]:
    """Scores on the validation images (`val_...`) and of the grown masks (`masks_...`); {} but on the first process."""
    current = processes.whole(state.data.masks.current)
    if not processes.first():
        return {}
    scores = {f"val_{k}": v for k, v in evaluate(run, state, run.splits.validation)[0].items()}
    return scores | {f"masks_{k}": v for k, v in (evaluate_masks(run, current) or {}).items()}


def evaluate_masks(run: Run, current: np.ndarray) -> dict[str, float] | None:
    """Scores of the grown masks of the weak images whose truth is known; None where no masks grow.

    Args:
      run: what is trained.
      current: int16[slots, H, W].
    """
    if not grows(run):
        return None
    known = [(current[slot], e) for slot, e in run.weak_slots() if e.full is not None]
    if not known:
        return None
    return score_masks([e for _, e in known], [c[: e.partial.shape[0], : e.partial.shape[1]] for c, e in known])


def finish(
    run: Run, state: TrainState, path: pathlib.Path, rows: list[dict[str, Any]], rate: float | None, seconds: float
) -> dict[str, Any]:
    """Scores the test images, writes everything, returns the summary; on processes but the first one {}.

    Args:
      run: what was trained.
      state: at its end.
      path: the workdir.
      rows: of metrics.jsonl.
      rate: steps a second, None if unknown.
      seconds: of the whole training.
    """
    config, splits = run.config, run.splits
    evolution_share = round(_share_of_evolution(run, state, 1 / rate), 3) if rate else None
    grown_masks = processes.whole(state.data.masks)
    if not processes.first():
        return {}
    pictures: dict[str, bytes] = {}
    if config.train.tune_instances:
        tuned = tune(splits.validation, *_opinions(run, state, splits.validation), run.instances)
        run = dataclasses.replace(run, instances=tuned)
    scores, maps, classes = evaluate(run, state, splits.test)
    current, age = grown_masks.current, grown_masks.age
    masks = evaluate_masks(run, current)
    grown = []
    for slot, example in run.weak_slots():
        h, w = example.partial.shape
        grown.append((example, current[slot, :h, :w], age[slot, :h, :w]))
    if grows(run):  # also where the truth is unknown
        outputs.write_maps(path / "evolved", {f"{e.name}_masks": (c, e.pixel_size) for e, c, _ in grown})
        outputs.write_maps(path / "evolved", {f"{e.name}_age": (a, e.pixel_size) for e, _, a in grown})
        outputs.write_classes(path / "evolved", {e.name: e.classes for e, *_ in grown}, config.data.class_names)
        pictures |= outputs.growth_figures(grown)
    outputs.write_maps(
        path / "predictions", {e.name: (m, e.pixel_size) for e, m in zip(splits.test, maps, strict=True)}
    )
    found = {e.name: c for e, c in zip(splits.test, classes, strict=True)}
    outputs.write_classes(path / "predictions", found, config.data.class_names)
    pictures |= outputs.prediction_figures(splits.test, maps)
    circumference, agreement = outputs.circumferences(splits.test, maps)
    pictures |= agreement
    weak = len(splits.train) - len(run.strong) if run.program.rule.weak_images else 0
    outlined = [splits.train[i].full for i in run.strong]
    summary = {
        "method": config.method,
        "data": config.data.name,
        "seed": config.seed,
        "strong": len(run.strong),
        "weak": weak,
        "outlines": sum(_objects(full) for full in outlined),
        # Marks on outlined images tell how large marks are; without weak images nobody needs to draw any.
        "marks": sum(_objects(e.partial) for e in splits.train) if weak else 0,
        "steps": config.train.steps,
        "instances": {name: getattr(run.instances, name) for name in ("threshold", "marker_sigma", "marker_depth")},
        "test": scores,
        "masks": masks,
        "circumference": circumference,
        "seconds": round(seconds, 1),
        "steps_per_second": round(rate, 3) if rate else None,
        "evolution_share": evolution_share,
        "warnings": [*run.splits.warnings, *_warnings(run, grown_masks.held, rows)],
        **outputs.environment(),
    }
    program, data = run.program, config.data
    known = (program.rule.averaged, run.instances, data.class_names, data.auxiliary, data.channels)
    network = trained(program.model, processes.whole(state.ema), *known, splits.train, run.strong, summary)
    save_network(path / "network", network, replace=True)
    outputs.finish(path, config.to_dict(), summary, rows, pictures)
    for sentence in summary["warnings"]:
        print(f"Warning: {sentence}")
    print(f"Report: {path / 'report.html'}")
    return summary


def _objects(instances: Any) -> int:
    """How many there are in int[H, W]."""
    return len(np.setdiff1d(instances, 0))


def grows(run: Run) -> bool:
    """Masks of weak images grow, object by object."""
    return run.program.rule.update is not None and not run.program.rule.unmarked


def _share_of_evolution(run: Run, state: TrainState, seconds_per_step: float) -> float:
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


def _warnings(run: Run, holds: np.ndarray, rows: list[dict[str, Any]]) -> list[str]:
    """Sentences on steps that were left out, and on masks that did not do what the schedule asked of them."""
    found = []
    left_out = int(sum(row.get("not_finite", 0) for row in rows))
    if left_out:
        found.append(
            f"{left_out} steps had no finite loss or gradient and were left out; not_finite/ holds their crops."
        )
    areas = [row for row in rows if "area" in row and row["goal"] > 0]  # 0 where nothing is marked
    if not areas or not grows(run):
        return found
    share = areas[-1]["area"] / areas[-1]["goal"]
    if share < 0.85:
        found.append(f"The masks stalled: they hold {share:.0%} of the area that the schedule asked for.")
    found += [alarm.sentence for alarm in outputs.alarms(rows)]
    held = [(e.name, int(h)) for s, e in run.weak_slots() if (h := holds[s].sum())]
    if held:
        names = ", ".join(f"{name} ({count})" for name, count in held[:5]) + (", ..." if len(held) > 5 else "")
        found.append(f"A brake held {sum(h for _, h in held)} objects that were about to leak: {names}.")
    return found
