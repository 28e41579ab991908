"""The split table: supports of the brief, groups, rare classes, given parts, files."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.splits import COLUMNS, _train_every_class, make_split, read_split, split_hash, write_split

FRACTIONS = {"train": 0.64, "val": 0.16, "calib": 0.0, "test": 0.20}
BRIEF_COUNTS = [78, 10, 22, 22, 18, 18, 28, 18, 22, 16, 12, 18, 28, 24, 28, 18, 18, 82, 76, 18, 28, 18, 18, 22, 18,
                68, 22, 64, 18, 18]  # fmt: skip
BRIEF_TEST = [16, 2, 4, 4, 3, 3, 6, 4, 4, 3, 2, 3, 6, 5, 6, 4, 3, 16, 15, 4, 6, 4, 4, 4, 4, 14, 4, 13, 4, 4]


def make_records(labels, groups=None, given_parts=None):
    ids = [f"row{i}" for i in range(len(labels))]
    return pd.DataFrame(
        {
            "id": ids,
            "group": ids if groups is None else [str(group) for group in groups],
            "hash": [hashlib.sha256(name.encode()).hexdigest() for name in ids],
            "label": [str(label) for label in labels],
            "given": [""] * len(labels) if given_parts is None else list(given_parts),
        }
    )


def sizes(table):
    return table["part"].value_counts().to_dict()


labelled_groups = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=12, max_size=60)


def test_brief_is_reproduced_row_by_row():
    from sklearn.model_selection import train_test_split

    y = np.random.default_rng(0).permutation(np.repeat(np.arange(30), BRIEF_COUNTS))
    table = make_split(make_records([f"{c:02d}" for c in y]), fractions=FRACTIONS, seed=42, group_aware=False)
    assert sizes(table) == {"train": 555, "val": 139, "test": 174}
    support = table[table["part"] == "test"]["label"].value_counts().sort_index()
    assert support.tolist() == BRIEF_TEST
    rest, test = train_test_split(np.arange(868), test_size=0.2, random_state=42, stratify=y)
    _, val = train_test_split(rest, test_size=0.2, random_state=42, stratify=y[rest])
    assert set(np.flatnonzero(table["part"] == "test")) == set(test)
    assert set(np.flatnonzero(table["part"] == "val")) == set(val)


def test_pairs_of_the_brief_cross_by_rows_and_not_by_groups():
    labels = np.repeat([f"{c:02d}" for c in range(30)], BRIEF_COUNTS)
    records = make_records(labels, np.arange(868) // 2)
    by_row = make_split(records, fractions=FRACTIONS, seed=42, group_aware=False)
    by_group = make_split(records, fractions=FRACTIONS, seed=42)
    assert (by_row.groupby("group")["part"].nunique() > 1).sum() > 100
    assert (by_group.groupby("group")["part"].nunique() == 1).all()
    share = by_group["part"].value_counts(normalize=True)
    assert abs(share["test"] - 0.20) < 0.03 and abs(share["val"] - 0.16) < 0.03


@settings(max_examples=60, deadline=None)
@given(labelled_groups, st.integers(0, 3), st.sampled_from([0.0, 0.1]))
def test_pure_groups_keep_every_promise(spec, seed, calib):
    labels = [label for label, size in spec for _ in range(size)]
    groups = [g for g, (_, size) in enumerate(spec) for _ in range(size)]
    fractions = {"train": 0.6 - calib, "val": 0.2, "calib": calib, "test": 0.2}
    records = make_records(labels, groups)
    try:
        table = make_split(records, fractions=fractions, seed=seed)
    except DataError as error:
        assert "no row is left" in str(error)  # few groups a class: a part may stay empty, and then it is refused
        return
    assert table["id"].tolist() == records["id"].tolist() and list(table.columns) == list(COLUMNS)
    assert table["part"].isin(["train", "val", "calib", "test"]).all()
    assert (table.groupby("group")["part"].nunique() == 1).all()
    for _, rows in table.groupby("label"):
        n, parts = rows["group"].nunique(), set(rows["part"])
        assert {1: parts == {"train"}, 2: parts == {"train", "val"}}.get(n, parts >= {"train", "val", "test"})
    shuffled = records.sample(frac=1, random_state=seed)
    again = make_split(shuffled, fractions=fractions, seed=seed)
    assert again["id"].tolist() == shuffled["id"].tolist()
    assert split_hash(again) == split_hash(table)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=20, max_size=80), st.integers(0, 3))
def test_rows_keep_the_rare_rules_and_ignore_the_order(labels, seed):
    records = make_records([*labels, "one", "two", "two", "three", "three", "three"])
    table = make_split(records, fractions=FRACTIONS, seed=seed, group_aware=False)
    parts = table.groupby("label")["part"].agg(set)
    assert parts["one"] == {"train"} and parts["two"] == {"train", "val"} and parts["three"] == {"train", "val", "test"}
    shuffled = make_split(records[::-1], fractions=FRACTIONS, seed=seed, group_aware=False)
    assert split_hash(shuffled) == split_hash(table)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_groups_that_mix_labels_do_not_cross(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 12, 200)
    records = make_records(rng.integers(0, 5, 200), groups)
    table = make_split(records, fractions=FRACTIONS, seed=seed)
    assert (table.groupby("group")["part"].nunique() == 1).all()
    covered = table.groupby("label")["part"].agg(set)
    assert all(parts >= {"train", "val", "test"} for parts in covered)
    shuffled = make_split(records.sample(frac=1, random_state=seed), fractions=FRACTIONS, seed=seed)
    assert split_hash(shuffled) == split_hash(table)
    assert abs((table["part"] == "test").mean() - 0.2) < 0.12


def test_subjects_are_stratified_like_the_targets():
    labels = [c for _ in range(25) for c in range(7) for _ in range(10)]
    table = make_split(make_records(labels, np.arange(1750) // 70), fractions=FRACTIONS, seed=0)
    assert sizes(table) == {"train": 16 * 70, "val": 4 * 70, "test": 5 * 70}
    assert (table.groupby(["part", "label"]).size().groupby("part").nunique() == 1).all()


def test_a_rare_class_inside_a_mixed_group_is_trained_on():
    rng = np.random.default_rng(1)
    labels, groups = rng.integers(0, 4, 300).astype(str), np.repeat(np.arange(15), 20)
    labels[groups == 3] = np.where(np.arange(20) % 5 == 0, "rare", labels[groups == 3])
    for seed in range(10):
        table = make_split(make_records(labels, groups), fractions=FRACTIONS, seed=seed)
        assert set(table[table["label"] == "rare"]["part"]) == {"train"}


def test_seed_and_fractions_change_the_table():
    records = make_records(np.arange(200) % 4)
    first = make_split(records, fractions=FRACTIONS, seed=0)
    assert split_hash(first) == split_hash(make_split(records, fractions=FRACTIONS, seed=0))
    assert split_hash(first) != split_hash(make_split(records, fractions=FRACTIONS, seed=1))
    other = make_split(records, fractions={"train": 0.5, "val": 0.25, "test": 0.25}, seed=0)
    assert sizes(other) == {"train": 100, "val": 52, "test": 48} or sizes(other)["train"] == 100


def test_given_test_stays_and_validation_is_carved_from_given_train():
    groups = np.arange(280) // 10
    given_parts = ["test" if group >= 20 else "train" for group in groups]
    records = make_records(np.arange(280) % 5, groups, given_parts)
    table = make_split(records, fractions=FRACTIONS, seed=0)
    assert ((table["part"] == "test") == (records["given"] == "test")).all()
    assert sizes(table) == {"train": 160, "val": 40, "test": 80}
    with_calib = make_split(records, fractions={"train": 0.5, "val": 0.1, "calib": 0.2, "test": 0.2}, seed=0)
    assert sizes(with_calib)["calib"] == 50 and sizes(with_calib)["test"] == 80


def test_all_parts_given_are_kept_and_free_rows_follow_their_group():
    given_parts = ["train"] * 6 + ["val"] * 3 + ["test"] * 2 + [""]
    records = make_records(["a", "b"] * 6, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 9], given_parts)
    table = make_split(records, fractions=FRACTIONS, seed=0)
    assert table["part"].tolist() == ["train"] * 6 + ["val"] * 3 + ["test"] * 3


def test_class_only_in_test_is_kept_and_class_only_in_given_val_is_refused():
    labels = ["a"] * 10 + ["new"] * 2
    kept = make_split(make_records(labels, None, ["train"] * 10 + ["test"] * 2), fractions=FRACTIONS, seed=0)
    assert set(kept[kept["label"] == "new"]["part"]) == {"test"}
    records = make_records(["a"] * 12 + ["new"] * 2, None, ["train"] * 10 + ["test"] * 2 + ["val"] * 2)
    with pytest.raises(DataError, match=r"'new' is given for val only.*use_given"):
        make_split(records, fractions=FRACTIONS, seed=0)


def test_class_that_only_validation_would_see_moves_to_train_with_its_group():
    records = make_records(["a", "a", "a", "new", "a", "new"], [0, 1, 2, 2, 3, 4])
    part = np.array(["train", "val", "val", "val", "test", "test"], dtype=object)
    assert _train_every_class(records, part, np.full(6, True), group_aware=True) == ["new"]
    assert part.tolist() == ["train", "val", "train", "train", "test", "test"]


def test_classes_bound_to_subjects_are_refused_with_the_cause():
    labels = [f"{group}{i % 2}" for group in range(8) for i in range(10)]
    with pytest.raises(DataError, match=r"2 classes would be in validation only.*no row is left for part 'val'"):
        make_split(make_records(labels, np.repeat(np.arange(8), 10)), fractions=FRACTIONS, seed=0)


def test_every_part_gets_a_group_where_there_are_enough():
    labels = ["x" if i % 2 or group == 5 else f"own{group % 3}" for group in range(6) for i in range(10)]
    for seed in range(10):
        table = make_split(make_records(labels, np.repeat(np.arange(6), 10)), fractions=FRACTIONS, seed=seed)
        assert set(table["part"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("fractions", "match"),
    [
        ({"train": 0.5, "val": 0.1}, "sum to 0.6"),
        ({"train": 0.0, "val": 0.5, "test": 0.5}, "train is 0"),
        ({"train": 1.2, "val": -0.2}, ">= 0"),
        ({"train": 0.8, "dev": 0.2}, "unknown parts.*dev"),
        ({"train": float("nan"), "val": 0.5}, "numbers"),
    ],
)
def test_bad_fractions_are_refused(fractions, match):
    with pytest.raises(DataError, match=match):
        make_split(make_records(["a"] * 10), fractions=fractions, seed=0)


def test_bad_records_are_refused():
    records = make_records(["a", "b"] * 5)
    with pytest.raises(DataError, match="'row0' occurs more than once"):
        make_split(records.assign(id="row0"), fractions=FRACTIONS, seed=0)
    with pytest.raises(DataError, match="'dev'"):
        make_split(records.assign(given="dev"), fractions=FRACTIONS, seed=0)
    with pytest.raises(DataError, match="no records"):
        make_split(records[:0], fractions=FRACTIONS, seed=0)
    with pytest.raises(DataError, match=r"lack the columns.*hash"):
        make_split(records.drop(columns="hash"), fractions=FRACTIONS, seed=0)
    with pytest.raises(DataError, match="seed must be"):
        make_split(records, fractions=FRACTIONS, seed=-1)
    with pytest.raises(DataError, match=r"no row is left for part 'val'.*1 groups"):
        make_split(records.assign(group="g"), fractions=FRACTIONS, seed=0)


def test_a_written_table_reads_back_the_same(tmp_path):
    records = make_records(["NA", 'b, "c"', "ñ"] * 10, np.arange(30) // 3)
    table = make_split(records, fractions=FRACTIONS, seed=0)
    write_split(table, tmp_path / "split.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["split.csv"]
    back = read_split(tmp_path / "split.csv", records[::-1])
    assert back["id"].tolist() == records["id"].tolist()[::-1]
    assert split_hash(back) == split_hash(table)
    pd.testing.assert_frame_equal(back[::-1].reset_index(drop=True), table, check_dtype=False)


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("hash", "0" * 64, r"split.csv, line 5: id 'row3' has another hash.*draw a new split"),
        ("part", "dev", r"line 5: id 'row3' has an unknown part"),
        ("id", "row2", r"line 5: id 'row2' is listed twice"),
        ("id", "other", r"line 5: id 'other' is not in the data"),
        ("group", "g", r"line 5: id 'row3' has another group"),
        ("label", "z", r"line 5: id 'row3' has another label"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_line(tmp_path, column, value, match):
    records = make_records(np.arange(30) % 3)
    table = make_split(records, fractions=FRACTIONS, seed=0)
    table.loc[3, column] = value
    write_split(table, tmp_path / "split.csv")
    with pytest.raises(DataError, match=match):
        read_split(tmp_path / "split.csv", records)


def test_a_file_with_gaps_is_refused(tmp_path):
    records = make_records(["a"] * 20 + ["b"] * 10)
    table = make_split(records, fractions=FRACTIONS, seed=0)
    path = tmp_path / "split.csv"
    with pytest.raises(DataError, match=r"split\.csv: cannot be read"):
        read_split(path, records)
    write_split(table[1:], path)
    with pytest.raises(DataError, match="no line for record 'row0'"):
        read_split(path, records)
    write_split(table.assign(part="train"), path)
    with pytest.raises(DataError, match="no row is left for part 'val'"):
        read_split(path, records)
    write_split(table.assign(part=np.where(table["label"] == "b", "val", "train")), path)
    with pytest.raises(DataError, match="class 'b' has validation or calibration rows but no training row"):
        read_split(path, records)
    path.write_text("id,part\nrow0,train\n")
    with pytest.raises(DataError, match=r"column.*hash.*missing"):
        read_split(path, records)


def test_rounding_down_is_the_long_tail_rule_of_the_plants_brief():
    """1 -> train; 2 -> train and val; n >= 3 -> max(1, floor(n / 10)) to val and to test, the rest to train."""
    counts = {f"species {n}": n for n in [*range(1, 41), 100, 199]}
    ids = [f"{name}-{i}" for name, n in counts.items() for i in range(n)]
    labels = [name for name, n in counts.items() for _ in range(n)]
    records = pd.DataFrame({"id": ids, "group": ids, "hash": "", "label": labels, "given": ""})
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    table = make_split(records, fractions=shares, seed=42, rounding="down")
    found = pd.crosstab(table["label"], table["part"])
    for name, n in counts.items():
        held = max(1, n // 10)
        val, test = (held, held) if n >= 3 else (int(n == 2), 0)
        assert found.loc[name, ["train", "val", "test"]].tolist() == [n - val - test, val, test], name
    nearest = make_split(records, fractions=shares, seed=42)
    assert pd.crosstab(nearest["label"], nearest["part"]).loc["species 19", "val"] == 2  # and not 1
