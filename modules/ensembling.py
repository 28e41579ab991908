"""Several classifiers on the same samples become one, in numpy, from stored probabilities.

Arrays: members (M, N, C) probabilities, y (N,) class indices; -1 = no label and -2 = a class that training never saw
are left out of everything that is fitted. Nothing here knows which part of the data it is given: fit on validation or
calibration, judge on test.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

_FLOOR = 1e-7  # a member's probability is taken for at least this much, so that one sure mistake does not rule alone
_STEPS = (0.2, 0.1, 0.05, 0.02)  # shares of weight that are moved between members in the search for macro-F1


def align(ids: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """Return for each member the row of each of the first member's ids.

    Args:
        ids: Names of the samples of each member, (N,) each.
        names: How each member is called in an error.

    Raises:
        ValueError: An id occurs twice, or two members have different ids.
    """
    rows = []
    for own, name in zip(ids, names, strict=True):
        order = np.argsort(own, kind="stable")
        ordered = own[order]
        if (twice := ordered[:-1][ordered[1:] == ordered[:-1]]).size:
            raise ValueError(f"{name} has the id {str(twice[0])!r} twice")
        only = np.setxor1d(own, ids[0])
        if len(only):
            raise ValueError(
                f"{names[0]} and {name} have different ids: {len(only)} are in only one, as {str(only[0])!r}"
            )
        rows.append(order[np.searchsorted(ordered, ids[0])])
    return rows


def mean(members: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the weighted mean of the probabilities (N, C); no weights: all the same.

    Raises:
        ValueError: Another number of weights than members, a negative one, or all zero.
    """
    if weights is None:
        weights = np.ones(len(members))
    if weights.shape != (len(members),) or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(f"{len(members)} members need as many weights, none negative, not all zero; got {weights}")
    return np.tensordot(weights / weights.sum(), members.astype(np.float64), axes=1)


def fit_weights(members: np.ndarray, y: np.ndarray, by: str = "nll") -> np.ndarray:
    """Find the weights (M,), sum 1, with which the mean is best.

    Args:
        members: Probabilities (M, N, C).
        y: Class indices (N,).
        by: ``nll`` (convex: one answer, by expectation-maximisation) or ``macro_f1`` (a search that starts at equal
            weights and moves shares between two members while that helps).

    Raises:
        ValueError: An unknown criterion, or no labelled sample.
    """
    known = _known(y)
    members, y = members[:, known].astype(np.float64), y[known]
    if by == "nll":
        return _by_likelihood(members, y)
    if by == "macro_f1":
        return _by_score(members, lambda prob: _macro_f1(prob, y))
    raise ValueError(f"unknown criterion {by!r}: weights are fitted by nll or macro_f1")


def _by_likelihood(members: np.ndarray, y: np.ndarray) -> np.ndarray:
    right = np.maximum(members[:, np.arange(len(y)), y], _FLOOR)
    weights = np.full(len(right), 1 / len(right))
    for _ in range(20_000):  # each step has a higher likelihood; from inside the simplex it ends at the optimum
        moved = (weights[:, None] * right / (weights @ right)).mean(axis=1)
        if np.abs(moved - weights).max() < 1e-9:
            break
        weights = moved
    return weights / weights.sum()


def _by_score(members: np.ndarray, score: Callable[[np.ndarray], float]) -> np.ndarray:
    weights = np.full(len(members), 1 / len(members))
    best = score(mean(members, weights))
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for source in range(len(members)):
                for target in range(len(members)):
                    share = min(step, weights[source])
                    if source == target or share <= 0:
                        continue
                    trial = weights.copy()
                    trial[source] -= share
                    trial[target] += share
                    if (value := score(mean(members, trial))) > best + 1e-12:
                        weights, best, improved = trial, value, True
    return weights


@dataclass(frozen=True)
class Stacking:
    """A multinomial logistic regression on the log-probabilities of the members.

    Attributes:
        coefficients: (M * C, K), for the K classes that it was fitted on.
        intercept: (K,).
        classes: (K,) indices of those classes.
        num_classes: C.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    classes: np.ndarray
    num_classes: int

    @classmethod
    def fit(cls, members: np.ndarray, y: np.ndarray, strength: float = 1.0) -> "Stacking":
        """Fit on data that no member was trained on.

        Args:
            members: Probabilities (M, N, C).
            y: Class indices (N,).
            strength: Inverse strength of the penalty (``C`` of scikit-learn).

        Raises:
            ValueError: Fewer than two classes have a label.
        """
        known = _known(y)
        if len(np.unique(y[known])) < 2:
            raise ValueError("stacking needs labelled samples of two classes or more")
        x = _features(members[:, known])
        centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        model = LogisticRegression(C=strength, max_iter=5000).fit((x - centre) / scale, y[known])
        rows, intercept = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # one row stands for both classes
            rows, intercept = np.vstack([-rows, rows]) / 2, np.array([-intercept[0], intercept[0]]) / 2
        coefficients = (rows / scale).T
        return cls(coefficients, intercept - centre @ coefficients, model.classes_.astype(np.int64), members.shape[2])

    def predict(self, members: np.ndarray) -> np.ndarray:
        """Return probabilities (N, C); a class without a label in the fit keeps the mean of the members."""
        logits = _features(members) @ self.coefficients + self.intercept
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        prob = mean(members)
        left = prob[:, self.classes].sum(axis=1, keepdims=True)
        prob[:, self.classes] = left * shares / shares.sum(axis=1, keepdims=True)
        return prob


def _features(members: np.ndarray) -> np.ndarray:
    logs = np.log(np.maximum(members.astype(np.float64), _FLOOR))
    return np.moveaxis(logs, 0, 1).reshape(members.shape[1], -1)


def out_of_fold(
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
    members: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Return probabilities (N, C) of an ensemble that never saw the sample that it answers for.

    Args:
        fit: Takes members and labels, returns a function from members to probabilities.
        members: Probabilities (M, N, C).
        y: Class indices (N,); samples without a label are answered by all folds' mean.
        groups: Group of each sample (N,); a group is never on both sides.
        folds: Number of folds; fewer where there are fewer groups.
        seed: Seed of the folds.

    Raises:
        ValueError: Fewer than two groups with a label.
    """
    known = np.flatnonzero(_known(y))
    count = min(folds, len(np.unique(groups[known])))
    if count < 2:
        raise ValueError("an out-of-fold ensemble needs labelled samples of two groups or more")
    prob, rest = np.zeros(members.shape[1:]), np.setdiff1d(np.arange(len(y)), known)
    smallest = int(np.unique(y[known], return_counts=True)[1].min())
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    strata = y[known] if smallest >= count else np.zeros(len(known), dtype=np.int64)  # too rare to be stratified
    for inside, outside in splitter.split(known, strata, groups[known]):
        answer = fit(members[:, known[inside]], y[known[inside]])
        prob[known[outside]] = answer(members[:, known[outside]])
        if len(rest):
            prob[rest] += answer(members[:, rest]) / count
    return prob


def samme_alpha(error: float, num_classes: int) -> float:
    """Return the weight of a boosted member, ln((1 - e) / e) + ln(K - 1) (Zhu et al. 2009).

    It is above zero for whatever is better than guessing among K classes; for two classes that is the old binary rule.

    Raises:
        ValueError: An error outside (0, 1).
    """
    if not 0 < error < 1:
        raise ValueError(f"the weighted error lies between 0 and 1, got {error}")
    return math.log((1 - error) / error) + math.log(num_classes - 1)


def samme_update(weights: np.ndarray, wrong: np.ndarray, alpha: float) -> np.ndarray:
    """Return the sample weights (N,) of the next member, mean 1: those that were wrong count exp(alpha) times more."""
    moved = weights * np.exp(alpha * wrong)
    return moved / moved.mean()


def samme_alphas(members: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weights (M,) that boosting gives members which exist already, in their order.

    A member that is not better than guessing on what the earlier ones left gets 0. One without any error gets the
    weight of half an error in all samples.

    Raises:
        ValueError: No labelled sample.
    """
    known = _known(y)
    members, y = members[:, known], y[known]
    weights, alphas = np.ones(len(y)), []
    for prob in members:
        wrong = prob.argmax(axis=1) != y
        error = max(float(weights[wrong].sum() / weights.sum()), 0.5 / len(y))
        alpha = max(samme_alpha(min(error, 1 - 1e-9), members.shape[2]), 0.0)
        weights = samme_update(weights, wrong, alpha)
        alphas.append(alpha)
    return np.array(alphas)


def samme_vote(members: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Return probabilities (N, C) whose largest is the class with most votes, each vote worth its member's alpha.

    The shares are those of scikit-learn's AdaBoost: softmax of (vote - 1 / K) * K / (K - 1)^2, votes summing to 1.

    Raises:
        ValueError: As in :func:`mean`.
    """
    size = members.shape[2]
    vote = mean(np.eye(size)[members.argmax(axis=2)], alphas)
    logits = (vote - (1 - vote) / (size - 1)) / (size - 1)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _known(y: np.ndarray) -> np.ndarray:
    if not (y >= 0).any():
        raise ValueError("no sample has a label of a known class: an ensemble cannot be fitted")
    return y >= 0


def _macro_f1(prob: np.ndarray, y: np.ndarray) -> float:
    size, guess = prob.shape[1], prob.argmax(axis=1)
    hits, predicted, actual = (np.bincount(k, minlength=size) for k in (guess[guess == y], guess, y))
    seen = predicted + actual > 0
    return float((2 * hits[seen] / (predicted + actual)[seen]).mean())
