"""Sign and gesture sequences of variable length: a file, or the embedded synthetic data."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from datamodules.base import IGNORE, SplitDataModule
from datamodules.baselines import Predict, fit_extra_trees, fit_majority, fit_minirocket, has_minirocket, resample
from datamodules.curriculum import Curriculum
from datamodules.errors import DataError
from datamodules.samplers import Batch, IndexBatch
from datamodules.sequences import SequenceTransform
from datamodules.signs_file import SignsArrays, read_signs
from datamodules.synthetic.signs import CLASS_NAMES, make_signs

SIGNATURE_FRAMES = 16


class SignsData(SplitDataModule):
    """Sequences of frames, one label each.

    A sequence goes through the augmentations (training side only, on the values of the file), then through the features
    (always), and keeps at most `max_len` frames, evenly picked. Prediction uses the same features.

    Batch: `x` (B, T, input_dim) float32, T the longest of the batch; `mask` (B, T) bool, True = real frame; `id`, `y`,
    `weight` as every batch.

    Args:
        path: An `.npz` file (see `signs_file`); None is the embedded synthetic data, never a stand-in for a file that
            cannot be read.
        predict_path: An `.npz` file to predict; it needs no labels.
        label_key: Key of the class indices in the file.
        group_key: Key of what may not be on two sides of a split, such as the performer.
        features: Transforms without randomness, each with `output_dim(input_dim)`.
        augmentations: Random transforms, keyed by (seed, epoch, record): the same for any number of workers.
        max_len: Most frames that a network sees; None is the length of the longest sequence.
        synthetic_samples: Number of synthetic sequences (without `path`).
        synthetic_seed: Seed of the synthetic data (without `path`).
        synthetic_noise: Strength of the synthetic noise (without `path`).
        minirocket: Fit the MiniRocket baseline too, when aeon is installed; about half a minute for 2,000 sequences.
        batch_size: Global batch size, over all processes.
        num_workers: Loader processes.
        bucket: Batches of similar length.
        balanced: Draw the training samples so that each class is equally likely.
        sample_weights: CSV (id, weight) of how much each training sample counts.
        predict_part: ``predict`` answers for this part of the run's own split, in place of `predict_path`.
        curriculum: Easy (short) training samples first.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        predict_path: str | None = None,
        label_key: str = "y",
        group_key: str = "groups",
        features: list[Callable] | None = None,
        augmentations: list[Callable] | None = None,
        max_len: int | None = None,
        synthetic_samples: int = 868,
        synthetic_seed: int = 0,
        synthetic_noise: float = 1.0,
        minirocket: bool = True,
        batch_size: int = 32,
        num_workers: int = 0,
        bucket: bool = True,
        balanced: bool = False,
        sample_weights: str | None = None,
        predict_part: Literal["train", "val", "calib"] | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            bucket=bucket,
            balanced=balanced,
            sample_weights=sample_weights,
            predict_part=predict_part,
            curriculum=curriculum,
        )
        if max_len is not None and max_len < 1:
            raise ValueError(f"max_len={max_len} must be at least 1")
        self.path, self.predict_path, self.label_key, self.group_key = path, predict_path, label_key, group_key
        self.features: list[SequenceTransform] = list(features or [])
        self.augmentations: list[SequenceTransform] = list(augmentations or [])
        self.synthetic_samples, self.synthetic_seed = synthetic_samples, synthetic_seed
        self.synthetic_noise, self.minirocket = synthetic_noise, minirocket
        # Known after setup when not given. Before predicting with a trained network, set it to what that network takes.
        self.max_len: int | None = max_len
        self.input_dim: int | None = None
        self._arrays: SignsArrays | None = None
        self._featured: dict[int, np.ndarray] = {}  # record -> (T, input_dim) without augmentation
        self._fitted: dict[str, Predict] = {}

    def read_records(self) -> pd.DataFrame:
        """Read and check the file, or generate the synthetic data."""
        arrays = self._synthetic() if self.path is None else read_signs(self.path, self.label_key, self.group_key)
        self._take(arrays)
        names = arrays.class_names or []
        self.source_classes = names
        labels = [names[i] for i in (arrays.y if arrays.y is not None else [])]
        return _records(arrays, labels, arrays.split)

    def read_predict_records(self) -> pd.DataFrame:
        """Read the file to predict; labels in it are left alone."""
        if self.predict_path is None:
            return super().read_predict_records()
        arrays = read_signs(self.predict_path, labels=False)
        self._take(arrays)
        self.table, self.y = None, None  # a split of the training data says nothing about these records
        return _records(arrays, [""] * len(arrays), None)

    def apply_split(self, table: pd.DataFrame) -> None:
        """Take a split; baselines that were fitted on another one are forgotten."""
        super().apply_split(table)
        self._fitted = {}

    def dataset(self, indices: np.ndarray, train: bool) -> Dataset[Batch]:
        """Return the dataset of some records; features that nothing random precedes are computed here, once."""
        arrays = self._read()
        augmentations = self.augmentations if train else []
        if not augmentations:
            for i in set(indices.tolist()) - self._featured.keys():
                self._featured[i] = self._features(i)
        y = self.y if self.y is not None else np.full(len(arrays), IGNORE)
        fixed = None if augmentations else self._featured
        return SignsDataset(arrays, y, self.features, augmentations, fixed, self.max_len or 1, self.seed)

    def lengths(self) -> np.ndarray:
        """(N,) frames of each record, at most `max_len`."""
        return np.minimum(self._read().lengths, self.max_len or 1)

    def signatures(self) -> np.ndarray:
        """(N, 16 F) float32: 16 frames of each sequence of the file, one after the other."""
        sequences = self._sequences(range(len(self._read())))
        return resample(sequences, SIGNATURE_FRAMES).reshape(len(sequences), -1)

    def baselines(self, part: str) -> dict[str, np.ndarray | None]:
        """Return probabilities (n, num_classes) on a part, by models fitted on the training part alone."""
        if not self._fitted:
            rows = self.indices("train")
            rows = rows[self._labels()[rows] >= 0]
            known, y, jobs = self._sequences(rows), self._labels()[rows], torch.get_num_threads()
            self._fitted["majority"] = fit_majority(y, self.num_classes)
            self._fitted["extra_trees"] = fit_extra_trees(known, y, self.num_classes, jobs=jobs)
            if self.minirocket and has_minirocket():
                self._fitted["minirocket"] = fit_minirocket(known, y, self.num_classes, jobs=jobs)
        chosen = self._sequences(self.indices(part))
        found: dict[str, np.ndarray | None] = {name: model(chosen) for name, model in self._fitted.items()}
        return found | ({"minirocket": None} if self.minirocket and not has_minirocket() else {})

    def describe(self) -> dict[str, Any]:
        """Return plain facts about the data for the report."""
        arrays, records = self._read(), self._records()
        quantiles = dict(zip(("min", "5 %", "median", "95 %", "max"), (0, 0.05, 0.5, 0.95, 1), strict=True))
        return {
            "source": arrays.path,
            "samples": len(arrays),
            "groups": int(records["group"].nunique()),
            "frames": len(arrays.frames),
            "length": {name: float(np.quantile(arrays.lengths, q)) for name, q in quantiles.items()},
            "values_per_frame": arrays.frames.shape[1],
            "input_dim": self.input_dim,
            "max_len": self.max_len,
            "features": [type(f).__name__ for f in self.features],
            "augmentations": [type(f).__name__ for f in self.augmentations],
        }

    def _synthetic(self) -> SignsArrays:
        made = make_signs(self.synthetic_samples, self.synthetic_seed, self.synthetic_noise)
        offsets = np.concatenate([[0], np.cumsum([len(x) for x in made.x])]).astype(np.int64)
        source = f"synthetic (generated, seed {self.synthetic_seed})"
        return SignsArrays(source, np.concatenate(made.x), offsets, made.ids, made.y, CLASS_NAMES, made.groups)

    def _take(self, arrays: SignsArrays) -> None:
        """Keep the sequences; check the transforms on the longest one and learn the sizes from it."""
        self._arrays, self._featured, self._fitted = arrays, {}, {}
        longest = int(np.argmax(arrays.lengths))
        width = arrays.frames.shape[1]
        try:
            for transform in self.features:
                if not hasattr(transform, "output_dim"):
                    raise ValueError(
                        f"{type(transform).__name__} has no output_dim: it belongs to --data.augmentations"
                    )
                width = transform.output_dim(width)
            apply(self.augmentations, arrays.sequence(longest), np.random.default_rng(0))
            out = self._features(longest)
        except ValueError as error:
            raise DataError(f"{arrays.path}: the transforms do not fit these frames: {error}") from error
        if out.shape[1] != width:
            raise DataError(f"the features make {out.shape[1]} values a frame, but their output_dim says {width}")
        self.input_dim = width
        self.max_len = self.max_len or len(out)

    def _features(self, index: int) -> np.ndarray:
        """(T, input_dim) of one record, as it is judged."""
        arrays = self._read()
        out = apply(self.features, arrays.sequence(index), np.random.default_rng(0))
        if not np.isfinite(out).all():
            raise DataError(
                f"{arrays.path}: the features of {arrays.ids[index]} are not finite; leave this sequence out"
            )
        return out

    def _sequences(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        return [self._read().sequence(int(i)) for i in rows]

    def _read(self) -> SignsArrays:
        if self._arrays is None:
            raise DataError("the sequences were not read yet: setup has to run first")
        return self._arrays


class SignsDataset(Dataset[Batch]):
    """Makes padded batches of sequences.

    Args:
        arrays: All sequences.
        y: (N,) class index of each record.
        features: See `SignsData`.
        augmentations: Applied before the features; empty on the judging side.
        fixed: Ready features by record; None computes them for each batch.
        max_len: Most frames of a sequence.
        seed: Seed of the run.
    """

    def __init__(
        self,
        arrays: SignsArrays,
        y: np.ndarray,
        features: Sequence[SequenceTransform],
        augmentations: Sequence[SequenceTransform],
        fixed: dict[int, np.ndarray] | None,
        max_len: int,
        seed: int,
    ) -> None:
        self.arrays, self.y, self.fixed, self.max_len, self.seed = arrays, y, fixed, max_len, seed
        self.transforms = [*augmentations, *features]

    def __getitems__(self, batch: IndexBatch) -> Batch:
        """Return `x`, `mask`, `y`, `id`, `weight` of some records, padded to the longest of them."""
        sequences = [self._sequence(i, batch.epoch) for i in batch.indices]
        lengths = np.array([len(s) for s in sequences])
        mask = np.arange(lengths.max()) < lengths[:, None]
        x = np.zeros((*mask.shape, sequences[0].shape[1]), dtype=np.float32)
        x[mask] = np.concatenate(sequences)
        rows = np.array(batch.indices, dtype=np.int64)
        real = np.arange(len(rows)) < batch.real
        return {
            "x": torch.from_numpy(x),
            "mask": torch.from_numpy(mask),
            "y": torch.from_numpy(np.where(real, self.y[rows], IGNORE)),
            "id": torch.from_numpy(np.where(real, rows, -1)),
            "weight": torch.from_numpy(np.where(real, batch.weight, 0).astype(np.float32)),
        }

    def _sequence(self, index: int, epoch: int) -> np.ndarray:
        """(T, input_dim) float32 of one record, at most `max_len` frames."""
        if self.fixed is not None:
            out = self.fixed[index]
        else:
            rng = np.random.default_rng([self.seed, epoch, index])
            out = apply(self.transforms, self.arrays.sequence(index), rng)
        if len(out) > self.max_len:
            out = out[np.linspace(0, len(out) - 1, self.max_len).round().astype(int)]
        return out


def apply(transforms: Sequence[SequenceTransform], sequence: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, F) through all transforms, in order; the input is never written to."""
    if not transforms:
        return sequence
    x = torch.from_numpy(sequence)
    for transform in transforms:
        x = transform(x, rng)
    return x.numpy()


def _records(arrays: SignsArrays, labels: list[str], given: list[str] | None) -> pd.DataFrame:
    columns = {
        "id": arrays.ids,
        "group": arrays.groups or arrays.ids,
        "hash": arrays.hashes(),
        "label": labels,
        "given": given or [""] * len(arrays),
    }
    return pd.DataFrame(columns, dtype=str)
