"""Synthetic training vectors between those of a class, by a sampler of imbalanced-learn."""

import hashlib

import numpy as np
import pandas as pd
from imblearn.base import SamplerMixin
from sklearn.neighbors import NearestNeighbors

from callbacks.augmentation import Augmenter
from datamodules.base import SplitDataModule
from datamodules.errors import DataError


class Oversampling(Augmenter):
    """Adds vectors that an over-sampler makes from the training vectors, for networks on cached vectors.

    Args:
        sampler: An over-sampler such as `imblearn.over_sampling.SMOTE`.
        seed: Seed of the sampler, where it has none of its own (`random_state`).
    """

    def __init__(self, sampler: SamplerMixin, seed: int = 0) -> None:
        self.sampler, self.seed = sampler, seed
        self.counts = {}

    def rows(self, data: SplitDataModule) -> pd.DataFrame:
        """Return synthetic rows with the column ``vector``; each names the nearest vector of its class as its origin.

        Raises:
            DataError: The network takes no vectors, the classes are balanced already, or the sampler removes rows.
        """
        records, labels = data.records, data.y
        assert records is not None and labels is not None
        train = data.indices("train")
        train = train[labels[train] >= 0]
        x, y = np.asarray(data.vectors(train), np.float32), labels[train]
        made, made_y = self._resampled(x, y, data.class_names)
        origin = np.empty(len(made), dtype=np.int64)
        for label in np.unique(made_y):
            mine, pool = np.flatnonzero(made_y == label), np.flatnonzero(y == label)
            near = NearestNeighbors(n_neighbors=1).fit(x[pool]).kneighbors(made[mine], return_distance=False)[:, 0]
            origin[mine] = train[pool[near]]
        names = records["id"].to_numpy(str)[origin]
        kind = type(self.sampler).__name__.lower()
        self.counts = {f"for {data.class_names[label]}": int((made_y == label).sum()) for label in np.unique(made_y)}
        return pd.DataFrame(
            {
                "id": [f"{name}#{kind}-{number}" for number, name in enumerate(names)],
                "hash": [hashlib.sha256(vector.tobytes()).hexdigest() for vector in made],
                "label": [data.class_names[label] for label in made_y],
                "augmented_from": names,
                "source": "",
                "vector": list(made),
            }
        )

    def _resampled(self, x: np.ndarray, y: np.ndarray, class_names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors and classes that the sampler adds behind the given ones."""
        counts = np.bincount(y, minlength=len(class_names))
        stated = ", ".join(f"{name} {count}" for name, count in zip(class_names, counts.tolist(), strict=True))
        name = type(self.sampler).__name__
        if self.sampler.get_params().get("random_state", 0) is None:
            self.sampler.set_params(random_state=self.seed)
        try:
            all_x, all_y = self.sampler.fit_resample(x, y)
        except ValueError as error:
            raise DataError(f"{name} cannot sample from these classes ({stated}): {error}") from error
        if len(all_x) < len(x) or not np.array_equal(all_x[: len(x)], x):
            raise DataError(f"{name} removes or changes given samples: use an over-sampler such as SMOTE")
        if len(all_x) == len(x):
            raise DataError(f"{name} adds no row: the classes are balanced as it sees them ({stated}); leave the "
                            "oversampling out, or state sampling_strategy")  # fmt: skip
        return np.asarray(all_x[len(x) :], np.float32), np.asarray(all_y[len(x) :])
