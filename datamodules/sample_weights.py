"""A training weight for each sample, from a file."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.samplers import Batch, IndexBatch


def read_sample_weights(path: str, ids: Sequence[str], origins: Sequence[str] | None = None) -> np.ndarray:
    """Read the weights of the training samples; other lines of the file are left alone.

    Args:
        path: CSV with the columns id and weight.
        ids: n names of training samples.
        origins: For each, the sample that it was made from, or "": it weighs what its origin does, unless listed.

    Returns:
        (n,) float32 of mean 1, so that the learning rate keeps its meaning.

    Raises:
        DataError: Naming the line or the sample.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as sample weights ({error}); columns id and weight") from error
    missing = [name for name in ("id", "weight") if name not in table.columns]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; sample weights have the columns id and weight")
    weight = pd.to_numeric(table["weight"], errors="coerce").to_numpy(float)
    bad = ~np.isfinite(weight) | (weight < 0) | table["id"].duplicated().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"{path}, line {row + 2}: {table['id'].iat[row]!r} with weight {table['weight'].iat[row]!r}; "
                        "every id once, with a number of at least 0")  # fmt: skip
    known = dict(zip(table["id"], weight.tolist(), strict=True))
    made_from = origins if origins is not None else [""] * len(ids)
    found = np.array([known.get(name, known.get(old, np.nan)) for name, old in zip(ids, made_from, strict=True)])
    absent = np.flatnonzero(np.isnan(found))
    if len(absent):
        raise DataError(f"{path}: no weight for training sample {ids[int(absent[0])]!r} ({len(absent)} have none); "
                        "list every sample of the training part")  # fmt: skip
    if not found.sum() > 0:
        raise DataError(f"{path}: the weights of the training samples are all 0")
    return np.asarray(found / found.mean(), dtype=np.float32)


class WeightedDataset(Dataset[Batch]):
    """Multiplies the ``weight`` of each batch by the weights of its samples.

    Args:
        dataset: Makes the batches.
        weights: (N,) one weight a record.
    """

    def __init__(self, dataset: Dataset[Batch], weights: np.ndarray) -> None:
        self.dataset, self.weights = dataset, torch.from_numpy(weights)

    def __getitems__(self, batch: IndexBatch) -> Batch:
        """Return the batch of the dataset, weighted."""
        found: Batch = self.dataset.__getitems__(batch)  # type: ignore[attr-defined]
        return {**found, "weight": found["weight"] * self.weights[torch.tensor(batch.indices)]}
