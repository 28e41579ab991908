"""A grid of pictures with what they show and what was answered."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from callbacks.report_plots import GREEN, INK, MUTED, RED

COLUMNS = 6


def grid(pictures: np.ndarray, said: Sequence[tuple[str, str, float]], title: str) -> Figure:
    """Draw pictures with two lines under each: the truth, and the answer with its probability, green where right.

    Args:
        pictures: (n, H, W, 3) uint8.
        said: n times truth, answer, probability.
        title: Above all.
    """
    rows = -(-len(pictures) // COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 2.65 * rows + 0.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    places = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in places:
        axes.axis("off")
    for axes, picture, (truth, answer, share) in zip(places, pictures, said, strict=False):
        axes.imshow(picture)
        axes.set_title(_short(truth), loc="left", fontsize=8, color=MUTED, pad=14)
        colour = GREEN if truth == answer else RED
        axes.text(0, 1.02, f"{_short(answer)} {share:.2f}", transform=axes.transAxes, fontsize=8, color=colour)
    return figure


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
