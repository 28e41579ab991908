"""Temperature and abstention, in numpy, from stored probabilities; both are fitted on data kept for that alone.

Arrays: prob (N, C), y (N,) class indices; -1 = no label (left out), -2 = a class that training never saw (an error of
every answer, so it counts against accuracy; it has no probability, so no temperature is fitted on it).
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

BOUNDS = (0.05, 20.0)  # a best value at one of these means that the search ended, not that it found something
_TINY = float(np.finfo(np.float32).tiny)  # below it a stored probability has lost its digits


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        value: Divides the logits; above 1 the model was too sure.
        before: Mean negative log-likelihood at temperature 1, in nats.
        after: The same at ``value``.
        at_bound: The search ended at a bound: the value is not an optimum.
        samples: Labelled samples that it was fitted on.
    """

    value: float
    before: float
    after: float
    at_bound: bool
    samples: int


def temper(prob: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(log prob / temperature) (N, C); the order of the classes of a sample stays as it is."""
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, got {temperature}")
    logits = np.log(np.maximum(prob.astype(np.float64), _TINY)) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True)


def fit_temperature(prob: np.ndarray, y: np.ndarray) -> Temperature:
    """Find the temperature with the least negative log-likelihood.

    Raises:
        ValueError: No sample has a label of a known class.
    """
    known = y >= 0
    if not known.any():
        raise ValueError("no sample has a label of a known class: a temperature cannot be fitted")
    prob, y = prob[known], y[known].astype(np.int64)

    def nll(log_temperature: float) -> float:
        right = temper(prob, math.exp(log_temperature))[np.arange(len(y)), y]
        return float(-np.log(np.maximum(right, _TINY)).mean())

    low, high = (math.log(bound) for bound in BOUNDS)
    found = minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    best = min([float(found.x), low, high, 0.0], key=nll)  # the NLL is convex in 1/T, but flat far away
    at_bound = min(best - low, high - best) < 1e-3
    return Temperature(math.exp(best), nll(0.0), nll(best), at_bound, len(y))


def abstention_curve(prob: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """Return what answering only above a confidence gives.

    Returns:
        One row per distinct confidence, lowest first: threshold (answer where the largest probability reaches it),
        coverage (share answered), accuracy (of the answers), answered (count).

    Raises:
        ValueError: No sample has a label.
    """
    labelled = y != -1
    if not labelled.any():
        raise ValueError("no sample has a label: abstention cannot be judged")
    prob, y = prob[labelled], y[labelled]
    confidence, right = prob.max(axis=1), prob.argmax(axis=1) == y
    order = np.argsort(-confidence, kind="stable")
    confidence, right = confidence[order], right[order]
    # equal confidences are answered together
    last = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)
    answered = last + 1
    frame = pd.DataFrame(
        {
            "threshold": confidence[last],
            "coverage": answered / len(y),
            "accuracy": right.cumsum()[last] / answered,
            "answered": answered,
        }
    )
    return frame.iloc[::-1].reset_index(drop=True)


def abstention_threshold(curve: pd.DataFrame, accuracy: float) -> float | None:
    """Return the lowest threshold whose answers reach an accuracy, or ``None`` where none does."""
    if not 0 < accuracy <= 1:
        raise ValueError(f"the accuracy to reach lies in (0, 1], got {accuracy}")
    reached = curve["threshold"].to_numpy()[curve["accuracy"].to_numpy() >= accuracy]
    return float(reached[0]) if len(reached) else None


def abstain(prob: np.ndarray, y: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return (coverage, accuracy of the answers) at a threshold; the accuracy is NaN where nothing is answered."""
    labelled = y != -1
    prob, y = prob[labelled], y[labelled]
    answered = prob.max(axis=1) >= threshold
    right = prob.argmax(axis=1)[answered] == y[answered]
    return float(answered.mean()), float(right.mean()) if answered.any() else float("nan")
