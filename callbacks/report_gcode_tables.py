"""Tables of a decoder's report: heads, kinds of tokens, operations, recordings, lengths, examples; written as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks import report_files as files
from callbacks.report_gcode_files import LinePredictions
from modules import line_metrics, statistics

BY_GROUP = ("operation_accuracy", "token_accuracy", "token_accuracy_free", "line_accuracy", "edit_distance", "validity")


def heads(found: LinePredictions) -> pd.DataFrame:
    """Return the accuracy of each head on the positions where it has a target: head, accuracy, positions."""
    names = [name for name in found.sums if name.startswith("head_")]
    rows = [(name.removeprefix("head_"), *found.sums[name].sum(0)) for name in names]
    frame = pd.DataFrame(rows, columns=["head", "right", "positions"])
    frame["accuracy"] = frame["right"] / frame["positions"].where(frame["positions"] > 0)
    return frame[["head", "accuracy", "positions"]].astype({"positions": int})


def kinds(found: LinePredictions) -> pd.DataFrame:
    """Return the accuracy of each kind of token, forced and free: kind, forced, free, tokens."""
    rows = []
    for kind in line_metrics.KINDS:
        (forced, tokens), (free, of) = (found.sums[f"{way}_{kind}"].sum(0) for way in ("forced", "free"))
        rows.append({"kind": kind, "forced": _share(forced, tokens), "free": _share(free, of), "tokens": int(of)})
    return pd.DataFrame(rows)


def lengths(found: LinePredictions) -> pd.DataFrame:
    """Return how far numbers are off, in millimetres: axis, words, found, mean, median, 95 % of them below.

    Distances are those of words that both lines have; ``found`` is the share of true words for which that is so.
    """
    rows = []
    for axis in line_metrics.AXES:
        distance, asked = found.sums[f"mm_{axis}"], int(found.sums[f"found_{axis}"][:, 1].sum())
        values = distance[distance[:, 1] > 0, 0]
        if asked:
            row: dict[str, Any] = {"axis": axis, "words": asked, "found": len(values) / asked}
            if len(values):
                row |= {"mean": values.mean(), "median": np.median(values), "p95": np.quantile(values, 0.95)}
            rows.append(row)
    return pd.DataFrame(rows, columns=["axis", "words", "found", "mean", "median", "p95"])


def by_group(found: LinePredictions, key: np.ndarray, name: str) -> pd.DataFrame:
    """Return the figures of each operation or recording: name, windows, recordings, figures.

    Args:
        found: Predictions.
        key: (N,) what they are grouped by.
        name: Heading of it.
    """
    rows = []
    for value in np.unique(key):
        own = key == value
        figures = line_metrics.measured({metric: found.sums[metric][own] for metric in BY_GROUP})
        rows.append({name: value, "windows": int(own.sum()), "recordings": len(np.unique(found.group[own])), **figures})
    return pd.DataFrame(rows)


def examples(found: LinePredictions, count: int) -> pd.DataFrame:
    """Return lines spread evenly over the part: id, operation, true, written, confidence, right, valid, edits."""
    rows = np.unique(np.linspace(0, len(found.id) - 1, min(count, len(found.id))).astype(int))
    return pd.DataFrame(
        {
            "id": found.id[rows],
            "operation": operations(found)[rows],
            "true": found.line[rows],
            "written": found.free[rows],
            "confidence": found.confidence[rows],
            "right": found.sums["line_accuracy"][rows, 0].astype(int),
            "valid": found.sums["validity"][rows, 0].astype(int),
            "edits": found.sums["edit_distance"][rows, 0].astype(int),
        }
    )


def operations(found: LinePredictions) -> np.ndarray:
    """Return the name of each window's true operation (N,)."""
    names = np.array([*found.class_names, "(none)", "(not in training)"])
    return names[np.where(found.y >= 0, found.y, len(found.class_names) - 1 - found.y)]


def write_sensors(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what spoiling each kind of sensor does, one row a kind, mode and figure."""
    lines = []
    for row in rows:
        for metric, value in row["values"].items():
            gain, *ends = row["difference"][metric]
            low, high = ends or (np.nan, np.nan)
            lines.append({"sensor": row["sensor"], "mode": row["mode"], "columns": row["columns"], "metric": metric,
                          "value": value, "lost": gain, "lost_low": low, "lost_high": high})  # fmt: skip
    files.write_csv(folder / "sensors.csv", pd.DataFrame(lines))


def write(folder: Path, found: LinePredictions, metrics: Mapping[str, Any], count: int) -> None:
    """Write the tables of a stage.

    Args:
        folder: Folder of the stage.
        found: Labelled predictions.
        metrics: ``metrics.json``.
        count: Lines in the table of examples.
    """
    values = metrics["values"]
    files.write_csv(folder / "results.csv", pd.DataFrame({"Metric": list(values), "Value": list(values.values())}))
    files.write_csv(folder / "heads.csv", heads(found))
    files.write_csv(folder / "kinds.csv", kinds(found))
    files.write_csv(folder / "lengths.csv", lengths(found))
    files.write_csv(folder / "operations.csv", by_group(found, operations(found), "operation"))
    recordings = by_group(found, found.group, "recording").sort_values("line_accuracy", kind="stable")
    files.write_csv(folder / "recordings.csv", recordings)
    files.write_csv(folder / "examples.csv", examples(found, count))
    matrix = statistics.confusion(found.prob, found.y, len(found.class_names))
    files.write_csv(folder / "confusion.csv", pd.DataFrame(matrix.astype(int)), header=False)
    if metrics["sensors"]:
        write_sensors(folder, metrics["sensors"])


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
