"""The picture of an ablation: how far each variant lies from the base, with its interval."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from callbacks.report_plots import GREEN, INK, MUTED, RED, _figure, _style, metric_label


def differences(frame: pd.DataFrame, metric: str, title: str) -> Figure:
    """Draw one point with its interval per row, the largest gain on top.

    Args:
        frame: Columns cell, hoped, ``METRIC_difference`` and its ``_low`` and ``_high``; rows without are left out.
        metric: The metric.
        title: Headline.
    """
    column = f"{metric}_difference"
    shown = frame[frame[column].notna()].sort_values(column, kind="stable")
    figure = _figure(10, float(np.clip(1.9 + 0.38 * len(shown), 3.0, 30.0)))
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1.2)
    for place, row in enumerate(shown.to_dict("records")):
        low, high = row[f"{column}_low"], row[f"{column}_high"]
        better, worse = (RED, GREEN) if metric in ("nll", "ece") else (GREEN, RED)
        colour = better if low > 0 else worse if high < 0 else MUTED
        axes.plot([low, high], [place, place], color=colour, linewidth=2.0, solid_capstyle="butt")
        axes.plot([row[column]], [place], "o", color=colour, markersize=6)
        text = f"{row[column]:+.3f}" + (f"   (hoped {row['hoped']})" if row["hoped"] else "")
        axes.annotate(text, (high, place), (6, 0), textcoords="offset points", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(shown)), shown["cell"].tolist(), color=INK)
    axes.margins(x=0.25)
    _style(axes, title, xlabel=f"{metric_label(metric)} minus the base's (line = 95 % interval)", grid="x")
    return figure
