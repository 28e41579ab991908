"""The same picture several times: one group for its copies, and a policy where they carry several labels (pure)."""

from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datamodules.audit import STORED, Finding
from datamodules.errors import DataError
from datamodules.image_hashes import CHUNK, TooAlikeError, difference_hashes, near_hashes

ConflictPolicy = Literal["drop", "first", "keep", "refuse"]
ALIKE = 0.95  # least correlation of two pictures: a hash alone takes noise in dark or even areas for structure
NEARER = 0.3  # distance of a pair, at most, over that to an ordinary neighbour
NEIGHBOUR, SAMPLE = 16, 4096  # its rank among so many pictures
THUMB = 32
_DONE = {
    "drop": "all their records are left out",
    "first": "all get the label of the first record",
    "keep": "each keeps its own, and so they contradict one another",
    "refuse": "refused",
}


def clean(
    records: pd.DataFrame, pixels: np.ndarray, policy: ConflictPolicy, near_distance: int
) -> tuple[pd.DataFrame, list[Finding]]:
    """Settle label conflicts and join copies into groups, which no split divides.

    Args:
        records: Columns id, group ("" = none given), hash, label, row (of ``pixels``).
        pixels: (M, 3, S, S) uint8.
        policy: What happens to equal contents under several labels; see the messages above.
        near_distance: Bits of 256 by which the hashes of copies may differ; 0 looks for equal contents only.

    Returns:
        The records kept, with their groups, and what was found.

    Raises:
        DataError: A conflict, under the policy "refuse".
    """
    if policy not in _DONE:
        raise ValueError(f"conflicts={policy!r} must be one of {', '.join(_DONE)}")
    near, found = _near(records, pixels, near_distance)
    content = _components(len(records), [records["hash"]], np.empty((0, 2), np.int64))
    picture = _components(len(records), [records["hash"]], near)
    records, settled = _settle(records, content, policy)
    return _grouped(records, picture[settled.index]), settled.findings + found


def near_copies(records: pd.DataFrame, pixels: np.ndarray, most: int) -> np.ndarray:
    """Return pairs of records (P, 2) with different contents whose pictures are nearly the same.

    Their hashes differ by at most ``most`` bits, their small grey versions are correlated by at least ``ALIKE``, and
    they are much nearer to one another than to their ``NEIGHBOUR``-th nearest picture: leaves on a black ground are all
    alike, and no copies.

    Raises:
        TooAlikeError: Far too many hashes are near.
    """
    rows, first = np.unique(records["row"].to_numpy(np.int64), return_index=True)
    pairs = near_hashes(difference_hashes(pixels[rows]), most)
    if not len(pairs):
        return pairs
    involved, places = np.unique(pairs, return_inverse=True)
    thumbs, (left, right) = _thumbs(pixels[rows[involved]]), places.reshape(pairs.shape).T
    drawn = np.random.default_rng(0).permutation(len(rows))[:SAMPLE]
    typical = _neighbour_distance(thumbs, _thumbs(pixels[rows[drawn]]))
    alike = np.empty(len(pairs))
    for start in range(0, len(pairs), SAMPLE):
        some = slice(start, start + SAMPLE)
        alike[some] = (thumbs[left[some]] * thumbs[right[some]]).sum(axis=1)
    near = np.sqrt(np.maximum(2 - 2 * alike, 0)) <= NEARER * np.minimum(typical[left], typical[right])
    found = first[pairs[(alike >= ALIKE) & near]]
    content = records["hash"].to_numpy(str)
    return found[content[found[:, 0]] != content[found[:, 1]]]


def _neighbour_distance(thumbs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) distance of each thumb to its ``NEIGHBOUR``-th nearest of others: beyond the copies of a picture."""
    rank = min(NEIGHBOUR, len(others) - 1)
    found = np.empty(len(thumbs))
    for start in range(0, len(thumbs), 512):
        alike = thumbs[start : start + 512] @ others.T
        found[start : start + 512] = -np.partition(-alike, rank, axis=1)[:, rank]
    return np.sqrt(np.maximum(2 - 2 * found, 0))


def _thumbs(pixels: np.ndarray) -> np.ndarray:
    """(n, 32 x 32) grey, each of mean 0 and length 1; an even picture is all zero."""
    found = np.empty((len(pixels), THUMB * THUMB), np.float32)
    for start in range(0, len(pixels), CHUNK):
        grey = torch.from_numpy(np.ascontiguousarray(pixels[start : start + CHUNK])).float().mean(dim=1, keepdim=True)
        flat = F.interpolate(grey, (THUMB, THUMB), mode="area").flatten(1)
        found[start : start + CHUNK] = F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1).numpy()
    return found


def _components(count: int, same: list[pd.Series], pairs: np.ndarray) -> np.ndarray:
    """(count,) number of the component of each record, joined where a text is the same (and not "") or by pairs."""
    edges = [pairs]
    for values in same:
        codes = pd.factorize(values.to_numpy())[0]
        order = np.argsort(codes, kind="stable")
        follows = (codes[order][1:] == codes[order][:-1]) & (values.to_numpy()[order][1:] != "")
        edges.append(np.stack([order[:-1][follows], order[1:][follows]], axis=1))
    rows = np.concatenate(edges)
    graph = coo_array((np.ones(len(rows), np.int8), (rows[:, 0], rows[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


class _Settled:
    """What the policy did: positions of the records that are left, and what is to be said."""

    def __init__(self, index: np.ndarray, findings: list[Finding]) -> None:
        self.index, self.findings = index, findings


def _settle(records: pd.DataFrame, content: np.ndarray, policy: ConflictPolicy) -> tuple[pd.DataFrame, _Settled]:
    """Apply the policy to pictures under several labels; records without a label contradict nobody."""
    labels = records["label"].where(records["label"] != "")
    conflict = labels.groupby(content).transform("nunique").to_numpy() > 1
    everything = np.arange(len(records))
    if not conflict.any():
        return records, _Settled(everything, [])
    cases = records[conflict].groupby(content[conflict], sort=False)
    lines = [", ".join(f"{i} = {y}" for i, y in zip(case["id"], case["label"], strict=True)) for _, case in cases]
    message = f"{cases.ngroups} pictures carry several labels; {_DONE[policy]}."
    if policy == "refuse":
        raise DataError(f"{cases.ngroups} pictures carry several labels, such as {lines[0]}; correct them, or choose "
                        "what happens to them with --data.conflicts")  # fmt: skip
    kept = everything[~conflict] if policy == "drop" else everything
    left = records.iloc[kept].reset_index(drop=True)
    if policy == "first":
        left = left.assign(label=labels.groupby(content).transform("first").fillna("").to_numpy())
    gone = sorted(set(records["label"]) - set(left["label"]) - {""})
    if gone:
        message += f" {len(gone)} classes are lost by this: {', '.join(gone[:5])}{', ...' if len(gone) > 5 else ''}."
    listed = records["id"][conflict].tolist()[:STORED]
    finding = Finding("label_conflict_in_source", "warning", message, cases.ngroups, listed, lines[:STORED])
    return left, _Settled(kept, [finding])


def _grouped(records: pd.DataFrame, picture: np.ndarray) -> pd.DataFrame:
    """Give the copies of a picture, and the groups that they belong to, one group: that of their first record."""
    group = records["group"].where(records["group"] != "", records["hash"])
    whole = _components(len(records), [group, pd.Series(picture).astype(str)], np.empty((0, 2), np.int64))
    return records.assign(group=group.groupby(whole).transform("first"))


def _near(records: pd.DataFrame, pixels: np.ndarray, most: int) -> tuple[np.ndarray, list[Finding]]:
    """Return the near copies (P, 2) under any labels, and what was found; a likeness alone never costs a record."""
    none = np.empty((0, 2), np.int64)
    if not most:
        return none, []
    try:
        pairs = near_copies(records, pixels, most)
    except TooAlikeError as error:
        message = f"{error}: near copies were not searched. Take a smaller data.near_distance, or 0."
        return none, [Finding("near_copies_not_searched", "warning", message)]
    labels = records["label"].to_numpy(str)
    differ = (labels[pairs[:, 0]] != labels[pairs[:, 1]]) & (labels[pairs] != "").all(axis=1)
    same, other = pairs[~differ], pairs[differ]
    message = f"{len(same)} pairs of pictures are nearly the same; each pair is in one group, so no split divides it."
    if not len(same):
        message = "No two pictures of one class are nearly the same."
    found = [_pairs("near_copies", "info", message, records, same)]
    message = (f"{len(other)} pairs of pictures are nearly the same, under different labels: look at them. "
               "Each pair is in one group, and with such groups parts are drawn less evenly.")  # fmt: skip
    return pairs, found + ([_pairs("near_copies_disagree", "warning", message, records, other)] if len(other) else [])


def _pairs(
    kind: str, severity: Literal["warning", "info"], message: str, records: pd.DataFrame, pairs: np.ndarray
) -> Finding:
    ids, labels = records["id"].to_numpy(str), records["label"].to_numpy(str)
    lines = [f"{ids[a]} ({labels[a]}) ~ {ids[b]} ({labels[b]})" for a, b in pairs[:STORED].tolist()]
    listed = ids[np.unique(pairs)].tolist()[:STORED]
    return Finding(kind, severity, message, len(pairs), listed, lines)
