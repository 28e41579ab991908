"""The verb `predict`: one row of names and probabilities per new sample."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.report_files import Predictions, write_csv
from datamodules.base import SplitDataModule
from datamodules.predictions import write_predictions
from modules.base import System


class Collect(Callback):
    """Keeps the outputs of prediction, of all processes, in the order of the records."""

    def __init__(self) -> None:
        self.rows: list[tuple[torch.Tensor, ...]] = []
        self.further: dict[str, np.ndarray] = {}  # numbers of each sample beyond the probabilities, by name
        self.ids = np.empty(0, np.int64)
        self.prob = np.empty((0, 0), np.float32)
        self.y = np.empty(0, np.int64)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Keep a batch."""
        own = ("id", "prob", "y")
        self.further = {name: np.empty(0) for name in outputs if name not in own}
        self.rows.append(tuple(outputs[name] for name in (*own, *self.further)))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: System) -> None:  # type: ignore[override]
        """Gather the batches of all processes."""
        mine = [torch.cat(column).cpu().numpy() for column in zip(*self.rows, strict=True)]
        parts: list = [mine]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, mine)
        ids, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(ids[ids >= 0], kind="stable")
        self.ids, self.prob, self.y, *further = (column[ids >= 0][order] for column in (ids, *columns))
        self.further = dict(zip(self.further, further, strict=True))


def take_sizes(model: System, datamodule: SplitDataModule) -> None:
    """Tell the data what the trained network takes, where the config leaves it open."""
    for size in model.SIZES:
        if size != "num_classes" and getattr(datamodule, size) is None:
            setattr(datamodule, size, model.hparams[size])


def write_predictions_of(
    trainer: Trainer, folder: Path, model: System, datamodule: SplitDataModule, ckpt_path: str
) -> None:
    """Predict and write `predict/predictions.csv` into the run folder.

    Numbers that a system gives beyond probabilities, such as an anomaly, go to `predict/NAME.csv` each; what was found
    while reading new samples, such as one that cannot be used, to `predict/findings.csv`.
    A part of the run's own split (``data.predict_part``) goes to `predict/predictions_PART.npz` too, with its labels.

    Args:
        trainer: Trainer.
        folder: Run folder.
        model: System; its class names come from the checkpoint.
        datamodule: Data with something to predict.
        ckpt_path: Checkpoint.
    """
    take_sizes(model, datamodule)
    collect = Collect()
    trainer.callbacks.insert(0, collect)  # type: ignore[attr-defined]
    trainer.predict(model, datamodule, ckpt_path=ckpt_path, return_predictions=False)
    if trainer.is_global_zero:
        assert datamodule.records is not None
        path = folder / "predict" / "predictions.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = datamodule.records["id"].iloc[collect.ids].tolist()
        write_predictions(path, ids, collect.prob, model.class_names)
        print(f"written: {path} ({len(collect.ids)} samples)")
        _write_findings(path.with_name("findings.csv"), datamodule)
        for name, values in collect.further.items():
            print(f"written: {write_csv(path.with_name(f'{name}.csv'), pd.DataFrame({'id': ids, name: values}))}")
        if datamodule.predict_part is not None:
            rows, names = datamodule.records.iloc[collect.ids], np.asarray(model.class_names, dtype=str)
            group = rows["group"].to_numpy(str)
            found = Predictions(rows["id"].to_numpy(str), group, collect.y, collect.prob.astype(np.float32), names)
            print(f"written: {found.save(path.with_name(f'predictions_{datamodule.predict_part}.npz'))}")


def _write_findings(path: Path, datamodule: SplitDataModule) -> None:
    """Write a line for each case that was found in new samples; those of a part of the split are the audit's."""
    path.unlink(missing_ok=True)  # of an earlier call
    cases = [(found.kind, line) for found in datamodule.findings() for line in found.examples]
    if cases and datamodule.predict_part is None:
        print(f"written: {write_csv(path, pd.DataFrame(cases, columns=['kind', 'finding']))} ({len(cases)} findings)")
