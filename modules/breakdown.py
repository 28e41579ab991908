"""Where a classifier is right: by kinds of samples, by coarser classes, and what it can still say when unsure (numpy).

Arrays: prob (N, C), y (N,) class indices; -1 = no label (left out), -2 = a class that training never saw (an error of
every answer, at every level). A level names a coarser class for each class: the genus of a species, its family; a class
without one ("") is alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from modules import statistics

LEVEL = 0.95


def by_kind(
    prob: np.ndarray, y: np.ndarray, groups: np.ndarray, kinds: np.ndarray, top_k: int, bootstrap: int
) -> pd.DataFrame:
    """Measure each kind of sample apart.

    Args:
        prob: Probabilities (N, C).
        y: Class indices (N,).
        groups: Resampling units (N,).
        kinds: Kind of each sample (N,), text; samples of kind "" are left out.
        top_k: Guesses of the top-k accuracy.
        bootstrap: Resamples for the interval of the accuracy, by group; 0 leaves it out.

    Returns:
        One row a kind, largest first: kind, n, accuracy, low, high, top{k}, macro_recall.
    """
    rows = []
    for kind, n in pd.Series(kinds[y != -1]).value_counts().items():
        if kind == "":
            continue
        chosen = (kinds == kind) & (y != -1)
        of_kind = prob[chosen], y[chosen]
        found = statistics.measured(*of_kind, ["accuracy", f"top{top_k}"])
        low, high = float("nan"), float("nan")
        if bootstrap:
            ends, _ = statistics.bootstrap(*of_kind, groups[chosen], ["accuracy"], n=bootstrap, level=LEVEL)
            low, high = ends["accuracy"]
        recall = _mean_recall(*of_kind)
        rows.append({"kind": kind, "n": int(n), "accuracy": found["accuracy"], "low": low, "high": high,
                     f"top{top_k}": found[f"top{top_k}"], "macro_recall": recall})  # fmt: skip
    return pd.DataFrame(rows)


def _mean_recall(prob: np.ndarray, y: np.ndarray) -> float:
    """Mean over the true classes of the share that was found; NaN where no class is known."""
    right = pd.Series(prob.argmax(axis=1) == y)[y >= 0]
    return float(right.groupby(y[y >= 0]).mean().mean()) if len(right) else float("nan")


def codes(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the names of the G coarser classes, sorted, and which of them each class belongs to (C,)."""
    alone = [name or f"(class {i})" for i, name in enumerate(names)]
    unique, code = np.unique(np.array(alone, dtype=str), return_inverse=True)
    return unique.tolist(), code


def coarse(prob: np.ndarray, y: np.ndarray, names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Add up the probabilities of the classes of each coarser class.

    Args:
        prob: Probabilities (N, C).
        y: Class indices (N,).
        names: Coarser class of each class (C,).

    Returns:
        Names of the G coarser classes, their probabilities (N, G), and the labels (N,); negative ones stay.
    """
    unique, code = codes(names)
    order = np.argsort(code, kind="stable")
    first = np.searchsorted(code[order], np.arange(len(unique)))
    summed = np.add.reduceat(prob[:, order].astype(np.float64), first, axis=1)
    return unique, summed, np.where(y >= 0, code[np.maximum(y, 0)], y)


def by_level(prob: np.ndarray, y: np.ndarray, levels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Measure each level: level, classes, accuracy (of the most probable coarser class), of_errors.

    ``of_errors`` is the share of the wrong answers at the finest level whose coarser class is right all the same.
    """
    keep = y != -1
    prob, y = prob[keep], y[keep]
    guess = prob.argmax(axis=1)
    wrong = guess != y
    rows = [{"level": "class", "classes": prob.shape[1], "accuracy": float((~wrong).mean()), "of_errors": 0.0}]
    for level, names in levels.items():
        unique, summed, truth = coarse(prob, y, names)
        near = wrong & (codes(names)[1][guess] == truth)
        share = float(near.sum() / wrong.sum()) if wrong.any() else float("nan")
        accuracy = float((summed.argmax(axis=1) == truth).mean())
        rows.append({"level": level, "classes": len(unique), "accuracy": accuracy, "of_errors": share})
    return pd.DataFrame(rows)


def needs(prob: np.ndarray, y: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Say which coarser classes need more data: the least found first.

    Args:
        prob: Probabilities (N, C).
        y: Class indices (N,).
        counts: Training samples of each class (C,).
        names: Coarser class of each class (C,).

    Returns:
        One row a coarser class: name, classes, train, train_per_class, n (samples judged), recall (share of these whose
        exact class was found; NaN where none was judged).
    """
    keep = y >= 0
    unique, _, truth = coarse(prob[keep], y[keep], names)
    code = codes(names)[1]
    right = prob[keep].argmax(axis=1) == y[keep]
    n = np.bincount(truth, minlength=len(unique))
    hits = np.bincount(truth[right], minlength=len(unique))
    classes, train = np.bincount(code), np.bincount(code, counts).astype(int)
    recall = np.divide(hits, n, out=np.full(len(unique), np.nan), where=n > 0)
    frame = pd.DataFrame({"name": unique, "classes": classes, "train": train, "train_per_class": train / classes,
                          "n": n, "recall": recall})  # fmt: skip
    return frame.sort_values(["recall", "train_per_class"], kind="stable", na_position="last").reset_index(drop=True)


class BackOff:
    """Answers at the finest level whose probability reaches a threshold.

    Args:
        prob: Probabilities (N, C).
        y: Class indices (N,).
        levels: Coarser classes of the classes, finest level first.
    """

    def __init__(self, prob: np.ndarray, y: np.ndarray, levels: Mapping[str, Sequence[str]]) -> None:
        self.names = ["class", *levels]
        each = [(prob, y)] + [coarse(prob, y, names)[1:] for names in levels.values()]
        self._sure = np.stack([summed.max(axis=1) for summed, _ in each])  # (levels, N)
        self._right = np.stack([summed.argmax(axis=1) == truth for summed, truth in each])

    def answers(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (N,) level of each answer, an index into ``names``, -1 = no answer; (N,) whether it is right."""
        reached = self._sure >= threshold
        level = np.where(reached.any(axis=0), reached.argmax(axis=0), -1)
        right = np.take_along_axis(self._right, np.maximum(level, 0)[None], axis=0)[0]
        return level, right & (level >= 0)


def back_off_threshold(
    prob: np.ndarray, y: np.ndarray, levels: Mapping[str, Sequence[str]], accuracy: float
) -> float | None:
    """Return the lowest of the thresholds 0.01, 0.02, ..., 0.99 whose answers reach an accuracy, or ``None``.

    Raises:
        ValueError: No sample has a label, or the accuracy lies outside (0, 1].
    """
    keep = y != -1
    if not keep.any() or not 0 < accuracy <= 1:
        raise ValueError(f"need a labelled sample and an accuracy in (0, 1], got {int(keep.sum())} and {accuracy}")
    made = BackOff(prob[keep], y[keep], levels)
    for threshold in np.arange(1, 100) / 100:
        level, right = made.answers(threshold)
        if (level >= 0).any() and right[level >= 0].mean() >= accuracy:
            return float(threshold)
    return None


def back_off_table(
    prob: np.ndarray, y: np.ndarray, levels: Mapping[str, Sequence[str]], thresholds: Sequence[float]
) -> pd.DataFrame:
    """Return one row a threshold: threshold, answered, accuracy (of the answers), and the share of each level."""
    keep = y != -1
    made, rows = BackOff(prob[keep], y[keep], levels), []
    for threshold in thresholds:
        level, right = made.answers(threshold)
        answered = level >= 0
        row = {"threshold": threshold, "answered": float(answered.mean()),
               "accuracy": float(right[answered].mean()) if answered.any() else float("nan")}  # fmt: skip
        rows.append(row | {name: float((level == i).mean()) for i, name in enumerate(made.names)})
    return pd.DataFrame(rows)
