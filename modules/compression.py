"""Networks made smaller after training: weights in int8, and weights of small magnitude removed."""

import copy
import io
import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Int8Weight(nn.Module):
    """A matrix in int8 with a scale for each row; what multiplies it stays as it is.

    Activations are not rounded: a scale for them would belong to a call, and rows of a batch and later positions would
    then change an answer. So an answer is that of these weights in float, and takes about as long.

    Args:
        weight: (N, M) float.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.detach()
        scale = weight.abs().amax(1) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight / scale.clamp_min(1e-30).unsqueeze(1)).round().to(torch.int8))


class Int8Linear(nn.Module):
    """A linear layer of an int8 matrix.

    Args:
        matrix: (N, M).
        bias: (N,) or ``None``.
    """

    def __init__(self, matrix: Int8Weight, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix, self.bias = matrix, bias

    @property
    def weight(self) -> Tensor:
        """The int8 numbers (N, M)."""
        return self.matrix.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., M) to (..., N)."""
        y = F.linear(x, self.matrix.weight.to(x.dtype)) * self.matrix.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class Int8Embedding(nn.Module):
    """An embedding of an int8 matrix, which may be that of the head, too.

    Args:
        matrix: (N, M).
    """

    def __init__(self, matrix: Int8Weight) -> None:
        super().__init__()
        self.matrix = matrix
        self.num_embeddings, self.embedding_dim = matrix.weight.shape

    @property
    def weight(self) -> Tensor:
        """The int8 numbers (N, M)."""
        return self.matrix.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (...) to (..., M)."""
        return self.matrix.weight[tokens].to(self.matrix.scale.dtype) * self.matrix.scale[tokens].unsqueeze(-1)


def to_int8(net: nn.Module) -> Any:  # noqa: ANN401  # a network of the same class, with other layers in it
    """Return a copy on the CPU whose linear layers and embeddings hold int8 weights, with a scale for each row.

    A text comes out the same alone and in any batch, and no position sees a later one, as in the network itself. Such a
    copy scores and writes, and cannot be trained. The matrices of ``nn.LSTM`` stay as they are.
    """
    made = copy.deepcopy(net).cpu().eval()
    matrices: dict[int, Int8Weight] = {}  # a matrix that an embedding and the head share stays one
    for name, part in list(made.named_modules()):
        if isinstance(part, nn.Linear | nn.Embedding):
            matrix = matrices.setdefault(id(part.weight), Int8Weight(part.weight))
            own = Int8Linear(matrix, part.bias) if isinstance(part, nn.Linear) else Int8Embedding(matrix)
            made.set_submodule(name, own)
    return made.requires_grad_(False)


def _prunable(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the matrices of linear layers and LSTMs, each once, without those that are an embedding, too."""
    tied = {id(part.weight) for part in net.modules() if isinstance(part, nn.Embedding)}
    for name, part in net.named_modules():
        if isinstance(part, nn.Linear | nn.LSTM):
            for own, weight in part.named_parameters(recurse=False):
                if weight.ndim == 2 and id(weight) not in tied:
                    yield f"{name}.{own}", weight


def magnitude_masks(net: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Return which weights of linear layers and LSTMs stay, by name: all but the smallest ones of the whole network.

    Args:
        net: Network.
        sparsity: Share of these weights that goes, in (0, 1).

    Raises:
        ValueError: For another share, or a network without such weights.
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must lie between 0 and 1, got {sparsity}")
    weights = dict(_prunable(net))
    if not weights:
        raise ValueError(f"{type(net).__name__} has no weights of linear layers or LSTMs to take away")
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
