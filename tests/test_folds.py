"""Folds: every record once in test, no group on two sides, classes alike, the same folds for every run of a seed."""

import numpy as np
import pandas as pd
import pytest

from callbacks.stratified_split import StratifiedSplit
from datamodules.errors import DataError
from datamodules.folds import make_folds
from tests.test_stratified_split import TinyData, fit

FRACTIONS = {"train": 0.6, "val": 0.1, "calib": 0.1, "test": 0.2}


def records(n=240, classes=4, size=2, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, size=n // size).repeat(size)
    return pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(n)],
            "group": [f"g{i // size}" for i in range(n)],
            "hash": [f"h{i}" for i in range(n)],
            "label": [f"c{i}" for i in label],
            "given": "",
        }
    )


def tables(found, folds=5, **options):
    options = {"fractions": FRACTIONS, "seed": 3} | options
    return [make_folds(found, folds=folds, fold=k, **options) for k in range(folds)]


def test_every_record_is_tested_once_and_no_group_crosses():
    found = records()
    each = tables(found)
    tested = np.stack([table["part"] == "test" for table in each])
    assert (tested.sum(axis=0) == 1).all()
    for table in each:
        assert list(table["id"]) == list(found["id"]) and list(table["hash"]) == list(found["hash"])
        assert (table.groupby("group")["part"].nunique() == 1).all()
        assert set(table["part"]) == {"train", "val", "calib", "test"}
        shares = table["part"].value_counts(normalize=True)
        assert shares["test"] == pytest.approx(0.2, abs=0.03)
        assert shares["train"] == pytest.approx(0.6, abs=0.03)  # 0.8 of the rest, as 0.6 : 0.1 : 0.1 says


def test_classes_are_alike_in_every_fold():
    found = records(400)
    whole = found["label"].value_counts(normalize=True)
    for table in tables(found):
        share = table.loc[table["part"] == "test", "label"].value_counts(normalize=True)
        assert (share - whole).abs().max() < 0.03


def test_folds_follow_from_the_seed_and_not_from_the_order():
    found = records()
    mixed = found.sample(frac=1, random_state=1).reset_index(drop=True)
    for a, b in zip(tables(found), tables(mixed), strict=True):
        assert dict(zip(a["id"], a["part"], strict=True)) == dict(zip(b["id"], b["part"], strict=True))
        assert list(b["id"]) == list(mixed["id"])
    other = tables(found, seed=4)
    assert any((a["part"] != b["part"]).any() for a, b in zip(tables(found), other, strict=True))


def test_rows_may_be_drawn_without_groups():
    found = records(240, size=6)
    free = tables(found, group_aware=False)
    assert max((table.groupby("group")["part"].nunique()).max() for table in free) > 1
    assert sum((table["part"] == "test").to_numpy() for table in free).tolist() == [1] * 240
    assert list(free[0]["group"]) == list(found["group"])


def test_a_rare_class_is_no_warning():
    found = records()
    found.loc[:3, "label"] = "rare"
    assert sum((table["part"] == "test").to_numpy() for table in tables(found)).tolist() == [1] * 240


def test_what_cannot_be_folded_is_refused():
    found = records()
    with pytest.raises(DataError, match=r"gives a test part.*use_given to false"):
        tables(found.assign(given=["test"] * 40 + [""] * 200))
    with pytest.raises(DataError, match="5 folds need as many groups, the data have 4"):
        tables(records(8, size=2))
    with pytest.raises(DataError, match="no class has 5 samples"):
        tables(records(8, size=1).assign(label=list("aabbccdd")))


def test_the_callback_draws_its_fold(tmp_path):
    tested = []
    for k in range(3):
        split = StratifiedSplit(folds=3, fold=k, seed=1)
        fit(tmp_path / str(k), split, TinyData())
        tested += split.table.loc[split.table["part"] == "test", "id"].tolist()
    assert sorted(tested) == sorted(TinyData().records["id"])
    with pytest.raises(DataError, match="holds another split than the one asked for"):
        fit(tmp_path / "0", StratifiedSplit(folds=3, fold=1, seed=1), TinyData())


def test_given_parts_may_be_left_out(tmp_path):
    with pytest.raises(DataError, match="gives a test part"):
        fit(tmp_path / "a", StratifiedSplit(folds=3), TinyData(given_test=True))
    fit(tmp_path / "b", StratifiedSplit(folds=3, use_given=False), TinyData(given_test=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 1}, "folds=1"),
        ({"folds": -2}, "folds=-2"),
        ({"folds": 3, "fold": 3}, "fold=3"),
        ({"fold": 1}, "fold=1"),
        ({"folds": 3, "path": "split.csv"}, "exclude each other"),
    ],
)
def test_wrong_settings(options, said):
    with pytest.raises(ValueError, match=said):
        StratifiedSplit(**options)
