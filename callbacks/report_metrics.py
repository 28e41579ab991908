"""The numbers of a report: metrics with intervals by group, baselines with paired differences, the gap of the parts."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from callbacks import report_files as files
from modules import statistics

LEVEL, FEW = 0.95, 3  # level of the intervals; fewer samples of a class than this say little about it


def chance(y: np.ndarray, num_classes: int, top_k: int) -> dict[str, float]:
    """Return what guessing evenly gives on average; macro-F1 is its large-sample value.

    A sample of a class that training never saw (-2) is an error for every guess.
    """
    share = np.bincount(y[y >= 0], minlength=num_classes) / len(y)
    known = float((y >= 0).mean())
    f1 = 2 * share / (num_classes * share + 1)  # precision = share, recall = 1 / classes
    return {
        "accuracy": known / num_classes,
        "macro_f1": float(f1.mean()),
        f"top{top_k}": known * min(top_k, num_classes) / num_classes,
        "nll": math.log(num_classes),
    }


def measure(found: files.Predictions, loss: nn.Module | None, device: torch.device, top_k: int) -> dict[str, float]:
    """Compute every metric of the model, and its training loss from the stored probabilities.

    Args:
        found: Labelled predictions.
        loss: The loss of the system, if it has one.
        device: Where the loss lies.
        top_k: Guesses of the top-k.
    """
    names = [str(name) for name in found.class_names]
    values = statistics.classification_metrics(found.prob, found.y, names, top_k)
    if loss is not None:  # log-probabilities are logits too
        known = found.y >= 0
        prob, y = torch.from_numpy(found.prob[known]), torch.from_numpy(found.y[known])
        logits = prob.clamp_min(torch.finfo(torch.float32).tiny).log()
        with torch.no_grad():
            losses = loss(logits.to(device), y.to(device))
        values["loss"] = losses.cpu().double().mean().item()  # some devices have no float64
    return values


def evaluate(
    found: files.Predictions,
    values: Mapping[str, float],
    baselines: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    bootstrap: int,
    top_k: int,
) -> dict[str, Any]:
    """Build ``metrics.json``: values, intervals by group, baselines with paired differences, what was not run.

    Args:
        found: Labelled predictions.
        values: Metrics of the model.
        baselines: name -> prob (N, C) for the same rows.
        notes: Baseline -> why it is not there.
        bootstrap: Resamples, 0 = no intervals.
        top_k: Guesses of the top-k.
    """
    names, y, group = [str(name) for name in found.class_names], found.y, found.group
    metrics = ["accuracy", "macro_f1", f"top{top_k}", "nll"]
    result: dict[str, Any] = {
        "n": len(y),
        "n_groups": len(np.unique(group)),
        "num_classes": len(names),
        "values": dict(values),
        "intervals": {},
        "level": LEVEL,
        "bootstrap": bootstrap,
    }
    if bootstrap:
        intervals, result["n_groups"] = statistics.bootstrap(found.prob, y, group, metrics, n=bootstrap, level=LEVEL)
        result["intervals"] = intervals
    guess = chance(y, len(names), top_k)
    table: dict[str, Any] = {
        "chance": {
            "values": guess,
            "difference": {
                m: [values[m] - v, *(end - v for end in result["intervals"].get(m, ()))] for m, v in guess.items()
            },
        }
    }
    for name, prob in baselines.items():
        entry: dict[str, Any] = {"values": statistics.classification_metrics(prob, y, names, top_k)}
        if bootstrap:
            entry["intervals"] = statistics.bootstrap(prob, y, group, metrics, n=bootstrap, level=LEVEL)[0]
            entry["difference"] = statistics.paired_bootstrap(
                found.prob, prob, y, group, metrics, n=bootstrap, level=LEVEL
            )
        table[name] = entry
    result["baselines"] = table | {name: {"not_run": note} for name, note in notes.items()}
    matrix = statistics.confusion(found.prob, y, len(names))
    result["confusions"] = statistics.top_confusions(matrix, names, 10).to_dict("records")
    support = matrix.sum(axis=1)
    result["support_warnings"] = [
        f"{name}: {int(n)} sample{'' if n == 1 else 's'}" for name, n in zip(names, support, strict=True) if n < FEW
    ]
    return result


def generalisation_gap(
    root: Path, part: str, values: Mapping[str, float], run: Mapping[str, Any]
) -> dict[str, float] | None:
    """Compare accuracies: training against validation after a fit, validation against test after a test."""
    if part == "val":
        earlier, name = run.get("best_train_acc"), "train"
    else:
        earlier, name = files.read_json(root / "fit" / "metrics.json").get("values", {}).get("accuracy"), "val"
    if earlier is None:
        return None
    return {f"{name}_accuracy": earlier, f"{part}_accuracy": values["accuracy"], "gap": earlier - values["accuracy"]}
