"""The verb `predict` for windows of machine recordings: a row a window, and the written program of each recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.report_files import read_json, write_csv, write_text
from callbacks.report_gcode import GcodeJudgement
from callbacks.report_gcode_anomaly import THRESHOLD
from callbacks.report_gcode_files import joined, texts
from callbacks.report_gcode_score import to_numpy
from lightning_project.predictions import take_sizes, write_predictions_of
from modules import gcode_tokens


class CollectOutputs(Callback):
    """Keeps all outputs of prediction, of all processes, in the order of the records."""

    def __init__(self) -> None:
        self.mine: list[dict[str, np.ndarray]] = []
        self.found: dict[str, np.ndarray] = {}

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Keep a batch."""
        self.mine.append(to_numpy(outputs))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Gather the batches of all processes."""
        everyone: list[Any] = [self.mine]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, self.mine)
        self.found = joined([outputs for rank in everyone for outputs in rank])


def write_windows_of(trainer: Trainer, folder: Path, model: Any, datamodule: Any, ckpt_path: str) -> None:  # noqa: ANN401
    """Predict the windows of recordings into `predict/` of the run folder.

    A classifier writes `predictions.csv` as all do, and `windows.csv`: operation, the majority over neighbouring
    windows, anomaly score and flag. A decoder writes `predictions.csv` with the same, and the line of each window with
    its confidence; and a `.gcode` file for each recording.

    Args:
        trainer: Trainer.
        folder: Run folder; its `fit/anomaly.json` has the threshold of an anomaly.
        model: System of either stage.
        datamodule: Data with something to predict.
        ckpt_path: Checkpoint.
    """
    collect = CollectOutputs()
    trainer.callbacks.insert(0, collect)  # type: ignore[attr-defined]
    writes_lines = model.PREDICTS == "tokens"
    if writes_lines:
        take_sizes(model, datamodule)
        trainer.predict(model, datamodule, ckpt_path=ckpt_path, return_predictions=False)
    else:
        write_predictions_of(trainer, folder, model, datamodule, ckpt_path)
    if not trainer.is_global_zero:
        return
    judge = next(callback for callback in trainer.callbacks if isinstance(callback, GcodeJudgement))  # type: ignore[attr-defined]
    threshold = read_json(folder / "fit" / THRESHOLD).get("threshold")
    table = windows(
        collect.found, _where(datamodule, collect.found["id"]), model, datamodule, judge.smoothing, threshold
    )
    if writes_lines:
        names = [f"p({name})" for name in model.class_names]
        table = pd.concat([table, pd.DataFrame(collect.found["prob"], columns=names)], axis=1)
    path = folder / "predict" / ("predictions.csv" if writes_lines else "windows.csv")
    print(f"written: {write_csv(path, table)} ({len(table)} windows)")
    if "anomaly" in table and threshold is None:
        print(f"no anomaly is flagged: {folder / 'fit' / THRESHOLD} is missing (a finished fit writes it)")
    for name, own in table.groupby("recording", sort=False) if writes_lines else ():
        written = write_text(path.with_name(f"{name}.gcode"), program(own, str(name), folder.name))
        print(f"written: {written}")


def _where(data: Any, rows: np.ndarray) -> pd.DataFrame:  # noqa: ANN401
    """Return where some windows lie: id, recording, first_row, last_row."""
    first = np.asarray(data.rows)[rows]
    return pd.DataFrame(
        {
            "id": data.records["id"].to_numpy(object)[rows],
            "recording": np.array(data.recording_names(), dtype=object)[rows],
            "first_row": first,
            "last_row": first + data.window - 1,
        }
    )


def windows(
    found: dict[str, np.ndarray],
    where: pd.DataFrame,
    model: Any,  # noqa: ANN401
    data: Any,  # noqa: ANN401
    smoothing: int,
    threshold: float | None,
) -> pd.DataFrame:
    """Return one row a window, in the order of the records.

    Columns: id, recording, first_row, last_row, operation, probability, smoothed; of decoders line, confidence, valid;
    where the encoder reconstructs anomaly, flagged (empty without a threshold).

    Args:
        found: Joined outputs of the steps.
        where: The windows that they are about: id, recording, first_row, last_row.
        model: The system.
        data: The datamodule, for its vocabulary.
        smoothing: Windows that the majority is taken over.
        threshold: Score above which a window is flagged.
    """
    names, guess = np.asarray(model.class_names, dtype=object), found["prob"].argmax(1)
    voted = names[majority(guess, where["recording"].to_numpy(), smoothing)]
    table = where.assign(operation=names[guess], probability=found["prob"].max(1), smoothed=voted)
    if model.PREDICTS == "tokens":
        lines = texts(data.vocabulary, found, model.hparams["layout"] == "flat")
        table["line"] = lines
        table["confidence"] = np.exp(found["free_log_prob"].sum(1, dtype=np.float64))
        table["valid"] = [int(gcode_tokens.valid(line)) for line in lines]
    if "anomaly" in found:
        table["anomaly"] = found["anomaly"]
        flagged = None if threshold is None else (found["anomaly"] > threshold).astype(int)
        table["flagged"] = "" if flagged is None else flagged
    return table


def majority(guess: np.ndarray, recording: Sequence[Any] | np.ndarray, width: int) -> np.ndarray:
    """Return the most frequent guess among ``width`` neighbours of the recording (N,); of ties, the window's own first.

    Args:
        guess: (N,) class of each window, in the order of time within a recording.
        recording: (N,) names.
        width: Odd number of windows, the window itself in the middle.
    """
    found, recording = guess.copy(), np.asarray(recording)
    for name in dict.fromkeys(recording.tolist()):
        own = np.flatnonzero(recording == name)
        for place, row in enumerate(own):
            near = guess[own[max(0, place - width // 2) : place + width // 2 + 1]]
            counts = np.bincount(near)
            if counts[guess[row]] < counts.max():
                found[row] = counts.argmax()
    return found


def program(table: pd.DataFrame, name: str, run: str) -> str:
    """Return the program that was written for a recording; equal lines of consecutive windows are one.

    Every line names its rows and confidence in a comment; a line that is no valid G-code is a comment as a whole.

    Args:
        table: Rows of :func:`windows` of one recording.
        name: Its name.
        run: Name of the run that wrote it.
    """
    text = [f"; {name}: written by run {run} from sensor readings, not by a person; do not run it on a machine"]
    block = (table["line"] != table["line"].shift()).cumsum()
    for _, same in table.groupby(block, sort=False):
        first, last = same.iloc[0], same.iloc[-1]
        note = f"rows {first['first_row']} to {last['last_row']}, confidence {same['confidence'].mean():.3f}"
        flagged = int(pd.to_numeric(same["flagged"]).fillna(0).sum()) if "flagged" in same else 0
        note += f", {flagged} of {len(same)} windows unusual" if flagged else ""
        for line in str(first["line"]).split("\n"):
            text.append(f"{line} ; {note}" if first["valid"] else f"; not valid: {line or '(nothing)'} ; {note}")
    return "\n".join(text) + "\n"
