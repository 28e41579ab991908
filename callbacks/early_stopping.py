"""Early stopping that says in one sentence why training ended."""

import sys
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from callbacks.gradient_clipping import NonFiniteError


class EarlyStopping(LightningEarlyStopping):
    """Stop when a metric has not improved for a number of validations; the report prints ``reason``.

    An improvement is strictly better than the best so far by more than ``min_delta``; a tie is none. A metric that is
    not finite stops training at once. Best value, best epoch and the count are kept in checkpoints, the settings
    are those of the running config. Epochs count from 0, as in the logs.

    Args:
        monitor: Logged metric; an unknown name is an error that lists the known ones.
        mode: Whether the metric should become larger (``max``) or smaller (``min``).
        patience: Validations without improvement before stopping; ``None`` never stops but still tracks the best.
        min_delta: What counts as an improvement, in units of the metric.
        start_epoch: First epoch whose misses count; earlier improvements are tracked.

    Attributes:
        reason: Why training ended; empty while it runs.
        best_epoch: Epoch of the best value, -1 before the first.

    Raises:
        ValueError: For a patience below 1, a negative ``min_delta`` or a negative ``start_epoch``.
    """

    def __init__(
        self,
        monitor: str = "val/macro_f1",
        mode: Literal["min", "max"] = "max",
        patience: int | None = 8,
        min_delta: float = 0.0,
        start_epoch: int = 0,
    ) -> None:
        if (patience is not None and patience < 1) or min_delta < 0 or start_epoch < 0:
            raise ValueError(
                "early stopping needs patience >= 1 or null, min_delta >= 0 and start_epoch >= 0; "
                f"got {patience}, {min_delta} and {start_epoch}"
            )
        # Validation metrics are judged right after validation, so that a checkpoint written next holds the new count.
        super().__init__(
            monitor,
            mode=mode,
            patience=sys.maxsize if patience is None else patience,
            min_delta=min_delta,
            check_on_train_epoch_end=not monitor.startswith("val"),
        )
        self.start_epoch = start_epoch
        self.reason = ""
        self.best_epoch = -1
        self._epoch = 0

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find a wrong metric name before the first epoch is paid for."""
        if self.monitor.startswith("val") and trainer.callback_metrics:
            self._validate_condition_metric(trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why training ended."""
        self.reason = self._reason(trainer) + self._best()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what ended training early."""
        if isinstance(exception, NonFiniteError):
            what = f"non-finite: stopped before global step {trainer.global_step}, epoch {trainer.current_epoch}"
        elif isinstance(exception, KeyboardInterrupt):
            what = f"interrupted at epoch {trainer.current_epoch}"
        else:
            what = f"failed at epoch {trainer.current_epoch} with {type(exception).__name__}"
        self.reason = what + self._best()

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the best value, plain numbers and one tensor."""
        return {**super().state_dict(), "best_score": self.best_score.cpu(), "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count and the best value; the patience stays that of the running config."""
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience
        self.best_epoch = state_dict["best_epoch"]
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED  # a resumed run runs

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        self._epoch = trainer.current_epoch
        super()._run_early_stopping_check(trainer)

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        best = self.best_score
        should_stop, reason = super()._evaluate_stopping_criteria(current)
        if self.best_score is not best:
            # A copy: the logged tensor is the logger's, and lives on the device.
            self.best_score, self.best_epoch = self.best_score.detach().clone(), self._epoch
        elif self._epoch < self.start_epoch and bool(torch.isfinite(current)):
            self.wait_count, self.stopping_reason = 0, EarlyStoppingReason.NOT_STOPPED
            return False, None
        return should_stop, reason

    def _reason(self, trainer: Trainer) -> str:
        if self.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            return f"non-finite: {self.monitor} at epoch {self.stopped_epoch}"
        if self.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
            return f"{self.monitor} did not improve for {self.wait_count} validations"
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
            return f"ran all {trainer.max_epochs} epochs"
        if 0 <= trainer.max_steps <= trainer.global_step:
            return f"ran all {trainer.max_steps} steps"
        return f"stopped from outside after epoch {trainer.current_epoch}"

    def _best(self) -> str:
        return "" if self.best_epoch < 0 else f"; best {self.best_score.item():.4g} at epoch {self.best_epoch}"
