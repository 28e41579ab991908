"""The verb `predict` on rows that are still coming: `--data.predict_path -` reads a CSV from the standard input."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from callbacks.checkpoint import read_checkpoint
from callbacks.report_files import read_json, write_csv, write_text
from callbacks.report_gcode_anomaly import THRESHOLD
from callbacks.report_gcode_files import joined
from callbacks.report_gcode_score import to_numpy
from datamodules.errors import DataError
from datamodules.gcode_stream import Row, StreamWindow, read_rows, stream_windows
from lightning_project.predictions_gcode import majority, program, windows

STREAM = "-"  # as `predict_path`
NAME = "stream"  # of the recording


def write_stream_of(folder: Path, model: Any, datamodule: Any, ckpt_path: str, smoothing: int) -> None:  # noqa: ANN401
    """Answer for each window as soon as its rows are there, a line each; write the files of `predict` at the end.

    Args:
        folder: Run folder.
        model: System of either stage, built.
        datamodule: Its data; only its settings and what training fitted are used.
        ckpt_path: Checkpoint.
        smoothing: Windows that the majority is taken over: here the last ones, for later ones are not there yet.

    Raises:
        DataError: The stream ended before a window was whole, or has a row that cannot be read.
    """
    checkpoint = read_checkpoint(ckpt_path)
    datamodule.load_state_dict(checkpoint.get(type(datamodule).__name__, {}))
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    model.eval()
    threshold = read_json(folder / "fit" / THRESHOLD).get("threshold")
    table = answer(read_rows(sys.stdin), model, datamodule, smoothing, threshold)
    written = [write_csv(folder / "predict" / "stream.csv", table)]
    if model.PREDICTS == "tokens":
        written.append(write_text(folder / "predict" / f"{NAME}.gcode", program(table, NAME, folder.name)))
    print("\n".join(f"written: {path}" for path in written))


def answer(rows: Iterable[Row], model: Any, data: Any, smoothing: int, threshold: float | None) -> pd.DataFrame:  # noqa: ANN401
    """Print a line for each window as it is whole; return all of them as :func:`windows` does.

    Args:
        rows: Reports of the machine, in order.
        model: The system, in evaluation mode.
        data: Its data.
        smoothing: Windows that the majority is taken over.
        threshold: Score above which a window is flagged.
    """
    outputs: list[dict[str, np.ndarray]] = []
    guesses: list[int] = []
    places: list[tuple[str, str, int, int]] = []
    for window in stream_windows(rows, data.fitted_columns, data.window, data.stride):
        outputs.append(_asked(window, model, data, len(outputs)))
        guesses.append(int(outputs[-1]["prob"][0].argmax()))
        places.append((f"{NAME}/{window.start:05d}", NAME, window.start, window.start + data.window - 1))
        now = windows(outputs[-1], _frame(places[-1:]), model, data, 1, threshold).iloc[0]
        last = np.array(guesses[-smoothing:])
        voted = model.class_names[majority(last, [NAME] * len(last), 2 * smoothing + 1)[-1]]
        line = f"rows {now['first_row']} to {now['last_row']}: {voted} ({now['operation']} {now['probability']:.2f})"
        line += f"  {now['line']} ({now['confidence']:.2f})" if "line" in now else ""
        print(line + ("  unusual" if now.get("flagged") == 1 else ""), flush=True)
    if not outputs:
        raise DataError(f"the standard input ended before {data.window} rows without a gap: nothing to predict")
    return windows(joined(outputs), _frame(places), model, data, smoothing, threshold)


def _asked(window: StreamWindow, model: Any, data: Any, number: int) -> dict[str, np.ndarray]:  # noqa: ANN401
    """Ask about one window, as a batch of one without labels."""
    batch = window.batch | {
        "id": torch.tensor([number]),
        "y": torch.tensor([-1]),
        "y_tokens": torch.zeros(1, 1, dtype=torch.int64),
        "y_fields": torch.full((1, 1, 4 + data.digits), -1),
        "y_row": torch.tensor([window.start]),
    }
    with torch.inference_mode():
        return to_numpy(model.predict_step({name: x.to(model.device) for name, x in batch.items()}, number))


def _frame(places: list[tuple[str, str, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(places, columns=["id", "recording", "first_row", "last_row"])
