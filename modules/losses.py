"""Per-sample classification losses: no reduction, so that the sum with the batch's weights is an exact global mean."""

import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORE = -1  # label of a padding row or of an unlabelled sample; -2 is a class that training never saw
ClassWeight = Literal["none", "balanced"] | list[float]


class CrossEntropy(nn.Module):
    """Cross-entropy of each sample, with label smoothing and class weights.

    Called with logits (B, C) and a target: int64 (B,), where a negative label gives exactly zero loss and gradient, or
    float (B, C) soft targets, where a row of zeros does. Half-precision logits are computed in float32.

    Args:
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).
        class_weight: ``balanced`` weighs class c by n / (K n_c) of the training counts given to :meth:`use_counts`,
            so that the mean weight over the training samples is one; a list gives the weight of each class, of which
            only the proportions matter.

    Raises:
        ValueError: For a label smoothing outside [0, 1) or an unknown class weight.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weight: ClassWeight = "none") -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if class_weight not in ("none", "balanced") and not _positive(class_weight):
            raise ValueError(f"class_weight must be 'none', 'balanced' or numbers above 0, got {class_weight!r}")
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        # No buffer: the weights follow from the training counts, which the data give anew, and are not to be saved with
        # a checkpoint or averaged with the weights of a network.
        self.class_weights: Tensor | None = None

    def use_counts(self, counts: Tensor) -> None:
        """Set the class weights from the training counts (C,); nothing happens without class weights.

        Raises:
            ValueError: When a class has no training sample, for its balanced weight would be infinite, or when the list
                of weights is of another length.
        """
        if self.class_weight == "none":
            return
        counts = torch.as_tensor(counts).to(torch.float32)  # never float64: some devices have none
        if self.class_weight != "balanced":
            given = torch.tensor(self.class_weight, dtype=torch.float32)
            if given.shape != counts.shape:
                raise ValueError(f"class_weight has {len(given)} numbers, the data have {len(counts)} classes")
            self.class_weights = given * counts.sum() / (given * counts).sum()
            return
        if counts.ndim != 1 or not bool((counts > 0).all()):
            empty = (counts <= 0).nonzero().flatten().tolist()
            raise ValueError(
                f"class_weight=balanced needs a training sample of each class; class indices without one: {empty}. "
                "Restrict the classes to those seen in training or use class_weight=none."
            )
        self.class_weights = counts.sum() / (len(counts) * counts)

    def use_class_names(self, names: Sequence[str]) -> None:
        """Take note of the classes, in their order; for losses that read what belongs to named classes."""

    def use_held_out(self, ids: Collection[str]) -> None:
        """Take note of the samples that the run validates or tests on; for losses that learn from stored samples."""

    def on_epoch(self, epoch: int) -> None:
        """Take note of the epoch, counted from 0, before its first step; for losses that change while training."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample (B,), unreduced.

        Raises:
            ValueError: When shapes do not match.
            RuntimeError: When class weights are asked for and :meth:`use_counts` was never called.
        """
        hard = not target.is_floating_point()
        if target.shape != (logits.shape[:1] if hard else logits.shape):
            raise ValueError(f"targets {tuple(target.shape)} do not fit logits {tuple(logits.shape)}")
        ignored = target < 0 if hard else target.sum(dim=1) == 0
        # A padding row may hold NaN logits: replaced before the softmax, or 0 * NaN would spoil the gradient.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(ignored.unsqueeze(1), 0.0)
        return self._hard(logits, target) if hard else self._soft(logits, target)

    def expected_at_init(self, num_classes: int) -> float:
        """Return the mean loss over the training samples of a network that gives every class the same probability."""
        mean_weight = 1.0 if self.class_weights is None else float(self.class_weights.mean())
        return math.log(num_classes) * (1 - self.label_smoothing + self.label_smoothing * mean_weight)

    def _hard(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits,
            target.clamp_min(IGNORE),
            weight=self._weights(logits),
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        # Smoothing spreads a row's own mass, so that a row of zeros stays exactly zero.
        even = target.sum(dim=1, keepdim=True) / logits.shape[1]
        target = target * (1 - self.label_smoothing) + even * self.label_smoothing
        log_prob = functional.log_softmax(logits, dim=1)
        loss = -log_prob * target * self._focus(log_prob)
        if (weights := self._weights(logits)) is not None:
            loss = loss * weights
        return loss.sum(dim=1)

    def _focus(self, log_prob: Tensor) -> Tensor | float:
        """Return a factor for each class's term, (B, C) or a scalar."""
        return 1.0

    def _weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weight == "none":
            return None
        if self.class_weights is None:
            raise RuntimeError(
                f"class_weight={self.class_weight}: call use_counts(training counts) before the first loss"
            )
        if len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"{len(self.class_weights)} class weights do not fit {logits.shape[1]} logits")
        self.class_weights = self.class_weights.to(logits)  # moved once
        return self.class_weights


def _positive(weights: object) -> bool:
    return isinstance(weights, list) and len(weights) > 0 and all(weight > 0 for weight in weights)


class Focal(CrossEntropy):
    """Focal loss: cross-entropy with each class's term scaled by (1 - p)^gamma (Lin et al. 2017, multi-class form).

    With hard targets this is (1 - p_y)^gamma * -log p_y; with soft or smoothed ones each class's term has its own
    factor. ``gamma=0`` is :class:`CrossEntropy`.

    Args:
        gamma: Focusing exponent, at least 0.
        class_weight: As in :class:`CrossEntropy`.
        label_smoothing: As in :class:`CrossEntropy`.

    Raises:
        ValueError: For a negative gamma.
    """

    def __init__(self, gamma: float = 2.0, class_weight: ClassWeight = "none", label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing, class_weight=class_weight)
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        self.gamma = gamma

    def expected_at_init(self, num_classes: int) -> float:
        """Return the mean loss over the training samples of a network that gives every class the same probability."""
        return super().expected_at_init(num_classes) * (1 - 1 / num_classes) ** self.gamma

    def _hard(self, logits: Tensor, target: Tensor) -> Tensor:
        real = (target >= 0).unsqueeze(1).to(logits.dtype)
        hot = torch.zeros_like(logits).scatter_(1, target.clamp_min(0).unsqueeze(1), real)
        return self._soft(logits, hot)

    def _focus(self, log_prob: Tensor) -> Tensor | float:
        if not self.gamma:
            return 1.0
        # expm1 keeps 1 - p exact near p = 1; the floor keeps the slope finite there for gamma below 1.
        return (-torch.expm1(log_prob)).clamp_min(1e-12) ** self.gamma
