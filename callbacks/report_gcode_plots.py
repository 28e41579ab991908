"""Pictures of a decoder's report: the course of training, the confusion of operations, accuracy by recording."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from callbacks import report_files as files
from callbacks.report_gcode_files import LinePredictions
from callbacks.report_plots import BLUE, GREEN, MUTED, ORANGE, PURPLE, RED, TEAL, _figure, _style, confusion
from modules import line_metrics, statistics

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, TEAL, RED)


def curves(log: pd.DataFrame, best: int | None, title: str) -> Figure:
    """Draw the losses and the accuracies of the training log by epoch.

    Args:
        log: ``training_log.csv``.
        best: Epoch of the weights that were judged.
        title: Headline.
    """
    figure = _figure(12, 4.6)
    panels = figure.subplots(1, 2)
    named = [str(name) for name in log if str(name).startswith(("train/", "val/"))]
    losses = [name for name in named if name.endswith(("/loss", "/nll"))]
    scores = [name for name in named if "accuracy" in name]
    for axes, names, heading in zip(panels, (losses, scores), (title, "Accuracies"), strict=True):
        for name, colour in zip(names, COLOURS * (len(names) // len(COLOURS) + 1), strict=False):
            rows = log[["epoch", name]].dropna()
            axes.plot(rows["epoch"], rows[name], color=colour, marker="o", markersize=3, label=name)
        if best is not None:
            axes.axvline(best, color=MUTED, linestyle=":", linewidth=1)
        if axes.lines and names:
            axes.legend(frameon=False, fontsize=8)
        _style(axes, heading, "epoch")
    return figure


def by_recording(found: LinePredictions) -> Figure:
    """Draw the share of right lines of each recording, lowest first, with the mean over all windows."""
    names = np.unique(found.group)
    right = found.sums["line_accuracy"]
    share = np.array([line_metrics.measured({"x": right[found.group == name]})["x"] for name in names])
    order = np.argsort(share, kind="stable")
    figure = _figure(9, float(np.clip(1.6 + 0.2 * len(names), 3, 16)))
    axes = figure.subplots()
    axes.barh(range(len(names)), share[order], color=BLUE, height=0.7)
    axes.axvline(float(right[:, 0].mean()), color=ORANGE, linewidth=1.2)
    axes.set_yticks(range(len(names)), names[order].tolist(), fontsize=7)
    axes.set_xlim(0, 1)
    _style(axes, "Whole lines right, free-running, by recording (line = all windows)", "share", grid="x")
    return figure


def write(
    root: Path,
    stage: str,
    found: LinePredictions,
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    log: pd.DataFrame,
) -> None:
    """Write the pictures of a stage.

    Args:
        root: Run folder.
        stage: Sub-folder.
        found: Labelled predictions.
        metrics: Figures of the stage.
        run: ``run.json``.
        log: ``training_log.csv``.
    """
    folder, names = root / stage, [str(name) for name in found.class_names]
    matrix = statistics.confusion(found.prob, found.y, len(names))
    files.write_figure(folder / "confusion.png", confusion(matrix, names, f"Operations, {metrics['n']} windows"))
    files.write_figure(folder / "recordings.png", by_recording(found))
    if len(log):
        title = f"{run.get('system', '')} · {root.name}"
        files.write_figure(root / "curves.png", curves(log, run.get("best_epoch"), title))
