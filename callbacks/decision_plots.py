"""The picture of a run's decisions: what a threshold trades, and what abstaining buys."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.report_plots import BLUE, GREEN, INK, MUTED, ORANGE, _figure, _style

_STYLES = {"val": "--", "fitted": "--", "test": "-"}


def decisions(curves: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]) -> Figure:
    """Draw rule A over its threshold, the positive class of rule B over its own, and accuracy over coverage.

    Args:
        curves: ``curve_a``, ``curve_b`` and ``abstention`` as they are stored; those that are missing have no panel.
        facts: Positive class and what was fitted, by fold.
    """
    panels = [name for name in ("curve_a", "curve_b", "abstention") if name in curves]
    figure = _figure(6.0 * max(1, len(panels)), 4.4)
    if not panels:
        figure.text(0.5, 0.5, "no thresholds and no calibration part", ha="center", color=MUTED)
        return figure
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if name == "abstention":
            _abstention(axes, curves[name], facts)
            continue
        frame = curves[name]
        frame = frame[frame["class"] == facts["positive"]] if name == "curve_b" else frame
        chosen = [fold["a"] if name == "curve_a" else fold["b"][facts["positive"]] for fold in facts["fitted"].values()]
        _threshold(axes, frame, f"Rule {name[-1].upper()}, threshold of {facts['positive']}", chosen)
    return figure


def _threshold(axes: Axes, frame: pd.DataFrame, title: str, chosen: list[float | None]) -> None:
    colours = {"accuracy": BLUE, "macro_f1": GREEN, "recall": ORANGE}
    for part, rows in frame.groupby("part", sort=False):
        for metric, colour in colours.items():
            label = f"{metric.replace('_', '-')} ({part})"
            axes.plot(rows["threshold"], rows[metric], _STYLES[str(part)], color=colour, label=label, linewidth=1.6)
    for value in sorted({value for value in chosen if value is not None}):
        axes.axvline(value, color=INK, linewidth=1.0, linestyle=":")
    _style(axes, title, "threshold (dotted: chosen on validation)", "share")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8, frameon=False)


def _abstention(axes: Axes, frame: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    for part, rows in frame.groupby("part", sort=False):
        label = "test" if part == "test" else str(facts["calibrated_on"])
        axes.plot(rows["coverage"], rows["accuracy"], _STYLES[str(part)], color=BLUE, label=label, linewidth=1.6)
    axes.axhline(facts["answers"], color=INK, linewidth=1.0, linestyle=":")
    _style(axes, "Answering only where sure", "share of samples that are answered", "accuracy of the answers")
    axes.legend(fontsize=8, frameon=False)
