"""The README's table: all seven methods on the default experiment, three seeds each.

  python benchmarks/microscopy.py            run the cells that are missing, one after the other, then print the table
  python benchmarks/microscopy.py --table    print the table of the cells that are there

A cell is one run of launch/main.py. Its summary and the command that made it are kept in benchmarks/results/microscopy.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "microscopy"
METHODS = ("full", "rams", "strong", "multitask", "pseudo", "ignore", "naive")
MEASURES = ("dice", "aji", "pq", "ap50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the table of the cells that are there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where the runs lie, or are put")
    arguments = parser.parse_args()
    if not arguments.table:
        for seed in arguments.seeds:
            for method in METHODS:
                run_cell(method, seed, arguments.runs)
    print(table(read_cells()))


def run_cell(method: str, seed: int, runs: pathlib.Path) -> None:
    """Trains one cell, unless its run is whole already, and keeps its summary."""
    cell = RESULTS / f"{method}-seed{seed}.json"
    if cell.exists():
        return
    options = ["--config=configs/microscopy.py", f"--config.method={method}", f"--config.seed={seed}"]
    workdir = runs / f"microscopy-{method}-seed{seed}"
    if not (workdir / "summary.json").exists():
        subprocess.run([sys.executable, "launch/main.py", *options, f"--workdir={workdir}"], cwd=ROOT, check=True)
    summary = json.loads((workdir / "summary.json").read_text())
    RESULTS.mkdir(parents=True, exist_ok=True)
    cell.write_text(json.dumps({"command": " ".join(["python launch/main.py", *options]), **summary}, indent=1) + "\n")


def read_cells() -> dict[str, list[dict]]:
    """The summaries of each method, by seed."""
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-seed*.json"))]
    return {method: [cell for cell in cells if cell["method"] == method] for method in METHODS}


def table(cells: dict[str, list[dict]]) -> str:
    """Markdown: mean and standard deviation over the seeds on the test images, and of the grown masks."""
    lines = [
        "| method | Dice | AJI | PQ | AP50 | masks: precision | masks: recall | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, found in cells.items():
        if not found:
            continue
        scores = [spread([cell["test"][measure] for cell in found]) for measure in MEASURES]
        grown = [cell["masks"] for cell in found if cell["masks"]]
        scores += [spread([masks[name] for masks in grown]) if grown else "" for name in ("precision", "recall")]
        lines.append(f"| `{method}` | " + " | ".join(scores) + f" | {len(found)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and, of more than one value, the sample's standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
