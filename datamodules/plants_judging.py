"""What the report of plants judges apart: head and tail of the classes, regions; genera and families (pure)."""

import numpy as np
import pandas as pd

HEAD, TAIL = 20, 5  # training pictures: more than HEAD are the head, fewer than TAIL the tail
RARITY = "training pictures of the species"


def facets(records: pd.DataFrame, y: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the kinds of each record (N,): how rare its species is in training, and its region.

    Args:
        records: Column region.
        y: (N,) class index, negative = none, or not in training.
        counts: (C,) training pictures of each class.
    """
    own = counts[np.maximum(y, 0)]
    names = np.select(
        [y == -2, y < 0, own > HEAD, own >= TAIL],
        ["none (not in training)", "", f"head: more than {HEAD}", f"medium: {TAIL} to {HEAD}"],
        f"tail: fewer than {TAIL}",
    )
    found = {RARITY: names.astype(object)}
    region = records["region"].to_numpy(object)
    return found | ({"region": region} if len(set(region) - {""}) > 1 else {})


def class_levels(records: pd.DataFrame, class_names: list[str]) -> dict[str, list[str]]:
    """Return the genus and family of each class: what most of its records say; a level that nobody states is absent."""
    levels = {}
    for level in ("genus", "family"):
        stated = records[(records[level] != "") & records["label"].isin(class_names)]
        if stated.empty:
            continue
        counted = stated.groupby("label")[level].agg(lambda values: values.value_counts().index[0])
        levels[level] = [str(counted.get(name, "")) for name in class_names]
    return levels
