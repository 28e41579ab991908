"""Losses for a long tail that change in the course of training."""

import torch
from torch import Tensor

from modules.losses import CrossEntropy


class Deferred(CrossEntropy):
    """Cross-entropy whose class weights set in late: deferred re-weighting (Cao et al. 2019).

    Until epoch ``start`` all samples count the same, which learns good features; from then on class c weighs
    (1 - beta) / (1 - beta^n_c), the inverse of its effective number of samples (Cui et al. 2019), scaled so that the
    mean weight over the training samples is one.

    Args:
        start: First epoch with weights, counted from 0.
        beta: In [0, 1); 0 is no weight at all, towards 1 the inverse count.
        label_smoothing: Share of the target spread evenly over all classes.

    Raises:
        ValueError: For a beta outside of [0, 1) or a negative start.
    """

    def __init__(self, start: int, beta: float = 0.9999, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
        if start < 0 or not 0 <= beta < 1:
            raise ValueError(f"need start >= 0 and beta in [0, 1), got {start} and {beta}")
        self.start, self.beta, self.active = start, beta, start == 0

    def use_counts(self, counts: Tensor) -> None:
        """Make the weights from the training counts (C,).

        Raises:
            ValueError: When a class has no training sample.
        """
        counts = torch.as_tensor(counts).to(torch.float32)
        if not bool((counts > 0).all()):
            raise ValueError("deferred re-weighting needs a training sample of each class")
        weights = (1 - self.beta) / (1 - self.beta**counts)
        self.class_weights = weights * counts.sum() / (weights * counts).sum()

    def on_epoch(self, epoch: int) -> None:
        """Switch the weights on when their time has come."""
        self.active = epoch >= self.start

    def expected_at_init(self, num_classes: int) -> float:
        """Return the mean loss over the training samples of a network that gives every class the same probability."""
        weights, self.class_weights = self.class_weights, self.class_weights if self.active else None
        found = super().expected_at_init(num_classes)
        self.class_weights = weights
        return found

    def _weights(self, logits: Tensor) -> Tensor | None:
        if not self.active:
            return None
        if self.class_weights is None:
            raise RuntimeError("Deferred: call use_counts(training counts) before the first loss")
        self.class_weights = self.class_weights.to(logits)
        return self.class_weights
