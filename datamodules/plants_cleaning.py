"""The same picture several times: one group for its copies, and a policy where they carry several labels (pure)."""

from typing import Literal

import numpy as np
import pandas as pd

from datamodules.audit import STORED, Finding
from datamodules.errors import DataError

ConflictPolicy = Literal["drop", "first", "refuse"]


def clean(
    records: pd.DataFrame, pixels: np.ndarray, policy: ConflictPolicy, near_distance: int
) -> tuple[pd.DataFrame, list[Finding]]:
    """Settle label conflicts and join copies into groups.

    Args:
        records: Records with hashes and rows of ``pixels``.
        pixels: (M, 3, S, S) uint8.
        policy: What happens to a picture under several labels: all its records are left out, all get the label of the
            first, or the data are refused.
        near_distance: Bits by which two pictures may differ to count as one; 0 looks for equal contents only.

    Returns:
        The records kept, with their groups, and what was found.

    Raises:
        DataError: A conflict, under the policy "refuse".
    """
    found: list[Finding] = []
    by_hash = records.groupby("hash")["label"]
    conflict = by_hash.transform("nunique") > 1
    if conflict.any():
        cases = records[conflict].groupby("hash")
        lines = [", ".join(f"{i} = {y}" for i, y in zip(case["id"], case["label"], strict=True)) for _, case in cases]
        mend = {"drop": "all their records are left out", "first": "they get the label of the first record"}
        message = f"{cases.ngroups} pictures carry several labels; {mend.get(policy, 'refused')}."
        if policy == "refuse":
            raise DataError(f"{message[:-1]}, such as {lines[0]}; correct them, or set --data.conflicts drop")
        rows = records["id"][conflict].tolist()[:STORED]
        found.append(Finding("label_conflict_in_source", "warning", message, cases.ngroups, rows, lines[:STORED]))
        if policy == "drop":
            records = records[~conflict].reset_index(drop=True)
        else:
            records = records.assign(label=by_hash.transform("first"))
    group = records["group"].where(records["group"] != "", records["hash"])
    return records.assign(group=group.groupby(records["hash"]).transform("first")), found
