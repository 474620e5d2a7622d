"""A blank page measured in screen pixels from its top left corner, and its PNG. No pyplot, no global state."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

DPI = 100


def page(width: float, height: float) -> tuple[Figure, float]:
    """A blank figure of that many screen pixels, and its text size in points."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure, float(np.clip(width * 0.0097, 9, 24))


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes that fill exactly this rectangle, screen pixels."""
    wide, tall = figure.get_size_inches() * DPI
    return figure.add_axes((left / wide, 1 - (top + height) / tall, width / wide, height / tall))


def write(figure: Figure, left: float, top: float, words: str, size: float, va: str = "top", **style) -> Text:
    """Text that begins at this point, screen pixels; `size` in points; a $ is a $."""
    wide, tall = figure.get_size_inches() * DPI
    return figure.text(left / wide, 1 - top / tall, words, fontsize=size, va=va, parse_math=False, **style)


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same for the same figure: no date, no version."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return stream.getvalue()
