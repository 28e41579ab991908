"""Networks made smaller after training: linear layers in int8, and weights of small magnitude removed."""

import copy
import io
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def to_int8(net: nn.Module) -> Any:  # noqa: ANN401  # a network of the same class, with other layers in it
    """Return a copy on the CPU whose linear layers hold int8 weights; activations are rounded as they come.

    Scales are per layer for weights and per call for activations (PyTorch's dynamic quantisation). Such a copy scores
    and writes, and cannot be trained.
    """
    made = copy.deepcopy(net).cpu().eval()
    with warnings.catch_warnings():  # PyTorch moves this to another library; it warns of its own parts, too
        warnings.filterwarnings("ignore", category=DeprecationWarning, message="torch.ao.quantization is deprecated")
        warnings.filterwarnings("ignore", category=UserWarning, message=".*quantized tensor creation functions")
        return torch.ao.quantization.quantize_dynamic(made, {nn.Linear}, dtype=torch.qint8, inplace=True)


def _prunable(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of the linear layers, each once, without those that are an embedding, too."""
    tied = {id(part.weight) for part in net.modules() if isinstance(part, nn.Embedding)}
    for name, part in net.named_modules():
        if isinstance(part, nn.Linear) and id(part.weight) not in tied:
            yield f"{name}.weight", part.weight


def magnitude_masks(net: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Return which weights of the linear layers stay, by name: all but the smallest ones of the whole network.

    Args:
        net: Network.
        sparsity: Share of these weights that goes, in (0, 1).
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must lie between 0 and 1, got {sparsity}")
    weights = dict(_prunable(net))
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    threshold = sizes.kthvalue(max(1, round(sparsity * len(sizes)))).values
    return {name: weight.detach().abs() > threshold for name, weight in weights.items()}


@torch.no_grad()
def apply_masks(net: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the weights that do not stay to zero, in place."""
    for name, mask in masks.items():
        net.get_parameter(name).mul_(mask)


def zero_share(net: nn.Module) -> float:
    """Return the share of zeros among the weights that can be pruned; NaN where there are none, as in int8."""
    weights = [weight for _, weight in _prunable(net)]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else float("nan")


def sizes(net: nn.Module) -> tuple[int, int]:
    """Return the bytes of a network's weights as a file, and of that file packed (zlib), where zeros cost little."""
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    data = buffer.getvalue()
    return len(data), len(zlib.compress(data, 1))
