"""Which pictures are nearly the same: difference hashes of 256 bits, and all pairs within a distance (pure numpy)."""

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 16  # bits a row and rows of a hash
BITS = SIDE * SIDE
BLOCK = 4096  # rows of a block of the search
CHUNK = 1024  # pictures hashed at a time


def difference_hashes(pixels: np.ndarray) -> np.ndarray:
    """Return a hash of each picture: whether a cell of 17 x 16 is brighter than the one to its right.

    It stands against changes of size, brightness, contrast and compression, and not against mirroring or other frames.

    Args:
        pixels: (N, 3, H, W) uint8, also mapped from a file.

    Returns:
        (N, 4) uint64; even pictures give 0.
    """
    found = np.zeros((len(pixels), BITS // 64), np.uint64)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    for start in range(0, len(pixels), CHUNK):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + CHUNK])).float()
        cells = F.interpolate((chunk * weights).sum(1, keepdim=True), (SIDE, SIDE + 1), mode="area")[:, 0]
        bits = (cells[:, :, :-1] > cells[:, :, 1:] + 1e-3).flatten(1).numpy()
        found[start : start + CHUNK] = np.packbits(bits, axis=1).view(np.uint64)
    return found


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how many bits differ (N,) between hashes (N, 4)."""
    return np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)


class TooAlikeError(ValueError):
    """More pairs are within a distance than can be held: the pictures are alike by nature."""


def near_hashes(hashes: np.ndarray, most: int, limit: int = 5_000_000) -> np.ndarray:
    """Return all pairs of pictures whose hashes differ by at most so many bits.

    All pairs are compared, by matrix products of hashes written as -1 and 1 (whose product is 256 - 2 x distance, exact
    in float32). Time grows with the square of their number: 10,000 take about half a second on one core, 100,000 about
    a minute; memory does not grow with it.

    Args:
        hashes: (N, 4) uint64.
        most: Largest distance, from 0 to 255.
        limit: Most pairs.

    Returns:
        (P, 2) indices, i < j, in order of i.

    Raises:
        TooAlikeError: There are more.
    """
    if not 0 <= most < BITS:
        raise ValueError(f"the largest distance of two hashes lies in [0, {BITS}), got {most}")
    signs = torch.from_numpy(np.unpackbits(hashes.view(np.uint8), axis=1)).float() * 2 - 1
    least, count, pairs = BITS - 2 * most, 0, []
    for i in range(0, len(signs), BLOCK):
        left = signs[i : i + BLOCK]
        for j in range(i, len(signs), BLOCK):
            product = left @ signs[j : j + BLOCK].T
            if product.amax() < least:  # only off the diagonal, where most blocks hold nothing
                continue
            found = torch.nonzero(product >= least).numpy() + np.array([i, j])
            pairs.append(found[found[:, 0] < found[:, 1]])
            count += len(pairs[-1])
            if count > limit:
                raise TooAlikeError(f"more than {limit:,} pairs of pictures differ by at most {most} of {BITS} bits")
    rows = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]
