"""The split table: drawn once, group-aware and stratified, or read from a file.

A pure file (no torch). Records and table are the frames that ``SplitDataModule`` documents: records have ``id``,
``group``, ``hash``, ``label`` and ``given``; the table has ``id``, ``group``, ``hash``, ``label`` and ``part``.
The same records in another order get the same part per id.
"""

import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.allocation import Rounding, draw_groups, draw_rows
from datamodules.errors import DataError

PARTS = ("train", "val", "calib", "test")
COLUMNS = ("id", "group", "hash", "label", "part")


def make_split(
    records: pd.DataFrame,
    *,
    fractions: Mapping[str, float],
    seed: int,
    group_aware: bool = True,
    rounding: Rounding = "nearest",
) -> pd.DataFrame:
    """Draw a stratified split in which no group crosses parts.

    Rare classes, counted in groups: 1 goes to train, 2 to train and val, 3 or more reach train, val and test at least
    once. Parts that the source gives are kept; what it does not give is carved out of the given train rows, with the
    fractions rescaled to sum to 1 over the parts that are drawn. Classes seen only in val or calib are moved to train.

    Args:
        records: One row per sample, any order.
        fractions: Share of each part, summing to 1.
        seed: Non-negative; same seed and same records give the same table.
        group_aware: False draws rows one by one with sklearn's ``train_test_split`` (test first, then val, the same
            seed twice, rows in natural order of their ids): the signs brief's 555/139/174.
        rounding: Of the groups of a class: to the nearest, or down for all parts but train (the plants brief's rule).

    Returns:
        The split table, in the row order of ``records``; ``attrs["moved_to_train"]`` lists classes moved out of val.

    Raises:
        DataError: Bad records or fractions, or a part that stays empty.
    """
    shares = _check_fractions(fractions, seed)
    _check_records(records)
    frame = in_natural_order(records)
    frame["group"] = frame["group"].where(frame["group"] != "", frame["id"])
    part, pool, targets = _given_parts(frame, shares, group_aware)
    if pool.any():
        drawn = frame[pool]
        if len(targets) == 1:
            part[pool] = next(iter(targets))
        elif group_aware:
            part[pool] = draw_groups(
                drawn["label"].to_numpy(str), drawn["group"].to_numpy(str), targets, seed, rounding
            )
        else:
            part[pool] = draw_rows(drawn["label"].to_numpy(str), drawn["id"].to_numpy(str), targets, seed)
    moved = _train_every_class(frame, part, pool, group_aware)
    table = frame[["id", "group", "hash", "label"]].assign(part=part)
    cause = f"; {len(moved)} classes would be in validation only and had to be trained on" if moved else ""
    _refuse_empty(table, [name for name, share in shares.items() if share > 0], f"the split{cause}")
    table = table.set_index("id").loc[records["id"]].reset_index()[list(COLUMNS)]
    table.attrs["moved_to_train"] = moved
    return table


def in_natural_order(records: pd.DataFrame) -> pd.DataFrame:
    """Sort records by their ids ("9" before "10"), so that a draw does not depend on the order they come in."""
    order = sorted(range(len(records)), key=[_natural(name) for name in records["id"].astype(str)].__getitem__)
    return records.iloc[order].reset_index(drop=True)


def read_split(path: str | os.PathLike[str], records: pd.DataFrame) -> pd.DataFrame:
    """Read a split table and check it, row by row, against the records.

    Args:
        path: A ``split.csv`` with at least the columns id, hash and part.
        records: The records that are to be split; every one must be in the file, and nothing else.

    Returns:
        The table in the row order of ``records``; group and label are those of the records.

    Raises:
        DataError: The file is unreadable or does not fit the records; names the file, the row and the mend.
    """
    _check_records(records)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a split table ({error}); give the split.csv of a run") from error
    missing = [name for name in ("id", "hash", "part") if name not in table.columns]
    if missing:
        raise DataError(f"{path}: column {missing} is missing; a split table has the columns {', '.join(COLUMNS)}")
    _check_rows(path, table, records)
    table = table.set_index("id").loc[records["id"]].reset_index()
    table["group"] = records["group"].to_numpy()
    table["label"] = records["label"].to_numpy()
    untrained = _untrained(table["label"].to_numpy(str), table["part"].to_numpy(str))
    if untrained:
        raise DataError(
            f"{path}: class {untrained[0]!r} has validation or calibration rows but no training row "
            f"({len(untrained)} such classes); move its rows to train in the file, or draw a new split"
        )
    _refuse_empty(table, ["train", "val"], str(path))
    return table[list(COLUMNS)]


def write_split(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write the table as CSV, complete or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        table[list(COLUMNS)].to_csv(temporary, index=False, lineterminator="\n")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def split_hash(table: pd.DataFrame) -> str:
    """SHA-256 over id, content hash and part of every row, whatever the order of the rows."""
    rows = sorted(zip(table["id"], table["hash"], table["part"], strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()


def _check_fractions(fractions: Mapping[str, float], seed: int) -> dict[str, float]:
    unknown = sorted(set(fractions) - set(PARTS))
    if unknown:
        raise DataError(f"split fractions name unknown parts {unknown}; the parts are {', '.join(PARTS)}")
    shares = {name: float(fractions.get(name, 0.0)) for name in PARTS}
    if any(not math.isfinite(share) or share < 0 for share in shares.values()):
        raise DataError(f"split fractions must be numbers >= 0, got {shares}")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise DataError(f"split fractions sum to {sum(shares.values()):g}, not to 1: {shares}")
    if shares["train"] == 0:
        raise DataError("split fraction of train is 0; nothing could be trained")
    if seed < 0:
        raise DataError(f"split seed must be >= 0, got {seed}")
    return shares


def _check_records(records: pd.DataFrame) -> None:
    missing = [name for name in ("id", "group", "hash", "label", "given") if name not in records.columns]
    if missing:
        raise DataError(f"records lack the columns {missing}; the datamodule must fill them before the split")
    if records.empty:
        raise DataError("there are no records to split; check the data path")
    twice = records["id"][records["id"].duplicated()]
    if len(twice):
        raise DataError(f"id {twice.iat[0]!r} occurs more than once in the records ({len(twice)} extra rows); "
                        "give every sample an id of its own")  # fmt: skip
    unknown = records.loc[~records["given"].isin(["", *PARTS]), ["id", "given"]]
    if len(unknown):
        raise DataError(f"record {unknown['id'].iat[0]!r} has the given part {unknown['given'].iat[0]!r}; "
                        f"known parts are {', '.join(PARTS)}, or empty")  # fmt: skip


def _check_rows(path: str | os.PathLike[str], table: pd.DataFrame, records: pd.DataFrame) -> None:
    """Raise for the first row of a split file that does not fit the records; line 1 of the file is its header."""

    def refuse(bad: pd.Series, what: str, mend: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad.to_numpy())[0])
            raise DataError(
                f"{path}, line {row + 2}: id {table['id'].iat[row]!r} {what} ({int(bad.sum())} such rows); {mend}"
            )

    refuse(table["id"].duplicated(), "is listed twice", "remove the second line")
    refuse(~table["part"].isin([*PARTS, "dropped"]), "has an unknown part", f"use {', '.join(PARTS)} or dropped")
    refuse(~table["id"].isin(records["id"]), "is not in the data", "use the data this split was made for")
    absent = records["id"][~records["id"].isin(table["id"])]
    if len(absent):
        raise DataError(f"{path}: no line for record {absent.iat[0]!r} ({len(absent)} records have none); "
                        "use the data this split was made for, or draw a new split")  # fmt: skip
    known = records.set_index("id")
    mends = {
        "hash": "the sample has changed since the split was made: restore the data, or draw a new split",
        "group": "the split was drawn with other groups: draw a new split",
        "label": "the sample was relabelled since the split was made: draw a new split",
    }
    for column in [name for name in mends if name in table.columns]:
        now = known.loc[table["id"], column].to_numpy()
        refuse(table[column] != now, f"has another {column} than the data", mends[column])


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which "9" comes before "10"; the name itself breaks ties such as "1" and "01"."""
    pieces = re.split(r"([0-9]+)", name)
    return [(1, int(piece), "") if odd % 2 else (0, 0, piece) for odd, piece in enumerate(pieces)], name


def _given_parts(
    frame: pd.DataFrame, shares: Mapping[str, float], group_aware: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """What the source says: the part so far, which rows are to be drawn, and the shares of the parts to draw."""
    part = frame["given"].to_numpy(object).copy()
    stated = set(part) - {""}
    if group_aware and stated:  # a row without a given part follows its group
        held = frame[~frame["given"].isin(["", "train"])].groupby("group")["given"].agg(["first", "nunique"])
        follow = frame["group"].map(held["first"][held["nunique"] == 1])
        free = (frame["given"] == "") & follow.notna()
        part[free] = follow[free]
    pool = (part == "") | (part == "train")
    targets = {name: share for name, share in shares.items() if share > 0 and (name == "train" or name not in stated)}
    total = sum(targets.values())
    return part, pool, {name: share / total for name, share in targets.items()}


def _untrained(labels: np.ndarray, part: np.ndarray) -> list[str]:
    """Classes that validation or calibration has and training lacks."""
    held = set(labels[np.isin(part, ["val", "calib"])]) - set(labels[part == "train"]) - {""}
    return sorted(str(label) for label in held)


def _train_every_class(frame: pd.DataFrame, part: np.ndarray, pool: np.ndarray, group_aware: bool) -> list[str]:
    """Move classes that only validation or calibration would see to train, in place; returns their names."""
    labels = frame["label"].to_numpy(str)
    untrained = _untrained(labels, part)
    rows = np.isin(labels, untrained) & np.isin(part, ["val", "calib"])
    fixed = np.flatnonzero(rows & ~pool)
    if len(fixed):
        row = fixed[0]
        raise DataError(
            f"class {str(labels[row])!r} is given for {part[row]} only (record {frame['id'].iat[row]!r}); "
            "move it to train in the source, or split without the given parts (use_given: false)"
        )
    if group_aware:
        rows = frame["group"].isin(frame["group"][rows]).to_numpy() & pool
    part[rows] = "train"
    return untrained


def _refuse_empty(table: pd.DataFrame, wanted: list[str], source: str) -> None:
    for name in wanted:
        if not (table["part"] == name).any():
            raise DataError(
                f"{source}: no row is left for part {name!r} ({len(table)} records in {table['group'].nunique()} "
                "groups); add groups, change the fractions (0 leaves a part out), or choose finer groups"
            )
