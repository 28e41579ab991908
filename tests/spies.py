"""Callbacks that tests add to a run by their class path."""

import os
import signal

from lightning.pytorch import Callback, LightningModule, Trainer


class Kill(Callback):
    """Kill this process right after an optimizer step, as a machine that goes down would.

    Args:
        step: Optimizer steps taken before the end.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
