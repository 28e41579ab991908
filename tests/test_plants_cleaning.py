"""Copies of a picture, exact and near, are found and grouped; contradicting labels follow a policy; what stands out."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from datamodules.errors import DataError
from datamodules.image_hashes import TooAlikeError, difference_hashes, distances, near_hashes
from datamodules.plants_cleaning import clean, near_copies
from datamodules.plants_saliency import saliency, smart_box


def pictures(n, seed=0, side=48):
    """Smooth random pictures."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((n, 3, side, side)), (0, 0, 4, 4))
    low, high = noise.min(axis=(1, 2, 3), keepdims=True), noise.max(axis=(1, 2, 3), keepdims=True)
    return ((noise - low) / (high - low) * 220 + 10).astype(np.uint8)


def records(labels, hashes=None, groups=None, rows=None):
    n = len(labels)
    frame = {
        "id": [f"p{i}" for i in range(n)],
        "group": groups or [""] * n,
        "hash": hashes or [f"h{i}" for i in range(n)],
        "label": labels,
    }
    return pd.DataFrame(frame, dtype=str).assign(row=np.array(rows if rows is not None else range(n), np.int64))


def test_near_pairs_are_those_of_a_search_one_by_one():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, (5000, 4), dtype=np.uint64)
    base[4990:] = base[:10] ^ np.uint64(0b1011)
    base[777] = base[11]
    pairs = near_hashes(base, 12)
    flips = np.array([int(x).bit_count() for x in (base[4990:] ^ base[:10]).ravel()]).reshape(10, 4).sum(axis=1)
    wanted = {(i, 4990 + i) for i in range(10) if flips[i] <= 12} | {(11, 777)}
    assert set(map(tuple, pairs.tolist())) == wanted
    assert set(map(tuple, near_hashes(base, 11).tolist())) == {(11, 777)}
    assert len(near_hashes(base[:1], 255)) == 0
    small = base[:60]
    by_hand = [(i, j) for i in range(60) for j in range(i + 1, 60) if distances(small[[i]], small[[j]])[0] <= 120]
    assert list(map(tuple, near_hashes(small, 120).tolist())) == by_hand


def test_a_hash_stands_against_brightness_noise_and_size_but_not_another_picture():
    x = pictures(40)
    rng = np.random.default_rng(1)
    changed = np.clip(x * 0.8 + 20 + rng.normal(0, 2, x.shape), 0, 255).astype(np.uint8)
    smaller = x[:, :, ::2, ::2]
    one = difference_hashes(x)
    assert distances(one, difference_hashes(changed)).max() <= 30
    assert distances(one, difference_hashes(smaller)).max() <= 40
    assert distances(one[:-1], one[1:]).min() > 60
    assert (difference_hashes(np.full((2, 3, 48, 48), 7, np.uint8)) == 0).all()


def test_near_copies_are_grouped_and_reported_and_even_pictures_are_not_copies():
    x = pictures(30)
    x[20:25] = np.clip(x[:5] * 0.9 + 8, 0, 255).astype(np.uint8)
    x[25:] = np.arange(5, dtype=np.uint8)[:, None, None, None] * 40  # even: all hashes 0, and nothing in common
    table = records(["rosa"] * 30)
    kept, found = clean(table, x, "drop", 20)
    assert len(kept) == 30
    together = kept.groupby("group")["id"].agg(sorted).tolist()
    assert [set(g) for g in together if len(g) > 1] == [{f"p{i}", f"p{20 + i}"} for i in range(5)]
    assert [f.kind for f in found] == ["near_copies"] and found[0].count == 5
    kept, found = clean(table, x, "drop", 0)
    assert kept["group"].nunique() == 30 and not found


def test_a_picture_that_several_records_share_is_compared_once():
    x = pictures(40)
    x[2] = np.clip(x[0] * 0.9 + 8, 0, 255)
    hashes = ["a", "a", "b", "c", *[f"h{i}" for i in range(37)]]
    table = records(["rosa"] * 41, hashes=hashes, rows=[0, 0, *range(1, 40)])
    assert near_copies(table, x, 20).tolist() == [[0, 3]]
    kept, _ = clean(table, x, "keep", 20)
    assert kept["group"].tolist()[:4] == ["a", "a", "b", "a"]


def test_copies_join_the_groups_that_the_source_gives():
    table = records(["r"] * 5, hashes=["a", "b", "b", "c", "d"], groups=["g", "g", "k", "k", ""])
    kept, _ = clean(table, pictures(5), "drop", 0)
    assert kept["group"].tolist() == ["g", "g", "g", "g", "d"]


def test_a_conflict_follows_the_policy():
    x = pictures(5)
    table = records(["rosa", "malva", "rosa", "rosa", ""], hashes=["a", "a", "b", "c", "d"])
    kept, found = clean(table, x, "drop", 20)
    finding = next(f for f in found if f.kind == "label_conflict_in_source")
    assert kept["id"].tolist() == ["p2", "p3", "p4"]
    assert finding.examples == ["p0 = rosa, p1 = malva"] and "1 classes are lost by this: malva" in finding.message
    kept, _ = clean(table, x, "first", 20)
    assert kept["label"].tolist() == ["rosa", "rosa", "rosa", "rosa", ""]
    kept, _ = clean(table, x, "keep", 20)
    assert kept["label"].tolist() == table["label"].tolist() and kept["group"].nunique() == 4
    with pytest.raises(DataError, match="such as p0 = rosa, p1 = malva"):
        clean(table, x, "refuse", 20)
    with pytest.raises(ValueError, match="must be one of drop, first, keep, refuse"):
        clean(table, x, "majority", 20)


@pytest.mark.parametrize("policy", ["drop", "first", "keep", "refuse"])
def test_a_likeness_under_two_labels_is_said_never_divided_and_costs_nothing(policy):
    x = pictures(40)
    x[1] = np.clip(x[0] * 0.9 + 8, 0, 255)
    labels = ["rosa", "malva", *["rosa"] * 38]
    kept, found = clean(records(labels), x, policy, 20)
    assert kept["label"].tolist() == labels
    assert kept["group"].nunique() == 39 and kept["group"][0] == kept["group"][1]
    assert [(f.kind, f.count) for f in found] == [("near_copies", 0), ("near_copies_disagree", 1)]
    assert found[1].examples == ["p0 (rosa) ~ p1 (malva)"]


def test_pictures_that_are_all_alike_are_no_copies():
    """Discs on black, of slightly different sizes: any two are correlated, and none is a copy."""
    y, x = np.mgrid[:48, :48]
    rng = np.random.default_rng(0)
    discs = [
        255 * ((y - 24 - dy) ** 2 + (x - 24 - dx) ** 2 < r**2)
        for dy, dx, r in zip(*rng.uniform(-3, 3, (2, 60)), rng.uniform(12, 16, 60), strict=True)
    ]
    pixels = np.repeat(np.array(discs, np.uint8)[:, None], 3, axis=1)
    hashes = difference_hashes(pixels)
    assert len(near_hashes(hashes, 40)) > 100
    assert len(near_copies(records(["r"] * 60), pixels, 40)) < 10
    with pytest.raises(TooAlikeError, match="more than 100 pairs"):
        near_hashes(hashes, 40, limit=100)


def test_the_square_follows_what_stands_out():
    rng = np.random.default_rng(0)
    picture = rng.normal(120, 3, (200, 320, 3))
    yy, xx = np.mgrid[:200, :320]
    spot = (yy - 60) ** 2 + (xx - 250) ** 2 < 22**2
    picture[spot] = [230, 40, 60]
    left, top, side = smart_box(picture.clip(0, 255).astype(np.uint8))
    assert left <= 228 and left + side >= 272 and top <= 38 and top + side >= 82
    assert 0 <= left <= 320 - side and 0 <= top <= 200 - side and 100 <= side < 200


@pytest.mark.parametrize("shape", [(1, 1), (3, 90), (200, 120)])
def test_an_even_or_tiny_picture_gives_its_centre(shape):
    side = min(shape)
    box = smart_box(np.full((*shape, 3), 90, np.uint8))
    assert box == ((shape[1] - side) // 2, (shape[0] - side) // 2, side)


def test_saliency_is_a_share():
    import torch

    found = saliency(torch.from_numpy(pictures(1)[0].astype(np.float32)))
    assert found.min() >= 0 and found.max() == 1
