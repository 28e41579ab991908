"""Easy samples first: which share of each class an epoch may draw from, and what makes a sample hard."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.predictions import read_probabilities

_WORD = re.compile(r"[a-z][a-z-]{2,}")


class Curriculum:
    """Draws from the easiest part of each class first; from ``end_epoch`` on from all of it.

    Classes stay as frequent as they are, because the ranks are counted in each class apart, and an epoch keeps its
    number of batches: the easy samples are drawn more often instead.

    Args:
        difficulty: What makes a sample hard: its length; its length and its technical terms (texts only); or the
            entropy of the prediction that an earlier run made for it.
        start: Share of each class in epoch 0.
        end_epoch: First epoch, counted from 0, that draws from everything; the share grows linearly until then.
        predictions: For ``entropy``: the `predict/predictions_train.npz` of a run, or its predictions.csv (fit the run,
            then `predict --data.predict_part train`).
    """

    def __init__(
        self,
        difficulty: Literal["length", "length_and_terms", "entropy"] = "length",
        start: float = 0.5,
        end_epoch: int = 5,
        predictions: str | None = None,
    ) -> None:
        if difficulty not in ("length", "length_and_terms", "entropy"):
            raise ValueError(f"difficulty={difficulty!r} must be length, length_and_terms or entropy")
        if not 0 < start <= 1:
            raise ValueError(f"start={start} must be a share above 0 and at most 1")
        if end_epoch < 1:
            raise ValueError(f"end_epoch={end_epoch} must be at least 1: epoch 0 uses the share `start`")
        if (difficulty == "entropy") != (predictions is not None):
            raise ValueError("difficulty=entropy and predictions go together: give both, or neither")
        self.difficulty, self.start, self.end_epoch, self.predictions = difficulty, start, end_epoch, predictions

    def share(self, epoch: int) -> float:
        """Share of each class that an epoch draws from; exactly 1 from ``end_epoch`` on."""
        return 1.0 if epoch >= self.end_epoch else self.start + (1 - self.start) * epoch / self.end_epoch


def class_ranks(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank samples by difficulty within their class.

    Args:
        scores: (n,) difficulty; the larger, the harder.
        y: (n,) class index.

    Returns:
        (n,) in [0, 1): the share of the class that is easier. ``rank < share`` picks the easiest share of each class,
        and at least one sample of it.

    Raises:
        DataError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} training samples have no difficulty: "
                        "the curriculum cannot place them")  # fmt: skip
    ranks = np.empty(len(scores))
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        ranks[rows[np.argsort(scores[rows], kind="stable")]] = np.arange(len(rows)) / len(rows)
    return ranks


def technical_terms(texts: Sequence[str]) -> set[str]:
    """Words of the highest IDF that are no accident: in at least 2 of the texts, and in at most 1 % of them (or 2)."""
    counts = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    most = max(2, len(texts) // 100)
    return {word for word, count in counts.items() if 2 <= count <= most}


def length_and_terms(texts: Sequence[str], train: np.ndarray) -> np.ndarray:
    """Difficulty of texts: half of words / 500, half of technical terms / 20.

    Args:
        texts: N texts.
        train: Rows of the training part, which alone decides what a technical term is.

    Returns:
        (N,) scores.
    """
    terms = technical_terms([texts[row] for row in train])
    words = np.array([len(text.split()) for text in texts])
    technical = np.array([sum(word in terms for word in _WORD.findall(text.lower())) for text in texts])
    return np.asarray(0.5 * words / 500 + 0.5 * technical / 20)


def entropies(path: str, ids: Sequence[str], origins: Sequence[str] | None = None) -> np.ndarray:
    """Entropy of stored predictions, by id.

    Args:
        path: A predictions npz (`id`, `prob`) or csv (`id`, columns `p(NAME)`) of a run.
        ids: N names of samples.
        origins: For each, the sample that it was made from, or ""; a made one is as hard as its origin.

    Returns:
        (N,) in nats; NaN for a sample that has no prediction.

    Raises:
        DataError: The file cannot be read.
    """
    names, _, prob = read_probabilities(path)
    entropy = -(prob * np.log(np.clip(prob, 1e-12, None))).sum(axis=1)
    known = dict(zip(names, entropy.tolist(), strict=True))
    made_from = origins if origins is not None else [""] * len(ids)
    return np.array([known.get(name, known.get(origin, np.nan)) for name, origin in zip(ids, made_from, strict=True)])
