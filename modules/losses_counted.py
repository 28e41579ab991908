"""What the losses of the catalogue share: the classes' shares of the training data, and matrices over classes."""

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.losses import CrossEntropy

Rows = list[list[float]]


class CountedLoss(CrossEntropy):
    """Cross-entropy that knows the classes' shares of the training data, and turns hard targets into soft ones."""

    prior: Tensor | None = None

    def use_counts(self, counts: Tensor) -> None:
        """Take the training counts (C,)."""
        super().use_counts(counts)
        counts = torch.as_tensor(counts).to(torch.float32)
        self.prior = counts / counts.sum()

    def shares(self, num_classes: int) -> Tensor:
        """Return the shares of the classes (C,); even ones where no counts were given."""
        return torch.full((num_classes,), 1 / num_classes) if self.prior is None else self.prior

    def _hard(self, logits: Tensor, target: Tensor) -> Tensor:
        real = (target >= 0).unsqueeze(1).to(logits.dtype)
        hot = torch.zeros_like(logits).scatter_(1, target.clamp_min(0).unsqueeze(1), real)
        return self._soft(logits, hot)


def smoothed(target: Tensor, share: float) -> Tensor:
    """Spread a share of each row's own mass evenly over the classes (B, C)."""
    return target * (1 - share) + target.sum(dim=1, keepdim=True) / target.shape[1] * share


def fitting(name: str, values: Tensor, logits: Tensor) -> Tensor:
    """Move numbers per class to the logits' device, once, and check their number.

    Raises:
        ValueError: When there are not as many as classes.
    """
    if len(values) != logits.shape[1]:
        raise ValueError(f"{name} is for {len(values)} classes, the data have {logits.shape[1]}")
    return values.to(logits)


def read_confusion(path: str, names: list[str] | None, held_out: Collection[str] = ()) -> Tensor:
    """Return the mean probabilities (C, C) that stored predictions give to the samples of each class.

    Args:
        path: Predictions file of a run.
        names: Classes of the data, in order; ``None`` checks nothing.
        held_out: Samples that may not be in the file: those that a run validates or tests on.

    Raises:
        ValueError: For a file that is missing, no predictions file, about other classes, or with a held-out sample.
    """
    try:
        # from memory: a broken archive would keep numpy's own handle on the file
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
            y, prob, found = file["y"], file["prob"], [str(name) for name in file["class_names"]]
            held = sorted(set(file["id"].astype(str).tolist()) & set(held_out))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(
            f"{path}: not the predictions file of a run ({error}): give its fit/predictions_calib.npz"
        ) from error
    if names and found != names:
        raise ValueError(f"{path} is about the classes {found}, the data have {names}: use a run on the same data")
    if held:
        raise ValueError(
            f"{path} holds {len(held)} samples that this run validates or tests on, such as {held[0]!r}, and their "
            "labels may not shape its targets: give fit/predictions_calib.npz of a run on this split (--split.calib)"
        )
    empty = [name for i, name in enumerate(found) if not (y == i).any()]
    if empty:
        raise ValueError(f"{path} has no sample of {', '.join(empty)}: give rows instead")
    mean: Any = np.stack([prob[y == i].mean(0) for i in range(len(found))])
    return torch.from_numpy(mean).float()


def square(name: str, rows: Rows) -> Tensor:
    """Return rows as a matrix (C, C).

    Raises:
        ValueError: When they are not square, or hold a number below 0.
    """
    if not rows or any(len(row) != len(rows) for row in rows) or min(map(min, rows)) < 0:
        raise ValueError(f"{name} must be square with numbers of at least 0, got {rows}")
    return torch.tensor(rows, dtype=torch.float32)
