"""Every reported classification number, in numpy, from stored probabilities: the same definitions as ``metrics.py``.

Arrays: prob (N, C), y (N,) class indices; -1 = no label (left out everywhere), -2 = a class that training never
saw (an error in every share; in no nll, for it has no probability, and in no confusion). Ties go to the lower class.
Macro averages run over the classes that occur in the truth or in the predictions, as in scikit-learn and torchmetrics.
Intervals come from resampling groups (recordings, signers, ...) and not samples, which depend on each other.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy import sparse

ECE_BINS = 15
METRICS = ("accuracy", "macro_f1", "top3", "nll")
OF_CLASS = re.compile(r"(f1|precision|recall)\[(\d+)\]")
_CELLS = 20_000_000  # numbers held at once while ranking or resampling


def classification_metrics(
    prob: np.ndarray, y: np.ndarray, class_names: Sequence[str], top_k: int = 3
) -> dict[str, float]:
    """Return accuracy, macro_f1, macro_precision, macro_recall, weighted_f1, top{k}, nll (nats) and ece.

    Raises:
        ValueError: When shapes do not fit or no sample has a label.
    """
    if prob.shape[1:] != (len(class_names),):
        raise ValueError(f"probabilities {prob.shape} do not fit {len(class_names)} class names")
    names = ["accuracy", "macro_f1", "macro_precision", "macro_recall", "weighted_f1", f"top{top_k}", "nll", "ece"]
    return measured(prob, y, names)


def per_class(prob: np.ndarray, y: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """Return one row per class: class, precision, recall, f1-score, support (0 where a share is undefined)."""
    prob, y = _labelled(prob, y)
    size, guess = len(class_names), prob.argmax(axis=1)
    hits, predicted, actual = (np.bincount(i, minlength=size) for i in (guess[guess == y], guess, y[y >= 0]))
    return pd.DataFrame(
        {
            "class": list(class_names),
            "precision": _share(hits, predicted),
            "recall": _share(hits, actual),
            "f1-score": _share(2 * hits, predicted + actual),
            "support": actual,
        }
    )


def confusion(prob: np.ndarray, y: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts (C, C), int64, rows = truth, columns = prediction."""
    prob, y = _labelled(prob, y)
    prob, y = prob[y >= 0], y[y >= 0]
    cells = y * num_classes + prob.argmax(axis=1)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def top_confusions(confusion: np.ndarray, names: Sequence[str], k: int = 10) -> pd.DataFrame:
    """Return the k largest mistakes, most frequent first: truth, prediction, count, share (of the true class)."""
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:k]
    rows, columns = np.unravel_index(order[wrong.flat[order] > 0], wrong.shape)
    return pd.DataFrame(
        {
            "truth": [names[row] for row in rows],
            "prediction": [names[column] for column in columns],
            "count": wrong[rows, columns],
            "share": wrong[rows, columns] / confusion.sum(axis=1)[rows],
        }
    )


def reliability(prob: np.ndarray, y: np.ndarray, bins: int = ECE_BINS) -> pd.DataFrame:
    """Return one row per confidence bin [low, high): low, high, confidence, accuracy (NaN when empty), count."""
    prob, y = _labelled(prob, y)
    confidence, index = _confidence_bins(prob, bins)
    count = np.bincount(index, minlength=bins)
    right = np.bincount(index, prob.argmax(axis=1) == y, minlength=bins)
    total = np.bincount(index, confidence, minlength=bins)
    edges = np.linspace(0, 1, bins + 1)
    with np.errstate(invalid="ignore"):
        confidence, accuracy = total / count, right / count
    return pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "confidence": confidence, "accuracy": accuracy, "count": count}
    )


def resampled(
    prob: np.ndarray, y: np.ndarray, groups: np.ndarray, metrics: Sequence[str] = METRICS, n: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the value of each metric in n resamples of the groups, (n,) each.

    Equal groups and an equal seed give equal resamples, so that values of two models can be subtracted.

    Args:
        prob: Probabilities (N, C).
        y: Class indices (N,), -1 = no label.
        groups: Group of each sample (N,), of any type that sorts.
        metrics: Any of the names that :func:`classification_metrics` returns, with any top-k, and of one class by
            its index: ``f1[2]``, ``precision[2]``, ``recall[2]``; a class without a sample in a resample scores 0.
        n: Number of resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: For an unknown metric, shapes that do not fit, or no labelled sample.
    """
    columns, matrix = _sample_counts(prob, y, metrics)
    codes = _codes(groups, y)
    member = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))))
    grouped = member @ matrix
    rng = np.random.default_rng(seed)
    count, transposed = grouped.shape[0], grouped.T.tocsr()
    step = max(1, _CELLS // max(grouped.shape))
    found: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for start in range(0, n, step):
        times = rng.multinomial(count, np.full(count, 1 / count), size=min(step, n - start))
        totals = (transposed @ times.T.astype(np.float64)).T
        for name, value in _from_totals(totals, columns, prob.shape[1], metrics).items():
            found[name].append(value)
    return {name: np.concatenate(values) for name, values in found.items()}


def bootstrap(
    prob: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    metrics: Sequence[str] = METRICS,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[dict[str, tuple[float, float]], int]:
    """Percentile intervals of metrics over resampled groups.

    Args:
        prob: As in :func:`resampled`, like all arguments but the last.
        y: Class indices (N,).
        groups: Group of each sample (N,).
        metrics: Names.
        n: Number of resamples.
        seed: Seed of the resampling.
        level: Coverage, in (0, 1).

    Returns:
        The (low, high) of each metric, and the number of groups with a label, to be printed beside the intervals.

    Raises:
        ValueError: As in :func:`resampled`.
    """
    values = resampled(prob, y, groups, metrics, n, seed)
    return {name: _interval(values[name], level) for name in metrics}, int(_codes(groups, y).max()) + 1


def paired_bootstrap(
    prob_a: np.ndarray,
    prob_b: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    metrics: Sequence[str] = METRICS,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float, float]]:
    """Intervals of the difference a - b of two models on the same samples, resampled together.

    Returns:
        The (difference, low, high) of each metric; an interval without zero is a difference at this level.

    Raises:
        ValueError: As in :func:`resampled`, or probabilities of different shapes.
    """
    if prob_a.shape != prob_b.shape:
        raise ValueError(f"the two models have probabilities of different shapes: {prob_a.shape} and {prob_b.shape}")
    point_a, point_b = (measured(prob, y, metrics) for prob in (prob_a, prob_b))
    values_a, values_b = (resampled(prob, y, groups, metrics, n, seed) for prob in (prob_a, prob_b))
    return {
        name: (point_a[name] - point_b[name], *_interval(values_a[name] - values_b[name], level)) for name in metrics
    }


def by_index(metric: str, class_names: Sequence[str]) -> str:
    """Turn a metric that names its class (``recall:cs.AI``) into the one by index (``recall[0]``); others stay.

    Raises:
        ValueError: No such metric of a class, or no such class.
    """
    kind, colon, name = metric.partition(":")
    if not colon:
        return metric
    names = [str(known) for known in class_names]
    if kind not in ("f1", "precision", "recall") or name not in names:
        raise ValueError(f"{metric!r}: give f1, precision or recall of one of the classes {', '.join(names)}")
    return f"{kind}[{names.index(name)}]"


def rank_of_truth(prob: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how many classes come before the true one (N,), 0 = predicted; a NaN counts against the sample."""
    ranks = np.empty(len(y), dtype=np.int64)
    step = max(1, _CELLS // max(1, prob.shape[1]))
    for start in range(0, len(y), step):
        part, truth = prob[start : start + step], np.maximum(y[start : start + step, None], 0)
        own = np.take_along_axis(part, truth, axis=1)
        before = np.arange(prob.shape[1]) < truth
        ranks[start : start + step] = (~(part <= own) | ((part == own) & before)).sum(axis=1)
    ranks[y < 0] = prob.shape[1]
    return ranks


def _labelled(prob: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if prob.ndim != 2 or y.shape != prob.shape[:1]:
        raise ValueError(f"probabilities {prob.shape} and labels {y.shape} do not fit")
    keep = y != -1
    if not keep.any():
        raise ValueError("no sample has a label, so there is nothing to measure")
    return prob[keep], y[keep].astype(np.int64)


def _codes(groups: np.ndarray, y: np.ndarray) -> np.ndarray:
    if len(groups) != len(y):
        raise ValueError(f"{len(groups)} groups do not fit {len(y)} samples")
    return np.unique(np.asarray(groups)[y != -1], return_inverse=True)[1]


def _confidence_bins(prob: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    # In float32, as on the device, so that a confidence at an edge falls in the same bin here and there.
    confidence = prob.max(axis=1).astype(np.float32)
    return confidence.astype(np.float64), np.clip((confidence * np.float32(bins)).astype(np.int64), 0, bins - 1)


def _sample_counts(
    prob: np.ndarray, y: np.ndarray, metrics: Sequence[str]
) -> tuple[dict[str, slice], sparse.csr_array]:
    """Return what each sample adds to the sums that metrics are made of: columns by name, matrix (N, columns)."""
    prob, y = _labelled(prob, y)
    rows, num_classes, guess = np.arange(len(y)), prob.shape[1], prob.argmax(axis=1)
    right, known = (guess == y).astype(np.float64), (y >= 0).astype(np.float64)
    blocks = {"n": np.ones(len(y)), "right": right, "known": known}
    ranks = rank_of_truth(prob, y) if any(name.startswith("top") for name in metrics) else None
    for name in metrics:
        if (top := re.fullmatch(r"top(\d+)", name)) and ranks is not None:
            blocks[name] = (ranks < int(top[1])).astype(np.float64)
    # Below the smallest normal float32 a stored probability has lost its digits.
    truth = np.maximum(y, 0)
    blocks["nll"] = -known * np.log(np.maximum(prob[rows, truth].astype(np.float64), float(np.finfo(np.float32).tiny)))
    parts = [sparse.csr_array(np.stack(list(blocks.values()), axis=1))]
    columns = {name: slice(index, index + 1) for index, name in enumerate(blocks)}
    confidence, bin_index = _confidence_bins(prob, ECE_BINS)
    wide = {"gap": (confidence - right, bin_index, ECE_BINS)}
    wide |= {"hits": (right, truth, num_classes), "predicted": (np.ones(len(y)), guess, num_classes)}
    wide |= {"actual": (known, truth, num_classes)}
    start = len(blocks)
    for name, (value, column, width) in wide.items():
        parts.append(sparse.csr_array((value, (rows, column)), shape=(len(y), width)))
        columns[name] = slice(start, start + width)
        start += width
    return columns, sparse.hstack(parts, format="csr")


def measured(prob: np.ndarray, y: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
    """Return the values of metrics by the names that :func:`resampled` takes.

    Raises:
        ValueError: As in :func:`resampled`.
    """
    columns, matrix = _sample_counts(prob, y, metrics)
    totals = np.asarray(matrix.sum(axis=0)).reshape(1, -1)
    return {name: float(value[0]) for name, value in _from_totals(totals, columns, prob.shape[1], metrics).items()}


def _from_totals(
    totals: np.ndarray, columns: dict[str, slice], num_classes: int, metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Turn sums (R, columns) into metrics (R,) each."""
    part = {name: totals[:, where] for name, where in columns.items()}
    n = part["n"][:, 0]
    hits, predicted, actual = part["hits"], part["predicted"], part["actual"]
    f1, seen = _share(2 * hits, predicted + actual), (predicted + actual > 0).sum(axis=1)
    known: dict[str, Callable[[], np.ndarray]] = {
        "accuracy": lambda: part["right"][:, 0] / n,
        "nll": lambda: part["nll"][:, 0] / np.where(part["known"][:, 0], part["known"][:, 0], np.nan),
        "ece": lambda: np.abs(part["gap"]).sum(axis=1) / n,
        "macro_f1": lambda: f1.sum(axis=1) / seen,
        "macro_precision": lambda: _share(hits, predicted).sum(axis=1) / seen,
        "macro_recall": lambda: _share(hits, actual).sum(axis=1) / seen,
        "weighted_f1": lambda: (f1 * actual).sum(axis=1) / n,
    }
    for name in filter(re.compile(r"top\d+").fullmatch, metrics):
        known[name] = partial(np.divide, part[name][:, 0], n)
    of_one = {"f1": (2 * hits, predicted + actual), "precision": (hits, predicted), "recall": (hits, actual)}
    for name in metrics:
        if (found := OF_CLASS.fullmatch(name)) and int(found[2]) < num_classes:
            above, below = of_one[found[1]]
            known[name] = partial(_share, above[:, int(found[2])], below[:, int(found[2])])
    if unknown := [name for name in metrics if name not in known]:
        raise ValueError(f"unknown metrics {unknown}; known: {', '.join([*known, 'top1', '...', 'f1[0]', '...'])}")
    return {name: known[name]() for name in metrics}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
