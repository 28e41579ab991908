"""Predictions of a classifier as a table that people can read (pure)."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import DataError


def write_predictions(path: str | Path, ids: Sequence[str], prob: np.ndarray, class_names: Sequence[str]) -> None:
    """Write one row per sample, all or nothing.

    Columns: `id, prediction, probability, second, second_probability`, and `p(NAME)` for each class; the second most
    probable class is empty where there is one class only.

    Args:
        path: The CSV file (UTF-8); an existing one is replaced.
        ids: N names of samples.
        prob: (N, C) probabilities.
        class_names: C names, in the order of the columns of `prob`.

    Raises:
        ValueError: When the sizes do not fit.
    """
    path, prob = Path(path), np.asarray(prob)
    if prob.shape != (len(ids), len(class_names)):
        raise ValueError(f"prob has shape {prob.shape}, expected {(len(ids), len(class_names))}: samples, classes")
    rows, order = np.arange(len(ids)), np.argsort(-prob, axis=1, kind="stable")  # of equal ones the first, as argmax
    table = pd.DataFrame({"id": list(ids)})
    for place, (name, share) in enumerate((("prediction", "probability"), ("second", "second_probability"))):
        known = place < len(class_names)
        table[name] = [class_names[i] for i in order[:, place]] if known else ""
        table[share] = prob[rows, order[:, place]] if known else np.nan
    table = pd.concat([table, pd.DataFrame(prob, columns=[f"p({name})" for name in class_names])], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        table.to_csv(temporary, index=False, float_format="%.6g", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_probabilities(path: str | Path) -> tuple[list[str], list[str], np.ndarray]:
    """Read the stored predictions of a run, of either kind.

    Args:
        path: An npz (`id`, `class_names`, `prob`) or a CSV (`id`, columns `p(NAME)`).

    Returns:
        N ids, C class names, (N, C) float64 probabilities.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        if Path(path).suffix == ".npz":
            # through open(): a broken archive would otherwise keep numpy's own handle
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                ids, names, prob = file["id"].astype(str), file["class_names"].astype(str), file["prob"].astype(float)
            return ids.tolist(), names.tolist(), prob
        table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
        columns = [name for name in table.columns if name.startswith("p(") and name.endswith(")")]
        if not columns:
            raise ValueError("no column p(NAME)")
        return table["id"].tolist(), [name[2:-1] for name in columns], table[columns].to_numpy(float)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a predictions file ({error}); write one with `predict`") from error
