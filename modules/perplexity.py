"""What a language model is worth, in numpy, from the loss of every token: perplexities, intervals, where the loss lies.

Sums are kept per document: nll (nats), tokens, words (with one end of line a line), bytes. A perplexity is
exp(sum of nll / count) over all of them, never a mean of means. Per word it does not depend on the tokenizer, so that
models of pieces compare with the literature of words; of a model of pieces it is an upper bound (one segmentation).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

METRICS = ("word_perplexity", "perplexity", "bits_per_byte", "nll")
_UNIT = {"word_perplexity": "words", "perplexity": "tokens", "bits_per_byte": "bytes", "nll": "tokens"}
TOO_GOOD = 5.0  # per word, of a model trained from scratch on real text: an error in the evaluation
NEAR_CHANCE = 0.9  # share of the vocabulary from which a perplexity says that nothing was learnt

Sums = Mapping[str, np.ndarray]


def measured(sums: Sums) -> dict[str, float]:
    """Return every metric of :data:`METRICS`.

    Args:
        sums: nll, tokens, words and bytes by document, (D,) each.
    """
    return {name: float(_value(name, *(np.sum(sums[key]) for key in ("nll", _UNIT[name])))) for name in METRICS}


def _value(metric: str, nll: np.ndarray, count: np.ndarray) -> np.ndarray:
    rate = nll / count
    return rate if metric == "nll" else rate / math.log(2) if metric == "bits_per_byte" else np.exp(rate)


def resampled(sums: Sums, groups: np.ndarray, n: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Return each metric in n resamples of the groups, (n,) each; equal groups and seed give equal resamples.

    Args:
        sums: As in :func:`measured`.
        groups: (D,) group of each document, of any type that sorts.
        n: Resamples.
        seed: Seed of the resampling.
    """
    _, code = np.unique(groups, return_inverse=True)
    count = int(code.max()) + 1
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n)
    total = {
        key: times @ np.bincount(code, np.asarray(sums[key], float), minlength=count)
        for key in ("nll", "tokens", "words", "bytes")
    }
    return {name: _value(name, total["nll"], total[_UNIT[name]]) for name in METRICS}


def intervals(drawn: Mapping[str, np.ndarray], level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of each metric of :func:`resampled`."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {name: (float(low), float(high)) for name, (low, high) in _quantiles(drawn, ends)}


def _quantiles(drawn: Mapping[str, np.ndarray], ends: Sequence[float]) -> list[tuple[str, np.ndarray]]:
    return [(name, np.quantile(values, ends)) for name, values in drawn.items()]


def flags(perplexity: float, vocab_size: int, floor: float | None, word_perplexity: float) -> list[str]:
    """Return what is implausible about a perplexity.

    Args:
        perplexity: Per token.
        vocab_size: Size of the vocabulary.
        floor: Least perplexity per token that the text allows, where its generator is known.
        word_perplexity: Per word: of bytes, a perplexity of 3 per token is an ordinary one.
    """
    found = []
    if floor is None and word_perplexity < TOO_GOOD:
        found.append(
            f"a perplexity of {word_perplexity:.2f} per word is implausible (below {TOO_GOOD:g}): look for labels "
            "that the model can see, and for test text in the training part"
        )
    if floor is not None and perplexity < floor:
        found.append(f"a perplexity of {perplexity:.2f} per token is below the text's own entropy ({floor:.2f})")
    if perplexity > NEAR_CHANCE * vocab_size:
        found.append(f"a perplexity of {perplexity:.0f} is that of guessing evenly among {vocab_size} tokens")
    return found


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Cover a text by windows: (start, end, first label that counts); each label counts once, the first never.

    Label t is predicted from the tokens start ... t-1, at most ``window`` of them. With ``stride == window`` they
    do not overlap; a smaller stride gives each label at least ``window - stride`` tokens of context.

    Args:
        length: Tokens of the text.
        window: Most tokens of context.
        stride: Labels that each window but the first adds.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"the stride must lie in 1 ... window, got {stride} and {window}")
    found, done = [], 1
    while done < length:
        fresh = window if done == 1 else stride
        end = min(done + fresh, length)
        found.append((max(0, end - 1 - window), end, done))
        done = end
    return found


def by_position(nll: np.ndarray, position: np.ndarray, edges: Sequence[int]) -> list[dict[str, float]]:
    """Return the loss of labels by how many tokens of the window stood before them.

    Args:
        nll: (N,) nats.
        position: (N,) tokens of context in the window.
        edges: Lower ends of the bins; the last one is open.

    Returns:
        low, high (``inf`` = open), tokens, perplexity of each bin that has a label.
    """
    return _binned(nll, position, edges)


def last_mention(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return how many tokens ago each token was last seen in its document, 0 = never before (N,).

    Args:
        tokens: (N,) of all documents.
        starts: (D,) where each document begins.
    """
    document = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(tokens))))
    order = np.lexsort((np.arange(len(tokens)), tokens, document))
    same = (tokens[order][1:] == tokens[order][:-1]) & (document[order][1:] == document[order][:-1])
    found = np.zeros(len(tokens), np.int64)
    found[order[1:]] = np.where(same, np.diff(order), 0)
    return found


def by_distance(nll: np.ndarray, distance: np.ndarray, window: int) -> list[dict[str, float]]:
    """Return the loss of labels by the distance of their last mention; beyond ``window`` only a memory can know it.

    Args:
        nll: (N,) nats.
        distance: (N,) of :func:`last_mention`.
        window: Tokens of the model's window.
    """
    edges = [0, 1, *(edge for edge in (9, 33, 65, 129, 257, 513, 1025, 2049) if edge <= window), window + 1, 4 * window]
    return _binned(nll, distance, sorted(set(edges)))


def _binned(nll: np.ndarray, value: np.ndarray, edges: Sequence[int]) -> list[dict[str, float]]:
    place = np.searchsorted(edges, value, side="right") - 1
    count = np.bincount(place, minlength=len(edges))
    total = np.bincount(place, nll, minlength=len(edges))
    high = [*(edge - 1 for edge in edges[1:]), math.inf]
    return [
        {"low": low, "high": up, "tokens": int(n), "perplexity": math.exp(sum_ / n)}
        for low, up, n, sum_ in zip(edges, high, count, total, strict=True)
        if n
    ]


def slot_use(read: np.ndarray, written: np.ndarray, importance: np.ndarray) -> dict[str, float]:
    """Say how a memory's slots are used.

    Args:
        read: (S,) read mass of each slot, summed over positions and streams.
        written: (n, S) bool, slots that a segment wrote into, counted where they were in use already.
        importance: (n,) importance of slots in use.

    Returns:
        ``effective_slots`` exp(entropy of the reads), ``active_share`` with more than 1/(2 S) of the read mass,
        ``dead_share`` with less than 1/(100 S), ``written_share`` of the slots written a sequence, ``importance_mean``
        and ``importance_std``.
    """
    share = read / read.sum() if read.sum() > 0 else np.full(len(read), 1 / len(read))
    positive = share[share > 0]
    return {
        "slots": len(read),
        "effective_slots": float(np.exp(-(positive * np.log(positive)).sum())),
        "active_share": float((share > 1 / (2 * len(read))).mean()),
        "dead_share": float((share < 1 / (100 * len(read))).mean()),
        "written_share": float(np.mean(written)),
        "importance_mean": float(importance.mean()),
        "importance_std": float(importance.std()),
    }


def attention_use(weights: np.ndarray) -> dict[str, float]:
    """Return the mean distance (tokens) and entropy (nats) of attention weights (..., T, T), rows summing to one."""
    length = weights.shape[-1]
    back = np.arange(length)[:, None] - np.arange(length)[None, :]
    safe = np.where(weights > 0, weights, 1.0)
    return {
        "attention_distance": float((weights * back).sum(-1).mean()),
        "attention_entropy": float(-(weights * np.log(safe)).sum(-1).mean()),
    }
