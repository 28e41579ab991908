"""The counting models: probabilities that sum to one, and the textbook's formulas written out slowly beside them."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from datamodules.ngram import FIXED_DISCOUNTS, KneserNey, unigram_log_prob

BEGIN = -1


def corpus(words: int = 900, vocab: int = 12, documents: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Text with structure: each word depends on the one before; frequencies fall off as in real text."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, vocab + 1) ** 1.3
    tokens = rng.choice(vocab, size=words, p=share / share.sum())
    again = rng.random(words) < 0.4
    for i in range(1, words):
        if again[i]:
            tokens[i] = (3 * tokens[i - 1] + 1) % vocab
    starts = np.sort(rng.choice(np.arange(1, words), documents - 1, replace=False))
    return tokens, np.concatenate([[0], starts])


class Slow:
    """Modified Kneser-Ney with dictionaries, straight from Chen & Goodman (1999), section 3."""

    def __init__(self, documents: list[list[int]], vocab: int, order: int) -> None:
        self.vocab, self.order = vocab, order
        raw = [Counter() for _ in range(order + 1)]
        left = [defaultdict(set) for _ in range(order + 1)]
        for document in documents:
            words = [BEGIN, *document]
            for n in range(1, order + 1):
                for i in range(len(words) - n + 1):
                    gram = tuple(words[i : i + n])
                    if gram[-1] == BEGIN:
                        continue
                    raw[n][gram] += 1
                    if n > 1:
                        left[n - 1][gram[1:]].add(gram[0])
        self.counts = [Counter() for _ in range(order + 1)]
        for n in range(1, order + 1):
            for gram, count in raw[n].items():
                whole = n == order or gram[0] == BEGIN
                self.counts[n][gram] = count if whole else len(left[n][gram])
        self.discounts = [self.estimate(counts) for counts in self.counts]

    @staticmethod
    def estimate(counts: Counter) -> tuple[float, ...]:
        n = [sum(count == k for count in counts.values()) for k in range(5)]
        if not all(n[1:4]):
            return FIXED_DISCOUNTS
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        return found if min(found) > 0 else FIXED_DISCOUNTS

    def prob(self, context: tuple[int, ...], word: int) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        n = len(context) + 1
        lower = 1 / self.vocab if not context else self.prob(context[1:], word)
        after = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        total = sum(after.values())
        if not total:
            return lower
        off = [0.0, *self.discounts[n]]
        kept = sum(off[min(count, 3)] for count in after.values())
        count = after.get(word, 0)
        return (count - off[min(count, 3)]) / total + kept / total * lower


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_slow_textbook_gives_the_same_numbers(order):
    tokens, starts = corpus()
    documents = [part.tolist() for part in np.split(tokens, starts[1:])]
    slow = Slow(documents, 14, order)  # two words that the text does not have
    fast = KneserNey(14, order).fit(tokens, starts)
    held_out, held_starts = corpus(60, 14, 3, seed=1)
    found = np.exp(fast.log_prob(held_out, held_starts))
    place = 0
    for document in np.split(held_out, held_starts[1:]):
        words = [BEGIN, *document.tolist()]
        for i in range(1, len(words)):
            assert found[place] == pytest.approx(slow.prob(tuple(words[:i]), words[i]), rel=1e-12)
            place += 1
    assert place == len(held_out)


@pytest.mark.parametrize("context", [[], [0], [3, 1, 0], [13, 13, 13, 13], [1, 4, 2, 7, 10, 8]])
def test_the_probabilities_sum_to_one(context):
    tokens, starts = corpus()
    found = KneserNey(14, 5).fit(tokens, starts).distribution(np.array(context, dtype=np.int64))
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (found > 0).all(), "a word that was never seen keeps a share"


def test_no_context_reaches_over_the_beginning_of_a_document():
    tokens, _ = corpus(600, 12, 1)
    model = KneserNey(12, 4).fit(tokens, np.array([0]))
    one, other = np.array([5, 1, 2]), np.array([0, 9, 4, 4])
    both = model.log_prob(np.concatenate([one, other]), np.array([0, 3]))
    alone = np.concatenate([model.log_prob(part, np.array([0])) for part in (one, other)])
    np.testing.assert_array_equal(both, alone)


def test_a_longer_context_helps_on_text_that_has_one():
    tokens, starts = corpus(6000, 12, 3)
    held_out, held_starts = corpus(1000, 12, 3, seed=2)
    perplexity = {
        order: math.exp(-KneserNey(12, order).fit(tokens, starts).log_prob(held_out, held_starts).mean())
        for order in (1, 2, 5)
    }
    assert perplexity[2] < 0.9 * perplexity[1]
    assert perplexity[5] < 0.95 * perplexity[1]


def test_random_words_stay_at_the_size_of_the_vocabulary():
    rng = np.random.default_rng(0)
    tokens, held_out = rng.integers(50, size=5000), rng.integers(50, size=5000)
    nll = -KneserNey(50, 3).fit(tokens, np.array([0])).log_prob(held_out, np.array([0])).mean()
    assert math.exp(nll) > 0.97 * 50


def test_a_tiny_text_says_that_its_discounts_are_fixed():
    tiny = KneserNey(4, 2).fit(np.array([0, 1, 2]), np.array([0]))
    assert tiny.fixed_discounts == [1, 2]
    assert tiny.distribution(np.array([1])).sum() == pytest.approx(1)
    tokens, starts = corpus(6000)
    assert KneserNey(12, 2).fit(tokens, starts).fixed_discounts == [1], "12 words all follow many others"


@pytest.mark.parametrize("tokens", [[], [-1], [4]])
def test_words_outside_of_the_vocabulary_are_refused(tokens):
    with pytest.raises(ValueError, match="words"):
        KneserNey(4).fit(np.array(tokens, dtype=np.int64), np.array([0]))
    with pytest.raises(ValueError, match="at least 1"):
        KneserNey(0)


def test_the_unigram_counts_each_word_once_more():
    found = np.exp(unigram_log_prob(np.array([0, 0, 1]), np.array([0, 1, 2]), 3))
    np.testing.assert_allclose(found, [3 / 6, 2 / 6, 1 / 6])
