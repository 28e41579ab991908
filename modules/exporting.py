"""What an exported network is: inputs by name, the axes that may have any size, and the answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from modules.base import System

Axes = dict[str, dict[int, str]]


def free_axes(batches: Sequence[dict[str, Tensor]]) -> Axes:
    """Name the axes of each input that may have any size: those that a mask is about, and those that differ.

    Args:
        batches: Inputs of the network, of several numbers of samples and, where samples have one, lengths. A mask is a
            bool input (B, T), ``mask`` or ``FIELD_mask``; ``FIELD_links`` (B, T, T) has its length twice.

    Returns:
        ``{"x": {0: "batch", 1: "length"}, ...}``; ``title_ids`` gives ``title_length``. Axes of one name have one size,
        and an axis without a name has the same size in every batch.
    """

    def sizes(name: str, axis: int) -> tuple[int, ...]:
        return tuple(batch[name].shape[axis] for batch in batches)

    masks = [name for name, x in batches[0].items() if x.dtype == torch.bool and x.dim() == 2 and name.endswith("mask")]
    names: dict[object, str] = {}
    axes: Axes = {}
    for name, first in batches[0].items():
        axes[name] = {}
        fields = [mask.removesuffix("mask") for mask in masks if name.startswith(mask.removesuffix("mask"))]
        field = max(fields, key=len, default=None)  # a mask without a field is about what has no other
        for axis in range(first.dim()):
            counted = axis == 1 or (axis == 2 and name.endswith("_links"))
            key: object = sizes(name, axis)
            if counted and field is not None and key == sizes(f"{field}mask", 1):
                key = field
            elif len(set(sizes(name, axis))) == 1:
                continue
            if key not in names:
                label = f"{name.rpartition('_')[0]}_length".lstrip("_") if axis else "batch"
                names[key] = f"{label}_{axis}" if label in names.values() else label
            axes[name][axis] = names[key]
    return axes


class Exported(nn.Module):
    """A system as a function of tensors, given as one dict; it holds what it needs of the system and no data.

    Args:
        system: A system with its weights; put into evaluation mode.
    """

    def __init__(self, system: "System") -> None:
        super().__init__()
        self.system = system.eval()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the answers by name."""
        return self.system.export_answers(inputs)


class ExportedByName(Exported):
    """The same with each input as an argument of its own, which is how ONNX names them."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the answers by name."""
        return super().forward(inputs)
