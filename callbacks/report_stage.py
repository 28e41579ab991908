"""The files of one stage (fit, validate, test): tables and pictures from the stored predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks import report_files as files
from callbacks import report_plots as plots
from modules import statistics

MISTAKES = 100  # rows of the table of mistakes
LEGIBLE = 120  # classes that a picture has room for
DENSE = 1000  # classes of a confusion matrix that is written cell by cell
_OF_THE_HOUSE = ("id", "group", "hash", "label", "given", "augmented_from", "source")  # columns of all records
RESULT_NAMES = {
    "weighted_f1": "Weighted-F1",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "macro_precision": "Macro-Precision",
    "macro_recall": "Macro-Recall",
    "loss": "Loss",
    "nll": "NLL",
    "ece": "ECE",
}


def result_name(metric: str) -> str:
    """Name a metric as the signs brief does: ``top3`` -> ``Top-3 Accuracy``."""
    return f"Top-{metric[3:]} Accuracy" if metric.startswith("top") else RESULT_NAMES.get(metric, metric)


def per_class_table(found: files.Predictions) -> pd.DataFrame:
    """One row per class, then accuracy, macro avg (classes with truth or prediction, as in macro-F1), weighted avg.

    A sample of a class that training never saw is in no row of a class, and an error in accuracy and weighted avg.
    """
    names = [str(name) for name in found.class_names]
    frame = statistics.per_class(found.prob, found.y, names).set_index("class").rename_axis(None)
    matrix = statistics.confusion(found.prob, found.y, len(names))
    counted = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    scores, support = frame[["precision", "recall", "f1-score"]], frame["support"].astype(int)
    macro = scores[counted].mean()
    weighted = scores.mul(support, axis=0).sum() / len(found.y)
    accuracy = pd.Series({"f1-score": matrix.trace() / len(found.y)})
    extra = pd.DataFrame([accuracy, macro, weighted], index=["accuracy", "macro avg", "weighted avg"])
    return pd.concat([scores, extra]).assign(support=[*support, *[len(found.y)] * 3])[[*scores.columns, "support"]]


def mistakes(found: files.Predictions, records: pd.DataFrame) -> pd.DataFrame:
    """Return the surest mistakes, surest first: id, truth, prediction, confidence, p(truth), and what can be read.

    Args:
        found: Labelled predictions.
        records: Records of the data; their columns beyond the house's (a title, a signer) stand beside each mistake.
    """
    guess, confidence, known = found.prob.argmax(axis=1), found.prob.max(axis=1), found.y >= 0
    of_truth = found.prob[np.arange(len(guess)), np.maximum(found.y, 0)]
    wrong = pd.DataFrame(
        {
            "id": found.id,
            "truth": np.where(known, found.class_names[np.maximum(found.y, 0)], "(not in training)"),
            "prediction": found.class_names[guess],
            "confidence": confidence,
            "p(truth)": np.where(known, of_truth, 0.0),
        }
    )[guess != found.y]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable").head(MISTAKES)
    further = records.set_index(records["id"].astype(str)).drop(columns=[*_OF_THE_HOUSE], errors="ignore")
    return wrong.join(further.select_dtypes(["object", "string"]), on="id")


def write_samples(
    folder: Path, part: str, found: files.Predictions, models: Mapping[str, np.ndarray], records: pd.DataFrame
) -> None:
    """Write what is kept sample by sample: what the simple models said, and the surest mistakes."""
    files.Baselines.of(found, models).save(folder / f"baselines_{part}.npz")
    files.write_csv(folder / "mistakes.csv", mistakes(found, records))


def legible(matrix: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the classes that a picture can show, in their order, and what it has to say where that is not all.

    Args:
        matrix: Confusion matrix (C, C).
    """
    count = len(matrix)
    if count <= LEGIBLE:
        return np.arange(count), ""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    worst = np.argsort(-wrong, kind="stable")[:LEGIBLE]
    return np.sort(worst), f"; the {LEGIBLE} of {count:,} classes with the most mistakes"


def confusion_pairs(matrix: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Return the cells of a confusion matrix (C, C) that are not zero: truth, prediction, count."""
    rows, columns = np.nonzero(matrix)
    known = np.array(names, dtype=object)
    return pd.DataFrame({"truth": known[rows], "prediction": known[columns], "count": matrix[rows, columns]})


def write_stage(
    root: Path,
    stage: str,
    found: files.Predictions,
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    log: pd.DataFrame,
) -> None:
    """Write the tables and pictures of one stage, and the curves."""
    folder, names = root / stage, [str(name) for name in found.class_names]
    values, where = metrics["values"], {"val": "validation"}.get(metrics["part"], metrics["part"])
    files.write_json(folder / "metrics.json", metrics)
    results = pd.DataFrame({"Metric": [result_name(name) for name in values], "Value": list(values.values())})
    files.write_csv(folder / "results.csv", results)
    table = per_class_table(found)
    files.write_csv(folder / "per_class.csv", table, index=True)
    matrix = statistics.confusion(found.prob, found.y, len(names))
    if len(names) <= DENSE:
        files.write_csv(folder / "confusion.csv", pd.DataFrame(matrix.astype(int)), header=False)
    else:  # tens of millions of zeros
        files.write_csv(folder / "confusion_pairs.csv", confusion_pairs(matrix, names))
    shown, note = legible(matrix)
    title = f"Confusion matrix, {where} ({metrics['n']} samples{note})"
    picture = plots.confusion(matrix[np.ix_(shown, shown)], [names[i] for i in shown], title)
    files.write_figure(folder / "confusion.png", picture)
    classes = table.iloc[shown].rename_axis("class").reset_index()
    files.write_figure(folder / "per_class.png", plots.per_class(classes, f"Classes on {where}{note}"))
    bins = statistics.reliability(found.prob, found.y)
    confidence, accuracy, count = (bins[name].to_numpy() for name in ("confidence", "accuracy", "count"))
    picture = plots.calibration(confidence, accuracy, count, values["ece"], f"Calibration on {where}")
    files.write_figure(folder / "calibration.png", picture)
    if len(log):
        title = f"{run.get('system', '')} · {root.name}"
        files.write_figure(
            root / "curves.png", plots.curves(log, values, metrics["intervals"], run.get("best_epoch"), title, where)
        )
