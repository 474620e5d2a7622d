"""The cells of the benchmark: which there are, how one is run, and what is kept of it.

A cell is one run of launch/main.py, or of benchmarks/peers/run.py, with one experiment, variant, method and seed. A
variant changes how much or how carefully was annotated, or one setting of the method.
"""

import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from rams_jax.config import METHODS

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Experiments with other settings, beside the files in configs/.
EXPERIMENTS = {
    "ultrasound_8": ("ultrasound", "data.strong=8 train.steps=1800"),
    "food_sem_500": ("food_sem", "data.outlined_side=64 train.steps=500"),  # of the contest, in half of the time
}
# Marks that are not as careful as the default ones.
ROUGH = {
    "area5": "data.mark_coverage=(0.05,0.05)",
    "area15": "data.mark_coverage=(0.15,0.15)",
    "area30": "data.mark_coverage=(0.3,0.3)",
    "area60": "data.mark_coverage=(0.6,0.6)",
    "shift50": "data.mark_shift=0.5",
    "shift100": "data.mark_shift=1.0",
    "missing10": "data.mark_missing=0.1",
    "missing50in10": "data.mark_missing=0.5 data.mark_missing_images=0.1",
    "spill5": "data.mark_spill=0.05",
    "spill20": "data.mark_spill=0.2",
}
# Of the choices that are ours. The approximation task's lesson on strong images has no setting: without it `q` has no
# example of where a level ends, and `rho` is still taken from these images.
ABLATIONS = {
    "default": "",
    "tau_min_01": "evolution.tau_min=0.1",
    "tau_min_05": "evolution.tau_min=0.5",
    "tau_auxiliary_03": "evolution.tau_auxiliary=0.3",
    "tau_auxiliary_08": "evolution.tau_auxiliary=0.8",
    "reach_2": "evolution.reach=2",
    "reach_12": "evolution.reach=12",
    "start_005": "evolution.start=0.05",
    "start_03": "evolution.start=0.3",
    "end_04": "evolution.end=0.4",
    "end_08": "evolution.end=0.8",
    "alpha_0": "evolution.alpha=0.0",
    "alpha_025": "evolution.alpha=0.25",
    "alpha_075": "evolution.alpha=0.75",
    "alpha_1": "evolution.alpha=1.0",
    "monotone": "evolution.monotone=True",
    "size_prior_0": "evolution.size_prior=0.0",
    "size_prior_3": "evolution.size_prior=3.0",
    "prior_objects_0": "evolution.prior_objects=0.0",
    "prior_objects_60": "evolution.prior_objects=60.0",
    "no_brakes": "evolution.max_area_factor=1000.0 evolution.leak_factor=1000.0",
    "weak_0": "loss.weak=0.0",
    "weak_05": "loss.weak=0.5",
    "ema_0": "train.ema=0.0",
    "ema_095": "train.ema=0.95",
    "no_separation": "data.auxiliary=('interior',)",
    "no_interior": "data.auxiliary=('separation',)",
    "no_auxiliary": "data.auxiliary=()",
    "own_levels_0": "model.own_levels=0",
    "own_levels_2": "model.own_levels=2",
    "background_unknown": "data.mark_complete=False",
}
PEERS = ("forest", "monai", "nnunet", "stardist", "cellpose")  # modules in benchmarks/peers/run.py
NOT_INSTALLED = 69  # its exit status then
# The budgets at which something is left to win; `full` has none.
CONTEST = {"histology": "square64", "fluorescence": "square64", "food_sem": "square64", "ultrasound": ""}
# Outlined images beside the one of the default; the foam has 61 images for training, microscopy 240.
BUDGETS = {
    "food_sem_500": ("strong2", "strong5", "strong15", "strong30"),
    "microscopy": ("strong5", "strong12", "strong24", "strong60", "strong120"),
}
MIXES = ("strong1weak20", "strong2weak20", "strong5weak5", "strong5weak10")  # of outlined and marked ones
CURVE = ("step", "val_dice", "val_aji", "masks_precision", "masks_recall", "masks_dice")  # kept at each evaluation


class Cell(NamedTuple):
    data: str  # a file in configs/, with `:smoke` behind it or not, or one of EXPERIMENTS
    variant: str  # "", squareN, strongN, strongNweakM, or one of ROUGH or ABLATIONS
    method: str
    seed: int

    def path(self, results: pathlib.Path) -> pathlib.Path:
        data = self.data.replace(":", "-")
        if self.variant in ABLATIONS:
            return results / "ablations" / data / f"{self.variant}-seed{self.seed}.json"
        return results / data / self.variant / f"{self.method}-seed{self.seed}.json"

    def command(self) -> list[str]:
        """The program and its options; one shard, so that a cell is the same on one core and on more."""
        experiment, always = EXPERIMENTS.get(self.data, (self.data, ""))
        name, *variant = experiment.split(":")
        program, choice = "launch/main.py", "--config.method"
        if self.method in PEERS:
            program, choice = "benchmarks/peers/run.py", "--peer"
        changed = [f"--config.{one}" for one in f"{always} {changes(self.variant)}".split()]
        config = f"--config={':'.join([f'configs/{name}.py', *variant])}"
        fixed = ["--config.train.shards=1", f"--config.seed={self.seed}"]
        return [program, config, *changed, f"{choice}={self.method}", *fixed]


def changes(variant: str) -> str:
    """The settings of a variant, with spaces between.

    Raises:
      ValueError: there is no such variant.
    """
    if variant and re.fullmatch(r"(square\d+)?(strong\d+(weak\d+)?)?", variant):
        settings = {"square": "outlined_side", "strong": "strong", "weak": "weak"}
        return " ".join(f"data.{settings[k]}={n}" for k, n in re.findall(r"([a-z]+)(\d+)", variant))
    known = {"": "", **ROUGH, **ABLATIONS}
    if variant not in known:
        numbered = "squareN, strongN, strongNweakM, squareNstrongN"
        raise ValueError(f"There is no variant {variant!r}; it may be {numbered}, {', '.join(known)[2:]}.")
    return known[variant]


def plan() -> list[Cell]:
    """Every cell of the README's tables and figures, the most telling first."""
    seeds = (0, 1, 2)
    main = ("full", "rams", "strong", "multitask", "ignore", "pseudo", "scribble2label")
    blocks = [
        (CONTEST, [""], ["full"], seeds),
        *(([data], [variant], main[1:], seeds) for data, variant in CONTEST.items()),
        *(
            ([data], [variant], [m for m in METHODS + PEERS if m != "full"], seeds[:1])
            for data, variant in CONTEST.items()
        ),
        (("food_sem_500", "microscopy"), [""], main[:3], seeds),
        *(([data], variants, main[1:3], seeds[:1]) for data, variants in BUDGETS.items()),
        (["food_sem_500"], ["", "strong2"], ["pseudo"], seeds[:1]),
        (BUDGETS, ROUGH, ["rams"], seeds[:1]),
        (["food_sem_500"], MIXES, ["rams"], seeds[:1]),
        (["food_sem_500"], ["missing50in10"], ["rams"], seeds),
        *(([data], [f"{variant}strong2"], ["rams"], seeds[:1]) for data, variant in CONTEST.items()),
        (["microscopy"], [""], ["rams"], range(20)),
        (CONTEST, [""], [m for m in main if m != "full"], seeds[:1]),
        (["ultrasound_8"], [""], ["rams"], seeds),
        (BUDGETS, ABLATIONS, ["rams"], seeds[:1]),
    ]
    cells = [block(*sets, s) for *sets, some in blocks for s in some]
    return list(dict.fromkeys(cell for some in cells for cell in some))


def block(data: Iterable[str], variants: Iterable[str], methods: Iterable[str], seed: int) -> list[Cell]:
    """All combinations."""
    return [Cell(*cell, seed) for cell in itertools.product(data, variants, methods)]


def run_cell(cell: Cell, results: pathlib.Path, runs: pathlib.Path, cores: Sequence[int]) -> None:
    """Trains a cell, unless it is there or its run is whole already, and keeps its summary, or how it failed."""
    path = cell.path(results)
    if path.exists():
        return
    kept = {"variant": cell.variant} if cell.variant else {}
    kept |= {"command": shlex.join(["python", *cell.command()])}
    name = "-".join(str(part) for part in (*cell[:3], f"seed{cell.seed}") if part).replace(":", "-")
    workdir = runs / name
    if not (workdir / "summary.json").exists():
        command = [sys.executable, *cell.command(), f"--workdir={workdir}"]
        if cores:
            command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == NOT_INSTALLED:
            print(done.stderr.splitlines()[-1], flush=True)
            return
        print(f"{name}: {'failed' if done.returncode else 'done'}", flush=True)
        if done.returncode:
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            kept |= {"method": cell.method, "data": cell.data, "seed": cell.seed}
            kept |= {"failed": f"exit {done.returncode}: {said}"}
    if "failed" not in kept:
        kept |= json.loads((workdir / "summary.json").read_text()) | {"curve": curve(workdir / "metrics.jsonl")}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Lists of numbers stand on one line.
    path.write_text(re.sub(r"(?<=[\d\[,])\n\s+(?=[-\d\]])", " ", json.dumps(kept, indent=1)) + "\n")


def curve(log: pathlib.Path) -> dict[str, list[float]]:
    """What the evaluations of a run found, one list a key of CURVE that it knows, step by step."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []  # peers have none
    rows = [row for row in rows if "val_dice" in row]
    return {key: [round(row[key], 4) for row in rows] for key in CURVE if rows and key in rows[0]}


def read_cells(folder: pathlib.Path) -> list[dict]:
    """The cells in a folder, failed ones too, by name; none if there is no such folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]


def whole(cells: Sequence[dict]) -> list[dict]:
    """Those that have not failed."""
    return [cell for cell in cells if "failed" not in cell]


def seconds(cells: Sequence[Cell], results: pathlib.Path) -> float | None:
    """How long cells will take one after the other, from those that are there.

    Each takes the median time of the cells of its data and method; else of its data; else of all: what paused or shared
    a core does not count. None if there are none.
    """
    there: dict[tuple[str, ...], list[float]] = {}
    for path in results.rglob("*-seed*.json"):
        found = json.loads(path.read_text())
        data = path.relative_to(results / "ablations" if "ablations" in path.parts else results).parts[0]
        for key in ((data, found["method"]), (data,), ()):
            there.setdefault(key, []).extend([found["seconds"]] if "seconds" in found else [])
    if not there.get(()):
        return None
    keys = [((c.data.replace(":", "-"), c.method), (c.data.replace(":", "-"),), ()) for c in cells]
    return sum(float(np.median(next(there[key] for key in three if there.get(key)))) for three in keys)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t, n - 1 degrees of freedom); NaN for a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(np.mean(values)), float(half)
