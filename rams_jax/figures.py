"""Pictures of a run: growth of the masks, errors of the predictions. Arrays in, matplotlib figures out.

Panels are placed at whole screen pixels and enlarged by whole factors, so an image pixel is a sharp square whose colour
can be read off the colour bar, and an outline lies exactly between the pixels it separates. Every colour code also
differs in lightness, so the pictures survive a black-and-white printer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.animation import FuncAnimation
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from rams_jax.canvas import DPI, axes_at, page, to_png, write
from rams_jax.curves import training_curves
from rams_jax.types import Example

__all__ = ["growth_animation", "growth_gallery", "growth_rings", "prediction_errors", "to_png", "training_curves"]

MARK = (220, 38, 38)  # red: the one colour that the rings never take
CORRECT, MISSED, EXTRA = (160, 205, 188), (16, 42, 110), (240, 120, 20)  # CIE lightness about 79, 19 and 64
TRUTH_LINE = ("white", "black")  # line, and the rim that keeps it visible on light pixels
PREDICTION_LINE = ("black",)
MARK_LINE = ("black",)


def ring_colours(updates: int) -> np.ndarray:
    """Colours of updates 1..`updates`, light (early) to dark (late): uint8[updates, 3], viridis reversed."""
    table = colormaps["viridis"](np.linspace(0.97, 0.0, max(updates, 1)))[:updates, :3]
    return np.round(table * 255).astype(np.uint8)


def grey_image(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """float32[H, W, C] -> uint8[H, W, 3]: RGB if C = 3, else the first channel; 0.5 % of valid pixels clip each way."""
    shown = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    low, high = np.percentile(shown[valid] if valid.any() else shown, (0.5, 99.5))
    scaled = (shown - low) / max(float(high - low), 1e-6)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def growth_pixels(example: Example, current: np.ndarray, age: np.ndarray, updates: int) -> np.ndarray:
    """The image with the mark in one colour and each update in its own: uint8[H, W, 3].

    Args:
      example: the image; pixels the annotator did not look at come out striped.
      current: int[H, W], A_t; below 1 = in no mask.
      age: int[H, W], the update at which the pixel joined; 0 = drawn.
      updates: the update that gets the darkest colour.
    """
    pixels = _striped(grey_image(example.image, example.valid), example.valid)
    inside = current > 0
    pixels[inside & (age == 0)] = MARK
    grown = inside & (age > 0)
    pixels[grown] = ring_colours(updates)[np.clip(age[grown], 1, updates) - 1] if updates > 0 else MARK
    return pixels


def error_pixels(example: Example, instances: np.ndarray) -> np.ndarray:
    """The washed-out image with every object pixel coloured correct, missed or extra: uint8[H, W, 3].

    Only pixels the annotator looked at are judged; an image without full masks shows every found pixel as correct.
    """
    grey = grey_image(example.image, example.valid).astype(np.float32)
    pixels = _striped(np.round(232 + grey * (23 / 255)).astype(np.uint8), example.valid)
    found = (instances > 0) & example.valid
    truth = found if example.full is None else (example.full > 0) & example.valid
    pixels[found & truth] = CORRECT
    pixels[truth & ~found] = MISSED
    pixels[found & ~truth] = EXTRA
    return pixels


def outline_segments(labels: np.ndarray) -> np.ndarray:
    """The edges between pixels of different labels, as float[E, 2, 2] of (x, y) ends; pixel (0, 0) spans -0.5..0.5.

    Objects that touch are separated; an object cut by the image's edge stays open there.
    """
    labels = np.maximum(labels, 0)
    y, x = np.nonzero(labels[:-1] != labels[1:])
    level = np.stack([np.stack([x - 0.5, y + 0.5], -1), np.stack([x + 0.5, y + 0.5], -1)], 1)
    y, x = np.nonzero(labels[:, :-1] != labels[:, 1:])
    upright = np.stack([np.stack([x + 0.5, y - 0.5], -1), np.stack([x + 0.5, y + 0.5], -1)], 1)
    return np.concatenate([level, upright])


def growth_rings(example: Example, current: np.ndarray, age: np.ndarray, title: str) -> Figure:
    """One training image, plain and with its mask grown in rings.

    Args:
      example: the image, its marks and, where known, its true outlines.
      current: int[H, W], the mask now (instance ids; below 1 = in no mask).
      age: int[H, W], the update at which each pixel joined; 0 = drawn.
      title: one line above the picture.
    """
    height, width = current.shape
    scale = _scale(max(height, width), 720)
    updates = _last_update([current], [age])
    beside = width <= 2 * height
    tall, wide = int(height * scale), int(width * scale)
    gap, top, foot = 24, 96, 150
    page_wide = gap + (wide + gap) * (2 if beside else 1)
    page_tall = top + (tall if beside else 2 * tall + 60) + foot
    figure, text = page(page_wide, page_tall)
    write(figure, gap, 16, title, text * 1.25, weight="bold")
    plain = _striped(grey_image(example.image, example.valid), example.valid)
    _picture(figure, gap, top, scale, plain, "image", text)
    left, below = (2 * gap + wide, top) if beside else (gap, top + tall + 60)
    pixels = growth_pixels(example, current, age, updates)
    grown = _picture(figure, left, below, scale, pixels, "marks, and masks grown from them", text)
    _outline(grown, np.where(age == 0, current, 0), scale, MARK_LINE)
    if example.full is not None:
        _outline(grown, np.where(example.valid, example.full, 0), scale, TRUTH_LINE)
    _growth_key(figure, page_wide, page_tall - foot + 24, updates, [example], text)
    return figure


def growth_gallery(
    examples: Sequence[Example], currents: Sequence[np.ndarray], ages: Sequence[np.ndarray], names: Sequence[str]
) -> Figure:
    """Several training images, one a row: the image, the marks drawn on it, the masks grown from them.

    Each row shows the square window in which most pixels joined, of a side that fits about eight objects across.
    The percentages below a row are of that window, and of pixels the annotator looked at.

    Args:
      examples, currents, ages: as for `growth_rings`, one of each a row; at least one.
      names: what to write beside each row.
    Raises:
      ValueError: no row, or sequences of different lengths.
    """
    if not len(examples) == len(currents) == len(ages) == len(names) or not examples:
        raise ValueError("growth_gallery needs at least one example, and one current, age and name for each")
    shown, currents, ages = _cut_all(examples, currents, ages)
    updates = _last_update(currents, ages)
    tall, wide = (max(c.shape[axis] for c in currents) for axis in (0, 1))
    scale = _scale(max(tall, wide), 440)
    tall, wide = int(tall * scale), int(wide * scale)
    gap, left, top, foot, caption = 20, 56, 60, 150, 52
    page_wide, page_tall = left + 3 * (wide + gap), top + len(shown) * (tall + caption) + foot
    figure, text = page(page_wide, page_tall)
    columns = [left + i * (wide + gap) for i in range(3)]
    for x, heading in zip(columns, ("image", "marks drawn", "grown while training"), strict=True):
        write(figure, x, 20, heading, text * 1.2, weight="bold")
    for row, (example, current, age, name) in enumerate(zip(shown, currents, ages, names, strict=True)):
        y = top + row * (tall + caption)
        write(figure, 18, y + tall / 2, name, text * 0.85, rotation=90, va="center")
        plain = _striped(grey_image(example.image, example.valid), example.valid)
        mark = np.where(age == 0, np.maximum(current, 0), 0)
        steps = (plain, growth_pixels(example, mark, age, updates), growth_pixels(example, current, age, updates))
        for x, pixels in zip(columns, steps, strict=True):
            axes = _picture(figure, x, y, scale, pixels, "", text)
            if pixels is plain:
                continue
            _outline(axes, mark, scale, MARK_LINE)
            if example.full is not None:
                _outline(axes, np.where(example.valid, example.full, 0), scale, TRUTH_LINE)
        for x, mask in zip(columns[1:], (mark, current), strict=True):
            write(figure, x, y + tall + 8, _covers(example, mask, mark), text * 0.95)
    _growth_key(figure, page_wide, page_tall - foot + 18, updates, shown, text)
    return figure


def growth_animation(
    examples: Sequence[Example], currents: Sequence[np.ndarray], ages: Sequence[np.ndarray]
) -> FuncAnimation:
    """The masks of several training images at each update, as a film.

    Frame t shows the pixels of the masks that joined up to update t; frame 0 shows the marks. A pixel that a mask gave
    up again is in no frame. Each panel shows the window that `growth_gallery` would show.

    Args:
      examples, currents, ages: as for `growth_rings`, one of each a panel; at least one.

    Returns:
      A frame for each update and one more; `to_jshtml` makes a player of it that needs no other program.

    Raises:
      ValueError: no panel, or sequences of different lengths.
    """
    if not len(examples) == len(currents) == len(ages) or not examples:
        raise ValueError("growth_animation needs at least one example, and one current and age for each")
    shown, currents, ages = _cut_all(examples, currents, ages)
    updates = _last_update(currents, ages)
    tall, wide = (max(c.shape[axis] for c in currents) for axis in (0, 1))
    scale = _scale(max(tall, wide), 260)
    tall, wide = int(tall * scale), int(wide * scale)
    gap, top, foot, columns = 20, 76, 150, min(3, len(shown))
    rows = -(-len(shown) // columns)
    page_wide, page_tall = max(700, gap + columns * (wide + gap)), top + rows * (tall + 36) + foot
    figure, text = page(page_wide, page_tall)
    heading = write(figure, gap, 14, "", text * 1.3, weight="bold")
    pictures = []
    for i, (example, current, age) in enumerate(zip(shown, currents, ages, strict=True)):
        x, y = gap + i % columns * (wide + gap), top + i // columns * (tall + 36)
        axes = _picture(figure, x, y, scale, growth_pixels(example, current, age, updates), example.name, text * 0.9)
        if example.full is not None:
            _outline(axes, np.where(example.valid, example.full, 0), scale, TRUTH_LINE)
        pictures.append(axes.images[0])
    _growth_key(figure, page_wide, page_tall - foot + 18, updates, shown, text)

    def draw(update: int) -> list[Artist]:
        heading.set_text(f"update {update} of {updates}")
        for picture, example, current, age in zip(pictures, shown, currents, ages, strict=True):
            picture.set_data(growth_pixels(example, np.where(age <= update, current, 0), age, updates))
        return [heading, *pictures]

    return FuncAnimation(figure, draw, frames=updates + 1, interval=600)


def prediction_errors(example: Example, instances: np.ndarray, score_text: str) -> Figure:
    """An image, its true outlines, and the prediction coloured by what is right and wrong with it.

    Args:
      example: the image; without full masks the middle panel is left out and nothing is called wrong.
      instances: int[H, W], the predicted objects.
      score_text: one line of scores beside the name.
    """
    height, width = instances.shape
    panels = 2 if example.full is None else 3
    beside = width * panels <= 4 * height
    scale = _scale(max(height, width), 700 if beside else 1100)
    tall, wide = int(height * scale), int(width * scale)
    gap, top, foot = 24, 116, 84
    page_wide = gap + (wide + gap) * (panels if beside else 1)
    page_tall = top + (tall if beside else panels * (tall + 64) - 64) + foot
    figure, text = page(page_wide, page_tall)
    write(figure, gap, 16, f"{example.name}   {score_text}", text * 1.2, weight="bold")
    places = [(gap + i * (wide + gap), top) if beside else (gap, top + i * (tall + 64)) for i in range(panels)]
    plain = _striped(grey_image(example.image, example.valid), example.valid)
    _picture(figure, *places[0], scale, plain, "image", text)
    if example.full is not None:
        truth = _picture(figure, *places[1], scale, plain, "truth", text)
        _outline(truth, np.where(example.valid, example.full, 0), scale, TRUTH_LINE)
    errors = _picture(figure, *places[-1], scale, error_pixels(example, instances), "prediction", text)
    _outline(errors, np.where(example.valid, instances, 0), scale, PREDICTION_LINE)
    kinds = ((CORRECT, "correct"), (EXTRA, "extra: inside the line"), (MISSED, "missed: outside the line"))
    handles: list[Patch | Line2D] = [Patch(facecolor=_unit(c), edgecolor="black", label=t) for c, t in kinds]
    if example.full is None:
        handles = []
    handles.append(_line_handle(PREDICTION_LINE, "predicted object"))
    _legend(figure, handles, page_wide, page_tall - foot + 14, text)
    return figure


def _scale(pixels: int, target: int) -> float:
    """Screen pixels an image pixel: whole, and at least 1 unless that would take more than 2000 screen pixels."""
    return float(-(-target // pixels)) if pixels <= 2000 else 2000 / pixels


def _last_update(currents: Sequence[np.ndarray], ages: Sequence[np.ndarray]) -> int:
    return max(int(np.max(a, where=c > 0, initial=0)) for c, a in zip(currents, ages, strict=True))


def _window_side(examples: Sequence[Example]) -> int:
    areas: list[int] = []
    for example in examples:
        marked = np.bincount((example.partial if example.full is None else example.full).ravel())[1:]
        areas.extend(marked[marked > 0])
    return max(48, int(8 * np.sqrt(np.median(areas)))) if areas else 128


def _window(current: np.ndarray, age: np.ndarray, side: int) -> tuple[slice, slice]:
    """The square of that side, clipped to the image, in which most pixels joined; marks break ties."""
    weight = np.where(current > 0, 1.0 + (age > 0), 0.0)
    sums = np.pad(weight.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall, wide = min(side, current.shape[0]), min(side, current.shape[1])
    total = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    y, x = np.unravel_index(np.argmax(total), total.shape)
    return slice(int(y), int(y) + tall), slice(int(x), int(x) + wide)


def _cut_all(
    examples: Sequence[Example], currents: Sequence[np.ndarray], ages: Sequence[np.ndarray]
) -> tuple[list[Example], list[np.ndarray], list[np.ndarray]]:
    """Of each image, mask and age the window in which most pixels joined."""
    side = _window_side(examples)
    windows = [_window(c, a, side) for c, a in zip(currents, ages, strict=True)]
    shown = [_cut(example, window) for example, window in zip(examples, windows, strict=True)]
    return (
        shown,
        [c[w] for c, w in zip(currents, windows, strict=True)],
        [a[w] for a, w in zip(ages, windows, strict=True)],
    )


def _cut(example: Example, window: tuple[slice, slice]) -> Example:
    full = None if example.full is None else example.full[window]
    fields = {name: getattr(example, name)[window] for name in ("image", "partial", "valid", "auxiliary")}
    return dataclasses.replace(example, full=full, **fields)


def _covers(example: Example, mask: np.ndarray, mark: np.ndarray) -> str:
    """One line about the mask in this window: its recall and what its precision lacks, in plain words."""
    inside = (mask > 0) & example.valid
    if example.full is None:
        return f"{inside.sum() / max(int((mark > 0).sum()), 1):.1f} times the area drawn"
    truth = (example.full > 0) & example.valid
    covered = (inside & truth).sum() / max(int(truth.sum()), 1)
    outside = (inside & ~truth).sum() / max(int(inside.sum()), 1)
    return f"covers {covered:.0%} of the objects; {outside:.0%} of it lies outside"


def _striped(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    y, x = np.indices(valid.shape)
    period = max(4, max(valid.shape) // 40)
    stripes = np.where((x + y) % period < period / 2, 190, 130).astype(np.uint8)
    return np.where(valid[..., None], pixels, stripes[..., None])


def _picture(
    figure: Figure, left: float, top: float, scale: float, pixels: np.ndarray, title: str, text: float
) -> Axes:
    height, width = pixels.shape[:2]
    axes = axes_at(figure, left, top, int(width * scale), int(height * scale))
    axes.imshow(pixels, interpolation="nearest" if scale >= 1 else "antialiased", aspect="auto")
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=text)
    return axes


def _outline(axes: Axes, labels: np.ndarray, scale: float, colours: tuple[str, ...]) -> None:
    """Draws the edges of the labels; a second colour is a rim on both sides of the line."""
    width = float(np.clip(scale * 0.3, 1.0, 2.4)) * 72 / DPI
    for colour, factor in ((colours[-1], 2.0), (colours[0], 1.0))[2 - len(colours) :]:
        lines = LineCollection(list(outline_segments(labels)), colors=colour, linewidths=width * factor)
        lines.set_capstyle("projecting")
        axes.add_collection(lines, autolim=False)


def _growth_key(
    figure: Figure, width: float, top: float, updates: int, examples: Sequence[Example], text: float
) -> None:
    """Legend and colour bar below the panels."""
    handles: list[Patch | Line2D] = [Patch(facecolor=_unit(MARK), edgecolor="black", label="drawn mark")]
    if any(example.full is not None for example in examples):
        handles.append(_line_handle(TRUTH_LINE, "true boundary"))
    if not all(example.valid.all() for example in examples):
        handles.append(Patch(facecolor="#a0a0a0", edgecolor="#e0e0e0", hatch="////", label="not looked at"))
    _legend(figure, handles, width, top, text)
    if updates == 0:
        return
    bar = axes_at(figure, width * 0.12, top + 44, width * 0.76, 22)
    norm = BoundaryNorm(np.arange(updates + 1) + 0.5, updates)
    mappable = ScalarMappable(norm, ListedColormap(ring_colours(updates) / 255))
    scale = figure.colorbar(mappable, cax=bar, orientation="horizontal", drawedges=updates <= 40)
    scale.set_ticks(np.arange(1, updates + 1, -(-updates // 10)).tolist())
    scale.minorticks_off()
    scale.ax.tick_params(labelsize=text * 0.9)
    scale.set_label("update at which a pixel joined", fontsize=text * 0.95)


def _legend(figure: Figure, handles: Sequence[Patch | Line2D], width: float, top: float, text: float) -> None:
    tall = figure.get_size_inches()[1] * DPI
    figure.legend(
        handles=list(handles),
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - top / tall),
        ncols=len(handles),
        frameon=False,
        fontsize=text,
        borderpad=0,
    )


def _line_handle(colours: tuple[str, ...], label: str) -> Line2D:
    effects = [Stroke(linewidth=4.5, foreground=colours[-1]), Normal()]
    return Line2D([], [], color=colours[0], linewidth=2.2, label=label, path_effects=effects[2 - len(colours) :])


def _unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255
