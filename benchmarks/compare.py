"""The README's tables: label rules on the same images, network and budget.

  python benchmarks/compare.py --data microscopy             run the cells that are missing, then print the table
  python benchmarks/compare.py --data microscopy --table     print the table of the cells that are there

A cell is one run of launch/main.py with one experiment, method and seed. Its summary and the command that made it are
kept in benchmarks/results/EXPERIMENT; a cell that failed is kept too, with the last line of what it said, and is tried
again when its file is removed. `--jobs 2` runs two cells at a time, each on its share of the cores. Other tools on the
same images, outlines and marks are methods too, when asked for (`--methods forest monai`; see benchmarks/peers): there
a cell is one run of benchmarks/peers/run.py.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
import shlex
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from rams_jax.config import METHODS

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Experiments with other settings, beside the files in configs/.
VARIANTS = {
    "histology_alone": ("histology", "--config.data.auxiliary=('interior',)"),  # without the task of separation
    "ultrasound_8": ("ultrasound", "--config.data.strong=8", "--config.train.steps=1800"),
}
PEERS = ("forest", "monai", "nnunet", "stardist", "cellpose")  # modules in benchmarks/peers/run.py
NOT_INSTALLED = 69  # its exit status then
MEASURES = {"dice": "Dice", "aji": "AJI", "pq": "PQ", "ap50": "AP50"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        nargs="+",
        default=["microscopy"],
        help=f"experiments, as the files in configs/ are called, or {', '.join(VARIANTS)}",
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS + PEERS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at a time")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where the runs lie, or are put")
    parser.add_argument("--table", action="store_true", help="only print the tables of the cells that are there")
    arguments = parser.parse_args()
    if not arguments.table:
        cells = [(d, m, s) for d in arguments.data for s in arguments.seeds for m in arguments.methods]
        run_cells(cells, arguments.runs, arguments.jobs)
    for data in arguments.data:
        print(f"\n{data}\n\n{table(read_cells(RESULTS / data))}")


def run_cells(cells: Sequence[tuple[str, str, int]], runs: pathlib.Path, jobs: int) -> None:
    """Runs the missing cells, `jobs` at a time, each on cores of its own."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for job in range(jobs):
        shares.put(cores[job::jobs])

    def one(cell: tuple[str, str, int]) -> None:
        share = shares.get()
        try:
            run_cell(*cell, runs, share)
        finally:
            shares.put(share)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, cells))


def run_cell(data: str, method: str, seed: int, runs: pathlib.Path, cores: Sequence[int]) -> None:
    """Trains one cell, unless its run is whole already, and keeps its summary, or how it failed."""
    path = RESULTS / data / f"{method}-seed{seed}.json"
    if path.exists():
        return
    experiment, *settings = VARIANTS.get(data, (data,))
    program, choice = (
        ("benchmarks/peers/run.py", "--peer") if method in PEERS else ("launch/main.py", "--config.method")
    )
    options = [f"--config=configs/{experiment}.py", *settings, f"{choice}={method}", f"--config.seed={seed}"]
    cell = {"command": shlex.join(["python", program, *options])}
    workdir = runs / f"{data}-{method}-seed{seed}"
    if not (workdir / "summary.json").exists():
        command = [sys.executable, program, *options, f"--workdir={workdir}"]
        if cores:
            command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == NOT_INSTALLED:
            print(done.stderr.splitlines()[-1], flush=True)
            return
        print(f"{data} {method} {seed}: {'failed' if done.returncode else 'done'}", flush=True)
        if done.returncode:
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            cell |= {"method": method, "data": data, "seed": seed, "failed": f"exit {done.returncode}: {said}"}
    if "failed" not in cell:
        cell |= json.loads((workdir / "summary.json").read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cell, indent=1) + "\n")


def read_cells(folder: pathlib.Path) -> dict[str, list[dict]]:
    """The summaries of each method, by seed."""
    cells = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]
    return {method: [cell for cell in cells if cell["method"] == method] for method in METHODS + PEERS}


def table(cells: dict[str, list[dict]]) -> str:
    """Markdown: mean and standard deviation over the seeds on the test images, and of the grown masks.

    Recovered is the share of the gap from `strong` to `full` that a method closes, of the mean scores over the seeds
    that all three have.
    """
    lines = [
        f"| method | {' | '.join(MEASURES.values())} | recovered: Dice | AJI | masks: precision | recall | seeds |",
        "|---" * (len(MEASURES) + 6) + "|",
    ]
    whole = {method: [cell for cell in found if "failed" not in cell] for method, found in cells.items()}
    for method, found in whole.items():
        failed = len(cells[method]) - len(found)
        seeds = f"{len(found)}" + (f", {failed} failed" if failed else "")
        if not found:
            if failed:
                lines.append(f"| `{method}` |" + " |" * (len(MEASURES) + 4) + f" {seeds} |")
            continue
        row = [spread([cell["test"][name] for cell in found]) for name in MEASURES]
        row += [recovered(whole, method, name) for name in ("dice", "aji")]
        grown = [cell["masks"] for cell in found if cell["masks"]]
        row += [spread([masks[name] for masks in grown]) if grown else "" for name in ("precision", "recall")]
        lines.append(f"| `{method}` | {' | '.join([*row, seeds])} |")
    return "\n".join(lines)


def recovered(cells: dict[str, list[dict]], method: str, name: str) -> str:
    """Share of the gap; nothing for its two ends, or where the three have no seed in common."""
    by_seed = {m: {cell["seed"]: cell["test"][name] for cell in cells[m]} for m in ("strong", "full", method)}
    seeds = set.intersection(*(set(scores) for scores in by_seed.values()))
    if method in ("strong", "full") or not seeds:
        return ""
    low, high, reached = (float(np.mean([scores[seed] for seed in seeds])) for scores in by_seed.values())
    return f"{(reached - low) / (high - low):.0%} of {high - low:.3f}" if high > low else ""


def spread(values: list[float]) -> str:
    """Mean and, of more than one value, the sample's standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
