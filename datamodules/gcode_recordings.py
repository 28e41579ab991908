"""One recording of a machine tool: sensor readings at the times of the controller's reports, with the program's lines.

A file is CSV or Parquet, one row a report, columns found by name (the order may be any):

    t_console                       time of day as H:M:S, or M:S where the hour was lost
    stat, unit, dist, coor          codes of the controller, the categorical inputs
    mpox, mpoy, mpoz                machine position in mm
    spindle, x_motor, ... (_A)      motor currents
    BOARD.CHANNEL                   sensor boards of any name, the channels of `CHANNELS`; a board may be missing
    gcode_line (or line)            number of the program's line
    gcode_string                    its text, the target; not needed for prediction

Everything else (posx, feed, momo, raw_json, ...) spells the answer or is empty, and is never an input.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from modules.gcode_tokens import TokenError, canonical

# The order is the order of the class ids (facts of the brief, section 2), whatever the data hold.
OPERATIONS = (
    *("adaptive", "adaptive150025", "face", "face150025", "pocket", "pocket150025"),
    *("damageadaptive", "damageface", "damagepocket"),
)
# Recordings with a damaged tool run the program of a healthy class.
PARENTS = {"damageadaptive": "adaptive150025", "damageface": "face150025", "damagepocket": "pocket150025"}
CATEGORICAL = ("stat", "unit", "dist", "coor")
POSITION = ("mpox", "mpoy", "mpoz")
CURRENTS = ("spindle", "x_motor", "y_motor", "z_motor")
CHANNELS = {
    "Ax": "accelerometer_x", "Ay": "accelerometer_y", "Az": "accelerometer_z",
    "Gx": "gyroscope_x", "Gy": "gyroscope_y", "Gz": "gyroscope_z",
    "Mx": "magnetometer_x", "My": "magnetometer_y", "Mz": "magnetometer_z",
    "Pressure": "pressure", "Temperature": "temperature", "Proximity": "proximity",
    "ColorR": "colour", "ColorG": "colour", "ColorB": "colour", "ColorA": "colour", "RMS": "rms",
}  # fmt: skip
SUFFIXES = (".parquet", ".csv")
_NAME = re.compile(r"(?P<operation>[A-Za-z][A-Za-z0-9]*)_(?P<number>\d+)(_aligned)?")
CLOCK = re.compile(r"^(?:(\d{1,2}):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)$")  # hours, minutes, seconds
NO_TEXT = -1  # a row without a line of the program
NO_CODE = -1  # a report without this code


@dataclass(frozen=True)
class Recording:
    """One cleaned recording; T rows.

    Attributes:
        name: Such as "adaptive_001".
        operation: Its class; "" where nobody said.
        columns: K names of the channels, in the order of the file.
        values: (T, K) float32; NaN where a reading is missing. May be a memory map.
        codes: (T, 4) int64 of `CATEGORICAL`; -1 where missing.
        seconds: (T,) float64 time of day.
        line: (T,) int64 number of the program's line; -1 where missing.
        text: (T,) int64 index into `texts`; -1 where missing.
        texts: Distinct canonical lines of the program.
        hash: SHA-256 of the content.
        group: What may not be on two sides of a split; "" is the recording itself.
        given: Part that the source gives; "" is none.
        notes: What was mended while cleaning, by kind.
    """

    name: str
    operation: str
    columns: tuple[str, ...]
    values: np.ndarray
    codes: np.ndarray
    seconds: np.ndarray
    line: np.ndarray
    text: np.ndarray
    texts: tuple[str, ...]
    hash: str
    group: str = ""
    given: str = ""
    notes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.seconds)

    def usable(self) -> np.ndarray:
        """(T,) bool: rows in which at least one sensor said something; a position alone is no sensor."""
        sensors = [i for i, name in enumerate(self.columns) if name not in POSITION]
        return np.isfinite(self.values[:, sensors]).any(axis=1) if sensors else np.zeros(len(self), bool)


def group_of(column: str) -> str | None:
    """Return the modality of a column by its name, or None for what is no input."""
    if column in POSITION:
        return "machine_position"
    if column.removesuffix("_A") in CURRENTS:
        return "motor_current"
    board, _, channel = column.rpartition(".")
    return CHANNELS.get(channel) if board else None


def board_of(column: str) -> str:
    """Return the board of a column; the controller and the currents are boards of their own."""
    return column.rpartition(".")[0] or ("controller" if column in POSITION else "currents")


def split_name(path: str | Path) -> tuple[str, str]:
    """Return recording and operation that a file name says: `face_001_aligned.csv` -> `face_001`, `face`.

    Raises:
        DataError: The name has another form.
    """
    found = _NAME.fullmatch(Path(path).stem)
    if found is None:
        raise DataError(f"{path}: the name has to say the operation and a number, as in adaptive_001.csv: rename it")
    return f"{found['operation']}_{found['number']}", found["operation"]


def recording_name(path: Path) -> str:
    """Return the name of the recording in a file."""
    return path.stem.removesuffix("_aligned")


def operations_in_order(names: Iterable[str]) -> list[str]:
    """Return the classes in their fixed order: those of the brief first, then others by name."""
    found = set(names)
    return [name for name in OPERATIONS if name in found] + sorted(found - set(OPERATIONS))


def files_of(path: str | Path) -> list[Path]:
    """Return the recordings of a folder by name, or the one file that is named.

    Raises:
        DataError: There is none, or one recording lies there twice.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path}: a recording is a .csv or .parquet file")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give a folder of recordings (.csv, .parquet), or one of them")
    found = sorted((file for file in path.iterdir() if file.suffix in SUFFIXES), key=recording_name)
    if not found:
        inside = [folder.name for folder in path.iterdir() if folder.is_dir() and any(folder.glob("*_[0-9]*.*"))]
        mend = f"did you mean {path / inside[0]}?" if inside else "give a folder of recordings"
        raise DataError(f"{path}: holds no .csv or .parquet file; {mend}")
    names = [recording_name(file) for file in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: {twice[0]} lies there twice, as {' and '.join(SUFFIXES)}; remove one of them")
    return found


def read_frame(path: Path) -> pd.DataFrame:
    """Read a file as it is.

    Raises:
        DataError: It cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, low_memory=False)
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pyarrow's and pandas' errors are ValueErrors
        raise DataError(f"{path}: cannot be read ({error}); copy it again") from error


def read_recording(path: Path, labelled: bool = True) -> Recording:
    """Read and clean one file.

    Args:
        path: CSV or Parquet.
        labelled: Whether the name has to say the operation and the text has to be there.

    Raises:
        DataError: Naming the file, the column or row, and the mend.
    """
    name, operation = split_name(path) if labelled else (recording_name(path), "")
    return clean(read_frame(path), str(path), name, operation, labelled)


def clean(frame: pd.DataFrame, source: str, name: str, operation: str = "", labelled: bool = True) -> Recording:
    """Turn a table into a recording: choose columns by name, parse the clock, bring the lines into canonical form.

    Args:
        frame: One row a report.
        source: Name for messages.
        name: Name of the recording.
        operation: Its class.
        labelled: Whether the text has to be there.

    Raises:
        DataError: Naming the source, the column or row, and the mend.
    """
    if twice := frame.columns[frame.columns.duplicated()].tolist():
        raise DataError(f"{source}: column {twice[0]} is there twice; remove one")
    needed = ["t_console", *CATEGORICAL, *(["gcode_string"] if labelled else [])]
    if missing := [column for column in needed if column not in frame.columns]:
        raise DataError(f"{source}: column {missing[0]} is missing ({len(missing)} of {', '.join(needed)}); a "
                        "recording has them all")  # fmt: skip
    columns = tuple(column for column in frame.columns if group_of(str(column)) is not None)
    if not any(column not in POSITION for column in columns):
        raise DataError(f"{source}: no sensor column; they are called {', '.join(CURRENTS)}, or BOARD.CHANNEL as in "
                        "frame_r1.Ax")  # fmt: skip
    notes: dict[str, int] = {}
    seconds = parse_clock(frame["t_console"], source, notes)
    values = _values(frame, columns, source, notes)
    codes = np.stack([_whole(frame, column, source, notes) for column in CATEGORICAL], axis=1)
    lines = next((c for c in ("gcode_line", "line") if c in frame.columns), None)
    line = np.full(len(frame), -1, np.int64) if lines is None else _whole(frame, lines, source, {})
    if lines == "gcode_line" and "line" in frame.columns:
        line = np.where(line < 0, _whole(frame, "line", source, {}), line)
    text, texts = _texts(frame["gcode_string"] if "gcode_string" in frame.columns else None, len(frame), source)
    return make_recording(name, operation, columns, values, codes, seconds, line, text, texts, notes=notes)


def make_recording(
    name: str,
    operation: str,
    columns: tuple[str, ...],
    values: np.ndarray,
    codes: np.ndarray,
    seconds: np.ndarray,
    line: np.ndarray,
    text: np.ndarray,
    texts: tuple[str, ...],
    *,
    group: str = "",
    given: str = "",
    notes: dict[str, int] | None = None,
) -> Recording:
    """Put a recording together and give it its content hash."""
    total = hashlib.sha256("\n".join([*columns, "", *texts]).encode("utf-8", "surrogatepass"))
    for array in (values, codes, seconds, line, text):
        total.update(np.ascontiguousarray(array).tobytes())
    return Recording(name, operation, columns, values, codes, seconds, line, text, texts, total.hexdigest(), group,
                     given, notes or {})  # fmt: skip


def parse_clock(column: pd.Series, source: str, notes: dict[str, int]) -> np.ndarray:
    """(T,) seconds of a clock written H:M:S, or M:S as a spreadsheet leaves it; a mix of both is noted.

    Raises:
        DataError: A row that is neither.
    """
    pieces = column.astype("string").str.strip().str.extract(CLOCK.pattern)
    bad = np.flatnonzero(pieces[1].isna().to_numpy())
    if len(bad):
        raise _refusal(source, column, bad, "a time as 12:40:01.926")
    short = pieces[0].isna().to_numpy()
    if short.any():
        notes["rows with a clock without hours"] = int(short.sum())
    hours = pieces[0].fillna("0").to_numpy(dtype=str).astype(float)
    return (hours * 3600 + pieces[1].to_numpy(dtype=str).astype(float) * 60
            + pieces[2].to_numpy(dtype=str).astype(float))  # fmt: skip


def _refusal(source: str, column: pd.Series, bad: np.ndarray, wanted: str) -> DataError:
    first = str(column.iloc[bad[0]])
    return DataError(f"{source}, row {bad[0]}: {column.name} is {first!r}, and not {wanted} ({len(bad)} such rows); "
                     "correct these cells, or leave the rows out")  # fmt: skip


def _values(frame: pd.DataFrame, columns: Sequence[str], source: str, notes: dict[str, int]) -> np.ndarray:
    """(T, K) float32; infinite readings become missing ones and are noted."""
    parts = frame[list(columns)]
    for column in [name for name, kind in parts.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]:
        as_text = parts[column].astype("string").str.strip()
        numbers = pd.to_numeric(as_text, errors="coerce")
        bad = np.flatnonzero((numbers.isna() & as_text.notna() & (as_text != "")).to_numpy(dtype=bool, na_value=False))
        if len(bad):
            raise _refusal(source, parts[column], bad, "a number")
        parts = parts.assign(**{str(column): numbers})
    values = np.ascontiguousarray(parts.to_numpy(dtype=np.float32, na_value=np.nan))
    if infinite := int(np.isinf(values).sum()):
        notes["infinite readings"] = infinite
        values[np.isinf(values)] = np.nan
    return values


def _whole(frame: pd.DataFrame, column: str, source: str, notes: dict[str, int]) -> np.ndarray:
    """(T,) int64; -1 where missing, which is noted."""
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    missing = ~np.isfinite(numbers)
    bad = np.flatnonzero((numbers != np.floor(numbers)) & ~missing | (missing & frame[column].notna().to_numpy()))
    if len(bad):
        raise _refusal(source, frame[column], bad, "a whole number")
    if missing.any():
        notes[f"rows without {column}"] = int(missing.sum())
    return np.where(missing, -1, numbers).astype(np.int64)


@lru_cache(maxsize=1 << 16)
def _canonical(text: str) -> str:
    """All recordings of a class have the same lines."""
    return canonical(text)


def _texts(column: pd.Series | None, rows: int, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(T,) index of the canonical line of each row, and the lines in the order in which they come.

    Raises:
        DataError: A text that is no G-code.
    """
    if column is None:
        return np.full(rows, NO_TEXT, np.int64), ()
    known: dict[str, int] = {}
    codes, found = pd.factorize(column.astype("string"), use_na_sentinel=True)
    index = np.full(len(found) + 1, NO_TEXT, np.int64)  # the last is for code -1
    for place, text in enumerate(found):
        try:
            line = _canonical(str(text))
        except TokenError as error:
            row = int(np.flatnonzero(codes == place)[0])
            raise DataError(f"{source}, row {row}: gcode_string is no G-code: {error}; correct or empty it") from error
        if line:
            index[place] = known.setdefault(line, len(known))
    return index[codes], tuple(known)
