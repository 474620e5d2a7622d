"""The figures of the benchmark, drawn from the cells in benchmarks/results alone; a cell that is missing is left out.

  python benchmarks/figures.py                                    the foam and microscopy, Dice, into benchmarks/figures
  python benchmarks/figures.py --data histology --measure aji
  python benchmarks/figures.py --outline_seconds 8.4 --mark_seconds 1.2

  DATA-outlined-MEASURE.png    score against the number of outlined images
  DATA-minutes-MEASURE.png     score against the time of the annotator, and the cheapest labels that reach a target
  DATA-roughness-MEASURE.png   score against how carelessly marks were drawn
  DATA-masks.png               precision and recall of the grown masks over the training

Bars and bands are 95 % intervals of the mean over seeds (Student's t).

The time of an annotator is the number of outlines and of marks, as the cells count them, times what one takes. An
outline in COCO took 79 s (Lin et al. 2014, arXiv 1405.0312: 22 hours for 1000), and a squiggle over an object 10.9 s
where outlines were taken to be those 79 s (Bearman et al. 2016, arXiv 1506.02106): these are the defaults. Nuclei are
faster: 6409 in fluorescence were outlined in about 15 hours, 8.4 s each (Englbrecht et al. 2021, PLoS ONE 16 e0250093);
nobody seems to have timed marks in them, and in the same proportion one would take 1.2 s. Which labels are the cheapest
depends on the ratio of the two alone. Strokes for auxiliary tasks and the search for objects are not counted.
"""

import argparse
import io
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from cells import BUDGETS, PEERS, RESULTS, ROOT, ROUGH, interval, read_cells, whole
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rams_jax.config import METHODS

FOLDER = ROOT / "benchmarks" / "figures"
OUTLINE_SECONDS, MARK_SECONDS = 79.0, 10.9
TARGET = 0.98  # of what `full` reaches
MEASURES = {"dice": "Dice", "aji": "AJI", "pq": "PQ", "ap50": "AP50"}
WIDTH, DPI = 8 / 2.54, 240  # inches
# Okabe and Ito's colours for the eyes of all (jfly.uni-koeln.de/color), with a marker and a dash each.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS, DASHES = "os^Dv<>PX*h", ("-", "--", "-.", ":")
ORDER = ("rams", "full", "strong", *(method for method in METHODS if method not in ("rams", "full", "strong")), *PEERS)
ROUGH_NAMES = {
    "area5": "5 % of each object marked",
    "area15": "15 % marked",
    "area30": "30 % marked",
    "area60": "60 % marked",
    "": "default: 15 to 40 %",
    "shift50": "half off to one side",
    "shift100": "wholly off to one side",
    "missing10": "10 % of the marks missing",
    "missing50in10": "half missing in 10 % of images",
    "spill5": "5 % over the edge",
    "spill20": "20 % over the edge",
}
Points = list[tuple[float, list[float]]]  # from left to right: where, and the scores of the seeds
Groups = Mapping[tuple[str, str], list[dict]]  # the cells of each method and variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help="data sets; those of cells.BUDGETS, unless given")
    parser.add_argument("--measure", choices=MEASURES, default="dice")
    parser.add_argument("--outline_seconds", type=float, default=OUTLINE_SECONDS, help="to outline an object")
    parser.add_argument("--mark_seconds", type=float, default=MARK_SECONDS, help="to mark an object roughly")
    parser.add_argument("--target", type=float, default=TARGET, help="share of the score of full to be reached")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER)
    given = parser.parse_args()
    costs = {"outline_seconds": given.outline_seconds, "mark_seconds": given.mark_seconds, "target": given.target}
    draw_all(given.results, given.out, given.data, given.measure, **costs)


def draw_all(
    results: pathlib.Path,
    out: pathlib.Path,
    data: Sequence[str] | None = None,
    measure: str = "dice",
    outline_seconds: float = OUTLINE_SECONDS,
    mark_seconds: float = MARK_SECONDS,
    target: float = TARGET,
) -> list[pathlib.Path]:
    """Draws every figure that has something to show, and returns their paths."""
    drawn = []
    for name in data or BUDGETS:
        groups = read_groups(results / name)
        figures = {
            f"{name}-outlined-{measure}": outlined(groups, measure, name),
            f"{name}-minutes-{measure}": minutes(groups, measure, name, outline_seconds, mark_seconds, target),
            f"{name}-roughness-{measure}": roughness(groups, measure, name),
            f"{name}-masks": masks(groups, name),
        }
        for file, figure in figures.items():
            if figure is not None:
                out.mkdir(parents=True, exist_ok=True)
                drawn.append(out / f"{file}.png")
                drawn[-1].write_bytes(png(figure))
                print(drawn[-1])
    return drawn


def read_groups(folder: pathlib.Path) -> dict[tuple[str, str], list[dict]]:
    """The cells of an experiment that have not failed, by method and variant."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for variant in ("", *sorted(path.name for path in folder.glob("*/"))):
        for cell in whole(read_cells(folder / variant)):
            groups.setdefault((cell["method"], variant), []).append(cell)
    order = {method: i for i, method in enumerate(ORDER)}
    return dict(sorted(groups.items(), key=lambda item: (order.get(item[0][0], len(ORDER)), item[0])))


def cost(cell: Mapping, outline_seconds: float, mark_seconds: float) -> float:
    """Minutes of an annotator for the labels of a cell."""
    return (cell["outlines"] * outline_seconds + cell["marks"] * mark_seconds) / 60


def cheapest(points: Mapping[tuple[str, str], tuple[float, float]], target: float) -> tuple[str, str] | None:
    """The method and variant with the fewest minutes among those (minutes, mean score) that reach the target."""
    reached = {key: spent for key, (spent, score) in points.items() if score >= target}
    return min(reached, key=lambda key: reached[key]) if reached else None


def outlined(groups: Groups, measure: str, data: str) -> Figure | None:
    """Score against the number of outlined images, a line a method; all other training images are marked."""
    shown = {key: cells for key, cells in groups.items() if re.fullmatch(r"(strong\d+)?", key[1])}
    curves = scores(shown, measure, lambda key: shown[key][0]["strong"])
    if not curves:
        return None
    cell = max((c for cells in shown.values() for c in cells), key=lambda c: c["strong"] + c["weak"])
    figure, axes = page(data, f"outlined images (of {cell['strong'] + cell['weak']} for training)", label(measure))
    lines(axes, curves)
    legend(figure, axes)
    return figure


def minutes(
    groups: Groups, measure: str, data: str, outline_seconds: float, mark_seconds: float, target: float
) -> Figure | None:
    """Score against what the labels cost, mixes as points; the cheapest labels that reach the target are ringed."""
    shown = {key: [c for c in cells if "outlines" in c] for key, cells in groups.items()}
    shown = {key: cells for key, cells in shown.items() if cells and re.fullmatch(r"(strong\d+(weak\d+)?)?", key[1])}
    spent = {key: np.mean([cost(c, outline_seconds, mark_seconds) for c in cells]) for key, cells in shown.items()}
    curves = scores(shown, measure, lambda key: float(spent[key]))
    if not curves:
        return None
    figure, axes = page(data, "annotator, minutes", label(measure))
    lines(axes, curves, joined=False)
    words = ""
    points = {key: (float(spent[key]), float(np.mean([c["test"][measure] for c in shown[key]]))) for key in shown}
    if ("full", "") in points:
        level = target * points["full", ""][1]
        best = cheapest(points, level)
        axes.axhline(level, color="#999999", linewidth=0.7, zorder=0)
        words = f"Line: {level:.3f}, {target:.0%} of full. "
        if best is None:
            words += "None that was tried reaches it.\n"
        else:
            axes.plot(*points[best], "o", markersize=11, markerfacecolor="none", markeredgecolor="#D55E00")
            outlines, marks = (np.mean([c[kind] for c in shown[best]]) for kind in ("outlines", "marks"))
            words += f"Cheapest (ring): {best[0]}, {points[best][0]:,.0f} min,\n{outlines:,.0f} outlines"
            words += f" at {outline_seconds:g} s and {marks:,.0f} marks at {mark_seconds:g} s.\n"
    legend(figure, axes, words)
    return figure


def roughness(groups: Groups, measure: str, data: str) -> Figure | None:
    """Score of the methods that were tried with rough marks, a row for each kind of roughness."""
    methods = list(dict.fromkeys(method for method, variant in groups if variant in ROUGH))
    rows = [variant for variant in ROUGH_NAMES if any((method, variant) in groups for method in methods)]
    if not methods:
        return None
    figure, axes = page(data, label(measure), "", height=0.9 + 0.15 * len(rows))
    for number, method in enumerate(methods):
        look = style(method)
        found = [(row, groups[method, v]) for row, v in enumerate(rows) if (method, v) in groups]
        ends = np.array([interval([c["test"][measure] for c in cells]) for _, cells in found])
        at = np.array([row for row, _ in found]) + 0.5 * ((number + 0.5) / len(methods) - 0.5)
        axes.errorbar(
            ends[:, 0], at, xerr=np.nan_to_num(ends[:, 1]), **look | {"linestyle": "none"}, label=counted(method, found)
        )
        if (method, "") in groups:
            careful = np.mean([c["test"][measure] for c in groups[method, ""]])
            axes.axvline(careful, color=look["color"], linewidth=0.6, linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), [ROUGH_NAMES[variant] for variant in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    legend(figure, axes)
    return figure


def masks(groups: Groups, data: str) -> Figure | None:
    """Precision and recall of the grown masks of `rams` at the evaluations, with the band of their interval."""
    cells = [c for c in groups.get(("rams", ""), []) if "masks_precision" in c.get("curve", {})]
    cells = [c for c in cells if c["curve"]["step"] == cells[0]["curve"]["step"]]
    if not cells:
        return None
    figure, axes = page(f"{data}: grown masks", "training step", "share of pixels")
    for key, colour, marker, dash in (("precision", "#0072B2", "s", "--"), ("recall", "#D55E00", "o", "-")):
        values = np.array([interval(v) for v in zip(*(c["curve"][f"masks_{key}"] for c in cells), strict=True)])
        mean, half = values[:, 0], np.nan_to_num(values[:, 1])
        steps = cells[0]["curve"]["step"]
        axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        look = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 3, "linewidth": 1.1}
        axes.plot(steps, mean, **look, label=f"{key} ({len(cells)})")
    axes.set_xlim(0, 1.03 * cells[0]["curve"]["step"][-1])
    axes.set_ylim(top=min(1.02, axes.get_ylim()[1]))
    legend(figure, axes)
    return figure


def scores(groups: Groups, measure: str, place: Callable[[tuple[str, str]], float]) -> dict[str, Points]:
    """The test scores of each method; groups at the same place are one point."""
    curves: dict[str, dict[float, list[float]]] = {}
    for key, cells in groups.items():
        curves.setdefault(key[0], {}).setdefault(place(key), []).extend(cell["test"][measure] for cell in cells)
    return {method: sorted(points.items()) for method, points in curves.items()}


def lines(axes: Axes, curves: Mapping[str, Points], joined: bool = True) -> None:
    """A method's points with intervals over a logarithmic axis; methods stand beside each other, not on top."""
    for number, (method, points) in enumerate(curves.items()):
        beside = 1.012 ** (number - (len(curves) - 1) / 2)
        ends = np.array([interval(values) for _, values in points])
        axes.errorbar(
            [place * beside for place, _ in points],
            ends[:, 0],
            yerr=np.nan_to_num(ends[:, 1]),
            label=counted(method, points),
            zorder=3 if method == "rams" else 2,
            **style(method) | ({} if joined else {"linestyle": "none"}),
        )
    means = [np.mean(values) for points in curves.values() for _, values in points]
    # An interval of two or three seeds can be wider than all there is to see.
    room = 0.4 * max(max(means) - min(means), 0.02)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, min(means) - room), min(high, max(means) + room, 1.005))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def counted(method: str, points: Sequence[tuple[object, Sequence]]) -> str:
    """`rams (3)`, or with the least and the largest number of seeds of its points."""
    counts = sorted({len(values) for _, values in points})
    return f"{method} ({counts[0]})" if len(counts) == 1 else f"{method} ({counts[0]} to {counts[-1]})"


def style(method: str) -> dict:
    number = ORDER.index(method) if method in ORDER else len(ORDER)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[(number // len(COLOURS) + number) % len(DASHES)],
        "linewidth": 1.5 if method == "rams" else 1.0,
        "markersize": 3.5,
        "capsize": 1.5,
        "elinewidth": 0.7,
    }


def label(measure: str) -> str:
    return f"{MEASURES[measure]} on the test images"


def page(title: str, below: str, beside: str, height: float = 2.1) -> tuple[Figure, Axes]:
    """A figure of 8 cm width, read at that size."""
    with matplotlib.rc_context({"font.size": 7, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=7, weight="bold")
        axes.set_xlabel(below)
        axes.set_ylabel(beside)
        axes.grid(color="#e5e5e5", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(width=0.6, length=2.5, pad=2)
    return figure, axes


def legend(figure: Figure, axes: Axes, words: str = "") -> None:
    """The methods below the axes, with the words above them; the figure becomes so much higher."""
    entries = len(axes.get_legend_handles_labels()[0])
    title = f"{words}Number of seeds in brackets; bars or bands are 95 % intervals."
    figure.set_size_inches(WIDTH, figure.get_figheight() + 0.14 * (-(-entries // 3) + title.count("\n")))
    look = {"frameon": False, "fontsize": 6.5, "handlelength": 2, "columnspacing": 1, "title_fontsize": 6}
    made = figure.legend(loc="outside lower left", ncols=3, title=title, alignment="left", **look)
    made.get_title().set_color("#444444")


def png(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return stream.getvalue()


if __name__ == "__main__":
    main()
