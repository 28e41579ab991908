"""Stored predictions of runs, lined up: seeds and folds of a run folder, and members with the same samples."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from callbacks import report_files as files
from callbacks.report_files import Predictions
from callbacks.report_gcode_files import LineCounts, LinePredictions, has_lines
from datamodules.errors import DataError
from modules import ensembling


def inside(folder: Path, kind: str) -> list[Path]:
    """Return the folders ``seed-S`` or ``fold-K`` in a folder, in the order of their numbers."""
    found = [path for path in folder.glob(f"{kind}-*") if path.is_dir()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def folds_of(folder: Path) -> dict[str, Path]:
    """Return the run folders of one run by fold; a run without folds is one, called ``""``.

    Raises:
        DataError: There is no run.
    """
    folds = {path.name: path for path in inside(folder, "fold")} or {"": folder}
    for path in folds.values():
        if not (path / "run.json").is_file():
            raise DataError(f"{path}: not a run folder (no run.json); give runs/SYSTEM/NAME")
    return folds


def stored(folder: Path, part: str) -> Predictions:
    """Read the predictions of a run on a part; of a decoder of lines, what each window adds to its figures.

    Raises:
        DataError: They are missing; the message says which command writes them.
    """
    path = folder / ("test" if part == "test" else "fit") / f"predictions_{part}.npz"
    mend = {
        "test": "run `test --ckpt_path best` on it first",
        "calib": "only a fit with a calib part writes them: --split.calib 0.1 --split.train 0.54",
    }.get(part, "a finished `fit` writes them")
    if not path.is_file():
        raise DataError(f"{folder}: no {part} predictions; {mend}")
    return LineCounts.of(LinePredictions.load(path)) if has_lines(path) else Predictions.load(path)


def of_classes(folder: Path, part: str) -> Predictions:
    """Read the predictions of a classifier on a part.

    Raises:
        DataError: They are missing, or those of a decoder of lines.
    """
    found = stored(folder, part)
    if isinstance(found, LineCounts):
        raise DataError(f"{folder} writes lines, and this verb is about classes: give runs of its encoder "
                        "(`compare` and `ablate` take decoders, too)")  # fmt: skip
    return found


@dataclass(frozen=True)
class Together:
    """Predictions of several members on the same samples of one part.

    Attributes:
        prob: (M, N, C) probabilities. first: ids, groups, labels and class names, in the first member's order.
    """

    prob: np.ndarray
    first: Predictions

    def with_prob(self, prob: np.ndarray) -> Predictions:
        """Return predictions of these samples with other probabilities (N, C)."""
        return Predictions(
            self.first.id, self.first.group, self.first.y, prob.astype(np.float32), self.first.class_names
        )


def together(folders: Sequence[Path], part: str) -> Together:
    """Line up the predictions of several runs on one part, by id.

    Raises:
        DataError: Predictions are missing, or the runs differ in system, split, classes, samples or labels.
    """
    facts = [files.read_json(folder / "run.json") for folder in folders]
    found = [of_classes(folder, part) for folder in folders]
    for folder, fact, own in zip(folders[1:], facts[1:], found[1:], strict=True):
        where = f"{folder} and {folders[0]}"
        if fact.get("system") != facts[0].get("system"):
            raise DataError(f"{where} are runs of {fact.get('system')} and {facts[0].get('system')}: give one system's")
        if list(own.class_names) != list(found[0].class_names):
            raise DataError(f"{where} have different class names")
        if fact.get("split_hash") != facts[0].get("split_hash"):
            hashes = f"{fact.get('split_hash')} and {facts[0].get('split_hash')}"
            raise DataError(f"{where} were split differently (split hash {hashes}); give all runs one split.csv")
    try:
        rows = ensembling.align([own.id for own in found], [str(folder) for folder in folders])
    except ValueError as error:
        raise DataError(f"{part} predictions: {error}") from error
    for folder, own, order in zip(folders, found, rows, strict=True):
        if (own.y[order] != found[0].y).any() or (own.group[order] != found[0].group).any():
            raise DataError(f"{folder} and {folders[0]} have other labels or groups for the same {part} ids")
    return Together(np.stack([own.prob[order] for own, order in zip(found, rows, strict=True)]), found[0])


def pooled(parts: Sequence[Predictions], once: bool) -> Predictions:
    """Join the predictions of the folds of a run.

    Args:
        parts: Predictions of each fold.
        once: Refuse a sample that occurs in two folds, as a test sample must not.

    Raises:
        DataError: Folds with different classes, or with a sample in two of them.
    """
    names = list(parts[0].class_names)
    if any(list(part.class_names) != names for part in parts):
        raise DataError("the folds have different class names: a class is too rare for every fold to train on it")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _of_samples(parts[0])
    }
    if once and len(np.unique(columns["id"])) < len(columns["id"]):
        raise DataError("a test sample occurs in two folds: these are not folds of one data set")
    return replace(parts[0], **columns)


def ordered(found: Predictions) -> Predictions:
    """Return predictions in the order of their ids, the labelled ones, so that two runs line up."""
    real = found.labelled()
    rows = np.argsort(real.id, kind="stable")
    chosen: dict[str, Any] = {name: getattr(real, name)[rows] for name in _of_samples(real)}
    return replace(real, **chosen)


def _of_samples(found: Predictions) -> list[str]:
    """Return the names of those arrays that have a row for each sample."""
    return [field.name for field in fields(found) if field.name not in ("class_names", "figures")]
