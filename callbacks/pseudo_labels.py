"""Samples without a label, with the label that an earlier run is sure of."""

from pathlib import Path

import numpy as np
import pandas as pd

from callbacks.augmentation import Augmenter
from callbacks.report_files import read_json
from datamodules.added_rows import HELD_OUT
from datamodules.base import SplitDataModule
from datamodules.errors import DataError
from datamodules.predictions import read_probabilities
from datamodules.splits import split_hash


class PseudoLabels(Augmenter):
    """Adds samples of an unlabelled file, the surest of each class first.

    What is known already (the same id, the same content or the same group, such as the title) is dropped and counted,
    above all what validation, calibration or test hold.

    Args:
        path: File of samples, in the format of the data.
        predictions: Their `predict/predictions.csv` by an earlier run, or the same in npz. In the folder of a run, its
            split has to be this one's: a network that was trained on what is held out here would tell of it.
        threshold: Least probability of the label.
        quota: Most samples of each class; None takes all that pass.
        temperature: Divides the logits before the threshold: above 1 for a network that is too sure of itself (the verb
            `decide` fits it on the calibration part).
    """

    def __init__(
        self,
        path: str,
        predictions: str,
        threshold: float = 0.95,
        quota: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold} must be above 0 and at most 1")
        if quota is not None and quota < 1:
            raise ValueError(f"quota={quota} must be at least 1, or left out")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be above 0")
        self.path, self.predictions = path, predictions
        self.threshold, self.quota, self.temperature = threshold, quota, temperature
        self.counts = {}

    def rows(self, data: SplitDataModule) -> pd.DataFrame:
        """Return the samples with their labels.

        Raises:
            DataError: A file cannot be read, or the predictions are not about this file and these classes, or of a run
                on another split.
        """
        self._same_split(data)
        found = data.read_unlabelled(self.path).reset_index(drop=True)
        prob = self._probabilities(found["id"].tolist(), data.class_names)
        best, sure = prob.argmax(axis=1), prob.max(axis=1)
        known, held = self._known(found, data)
        order = np.lexsort([found["id"].to_numpy(str), -sure])
        twice = found.iloc[order]["group"].duplicated() | found.iloc[order]["hash"].duplicated()
        twice = twice.sort_index().to_numpy()
        unsure = sure < self.threshold
        free = ~(known | twice | unsure)
        taken: list[int] = []
        for label in range(len(data.class_names)):
            mine = [row for row in order.tolist() if free[row] and best[row] == label]
            taken += mine[: self.quota]
        self.counts = {
            "read": len(found),
            "held out": int(held.sum()),
            "known to train": int((known & ~held).sum()),
            "repeated": int((twice & ~known).sum()),
            "not sure": int((unsure & ~known & ~twice).sum()),
            "over quota": int(free.sum()) - len(taken),
        }
        chosen = found.iloc[sorted(taken)]
        labels = [data.class_names[best[row]] for row in sorted(taken)]
        return chosen.assign(label=labels, augmented_from="", source=self.path).reset_index(drop=True)

    def _same_split(self, data: SplitDataModule) -> None:
        facts = Path(self.predictions).resolve().parent.parent / "run.json"
        if not facts.is_file():
            return
        theirs, table = read_json(facts).get("split_hash"), data.table
        assert table is not None
        own = split_hash(table.iloc[: data.originals])  # without the rows that another method added
        if theirs != own:
            raise DataError(f"{self.predictions} is of a run on another split ({str(theirs)[:12]}, here {own[:12]}), "
                            "which may know what is held out here: predict with a run on this split")  # fmt: skip

    def _known(self, found: pd.DataFrame, data: SplitDataModule) -> tuple[np.ndarray, np.ndarray]:
        """Which samples the data have already, in any part, and which of them in one that is held out."""
        records, table = data.records, data.table
        assert records is not None and table is not None

        def among(rows: pd.DataFrame) -> np.ndarray:
            same = [found[name].isin(set(rows[name])) for name in ("id", "hash", "group")]
            return np.logical_or.reduce([column.to_numpy() for column in same])

        return among(records), among(records[table["part"].isin(HELD_OUT).to_numpy()])

    def _probabilities(self, ids: list[str], class_names: list[str]) -> np.ndarray:
        """(n, C) probabilities of some samples, at the temperature."""
        names, classes, prob = read_probabilities(self.predictions)
        if sorted(classes) != sorted(class_names):
            raise DataError(f"{self.predictions}: predicts {', '.join(classes)}; the classes of the data are "
                            f"{', '.join(class_names)}")  # fmt: skip
        place = {name: row for row, name in enumerate(names)}
        absent = [name for name in ids if name not in place]
        if absent:
            raise DataError(f"{self.predictions}: no prediction for {absent[0]!r} of {self.path} ({len(absent)} have "
                            "none); run `predict` with --data.predict_path on this file")  # fmt: skip
        chosen = prob[[place[name] for name in ids]][:, [classes.index(name) for name in class_names]]
        logits = np.log(np.clip(chosen, 1e-12, None)) / self.temperature
        scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))
