"""What teachers said about the training pictures: stored predictions, combined, one row for each record."""

from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.predictions import read_probabilities
from datamodules.samplers import Batch, IndexBatch


class Teachers:
    """Where the predictions of teachers are, and how they are combined.

    Args:
        files: Each a `predict/predictions_train.npz` of a run (fit the run, then `predict --data.predict_part train`),
            or its predictions.csv. Samples are found by their ids, classes by their names.
        weights: Weight of each file; None weighs all the same. Only the proportions matter.
        least_hits: Least share of the training samples that a teacher has to know.

    Raises:
        ValueError: Other numbers of files and weights, a weight below 0, or none above.
    """

    def __init__(self, files: list[str], weights: list[float] | None = None, least_hits: float = 0.99) -> None:
        weights = weights if weights is not None else [1.0] * len(files)
        if not files or len(weights) != len(files) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"teachers need files, and for each a weight of at least 0, not all 0: got {len(files)} "
                             f"files and {weights}")  # fmt: skip
        if not 0 < least_hits <= 1:
            raise ValueError(f"teachers.least_hits={least_hits} must be a share above 0 and at most 1")
        self.files, self.weights, self.least_hits = files, weights, least_hits


def combined(
    teachers: Teachers, ids: Sequence[str], parts: Sequence[str], class_names: Sequence[str], origins: Sequence[str]
) -> np.ndarray:
    """Combine the predictions of teachers for the training records.

    A teacher's probabilities are taken to the student's classes by name; what it gives to other classes is left out and
    the rest made to sum to one. Then the weighted mean is taken over the teachers that know a sample, at temperature 1:
    peak and sum of a teacher that is alone stay as they were.

    Args:
        teachers: See :class:`Teachers`.
        ids: (N,) names of all records.
        parts: (N,) their parts.
        class_names: Classes of the student.
        origins: (N,) for each record the one that it was made from, or "".

    Returns:
        (N, C) float32, all zero where no teacher knows a sample, and outside of train.

    Raises:
        DataError: A file that cannot be read, or with samples that judge the student; no shared class; too few hits.
    """
    place = {name: i for i, name in enumerate(class_names)}
    names = [origin or name for name, origin in zip(ids, origins, strict=True)]
    train = np.array([part == "train" for part in parts])
    judging = {name for name, part in zip(names, parts, strict=True) if part in ("val", "calib", "test")}
    total, mass = np.zeros((len(ids), len(class_names)), np.float32), np.zeros(len(ids))
    for path, weight in zip(teachers.files, teachers.weights, strict=True):
        known, theirs, prob = read_probabilities(path)
        if seen := judging & set(known):
            raise DataError(
                f"{path}: {len(seen)} of its samples judge this student, such as {min(seen)!r}: the teacher was "
                "trained on them. Give both runs one split: --split.path, with the split.csv of the teacher"
            )
        rows, prob = _to_classes(path, prob, theirs, place)
        row_of = {name: i for i, name in enumerate(known) if rows[i]}
        mine = np.array([i for i in np.flatnonzero(train) if names[i] in row_of], dtype=np.int64)
        total[mine] += weight * prob[[row_of[names[i]] for i in mine]]
        mass[mine] += weight
        rank_zero_info(f"teacher {path}: knows {len(mine)} of {int(train.sum())} training samples")
    hits = float((mass[train] > 0).mean()) if train.any() else 0.0
    if hits < teachers.least_hits:
        absent = next(names[i] for i in np.flatnonzero(train & (mass == 0)))
        raise DataError(f"the teachers know {hits:.1%} of the training samples, of {teachers.least_hits:.1%} needed; "
                        f"{absent!r} is in none of {', '.join(teachers.files)}. Write the predictions of the teacher's "
                        "training part, on this data and split")  # fmt: skip
    return total / np.maximum(mass, 1e-12)[:, None].astype(np.float32)


def _to_classes(
    path: str, prob: np.ndarray, theirs: Sequence[str], place: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows (n,) say anything about the student's classes, and their probabilities (n, C)."""
    shared = [(i, place[name]) for i, name in enumerate(theirs) if name in place]
    if not shared:
        raise DataError(
            f"{path}: none of its {len(theirs)} classes is a class of this data; classes are matched by name"
        )
    found = np.zeros((len(prob), len(place)), np.float32)
    source, target = map(list, zip(*shared, strict=True))
    found[:, target] = prob[:, source]
    kept = found.sum(axis=1)
    if len(shared) < len(theirs):
        rank_zero_info(f"teacher {path}: {len(theirs) - len(shared)} of its classes are not in this data; "
                       f"{1 - kept.mean():.1%} of its probability is left out")  # fmt: skip
    return kept > 0, found / np.maximum(kept, 1e-12)[:, None]


class TaughtDataset(Dataset[Batch]):
    """Adds ``y_teacher`` (B, C) to each batch: all zero for padding, and for what no teacher knows.

    Args:
        dataset: Makes the batches.
        prob: (N, C) probabilities of the records.
    """

    def __init__(self, dataset: Dataset[Batch], prob: np.ndarray) -> None:
        self.dataset, self.prob = dataset, torch.from_numpy(prob)

    def __getitems__(self, batch: IndexBatch) -> Batch:
        """Return the batch of the dataset with what the teachers said."""
        found: Batch = self.dataset.__getitems__(batch)  # type: ignore[attr-defined]
        said = self.prob[torch.tensor(batch.indices)]
        return {**found, "y_teacher": torch.where((found["id"] >= 0).unsqueeze(1), said, 0.0)}
