"""A fit that begins with the weights of another run."""

import hashlib
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.checkpoint import read_checkpoint
from callbacks.report_files import write_json
from callbacks.report_text import BEGAN_WITH


class InitFrom(Callback):
    """Load the weights of a checkpoint before the first step; a run that is resumed keeps its own.

    Args:
        checkpoint: The checkpoint, of the same system, with the same shapes and the same classes or vocabulary.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights."""
        if trainer.ckpt_path is not None:
            return
        saved = read_checkpoint(self.checkpoint, "cpu")
        pl_module.on_load_checkpoint(saved)  # refuses another class map, or other shapes
        pl_module.load_state_dict(saved["state_dict"])
        rank_zero_info(f"weights of {self.checkpoint}")
        if trainer.is_global_zero:  # at once: a fit that is broken off and resumed still says where it began
            digest = hashlib.sha256(Path(self.checkpoint).read_bytes()).hexdigest()
            write_json(Path(trainer.default_root_dir) / BEGAN_WITH, {"checkpoint": self.checkpoint, "sha256": digest})
