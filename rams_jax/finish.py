"""The end of a run: scores, maps, pictures, the network, the report."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rams_jax import outputs, processes, sharding
from rams_jax.annotations import read_instances
from rams_jax.evaluate import mask_counts, score_instances, score_masks
from rams_jax.experiment import Run
from rams_jax.instances import label_instances
from rams_jax.loading import images_in
from rams_jax.metrics import PixelCounts
from rams_jax.network import longest, save_network, trained
from rams_jax.predict import foreground, predict
from rams_jax.tuning import tune
from rams_jax.types import Example, MaskState, Predictions, TrainState


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
    return opinions, [foreground(o, run.program.rule.grows) for o in opinions]


def validation_scores(run: Run, state: TrainState) -> dict[str, float]:
    """Scores on the validation images (`val_...`) and of the grown masks (`masks_...`); {} but on the first process."""
    masks = evaluate_masks(run, processes.local(run.window.masks(state).current))
    if not processes.first():
        return {}
    scores = {f"val_{k}": v for k, v in evaluate(run, state, run.splits.validation)[0].items()}
    return scores | {f"masks_{k}": v for k, v in (masks or {}).items()}


def evaluate_masks(run: Run, current: np.ndarray) -> dict[str, float] | None:
    """Scores of the grown masks of the weak images whose truth is known; None where no masks grow.

    Args:
      run: what is trained.
      current: int16[own slots, H, W]; each process counts on its own images, and all must call this.
    """
    if not run.program.rule.grows:
        return None
    known = [(np.maximum(_cut(current[at], e), 0), e) for at, e in run.own_weak() if e.full is not None]
    counts = mask_counts([e for _, e in known], [c for c, _ in known])
    found = processes.exchange([len(known), counts.intersection, counts.truth, counts.predicted])
    images, *sums = (sum(numbers) for numbers in zip(*found, strict=True))
    return score_masks(PixelCounts(*sums)) if images else None


def _cut(values: np.ndarray, example: Example) -> np.ndarray:
    """A padded map in the size of its image."""
    height, width = example.partial.shape
    return values[:height, :width]


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
    ended = run.window.masks(state)
    masks = evaluate_masks(run, processes.local(ended.current))
    grows = run.program.rule.grows
    evolved = _write_grown(run, ended, path / "evolved") if grows else []  # also where the truth is unknown
    holds = processes.local(ended.held)
    held = processes.merged({i: int(holds[at].sum()) for at, i in run.weak()})
    shown = _shown(run)
    if not processes.first():
        return {}
    pictures = outputs.growth_figures(evolved) if grows else {}
    if config.train.tune_instances:
        tuned = tune(splits.validation, *_opinions(run, state, splits.validation), run.instances)
        run = dataclasses.replace(run, instances=tuned)
    scores, maps, classes = evaluate(run, state, splits.test)
    outputs.write_maps(
        path / "predictions", {e.name: (m, e.pixel_size) for e, m in zip(splits.test, maps, strict=True)}
    )
    found = {e.name: c for e, c in zip(splits.test, classes, strict=True)}
    outputs.write_classes(path / "predictions", found, config.data.class_names)
    pictures |= outputs.prediction_figures(splits.test, maps)
    circumference, agreement = outputs.circumferences(splits.test, maps)
    pictures |= agreement
    weak = len(splits.train) - len(run.strong) if run.program.rule.weak_images else 0
    summary = {
        "method": config.method,
        "data": config.data.name,
        "seed": config.seed,
        "strong": len(run.strong),
        "weak": weak,
        "outlines": shown.outlines,
        # Marks on outlined images tell how large marks are; without weak images nobody needs to draw any.
        "marks": shown.marks if weak else 0,
        "steps": config.train.steps,
        "instances": {name: getattr(run.instances, name) for name in ("threshold", "marker_sigma", "marker_depth")},
        "test": scores,
        "masks": masks,
        "circumference": circumference,
        "seconds": round(seconds, 1),
        "steps_per_second": round(rate, 3) if rate else None,
        "evolution_share": evolution_share,
        "warnings": [*run.splits.warnings, *_warnings(run, held, rows)],
        **outputs.environment(),
    }
    program, data = run.program, config.data
    known = (program.rule.grows, run.instances, data.class_names, data.auxiliary, data.channels)
    seen = (shown.pixel_size, shown.longest)
    network = trained(program.model, processes.whole(state.ema), *known, *seen, summary)
    save_network(path / "network", network, replace=True)
    outputs.finish(path, config.to_dict(), summary, rows, pictures)
    for sentence in summary["warnings"]:
        print(f"Warning: {sentence}")
    print(f"Report: {path / 'report.html'}")
    return summary


def _write_grown(run: Run, masks: MaskState, folder: pathlib.Path) -> list[tuple[Example, np.ndarray, np.ndarray]]:
    """Writes masks, ages and classes of the weak images; each process those of its own, and all must call this.

    Returns:
      On the first process the images to show, with their masks and ages.
    """
    current, age = processes.local(masks.current), processes.local(masks.age)
    own = run.own_weak()
    outputs.write_maps(
        folder, {f"{e.name}_masks": (np.maximum(_cut(current[at], e), 0), e.pixel_size) for at, e in own}
    )
    outputs.write_maps(folder, {f"{e.name}_age": (_cut(age[at], e), e.pixel_size) for at, e in own})
    position = {name: i for i, name in enumerate(run.splits.train.names)}
    objects = processes.merged({position[e.name]: _objects(e.partial) for _, e in own})
    classes = processes.merged({position[e.name]: e.classes for _, e in own})
    processes.meet("masks are written")
    if not processes.first():
        return []
    names = run.splits.train.names
    outputs.write_classes(folder, {names[i]: x for i, x in classes.items()}, run.config.data.class_names)
    chosen = [run.splits.train[i] for i in sorted(objects, key=lambda i: -objects[i])[: outputs.PICTURES]]

    def written(example: Example, kind: str) -> np.ndarray:
        return read_instances(folder / f"{example.name}_{kind}.tif")

    return [(example, written(example, "masks"), written(example, "age")) for example in chosen]


@dataclasses.dataclass(frozen=True)
class _Shown:
    """What training saw of images."""

    pixel_size: float  # micrometres, median
    longest: int  # pixels, of the largest object
    outlines: int  # objects, in full masks of strong images
    marks: int


def _shown(run: Run) -> _Shown:
    """Each process looks at its own images, and all must call this."""
    strong, found = set(run.strong), {}
    for i in images_in(run.slots[run.own]):
        example = run.splits.train[i]
        outlines = _objects(example.full) if i in strong else 0
        found[i] = [example.pixel_size, longest(example, i in strong), outlines, _objects(example.partial)]
    sizes, lengths, *counts = zip(*processes.merged(found).values(), strict=True)
    return _Shown(float(np.median(sizes)), max(lengths), *map(sum, counts))


def _objects(instances: Any) -> int:
    """How many there are in int[H, W]."""
    return len(np.setdiff1d(instances, 0))


def _share_of_evolution(run: Run, state: TrainState, seconds_per_step: float) -> float:
    """Time of the masks' turn, run by itself on all devices, relative to a whole step; 0 where none evolve."""
    if run.program.rule.update is None:
        return 0.0
    turn = sharding.compile_turn(run.program, state)
    jax.block_until_ready(turn(state))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(turn(state))
        times.append(time.perf_counter() - start)
    return min(times) / seconds_per_step


def _warnings(run: Run, holds: dict[int, int], rows: list[dict[str, Any]]) -> list[str]:
    """Sentences on steps that were left out, and on masks that did not do what the schedule asked of them.

    Args:
      run: what was trained.
      holds: how often a brake held an object, by position in splits.train.
      rows: of metrics.jsonl.
    """
    found = []
    left_out = int(sum(row.get("not_finite", 0) for row in rows))
    if left_out:
        found.append(
            f"{left_out} steps had no finite loss or gradient and were left out; not_finite/ holds their crops."
        )
    areas = [row for row in rows if "area" in row and row["goal"] > 0]  # 0 where nothing is marked
    if not areas or not run.program.rule.grows:
        return found
    share = areas[-1]["area"] / areas[-1]["goal"]
    if share < 0.85:
        found.append(f"The masks stalled: they hold {share:.0%} of the area that the schedule asked for.")
    found += [alarm.sentence for alarm in outputs.alarms(rows)]
    held = [(run.splits.train.names[i], count) for i, count in holds.items() if count]
    if held:
        names = ", ".join(f"{name} ({count})" for name, count in held[:5]) + (", ..." if len(held) > 5 else "")
        found.append(f"A brake held {sum(h for _, h in held)} objects that were about to leak: {names}.")
    return found
