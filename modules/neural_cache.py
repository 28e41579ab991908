"""A non-parametric cache over recent hidden states, for evaluation alone (Grave, Joulin & Usunier 2017).

A label that followed a similar state in the recent past becomes more probable:
p(y_t) = (1 - share) * p_model(y_t) + share * sum over i < t with y_i = y_t of softmax(sharpness * cos(h_t, h_i)).
Nothing is trained; ``share`` and ``sharpness`` are chosen on validation and never on test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = (5.0, 10.0, 20.0, 40.0)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)


@dataclass(frozen=True)
class CacheSetting:
    """How the cache is used: ``size`` states, softmax ``sharpness``, ``share`` of the mixture (0 = no cache)."""

    size: int
    sharpness: float
    share: float


def cache_probabilities(
    hidden: Tensor, labels: Tensor, size: int, sharpness: Sequence[float], block: int = 256
) -> Tensor:
    """Return what the cache alone says about each label, one row per sharpness (S, N), float32.

    Args:
        hidden: (N, D) state that predicts each label, in the order of the text.
        labels: (N,) labels.
        size: How many states back the cache reaches.
        sharpness: Factors before the softmax over cosines.
        block: Labels at once; changes memory and time only.
    """
    if size < 1:
        raise ValueError(f"the cache needs a size of at least 1, got {size}")
    unit, count = F.normalize(hidden.float(), dim=1), len(labels)
    found = torch.zeros(len(sharpness), count, device=hidden.device)
    place = torch.arange(count, device=hidden.device)
    for first in range(0, count, block):
        last, start = min(first + block, count), max(0, first - size)
        back = place[first:last, None] - place[None, start:last]
        usable = (back >= 1) & (back <= size)
        cosine = unit[first:last] @ unit[start:last].T
        same = labels[first:last, None] == labels[None, start:last]
        for row, factor in enumerate(sharpness):
            weight = (factor * cosine).masked_fill(~usable, -torch.inf).softmax(1)
            found[row, first:last] = (weight.nan_to_num(0.0) * same).sum(1)  # the first label has no past: NaN
    return found


def mix(nll: Tensor, cached: Tensor, share: float) -> Tensor:
    """Return the loss (N,) of the mixture of a model's ``nll`` (N,) and the cache's probabilities (N,); on the CPU."""
    nll = nll.cpu()  # Apple's GPUs have no float64
    if share == 0:
        return nll
    return -((1 - share) * (-nll.double()).exp() + share * cached.cpu().double()).log()


def choose(nll: Tensor, cached: Tensor, size: int, sharpness: Sequence[float]) -> CacheSetting:
    """Return the setting with the least loss on validation.

    Args:
        nll: (N,) of the model on validation.
        cached: (S, N) of :func:`cache_probabilities` on validation.
        size: Size of the cache.
        sharpness: (S,) factors, in the rows of ``cached``.
    """
    losses = {
        (factor, share): float(mix(nll, cached[row], share).mean())
        for row, factor in enumerate(sharpness)
        for share in SHARES
    }
    factor, share = min(losses, key=lambda key: losses[key])
    return CacheSetting(size, factor, share)
