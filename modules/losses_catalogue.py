"""The further losses of the brief of `papers`, each per sample, with hard or soft targets, mended where it was wrong.

Classes are in the order of the data's class names. But for Dice, the loss of a sample does not depend on the
others of its batch; ``val/nll`` compares models that were trained with different losses.
"""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from modules.losses import ClassWeight
from modules.losses_counted import CountedLoss, Rows, fitting, read_confusion, smoothed, square


class FocalAlpha(CountedLoss):
    """Focal loss of the brief (V4, E1): alpha_y (1 - p_t)^gamma times the smoothed cross-entropy.

    As in the origin p_t is the sum of smoothed target times probability, so that with smoothing the factor never falls
    to 0; alpha multiplies as given, without other class weights. ``gamma=0`` without alpha is cross-entropy.
    :class:`modules.losses.Focal` scales the term of each class by itself instead.

    Args:
        gamma: Focusing exponent in the first epoch, at least 0.
        alpha: Factor of each class; ``None`` for none.
        label_smoothing: Share of the target spread evenly over all classes.
        gamma_end: Exponent from epoch ``epochs`` on, on a straight line before; ``None`` keeps it.
        epochs: Epochs until ``gamma_end`` is reached, which it is in the last of them; at least 2.

    Raises:
        ValueError: For a negative gamma, an alpha not above 0, or fewer than 2 epochs.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: list[float] | None = None,
        label_smoothing: float = 0.0,
        gamma_end: float | None = None,
        epochs: int = 10,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        if gamma < 0 or (gamma_end is not None and gamma_end < 0):
            raise ValueError(f"gamma must be at least 0, got {gamma} and {gamma_end}")
        if epochs < 2 or (alpha is not None and (not alpha or min(alpha) <= 0)):
            raise ValueError(f"need epochs >= 2 and alpha above 0, got {epochs} and {alpha}")
        self.gamma_start, self.gamma_end, self.epochs = gamma, gamma_end, epochs
        self.gamma = gamma
        self.alpha = None if alpha is None else torch.tensor(alpha)

    def on_epoch(self, epoch: int) -> None:
        """Set the gamma of an epoch, counted from 0."""
        if self.gamma_end is not None:
            share = min(1.0, epoch / (self.epochs - 1))
            self.gamma = self.gamma_start + (self.gamma_end - self.gamma_start) * share

    def expected_at_init(self, num_classes: int) -> float:
        """Return the mean loss over the training samples of a network that gives every class the same probability."""
        alpha = 1.0 if self.alpha is None else float(self.shares(num_classes) @ self.alpha)
        return alpha * (1 - 1 / num_classes) ** self.gamma * math.log(num_classes)

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        log_prob, target = functional.log_softmax(logits, dim=1), target.to(logits.dtype)
        smooth = smoothed(target, self.label_smoothing)
        loss = -(smooth * log_prob).sum(1)
        if self.gamma:
            # of a row of zeros, too: its loss is 0; the floor keeps the slope finite at p_t = 1 for gamma below 1
            loss = loss * (1 - (smooth * log_prob.exp()).sum(1)).clamp_min(1e-12) ** self.gamma
        if self.alpha is None:
            return loss
        self.alpha = fitting("alpha", self.alpha, logits)
        return loss * (target @ self.alpha)


class Dice(CountedLoss):
    """One minus the mean Dice coefficient of the classes in the batch, beside cross-entropy (B1).

    With p the probabilities and t the targets, d_c = (2 sum p t + s) / (sum p + sum t + s) over the batch; classes
    that are absent from it are left out, and class weights are normalised, so that the loss is 0 at perfection.
    It is a loss of the whole batch: each sample gets the batch's value, so that the sum with the batch's weights is
    that value. So it depends on the batch size, on accumulation and on the number of processes.

    Args:
        share: Of Dice; the rest is cross-entropy. In [0, 1].
        smooth: The s above; at least 0.
        class_weight: As in :class:`modules.losses.CrossEntropy`, for both parts.
        label_smoothing: Of the cross-entropy.

    Raises:
        ValueError: For a share outside [0, 1] or a negative ``smooth``.
    """

    def __init__(
        self,
        share: float = 0.5,
        smooth: float = 1.0,
        class_weight: ClassWeight = "none",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, class_weight=class_weight)
        if not 0 <= share <= 1 or smooth < 0:
            raise ValueError(f"need 0 <= share <= 1 and smooth >= 0, got {share} and {smooth}")
        self.share, self.smooth = share, smooth

    def expected_at_init(self, num_classes: int) -> float:
        """Return the loss of even probabilities on a large batch like the training data."""
        prior = self.shares(num_classes)
        weights = torch.ones(num_classes) if self.class_weights is None else self.class_weights.cpu()
        weights = weights * (prior > 0)
        dice = 2 * prior / num_classes / (1 / num_classes + prior)
        mean = float((weights * dice).sum() / weights.sum())
        return self.share * (1 - mean) + (1 - self.share) * super().expected_at_init(num_classes)

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        real = (target.sum(1, keepdim=True) > 0).to(logits.dtype)
        prob, target = logits.softmax(1) * real, target.to(logits.dtype)
        dice = (2 * (prob * target).sum(0) + self.smooth) / (prob.sum(0) + target.sum(0) + self.smooth).clamp_min(1e-12)
        weights = (target.sum(0) > 0).to(logits.dtype)
        if (given := self._weights(logits)) is not None:
            weights = weights * given
        loss = 1 - (weights * dice).sum() / weights.sum().clamp_min(1e-12)
        return self.share * loss * real.squeeze(1) + (1 - self.share) * super()._soft(logits, target)


class LabelDistribution(CountedLoss):
    """Cross-entropy against a distribution: (1 - m) of the label and m of the row of its class (B2).

    Rows are given, or learnt: the mean probabilities that another run gave to each class on its validation part.

    Args:
        rows: Row of each class; normalised to sum to one.
        predictions: ``fit/predictions_calib.npz`` of a run with a calibration part (``split.calib``), in place of
            rows; none of its samples may be one that this run validates or tests on.
        mixing: The m above, in (0, 1].
        class_weight: As in :class:`modules.losses.CrossEntropy`.

    Raises:
        ValueError: Without exactly one of rows and predictions, or for impossible numbers.
    """

    def __init__(
        self,
        rows: Rows | None = None,
        predictions: str | None = None,
        mixing: float = 0.3,
        class_weight: ClassWeight = "none",
    ) -> None:
        super().__init__(class_weight=class_weight)
        if (rows is None) == (predictions is None):
            raise ValueError("give either rows or predictions")
        if not 0 < mixing <= 1:
            raise ValueError(f"mixing must lie in (0, 1], got {mixing}")
        self.predictions, self.mixing = predictions, mixing
        self.names: list[str] | None = None
        self.held_out: frozenset[str] = frozenset()
        self.matrix = None if rows is None else square("rows", rows)
        if self.matrix is not None:
            if not bool((self.matrix.sum(1) > 0).all()):
                raise ValueError("each of the rows needs a number above 0")
            self.matrix = self.matrix / self.matrix.sum(1, keepdim=True)

    def use_class_names(self, names: Sequence[str]) -> None:
        """Take the classes that the stored predictions have to be about."""
        self.names = list(names)

    def use_held_out(self, ids: Collection[str]) -> None:
        """Take the samples whose labels may not shape the targets."""
        self.held_out = frozenset(ids)

    def expected_at_init(self, num_classes: int) -> float:
        """Return the mean loss over the training samples of a network that gives every class the same probability."""
        weights = torch.ones(num_classes) if self.class_weights is None else self.class_weights.cpu()
        prior = self.shares(num_classes)
        target = (1 - self.mixing) * prior + self.mixing * prior @ self._matrix(torch.zeros(1, num_classes))
        return float(target @ weights) * math.log(num_classes)

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        target = target.to(logits.dtype)
        return super()._soft(logits, (1 - self.mixing) * target + self.mixing * target @ self._matrix(logits))

    def _matrix(self, logits: Tensor) -> Tensor:
        if self.matrix is None:  # not before it is needed: a run is tested where the other one is gone
            self.matrix = read_confusion(self.predictions or "", self.names, self.held_out)
        self.matrix = fitting("rows", self.matrix, logits)
        return self.matrix


class CostSensitive(CountedLoss):
    """Cross-entropy plus the expected cost of an answer drawn from the probabilities (E2).

    The cost alone has no gradient where a network is confidently wrong; cross-entropy has.

    Args:
        cost: Row c holds the cost of each answer to a sample of class c; zero diagonal.
        weight: Of the expected cost.
        label_smoothing: Of the cross-entropy.
        class_weight: Of the cross-entropy.

    Raises:
        ValueError: For costs below 0, a diagonal other than 0, or a negative weight.
    """

    def __init__(
        self, cost: Rows, weight: float = 1.0, label_smoothing: float = 0.0, class_weight: ClassWeight = "none"
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, class_weight=class_weight)
        self.cost, self.weight = square("cost", cost), weight
        if weight < 0 or bool(self.cost.diagonal().any()):
            raise ValueError("need a weight of at least 0 and a cost of 0 for the right answer")

    def expected_at_init(self, num_classes: int) -> float:
        """Return the mean loss over the training samples of a network that gives every class the same probability."""
        cost = float(self.shares(num_classes) @ self.cost.cpu().mean(1))
        return super().expected_at_init(num_classes) + self.weight * cost

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        self.cost, target = fitting("cost", self.cost, logits), target.to(logits.dtype)
        expected = ((target @ self.cost) * logits.softmax(1)).sum(1)
        return super()._soft(logits, target) + self.weight * expected


class LogitAdjusted(CountedLoss):
    """Cross-entropy of the logits plus tau times the log shares of the classes (Menon et al. 2021).

    The network learns what remains when the frequency of the classes is taken out; its answers favour rare classes.

    Args:
        tau: Strength; 0 is cross-entropy.
        label_smoothing: Share of the target spread evenly over all classes.

    Raises:
        ValueError: For a negative tau.
    """

    def __init__(self, tau: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
        if tau < 0:
            raise ValueError(f"tau must be at least 0, got {tau}")
        self.tau = tau

    def use_counts(self, counts: Tensor) -> None:
        """Take the training counts (C,).

        Raises:
            ValueError: When a class has no training sample.
        """
        super().use_counts(counts)
        if not bool((torch.as_tensor(counts) > 0).all()):
            raise ValueError("the logit adjustment needs a training sample of each class")

    def expected_at_init(self, num_classes: int) -> float:
        """Return the mean loss over the training samples of a network that gives every class the same probability."""
        prior = self.shares(num_classes).cpu()
        target = smoothed(prior.unsqueeze(0), self.label_smoothing)[0]
        return float(-(target * functional.log_softmax(self.tau * prior.log(), dim=0)).sum())

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.prior is None:
            raise RuntimeError("LogitAdjusted: call use_counts(training counts) before the first loss")
        self.prior = fitting("prior", self.prior, logits)
        return super()._soft(logits + self.tau * self.prior.log(), target)


class MultiLabel(CountedLoss):
    """Binary cross-entropy of each class, for samples with several labels; the mean over the classes.

    Targets are float (B, C) with 0 or 1 (or mixed); int64 (B,) counts as that one label. A row of zeros is left out: a
    labelled sample has at least one label.
    """

    def __init__(self) -> None:
        super().__init__()

    def expected_at_init(self, num_classes: int) -> float:
        """Return the loss of even chances."""
        return math.log(2)

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        each = functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        return each.mean(1) * (target.sum(1) > 0)
