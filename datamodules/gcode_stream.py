"""Windows of a recording that is still being made: rows go in one by one, a window comes out as soon as it is whole.

A gap in time, or a row without any sensor reading, begins a new stretch, as in a recording that is read from a file.
What a network gets of a window is the same, too, unless readings are missing in it: a file fills them from before it.
"""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TextIO

import numpy as np
import torch

from datamodules.errors import DataError
from datamodules.gcode_columns import Columns
from datamodules.gcode_recordings import CATEGORICAL, CLOCK, NO_CODE, Recording, group_of
from datamodules.gcode_windows import MAX_GAP
from datamodules.samplers import Batch

Row = Mapping[str, object]


@dataclass(frozen=True)
class StreamWindow:
    """A window of a stream.

    Attributes:
        start: Number of its first row in the stream, from 0.
        seconds: Time of day of its last row.
        batch: `continuous` (1, T, C), `present` (1, C), `categorical` (1, T, 4), as `GcodeData` makes them.
    """

    start: int
    seconds: float
    batch: Batch


def stream_windows(
    rows: Iterable[Row], columns: Columns, window: int, stride: int, max_gap: float = MAX_GAP, name: str = "stream"
) -> Iterator[StreamWindow]:
    """Give a window whenever one is whole.

    Args:
        rows: Reports, each with its values by column name (numbers, or texts of numbers).
        columns: Those of the checkpoint.
        window: Rows of a window.
        stride: Rows from one window to the next.
        max_gap: Seconds without a report that begin a new stretch.
        name: Name of the stream in messages.

    Raises:
        DataError: A row that cannot be read, by its number.
    """
    kept: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=window)
    before, stretch = 0.0, 0  # time of the last row, rows of the stretch so far
    for number, row in enumerate(rows):
        where = f"{name}, report {number}"
        now = _clock(row.get("t_console"), where)
        if not _has_sensor(row):
            stretch = 0
            continue
        if stretch and not 0 <= now - before <= max_gap:
            stretch = 0
        before, stretch = now, stretch + 1
        readings = np.array([_number(row, column, where) for column in columns.names], dtype=np.float32)
        codes = np.array([_number(row, column, where) for column in CATEGORICAL])
        kept.append(
            (np.where(np.isinf(readings), np.nan, readings), np.nan_to_num(codes, nan=NO_CODE).astype(np.int64))
        )
        if stretch >= window and (stretch - window) % stride == 0:
            yield StreamWindow(number - window + 1, now, _batch(kept, columns))


def read_rows(file: TextIO) -> Iterator[Row]:
    """Give the rows of a CSV as they come, such as those of the standard input; an empty cell is a missing one."""
    for row in csv.DictReader(file):
        yield {key: value for key, value in row.items() if key is not None and value not in (None, "")}


def _clock(text: object, where: str) -> float:
    found = CLOCK.match(str(text).strip())
    if found is None:
        raise DataError(f"{where}: t_console is {str(text)!r}, and not a time as 12:40:01.926")
    return float(found[1] or 0) * 3600 + float(found[2]) * 60 + float(found[3])


def _has_sensor(row: Row) -> bool:
    return any(_is_reading(value) for name, value in row.items() if group_of(name) not in (None, "machine_position"))


def _number(row: Row, column: str, where: str) -> float:
    value = row.get(column)
    if value is None or value == "":
        return float("nan")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {column} is {str(value)!r}, and not a number") from error


def _batch(kept: Iterable[tuple[np.ndarray, np.ndarray]], columns: Columns) -> Batch:
    readings, codes = (np.stack(parts) for parts in zip(*kept, strict=True))
    nothing = np.zeros(len(codes), np.int64)
    window = Recording("", "", columns.names, readings, codes, nothing.astype(float), nothing, nothing, (), "")
    values, present, indices = columns.transform(window)
    return {
        "continuous": torch.from_numpy(values)[None],
        "present": torch.from_numpy(present)[None],
        "categorical": torch.from_numpy(indices)[None],
    }


def _is_reading(value: object) -> bool:
    """Whether a cell holds something; NaN is nothing, and what is no number is refused where it is read."""
    if value is None or value == "":
        return False
    try:
        return isfinite(float(value))  # type: ignore[arg-type]
    except ValueError:
        return True
