"""Decisions from probabilities: two threshold rules, each under its own name, the cost-optimal one, and their tuners.

Pure numpy. Arrays: prob (N, C), y (N,) class indices; -1 = no label (left out), -2 = a class that training never saw
(an error of every decision). A tuner sees the arrays that it is given and nothing else: give it validation.

- Rule A, one class: the positive class wherever its probability reaches a threshold, elsewhere the most probable one.
- Rule B, all classes: among the classes that reach their own threshold the most probable; none does: most probable of
  all. With all thresholds at 1 / C, or below, it is argmax; raising one only takes samples away from that class.
- Cost rule: the class with the least expected cost.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

MOST = 10_000  # combinations that a grid may try
_CLOSE = 1e-12


def rule_a(prob: np.ndarray, positive: int, threshold: float) -> np.ndarray:
    """Return the decisions (N,) of rule A; ``threshold`` lies in [0, 1], and above 1 the rule is argmax."""
    return np.where(prob[:, positive] >= threshold, positive, prob.argmax(axis=1))


def rule_b(prob: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the decisions (N,) of rule B; ``thresholds`` (C,)."""
    passed = prob >= thresholds
    among = np.where(passed, prob, -1.0).argmax(axis=1)
    return np.where(passed.any(axis=1), among, prob.argmax(axis=1))


def cost_decision(prob: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return the decisions (N,) with the least expected cost; ``cost`` (C, C), rows = truth, columns = decision.

    Ties go to the more probable class.
    """
    expected = prob.astype(np.float64) @ cost
    best = expected.min(axis=1, keepdims=True)
    return np.where(expected <= best + _CLOSE, prob, -1.0).argmax(axis=1)


def mean_cost(guess: np.ndarray, y: np.ndarray, cost: np.ndarray) -> float:
    """Return the mean cost of decisions on the samples of known classes."""
    known = y >= 0
    return float(cost[y[known], guess[known]].mean())


def decision_metrics(
    guess: np.ndarray, y: np.ndarray, num_classes: int, positive: int | None = None
) -> dict[str, float]:
    """Return accuracy and macro_f1 (as in ``statistics``), and precision, recall and f1 of a positive class.

    Raises:
        ValueError: No sample has a label.
    """
    labelled = y != -1
    if not labelled.any():
        raise ValueError("no sample has a label: decisions cannot be judged")
    guess, y = guess[labelled], y[labelled].astype(np.int64)
    hits = np.bincount(guess[guess == y], minlength=num_classes)
    predicted, actual = np.bincount(guess, minlength=num_classes), np.bincount(y[y >= 0], minlength=num_classes)
    f1 = _share(2 * hits, predicted + actual)
    found = {"accuracy": float(hits.sum() / len(y)), "macro_f1": float(f1.sum() / (predicted + actual > 0).sum())}
    if positive is not None:
        found["precision"] = float(_share(hits, predicted)[positive])
        found["recall"] = float(_share(hits, actual)[positive])
        found["f1"] = float(f1[positive])
    return found


@dataclass(frozen=True)
class Target:
    """What a tuner looks for.

    Args:
        metric: ``accuracy``, ``macro_f1``, or ``f1`` of the positive class.
        recall: Least recall of the positive class; where no candidate has it, the one with the most recall is taken.
    """

    metric: str = "macro_f1"
    recall: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in ("accuracy", "macro_f1", "f1"):
            raise ValueError(f"unknown target {self.metric!r}: choose accuracy, macro_f1 or f1 (of the positive class)")
        if self.recall is not None and not 0 <= self.recall <= 1:
            raise ValueError(f"a recall lies in [0, 1], got {self.recall}")

    def value(self, metrics: dict[str, float]) -> tuple[float, float]:
        """Return what is to be made as large as possible: first the recall up to its floor, then the metric."""
        return (0.0 if self.recall is None else min(metrics["recall"], self.recall)), metrics[self.metric]

    def beats(self, one: dict[str, float], other: dict[str, float]) -> bool:
        """Tell whether one result is better than another by more than rounding."""
        for a, b in zip(self.value(one), self.value(other), strict=True):
            if abs(a - b) > _CLOSE:
                return a > b
        return False


def curve_a(prob: np.ndarray, y: np.ndarray, positive: int, candidates: Sequence[float]) -> pd.DataFrame:
    """Return one row per threshold of rule A: threshold, accuracy, macro_f1, precision, recall, f1."""
    rows = [
        {"threshold": t} | decision_metrics(rule_a(prob, positive, t), y, prob.shape[1], positive) for t in candidates
    ]
    return pd.DataFrame(rows)


def tune_a(prob: np.ndarray, y: np.ndarray, positive: int, candidates: Sequence[float], target: Target) -> float:
    """Return the best threshold of rule A, or infinity where argmax is at least as good as every candidate.

    Of equally good candidates the highest is taken, which changes argmax least.

    Raises:
        ValueError: No candidates, or no labelled sample of the positive class.
    """
    _check(y, positive, candidates)
    best, found = math.inf, decision_metrics(prob.argmax(axis=1), y, prob.shape[1], positive)
    for t in sorted(candidates, reverse=True):
        tried = decision_metrics(rule_a(prob, positive, t), y, prob.shape[1], positive)
        if target.beats(tried, found):
            best, found = t, tried
    return best


def tune_b_greedy(
    prob: np.ndarray,
    y: np.ndarray,
    positive: int,
    candidates: Sequence[float],
    target: Target,
    order: Sequence[int] | None = None,
    rounds: int = 10,
) -> np.ndarray:
    """Tune the thresholds of rule B class by class, starting at argmax, until a whole round changes nothing.

    Args:
        prob: Probabilities (N, C).
        y: Class indices (N,).
        positive: Class that the target's recall and f1 are about.
        candidates: Thresholds to try for each class.
        target: What to look for.
        order: Classes in the order in which they are tuned; ``None`` starts with the positive class.
        rounds: Rounds at most.

    Returns:
        Thresholds (C,); 0 for a class that is better left alone.

    Raises:
        ValueError: As in :func:`tune_a`.
    """
    _check(y, positive, candidates)
    size = prob.shape[1]
    turn = list(order) if order is not None else [positive, *(k for k in range(size) if k != positive)]
    thresholds = np.zeros(size)
    found = decision_metrics(rule_b(prob, thresholds), y, size, positive)
    for _ in range(rounds):
        changed = False
        for k in turn:
            for t in sorted({0.0, *candidates}):
                trial = thresholds.copy()
                trial[k] = t
                tried = decision_metrics(rule_b(prob, trial), y, size, positive)
                if target.beats(tried, found):
                    thresholds, found, changed = trial, tried, True
        if not changed:
            break
    return thresholds


def tune_b_grid(
    prob: np.ndarray, y: np.ndarray, positive: int, candidates: Sequence[float], target: Target, limit: int = MOST
) -> np.ndarray:
    """Tune the thresholds (C,) of rule B by trying every combination of candidates.

    Raises:
        ValueError: More combinations than ``limit``, or as in :func:`tune_a`.
    """
    _check(y, positive, candidates)
    size = prob.shape[1]
    combinations = len(set(candidates)) ** size
    if combinations > limit:
        raise ValueError(
            f"{len(set(candidates))} candidates for {size} classes are {combinations} combinations, more than {limit}: "
            "give fewer candidates, or search greedily"
        )
    best, found = np.zeros(size), decision_metrics(prob.argmax(axis=1), y, size, positive)
    for combination in itertools.product(sorted(set(candidates)), repeat=size):
        trial = np.array(combination)
        tried = decision_metrics(rule_b(prob, trial), y, size, positive)
        if target.beats(tried, found):
            best, found = trial, tried
    return best


def _check(y: np.ndarray, positive: int, candidates: Sequence[float]) -> None:
    if not len(candidates):
        raise ValueError("no candidate thresholds were given")
    if any(not 0 <= t <= 1 for t in candidates):
        raise ValueError(f"thresholds lie in [0, 1], got {list(candidates)}")
    if not (y == positive).any():
        raise ValueError("no labelled sample of the positive class: a threshold cannot be tuned")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
