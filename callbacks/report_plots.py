"""Pictures of a run: pure functions from frames and arrays to figures; nothing here reads or writes a file.

Figures are made without pyplot, so that no window system, global state or open-figure list is involved.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, MUTED, GRID = "#22303c", "#6b7a89", "#e3e8ed"
BLUE, ORANGE, GREEN, RED, PURPLE, TEAL = "#2f6db2", "#e08a2e", "#3c9d5d", "#cc4b45", "#8465b0", "#2b9c9c"
HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#d6e4f2", "#86b2db", "#2f6db2", "#123a68"])
ANNOTATE_UP_TO = 40  # beyond this many classes the numbers in the cells are too small to read
METRIC_LABELS = {
    "weighted_f1": "Weighted F1",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "macro_precision": "Macro-precision",
    "macro_recall": "Macro-recall",
    "nll": "NLL",
    "ece": "ECE",
    "loss": "Loss",
}


def metric_label(name: str) -> str:
    """Turn a metric's key into words: ``top3`` -> ``Top-3 accuracy``."""
    if name.startswith("top") and name[3:].isdigit():
        return f"Top-{name[3:]} accuracy"
    return METRIC_LABELS.get(name, name)


def f1_colour(value: float) -> str:
    """Green above 0.7, orange above 0.5, red below (the bounds of the signs brief)."""
    return GREEN if value > 0.7 else ORANGE if value > 0.5 else RED


def _figure(width: float, height: float, margins: Mapping[str, float] | None = None) -> Figure:
    """Make a figure; without given margins they are found from the texts, which takes as long as the drawing."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12) if margins is None else None
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    if margins is not None:
        figure.subplots_adjust(**margins)
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes, title: str, xlabel: str = "", ylabel: str = "", grid: str = "y") -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(xlabel, color=MUTED)
    axes.set_ylabel(ylabel, color=MUTED)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]  # one of "x", "y", "both"
    axes.set_axisbelow(True)


def _line(axes: Axes, log: pd.DataFrame, column: str, label: str, colour: str, style: str = "-") -> None:
    if column not in log:
        return
    rows = log[["epoch", column]].dropna()
    marker = "o" if len(rows) < 25 else None
    axes.plot(
        rows["epoch"], rows[column], style, color=colour, label=label, linewidth=1.9, marker=marker, markersize=3.5
    )


def _best_line(axes: Axes, best_epoch: int | None) -> None:
    if best_epoch is not None:
        axes.axvline(best_epoch, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label=f"best epoch ({best_epoch})")


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def curves(
    log: pd.DataFrame,
    values: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
    best_epoch: int | None = None,
    title: str = "",
    part: str = "validation",
) -> Figure:
    """Draw the course of training, 2 x 2: loss, scores, learning rate with gradient norm, final metrics.

    Args:
        log: ``training_log.csv``; missing columns are left out of the picture.
        values: Final metrics; those between 0 and 1 of which higher is better become bars.
        intervals: Metric -> (low, high).
        best_epoch: Marked by a line.
        title: Above all four.
        part: The part of the data that ``values`` belongs to.
    """
    margins = {"left": 0.085, "right": 0.945, "bottom": 0.065, "top": 0.9, "wspace": 0.22, "hspace": 0.27}
    figure = _figure(13, 8.6, margins)
    ((loss, score), (rate, final)) = figure.subplots(2, 2)
    _line(loss, log, "train/loss", "training", BLUE)
    _line(loss, log, "val/loss", "validation", ORANGE)
    _line(loss, log, "val/nll", "validation NLL", ORANGE, ":")
    _line(score, log, "train/accuracy", "training accuracy", BLUE)
    _line(score, log, "val/accuracy", "validation accuracy", ORANGE)
    _line(score, log, "val/macro_f1", "validation macro-F1", GREEN)
    for axes, name in ((loss, "Loss"), (score, "Accuracy and macro-F1")):
        _best_line(axes, best_epoch)
        _style(axes, name, "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
    score.set_ylim(0, 1.02)
    score.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (loss, score, rate):  # a single epoch gets an axis of its own width, not of nothing
        axes.set_xlim(-0.5, max(float(log["epoch"].max()), 1.0) + 0.5)
    _rate(rate, log)
    _final(final, values, intervals, part)
    if title:
        figure.suptitle(title, fontsize=14, fontweight="bold", color=INK)
    return figure


def _rate(axes: Axes, log: pd.DataFrame) -> None:
    _line(axes, log, "lr", "learning rate", PURPLE)
    _style(axes, "Learning rate and gradient norm", "epoch", "learning rate (log)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "lr" in log and (log["lr"] > 0).any():
        above = log["lr"][log["lr"] > 0]
        axes.set_ylim(above.min() / 2, above.max() * 2)  # one value alone, beside a last one of 0, spans nothing
        axes.set_yscale("log")
    handles, labels, top = *axes.get_legend_handles_labels(), axes
    if "grad/norm" in log:
        right = axes.twinx()
        _line(right, log, "grad/norm", "gradient norm", TEAL)
        right.set_ylabel("gradient norm", color=MUTED)
        right.tick_params(colors=INK, labelsize=9, length=0)
        right.spines[:].set_visible(False)
        handles, labels, top = [*handles, *right.get_lines()], [*labels, "gradient norm"], right  # right is drawn last
    if handles:
        top.legend(handles, labels, fontsize=9, labelcolor=INK, loc="lower left", framealpha=0.85, edgecolor="none")


def _final(axes: Axes, values: Mapping[str, float], intervals: Mapping[str, Sequence[float]], part: str) -> None:
    names = [n for n in values if n in ("accuracy", "macro_f1") or (n.startswith("top") and n[3:].isdigit())]
    heights = [values[name] for name in names]
    axes.bar(range(len(names)), heights, width=0.58, color=[BLUE, GREEN, PURPLE, TEAL][: len(names)])
    for position, (name, height) in enumerate(zip(names, heights, strict=True)):
        low, high = intervals.get(name, (height, height))
        axes.plot([position, position], [low, high], color=INK, linewidth=1.6)
        axes.text(
            position,
            max(high, height) + 0.025,
            f"{height:.3f}",
            ha="center",
            fontsize=10.5,
            fontweight="bold",
            color=INK,
        )
        if high > low:
            axes.text(position, 0.03, f"{low:.3f} to {high:.3f}", ha="center", fontsize=9, color="white")
    _style(axes, f"Final metrics on {part} (line = 95 % interval)")
    axes.set_xticks(range(len(names)), [metric_label(name) for name in names])
    axes.set_ylim(0, 1.13)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def confusion(matrix: np.ndarray, names: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """Draw a confusion matrix (C, C), rows = truth, coloured by the share of each row; counts up to 40 classes."""
    count = len(names)
    size = float(np.clip(3.2 + 0.42 * count, 6.0, 20.0))
    font = float(np.clip(0.6 * 0.85 * size * 72 / count, 4.0, 11.0))  # at most 0.6 of a cell's height, in points
    figure = _figure(size + 1.2, size)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap=HEAT, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(
        range(count),
        names,
        rotation=45 if count <= ANNOTATE_UP_TO else 90,
        fontsize=font,
        color=INK,
        ha="right" if count <= ANNOTATE_UP_TO else "center",
        rotation_mode="anchor" if count <= ANNOTATE_UP_TO else "default",
    )
    axes.set_yticks(range(count), names, fontsize=font, color=INK)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    if count <= ANNOTATE_UP_TO:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour, text = "white" if share[row, column] > 0.45 else INK, str(int(matrix[row, column]))
            # inside the axes: no need to be measured for the layout
            axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour, in_layout=False)
    axes.set_xlabel("predicted", color=MUTED, fontsize=12)
    axes.set_ylabel("truth", color=MUTED, fontsize=12)
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=12)
    bar = figure.colorbar(image, cax=axes.inset_axes((1.02, 0, 0.025, 1)), format=PercentFormatter(1.0, decimals=0))
    bar.set_label("share of the row", color=MUTED)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=INK)
    return figure


def per_class(frame: pd.DataFrame, title: str = "Precision, recall and F1 of each class") -> Figure:
    """Draw three bar charts; the frame has class, precision, recall, f1-score, support, one row per class."""
    frame = frame.sort_values("f1-score", kind="stable", ascending=True)
    count = len(frame)
    font = 9.0 if count <= 60 else 7.0
    figure = _figure(13, float(np.clip(1.8 + 0.27 * count, 3.2, 30.0)))
    panels = figure.subplots(1, 3, sharey=True)
    names = [f"{name}  ({int(support)})" for name, support in zip(frame["class"], frame["support"], strict=True)]
    for axes, column, label in zip(
        panels, ("precision", "recall", "f1-score"), ("Precision", "Recall", "F1"), strict=True
    ):
        values = frame[column].fillna(0.0).to_numpy()
        axes.barh(range(count), values, height=0.72, color=[f1_colour(value) for value in values])
        for position, value in enumerate(values):
            text = f"{value:.2f}"
            axes.text(value + 0.015, position, text, va="center", fontsize=font - 0.5, color=INK, in_layout=False)
        _style(axes, label, grid="x")
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.set_ylim(-0.6, count - 0.4)
    panels[0].set_yticks(range(count), names, fontsize=font, color=INK)
    figure.suptitle(
        f"{title}  ·  green > 0.7, orange > 0.5  ·  (n) = support", fontsize=13, fontweight="bold", color=INK
    )
    return figure


def calibration(
    confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray, ece: float, title: str = "Calibration"
) -> Figure:
    """Draw a reliability diagram over equal-width bins; all arrays (bins,), empty bins have count 0."""
    bins = len(count)
    centres, width = (np.arange(bins) + 0.5) / bins, 1.0 / bins
    figure = _figure(7.2, 7.6, {"left": 0.11, "right": 0.97, "bottom": 0.08, "top": 0.94, "hspace": 0.2})
    top, bottom = figure.subplots(2, 1, height_ratios=[3.4, 1], sharex=True)
    filled = count > 0
    top.bar(centres[filled], accuracy[filled], width * 0.92, color=BLUE, label="accuracy in the bin")
    top.vlines(centres[filled], accuracy[filled], confidence[filled], color=RED, linewidth=1.6)
    top.hlines(
        confidence[filled],
        centres[filled] - width * 0.3,
        centres[filled] + width * 0.3,
        color=RED,
        linewidth=2.6,
        label="mean confidence in the bin",
    )
    top.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color=MUTED, linewidth=1.3, label="perfectly calibrated")
    _style(top, f"{title}: ECE {ece:.3f}", ylabel="accuracy")
    top.set_xlim(0, 1)
    top.set_ylim(0, 1.02)
    top.legend(frameon=False, loc="upper left", fontsize=9, labelcolor=INK)
    bottom.bar(centres, count, width * 0.92, color=MUTED)
    for centre, number in zip(centres[filled], count[filled], strict=True):
        bottom.text(centre, number, f"{int(number)}", ha="center", va="bottom", fontsize=8, color=INK)
    _style(bottom, "Samples in each bin", "confidence (largest probability)", "samples")
    bottom.set_ylim(0, max(1.0, float(count.max(initial=0))) * 1.25)
    return figure


def comparison(frame: pd.DataFrame, metric: str, title: str = "") -> Figure:
    """Draw one bar per row with its interval; the frame has run, seeds, METRIC, METRIC_low, METRIC_high."""
    count = len(frame)
    figure = _figure(10, float(np.clip(1.9 + 0.55 * count, 3.2, 24.0)))
    axes = figure.subplots()
    values = frame[metric].to_numpy(dtype=float)
    low, high = (frame[f"{metric}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
    axes.barh(range(count), values, height=0.6, color=[MUTED] + [BLUE] * (count - 1))
    for position, value in enumerate(values):
        axes.plot([low[position], high[position]], [position, position], color=INK, linewidth=1.8)
        axes.text(
            max(high[position], value) + 0.01,
            position,
            f"{value:.3f}",
            va="center",
            fontsize=10,
            fontweight="bold",
            color=INK,
        )
    seeds = frame["seeds"].to_numpy()
    labels = [f"{name}  ({n} seeds)" if n > 1 else str(name) for name, n in zip(frame["run"], seeds, strict=True)]
    axes.set_yticks(range(count), labels, color=INK)
    axes.invert_yaxis()
    _style(axes, title or f"{metric_label(metric)} on the same test samples (line = 95 % interval)", grid="x")
    if np.nanmin(values) >= 0 and np.nanmax(high) <= 1:
        axes.set_xlim(0, 1.1)
    return figure
