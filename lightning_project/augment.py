"""The verb `augment`: make the rows of an augmentation and write them to a file, without training."""

from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.augmentation import Augmentation
from callbacks.report_files import write_csv, write_json
from callbacks.stratified_split import StratifiedSplit
from datamodules.base import SplitDataModule
from lightning_project.exits import UsageError
from lightning_project.run_folder import KeepRun

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from modules.base import System


def augment(self: "Trainer", model: "System", datamodule: SplitDataModule) -> None:
    """Make the rows that a fit would add to its training part, and write them; what is slow is kept for the fit.

    Args:
        self: The Trainer.
        model: Not used, but part of every config.
        datamodule: The data.

    Raises:
        UsageError: The config names no method.
    """
    callbacks = self.callbacks  # type: ignore[attr-defined]
    split = next(callback for callback in callbacks if isinstance(callback, StratifiedSplit))
    augmentation = next(callback for callback in callbacks if isinstance(callback, Augmentation))
    if not augmentation.methods:
        raise UsageError("there is nothing to make: name methods under `augmentation` in the config")
    datamodule.trainer = self
    self.datamodule = datamodule  # type: ignore[attr-defined]
    datamodule.setup("fit")
    table = split.draw(datamodule)
    split.check(datamodule, table)
    datamodule.apply_split(table)
    rows = augmentation.extend(datamodule)
    next(callback for callback in callbacks if isinstance(callback, KeepRun)).keep()
    folder = Path(self.default_root_dir) / "augment"
    print(f"written: {write_csv(folder / 'augmented.csv', rows)} ({len(rows)} rows)")
    print(f"written: {write_json(folder / 'counts.json', augmentation.counts)}")
