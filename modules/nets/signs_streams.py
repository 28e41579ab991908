"""Convolutional network with a short attention stage for sequences of hand-joint features; plain torch.

Idea of DD-Net (Yang et al., 2019: joint distances and motion at two speeds, 1-D convolutions) with residual blocks,
masks, and self-attention on the shortened sequence.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from modules.nets.signs import EncoderBlock, Positions, masked_mean


class MaskedBatchNorm(nn.Module):
    """Batch norm over the real frames of a batch; padding neither counts nor comes out different from zero.

    Args:
        width: Channels.
        affine: Learn scale and shift.
        momentum: Weight of a batch in the running statistics.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, affine: bool = True, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, 1e-5
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalise (B, T, W); `mask` is (B, T, 1) float, 1 = real frame."""
        if self.training:
            wide, weight = x.float().flatten(0, 1), mask.flatten()
            weight = weight / weight.sum().clamp(min=1.0)
            mean = weight @ wide
            var = (weight @ wide.square() - mean.square()).clamp(min=0.0)
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
                self.var.lerp_(var.to(self.var.dtype), self.momentum)
        else:
            mean, var = self.mean.float(), self.var.float()
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.float()
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias.float()
        return (x * scale.to(x.dtype) + shift.to(x.dtype)) * mask.to(x.dtype)


class FrameConv(nn.Module):
    """Convolution over time on (B, T, W).

    Args:
        width_in: Channels in.
        width_out: Channels out.
        kernel: Odd number of frames.
        stride: Every `stride`-th frame is kept, the first one always.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel} must be odd")
        self.conv = nn.Conv1d(width_in, width_out, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, W) to (B, ceil(T / stride), V)."""
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class ConvBlock(nn.Module):
    """Two convolutions with batch norm and a residual path.

    Args:
        width_in: Channels in.
        width_out: Channels out.
        kernel: Frames seen by a convolution, odd.
        stride: Temporal stride of the first convolution.
        dropout: Dropout between the convolutions.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.norm1 = FrameConv(width_in, width_out, kernel, stride), MaskedBatchNorm(width_out)
        self.conv2, self.norm2 = FrameConv(width_out, width_out, kernel), MaskedBatchNorm(width_out)
        self.drop = nn.Dropout(dropout)
        self.skip = nn.Linear(width_in, width_out, bias=False) if width_in != width_out else nn.Identity()
        # the residual branch starts small: the block starts near the identity
        nn.init.constant_(self.norm2.weight, 0.2)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, W) and its (B, T, 1) float mask to the block's output and mask; padding stays zero."""
        short = mask[:, :: self.stride]
        y = self.drop(nn.functional.gelu(self.norm1(self.conv1(x), short)))
        y = self.norm2(self.conv2(y), short)
        return nn.functional.gelu(y + self.skip(x[:, :: self.stride])) * short.to(y.dtype), short


class StreamMember(nn.Module):
    """One network of `SignStreams`; the arguments are explained there."""

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        max_len: int,
        width: int,
        stages: tuple[int, ...],
        blocks: int,
        kernel: int,
        depth: int,
        heads: int,
        input_dropout: float,
        dropout: float,
        head_dropout: float,
        positions: Literal["learned", "sinusoidal", "none"],
    ) -> None:
        super().__init__()
        self.features = MaskedBatchNorm(input_dim, affine=False)
        self.input_drop = nn.Dropout(input_dropout)
        self.input = nn.Linear(input_dim, width, bias=False)
        self.input_norm = MaskedBatchNorm(width)
        convs, before, length = [], width, max_len
        for i, after in enumerate(stages):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                convs.append(ConvBlock(before, after, kernel, stride, dropout))
                before, length = after, -(-length // stride)
        self.convs = nn.ModuleList(convs)
        self.positions = Positions(length, before, positions if depth else "none")
        self.blocks = nn.ModuleList(EncoderBlock(before, heads, 2 * before, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(2 * before)
        self.head = nn.Sequential(nn.Dropout(head_dropout), nn.Linear(2 * before, num_classes))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Scores (B, C) of frames (B, T, F), zero where padded, and their mask (B, T)."""
        real = mask.unsqueeze(-1).float()
        x = self.features(x, real)
        # one draw for all frames: a hidden channel must not be readable from a neighbouring frame
        x = x * self.input_drop(x.new_ones(x.shape[0], 1, x.shape[2]))
        x = nn.functional.gelu(self.input_norm(self.input(x), real))
        for conv in self.convs:
            x, real = conv(x, real)
        short = real.squeeze(-1) > 0
        attend = (short | ~short.any(1, keepdim=True))[:, None, None, :]
        x = self.positions(x)
        for block in self.blocks:
            x = block(x, attend)
        peak = x.masked_fill(~short.unsqueeze(-1), -1e4).amax(1) * short.any(1, keepdim=True).to(x.dtype)
        return self.head(self.norm(torch.cat([masked_mean(x, short), peak], dim=-1)))


class SignStreams(nn.Module):
    """Features of hand joints to class scores, by one small network or the mean of several.

    A member: batch norm of the features, a per-frame projection, residual convolutions that halve the sequence between
    stages, attention blocks, mean and maximum over time, a linear head. In training each member sees its own share of a
    batch (row i goes to member i modulo `members`), so the members stay independent and an epoch costs the same for any
    number of them; outside training the scores are the logarithm of the members' mean probability.

    Args:
        input_dim: Features of a frame.
        num_classes: Classes.
        max_len: Longest sequence, in frames.
        width: Channels after the projection.
        stages: Channels of each convolution stage; every stage but the first halves the sequence.
        blocks: Residual blocks in a stage.
        kernel: Frames seen by a convolution, odd.
        depth: Attention blocks after the last stage.
        heads: Attention heads.
        input_dropout: Share of feature channels hidden for a whole sequence in training.
        dropout: Dropout inside the blocks.
        head_dropout: Dropout of the head.
        positions: Kind of position vectors before the attention blocks.
        members: Networks; scale the batch size with them.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        max_len: int = 96,
        width: int = 96,
        stages: tuple[int, ...] = (96, 160, 224),
        blocks: int = 1,
        kernel: int = 3,
        depth: int = 1,
        heads: int = 4,
        input_dropout: float = 0.1,
        dropout: float = 0.1,
        head_dropout: float = 0.4,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        members: int = 1,
    ) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"members={members} must be at least 1")
        self.max_len = max_len
        self.members = nn.ModuleList(
            StreamMember(
                input_dim, num_classes, max_len, width, stages, blocks, kernel, depth, heads,
                input_dropout, dropout, head_dropout, positions,
            )
            for _ in range(members)
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores.

        Args:
            x: (B, T, F) features; padded frames may hold anything.
            mask: (B, T) bool, True = real frame; None = all real. A row without a real frame gives finite scores that
                mean nothing.

        Returns:
            (B, C) logits.

        Raises:
            ValueError: T is above `max_len`.
        """
        if x.shape[1] > self.max_len:
            raise ValueError(
                f"a sequence of {x.shape[1]} frames is longer than max_len={self.max_len}: raise max_len, or resample"
            )
        if mask is None:
            mask = x.new_ones(x.shape[:2], dtype=torch.bool)
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        count = len(self.members)
        if count == 1:
            return self.members[0](x, mask)
        if self.training and x.shape[0] >= count:
            shares = [member(x[i::count], mask[i::count]) for i, member in enumerate(self.members)]
            # back to the order of the rows: member 0's first, member 1's first, ..., member 0's second, ...
            order = torch.cat([torch.arange(i, x.shape[0], count, device=x.device) for i in range(count)])
            return torch.cat(shares)[order.argsort()]
        scores = torch.stack([member(x, mask).float().log_softmax(-1) for member in self.members])
        return (scores.logsumexp(0) - math.log(count)).to(x.dtype)
