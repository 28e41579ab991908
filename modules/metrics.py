"""Classification metrics on the device: sums only, masked without leaving the device, equal for any batch split.

The stock classes drop ignored rows by boolean indexing, which waits for the device at every step; the calibration error
keeps all samples in lists and fails when nothing was seen. These keep fixed-size sums, added up over processes.
A label of -1 is left out; -2, a class that training never saw, is an error that belongs to no class.
The same definitions in numpy are in ``statistics.py``; both are tested against torchmetrics.
"""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from modules.losses import IGNORE

ECE_BINS = 15


class Mean(Metric):
    """Mean of the values that have a weight; NaN when none had.

    The stock ``MeanMetric`` forgets the weights when its search for NaN, which waits for the device, is switched off.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add values (B,) with weights (B,); what lies under a weight of 0 may be anything."""
        self.total += torch.where(weight > 0, value * weight, 0.0).sum()
        self.weight += weight.sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.weight


class LongMean(Mean):
    """A mean of very many values: the sum keeps what rounding takes from it (Knuth's two-sum), in float32 anywhere."""

    lost: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("lost", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add values with weights, both of any one shape; what lies under a weight of 0 may be anything."""
        more = torch.where(weight > 0, value * weight, 0.0).sum()
        total = self.total + more
        part = total - self.total
        self.lost += (self.total - (total - part)) + (more - part)
        self.total = total
        self.weight += weight.sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return (self.total + self.lost) / self.weight


class TopK(Metric):
    """Share of samples whose class is among the k most probable; ``k=1`` is the accuracy.

    Ties go to the lower class index, as in ``argmax``; a NaN probability is never right.

    Args:
        k: Number of guesses.
    """

    full_state_update = False
    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k
        self.add_state("correct", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prob: Tensor, y: Tensor) -> None:
        """Add probabilities (B, C) and labels (B,)."""
        real = y != IGNORE
        self.correct += ((rank_of_truth(prob, y) < self.k) & real).sum()
        self.total += real.sum()

    def compute(self) -> Tensor:
        """Return the share, NaN when no sample was seen."""
        return self.correct / self.total


class MacroF1(Metric):
    """Mean F1 over the classes that occur in the truth or in the predictions (scikit-learn's macro average).

    Args:
        num_classes: Number of classes.
    """

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    predicted: Tensor
    actual: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("hits", "predicted", "actual"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prob: Tensor, y: Tensor) -> None:
        """Add probabilities (B, C) and labels (B,)."""
        known, guess = (y >= 0).long(), prob.argmax(dim=1)
        truth = y.clamp_min(0)
        self.hits.index_add_(0, truth, known * (truth == guess))
        self.predicted.index_add_(0, guess, (y != IGNORE).long())
        self.actual.index_add_(0, truth, known)

    def compute(self) -> Tensor:
        """Return the mean, NaN when no sample was seen."""
        size = self.predicted + self.actual
        f1 = 2 * self.hits / size.clamp_min(1)
        return f1.sum() / (size > 0).sum()


class CalibrationError(Metric):
    """Expected calibration error: mean gap of confidence and accuracy over equal bins of confidence (Guo et al. 2017).

    Bins are [a, b), the last one closed.

    Args:
        bins: Number of bins.
    """

    full_state_update = False
    higher_is_better = False
    gap: Tensor
    total: Tensor

    def __init__(self, bins: int = ECE_BINS) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("gap", torch.zeros(bins), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prob: Tensor, y: Tensor) -> None:
        """Add probabilities (B, C) and labels (B,)."""
        real = y != IGNORE
        confidence, guess = prob.float().max(dim=1)
        gap = confidence - (guess == y).float()
        index = (confidence * self.bins).long().clamp(0, self.bins - 1)
        self.gap.index_add_(0, index, torch.where(real, gap, 0.0))
        self.total += real.sum()

    def compute(self) -> Tensor:
        """Return the error in [0, 1], NaN when no sample was seen."""
        return self.gap.abs().sum() / self.total


def rank_of_truth(prob: Tensor, y: Tensor) -> Tensor:
    """Return how many classes come before the true one (B,), 0 = predicted; prob (B, C), y (B,)."""
    own = prob.gather(1, y.clamp_min(0).unsqueeze(1))
    before = torch.arange(prob.shape[1], device=prob.device) < y.unsqueeze(1)
    unknown = (y < 0) * prob.shape[1]
    # "not at most" and not "above": a NaN must count against the sample.
    return (~(prob <= own) | ((prob == own) & before)).sum(dim=1) + unknown


def build_metrics(num_classes: int, top_k: int = 3) -> MetricCollection:
    """Return the shared collection, updated with ``(prob, y)``: accuracy, macro_f1, top{k}, ece.

    Args:
        num_classes: Number of classes C; prob is (B, C).
        top_k: Number of guesses of the top-k accuracy.

    Raises:
        ValueError: For a number of classes or guesses below one.
    """
    if num_classes < 1 or top_k < 1:
        raise ValueError(f"num_classes and top_k must be at least 1, got {num_classes} and {top_k}")
    members: dict[str, Metric | MetricCollection] = {
        "accuracy": TopK(1),
        "macro_f1": MacroF1(num_classes),
        f"top{top_k}": TopK(top_k),
        "ece": CalibrationError(),
    }
    # Grouping by equal states would merge accuracy and top-k, whose states agree after a first perfect batch.
    return MetricCollection(members, compute_groups=False)
