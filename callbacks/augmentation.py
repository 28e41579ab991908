"""Adds made rows to the training part, after the split and only for training."""

from pathlib import Path

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.report_files import write_csv
from datamodules.base import SplitDataModule
from datamodules.errors import DataError

_FIRST = ["method", "id", "augmented_from", "source", "label"]


class Augmenter:
    """Makes rows to train on from the training part of some data.

    Attributes:
        counts: How many rows were made, and how many were dropped for what reason; filled by ``rows``.
    """

    counts: dict[str, int]

    def rows(self, data: SplitDataModule) -> pd.DataFrame:
        """Return rows for ``SplitDataModule.extend_train``; the data are left as they are."""
        raise TypeError(f"{type(self).__name__} must define rows")


class Augmentation(Callback):
    """Runs augmentation methods between the split and the building of the network; only a fit has their rows.

    The split never changes: what is judged is never made, and nothing is made from what is judged. The rows are kept
    in `augmented.csv` of the run folder.

    Args:
        methods: What makes the rows, one after the other; a method sees the rows of those before it.

    Attributes:
        counts: By method, what it made and dropped.
    """

    def __init__(self, methods: list[Augmenter] | None = None) -> None:
        super().__init__()
        self.methods = list(methods or [])
        self.counts: dict[str, dict[str, int]] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Add the rows at the start of a fit."""
        if stage != "fit" or not self.methods:
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, SplitDataModule):
            raise DataError("Augmentation needs a datamodule that holds records; pass one to the trainer")
        made = self.extend(data)
        if trainer.is_global_zero:
            write_csv(Path(trainer.default_root_dir) / "augmented.csv", made)

    def extend(self, data: SplitDataModule) -> pd.DataFrame:
        """Make the rows, add them to the training part, and say how many.

        Returns:
            All rows with the column ``method``, without vectors.
        """
        made: list[pd.DataFrame] = []
        self.counts = {}
        for place, method in enumerate(self.methods):
            name = type(method).__name__
            name = name if name not in self.counts else f"{name}-{place}"
            rows = method.rows(data)
            added = data.extend_train(rows)
            self.counts[name] = {"added": added, **method.counts}
            detail = ", ".join(f"{key} {count}" for key, count in method.counts.items())
            rank_zero_info(f"augmentation: {name} added {added} training rows ({detail})")
            made.append(rows.assign(method=name).drop(columns="vector", errors="ignore"))
        table = pd.concat(made, ignore_index=True) if made else pd.DataFrame()
        table = table.reindex(columns=list(dict.fromkeys([*_FIRST, *table.columns])))
        return table.fillna("")
