"""How the parts of a split are drawn: whole groups per class, groups that mix classes, or single rows.

A pure file. ``shares`` are the fractions of the parts to draw, summing to 1; a part that is not drawn is absent.
"""

import math
import zlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

Rounding = Literal["nearest", "down"]
COVERED = ("train", "val", "test")  # parts that a class with three or more groups must reach


def draw_groups(
    labels: np.ndarray, groups: np.ndarray, shares: Mapping[str, float], seed: int, rounding: Rounding = "nearest"
) -> np.ndarray:
    """Part of each row, whole groups at a time; ``rounding`` is for groups of one class each."""
    pairs = pd.DataFrame({"group": groups, "label": labels}).drop_duplicates()
    if pairs["group"].is_unique:
        part_of: dict[str, str] = {}
        for label, members in pairs.groupby("label")["group"]:
            part_of.update(_draw_class(str(label), sorted(members), shares, seed, rounding))
    else:
        part_of = _draw_mixed(labels, groups, shares, seed)
    return np.array([part_of[group] for group in groups], dtype=object)


def _draw_class(
    label: str, members: list[str], shares: Mapping[str, float], seed: int, rounding: Rounding = "nearest"
) -> dict[str, str]:
    """Allocate the groups of one class; other classes cannot disturb the draw."""
    counts = class_quota(len(members), shares, rounding)
    order = np.random.default_rng([seed, zlib.crc32(label.encode())]).permutation(len(members))
    parts = [name for name, count in counts.items() for _ in range(count)]
    return {members[int(row)]: name for row, name in zip(order, parts, strict=True)}


def required_parts(n: int, shares: Mapping[str, float]) -> tuple[str, ...]:
    """The parts that a class with ``n`` groups has to reach, as far as they are drawn at all."""
    wanted = {1: ("train",), 2: ("train", "val")}.get(n, COVERED)
    return tuple(name for name in wanted if shares.get(name, 0) > 0)


def class_quota(n: int, shares: Mapping[str, float], rounding: Rounding = "nearest") -> dict[str, int]:
    """How many of a class's ``n`` groups each part gets: the rare rules, else the largest remainder.

    With ``down``, the rule of the plants brief, every part but train gets its share rounded down (at least one where
    the rare rules ask for it) and train the rest.
    """
    required = required_parts(n, shares)
    if n < 3:
        return {name: (n if len(required) == 1 else 1) for name in required}
    exact = {name: n * share for name, share in shares.items()}
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    if rounding == "down":
        counts["train"] = n - sum(count for name, count in counts.items() if name != "train")
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    for name in required:
        if counts[name] == 0:
            donor = max((other for other in counts if counts[other] > (other in required)), key=lambda o: counts[o])
            counts[donor] -= 1
            counts[name] = 1
    return counts


def draw_rows(labels: np.ndarray, ids: np.ndarray, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """The classical chained split of rows; classes too small for it follow the rare rules."""
    part = np.full(len(labels), "train", dtype=object)
    names, counts = np.unique(labels, return_counts=True)
    for label in names[counts < 3]:
        rows = np.flatnonzero(labels == label)
        drawn = _draw_class(str(label), sorted(ids[rows]), shares, seed)
        part[rows] = [drawn[name] for name in ids[rows]]
    rest, left = np.flatnonzero(np.isin(labels, names[counts >= 3])), 1.0
    try:
        for name in [name for name in ("test", "calib", "val") if name in shares and len(rest)]:
            size = round(shares[name] / left, 12)  # .16 / .8 must be .2, or the ceiling in sklearn takes one more
            rest, taken = train_test_split(rest, test_size=size, random_state=seed, stratify=labels[rest])
            part[taken], left = name, left - shares[name]
    except ValueError:  # fewer rows than classes in a part: sklearn refuses, the per-class rule does not
        return draw_groups(labels, ids, shares, seed)
    return _cover(part, labels, ids, shares)


def _draw_mixed(labels: np.ndarray, groups: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Allocate groups that mix labels (signers, subjects): greedy, largest group first, then the rare rules.

    Each group goes to the part where it brings the class counts and the part sizes nearest to their targets.
    """
    members, codes = np.unique(groups, return_inverse=True)
    names, classes = np.unique(labels, return_inverse=True)
    parts, share = list(shares), np.array(list(shares.values()))
    table = pd.DataFrame({"group": codes, "class": classes}).value_counts(sort=False).reset_index(name="rows")
    first = np.flatnonzero(np.r_[True, np.diff(table["group"]) != 0, True])  # rows are sorted by group
    held_by = [table["class"].to_numpy()[a:b] for a, b in pairwise(first)]
    rows_by = [table["rows"].to_numpy(float)[a:b] for a, b in pairwise(first)]
    class_size = np.bincount(classes).astype(float)
    missing, room = np.outer(class_size, share), len(labels) * share
    single = np.bincount(table["class"]) == 1  # classes that live in one group only have to be trained on
    forced = {g for g, held in enumerate(held_by) if single[held].any()}
    if len(members) - len(forced) < len(parts):
        forced = set()  # else nothing would be left to validate or test on
    drawn = np.random.default_rng(seed).permutation(len(members))
    sizes = np.bincount(codes)
    order = sorted(drawn[np.argsort(-sizes[drawn], kind="stable")].tolist(), key=lambda g: g not in forced)
    chosen = np.empty(len(members), dtype=int)
    empty = set(range(len(parts)))
    for left, g in zip(range(len(members), 0, -1), order, strict=True):
        held, rows = held_by[g], rows_by[g]
        # change of the squared distance to the targets, per class and for the sizes of the parts
        change = (rows[:, None] * (rows[:, None] - 2 * missing[held]) / class_size[held, None] ** 2).sum(axis=0)
        change += len(names) * sizes[g] * (sizes[g] - 2 * room) / len(labels) ** 2
        allowed = sorted(empty) if left <= len(empty) else list(range(len(parts)))  # the last groups fill empty parts
        to = parts.index("train") if g in forced else min(allowed, key=lambda p: change[p])
        chosen[g] = to
        empty.discard(to)
        missing[held, to] -= rows
        room[to] -= sizes[g]
    part = _cover(np.array(parts, dtype=object)[chosen][codes], labels, groups, shares)
    return dict(zip(groups.tolist(), part.tolist(), strict=True))


def _cover(part: np.ndarray, labels: np.ndarray, groups: np.ndarray, shares: Mapping[str, float]) -> np.ndarray:
    """Move whole groups, as few and as small as possible, until every class reaches its required parts.

    A move that would uncover another class or empty a part is not made, so with groups that mix labels some class may
    stay uncovered; the audit names it.
    """
    rows = pd.DataFrame({"group": groups, "label": labels, "part": part})
    part_of = rows.drop_duplicates("group").set_index("group")["part"].to_dict()
    size = rows["group"].value_counts().to_dict()
    pairs = rows.drop_duplicates(["group", "label"])
    groups_of = pairs.groupby("label")["group"].agg(sorted).to_dict()
    labels_of = pairs.groupby("group")["label"].agg(list).to_dict()
    held = pairs.groupby(["label", "part"]).size().to_dict()
    filled = pd.Series(part_of).value_counts().to_dict()

    def may_leave(group: str, donor: str) -> bool:
        if filled[donor] == 1:
            return False
        return all(
            held[label, donor] > 1 or donor not in required_parts(len(groups_of[label]), shares)
            for label in labels_of[group]
        )

    for label in sorted(groups_of, key=lambda name: (len(groups_of[name]), name)):
        for wanted in required_parts(len(groups_of[label]), shares):
            if held.get((label, wanted), 0):
                continue
            movable = [group for group in groups_of[label] if may_leave(group, part_of[group])]
            if not movable:
                continue
            group = min(movable, key=lambda name: (-held[label, part_of[name]], size[name], name))
            donor = part_of[group]
            for other in labels_of[group]:
                held[other, donor] -= 1
                held[other, wanted] = held.get((other, wanted), 0) + 1
            filled[donor] -= 1
            filled[wanted] = filled.get(wanted, 0) + 1
            part_of[group] = wanted
    return np.array([part_of[group] for group in groups], dtype=object)
