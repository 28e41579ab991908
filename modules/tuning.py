"""How an encoder and the new layers above it are tuned: settings, and the groups of the optimizer that follow."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from modules.optim import parameter_groups


@dataclass(frozen=True)
class Tuning:
    """What of the encoder is trained, and how fast; the optimizer's own rate and decay are those of the top layer.

    Args:
        frozen_layers: Layers frozen from the lowest: one number, or one per encoder (title, abstract).
        frozen_embeddings: Freeze the embeddings, too.
        lora_rank: Rank of adapters on queries and values; 0 trains the encoder's own weights instead.
        head_lr_ratio: Learning rate of everything that is new (pooling, fusion, heads, adapters) over the encoder's.
        head_decay_ratio: Weight decay of what is new over the encoder's.
        layer_decay: Learning rate of a layer over that of the layer above it; the embeddings lie under the lowest.

    Raises:
        ValueError: For negative numbers, or a layer decay outside (0, 1].
    """

    frozen_layers: list[int] = field(default_factory=lambda: [0])
    frozen_embeddings: bool = False
    lora_rank: int = 0
    head_lr_ratio: float = 5.0
    head_decay_ratio: float = 2.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not self.frozen_layers or min(self.frozen_layers) < 0 or self.lora_rank < 0:
            raise ValueError(f"need frozen_layers and lora_rank >= 0, got {self.frozen_layers} and {self.lora_rank}")
        if self.head_lr_ratio <= 0 or self.head_decay_ratio < 0 or not 0 < self.layer_decay <= 1:
            raise ValueError("need head_lr_ratio > 0, head_decay_ratio >= 0 and 0 < layer_decay <= 1")

    def frozen_of(self, encoders: int) -> list[int]:
        """Return the frozen layers of each encoder.

        Raises:
            ValueError: When the numbers do not fit the encoders.
        """
        if len(self.frozen_layers) not in (1, encoders):
            raise ValueError(
                f"frozen_layers={self.frozen_layers}: give one number, or one for each of {encoders} encoders"
            )
        return self.frozen_layers * (encoders if len(self.frozen_layers) == 1 else 1)


def tuning_groups(
    system: nn.Module,
    encoders: Iterable[nn.Module],
    added: Iterable[nn.Module],
    tuning: Tuning,
    optimizer: OptimizerCallable,
    decay_all: bool,
) -> list[dict[str, Any]]:
    """Return the groups: parts of the encoder by depth, and what is new, each with and without decay.

    By module and never by name: an embedding table is part of the encoder because the encoder holds it.

    Args:
        system: What holds all parameters.
        encoders: Modules with ``layers``; the rest of them counts as below the lowest layer.
        added: Modules inside the encoders that are new (adapters).
        tuning: The ratios.
        optimizer: Asked for its learning rate and decay.
        decay_all: Decay norms, biases and embeddings, too.
    """
    defaults = optimizer([nn.Parameter(torch.zeros(1))]).defaults
    lr, decay = float(defaults["lr"]), float(defaults.get("weight_decay", 0.0))
    below: dict[int, int] = {}  # parameter -> layers above it and below the head; what is missing here is new
    for encoder in encoders:
        layers: Any = encoder.layers
        below |= {id(p): len(layers) for p in encoder.parameters()}
        for i, layer in enumerate(layers):
            below |= {id(p): len(layers) - 1 - i for p in layer.parameters()}
    for module in added:
        for parameter in module.parameters():
            below.pop(id(parameter), None)
    groups: dict[str, dict[str, Any]] = {}
    for group in parameter_groups(system, decay_all):
        for parameter in group["params"]:
            depth = below.get(id(parameter))
            if depth is None:
                part, rate, ratio = "head", lr * tuning.head_lr_ratio, tuning.head_decay_ratio
            else:
                part, rate, ratio = "encoder", lr * tuning.layer_decay**depth, 1.0
                part += f"_{depth}" if tuning.layer_decay < 1 else ""
            made = {"params": [], "lr": rate, "weight_decay": group.get("weight_decay", decay * ratio)}
            name = f"{part}_{group['name']}"
            groups.setdefault(name, made | {"name": name})["params"].append(parameter)
    return [groups[name] for name in sorted(groups)]
