"""Which channels a network sees, and on which scale: chosen and fitted on training recordings alone.

Three ways to choose. `common`: channels that every training recording has. `all`: channels that any of them has; what
a recording lacks is marked as missing. `brief`: the published rule, which keeps what the first file has and drops one
of each pair of channels that move together (|r| > 0.95 on the first five files).

A channel is clipped to Q1 - 3 IQR .. Q3 + 3 IQR, then the median is taken off and the IQR divides it. What is missing
is 0 after that, and `present` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.gcode_recordings import CATEGORICAL, CHANNELS, NO_CODE, Recording, board_of, group_of

Choice = Literal["common", "brief", "all"]
CHOICES = ("common", "brief", "all")
FAMILIES = ("accelerometer", "gyroscope", "magnetometer")  # each stands for its three axes
MODALITIES = ("machine_position", "motor_current", *dict.fromkeys(CHANNELS.values()))
TOGETHER, FIRST_FILES, MOSTLY_MISSING = 0.95, 5, 0.5  # the brief's rule
REACH = 3.0  # IQRs beyond the quartiles


@dataclass(frozen=True)
class Columns:
    """Channels with their scale, and the codes of each categorical input.

    Attributes:
        names: C channels, in the order of the network's input.
        centre: (C,) float32 median.
        scale: (C,) float32 interquartile range, or what takes its place where that is 0.
        low: (C,) float32 lower bound.
        high: (C,) float32 upper bound.
        categories: Known codes of each of `CATEGORICAL`; code number k has index k + 1, and 0 is an unknown one.
    """

    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    categories: tuple[tuple[int, ...], ...]

    @classmethod
    def fit(cls, recordings: Sequence[Recording], choice: Choice, drop: Sequence[str] = ()) -> "Columns":
        """Choose channels and learn their scale.

        Args:
            recordings: Training recordings, and no others.
            choice: See the head of this file.
            drop: Modalities, families of three axes, or boards that are left out.

        Raises:
            DataError: Nothing is left.
        """
        tables = _tables(recordings)
        left_out = dropped(drop, {name for columns in tables for name in columns})
        kept = [name for name in CHOOSE[choice](recordings, tables) if name not in left_out]
        if not kept:
            raise DataError(f"no channel is left: columns={choice!r} without {', '.join(drop) or 'any'} of "
                            f"{len(recordings)} training recordings; drop less, or take columns: all")  # fmt: skip
        centre, scale, low, high = np.array([_scale(_column(tables, name)) for name in kept], dtype=np.float32).T
        codes = [np.unique(np.concatenate([rec.codes[:, i] for rec in recordings])) for i in range(len(CATEGORICAL))]
        known = tuple(tuple(int(code) for code in found if code != NO_CODE) for found in codes)
        return cls(tuple(kept), centre, scale, low, high, known)

    @property
    def sizes(self) -> list[int]:
        """Number of indices of each categorical input, the one for unknown codes included."""
        return [len(codes) + 1 for codes in self.categories]

    def transform(self, recording: Recording) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (T, C) float32 scaled values, (C,) bool present, (T, 4) int64 indices of codes.

        A reading that is missing in between takes the one before it, else the next.
        """
        place = {name: i for i, name in enumerate(recording.columns)}
        here = [i for i, name in enumerate(self.names) if name in place]
        values = np.zeros((len(recording), len(self.names)), np.float32)
        present = np.zeros(len(self.names), bool)
        if here:
            found = np.asarray(recording.values)[:, [place[self.names[i]] for i in here]]
            present[here] = np.isfinite(found).any(axis=0)
            with np.errstate(over="ignore"):
                scaled = (filled(found).clip(self.low[here], self.high[here]) - self.centre[here]) / self.scale[here]
            values[:, here] = scaled
        return values * present, present, self.indices(recording.codes)

    def indices(self, codes: np.ndarray) -> np.ndarray:
        """(T, 4) int64: index of each code, 0 for those that training did not see and for missing ones."""
        found = np.zeros(codes.shape, np.int64)
        for i, known in enumerate(self.categories):
            for index, code in enumerate(known, 1):
                found[codes[:, i] == code, i] = index
        return found

    def groups(self) -> dict[str, list[int]]:
        """Return the channels of each modality, by their place in the input."""
        found: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            found.setdefault(group_of(name) or "other", []).append(i)
        return {name: found[name] for name in (*MODALITIES, "other") if name in found}

    def boards(self) -> dict[str, list[int]]:
        """Return the channels of each board, by their place in the input."""
        found: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            found.setdefault(board_of(name), []).append(i)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        numbers = {name: getattr(self, name).tolist() for name in ("centre", "scale", "low", "high")}
        return {"names": list(self.names), **numbers, "categories": [list(codes) for codes in self.categories]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Columns":
        """Make it again from what `state_dict` gave."""
        names = ("centre", "scale", "low", "high")
        centre, scale, low, high = (np.array(state[name], dtype=np.float32) for name in names)
        categories = tuple(tuple(codes) for codes in state["categories"])
        return cls(tuple(state["names"]), centre, scale, low, high, categories)


def dropped(drop: Sequence[str], columns: set[str]) -> set[str]:
    """Return the columns that words name: a modality, a family of three axes, or a board.

    Raises:
        ValueError: A word that is none of them.
    """
    boards = {board_of(name) for name in columns}
    found: set[str] = set()
    for word in drop:
        if word not in MODALITIES and word not in FAMILIES and word not in boards:
            raise ValueError(f"drop: {word!r} is no modality and no board of these recordings; modalities are "
                             f"{', '.join((*MODALITIES, *FAMILIES))}; boards {', '.join(sorted(boards))}")  # fmt: skip
        axes = {f"{word}_{axis}" for axis in "xyz"} if word in FAMILIES else {word}
        found |= {name for name in columns if group_of(name) in axes or board_of(name) == word}
    return found


def filled(values: np.ndarray) -> np.ndarray:
    """(T, K): missing readings take the one before, else the next; a channel without any stays 0."""
    missing = ~np.isfinite(values)
    if not missing.any():
        return values
    out, rows = values.copy(), np.arange(len(values))
    for column in np.flatnonzero(missing.any(axis=0)):
        known = np.flatnonzero(~missing[:, column])
        if not len(known):
            out[:, column] = 0
            continue
        before = known[np.searchsorted(known, rows, side="right").clip(1) - 1]
        out[:, column] = values[before, column]
    return out


def _tables(recordings: Sequence[Recording]) -> dict[tuple[str, ...], np.ndarray]:
    """Usable rows of all recordings of one layout, one after the other."""
    parts: dict[tuple[str, ...], list[np.ndarray]] = {}
    for recording in recordings:
        parts.setdefault(recording.columns, []).append(np.asarray(recording.values)[recording.usable()])
    return {columns: np.concatenate(found) for columns, found in parts.items()}


def _column(tables: Mapping[tuple[str, ...], np.ndarray], name: str) -> np.ndarray:
    """All finite readings of a channel."""
    parts = [table[:, columns.index(name)] for columns, table in tables.items() if name in columns]
    found = np.concatenate(parts)
    return found[np.isfinite(found)]


def _scale(readings: np.ndarray) -> tuple[float, float, float, float]:
    """Median, scale, and bounds."""
    low, centre, high = np.quantile(readings.astype(np.float64), (0.25, 0.5, 0.75))
    scale = float(high - low)
    if scale <= 1e-6 * max(1.0, abs(centre)):  # half of the readings are one value, as a coarse pressure sensor's
        scale = float(readings.std(dtype=np.float64)) or 1.0
        low = high = centre
    return float(centre), scale, float(low - REACH * scale), float(high + REACH * scale)


def _varies(tables: Mapping[tuple[str, ...], np.ndarray], name: str) -> bool:
    readings = _column(tables, name)
    return len(readings) > 0 and float(readings.min()) < float(readings.max())


def _no_copies(names: set[str]) -> list[str]:
    """The channels by name; the currents' second copies (`_A`) go where the first is there."""
    return sorted(name for name in names if name.removesuffix("_A") not in names - {name})


def _choose_common(recordings: Sequence[Recording], tables: dict[tuple[str, ...], np.ndarray]) -> list[str]:
    shared = set.intersection(*(_read_by(recording) for recording in recordings))
    return [name for name in _no_copies(shared) if _varies(tables, name)]


def _read_by(recording: Recording) -> set[str]:
    """Channels with a reading: a file may have an empty column for a board that its recording lacks."""
    read = np.isfinite(np.asarray(recording.values)[recording.usable()]).any(axis=0)
    return {name for name, there in zip(recording.columns, read, strict=True) if there}


def _choose_all(recordings: Sequence[Recording], tables: dict[tuple[str, ...], np.ndarray]) -> list[str]:
    return [name for name in _no_copies({name for columns in tables for name in columns}) if _varies(tables, name)]


def _choose_brief(recordings: Sequence[Recording], tables: dict[tuple[str, ...], np.ndarray]) -> list[str]:
    """The published rule; "first" is by name, as its files were sorted."""
    ordered = sorted(recordings, key=lambda recording: recording.name)
    first = ordered[0]
    place = {name: i for i, name in enumerate(first.columns)}
    kept = []
    for name in sorted(place):
        readings = np.asarray(first.values)[:, place[name]].astype(np.float64)
        known = readings[np.isfinite(readings)]
        if len(known) >= MOSTLY_MISSING * len(readings) and len(known) and known.var() > 0:
            kept.append(name)
    rows = [_named(recording, kept) for recording in ordered[:FIRST_FILES]]
    return _apart(np.concatenate(rows), kept)


def _named(recording: Recording, names: Sequence[str]) -> np.ndarray:
    """(T, K) float64 of some channels; NaN where the recording lacks one."""
    out = np.full((len(recording), len(names)), np.nan)
    for i, name in enumerate(names):
        if name in recording.columns:
            out[:, i] = recording.values[:, recording.columns.index(name)]
    return out


def _apart(rows: np.ndarray, names: list[str]) -> list[str]:
    """Leave out, of each pair of channels that move together, the one with the smaller variance."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=names)
    together, spread = frame.corr().abs().to_numpy() > TOGETHER, frame.var().to_numpy()
    gone: set[int] = set()
    for one in range(len(names)):
        for other in range(one + 1, len(names)):
            if together[one, other] and one not in gone and other not in gone:
                gone.add(one if spread[one] < spread[other] else other)
    return [name for i, name in enumerate(names) if i not in gone]


CHOOSE = {"common": _choose_common, "all": _choose_all, "brief": _choose_brief}
