"""A grid of pictures with what they show and what was answered."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from callbacks.report_plots import GREEN, INK, MUTED, RED

COLUMNS = 6
CELL, GAP, LINES = 2.0, 0.15, 0.42  # inches: a picture, the space between two, the two lines above it
HEAD = 0.55


def grid(pictures: np.ndarray, said: Sequence[tuple[str, str, float]], title: str) -> Figure:
    """Draw pictures with two lines above each: the truth, and the answer with its probability, green where right.

    All in one system of axes, in inches: axes of their own would take a hundred times as long.

    Args:
        pictures: (n, H, W, 3) uint8.
        said: n times truth, answer, probability.
        title: Above all.
    """
    rows = -(-len(pictures) // COLUMNS)
    width, height = COLUMNS * (CELL + GAP) + GAP, rows * (CELL + LINES + GAP) + HEAD
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.text(GAP, height - HEAD / 2, title, fontsize=13, fontweight="bold", color=INK, va="center")
    for place, (picture, (truth, answer, share)) in enumerate(zip(pictures, said, strict=True)):
        left = GAP + place % COLUMNS * (CELL + GAP)
        top = height - HEAD - place // COLUMNS * (CELL + LINES + GAP) - LINES
        axes.imshow(picture, extent=(left, left + CELL, top - CELL, top), aspect="auto")
        axes.text(left, top + 0.24, _short(truth), fontsize=8, color=MUTED)
        colour = GREEN if truth == answer else RED
        axes.text(left, top + 0.06, f"{_short(answer)} {share:.2f}", fontsize=8, color=colour)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    return figure


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
