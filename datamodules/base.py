"""What every datamodule shares: records, one class map, a split that comes from outside, exact loaders."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from datamodules.added_rows import check_added
from datamodules.audit import Finding
from datamodules.curriculum import Curriculum, class_ranks, entropies
from datamodules.errors import DataError
from datamodules.sample_weights import WeightedDataset, read_sample_weights
from datamodules.samplers import Batch, BatchLoader, BatchSampler, IndexBatch

IGNORE = -1  # no label, or a padding row: takes part in no loss and no metric
UNSEEN = -2  # a class that training never saw: takes part in no loss, and is an error in every metric


class SplitDataModule(LightningDataModule):
    """Records of a data source, one class map, and loaders that exist only once a split was applied.

    ``setup`` reads the records; the split callback then calls :meth:`apply_split`, and an augmentation may add training
    rows with :meth:`extend_train`. A subclass gives ``read_records``, ``dataset`` and what it can of ``lengths``,
    ``signatures``, ``difficulty``, ``baselines``, ``describe`` and ``rows_added``.

    Args:
        batch_size: Global batch size, over all processes.
        num_workers: Loader processes.
        bucket: Batches of similar length, where the data have lengths.
        balanced: Draw the training samples so that each class is equally likely.
        sample_weights: CSV (id, weight) of how much each training sample counts; only the proportions matter.
        predict_part: ``predict`` answers for this part of the run's own split, in place of new samples; never for test.
        curriculum: Easy training samples first.

    Attributes:
        originals: Number of records that were split, once rows were added behind them; ``None`` before.
    """

    source_classes: list[str]

    def __init__(
        self,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        bucket: bool = True,
        balanced: bool = False,
        sample_weights: str | None = None,
        predict_part: Literal["train", "val", "calib"] | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        super().__init__()
        if predict_part not in (None, "train", "val", "calib"):
            raise ValueError(f"predict_part={predict_part!r} must be train, val or calib; `test` judges the test part")
        self.batch_size, self.num_workers, self.bucket, self.balanced = batch_size, num_workers, bucket, balanced
        self.sample_weights, self.predict_part, self.curriculum = sample_weights, predict_part, curriculum
        self.originals: int | None = None
        self.records: pd.DataFrame | None = None
        self.table: pd.DataFrame | None = None
        self.class_names: list[str] = []
        self.y: np.ndarray | None = None

    # what a subclass gives

    def read_records(self) -> pd.DataFrame:
        """Read the source; columns id, group, hash, label, given (one row a sample); sets ``source_classes``."""
        raise TypeError(f"{type(self).__name__} must define read_records")

    def read_predict_records(self) -> pd.DataFrame:
        """Read the samples to predict; labels may be empty."""
        raise DataError(f"{type(self).__name__} was given nothing to predict: set --data.predict_path")

    def dataset(self, indices: np.ndarray, train: bool) -> Dataset[Batch]:
        """Return a dataset whose ``__getitems__`` makes a batch from an ``IndexBatch``."""
        raise TypeError(f"{type(self).__name__} must define dataset")

    def lengths(self) -> np.ndarray | None:
        """Return the real length of each record, or ``None``."""
        return None

    def signatures(self) -> np.ndarray | None:
        """Return a fixed-size vector per record (N, D) for the search for near-duplicates, or ``None``."""
        return None

    def findings(self) -> list[Finding]:
        """Return what was found while reading, for the audit."""
        return []

    def difficulty(self) -> np.ndarray:
        """Return how hard each record is (N,), for the curriculum; only training records need a number.

        Raises:
            DataError: The data cannot say what the curriculum asks for.
        """
        assert self.curriculum is not None
        lengths = self.lengths()
        if self.curriculum.predictions is not None:
            records = self._records()
            return entropies(self.curriculum.predictions, records["id"].tolist(), self._origins())
        if self.curriculum.difficulty == "length" and lengths is not None:
            return lengths.astype(float)
        raise DataError(f"{type(self).__name__} cannot say how hard a sample is by {self.curriculum.difficulty}: "
                        "choose another curriculum.difficulty")  # fmt: skip

    def rows_added(self, rows: pd.DataFrame | None) -> None:
        """Take what belongs to rows that were added behind the records, or forget all of them (``None``).

        Args:
            rows: The new rows with all their columns, such as ``vector``; they are the last of ``records``.
        """
        raise DataError(f"{type(self).__name__} cannot take added rows: leave the augmentation out")

    def content_hashes(self, rows: pd.DataFrame) -> list[str]:
        """Return the content hash of rows that an augmentation made, as ``read_records`` computes it."""
        raise DataError(f"{type(self).__name__} cannot take made texts: leave the augmentation out")

    def read_unlabelled(self, path: str) -> pd.DataFrame:
        """Read samples without labels, as records; ``group`` joins those that are known already."""
        raise DataError(f"{type(self).__name__} cannot read samples without labels: leave the pseudo-labels out")

    def vectors(self, indices: np.ndarray) -> np.ndarray:
        """Return fixed-size vectors (n, D) of some records, where the network takes such vectors."""
        raise DataError(f"{type(self).__name__} has no vectors to sample between: leave the oversampling out")

    def baselines(self, part: str) -> dict[str, np.ndarray | None]:
        """Return probabilities (n, C) on a part, by name of simple models fitted on train; ``None`` = not installed."""
        return {}

    def split_page(self, table: pd.DataFrame) -> tuple[str, dict[str, Any]]:
        """Return what a split lets a perfect model reach, as Markdown and as plain values, for the verb ``audit``."""
        return "", {}

    def write_parts(self, folder: Path, table: pd.DataFrame) -> dict[str, int]:
        """Write the parts of a split as files that can be given back as data; returns the records of each file."""
        raise DataError(f"{type(self).__name__} cannot write its parts as files: leave --write_split out")

    def facets(self) -> dict[str, np.ndarray]:
        """Return kinds of records (N,) that the report judges apart, by name, such as the region; "" = no kind."""
        return {}

    def class_levels(self) -> dict[str, list[str]]:
        """Return a coarser class for each class (C,), by name of the level, finest first; "" = none."""
        return {}

    def pictures(self, indices: np.ndarray) -> np.ndarray | None:
        """Return pictures (n, H, W, 3) uint8 of some records for the report, or ``None`` where there are none."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return plain facts about the data for the report."""
        return {"samples": len(self._records())}

    # what the house gives

    def setup(self, stage: str) -> None:
        """Read the records once; no split yet, and no added rows: only ``fit`` has them, made anew."""
        self._forget_added()
        if stage == "predict" and self.predict_part is None:
            self.records = self.read_predict_records()
        elif self.records is None:
            self.records = self.read_records()

    def apply_split(self, table: pd.DataFrame) -> None:
        """Take a split (id, group, hash, label, part; one row a record, same order) and make the class map from train.

        Raises:
            DataError: When the table is not about these records, or has no labelled training row.
        """
        records = self._records()
        if list(table["id"]) != list(records["id"]):
            raise DataError("the split table does not list the records of this data in order: make it anew")
        seen = set(table.loc[table["part"] == "train", "label"]) - {""}
        if not seen:
            raise DataError("the training part has no labelled sample: give it a larger fraction")
        self.table = table.reset_index(drop=True)
        self.class_names = [name for name in self.source_classes if name in seen]
        index = {name: i for i, name in enumerate(self.class_names)}
        self.y = np.array([index.get(label, UNSEEN if label else IGNORE) for label in records["label"]], dtype=np.int64)

    def extend_train(self, rows: pd.DataFrame) -> int:
        """Append rows to the training part; the split of the records stays as it was.

        Args:
            rows: See :func:`datamodules.added_rows.check_added`.

        Returns:
            How many were added.

        Raises:
            DataError: There is no split yet, or a row may not be trained on.
        """
        if self.table is None:
            raise DataError("no split was applied: rows are only made, from training records, after the split")
        if not len(rows):
            return 0
        records = self._records()
        rows = check_added(rows, records, self.table, self.class_names)
        if self.originals is None:
            self.originals = len(records)
            records = records.assign(augmented_from="", source="")
        self.records = pd.concat([records, rows.reindex(columns=records.columns, fill_value="")], ignore_index=True)
        listed = rows.assign(part="train")[list(self.table.columns)]
        self.table = pd.concat([self.table, listed], ignore_index=True)
        index = {name: i for i, name in enumerate(self.class_names)}
        self.y = np.concatenate([self._labels(), [index[label] for label in rows["label"]]])
        self.rows_added(rows)
        return len(rows)

    def _forget_added(self) -> None:
        if self.originals is None:
            return
        self.records = self._records().iloc[: self.originals].drop(columns=["augmented_from", "source"])
        self.table, self.y, self.originals = None, None, None
        self.rows_added(None)

    def _origins(self) -> list[str]:
        """For each record, the one that it was made from, or ""."""
        records = self._records()
        return records["augmented_from"].tolist() if self.originals is not None else [""] * len(records)

    @property
    def num_classes(self) -> int:
        """Number of classes that training sees."""
        return len(self.class_names)

    def class_counts(self, part: str) -> np.ndarray:
        """Return the number of samples of each class in a part (C,)."""
        y = self._labels()[self.indices(part)]
        return np.bincount(y[y >= 0], minlength=self.num_classes)

    def indices(self, part: str) -> np.ndarray:
        """Return the records of a part."""
        if self.table is None:
            raise DataError("no split was applied: the callback `split` has to run before any loader is made")
        return np.flatnonzero(self.table["part"].to_numpy() == part)

    def probe_batch(self, n: int) -> Batch:
        """Return the first ``n`` training samples as they are judged, without augmentation."""
        chosen = self.indices("train")[:n]
        batch = IndexBatch(chosen.tolist(), len(chosen), 1 / len(chosen), 0, 0)
        return self.dataset(self.indices("train"), train=False).__getitems__(batch)  # type: ignore[attr-defined]

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches, in a new order each epoch; samples without a label teach nothing."""
        indices = self.indices("train")
        return self._loader(indices[self._labels()[indices] >= 0], train=True)

    def val_dataloader(self) -> BatchLoader:
        """Return the validation batches, each sample once."""
        return self._loader(self._not_empty("val"), train=False)

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches, each sample once."""
        return self._loader(self._not_empty("test"), train=False)

    def calib_dataloader(self) -> BatchLoader:
        """Return the batches of the calibration part, each sample once."""
        return self._loader(self._not_empty("calib"), train=False)

    def predict_dataloader(self) -> BatchLoader:
        """Return all samples to predict, or those of ``predict_part``, each once."""
        if self.predict_part is not None:
            return self._loader(self._not_empty(self.predict_part), train=False)
        return self._loader(np.arange(len(self._records())), train=False)

    def _loader(self, indices: np.ndarray, train: bool) -> BatchLoader:
        trainer = self.trainer
        lengths, y = self.lengths() if self.bucket else None, self._labels()[indices] if train else None
        sampler = BatchSampler(
            indices,
            self.batch_size,
            lengths=None if lengths is None else lengths[indices],
            weights=self._balance(indices) if train and self.balanced else None,
            shuffle=train,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            accumulate=trainer.accumulate_grad_batches if trainer and train else 1,
            curriculum=self.curriculum if train else None,
            ranks=class_ranks(self.difficulty()[indices], y) if self.curriculum and y is not None else None,
        )
        dataset = self.dataset(indices, train)
        if train and self.sample_weights is not None:
            dataset = WeightedDataset(dataset, self._sample_weights(self.sample_weights, indices))
        return BatchLoader(dataset, sampler, self.num_workers, torch.cuda.is_available())

    def _sample_weights(self, path: str, indices: np.ndarray) -> np.ndarray:
        """(N,) weight of each record; 1 for those that are not trained on."""
        ids, origins = self._records()["id"].tolist(), self._origins()
        weights = np.ones(len(ids), np.float32)
        weights[indices] = read_sample_weights(path, [ids[i] for i in indices], [origins[i] for i in indices])
        return weights

    @property
    def seed(self) -> int:
        """Seed of the run (``--seed_everything``), which Lightning keeps in the environment."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def _balance(self, indices: np.ndarray) -> np.ndarray:
        y = self._labels()[indices]
        counts = np.bincount(y[y >= 0], minlength=self.num_classes)
        return np.where(y >= 0, 1.0 / np.maximum(counts[np.maximum(y, 0)], 1), 0.0)

    def _not_empty(self, part: str) -> np.ndarray:
        indices = self.indices(part)
        if not len(indices):
            raise DataError(f"the {part} part of the split is empty: give --split.{part} a larger fraction")
        return indices

    def _records(self) -> pd.DataFrame:
        if self.records is None:
            raise DataError("the records were not read yet: setup has to run first")
        return self.records

    def _labels(self) -> np.ndarray:
        if self.y is None:
            raise DataError("no split was applied: the callback `split` has to run before labels are used")
        return self.y
