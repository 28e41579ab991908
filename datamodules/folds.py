"""Cross-validation: stratified, group-aware folds, each of them once the test part (pure)."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from datamodules.errors import DataError
from datamodules.splits import COLUMNS, in_natural_order, make_split


def make_folds(
    records: pd.DataFrame,
    *,
    fractions: Mapping[str, float],
    folds: int,
    fold: int,
    seed: int,
    group_aware: bool = True,
) -> pd.DataFrame:
    """Draw the split of one fold: the fold is the test part, the rest is divided by the other fractions.

    Over all folds, each record is in test exactly once. The folds follow from the seed alone, whatever fold is asked
    for and in whatever order the records come.

    Args:
        records: See :func:`datamodules.splits.make_split`; a source that gives a held-out part is refused.
        fractions: Shares of train, val and calib among the rest, in proportion; that of test is not used.
        folds: Number of folds, at least 2.
        fold: Which one is the test part, from 0.
        seed: Non-negative.
        group_aware: Keep groups in one part; False takes each record for a group.

    Returns:
        The split table, in the row order of ``records``.

    Raises:
        DataError: The source gives held-out parts, or has fewer groups than folds.
    """
    given = records.loc[~records["given"].isin(["", "train"]), "given"]
    if len(given):
        raise DataError(f"the source gives a {given.iat[0]} part, and folds would mix it with the rest: "
                        "set split.use_given to false, or split.folds to 0")  # fmt: skip
    frame = in_natural_order(records)
    group = frame["group"].where((frame["group"] != "") & group_aware, frame["id"]).to_numpy(str)
    if len(set(group)) < folds:
        raise DataError(f"{folds} folds need as many groups, the data have {len(set(group))}: set split.folds lower")
    labels = frame["label"].to_numpy(str)
    if pd.Series(labels).value_counts().max() < folds:
        raise DataError(f"no class has {folds} samples, one for each fold: set split.folds lower")
    drawn = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a class in fewer groups than folds is named by the audit, fold by fold
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        held = [test for _, test in drawn.split(np.zeros(len(frame)), labels, group)][fold]
    kept = {name: share for name, share in fractions.items() if name != "test"}
    shares = {name: share / sum(kept.values()) for name, share in kept.items()}
    rest = make_split(frame.drop(index=held), fractions=shares, seed=seed, group_aware=group_aware)
    test = frame.loc[held, ["id", "group", "hash", "label"]].assign(part="test", group=group[held])
    table = pd.concat([rest, test]).set_index("id").loc[records["id"]].reset_index()[list(COLUMNS)]
    if group_aware is False:
        table["group"] = records["group"].where(records["group"] != "", records["id"]).to_numpy()
    table.attrs["moved_to_train"] = rest.attrs["moved_to_train"]
    return table
