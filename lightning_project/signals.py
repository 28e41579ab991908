"""Ctrl-C and SIGTERM in a fit: finish the step, save `last.ckpt`, stop with the exit code of the signal."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.checkpoint import Checkpoint


class SaveOnSignal(Callback):
    """Stop between two steps, where a checkpoint can be resumed exactly; a second Ctrl-C stops at once.

    With several processes nothing is saved, for they may be a step apart: ``last.ckpt`` is then that of the last epoch.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take note of the first Ctrl-C instead of stopping in the middle of a step."""
        if threading.current_thread() is threading.main_thread() and trainer.world_size == 1:
            self._before = signal.signal(signal.SIGINT, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save and stop, when asked to."""
        if trainer.world_size > 1 or not (self._interrupted or trainer.received_sigterm):
            return
        trainer.save_checkpoint(next(c for c in trainer.callbacks if isinstance(c, Checkpoint)).last_path)  # type: ignore[attr-defined]
        raise KeyboardInterrupt if self._interrupted else SIGTERMException

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give Ctrl-C back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        rank_zero_info("Ctrl-C: saving last.ckpt after this step; once more stops at once")
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
