"""Documents that are copies of each other but for small changes: found by the runs of words that they share.

A pure file. Two documents belong together when one holds at least half of the other's runs of eight words. Runs that
more than ``COMMON`` documents share are stock phrases and prove nothing; leaving them out can only miss a copy.
"""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

RUN = 8  # words
COMMON = 20  # documents
SHARE = 0.5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def near_text_groups(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the group of each document: the name of the first of those that are copies of each other.

    Args:
        texts: Documents.
        names: Their ids.
    """
    if not texts:
        return []
    hashes = [runs(text) for text in texts]
    sizes = np.array([len(one) for one in hashes], np.int64)
    document = np.repeat(np.arange(len(texts)), sizes)
    _, code, count = np.unique(
        np.concatenate([*hashes, np.empty(0, np.uint64)]), return_inverse=True, return_counts=True
    )
    rare = (count[code] > 1) & (count[code] <= COMMON)
    member = sparse.csr_array((np.ones(int(rare.sum())), (document[rare], code[rare])), shape=(len(texts), len(count)))
    shared = sparse.coo_array(member @ member.T)
    near = shared.data >= SHARE * np.minimum(sizes[shared.row], sizes[shared.col])
    links = sparse.coo_array((np.ones(int(near.sum())), (shared.row[near], shared.col[near])), shape=(len(texts),) * 2)
    label = connected_components(links, directed=False)[1]
    first: dict[int, str] = {}
    return [first.setdefault(int(group), name) for group, name in zip(label, names, strict=True)]


def runs(text: str) -> np.ndarray:
    """Return the hashes of all different runs of words of a text, sorted; of the whole of it where it is shorter."""
    words = _hashed(text.split())
    length = min(RUN, len(words))
    if not length:
        return np.empty(0, np.uint64)
    total = np.zeros(len(words) - length + 1, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(length):
            total = (total * _MULTIPLIER) ^ words[offset : offset + len(total)]
    return np.unique(total)


def _hashed(words: Iterable[str]) -> np.ndarray:
    listed = list(words)
    known = {word: zlib.crc32(word.encode()) * 0x100000001B3 % 2**64 for word in set(listed)}
    return np.array([known[word] for word in listed], np.uint64)
