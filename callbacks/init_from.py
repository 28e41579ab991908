"""A fit that begins with the weights of another run."""

import hashlib
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.checkpoint import read_checkpoint


class InitFrom(Callback):
    """Load the weights of a checkpoint before the first step; a run that is resumed keeps its own.

    Args:
        checkpoint: The checkpoint, of the same system, with the same shapes and the same classes or vocabulary.

    Attributes:
        sha256: Hash of the checkpoint, once it was read: the run's report names both.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.sha256 = ""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights."""
        if trainer.ckpt_path is not None:
            return
        saved = read_checkpoint(self.checkpoint, "cpu")
        self.sha256 = hashlib.sha256(Path(self.checkpoint).read_bytes()).hexdigest()
        pl_module.on_load_checkpoint(saved)  # refuses another class map, or other shapes
        pl_module.load_state_dict(saved["state_dict"])
        rank_zero_info(f"weights of {self.checkpoint}")
