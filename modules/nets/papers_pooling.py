"""Pooling of token states to one vector; each also gives the weight of every token, for explanations."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = Literal["attention", "mean", "hierarchical", "cls"]


class Scorer(nn.Linear):
    """A score per vector. Softmax cancels the bias: it is kept, for the brief counts it, and does not train.

    Args:
        width: Size of a vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., H) to float32 scores (...)."""
        return super().forward(x).squeeze(-1).float()


class Pool(nn.Module):
    """Weighted mean over the real tokens; subclasses say the weights."""

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return float32 weights (B, T): zero at padding, summing to one over the real tokens."""
        raise TypeError(f"{type(self).__name__} must define weights")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, T, H) with mask (B, T), True = real token, to (B, H); a row without a token gives zeros."""
        # padded states may hold anything, and zero times a value that is not finite is no zero
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        return (x * self.weights(x, mask).to(x.dtype).unsqueeze(-1)).sum(1)


class MeanPool(Pool):
    """The mean of the real tokens."""

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return equal weights (B, T)."""
        real = mask.float()
        return real / real.sum(1, keepdim=True).clamp(min=1.0)


class ClsPool(Pool):
    """The first token."""

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return one for the first token (B, T)."""
        first = mask.new_zeros(mask.shape)
        first[:, 0] = True
        return (first & mask).float()


class AttentionPool(Pool):
    """Softmax over learned scores of the tokens.

    Args:
        width: Size of a state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = Scorer(width)

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the attention (B, T)."""
        return masked_softmax(self.score(x), mask)


class HierarchicalPool(Pool):
    """Attention over the tokens of each block, then over the blocks.

    The tail is padded to a whole block, so that no token is lost; a block without a real token has no weight.

    Args:
        width: Size of a state.
        block: Tokens of a block.

    Raises:
        ValueError: For a block of less than one token.
    """

    def __init__(self, width: int, block: int = 10) -> None:
        super().__init__()
        if block < 1:
            raise ValueError(f"a block has at least one token, got {block}")
        self.block = block
        self.token_score, self.block_score = Scorer(width), Scorer(width)

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the product of both attentions (B, T)."""
        batch, length, width = x.shape
        tail = -length % self.block
        blocks = F.pad(x, (0, 0, 0, tail)).view(batch, -1, self.block, width)
        real = F.pad(mask, (0, tail)).view(batch, -1, self.block)
        inner = masked_softmax(self.token_score(blocks), real)
        vectors = (blocks * inner.to(x.dtype).unsqueeze(-1)).sum(2)
        outer = masked_softmax(self.block_score(vectors), real.any(2))
        flat = (inner * outer.unsqueeze(-1)).view(batch, -1)
        if torch.compiler.is_exporting():  # a slice that cuts nothing off in the traced batch never would
            return flat.index_select(1, torch.arange(length, device=x.device))
        return flat[:, :length]


def masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension of what the mask lets through; zeros where it lets nothing through."""
    return score.masked_fill(~mask, -1e9).softmax(-1) * mask


def build_pool(pooling: Pooling, width: int, block: int) -> Pool:
    """Build a pooling by its name.

    Raises:
        ValueError: For an unknown name.
    """
    if pooling == "attention":
        return AttentionPool(width)
    if pooling == "hierarchical":
        return HierarchicalPool(width, block)
    if pooling == "mean":
        return MeanPool()
    if pooling == "cls":
        return ClsPool()
    raise ValueError(f"pooling={pooling!r}: choose attention, mean, hierarchical or cls")
