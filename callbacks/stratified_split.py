"""Draw the split, or read the run's, audit it, and hand it to the datamodule before anything is built on it."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from datamodules.audit import AuditReport, Finding, audit
from datamodules.base import SplitDataModule
from datamodules.errors import DataError
from datamodules.folds import make_folds
from datamodules.splits import make_split, read_split, split_hash, write_split


class StratifiedSplit(Callback):
    """Own the split of a run: stratified, group-aware, written once, never drawn again.

    ``fit`` draws the table (or reads ``path``, or the run's own table when it resumes), audits it and writes
    ``split.csv`` into the run folder. ``validate`` and ``test`` read the run's table, ``predict`` needs none. Every
    process computes the same table; rank 0 writes. The hash of the table is in the checkpoint, and resuming with
    another split is refused.

    Args:
        train: Fraction of the records (of their groups, class by class) to train on.
        val: Fraction to choose epochs and settings on.
        calib: Fraction to fit temperatures and thresholds on; 0 leaves the part out.
        test: Fraction that only ``test`` opens.
        seed: Seed of the draw, apart from the seed of training.
        group_aware: Keep groups (recordings, signers) in one part. False splits row by row.
        path: An existing ``split.csv`` to use instead of drawing one.
        use_given: Keep the parts that the data source states; the rest is carved out of its train part.
        on_leak: What a leak does: stop with a ``DataError``, or only warn.
        near_duplicates: Search for near-identical samples across parts, where the data offer signatures.
        folds: Cross-validation: number of folds, each of them once the test part (one run each); 0 draws one split.
        fold: The fold that is this run's test part, from 0.
        rounding: How the groups of a class are divided: to the nearest, or ``down`` for every part but train, which
            with 0.8, 0.1 and 0.1 is the long-tail rule of the plants brief.

    Attributes:
        table: The split table, after ``setup``.
        report: The audit of the table.
    """

    def __init__(
        self,
        train: float = 0.64,
        val: float = 0.16,
        calib: float = 0.0,
        test: float = 0.20,
        seed: int = 42,
        group_aware: bool = True,
        path: str | None = None,
        use_given: bool = True,
        on_leak: Literal["error", "warn"] = "error",
        near_duplicates: bool = True,
        folds: int = 0,
        fold: int = 0,
        rounding: Literal["nearest", "down"] = "nearest",
    ) -> None:
        super().__init__()
        if folds < 0 or folds == 1 or not 0 <= fold < max(folds, 1):
            raise ValueError(f"folds={folds} must be 0 or at least 2, and fold={fold} one of them, counted from 0")
        if folds and path is not None:
            raise ValueError("folds and path exclude each other: the file of a split states all its parts")
        if on_leak not in ("error", "warn"):
            raise ValueError(f"on_leak must be 'error' or 'warn', got {on_leak!r}")
        self.fractions = {"train": train, "val": val, "calib": calib, "test": test}
        self.seed = seed
        self.group_aware = group_aware
        self.path = path
        self.use_given = use_given
        self.on_leak = on_leak
        self.near_duplicates = near_duplicates
        if rounding not in ("nearest", "down"):
            raise ValueError(f"rounding must be 'nearest' or 'down', got {rounding!r}")
        self.folds, self.fold, self.rounding = folds, fold, rounding
        self.table: pd.DataFrame | None = None
        self.report: AuditReport | None = None
        self._resumed_hash: str | None = None
        self._reloaded = False

    @property
    def findings(self) -> list[Finding]:
        """What the audit found, leaks first; empty before ``setup``."""
        return self.report.findings if self.report else []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Split before the module reads sizes and classes from the data."""
        data = getattr(trainer, "datamodule", None)
        if stage == "predict" and getattr(data, "predict_part", None) is None:
            return
        if data is None:
            raise DataError("StratifiedSplit needs a datamodule that holds records; pass one to the trainer")
        kept = Path(trainer.default_root_dir) / "split.csv"
        if stage == "fit":
            table = self._fit_table(data, kept)
        else:
            table = self._run_table(data, kept)
        self._compare(split_hash(table))
        fresh = self.table is None or split_hash(self.table) != split_hash(table)
        self.table = table
        if fresh or self.report is None:
            self.check(data, table)
        data.apply_split(table)
        if stage == "fit" and trainer.is_global_zero and not kept.exists():
            write_split(table, kept)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a new run in the folder of an old one with another split.

        Whether a run is resumed is not known in ``setup``: checkpoints are read after it.
        """
        if self._reloaded and self._resumed_hash is None and self.table is not None:
            data = trainer.datamodule  # type: ignore[attr-defined]  # set by the trainer's data connector
            self._same_as_kept(self.draw(data), self.table, Path(trainer.default_root_dir) / "split.csv")

    def draw(self, data: SplitDataModule) -> pd.DataFrame:
        """Make the table that a new run would get: from ``path``, or drawn. The verb ``audit`` calls this."""
        if self.path is not None:
            return read_split(self.path, _records(data))
        records = _records(data) if self.use_given else _records(data).assign(given="")
        settings: Any = {"fractions": self.fractions, "seed": self.seed, "group_aware": self.group_aware}
        if self.folds:
            return make_folds(records, folds=self.folds, fold=self.fold, **settings)
        return make_split(records, rounding=self.rounding, **settings)

    def check(self, data: SplitDataModule, table: pd.DataFrame, raise_on_leak: bool = True) -> AuditReport:
        """Audit a table of these data.

        Raises:
            DataError: A leak was found and ``on_leak`` is "error".
        """
        signatures = data.signatures() if self.near_duplicates else None
        names = getattr(data, "source_classes", None) or data.class_names  # class_names are those of train, once split
        self.report = audit(_records(data), table, signatures, names, data.findings())
        for finding in self.report.findings:
            if finding.severity == "warning":
                rank_zero_info(f"audit: {finding}")
        if self.report.leaks and raise_on_leak:
            text = "\n".join(f"- {finding}" for finding in self.report.leaks)
            if self.on_leak == "error":
                raise DataError(f"the split leaks:\n{text}\nTo train all the same, set split.on_leak to warn.")
            rank_zero_warn(f"the split leaks, its numbers cannot be trusted:\n{text}")
        return self.report

    def state_dict(self) -> dict[str, Any]:
        """The hash of the table, for the checkpoint."""
        return {"split_hash": split_hash(self.table)} if self.table is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint of another split."""
        self._resumed_hash = state_dict.get("split_hash")
        if self.table is not None:
            self._compare(split_hash(self.table))

    def _fit_table(self, data: SplitDataModule, kept: Path) -> pd.DataFrame:
        self._reloaded = kept.exists() and self.path is None
        if self._reloaded:  # a resumed run, most likely; on_train_start knows
            return read_split(kept, _records(data))
        table = self.draw(data)
        if kept.exists():
            self._same_as_kept(table, read_split(kept, _records(data)), kept)
        return table

    def _same_as_kept(self, table: pd.DataFrame, run: pd.DataFrame, kept: Path) -> None:
        if split_hash(table) != split_hash(run):
            raise DataError(
                f"{kept} holds another split than the one asked for; give this run another folder, resume the old one "
                "with --ckpt_path last, or remove the file"
            )

    def _run_table(self, data: SplitDataModule, kept: Path) -> pd.DataFrame:
        if kept.exists():
            table = read_split(kept, _records(data))
            if self.path is not None and split_hash(read_split(self.path, _records(data))) != split_hash(table):
                raise DataError(f"{self.path} differs from the split this run was trained on, {kept}; leave path out")
            return table
        if self.path is None:
            raise DataError(f"{kept} does not exist: a run is judged on the split it was trained with, never on a new "
                            "one; use the run's own folder, or give the split.csv as path")  # fmt: skip
        return read_split(self.path, _records(data))

    def _compare(self, current: str) -> None:
        if self._resumed_hash is not None and self._resumed_hash != current:
            raise DataError(
                f"resume with another split: the checkpoint comes from split {self._resumed_hash[:12]}, this run has "
                f"{current[:12]}; use the run's own split.csv (path) and its data"
            )


def _records(data: SplitDataModule) -> pd.DataFrame:
    if data.records is None:
        raise DataError(f"{type(data).__name__} has read no records; its setup must run before the split")
    return data.records.iloc[: getattr(data, "originals", None)]  # rows that were added later belong to no split
