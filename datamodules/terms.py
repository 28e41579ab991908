"""All known words and pairs of words of a paper with their TF-IDF weights, for the wide part of the network (pure)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.errors import DataError


class Terms:
    """TF-IDF of words and pairs of words by scikit-learn, fitted on training texts.

    Weights are (1 + ln tf) times smoothed inverse document frequency, of length 1 over a paper's known terms, as in the
    simple model that stands beside the network.

    Args:
        names: Known terms; a term's id is its place.
        idf: Their inverse document frequencies.
    """

    def __init__(self, names: Sequence[str], idf: Sequence[float]) -> None:
        self.names, self.idf = list(names), [float(value) for value in idf]
        self._table = _vectorizer(vocabulary=self.names)
        self._table.idf_ = np.array(self.idf)

    @classmethod
    def fit(cls, texts: Sequence[str], most: int) -> "Terms":
        """Learn the terms from training texts; nothing else may be in them.

        Args:
            texts: Training texts.
            most: Most terms; the most frequent ones, in at least two texts.

        Raises:
            DataError: No term occurs in two texts.
        """
        table = _vectorizer(max_features=most, min_df=2)
        try:
            table.fit(texts)
        except ValueError as error:  # scikit-learn: no terms remain
            raise DataError(f"no word occurs in two training papers: set --data.terms 0 ({error})") from error
        return cls(table.get_feature_names_out().tolist(), table.idf_.tolist())

    def __len__(self) -> int:
        return len(self.names)

    def tables(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the terms of N papers.

        Returns:
            `term_ids` (N, K) int64, `term_weights` (N, K) float32 and `term_mask` (N, K) bool; K is the number of terms
            of the paper that has most. Behind a paper's own terms stand zeros and False.
        """
        found = self._table.transform(texts).tocsr()
        counts = np.diff(found.indptr)
        mask = np.arange(max(1, counts.max())) < counts[:, None]
        tables: dict[str, np.ndarray] = {"term_ids": np.zeros(mask.shape, np.int64)}
        tables["term_weights"] = np.zeros(mask.shape, np.float32)
        tables["term_ids"][mask], tables["term_weights"][mask] = found.indices, found.data
        return tables | {"term_mask": mask}

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {"names": list(self.names), "idf": list(self.idf)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Terms":
        """Make it again from what `state_dict` gave."""
        return cls(state["names"], state["idf"])


def _vectorizer(**settings: Any) -> Any:  # noqa: ANN401  # scikit-learn has no type stubs
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32, **settings)
