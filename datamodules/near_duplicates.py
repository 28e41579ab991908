"""Near-duplicates across parts: two takes or noisy copies of one recording, found from fixed-size signatures.

A pure file. The question is not "how close" but "closer than different recordings ever come by chance". Distances are
divided by the typical distance between recordings of one class (so neither units nor scale matter), the number of
genuine pairs that come as close as ``r`` is fitted as ``a * r**dimension`` on the far pairs (the correlation
integral of Grassberger and Procaccia, 1983), and pairs are reported where that law explains almost none of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FAR = 0.5  # pairs beyond half the typical distance are taken for genuine, and the law is fitted on them
BINS = 200  # histogram over the relative distance 0..1
LEAK_CHANCE = 0.01  # largest share of the reported pairs that may be chance
WARN_CHANCE = 0.05
NEIGHBOUR = 16  # rank of the neighbour that sets the typical distance: beyond the takes of one recording
WIDTH = 384  # longer signatures are projected at random to this width for the search, then measured exactly
BLOCK = 1024
KEPT = 100_000  # most candidate pairs held at a time


@dataclass(frozen=True)
class NearPairs:
    """Pairs of rows that are closer than chance, closest first.

    Attributes:
        rows: (n, 2) indices of the records.
        ratio: (n,) distance over the typical distance between recordings of their class.
        leak: (n,) True where fewer than one in a hundred such pairs would be chance.
    """

    rows: np.ndarray
    ratio: np.ndarray
    leak: np.ndarray


def near_pairs(signatures: np.ndarray, labels: np.ndarray, groups: np.ndarray, parts: np.ndarray) -> NearPairs:
    """Find near-duplicates between rows of different parts and different groups.

    Time grows with the square of the number of rows, memory with the number of rows (blocks): 10,000 rows take seconds.
    Not found: copies so noisy that different recordings come as close, and one recording copied 16 times or more.

    Args:
        signatures: (N, D) finite, in comparable units per column; rows of zeros are compared like any other.
        labels: (N,) class names; they only set the typical distances.
        groups: (N,) pairs inside one group are skipped (a group that crosses parts is reported elsewhere).
        parts: (N,) part of each row; rows of part "dropped" are skipped.
    """
    vectors = np.asarray(signatures, dtype=np.float32)
    vectors = vectors.reshape(len(vectors), -1) - vectors.reshape(len(vectors), -1).mean(axis=0)
    codes = {name: np.unique(values, return_inverse=True)[1] for name, values in (("y", labels), ("g", groups))}
    short = _project(vectors)
    scale = _typical_distance(short, codes["y"])
    empty = NearPairs(np.empty((0, 2), dtype=int), np.empty(0), np.empty(0, dtype=bool))
    if len(vectors) < 4 or not np.isfinite(scale).all() or scale.max() == 0:
        return empty
    histogram = np.zeros(BINS)
    rows, ratio = np.empty((0, 2), dtype=int), np.empty(0)
    for found, near in _crossing(short, scale, codes["g"], parts):
        histogram += np.histogram(near, bins=BINS, range=(0, 1))[0]
        close = near < FAR * 1.15  # the projection is off by a few per cent
        rows, ratio = np.concatenate([rows, found[close]]), np.concatenate([ratio, near[close]])
        if len(ratio) > 2 * KEPT:
            best = np.argpartition(ratio, KEPT)[:KEPT]
            rows, ratio = rows[best], ratio[best]
    if len(ratio) == 0:
        return empty
    exact = np.linalg.norm(vectors[rows[:, 0]].astype(np.float64) - vectors[rows[:, 1]], axis=1)
    ratio = exact / np.minimum(scale[rows[:, 0]], scale[rows[:, 1]])
    order = np.argsort(ratio, kind="stable")
    rows, ratio = rows[order], ratio[order]
    # The share of chance among the closest n pairs; n - 1, so that one pair has to be beyond doubt by itself.
    beside = np.maximum(np.arange(len(ratio)), LEAK_CHANCE)
    chance = _expected(ratio, histogram) / beside
    n_leak, n_warn = (_last((chance <= level) & (ratio <= FAR)) for level in (LEAK_CHANCE, WARN_CHANCE))
    keep = max(n_leak, n_warn)
    return NearPairs(rows[:keep], ratio[:keep], np.arange(keep) < n_leak)


def _last(good: np.ndarray) -> int:
    """How many leading rows a rule accepts: up to the last one that passes."""
    passed = np.flatnonzero(good)
    return int(passed[-1]) + 1 if len(passed) else 0


def _project(vectors: np.ndarray) -> np.ndarray:
    """Shorten long vectors by a fixed random projection that keeps distances within a few per cent."""
    if vectors.shape[1] <= WIDTH:
        return vectors
    draw = np.random.default_rng(0).standard_normal((vectors.shape[1], WIDTH), dtype=np.float32)
    return vectors @ (draw / np.sqrt(WIDTH))


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    square = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * (left @ right.T)
    return np.sqrt(np.maximum(square, 0))


def _typical_distance(vectors: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Per row: distance to a far enough neighbour of its class, and never above the median over all rows.

    The median keeps a class of a few well-separated clusters from calling everything near; classes with fewer than
    four rows have no distance of their own.
    """
    members = [np.flatnonzero(classes == c) for c in range(classes.max() + 1)]
    if max(map(len, members)) < 4:
        members = [np.arange(len(vectors))]
    scale = np.full(len(vectors), np.inf)
    for rows in members:
        if len(rows) < 4:
            continue
        rank = min(NEIGHBOUR, len(rows) - 1)  # the row itself is at rank 0
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            scale[block] = np.partition(_distances(vectors[block], vectors[rows]), rank, axis=1)[:, rank]
    return np.minimum(scale, np.median(scale[np.isfinite(scale)])) if np.isfinite(scale).any() else scale


def _crossing(
    vectors: np.ndarray, scale: np.ndarray, groups: np.ndarray, parts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs of different parts and groups, with their relative distances, as far as these are below 1."""
    names = [name for name in np.unique(parts) if name != "dropped"]
    for first, name in enumerate(names):
        for other in names[first + 1 :]:
            left, right = np.flatnonzero(parts == name), np.flatnonzero(parts == other)
            for i in range(0, len(left), BLOCK):
                for j in range(0, len(right), BLOCK):
                    a, b = left[i : i + BLOCK], right[j : j + BLOCK]
                    with np.errstate(divide="ignore", invalid="ignore"):
                        ratio = _distances(vectors[a], vectors[b]) / np.minimum(scale[a][:, None], scale[b][None])
                    ratio[groups[a][:, None] == groups[b][None]] = np.inf
                    found = np.argwhere(ratio < 1)
                    yield np.stack([a[found[:, 0]], b[found[:, 1]]], axis=1), ratio[found[:, 0], found[:, 1]]


def _expected(ratio: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    """Number of genuine pairs expected below each ratio, from the pairs between FAR and 1."""
    centres = (np.arange(BINS) + 0.5) / BINS
    far = centres > FAR
    count, logs = histogram[far].sum(), np.log(centres[far])
    if count < 20:  # too few pairs for a law: a steep one would accuse, so take a shallow one
        return 20 * ratio**4
    mean = (histogram[far] * logs).sum() / count
    # maximum likelihood of the exponent of a power law cut to FAR..1; the mean log grows with the exponent
    low, high = 0.1, 60.0
    for _ in range(50):
        middle = (low + high) / 2
        weight = np.exp(middle * logs - logs)
        low, high = (middle, high) if (weight * logs).sum() / weight.sum() < mean else (low, middle)
    return count / (1 - FAR**low) * ratio**low
