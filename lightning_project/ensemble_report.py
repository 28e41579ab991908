"""Table, page and picture of an ensemble beside its members."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from callbacks import report_plots as plots
from callbacks.report_files import Predictions
from callbacks.report_tables import table as markdown_table
from lightning_project.ensemble_simple import section
from modules import statistics

SHOWN = ("accuracy", "macro_f1", "top3", "nll", "ece")
LESS_IS_BETTER = ("nll", "ece")
LEVEL = 0.95


@dataclass(frozen=True)
class Judged:
    """Names of the members, and predictions of members and ensemble on validation and test; folds are pooled."""

    names: list[str]
    val_members: list[Predictions]
    val: Predictions
    test_members: list[Predictions]
    test: Predictions


def shown(metric: str) -> list[str]:
    """Return the metrics of the table, the chosen one first."""
    return [metric, *(name for name in SHOWN if name != metric)]


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names without what all of them share at the front."""
    paths = [folder.resolve() for folder in folders]
    common = Path(os.path.commonpath([str(path) for path in paths]))
    return [str(path.relative_to(common)) for path in paths]


def table(judged: Judged, own: str, metric: str, bootstrap: int) -> pd.DataFrame:
    """Return one row per member, the best on validation first, and the ensemble last.

    Columns: run, seeds (1; the picture asks for it), val_METRIC (what members were ranked by), and for each metric on
    test the value, the interval, and the paired difference from the first row with its interval.
    """
    scores = [_value(found, metric) for found in judged.val_members]
    order = sorted(range(len(scores)), key=lambda m: scores[m] if metric in LESS_IS_BETTER else -scores[m])
    rows = [(judged.names[m], scores[m], judged.test_members[m]) for m in order]
    rows.append((own, _value(judged.val, metric), judged.test))
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    lines: list[dict[str, Any]] = []
    base: dict[str, tuple[float, np.ndarray]] = {}
    named = {each: statistics.by_index(each, judged.test.class_names.tolist()) for each in shown(metric)}
    for name, chosen_by, found in rows:
        prob, y, group = _arrays(found)
        drawn = statistics.resampled(prob, y, group, list(named.values()), bootstrap)
        line: dict[str, Any] = {"run": name, "seeds": 1, f"val_{metric}": chosen_by}
        for each, index in named.items():
            value = _value(found, each)
            first, first_drawn = base.setdefault(each, (value, drawn[index]))
            line[each] = value
            line[f"{each}_low"], line[f"{each}_high"] = np.quantile(drawn[index], ends)
            line[f"{each}_difference"] = value - first
            line[f"{each}_difference_low"], line[f"{each}_difference_high"] = np.quantile(
                drawn[index] - first_drawn, ends
            )
        lines.append(line)
    return pd.DataFrame(lines)


def picture(frame: pd.DataFrame, metric: str) -> Figure:
    """Draw the metric on test: the best member on validation, the others, the ensemble."""
    return plots.comparison(frame, metric, f"{plots.metric_label(metric)} on test (first: best member on validation)")


def verdict(frame: pd.DataFrame, metric: str) -> str:
    """Say in one sentence whether the ensemble is better than its best member."""
    line = frame.iloc[-1]
    difference, low, high = (float(line[f"{metric}_difference{end}"]) for end in ("", "_low", "_high"))
    better = -1 if metric in LESS_IS_BETTER else 1
    word = (
        "not distinguishable from" if low <= 0 <= high else "better than" if difference * better > 0 else "worse than"
    )
    return (
        f"The ensemble is {word} {frame.iloc[0]['run']}, the best member on validation: "
        f"{plots.metric_label(metric)} {difference:+.3f} ({low:+.3f} to {high:+.3f})."
    )


def terminal(frame: pd.DataFrame, metric: str) -> str:
    """Return the table and the verdict for the screen."""
    columns = ["run", f"val_{metric}", metric, f"{metric}_low", f"{metric}_high", f"{metric}_difference"]
    return f"{frame[columns].to_string(index=False)}\n{verdict(frame, metric)}"


def page(judged: Judged, frame: pd.DataFrame, facts: Mapping[str, Any], metric: str, bootstrap: int) -> str:
    """Compose ``ENSEMBLE.md``."""
    columns = shown(metric)
    label = plots.metric_label(metric)
    header = [
        "",
        f"{label}, validation",
        *(f"{plots.metric_label(m)}, test" for m in columns),
        f"{label} minus the first's",
    ]
    rows: list[list[str]] = []
    for line in frame.to_dict("records"):
        cells = [f"{line[m]:.3f} ({line[f'{m}_low']:.3f} to {line[f'{m}_high']:.3f})" for m in columns]
        low, high = line[f"{metric}_difference_low"], line[f"{metric}_difference_high"]
        gain = f"{line[f'{metric}_difference']:+.3f} ({low:+.3f} to {high:+.3f})" if rows else ""
        rows.append([line["run"], f"{line[f'val_{metric}']:.3f}", *cells, gain])
    test = judged.test.labelled()
    folds = f", out of fold over {facts['folds']} folds" if facts["folds"] > 1 else ""
    fitted = "its number on validation is out of fold, as for the samples that it was not fitted on"
    if facts["part"] == "calib" or facts["method"] == "mean" or facts["given_weights"]:
        fitted = "nothing of it was fitted on validation"
    text = [
        f"# Ensemble: {facts['method']} of {len(judged.names)} runs",
        verdict(frame, metric),
        markdown_table(header, rows),
        f"{len(test.y)} test samples in {len(np.unique(test.group))} groups{folds}. In brackets: {LEVEL:.0%} intervals "
        f"from {bootstrap} resamples of the groups; differences are paired, on the same samples. Members are in the "
        f"order of their {label} on validation, where each chose its epoch too. The ensemble was fitted on "
        f"{facts['part']}, never on test; {fitted}.",
        "![ensemble](ensemble.png)",
        "## Beside the simple models",
        section(facts["simple_models"]),
        "## What was fitted",
        _fitted(judged.names, facts),
    ]
    return "\n\n".join(text) + "\n"


def _fitted(names: Sequence[str], facts: Mapping[str, Any]) -> str:
    rows, stacked = [], facts["method"] == "stacking"
    for fold, found in facts["fitted"].items():
        values = found["weights"] if not stacked else _pull(np.asarray(found["coefficients"]), len(names))
        rows.append([fold, *(f"{float(value):.3f}" for value in values)])
    what = {
        "stacking": "Mean size of the coefficients of each member's log-probabilities (all of them: `ensemble.json`).",
        "boosting": "Weight of each member's vote (SAMME's alpha).",
    }.get(facts["method"], "Weight of each member's probabilities.")
    return what + "\n\n" + markdown_table(["fold", *names], rows)


def _pull(coefficients: np.ndarray, members: int) -> np.ndarray:
    return np.abs(coefficients).reshape(members, -1).mean(axis=1)


def _arrays(found: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    real = found.labelled()
    return real.prob, real.y, real.group


def _value(found: Predictions, metric: str) -> float:
    real, (kind, colon, name) = found.labelled(), metric.partition(":")
    names = [str(known) for known in real.class_names]
    if colon:
        scores = statistics.per_class(real.prob, real.y, names)
        return float(scores["f1-score" if kind == "f1" else kind].iloc[names.index(name)])
    return statistics.classification_metrics(real.prob, real.y, names)[metric]
