"""Which rows may be added to the training part after the split (pure)."""

import numpy as np
import pandas as pd

from datamodules.errors import DataError

HELD_OUT = ("val", "calib", "test")


def check_added(
    rows: pd.DataFrame, records: pd.DataFrame, table: pd.DataFrame, class_names: list[str]
) -> pd.DataFrame:
    """Check made rows against the split, and fill what follows from their origins.

    A row is made from a training record, named in ``augmented_from``, and then belongs to the origin's group; or it
    comes from elsewhere, with "" there and a ``source``.

    Args:
        rows: Columns id, hash, label, augmented_from; source and group for rows from elsewhere; more are allowed.
        records: The records so far.
        table: Their split, in the same order.
        class_names: Classes of the training part.

    Returns:
        The rows with group, given and source filled, index from 0.

    Raises:
        DataError: Naming the row, what is wrong, and the mend.
    """
    missing = [name for name in ("id", "hash", "label", "augmented_from") if name not in rows.columns]
    if missing:
        raise DataError(f"rows to add lack the columns {missing}")
    rows = rows.reset_index(drop=True).copy()
    for name in ("group", "source"):
        if name not in rows.columns:
            rows[name] = ""
    part = dict(zip(table["id"], table["part"], strict=True))
    group = dict(zip(records["id"], records["group"], strict=True))
    origin = rows["augmented_from"]
    made = (origin != "").to_numpy()
    held_rows = table["part"].isin(HELD_OUT).to_numpy()
    held = {name: set(records.loc[held_rows, name]) - {""} for name in ("hash", "group")}

    def refuse(bad: np.ndarray, what: str, mend: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(f"added row {rows['id'].iat[row]!r} {what} ({int(bad.sum())} such rows); {mend}")

    parts = origin.map(part)
    known = rows["id"].map(part)
    refuse(made & parts.isna().to_numpy(), "was made from a record that is not in the data", "make the rows anew")
    refuse(made & (parts != "train").to_numpy(), "was made from a record outside train",
           "only training records may be augmented, after the split")  # fmt: skip
    refuse(~made & (rows["source"] == "").to_numpy(), "names neither its origin nor its source", "set one of them")
    refuse(known.isin(HELD_OUT).to_numpy(), "is a record that validation, calibration or test holds", "leave it out")
    refuse((known.notna() | rows["id"].duplicated()).to_numpy(), "has the id of another record", "give it a new id")
    refuse(rows["hash"].isin(held["hash"]).to_numpy(), "has the content of a held-out record", "leave it out")
    rows["group"] = np.where(made, origin.map(group), np.where(rows["group"] == "", rows["id"], rows["group"]))
    refuse(~made & rows["group"].isin(held["group"]).to_numpy(), "belongs to a group that is held out", "leave it out")
    refuse(~rows["label"].isin(class_names).to_numpy(), "has a label that training does not know",
           f"the classes are {', '.join(class_names)}")  # fmt: skip
    return rows.assign(given="")
