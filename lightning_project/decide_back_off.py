"""The part of `decide` that answers with a coarser class, such as the genus, where the class is not sure enough."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks.report_breakdown import CLASSES
from callbacks.report_files import Predictions
from callbacks.report_tables import number
from callbacks.report_tables import table as markdown_table
from datamodules.errors import DataError
from datamodules.predictions import read_probabilities
from modules import breakdown, calibration


def levels_of(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """Return the coarser classes of a run's classes by level, finest first; none where the run has none.

    Raises:
        DataError: The file is about other classes.
    """
    path = folder / CLASSES
    if not path.is_file():
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if table["class"].tolist() != names:
        raise DataError(f"{path} lists other classes than the predictions: run `test` again to write it")
    return {str(level): table[level].tolist() for level in table.columns[2:]}


def back_off(folder: Path, calib: Predictions, test: Predictions, answers: float) -> dict[str, Any] | None:
    """Fit the least probability of an answer on calibration, and count on test what is answered at which level.

    Args:
        folder: Run folder.
        calib: Labelled calibration predictions, tempered.
        test: Labelled test predictions, tempered.
        answers: Accuracy that the answers must reach on calibration.

    Returns:
        threshold (``None`` where none reaches it), answered and accuracy on test, and the share of each level; ``None``
        for a run without coarser classes.
    """
    levels = levels_of(folder, [str(name) for name in test.class_names])
    if not levels:
        return None
    threshold = breakdown.back_off_threshold(calib.prob, calib.y, levels, answers)
    shares = dict.fromkeys(["class", *levels], 0.0)
    if threshold is None:
        return {"threshold": None, "answered": 0.0, "accuracy": None, "levels": shares}
    level, right = breakdown.BackOff(test.prob, test.y, levels).answers(threshold)
    sure = level >= 0
    return {
        "threshold": threshold,
        "answered": float(sure.mean()),
        "accuracy": float(right[sure].mean()) if sure.any() else None,
        "levels": {name: float((level == i).mean()) for i, name in enumerate(shares)},
    }


def answers_to(path: str, folder: Path, names: list[str], temperature: float, back_off: float | None,
               abstention: float | None) -> pd.DataFrame:  # fmt: skip
    """Answer new samples with what a run has learnt on calibration: a class, a coarser one, or nothing.

    Args:
        path: Predictions of the run on new samples, as the verb `predict` writes them.
        folder: Run folder.
        names: Its classes.
        temperature: Fitted temperature.
        back_off: Least probability of an answer where there are coarser classes; ``None``: none is enough.
        abstention: The same where there are none.

    Returns:
        One row a sample: id, answer, level (``class``, ``genus``, ...), both "" for none, and the probability of the
        answer, or of the best class where there is none.

    Raises:
        DataError: The file cannot be read, or is about other classes.
    """
    ids, given, prob = read_probabilities(path)
    if given != names:
        raise DataError(f"{path} is about other classes than {folder}: predict with this run")
    prob, levels = calibration.temper(prob, temperature), levels_of(folder, names)
    limit = back_off if levels else abstention
    table = pd.DataFrame({"id": ids, "answer": "", "level": "", "probability": prob.max(axis=1)})
    for level, of_class in reversed([("class", names), *levels.items()]):  # the finest that is sure enough stays
        coarser, summed, _ = breakdown.coarse(prob, np.zeros(len(prob), np.int64), of_class)
        sure = summed.max(axis=1) >= (np.inf if limit is None else limit)
        table.loc[sure, "answer"] = np.asarray(coarser, dtype=object)[summed.argmax(axis=1)][sure]
        table.loc[sure, "level"] = level
        table.loc[sure, "probability"] = summed.max(axis=1)[sure]
    return table


def section(found: Mapping[str, dict[str, Any] | None], answers: float) -> str:
    """Compose the section of ``DECISIONS.md``; nothing where no fold has coarser classes."""
    known = {name: fold for name, fold in found.items() if fold is not None}
    if not known:
        return ""
    names = list(next(iter(known.values()))["levels"])
    rows = [
        [name, "none is enough" if fold["threshold"] is None else f"{fold['threshold']:g}", f"{fold['answered']:.1%}",
         number(fold["accuracy"]), *(f"{fold['levels'][level]:.1%}" for level in names)]
        for name, fold in known.items()
    ]  # fmt: skip
    header = ["fold", "least probability", "answered", "accuracy of the answers", *(f"as {name}" for name in names)]
    return (
        "## Back-off\n\nThe finest level that is probable enough is answered. The threshold is fitted on the "
        f"calibration part, for answers of an accuracy of {answers:g}; the rest is counted on test.\n\n"
        + markdown_table(header, rows)
    )


def summed(found: Mapping[str, dict[str, Any] | None]) -> list[str]:
    """Return the lines for the screen."""
    return [
        f"back-off{f' ({name})' * (len(found) > 1)}: {fold['answered']:.1%} answered, accuracy "
        f"{number(fold['accuracy'])}; "
        + ", ".join(f"{share:.1%} as {level}" for level, share in fold["levels"].items())
        for name, fold in found.items()
        if fold is not None
    ]


def of_folds(folds: Mapping[str, tuple[Path, Predictions | None, Predictions]], answers: float) -> dict[str, Any]:
    """Back off in each fold that has a calibration part: folder, calibration and test predictions by its name."""
    return {
        name or "run": None if calib is None else back_off(folder, calib, test, answers)
        for name, (folder, calib, test) in folds.items()
    }
