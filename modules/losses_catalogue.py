"""Further losses of `papers`."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from modules.losses import CrossEntropy


class MultiLabel(CrossEntropy):
    """Binary cross-entropy of each class, for samples with several labels; the mean over the classes.

    Targets are float (B, C) with 0 or 1 (or mixed); int64 (B,) counts as that one label. A row of zeros is left out: a
    labelled sample has at least one label.
    """

    def __init__(self) -> None:
        super().__init__()

    def expected_at_init(self, num_classes: int) -> float:
        """Return the loss of even chances."""
        return math.log(2)

    def _hard(self, logits: Tensor, target: Tensor) -> Tensor:
        real = (target >= 0).unsqueeze(1).to(logits.dtype)
        hot = torch.zeros_like(logits).scatter_(1, target.clamp_min(0).unsqueeze(1), real)
        return self._soft(logits, hot)

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        each = functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        return each.mean(1) * (target.sum(1) > 0)
