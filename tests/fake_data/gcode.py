"""Tiny machine recordings in the real format: a table in memory, CSV or Parquet."""

from pathlib import Path

import numpy as np
import pandas as pd

CHANNELS = ("Ax", "Gx", "Mx", "Pressure", "RMS", "ColorR")
LINES = ("G0 X1. Y2.", "G1 Z-0.1254 F40.", "X3.275", "G2 X1.5 Y0.5 R0.375", "G1 X-0.1254", "M30")


def frame(rows: int = 40, boards: tuple[str, ...] = ("frame_r1", "spindle2"), seed: int = 0) -> pd.DataFrame:
    """A table as the real files are: 4 reports a second, a line of the program every few rows."""
    rng = np.random.default_rng(seed)
    seconds = 45_000 + np.arange(rows) * 0.257
    number = np.arange(rows) * len(LINES) // rows
    columns: dict[str, object] = {
        "t_console": [clock(t) for t in seconds],
        "stat": 5,
        "line": 16 + number,
        **{f"pos{axis}": rng.normal(size=rows).astype(np.float32) for axis in "xyz"},
        **{f"mpo{axis}": (50 + np.arange(rows) + rng.normal(size=rows)).astype(np.float32) for axis in "xyz"},
        "vel": np.nan,
        "feed": 185.42,
        "unit": 0,
        "dist": 0,
        "plane": np.nan,
        "coor": 2,
        "momo": 1,
        "raw_json": '{"sr":{"stat":5}}',
    }
    for name in ("spindle", "x_motor", "y_motor", "z_motor"):
        columns[name] = columns[f"{name}_A"] = (5 + 0.1 * rng.normal(size=rows)).astype(np.float32)
    for board in boards:
        for place, channel in enumerate(CHANNELS):
            columns[f"{board}.{channel}"] = (10 * place + rng.normal(size=rows)).astype(np.float32)
    return pd.DataFrame({**columns, "gcode_line": 16 + number, "gcode_string": [LINES[i] for i in number]})


def clock(seconds: float) -> str:
    """A time of day as the console writes it."""
    return pd.Timestamp(0, unit="s").__add__(pd.Timedelta(seconds=seconds)).strftime("%H:%M:%S.%f")[:-3]


def write(table: pd.DataFrame, path: Path) -> Path:
    """Write a table by the ending of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


def folder(path: Path, operations: tuple[str, ...] = ("adaptive", "face", "damageface"), each: int = 4) -> Path:
    """Write a folder of recordings; each recording lacks another board now and then."""
    for place, operation in enumerate(operations):
        for number in range(1, each + 1):
            boards = ("frame_r1", "spindle2", "y_bed__3")[: 2 + number % 2]
            table = frame(40, boards, seed=10 * place + number)
            write(table, path / f"{operation}_{number:03d}_aligned.csv")
    return path
