"""The audit: every planted fault is named, clean data stay quiet."""

import json

import numpy as np
import pandas as pd
import pytest

from datamodules.audit import audit
from datamodules.near_duplicates import near_pairs
from datamodules.splits import make_split

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def make_records(labels, groups=None):
    ids = [f"s{i}" for i in range(len(labels))]
    return pd.DataFrame(
        {
            "id": ids,
            "group": ids if groups is None else [str(group) for group in groups],
            "hash": [f"h{i}" for i in range(len(labels))],
            "label": [str(label) for label in labels],
            "given": "",
        }
    )


def kinds(report, severity=None):
    return {finding.kind for finding in report.findings if severity in (None, finding.severity)}


def recordings(n_classes=8, per_class=20, frames=16, width=12, seed=0):
    """Smooth trajectories around a class template, (N, T, F), as different people would perform them."""
    rng = np.random.default_rng(seed)
    time_axis = np.linspace(0, 1, frames)[None, :, None]
    out, labels = [], []
    for c in range(n_classes):
        slow = rng.normal(size=(3, 1, width)) * 2
        for _ in range(per_class):
            w = slow + 0.5 * rng.normal(size=(3, 1, width))
            wave = w[0] + w[1] * np.sin(3 * time_axis[0] + rng.normal()) + w[2] * time_axis[0]
            out.append(wave + 0.02 * rng.normal(size=(frames, width)))
            labels.append(c)
    return np.array(out), np.array(labels)


def second_take(x, rng):
    """The same recording, slightly warped in time and with a little noise."""
    n = x.shape[1]
    takes = []
    for one in x:
        u = np.linspace(0, 1, n)
        at = (u + rng.uniform(-0.02, 0.02) * np.sin(np.pi * u)) * (n - 1)
        low = np.clip(np.floor(at).astype(int), 0, n - 2)
        share = (at - low)[:, None]
        takes.append(one[low] * (1 - share) + one[low + 1] * share + rng.normal(0, 0.02, one.shape))
    return np.array(takes)


@pytest.fixture(scope="module")
def twins():
    x, labels = recordings()
    x = np.concatenate([x, second_take(x, np.random.default_rng(5))])
    return x.reshape(len(x), -1), np.tile(labels, 2), np.tile(np.arange(len(labels)), 2)


def test_clean_data_have_no_leak_and_no_warning():
    records = make_records(np.repeat(np.arange(4), 40), np.arange(160) // 2)
    table = make_split(records, fractions=FRACTIONS, seed=0)
    x, _ = recordings(4, 40)
    report = audit(records, table, x.reshape(160, -1), [str(c) for c in range(4)])
    assert report.findings == [] and report.leaks == [] and report.imbalance == 1.0
    assert report.parts["rows"].sum() == 160 and report.class_counts.to_numpy().sum() == 160


def test_second_takes_across_parts_are_found_without_groups(twins):
    x, labels, _ = twins
    records = make_records(labels)
    table = make_split(records, fractions=FRACTIONS, seed=0, group_aware=False)
    part = table["part"].to_numpy()
    half = len(x) // 2
    crossing = {(f"s{i}", f"s{i + half}") for i in range(half) if part[i] != part[i + half]}
    assert len(crossing) > 50
    (leak,) = audit(records, table, x).leaks
    assert leak.kind == "near_duplicate"
    assert abs(leak.count - len(crossing)) <= 0.03 * len(crossing)
    named = {tuple(sorted((line.split(" ")[0], line.split("~ ")[1].split(" ")[0]), key=lambda s: int(s[1:])))
             for line in leak.examples}  # fmt: skip
    assert len(named & crossing) >= 0.97 * len(named)


def test_second_takes_inside_one_part_are_no_leak(twins):
    x, labels, pair = twins
    records = make_records(labels, pair)
    assert not audit(records, make_split(records, fractions=FRACTIONS, seed=0), x).leaks


def test_a_handful_of_twins_is_found_among_many(twins):
    x, labels, _ = twins
    half = len(x) // 2
    x, labels = x[: half + 6], labels[: half + 6]  # second takes of the first six recordings only
    parts = np.where(np.arange(len(x)) < half, "train", "test")
    pairs = near_pairs(x, labels, np.arange(len(x)), parts)
    found = {tuple(sorted(row)) for row in pairs.rows[pairs.leak].tolist()}
    assert found <= {(i, half + i) for i in range(6)} and len(found) >= 5


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e5])
def test_units_and_offsets_do_not_matter(twins, factor):
    x, labels, _ = twins
    parts = np.where(np.arange(len(x)) % 3 == 0, "test", "train")
    expected = near_pairs(x, labels, np.arange(len(x)), parts).leak.sum()
    assert expected > 0
    assert near_pairs(x * factor + 3 * factor, labels, np.arange(len(x)), parts).leak.sum() == expected


def test_genuinely_different_samples_raise_no_alarm():
    alarms = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n, width = int(rng.integers(20, 250)), int(rng.integers(2, 40))
        labels = rng.integers(0, 5, n)
        centres, spread = rng.normal(size=(5, width)) * rng.uniform(0, 5), rng.uniform(0.2, 3, 5)
        x = centres[labels] + rng.normal(size=(n, width)) * spread[labels][:, None]
        alarms += near_pairs(x, labels, np.arange(n), rng.choice(["train", "test"], n)).leak.any()
    assert alarms == 0


def test_twins_among_ten_thousand_records_are_found():
    rng = np.random.default_rng(0)
    records = make_records(np.arange(10_000) % 30)
    table = make_split(records, fractions=FRACTIONS, seed=0)
    x = rng.normal(size=(10_000, 64)).astype(np.float32)
    x[-20:] = x[:20] + 0.01  # same classes: 9,980 is a multiple of 30 less ten
    report = audit(records, table, x)
    part = table["part"].to_numpy()
    assert {f.kind: f.count for f in report.leaks} == {"near_duplicate": int((part[:20] != part[-20:]).sum())}


def test_odd_signatures_are_survived():
    labels = np.arange(12) % 2
    parts = np.array(["train", "test"] * 6)
    assert len(near_pairs(np.zeros((12, 4)), labels, np.arange(12), parts).rows) == 0
    assert len(near_pairs(np.ones((2, 4)), labels[:2], np.arange(2), parts[:2]).rows) == 0
    records = make_records(labels)
    x = np.random.default_rng(0).normal(size=(12, 4))
    x[3] = np.nan
    table = records.assign(part=parts)
    assert not audit(records, table, x).leaks
    with pytest.raises(ValueError, match="11 signatures for 12 records"):
        audit(records, table, x[:11])
    assert "near_duplicates_not_searched" in kinds(audit(records, table), "info")


def test_crossing_groups_and_contents_are_leaks_and_named():
    records = make_records(["a", "b"] * 10, np.arange(20))
    records.loc[[0, 5], "group"] = "person-1"
    records.loc[[2, 8], "hash"] = "same"
    table = records.assign(part="train")
    table.loc[[5, 8], "part"] = "test"
    leaks = {finding.kind: finding for finding in audit(records, table[::-1]).leaks}
    assert set(leaks) == {"group_crosses_parts", "content_crosses_parts"}
    assert leaks["group_crosses_parts"].rows == ["s0", "s5"]
    assert leaks["group_crosses_parts"].examples == ["person-1: s5 (test), s0 (train)"]
    assert leaks["content_crosses_parts"].examples == ["s8 (test), s2 (train)"]
    assert "group_aware" in str(leaks["group_crosses_parts"]) and "s5 (test)" in str(leaks["group_crosses_parts"])
    table.loc[[5, 8], "part"] = "dropped"
    assert not audit(records, table).leaks


def test_duplicate_ids_conflicting_labels_and_copies():
    records = make_records(["a", "b"] * 5)
    table = records.assign(part="train")
    records.loc[[0, 1], "hash"] = "same"
    report = audit(records, table)
    (conflict,) = [finding for finding in report.findings if finding.kind == "label_conflict"]
    assert conflict.severity == "warning" and conflict.examples == ["s0 = a, s1 = b"]
    assert "copies_in_part" in kinds(report, "info") and not report.leaks
    records.loc[1, "id"] = "s0"
    assert "duplicate_id" in kinds(audit(records, table), "leak")


def test_class_support():
    labels = ["a"] * 8 + ["b"] * 4 + ["c"] * 2 + ["d"] * 2
    records = make_records(labels)
    parts = ["train"] * 3 + ["val"] * 3 + ["test"] * 2 + ["train"] * 3 + ["val"] + ["test"] * 2 + ["val", "train"]
    table = records.assign(part=parts)
    report = audit(records, table, class_names=["d", "c", "b", "a"])
    assert kinds(report, "warning") == {"class_only_in_test"}
    assert {"few_in_val", "few_in_test"} <= kinds(report, "info")
    assert report.class_counts.index.tolist() == ["d", "c", "b", "a"]
    assert report.class_counts.loc["a"].to_dict() == {"train": 3, "val": 3, "calib": 0, "test": 2}
    assert report.imbalance == 3.0
    table["part"] = ["train"] * 8 + ["val"] * 4 + ["train"] * 4
    assert kinds(audit(records, table), "warning") == {"class_only_in_val", "class_never_validated"}


def test_the_report_is_readable_and_serialisable():
    records = make_records(["a|b", "c"] * 15, np.arange(30) // 5)
    table = make_split(records, fractions=FRACTIONS, seed=0, group_aware=False)
    report = audit(records, table)
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["leaks"] == 1 and stored["class_counts"]["c"]["train"] == 9 and stored["parts"]["train"]["rows"] == 18
    page = report.to_markdown()
    assert "1 leak(s)" in page and "| a\\|b | 9 | 3 | 0 | 3 |" in page and "| train | 18 |" in page
    clean = audit(records, make_split(records, fractions=FRACTIONS, seed=0))
    assert "No leak was found." in clean.to_markdown()
