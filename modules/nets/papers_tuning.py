"""Which weights of an encoder are trained: freezing from below, and low-rank adapters (LoRA, Hu et al. 2021)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What the projections of queries and values are called by BERT, DeBERTa, DistilBERT and newer models.
_ADAPTED = {"query", "value", "query_proj", "value_proj", "q_lin", "v_lin", "q_proj", "v_proj"}


class LowRank(nn.Module):
    """A linear layer that stays as it is, plus a low-rank one that starts at zero.

    Args:
        linear: The layer; its weights are frozen.
        rank: Rank of the addition.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self.linear(x) + F.linear(F.linear(x, self.down), self.up)


def tune(encoder: nn.Module, frozen_layers: int, frozen_embeddings: bool, lora_rank: int) -> None:
    """Freeze the lowest layers and the embeddings; with adapters, everything but the adapters of the other layers.

    Args:
        encoder: A :class:`TokenEncoder` or :class:`StateEncoder`; changed in place.
        frozen_layers: Layers frozen, from the lowest.
        frozen_embeddings: Freeze what comes before the layers.
        lora_rank: Rank of the adapters on queries and values; 0 for none.

    Raises:
        ValueError: When there are fewer layers, no embeddings, or nothing to adapt.
    """
    part: Any = encoder
    if not (frozen_layers or frozen_embeddings or lora_rank):
        return
    if frozen_embeddings and part.embeddings is None:
        raise ValueError("frozen_embeddings: cached states have no embeddings before them")
    layers = part.layers
    if frozen_layers > len(layers):
        raise ValueError(f"{frozen_layers} frozen layers, but the encoder has {len(layers)} that could be")
    if lora_rank:
        encoder.requires_grad_(False)
        adapted = 0
        for layer in layers[frozen_layers:]:
            adapted += _adapt(layer, lora_rank)
        if not adapted:
            raise ValueError("lora_rank: no layer above the frozen ones has query and value projections of its own")
        return
    for layer in layers[:frozen_layers]:
        layer.requires_grad_(False)
    if frozen_embeddings:
        part.embeddings.requires_grad_(False)


def _adapt(layer: nn.Module, rank: int) -> int:
    found = [
        (module, name)
        for module in layer.modules()
        for name, child in module.named_children()
        if name in _ADAPTED and isinstance(child, nn.Linear)
    ]
    for module, name in found:
        linear: Any = getattr(module, name)
        setattr(module, name, LowRank(linear, rank))
    return len(found)
