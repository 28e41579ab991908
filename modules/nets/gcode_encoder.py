"""Encoders of sensor windows: channels over time to a memory for a decoder, an operation, and the clean input again.

Sizes of the brief of `gcode`: 155 channels, windows of 64 rows, nine operations, four categorical columns. Plain torch.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Missing = Literal["learned", "zeros"]
Architecture = Literal["brief", "trained", "strong"]
EMBEDDING = 4  # numbers of each categorical column, as the brief draws them


class MissingChannels(nn.Module):
    """Gives the channels that a recording lacks a value of their own.

    Args:
        channels: Number of channels C.
        missing: ``learned``: one number a channel, trained with the rest (C parameters); ``zeros``: as the brief does.
    """

    def __init__(self, channels: int, missing: Missing) -> None:
        super().__init__()
        if missing not in ("learned", "zeros"):
            raise ValueError(f"missing={missing!r}: choose learned or zeros")
        self.value = nn.Parameter(torch.empty(channels).normal_(0.0, 0.1)) if missing == "learned" else None

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fill (B, T, C) where ``present`` (B, C) is false; what stood there before does not matter."""
        if self.value is None:
            return x.masked_fill(~present[:, None], 0.0)
        return torch.where(present[:, None], x, self.value.to(x.dtype))


class Encoder(nn.Module):
    """What all encoders share; subclasses say how a window becomes a memory, and a memory the input again.

    Attributes:
        memory_dim: Width D of the memory.
        reconstructs: Whether the input is made again from the memory.
    """

    memory_dim: int
    reconstructs: bool

    def encode(self, continuous: Tensor, present: Tensor, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """Encode windows.

        Args:
            continuous: (B, T, C) float, scaled channels.
            present: (B, C) bool, True = the recording has this channel.
            categorical: (B, T, K) int64, 0 = unknown value.

        Returns:
            The memory (B, T, D) and operation logits (B, num_classes).
        """
        raise NotImplementedError

    def reconstruct(self, memory: Tensor) -> Tensor:
        """Return the channels (B, T, C) that a memory (B, T, D) stands for."""
        raise NotImplementedError

    def forward(
        self, continuous: Tensor, present: Tensor, categorical: Tensor, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Encode windows, and make their channels again.

        Args:
            continuous: (B, T, C).
            present: (B, C).
            categorical: (B, T, K).
            noise: (B, T, C) that is added to what is encoded, and not to what is to be made again.

        Returns:
            ``logits`` (B, num_classes) and ``memory`` (B, T, D); where it reconstructs also ``reconstruction``
            (B, T, C) and ``error`` (B,), its mean squared error in float32 over the channels that are there.
        """
        noisy = continuous if noise is None else continuous + noise
        memory, logits = self.encode(noisy, present, categorical)
        outputs = {"logits": logits, "memory": memory}
        if self.reconstructs:
            again, error = self.again_with_error(memory, continuous, present)
            outputs |= {"reconstruction": again, "error": error}
        return outputs

    def again_with_error(self, memory: Tensor, continuous: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channels (B, T, C) that a memory stands for, and how far they are from the window's (B,)."""
        again, real = self.reconstruct(memory), present.float()
        squared = (again.float() - continuous.float()).square().mean(1)  # over time
        return again, (squared * real).sum(1) / real.sum(1).clamp(min=1.0)


class BriefEncoder(Encoder):
    """The encoder that the brief draws: 222,537 parameters, 242,532 with the reconstruction.

    These are the counts at 155 channels, categorical sizes 6, 3, 3, 4 (an unknown slot in each), nine operations and
    ``missing="zeros"``; learned values of missing channels are 155 more.

    Args:
        input_dim: Channels C.
        num_classes: Operations.
        categories: Values of each categorical column, slot 0 for unknown ones included.
        missing: See :class:`MissingChannels`.
        reconstruction: Whether to make the input again.
        width: Width of both projections and of the memory; half of it for each direction of the LSTM.
        layers: LSTM layers.
        dropout: Between the LSTM layers, and in the head of the operation; the brief has none.
        input_dropout: Before the LSTM; the brief has none.
        head_width: Hidden width of the operation's head; 0 is a single layer, as in the brief.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        categories: Sequence[int],
        missing: Missing = "zeros",
        reconstruction: bool = True,
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        head_width: int = 0,
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width={width} must be even: half of it for each direction")
        self.memory_dim, self.reconstructs = width, reconstruction
        self.fill = MissingChannels(input_dim, missing)
        self.continuous = nn.Sequential(nn.Linear(input_dim, width), nn.LayerNorm(width), nn.ReLU())
        self.tables = nn.ModuleList(nn.Embedding(size, EMBEDDING) for size in categories)
        self.categorical = nn.Sequential(nn.Linear(EMBEDDING * len(categories), width), nn.LayerNorm(width), nn.ReLU())
        self.lstm = nn.LSTM(
            width, width // 2, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.input_drop, self.drop = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.operation: nn.Module = nn.Linear(width, num_classes)
        if head_width:
            self.operation = nn.Sequential(_layer(width, head_width, dropout), nn.Linear(head_width, num_classes))
        self.again = nn.Linear(width, input_dim) if reconstruction else None

    def encode(self, continuous: Tensor, present: Tensor, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """Encode windows; the operation is read from the mean memory."""
        embedded = torch.cat(
            [table(column) for table, column in zip(self.tables, categorical.unbind(2), strict=True)], 2
        )
        rows = self.continuous(self.fill(continuous, present)) + self.categorical(embedded)
        memory = self.lstm(self.input_drop(rows))[0]
        return memory, self.operation(self.drop(memory.mean(1)))

    def reconstruct(self, memory: Tensor) -> Tensor:
        """Return the channels of a memory."""
        assert self.again is not None
        return self.again(memory)


class TrainedEncoder(Encoder):
    """The encoder behind the brief's figures (its code's MM_DTAE_LSTM v2): 3,945,893 parameters.

    The count is that at 155 channels, nine operations and ``missing="zeros"``. It takes no categorical columns.

    Args:
        input_dim: Channels C.
        num_classes: Operations.
        missing: See :class:`MissingChannels`.
        reconstruction: Whether to make the input again.
        width: Width of the LSTMs; the memory has half of it.
        layers: Layers of each LSTM.
        dropout: Everywhere.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        missing: Missing = "zeros",
        reconstruction: bool = True,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.memory_dim, self.reconstructs = (memory_dim := width // 2), reconstruction
        between = dropout if layers > 1 else 0.0
        self.fill = MissingChannels(input_dim, missing)
        self.input = _layer(input_dim, width, dropout)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, bidirectional=True, dropout=between)
        self.bottleneck = _layer(2 * width, memory_dim, dropout)
        self.attention = nn.Linear(memory_dim, 1)
        self.operation = nn.Sequential(_layer(memory_dim, memory_dim, dropout), nn.Linear(memory_dim, num_classes))
        if reconstruction:
            self.output = _layer(memory_dim, width, dropout)
            self.output_lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=between)
            self.again = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, input_dim)
            )

    def encode(self, continuous: Tensor, present: Tensor, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """Encode windows; the operation is read from a weighted mean of the memory."""
        memory = self.bottleneck(self.lstm(self.input(self.fill(continuous, present)))[0])
        return memory, self.operation(_pooled(memory, self.attention(memory)))

    def reconstruct(self, memory: Tensor) -> Tensor:
        """Return the channels of a memory."""
        return self.again(self.output_lstm(self.output(memory))[0])


class StrongEncoder(Encoder):
    """Convolutions over neighbouring rows, a bidirectional LSTM, attention pooling; whole channels are hidden at times.

    A channel that is hidden in training looks as one that a recording lacks, so that no board is leant on alone.

    Args:
        input_dim: Channels C.
        num_classes: Operations.
        categories: Values of each categorical column, slot 0 for unknown ones included.
        missing: See :class:`MissingChannels`.
        reconstruction: Whether to make the input again.
        width: Width of the convolutions and of the memory; half of it for each direction of the LSTM.
        layers: LSTM layers.
        blocks: Residual convolutions.
        kernel: Rows that a convolution sees, odd.
        dropout: In the blocks, between the LSTM layers, and before the operation.
        channel_dropout: Share of the channels that is hidden for a whole window.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        categories: Sequence[int],
        missing: Missing = "learned",
        reconstruction: bool = True,
        width: int = 192,
        layers: int = 2,
        blocks: int = 2,
        kernel: int = 5,
        dropout: float = 0.2,
        channel_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % 2 or kernel % 2 == 0:
            raise ValueError(f"width={width} must be even, and kernel={kernel} odd")
        self.memory_dim, self.reconstructs = width, reconstruction
        self.fill = MissingChannels(input_dim, missing)
        self.hide = nn.Dropout(channel_dropout)
        self.input = _layer(input_dim, width, dropout)
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in categories)
        self.blocks = nn.ModuleList(_Convolution(width, kernel, dropout) for _ in range(blocks))
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(width, width // 2, layers, batch_first=True, bidirectional=True, dropout=between)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 1, bias=False)
        self.operation = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, num_classes))
        self.again = (
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, input_dim)) if reconstruction else None
        )

    def encode(self, continuous: Tensor, present: Tensor, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """Encode windows; the operation is read from a weighted mean beside the largest values."""
        present = present & (self.hide(torch.ones_like(present, dtype=continuous.dtype)) > 0)
        x = self.input(self.fill(continuous, present))
        x = x + sum(table(column) for table, column in zip(self.tables, categorical.unbind(2), strict=True))
        for block in self.blocks:
            x = block(x)
        memory = self.norm(x + self.lstm(x)[0])
        return memory, self.operation(torch.cat([_pooled(memory, self.attention(memory)), memory.amax(1)], 1))

    def reconstruct(self, memory: Tensor) -> Tensor:
        """Return the channels of a memory."""
        assert self.again is not None
        return self.again(memory)


class _Convolution(nn.Module):
    """Pre-norm residual block: a convolution over time, then one over channels."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.time = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.mix = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.mix(self.time(self.norm(x).transpose(1, 2)).transpose(1, 2)))


def _layer(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(dropout))


def _pooled(memory: Tensor, score: Tensor) -> Tensor:
    """Weighted mean (B, D) over time; scores (B, T, 1)."""
    return (memory * score.float().softmax(1).to(memory.dtype)).sum(1)


def build_encoder(
    architecture: Architecture,
    input_dim: int,
    num_classes: int,
    categories: Sequence[int],
    missing: Missing = "zeros",
    reconstruction: bool = True,
    width: int | None = None,
    layers: int = 2,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    head_width: int = 0,
) -> Encoder:
    """Build an encoder.

    Args:
        architecture: ``brief`` (as drawn), ``trained`` (as really trained) or ``strong``.
        input_dim: Channels.
        num_classes: Operations.
        categories: Values of each categorical column.
        missing: What stands for missing channels.
        reconstruction: Whether to make the input again.
        width: Width; ``None`` is the architecture's own (128, 256, 192).
        layers: LSTM layers.
        dropout: Dropout.
        input_dropout: Of ``brief``.
        head_width: Of ``brief``.

    Raises:
        ValueError: An unknown architecture, or sizes that do not fit.
    """
    if architecture != "brief" and (input_dropout or head_width):
        raise ValueError(f"input_dropout and head_width belong to architecture: brief, not to {architecture}")
    if architecture == "trained":
        return TrainedEncoder(input_dim, num_classes, missing, reconstruction, width or 256, layers, dropout)
    if architecture == "brief":
        sizes = width or 128, layers, dropout, input_dropout, head_width
        return BriefEncoder(input_dim, num_classes, categories, missing, reconstruction, *sizes)
    if architecture == "strong":
        return StrongEncoder(
            input_dim, num_classes, categories, missing, reconstruction, width or 192, layers, dropout=dropout
        )
    raise ValueError(f"architecture={architecture!r}: choose brief, trained or strong")
