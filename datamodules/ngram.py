"""Counting language models, exact and in numpy: a unigram, and an interpolated Kneser-Ney n-gram.

Kneser & Ney 1995 with the three discounts of Chen & Goodman 1999 ("modified"), interpolated at every order down to the
uniform distribution. All documents of a corpus lie in one array; ``starts`` says where each begins, and no context
reaches over a beginning.
"""

from dataclasses import dataclass

import numpy as np

FIXED_DISCOUNTS = (0.5, 1.0, 1.5)  # where a tiny corpus has no n-gram that was seen once (or twice, ...)


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order n, and what their contexts keep for the order below.

    Attributes:
        keys: (K,) sorted; context id * base + word. share: (K,) discounted share of the word after its context.
        rest: (C,) weight that each context leaves to the order below; 1 for a context that was never continued.
    """

    keys: np.ndarray
    share: np.ndarray
    rest: np.ndarray


class KneserNey:
    """Interpolated modified Kneser-Ney of any order.

    Args:
        vocab_size: Number of words V; words are 0 ... V-1. Every word has a probability, seen or not.
        order: Longest n-gram.
    """

    def __init__(self, vocab_size: int, order: int = 5) -> None:
        if vocab_size < 1 or order < 1:
            raise ValueError(f"vocab_size and order must be at least 1, got {vocab_size} and {order}")
        self.vocab_size, self.order = vocab_size, order
        self.base = vocab_size + 1  # one more word: the beginning of a document, only ever a context
        self.fixed_discounts: list[int] = []  # orders whose discounts could not be estimated
        self._unigram = np.full(vocab_size, 1 / vocab_size)
        self._orders: list[_Order] = []

    def fit(self, tokens: np.ndarray, starts: np.ndarray) -> "KneserNey":
        """Count a corpus.

        Args:
            tokens: (N,) words of all documents.
            starts: (D,) where each document begins; the first is 0.
        """
        self._check(tokens)
        padded, _ = self._with_beginnings(tokens, starts)
        ids = [np.where(padded < 0, self.vocab_size, padded)]  # ids[n - 1][i]: the n-gram that ends at i, -1 = none
        uniques: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for _ in range(1, self.order):
            found, keys = self._extend(ids[-1], padded)
            unique, first, place, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
            uniques.append((unique, found[first], counts))
            longer = np.full(len(padded), -1)
            longer[found] = place
            ids.append(longer)
        self._fit_unigram(padded, ids, uniques)
        contexts = self.base
        for n, (unique, first, counts) in enumerate(uniques, start=2):
            if n < self.order:  # in how many contexts it occurs; a document's beginning has none before it
                above = ids[n - 1][uniques[n - 1][1]]
                adjusted = np.bincount(above, minlength=len(unique))
                at_start = padded[first - n + 1] < 0
                adjusted[at_start] = counts[at_start]
            else:
                adjusted = counts
            self._orders.append(self._discounted(n, unique, adjusted, contexts))
            contexts = len(unique)
        return self

    def log_prob(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the natural logarithm of the probability of each word after the words before it (N,).

        Args:
            tokens: (N,) words of all documents.
            starts: (D,) where each document begins; the first is 0.
        """
        self._check(tokens)
        padded, kept = self._with_beginnings(tokens, starts)
        real = padded >= 0
        prob = np.ones(len(padded))
        prob[real] = self._unigram[padded[real]]
        context = np.where(padded < 0, self.vocab_size, padded)
        for order in self._orders:
            found, keys = self._extend(context, padded)
            before = keys // self.base
            place = np.minimum(np.searchsorted(order.keys, keys), len(order.keys) - 1)
            seen = order.keys[place] == keys
            prob[found] = order.rest[before] * prob[found] + np.where(seen, order.share[place], 0.0)
            context = np.full(len(padded), -1)
            context[found] = np.where(seen, place, -1)
        return np.log(prob[kept])

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """Return the probability of every word (V,) after a document that so far holds ``context``."""
        documents = [np.append(context, word) for word in range(self.vocab_size)]
        length = len(context) + 1
        starts = np.arange(self.vocab_size) * length
        logs = self.log_prob(np.concatenate(documents).astype(np.int64), starts)
        return np.exp(logs[length - 1 :: length])

    def _check(self, tokens: np.ndarray) -> None:
        if not len(tokens):
            raise ValueError("no words: an n-gram needs text")
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ValueError(f"words must lie in 0 ... {self.vocab_size - 1}, got {tokens.min()} ... {tokens.max()}")

    @staticmethod
    def _with_beginnings(tokens: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Put -1 before each document; return the longer array and where the words are in it."""
        padded = np.insert(np.asarray(tokens, np.int64), starts, -1)
        return padded, np.flatnonzero(padded >= 0)

    def _extend(self, context: np.ndarray, padded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions whose word has a known context just before it, and the keys of both together."""
        found = np.flatnonzero((context[:-1] >= 0) & (padded[1:] >= 0)) + 1
        return found, context[found - 1] * self.base + padded[found]

    def _fit_unigram(
        self, padded: np.ndarray, ids: list[np.ndarray], uniques: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> None:
        if self.order > 1:  # in how many contexts a word occurs
            counts = np.bincount(ids[0][uniques[0][1]], minlength=self.vocab_size)[: self.vocab_size]
        else:
            counts = np.bincount(padded[padded >= 0], minlength=self.vocab_size)
        seen = np.flatnonzero(counts)
        found = self._discounted(1, seen, counts[seen], 1)
        self._unigram = np.full(self.vocab_size, found.rest[0] / self.vocab_size)
        self._unigram[seen] += found.share

    def _discounted(self, n: int, keys: np.ndarray, counts: np.ndarray, contexts: int) -> _Order:
        context = keys // self.base
        off = self._discounts(n, counts)[np.minimum(counts, 3)]
        total = np.bincount(context, counts, minlength=contexts)
        kept = np.bincount(context, off, minlength=contexts)
        rest = np.divide(kept, total, out=np.ones(contexts), where=total > 0)
        return _Order(keys, (counts - off) / total[context], rest)

    def _discounts(self, n: int, counts: np.ndarray) -> np.ndarray:
        """Return what is taken off a count of 0, 1, 2, and 3 or more."""
        once, twice, thrice, four = (int((counts == k).sum()) for k in (1, 2, 3, 4))
        if not (once and twice and thrice):
            self.fixed_discounts.append(n)
            return np.array([0.0, *FIXED_DISCOUNTS])
        y = once / (once + 2 * twice)
        found = np.array([0.0, 1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice])
        if (found[1:] <= 0).any():  # counts of counts that do not fall: no text looks so
            self.fixed_discounts.append(n)
            return np.array([0.0, *FIXED_DISCOUNTS])
        return found


def unigram_log_prob(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return log-probabilities (N,) by frequency in the training words alone, each word counted once more."""
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return np.log(counts / counts.sum())[tokens]
