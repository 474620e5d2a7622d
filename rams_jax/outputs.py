"""What a run leaves in its workdir besides checkpoints: logs, maps, pictures, summary, report."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import jax
import numpy as np
import tqdm
from matplotlib.animation import FuncAnimation
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from rams_jax import biometry, curves, figures, processes, report, storage
from rams_jax.annotations import read_instances, write_instances
from rams_jax.types import Example

LEAK = 1.15  # area of the masks relative to what the schedule asks for, above which they leak
COLLAPSE = 0.8  # area of the masks relative to the largest that they had, below which they collapse
PICTURES = 6  # training images with a page of rings, and test images with errors shown


class StopOnInterrupt:
    """Turns Ctrl-C, or the SIGTERM that a cluster sends before it takes a machine back, into a request that the loop
    reads between two steps; the second signal stops at once."""

    def __enter__(self) -> StopOnInterrupt:
        self.requested = False
        # Of several processes jax itself listens to SIGTERM, for all of them have to stop at the same step.
        numbers = [signal.SIGINT] if processes.several() else [signal.SIGINT, signal.SIGTERM]
        self._previous = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        if processes.several():
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *unused: object) -> None:
        self._restore()


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Masks that left their course."""

    kind: str  # LEAK or COLLAPSE
    sentence: str
    over: bool = False  # they found back


def alarms(rows: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """Where masks leak (more than `LEAK` of the area asked for) or collapse (less than `COLLAPSE` of what they held).

    Args:
      rows: of metrics.jsonl; those without `area` and `goal`, and those where nothing is marked, do not count.

    Returns:
      One for each time that it began, in their order; only the last one may not be over.
    """
    found: list[Alarm] = []
    largest, kind = 0.0, ""
    for row in rows:
        if row.get("area") is None or (row.get("goal") or 0) <= 0:
            continue
        largest, before = max(largest, row["area"]), kind
        asked, held = row["area"] / row["goal"], row["area"] / largest if largest > 0 else 1.0
        kind = "LEAK" if asked > LEAK else "COLLAPSE" if held < COLLAPSE else ""
        if before and kind != before:
            said = f"{found[-1].sentence} It was over at step {row['step']}."
            found[-1] = dataclasses.replace(found[-1], sentence=said, over=True)
        if kind == "LEAK" != before:
            said = (
                f"The masks leak: at step {row['step']} they hold {asked:.0%} of the area that the schedule asks for."
            )
            found.append(Alarm(kind, said))
        if kind == "COLLAPSE" != before:
            said = f"The masks collapse: at step {row['step']} they hold {held:.0%} of the area that they had before."
            found.append(Alarm(kind, said))
    return found


class Log:
    """metrics.jsonl and TensorBoard files, cut back to the step that the run goes on from; the first process's only.

    An alarm is said when it begins.
    """

    def __init__(self, workdir: pathlib.Path, step: int, grows: bool):
        self.path, self.rows = workdir / "metrics.jsonl", []
        self.alarms: list[Alarm] = []
        self._grows = grows  # masks do, object by object
        if not processes.first():
            return
        lines = self.path.read_text(errors="replace").splitlines() if self.path.exists() else []
        self.rows = [row for row in map(_parse, lines) if row is not None and row["step"] <= step]
        self.alarms = alarms(self.rows) if self._grows else []
        storage.write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        (workdir / "tensorboard").mkdir(exist_ok=True)
        # Not its SummaryWriter, whose thread dies unheard when the disk is full, and which waits for it then.
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._board.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    @property
    def seconds(self) -> float:
        """Training time up to the last row."""
        return max((row.get("seconds", 0.0) for row in self.rows), default=0.0)

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Adds a row."""
        if not processes.first():
            return
        row = {"step": step, "seconds": round(seconds, 2), **values}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._board.flush()
        before, self.alarms = self.alarms, alarms(self.rows) if self._grows else []
        for alarm in self.alarms[len(before) :]:
            tqdm.tqdm.write(f"Warning: {alarm.sentence}")


def _parse(line: str) -> dict[str, Any] | None:
    """A row, or None for a line that a kill or the disk has damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(row, dict) and type(row.get("step")) is int
    return row if good and all(isinstance(v, int | float | None) for v in row.values()) else None


def of_steps(metrics: Mapping[str, jax.Array]) -> list[dict[str, np.ndarray]]:
    """What each step of a call reported, once it is done: of one step float32[], of more float32[steps]."""
    values = jax.device_get(metrics)
    return [dict(zip(values, row, strict=True)) for row in zip(*map(np.atleast_1d, values.values()), strict=True)]


def mean_metrics(values: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Mean over steps of what each step reported, without those whose loss was not finite where others were."""
    finite = [v for v in values if not v["not_finite"]] or values
    means = {name: round(float(np.mean([v[name] for v in finite])), 6) for name in values[0] if name != "not_finite"}
    left_out = sum(float(v["not_finite"]) for v in values)
    return means | ({"not_finite": left_out} if left_out else {})


def short(row: Mapping[str, float], alarms: Sequence[Alarm]) -> dict[str, str]:
    """What the progress bar shows: the loss, the area of the masks relative to the marks they grew from, an alarm."""
    shown = {"loss": f"{row['loss']:.3f}"}
    if "area" in row:
        shown["masks"] = f"{row['area']:.2f}x marks"
    if alarms and not alarms[-1].over:
        shown["alarm"] = alarms[-1].kind
    return shown


def write_maps(folder: pathlib.Path, maps: Mapping[str, tuple[np.ndarray, float]]) -> None:
    """Writes instance or age maps as `folder/NAME.tif`; maps that this run wrote before are replaced.

    Args:
      folder: made if missing.
      maps: by name, int[H, W] and the pixel size in micrometres.
    """
    folder.mkdir(exist_ok=True)
    for name, (values, pixel_size) in maps.items():
        unfinished = folder / f"{name}.tif{storage.UNFINISHED}"
        unfinished.unlink(missing_ok=True)
        write_instances(unfinished, values, pixel_size)
        unfinished.replace(folder / f"{name}.tif")


def write_classes(folder: pathlib.Path, classes: Mapping[str, np.ndarray], class_names: Sequence[str]) -> None:
    """Writes what class each object of the maps in a folder is of, as `folder/classes.csv`, in the folder format.

    Args:
      folder: that holds the maps.
      classes: by name of the image, int[J + 1], the class (1..K) of each id; 0 for ids that do not occur.
      class_names: of the classes; of one class there is nothing to say, and nothing is written.
    """
    if len(class_names) < 2:
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "id", "class"))
    for name, of_ids in classes.items():
        table.writerows((name, i, class_names[of_ids[i] - 1]) for i in np.flatnonzero(of_ids).tolist())
    storage.write_whole(folder / "classes.csv", text.getvalue())


def growth_figures(grown: Sequence[tuple[Example, np.ndarray, np.ndarray]]) -> dict[str, bytes]:
    """PNG bytes by file name: the images with most objects, their masks in rings of age."""
    chosen = sorted(grown, key=lambda g: -_objects(g[0]))[:PICTURES]
    if not chosen:
        return {}
    examples, currents, ages = zip(*chosen[:3], strict=True)
    names = [e.name for e in examples]
    pictures = {"growth.png": figures.to_png(figures.growth_gallery(examples, currents, ages, names))}
    for example, current, age in chosen:
        pictures[f"growth_{example.name}.png"] = figures.to_png(
            figures.growth_rings(example, current, age, example.name)
        )
    return pictures


def growth_film(workdir: pathlib.Path, examples: Sequence[Example]) -> FuncAnimation:
    """The masks of a finished run at each update, on the images with most objects.

    Args:
      workdir: of the run.
      examples: its training images; those whose masks did not grow count for nothing.

    Raises:
      ValueError: the masks of none of them grew.
    """
    maps = workdir / "evolved"
    grown = [example for example in examples if (maps / f"{example.name}_masks.tif").is_file()]
    chosen = sorted(grown, key=lambda e: -_objects(e))[:PICTURES]
    masks, ages = ([read_instances(maps / f"{e.name}_{kind}.tif") for e in chosen] for kind in ("masks", "age"))
    return figures.growth_animation(chosen, masks, ages)


def _objects(example: Example) -> int:
    """How many of them carry a mark."""
    return len(np.setdiff1d(example.partial, 0))


def prediction_figures(examples: Sequence[Example], maps: Sequence[np.ndarray]) -> dict[str, bytes]:
    """PNG bytes by file name: predictions beside the truth, on test images spread over those with objects."""
    found = [(example, instances) for example, instances in zip(examples, maps, strict=True) if example.partial.any()]
    found = found or list(zip(examples, maps, strict=True))
    pictures = {}
    for i in np.unique(np.linspace(0, len(found) - 1, PICTURES).round().astype(int)):
        example, instances = found[i]
        text = f"{len(np.unique(example.partial)) - 1} objects, {len(np.unique(instances)) - 1} predicted"
        figure = figures.prediction_errors(example, instances, text)
        pictures[f"prediction_{example.name}.png"] = figures.to_png(figure)
    return pictures


def circumferences(
    examples: Sequence[Example], maps: Sequence[np.ndarray]
) -> tuple[dict[str, float] | None, dict[str, bytes]]:
    """How the circumferences of predicted objects agree with what a person measured, in mm, and the picture of it.

    Args:
      examples: those without a measured circumference do not count.
      maps: int[H, W], the predicted objects of each.

    Returns:
      What `biometry.agreement` says, and PNG bytes by file name; None and nothing where nobody measured.
    """
    pairs = [
        (m, e.pixel_size, e.circumference) for e, m in zip(examples, maps, strict=True) if e.circumference is not None
    ]
    if not pairs:
        return None, {}
    measured = [biometry.circumference(instances, pixel_size) for instances, pixel_size, _ in pairs]
    reference = [value for *_, value in pairs]
    figure = curves.bland_altman(measured, reference, "Circumference", "mm")
    return biometry.agreement(measured, reference), {"agreement_circumference.png": figures.to_png(figure)}


def finish(
    workdir: pathlib.Path,
    config: dict[str, Any],
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    pictures: dict[str, bytes],
) -> None:
    """Writes figures, report.html and, last, summary.json: where it exists the run is whole."""
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    pictures = pictures | {"curves.png": figures.to_png(curves.training_curves(rows))}
    for name, png in pictures.items():
        storage.write_whole(folder / name, png)
    storage.write_whole(workdir / "report.html", report.render(config, summary, rows, pictures))
    storage.write_json(workdir / "summary.json", summary)


def environment() -> dict[str, Any]:
    """Where the run took place: `device`, `commit`, `versions`, `peak_memory_mib`."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-image")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return {
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, host with {os.cpu_count()} cores",
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
    }


def _commit() -> str:
    """The commit of the source tree, with `+` behind it if the tree has changes; `unknown` for an installed wheel."""
    root = pathlib.Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
