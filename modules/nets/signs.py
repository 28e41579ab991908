"""Encoder-only Transformer over a sequence of frames; plain torch.

The default sizes are those of the brief of `signs` (run G8.0): 128-d frames, at most 96 of them, 30 classes: 2,203,294
parameters.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real frames, in float32.

    Args:
        x: (B, T, W).
        mask: (B, T), True = real frame.

    Returns:
        (B, W); a row without a real frame gives zeros.
    """
    weight = mask.unsqueeze(-1).float()
    return ((x.float() * weight).sum(1) / weight.sum(1).clamp(min=1.0)).to(x.dtype)


class AttentionPool(nn.Module):
    """Weighted mean over the real frames; one learned score per frame.

    Args:
        width: Size of a frame vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # without a bias: softmax would cancel it, and it would never get a gradient
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, T, W) with mask (B, T) to (B, W)."""
        score = self.score(x).squeeze(-1).float()
        # a large finite value: a row without a real frame falls back to the plain mean instead of NaN
        weight = score.masked_fill(~mask, -1e9).softmax(1).to(x.dtype)
        return (x * weight.unsqueeze(-1)).sum(1)


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward block with an exact GELU.

    Args:
        width: Size of a frame vector.
        heads: Attention heads; divides `width`.
        ffn: Hidden size of the feed-forward part.
        dropout: Probability for attention weights, hidden units and both residual branches.
    """

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads} does not divide width={width}")
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.ff1 = nn.Linear(width, ffn)
        self.ff2 = nn.Linear(ffn, width)
        self.drop = nn.Dropout(dropout)
        # the start of torch's own attention layer
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Map (B, T, W) to (B, T, W).

        Args:
            x: Frames.
            attend: (B, 1, 1, T) bool, True = may be attended to; None = all.
        """
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=dropout)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(batch, length, width)))
        y = self.ff2(self.drop(F.gelu(self.ff1(self.norm2(x)))))
        return x + self.drop(y)


def sinusoidal_table(length: int, width: int) -> Tensor:
    """Fixed positions of "Attention is all you need" (2017), shape (1, length, width), `width` even."""
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, not {width}")
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    table = torch.zeros(1, length, width)
    table[0, :, 0::2] = torch.sin(position * rate)
    table[0, :, 1::2] = torch.cos(position * rate)
    return table


class Positions(nn.Module):
    """Adds a position vector to each frame.

    Args:
        max_len: Longest sequence, in frames.
        width: Size of a frame vector.
        kind: `learned` table, fixed `sinusoidal` table, or `none`.
    """

    def __init__(self, max_len: int, width: int, kind: Literal["learned", "sinusoidal", "none"]) -> None:
        super().__init__()
        self.max_len = max_len
        self.table: Tensor | None
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(1, max_len, width).normal_(0.0, 0.02))
        elif kind == "sinusoidal":
            self.register_buffer("table", sinusoidal_table(max_len, width), persistent=False)
        elif kind == "none":
            self.table = None
        else:
            raise ValueError(f"positions={kind!r}: choose learned, sinusoidal or none")

    def forward(self, x: Tensor) -> Tensor:
        """Add positions to (B, T, W).

        Raises:
            ValueError: T is above `max_len`.
        """
        length = x.shape[1]
        if length > self.max_len:
            raise ValueError(
                f"a sequence of {length} frames is longer than max_len={self.max_len}: raise max_len, or resample"
            )
        return x if self.table is None else x + self.table[:, :length].to(x.dtype)


class SignTransformer(nn.Module):
    """Frames to class scores: projection, positions, pre-norm encoder, final norm, masked pooling, two-layer head.

    Args:
        input_dim: Features of a frame.
        num_classes: Classes.
        max_len: Longest sequence, in frames.
        width: Size of a frame vector inside the encoder.
        depth: Encoder blocks.
        heads: Attention heads.
        ffn: Hidden size of the feed-forward part.
        dropout: Dropout of the input and the encoder.
        head_width: Hidden size of the head.
        head_dropout: Dropout of the head.
        positions: Kind of position vectors.
        pooling: `mean` over real frames, or a learned `attention` weight per frame.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        max_len: int = 96,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        ffn: int = 512,
        dropout: float = 0.1,
        head_width: int = 128,
        head_dropout: float = 0.2,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        pooling: Literal["mean", "attention"] = "mean",
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "attention"):
            raise ValueError(f"pooling={pooling!r}: choose mean or attention")
        self.input = nn.Linear(input_dim, width)
        self.positions = Positions(max_len, width, positions)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, ffn, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pool = AttentionPool(width) if pooling == "attention" else None
        self.head = nn.Sequential(
            nn.Linear(width, head_width), nn.GELU(), nn.Dropout(head_dropout), nn.Linear(head_width, num_classes)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores.

        Args:
            x: (B, T, F) frames; padded frames may hold anything.
            mask: (B, T) bool, True = real frame; None = all real. A row without a real frame gives finite scores that
                mean nothing.

        Returns:
            (B, C) logits.

        Raises:
            ValueError: T is above `max_len`.
        """
        attend = None
        if mask is None:
            mask = x.new_ones(x.shape[:2], dtype=torch.bool)
        else:
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
            # softmax over nothing is NaN: a row without a real frame attends everywhere
            attend = (mask | ~mask.any(1, keepdim=True))[:, None, None, :]
        x = self.drop(self.positions(self.input(x)))
        for block in self.blocks:
            x = block(x, attend)
        x = self.norm(x)
        return self.head(masked_mean(x, mask) if self.pool is None else self.pool(x, mask))
