"""The curves of a run: losses, scores, growth and schedule over the steps; and the agreement of two measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rams_jax.biometry import agreement
from rams_jax.canvas import axes_at, page, write


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve: the key in the rows, what to call it, and how it looks in colour and without."""

    key: str
    label: str
    colour: str
    dash: str
    marker: str


@dataclasses.dataclass(frozen=True)
class Panel:
    """One coordinate system of the curves."""

    title: str
    series: tuple[Series, ...]
    share: bool = False  # values lie between 0 and 1
    noisy: bool = False  # a running mean is drawn over the values


PANELS = (
    Panel(
        "Losses of the training crops",
        (
            Series("loss", "total", "black", "-", "o"),
            Series("loss_segmentation", "segmentation", "#0072B2", "--", "s"),
            Series("loss_approximation", "approximation", "#C04A00", "-.", "^"),
            Series("loss_auxiliary", "auxiliary", "#007A59", ":", "D"),
        ),
        noisy=True,
    ),
    Panel(
        "Validation images: agreement with the truth",
        (Series("val_dice", "Dice", "#0072B2", "-", "o"), Series("val_aji", "AJI", "#C04A00", "--", "s")),
        share=True,
    ),
    Panel(
        "Grown masks: agreement with the truth",
        (
            Series("masks_precision", "precision", "#0072B2", "--", "s"),
            Series("masks_recall", "recall", "#C04A00", "-.", "^"),
            Series("masks_dice", "Dice", "black", "-", "o"),
        ),
        share=True,
    ),
    Panel("Area of the masks, in areas of the marks", (Series("area", "area", "black", "-", "o"),)),
    Panel(
        "Schedule: share of the objects to cover, score to join",
        (Series("coverage", "coverage κ", "#0072B2", "-", "o"), Series("tau", "threshold τ", "#C04A00", "--", "s")),
        share=True,
    ),
    Panel("Instances held back by a brake", (Series("held", "instances", "black", "-", "o"),)),
)


def training_curves(rows: Sequence[dict]) -> Figure:
    """Losses, scores, growth and schedule over the steps; a panel without any value is left out.

    Args:
      rows: the lines of metrics.jsonl; each has `step` and some of the keys in `PANELS`. A value is a number, a list of
        numbers (one curve a class) or None; values that are not finite are skipped.
    """
    panels = [panel for panel in PANELS if any(_curves(rows, series) for series in panel.series)]
    lines = max(1, -(-len(panels) // 2))
    figure, text = page(1500, 400 * lines + 20)
    if not panels:
        write(figure, 40, 40, "No values were logged yet.", text)
    for i, panel in enumerate(panels):
        axes = axes_at(figure, 80 + (i % 2) * 745, 60 + (i // 2) * 400, 480, 270)
        axes.set_title(panel.title, loc="left", fontsize=text, weight="bold")
        axes.tick_params(labelsize=text * 0.85)
        axes.set_xlabel("step", fontsize=text * 0.9)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, max(1, *(row["step"] for row in rows)))
        _draw_panel(axes, panel, rows, text)
    return figure


def bland_altman(measured: Sequence[float], reference: Sequence[float], quantity: str, unit: str) -> Figure:
    """Difference against mean of two ways to measure, with the bias and the 95 % limits of agreement.

    Args:
      measured: N values; those that are NaN are left out.
      reference: N values of the same unit.
      quantity: what was measured, such as "head circumference".
      unit: such as "mm".
    """
    both = np.array([measured, reference], float)
    both = both[:, np.isfinite(both).all(axis=0)]
    middle, difference = both.mean(axis=0), both[0] - both[1]
    figure, text = page(1200, 640)
    axes = axes_at(figure, 110, 60, 800, 480)
    axes.set_title(
        f"{quantity}: predicted against measured by a person", loc="left", fontsize=text * 1.1, weight="bold"
    )
    axes.set_xlabel(f"mean of both, {unit}", fontsize=text)
    axes.set_ylabel(f"predicted - measured, {unit}", fontsize=text)
    axes.tick_params(labelsize=text * 0.9)
    axes.spines[["top", "right"]].set_visible(False)
    if not len(difference):
        write(figure, 130, 80, "No value was predicted.", text)
        return figure
    axes.scatter(middle, difference, s=26, facecolor="none", edgecolor="#0072B2", linewidth=1.2)
    axes.axhline(0, color="#bbbbbb", linewidth=1, zorder=0)
    limits = agreement(both[0], both[1])
    lines = (
        ("upper limit", limits["upper"], "--"),
        ("bias", limits["bias"], "-"),
        ("lower limit", limits["lower"], "--"),
    )
    known = [line for line in lines if np.isfinite(line[1])]
    low, high = axes.get_ylim()
    low, high = min([low, *(at for _, at, _ in known)]), max([high, *(at for _, at, _ in known)])
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    axes.set_ylim(low, high)
    heights = spread(np.array([(at - low) / (high - low) for _, at, _ in known]), 0.06)
    for (label, at, dash), height in zip(known, heights, strict=True):
        axes.axhline(at, color="black", linestyle=dash, linewidth=1.6)
        axes.text(1.02, height, f"{label} {at:+.2f} {unit}", fontsize=text, va="center", transform=axes.transAxes)
    return figure


def _draw_panel(axes: Axes, panel: Panel, rows: Sequence[dict], text: float) -> None:
    ends = []
    lowest = 1.0
    for series in panel.series:
        for number, (steps, values) in enumerate(curves := _curves(rows, series)):
            smooth = _running_mean(values, len(values) // 30 if panel.noisy else 1)
            if smooth is not values:
                axes.plot(steps, values, color=series.colour, linewidth=0.7, alpha=0.35)
            axes.plot(
                steps,
                smooth,
                color=series.colour,
                linestyle=series.dash,
                linewidth=2,
                marker=series.marker,
                markevery=max(1, len(steps) // 8),
            )
            name = series.label if len(curves) == 1 else f"{series.label}, class {number + 1}"
            value = f"{smooth[-1]:.2f}" if panel.share or panel.noisy else f"{smooth[-1]:.3g}"
            ends.append((float(smooth[-1]), f"{name} {value}", series.colour))
            lowest = min(lowest, float(np.nanmin(values)))
    if panel.share:
        axes.set_ylim(max(0.0, np.floor(lowest * 10) / 10 - 0.02), 1.02)
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylim(top=max(axes.get_ylim()[1], 1e-3))
    low, high = axes.get_ylim()
    heights = spread(np.array([(end - low) / (high - low) for end, _, _ in ends]), min(0.1, 1 / len(ends)))
    for (end, label, colour), height in zip(ends, heights, strict=True):
        at = (end - low) / (high - low)
        axes.plot([1.005, 1.04], [at, height], color=colour, linewidth=1, clip_on=False, transform=axes.transAxes)
        axes.text(1.05, height, label, color=colour, fontsize=text * 0.9, va="center", transform=axes.transAxes)


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Moves heights in 0..1 apart until neighbours are at least `gap` from each other, keeping their order."""
    order = np.argsort(heights, kind="stable")
    placed = heights[order].astype(float)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], 1 - gap * (len(placed) - 1 - i))
    moved = np.empty_like(placed)
    moved[order] = placed
    return moved


def _curves(rows: Sequence[dict], series: Series) -> list[tuple[np.ndarray, np.ndarray]]:
    points = [(row["step"], np.atleast_1d(row[series.key])) for row in rows if row.get(series.key) is not None]
    if not points:
        return []
    steps = np.array([step for step, _ in points])
    columns = np.array([value for _, value in points], dtype=float).T
    finite = [(steps[np.isfinite(c)], c[np.isfinite(c)]) for c in columns]
    return [(s, c) for s, c in finite if len(c)]


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    if window < 2:
        return values
    sums = np.convolve(values, np.ones(window), mode="same")
    return sums / np.convolve(np.ones_like(values), np.ones(window), mode="same")
