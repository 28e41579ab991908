"""Mixup: training on convex combinations of two samples (Zhang et al. 2018), for inputs of any system."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mixup(
    inputs: dict[str, Tensor], y: Tensor, num_classes: int, alpha: float, rng: np.random.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Mix each sample of a batch with another one.

    Floating inputs are mixed; a mask becomes the union of both, so the padding of a shorter sequence counts as zeros.

    Args:
        inputs: Named inputs, each (B, ...): floating, or a bool mask.
        y: Class indices (B,); a row without a label neither changes nor lends itself.
        num_classes: Number of classes C.
        alpha: Both parameters of the Beta distribution that the share is drawn from.
        rng: Source of the share and of the pairs.

    Returns:
        The mixed inputs and soft targets (B, C); zeros for a row without a label, which the losses leave out.
    """
    pairs, share = draw_pairs(y, alpha, rng)
    mixed = {}
    for name, value in inputs.items():
        if value.is_floating_point():
            weight = share.view(-1, *[1] * (value.ndim - 1)).to(value.dtype)
            mixed[name] = weight * value + (1 - weight) * value[pairs]
        elif value.dtype == torch.bool:
            mixed[name] = value | (value[pairs] & (share < 1).view(-1, *[1] * (value.ndim - 1)))
        else:
            raise ValueError(f"mixup cannot mix the input {name!r} of type {value.dtype}")
    return mixed, mix_targets(one_hot(y, num_classes), pairs, share)


def draw_pairs(y: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the partner (B,) of each sample and the share (B,) that it keeps of itself; 1 where a label is missing."""
    pairs = torch.from_numpy(rng.permutation(len(y))).to(y.device)
    share = torch.full((len(y),), float(rng.beta(alpha, alpha)), device=y.device)
    return pairs, torch.where((y >= 0) & (y[pairs] >= 0), share, 1.0)


def one_hot(y: Tensor, num_classes: int) -> Tensor:
    """Return soft targets (B, C); zeros for a row without a label."""
    return F.one_hot(y.clamp(min=0), num_classes).float() * (y >= 0)[:, None]


def mix_targets(target: Tensor, pairs: Tensor, share: Tensor) -> Tensor:
    """Return the mixed soft targets (B, C)."""
    return share[:, None] * target + (1 - share[:, None]) * target[pairs]
