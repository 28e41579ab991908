"""A window at a glance: statistics of its channels, cut into bins, as one vector beside every token."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

REACH = 3.5  # scaled readings that bins cover before they are fitted


def statistics_of(x: Tensor, blocks: int) -> Tensor:
    """Return statistics (B, (4 + blocks) K) of windows (B, T, K).

    They are mean, standard deviation, first and last row, then how far the mean of each block of rows is from the mean.
    """
    mean = x.mean(1)
    spread = ((x - mean[:, None]).square().mean(1) + 1e-6).sqrt()
    parts = [mean, spread, x[:, 0], x[:, -1]]
    length = x.shape[1]
    if blocks > length:
        raise ValueError(f"a window of {length} rows has no {blocks} blocks: set shape.summary_blocks lower")
    cuts = [i * length // blocks for i in range(blocks + 1)] if blocks else [0]
    parts += [x[:, a:b].mean(1) - mean for a, b in pairwise(cuts)]
    return torch.cat(parts, 1)


class Summary(nn.Module):
    """Reads the statistics of a window, and the operation.

    With bins, a statistic becomes one number for each bin: 1 above it, 0 below it, and how far inside (piecewise linear
    encoding, Gorishniy et al. 2022). So a layer may do what a tree does: tell readings apart that lie close together.

    Args:
        channels: Places of the channels that are read, among all.
        operations: Operations, one of which is told; 0 = none is.
        width: Width of the vector.
        bins: Bins of a statistic; 0 takes the statistics as they are.
        blocks: Blocks of rows with a mean of their own; 0 = none.
        dropout: In the layers.
        input_dropout: Of the statistics.
    """

    edges: Tensor
    channels: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        operations: int,
        width: int,
        bins: int,
        blocks: int,
        dropout: float,
        input_dropout: float,
    ) -> None:
        super().__init__()
        self.bins, self.blocks = bins, blocks
        count, hidden = (4 + blocks) * len(channels), 2 * width
        self.register_buffer("channels", torch.tensor(list(channels)), persistent=False)
        self.register_buffer("edges", torch.linspace(-REACH, REACH, bins + 1).repeat(count if bins else 0, 1))
        self.operation = nn.Embedding(operations, hidden) if operations else None
        self.first = nn.Sequential(nn.Dropout(input_dropout), nn.Linear(count * max(bins, 1), hidden))
        self.layers = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )

    @torch.no_grad()
    def fit(self, windows: Tensor) -> None:
        """Make bins equally full of training windows (N, T, C); equal edges are kept apart by a little."""
        if not self.bins:
            return
        found = torch.cat([statistics_of(part[..., self.channels], self.blocks) for part in windows.split(256)])
        ordered = found.sort(0).values
        place = torch.linspace(0, len(ordered) - 1, self.bins + 1).round().long()
        self.edges.copy_(ordered[place].T + 1e-5 * torch.arange(self.bins + 1))

    def forward(self, x: Tensor, operation: Tensor) -> Tensor:
        """Return (B, W) of windows (B, T, C) and their operations (B,)."""
        seen = statistics_of(x[..., self.channels].float(), self.blocks)
        if self.bins:
            low, high = self.edges[:, :-1], self.edges[:, 1:]
            seen = ((seen[..., None] - low) / (high - low)).clamp(0, 1).flatten(1)
        hidden = self.first(seen)
        return self.layers(hidden if self.operation is None else hidden + self.operation(operation))
