"""Figures of stored predictions, of classifiers and of decoders, by name; for tables of several runs."""

from collections.abc import Sequence

import numpy as np

from callbacks.report_files import Predictions
from callbacks.report_gcode_files import LineCounts
from modules import line_metrics, statistics

OF_CLASSES = ("accuracy", "macro_f1", "top3", "nll", "ece")
OF_LINES = ("line_accuracy", "token_accuracy", "token_accuracy_free", "operation_accuracy", "edit_distance", "validity")
_LESS_IS_BETTER = ("nll", "ece", "edit_distance", "edit_share")


def shown(found: Predictions) -> tuple[str, ...]:
    """Return the figures that a comparison shows of such predictions, the most important first."""
    return OF_LINES if isinstance(found, LineCounts) else OF_CLASSES


def less_is_better(metric: str) -> bool:
    """Tell whether a smaller value of a figure is the better one."""
    return metric in _LESS_IS_BETTER or metric.startswith("mm_")


def measured(found: Predictions, metrics: Sequence[str]) -> dict[str, float]:
    """Return the value of each figure.

    Raises:
        ValueError: For an unknown figure, or no labelled sample.
    """
    if isinstance(found, LineCounts):
        return line_metrics.measured(found.sums(metrics))
    return statistics.measured(found.prob, found.y, metrics)


def resampled(found: Predictions, metrics: Sequence[str], n: int) -> dict[str, np.ndarray]:
    """Return the value of each figure in n resamples of the groups, (n,) each; equal groups give equal resamples.

    Raises:
        ValueError: As :func:`measured`.
    """
    if isinstance(found, LineCounts):
        return line_metrics.resampled(found.sums(metrics), found.group, n)
    return statistics.resampled(found.prob, found.y, found.group, metrics, n)
