"""Clip gradients by their total norm, log it, and stop before a step whose loss or norm is not finite."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer


class NonFiniteError(RuntimeError):
    """The loss or the gradient norm was NaN or infinite; no step was taken with it."""


class GradientClipping(Callback):
    """Clip in ``on_before_optimizer_step``, log ``grad/norm`` and, per epoch, ``grad/clipped_share``.

    Instead of the Trainer's ``gradient_clip_val``, which raises with fused AdamW and bf16-mixed (Lightning 2.6.6) and
    says nothing about how often it clips. The norm is of one rank's parameters, equal on all ranks under DDP; sharded
    gradients (DTensor) are reduced by torch. With ``check_finite`` the host reads one flag per optimizer step, for the
    step cannot be stopped otherwise; without it nothing here waits for the device.

    With 16-mixed an infinite gradient is how the loss scale is found, so that only the loss is checked there.

    Args:
        max_norm: Largest total norm (2-norm over all gradients); ``None`` logs and checks without clipping.
        check_finite: Stop before the optimizer step on a NaN or infinite loss or norm.

    Raises:
        ValueError: For a ``max_norm`` that is not positive.
    """

    def __init__(self, max_norm: float | None = 1.0, check_finite: bool = True) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be positive or null, got {max_norm}")
        self.max_norm = max_norm
        self.check_finite = check_finite
        self._losses: list[Tensor] = []  # of the accumulation window, on the device
        self._batches: list[Any] = []  # the ids of the same batches
        self._clipped: Tensor | None = None
        self._steps = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's count."""
        self._losses, self._batches, self._clipped, self._steps = [], [], None, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's count so far."""
        return {"clipped": self._clipped, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting in the middle of an epoch."""
        self._clipped, self._steps = state_dict["clipped"], state_dict["steps"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Remember which samples the coming step is made of."""
        self._batches.append(batch.get("id") if isinstance(batch, dict) else None)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember the loss."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Check, clip and log.

        Raises:
            NonFiniteError: With the step, the epoch, the loss and the sample ids; also written to ``nonfinite.json``.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = _full(get_total_norm([p.grad for p in parameters if p.grad is not None]))
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm = norm / scaler.get_scale()  # fused optimizers unscale inside their step, so later than here
        if self.check_finite:
            self._check(trainer, norm, scaler)
        if self.max_norm is not None:
            clip_grads_with_norm_(parameters, self.max_norm, norm)
            clipped = (norm > self.max_norm).float()
            self._clipped = clipped if self._clipped is None else self._clipped.to(clipped.device) + clipped
        self._steps += 1
        pl_module.log("grad/norm", norm, on_step=True, on_epoch=False)
        self._losses, self._batches = [], []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of this epoch's steps that were clipped."""
        if self._clipped is not None:
            share = self._clipped / self._steps
            pl_module.log("grad/clipped_share", share, on_step=False, on_epoch=True, sync_dist=True)

    def _check(self, trainer: Trainer, norm: Tensor, scaler: GradScaler | None) -> None:
        losses = torch.stack([loss.float() for loss in self._losses]) if self._losses else norm.new_zeros(0)
        good_loss, good_norm = losses.isfinite().all(), norm.isfinite()
        # Scaled gradients may overflow; that alone lowers the scale and skips the step, as it should.
        if bool(good_loss if scaler is not None else good_loss & good_norm):
            return
        # The hook sees the loss divided by the number of accumulated batches and multiplied by the scale.
        factor = trainer.accumulate_grad_batches / (1.0 if scaler is None else scaler.get_scale())
        values = [value * factor for value in losses.tolist()]
        ids = _sample_ids(trainer, self._batches)
        report = {
            "global_step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "loss": [value if math.isfinite(value) else str(value) for value in values],
            "grad_norm": norm.item() if good_norm else str(norm.item()),
            "ids": ids,
        }
        path = _write(trainer, report)
        what = "the gradient norm" if good_loss else "the loss"
        raise NonFiniteError(
            f"{what} is not finite at global step {trainer.global_step}, epoch {trainer.current_epoch}: "
            f"loss {', '.join(f'{value:.6g}' for value in values)}, gradient norm {norm.item():.6g}; stopped before "
            "the optimizer step, the parameters are those of the step before. "
            f"Samples: {', '.join(map(str, ids[:8]))}"
            f"{f' and {len(ids) - 8} more' if len(ids) > 8 else ''} (all in {path}). Look at these samples first, then "
            "lower the learning rate, lengthen the warm-up or use a wider precision."
        )


def _full(norm: Tensor) -> Tensor:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # only a DTensor has it


def _sample_ids(trainer: Trainer, batches: list[Any]) -> list[str | int]:
    """Return the names of the samples where the data has names, their indices elsewhere; padding left out."""
    indices = [index for batch in batches if batch is not None for index in batch.flatten().tolist() if index >= 0]
    records = getattr(getattr(trainer, "datamodule", None), "records", None)
    if records is None or "id" not in records:
        return indices
    names = records["id"]
    return [str(names.iloc[index]) if index < len(names) else index for index in indices]


def _write(trainer: Trainer, report: dict[str, Any]) -> Path:
    # Each rank has its own samples, and only one rank may have met the bad one.
    name = "nonfinite.json" if trainer.global_rank == 0 else f"nonfinite-rank{trainer.global_rank}.json"
    path = Path(trainer.default_root_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{name}.tmp")
    draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)
    return path
