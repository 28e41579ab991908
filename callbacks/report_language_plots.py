"""Pictures of a language run: curves, loss by distance, heat maps of attention and of the memory's reads."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from callbacks import report_files as files
from callbacks.report_language_score import Looked
from callbacks.report_plots import BLUE, GREEN, HEAT, INK, MUTED, ORANGE, _figure, _style

MODES = {"on": BLUE, "off": ORANGE, "shuffled": MUTED}


def curves(log: pd.DataFrame, test: float | None, best: int | None, title: str) -> Figure:
    """Draw loss per token, and perplexity per word on validation, by epoch.

    Args:
        log: ``training_log.csv``.
        test: Perplexity per word of the part that was judged, or ``None``.
        best: Epoch of the weights that were judged.
        title: Headline.
    """
    figure = _figure(12, 4.6)
    left, right = figure.subplots(1, 2)
    for name, colour in (("train/loss", BLUE), ("val/nll", ORANGE)):
        if name in log:
            left.plot(log["epoch"], log[name], color=colour, marker="o", markersize=3, label=name)
    if left.lines:
        left.legend(frameon=False)
    _style(left, title, "epoch", "nats per token")
    if "val/word_ppl" in log:
        right.plot(log["epoch"], log["val/word_ppl"], color=ORANGE, marker="o", markersize=3, label="validation")
        right.set_yscale("log")
    if test is not None:
        right.axhline(test, color=GREEN, linestyle="--", linewidth=1, label="judged, best weights")
    for axes in (left, right):
        if best is not None:
            axes.axvline(best, color=MUTED, linestyle=":", linewidth=1)
    if right.lines:
        right.legend(frameon=False)
    _style(right, "Perplexity per word", "epoch", "perplexity (log scale)")
    return figure


def distances(modes: Mapping[str, Sequence[Mapping[str, float]]], window: int, where: str) -> Figure:
    """Draw the perplexity by distance of the last mention, one line a state of the memory."""
    figure = _figure(9, 4.6)
    axes = figure.subplots()
    lows = sorted({row["low"] for rows in modes.values() for row in rows})
    for mode, rows in modes.items():
        places = [lows.index(row["low"]) for row in rows]
        label = f"memory {mode}" if len(modes) > 1 else "perplexity"
        axes.plot(places, [row["perplexity"] for row in rows], "o-", color=MODES[mode], markersize=4, label=label)
    names = ["never" if low == 0 else f"{low:.0f}+" for low in lows]
    axes.set_xticks(range(len(lows)), names)
    beyond = [place for place, low in enumerate(lows) if low > window]
    if beyond:
        axes.axvspan(beyond[0] - 0.5, len(lows) - 0.5, color="#f3f0e6", zorder=0)
        axes.annotate(
            "beyond the window", (beyond[0] - 0.4, 0.96), xycoords=("data", "axes fraction"), color=INK, va="top"
        )
    axes.set_yscale("log")
    axes.legend(frameon=False)
    _style(axes, f"Perplexity by distance of the last mention, {where}", "tokens since", "perplexity (log scale)")
    return figure


def heat_map(weights: np.ndarray, title: str, xlabel: str, ylabel: str) -> Figure:
    """Draw weights (rows, columns) as colours; roots of the weights, for most of them are small."""
    figure = _figure(7, 6)
    axes = figure.subplots()
    axes.imshow(np.sqrt(np.clip(weights, 0, None)), cmap=HEAT, aspect="auto", interpolation="nearest")
    _style(axes, title, xlabel, ylabel, grid="")
    return figure


def write(
    root: Path,
    stage: str,
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    log: pd.DataFrame,
    looked: Looked | None,
) -> None:
    """Write the pictures of a stage.

    Args:
        root: Run folder.
        stage: Sub-folder.
        metrics: Figures of the stage.
        run: ``run.json``.
        log: ``training_log.csv``.
        looked: Weights for the heat maps, or ``None``.
    """
    where = {"val": "validation"}.get(metrics["part"], metrics["part"])
    modes = {mode: rows for mode, rows in metrics["by_distance"].items() if rows}
    picture = distances(modes, metrics["protocol"]["window"], where)
    files.write_figure(root / stage / "distance.png", picture)
    if len(log):
        value = metrics["values"]["word_perplexity"]
        title = f"{run.get('system', '')} · {root.name}"
        files.write_figure(
            root / "curves.png", curves(log, value if math.isfinite(value) else None, run.get("best_epoch"), title)
        )
    if looked is not None and looked.attention_map is not None:
        picture = heat_map(looked.attention_map, "Attention, last block, mean over heads", "looked at", "position")
        files.write_figure(root / stage / "attention.png", picture)
    if looked is not None and looked.read_map is not None:
        picture = heat_map(looked.read_map, "Reads of the memory", "slot", "position")
        files.write_figure(root / stage / "slots.png", picture)
