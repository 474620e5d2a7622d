"""The README's tables: label rules on the same images, network and budget.

  python benchmarks/compare.py --data microscopy             run the cells that are missing, then print the table
  python benchmarks/compare.py --data microscopy --table     print the table of the cells that are there
  python benchmarks/compare.py --data microscopy --variants budgets rough --methods rams --dry     what would be run
  python benchmarks/compare.py --ablations --data microscopy food_sem_500 --seeds 0
  python benchmarks/compare.py --contest --table             one table of the budgets at which something is left to win
  python benchmarks/compare.py --all                         everything, then the figures (benchmarks/figures.py)

Summaries and the commands that made them are kept in benchmarks/results/EXPERIMENT[/VARIANT] and, of ablations,
benchmarks/results/ablations/EXPERIMENT; a cell that failed is kept too, with the last line of what it said, and is
tried again when its file is removed. `--jobs 2` runs two cells at a time, each on its share of the cores. Other tools
on the same images, outlines and marks are methods too, when asked for (`--methods forest monai`; see benchmarks/peers).
"""

import argparse
import concurrent.futures
import os
import pathlib
import queue
from collections.abc import Sequence

import numpy as np
from cells import (
    ABLATIONS,
    BUDGETS,
    CONTEST,
    EXPERIMENTS,
    PEERS,
    RESULTS,
    ROOT,
    ROUGH,
    Cell,
    block,
    changes,
    interval,
    plan,
    read_cells,
    run_cell,
    seconds,
    whole,
)

from rams_jax.config import METHODS

MEASURES = {"dice": "Dice", "aji": "AJI", "pq": "PQ", "ap50": "AP50"}


def main() -> None:
    arguments = parse()
    cells = wanted(arguments)
    missing = [cell for cell in cells if not cell.path(arguments.results).exists()]
    if arguments.dry:
        for cell in missing:
            print(" ".join(["python", *cell.command()]))
        print(f"{len(missing)} of {len(cells)} cells are missing; {estimate(missing, arguments)}.")
        return
    if not arguments.table:
        run_cells(missing, arguments.results, arguments.runs, arguments.jobs)
    if arguments.contest:
        print(f"\n{contest_table(arguments.results, arguments.methods)}")
        return
    for data in dict.fromkeys(cell.data for cell in cells if cell.variant in ABLATIONS):
        folder = Cell(data, "default", "rams", 0).path(arguments.results).parent
        print(f"\n{data}, ablations on the validation images\n\n{ablation_table(folder)}")
    for data, variant in dict.fromkeys(cell[:2] for cell in cells if cell.variant not in ABLATIONS):
        folder = Cell(data, variant, "rams", 0).path(arguments.results).parent
        found = by_method(folder)
        if variant == "" or found:
            print(f"\n{data}{f', {variant}: {changes(variant)}' if variant else ''}\n\n{table(found)}")
    if arguments.all and not arguments.table:
        import figures

        figures.draw_all(arguments.results, figures.FOLDER)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        nargs="+",
        default=["microscopy"],
        help=f"experiments, as the files in configs/ are called (:smoke behind it too), or {', '.join(EXPERIMENTS)}",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        default=[""],
        help="strongN (outlined images), strongNweakM (and marked ones), squareN (a square of N pixels of each is "
        f"outlined), {', '.join(ROUGH)}; budgets or rough for all of a kind; '' for the experiment itself, the default",
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS + PEERS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", help="0 1 2 unless given; of --all, as planned")
    parser.add_argument("--all", action="store_true", help="all cells of cells.plan(), and the figures")
    parser.add_argument("--contest", action="store_true", help="every method on the four sets of cells.CONTEST")
    parser.add_argument("--ablations", action="store_true", help="one change of settings each, of rams")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at a time")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs", help="where the runs lie, or are put")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="where the cells lie, or are put")
    parser.add_argument("--table", action="store_true", help="only print the tables of the cells that are there")
    parser.add_argument("--dry", action="store_true", help="only print what is missing, and how long it will take")
    arguments = parser.parse_args()
    try:
        for cell in wanted(arguments):
            if cell.data not in EXPERIMENTS and not (ROOT / "configs" / f"{cell.data.split(':')[0]}.py").exists():
                parser.error(f"There is no experiment {cell.data!r} in configs/, nor among {', '.join(EXPERIMENTS)}.")
            changes(cell.variant)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def wanted(arguments: argparse.Namespace) -> list[Cell]:
    """The cells that the command line asks for.

    Raises:
      ValueError: budgets of an experiment that has none in BUDGETS.
    """
    if arguments.all:
        return [cell for cell in plan() if arguments.seeds is None or cell.seed in arguments.seeds]
    seeds = [0, 1, 2] if arguments.seeds is None else arguments.seeds
    if arguments.contest:
        return [Cell(*at, method, seed) for seed in seeds for method in arguments.methods for at in places(method)]
    if arguments.ablations:
        return [cell for s in seeds for cell in block(arguments.data, ABLATIONS, ["rams"], s)]
    cells = []
    for data in arguments.data:
        if "budgets" in arguments.variants and data not in BUDGETS:
            raise ValueError(f"Budgets are planned for {', '.join(BUDGETS)}; name them as strongN for {data}.")
        kinds = {"rough": ROUGH, "budgets": BUDGETS.get(data, ())}
        variants = [name for given in arguments.variants for name in kinds.get(given, [given])]
        cells += [cell for s in seeds for cell in block([data], variants, arguments.methods, s)]
    return cells


def estimate(cells: Sequence[Cell], arguments: argparse.Namespace) -> str:
    taken = seconds(cells, arguments.results)
    if taken is None:
        return "no cell is there to tell how long they take"
    return f"about {taken / arguments.jobs / 3600:.1f} hours with --jobs {arguments.jobs}, as those that are there took"


def run_cells(cells: Sequence[Cell], results: pathlib.Path, runs: pathlib.Path, jobs: int) -> None:
    """Runs cells, `jobs` at a time, each on cores of its own."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for job in range(jobs):
        shares.put(cores[job::jobs])
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / jobs:.2f}")  # of an accelerator, for each cell

    def one(cell: Cell) -> None:
        share = shares.get()
        try:
            run_cell(cell, results, runs, share)
        finally:
            shares.put(share)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, cells))


def by_method(folder: pathlib.Path) -> dict[str, list[dict]]:
    """The cells of a folder by method, ours and their baselines first; methods without one are left out."""
    cells = read_cells(folder)
    methods = dict.fromkeys([*METHODS, *(cell["method"] for cell in cells)])
    found = {method: [cell for cell in cells if cell["method"] == method] for method in methods}
    return {method: some for method, some in found.items() if some}


def table(cells: dict[str, list[dict]]) -> str:
    """Markdown: mean and its 95 % interval over the seeds on the test images, and of the grown masks.

    Recovered is the share of the gap from `strong` to `full` that a rule closes, of the mean scores over the seeds
    that all three have.
    """
    lines = [
        f"| method | {' | '.join(MEASURES.values())} | recovered: Dice | AJI | masks: precision | recall | seeds |",
        "|---" * (len(MEASURES) + 6) + "|",
    ]
    good = {method: whole(found) for method, found in cells.items()}
    for method, found in good.items():
        failed = len(cells[method]) - len(found)
        seeds = f"{len(found)}" + (f", {failed} failed" if failed else "")
        if not found:
            lines.append(f"| `{method}` |" + " |" * (len(MEASURES) + 4) + f" {seeds} |")
            continue
        row = [spread([cell["test"][name] for cell in found]) for name in MEASURES]
        row += [recovered(good, method, name) for name in ("dice", "aji")]
        grown = [cell["masks"] for cell in found if cell["masks"]]
        row += [spread([masks[name] for masks in grown]) if grown else "" for name in ("precision", "recall")]
        lines.append(f"| `{method}` | {' | '.join([*row, seeds])} |")
    return "\n".join(lines)


def places(method: str) -> list[tuple[str, str]]:
    """Data and variant of the cells of a method in the contest; all images are outlined for `full` in any case."""
    return [(data, "" if method == "full" else variant) for data, variant in CONTEST.items()]


def contest_table(results: pathlib.Path, methods: Sequence[str]) -> str:
    """Markdown: Dice and its 95 % interval, AJI and seeds on the test images; the mean share of the gap in Dice.

    The share is the mean over the four sets of (method - strong) / (full - strong), over the seeds in common.
    """
    folders = {
        method: [Cell(*at, method, 0).path(results).parent for at in places(method)] for method in METHODS + PEERS
    }
    found = {m: [by_method(folder).get(m, []) for folder in there] for m, there in folders.items()}
    lines = [f"| method | {' | '.join(CONTEST)} | recovered |", "|---" * (len(CONTEST) + 2) + "|"]
    for method in [method for method in methods if any(found[method])]:
        row = [in_short(cells) for cells in found[method]]
        shares = [share({m: whole(found[m][i]) for m in ("strong", "full", method)}) for i in range(len(CONTEST))]
        known = [number for number in shares if number is not None]
        row.append(f"{np.mean(known):.0%}" if len(known) == len(CONTEST) and method not in ("strong", "full") else "")
        lines.append(f"| `{method}` | {' | '.join(row)} |")
    return "\n".join(lines)


def in_short(cells: Sequence[dict]) -> str:
    """`0.886 ± 0.007 / 0.595 (3)`: Dice, AJI and the number of seeds; `failed` if no cell is whole."""
    dice, aji = ([cell["test"][name] for cell in whole(cells)] for name in ("dice", "aji"))
    return f"{spread(dice)} / {np.mean(aji):.3f} ({len(dice)})" if dice else "failed" if cells else ""


def share(cells: dict[str, list[dict]]) -> float | None:
    """Of the gap in Dice from `strong` to `full`, what the last of the methods closes, over the seeds that all have."""
    means = gap(cells, "dice")
    return (means[-1] - means[0]) / (means[1] - means[0]) if means else None


def gap(cells: dict[str, list[dict]], name: str) -> list[float]:
    """Mean score of each method over the seeds that all of them have; [] if there are none."""
    by_seed = [{cell["seed"]: cell["test"][name] for cell in some} for some in cells.values()]
    seeds = set.intersection(*(set(scores) for scores in by_seed))
    return [float(np.mean([scores[seed] for seed in seeds])) for scores in by_seed] if seeds else []


def recovered(cells: dict[str, list[dict]], method: str, name: str) -> str:
    """Share of the gap; nothing for its two ends, for other tools, or where the three have no seed in common."""
    if method in ("strong", "full", *PEERS):
        return ""
    means = gap({m: cells.get(m, []) for m in ("strong", "full", method)}, name)
    if not means:
        return ""
    low, high, reached = means
    return f"{(reached - low) / (high - low):.0%} of {high - low:.3f}" if high > low else ""


def spread(values: Sequence[float]) -> str:
    """Mean and, of more than one value, the half width of its 95 % interval."""
    mean, half = interval(values)
    return f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")


def ablation_table(folder: pathlib.Path) -> str:
    """Markdown: validation scores and grown masks at the end of training, and what each change of settings does.

    A difference is the mean over the seeds that the ablation and the default both have.
    """
    shown = {"val_dice": "validation Dice", "val_aji": "AJI", "masks_precision": "masks: precision"}
    shown |= {"masks_recall": "recall", "masks_dice": "Dice"}
    there, ends = read_cells(folder), {}
    lines = [f"| ablation | settings | {' | '.join(shown.values())} | seeds |", "|---" * 8 + "|"]
    for name, settings in ABLATIONS.items():
        cells = [cell for cell in there if cell["variant"] == name]
        ends[name] = {c["seed"]: {key: c["curve"][key][-1] for key in shown if key in c["curve"]} for c in whole(cells)}
        failed = len(cells) - len(ends[name])
        row = [ablated(ends[name], ends["default"], key, name == "default") for key in shown]
        seeds = f"{len(ends[name])}" + (f", {failed} failed" if failed else "")
        if cells:
            lines.append(f"| {name} | `{settings}` | {' | '.join([*row, seeds])} |".replace("``", ""))
    return "\n".join(lines)


def ablated(scores: dict[int, dict], default: dict[int, dict], key: str, alone: bool) -> str:
    """Mean over the seeds, and the difference from the default over the seeds in common: `0.880 (-0.012)`."""
    values = [found[key] for found in scores.values() if key in found]
    if not values:
        return ""
    common = [scores[s][key] - default[s][key] for s in set(scores) & set(default) if key in scores[s]]
    return f"{np.mean(values):.3f}" + (f" ({np.mean(common):+.3f})" if common and not alone else "")


if __name__ == "__main__":
    main()
