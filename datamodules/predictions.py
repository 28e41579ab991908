"""Predictions of a classifier as a table that people can read (pure)."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd


def write_predictions(path: str | Path, ids: Sequence[str], prob: np.ndarray, class_names: Sequence[str]) -> None:
    """Write `id, prediction, probability` and one column `p(NAME)` per class, one row per sample, all or nothing.

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
    best = prob.argmax(axis=1)
    table = pd.DataFrame(prob, columns=[f"p({name})" for name in class_names])
    table.insert(0, "probability", prob[np.arange(len(ids)), best])
    table.insert(0, "prediction", [class_names[i] for i in best])
    table.insert(0, "id", list(ids))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        table.to_csv(temporary, index=False, float_format="%.6g", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
