"""Weights of a network of `plants` from a file that another run has left; never code."""

from pathlib import Path

import torch
from torch import Tensor

from modules.base import ClassMapError


def read_weights(path: str) -> dict[str, Tensor]:
    """Read the weights of a network of this system: a checkpoint, or a file of weights.

    Raises:
        ClassMapError: The file cannot be read, or holds no such network.
    """
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own kind
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClassMapError(f"init_from={path}: cannot be read as weights ({first}): give best.ckpt or "
                            "weights.safetensors of a run") from error  # fmt: skip
    state = found.get("state_dict", found)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for prefix in ("net.model.", "model."):
        if any(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
    return tensors
