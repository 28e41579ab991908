"""Keywords of a paper by TF-IDF, fitted on training texts, and which of them stand in one sentence (pure)."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

WORD = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Keywords:
    """Chooses the words of a text that are frequent in it and rare elsewhere.

    Weights are term frequency times smoothed inverse document frequency, ln((1 + n) / (1 + df)) + 1, of length 1 over
    all known words of the text (as scikit-learn's `TfidfVectorizer`), of which the largest `count` are kept.

    Args:
        count: Most keywords of a text.
        words: Known words; a word's id is its place.
        idf: Their inverse document frequencies.
    """

    def __init__(self, count: int, words: Sequence[str], idf: Sequence[float]) -> None:
        self.count, self.words, self.idf = count, list(words), [float(value) for value in idf]
        self._index = {word: place for place, word in enumerate(self.words)}

    @classmethod
    def fit(cls, texts: Iterable[str], count: int, vocabulary: int) -> "Keywords":
        """Learn the vocabulary from training texts.

        Args:
            texts: Training texts; nothing else may be in them.
            count: Most keywords of a text.
            vocabulary: Most words; those in the most texts, without English function words, in at least two texts.
        """
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        found: Counter[str] = Counter()
        total = 0
        for text in texts:
            total += 1
            found.update(set(_words(text)) - ENGLISH_STOP_WORDS)
        ranked = sorted((word for word, n in found.items() if n > 1 and len(word) > 1), key=lambda w: (-found[w], w))
        words = sorted(ranked[:vocabulary])
        return cls(count, words, [math.log((1 + total) / (1 + found[word])) + 1 for word in words])

    def __len__(self) -> int:
        return len(self.words)

    def tables(self, titles: Sequence[str], abstracts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the keywords of N papers, heaviest first.

        Returns:
            `keyword_ids` (N, K) int64, `keyword_weights` (N, K) float32, `keyword_mask` (N, K) bool and
            `keyword_links` (N, K, K) float32: 1 where two keywords stand in one sentence (or both in the title),
            symmetric, 0 on the diagonal. A paper with fewer keywords has False, and zeros, behind them.
        """
        shape = (len(titles), self.count)
        found: dict[str, np.ndarray] = {
            "keyword_ids": np.zeros(shape, np.int64),
            "keyword_weights": np.zeros(shape, np.float32),
            "keyword_mask": np.zeros(shape, bool),
            "keyword_links": np.zeros((*shape, self.count), np.float32),
        }
        for row, (title, abstract) in enumerate(zip(titles, abstracts, strict=True)):
            sentences = [[self._index[word] for word in _words(text) if word in self._index]
                         for text in (title, *SENTENCE.split(abstract))]  # fmt: skip
            ids, weights = self._heaviest(sentences)
            size = len(ids)
            found["keyword_ids"][row, :size] = ids
            found["keyword_weights"][row, :size] = weights
            found["keyword_mask"][row, :size] = True
            inside = np.array([[word in set(sentence) for word in ids] for sentence in sentences], np.float32)
            links = (inside.reshape(len(sentences), size).T @ inside.reshape(len(sentences), size) > 0).astype(
                np.float32
            )
            np.fill_diagonal(links, 0)
            found["keyword_links"][row, :size, :size] = links
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {"count": self.count, "words": list(self.words), "idf": list(self.idf)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Keywords":
        """Make it again from what `state_dict` gave."""
        return cls(int(state["count"]), state["words"], state["idf"])

    def _heaviest(self, sentences: Sequence[Sequence[int]]) -> tuple[list[int], list[float]]:
        counts = Counter(word for sentence in sentences for word in sentence)
        weights = {word: number * self.idf[word] for word, number in counts.items()}
        norm = math.sqrt(sum(value**2 for value in weights.values())) or 1.0
        best = sorted(weights, key=lambda word: (-weights[word], word))[: self.count]
        return best, [weights[word] / norm for word in best]


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
