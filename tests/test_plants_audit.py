"""The audit says, with numbers, what ruins validation: separate class maps do, a random split hardly does."""

import json
import random

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.split_diagnosis import facts_of, shuffled, stated_indices
from tests.running import code


def table(train, val):
    rows = [(name, "train") for name in train] + [(name, "val") for name in val]
    frame = pd.DataFrame(rows, columns=["label", "part"])
    return frame.assign(group=[f"g{i}" for i in range(len(frame))])


def test_facts_by_hand():
    found = facts_of(table(["a", "a", "b", "c", "d"], ["a", "c", "c", "e"]))
    assert (found.train_images, found.val_images, found.train_classes, found.val_classes) == (5, 4, 4, 3)
    assert (found.shared_classes, found.val_only_classes, found.val_only_images) == (2, 1, 0.25)
    assert found.never_validated == 0.5 and found.train_singletons == 0.75 and found.val_singletons == 2 / 3
    assert found.train_mean == 1.25 and found.val_mean == 4 / 3
    assert found.ceiling == 0.75
    assert found.same_index == 1 and found.ceiling_separate == 0.25  # a is 0 in both maps; c is 2, then 1
    assert found.twins == 0
    copied = table(["a", "b"], ["a", "b"]).assign(group=["x", "y", "x", "z"])
    assert facts_of(copied).twins == 0.5
    with pytest.raises(ValueError, match="train and val"):
        facts_of(table(["a"], []))


def test_the_numbers_of_the_brief_come_out_and_clear_the_random_split():
    """118,126 images of 5,914 species, 1,504 of them with one image and 913 with two, dealt out at random."""
    rng = np.random.default_rng(0)
    share = np.exp(rng.normal(0, 1.4, 3497))
    left = 118_126 - 1504 - 2 * 913
    counts = 3 + np.floor(share / share.sum() * (left - 3 * 3497)).astype(int)
    counts[0] += left - counts.sum()
    names = np.array(["".join(word) for word in rng.choice(list("abcdefghijklmnopqrst"), (5914, 8))])
    labels = np.repeat(names, [*[1] * 1504, *[2] * 913, *counts])
    parts = np.array(["train"] * 94_500 + ["val"] * 11_812 + ["test"] * 11_814)
    rows = pd.DataFrame({"label": labels, "part": parts, "group": np.arange(len(labels)).astype(str)})
    found = facts_of(shuffled(rows, 0))
    assert found.train_classes == pytest.approx(5578, rel=0.02) and found.val_classes == pytest.approx(2685, rel=0.06)
    assert found.train_singletons == pytest.approx(0.277, abs=0.02)
    assert found.val_singletons == pytest.approx(0.366, abs=0.06)
    assert found.train_mean == pytest.approx(16.9, abs=0.3)
    assert found.val_only_images == pytest.approx(0.017, abs=0.003)  # what the brief blames
    assert found.ceiling == pytest.approx(0.983, abs=0.003)
    assert found.ceiling_separate < 0.002  # what the brief saw: 0.03 %


def test_a_shuffle_keeps_the_sizes_of_the_parts():
    rows = table(list("abcdefgh") * 5, list("abcd") * 5)
    mixed = shuffled(rows, 3)
    assert (mixed["part"].value_counts() == rows["part"].value_counts()).all()
    assert (mixed["part"] != rows["part"]).any() and (mixed["label"] == rows["label"]).all()
    assert shuffled(rows, 3).equals(mixed) and not shuffled(rows, 4).equals(mixed)


def test_indices_that_the_parts_count_separately_are_found():
    rows = pd.DataFrame({"label": ["a", "b", "c", "b", "c", "z"], "class_index": ["0", "1", "2", "0", "2", "9"]})
    parts = ["train"] * 3 + ["val"] * 3
    assert stated_indices(rows, parts) == (2, 1, ["b: 1 in train, 0 in val"])
    assert stated_indices(rows.assign(class_index=""), parts) == (0, 0, [])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The synthetic plants, their stratified split written as files."""
    base = tmp_path_factory.mktemp("audit")
    folder = base / "split"
    words = ["audit", "--runs", str(base), "--name", "a", "--write_split", str(folder), "--data.simple_models", "false"]
    assert code(words, system="plants") == 0
    return base, folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_audit_explains_the_split(written):
    base, _ = written
    page = (base / "plants" / "a" / "audit" / "AUDIT.md").read_text(encoding="utf-8")
    facts = json.loads((base / "plants" / "a" / "audit" / "audit.json").read_text(encoding="utf-8"))["explained"]
    assert "## What ruins validation" in page and "one class map" in page
    own, mixed = facts["this split"], facts["a random split"]
    assert own["ceiling"] == 1 and own["val_only_classes"] == 0 and own["twins"] == 0
    assert mixed["twins"] > 0  # planted copies, which a random split divides
    assert own == facts["the stratified split, copies together"] or own["train_images"] > 0
    assert f"**{own['ceiling_separate']:.2%}**" in page


def test_the_split_comes_back_as_it_was_written(written, tmp_path):
    _, folder = written
    split = {path.stem: lines(path) for path in sorted(folder.glob("*.jsonl"))}
    assert {"train", "val", "test"} <= set(split)
    ids = {line["id"]: part for part, rows in split.items() for line in rows}
    with Image.open(folder / split["train"][0]["path"]) as picture:
        assert picture.size == (37, 37)
    owed = pd.read_csv(folder / "ATTRIBUTION.csv", keep_default_na=False)
    assert set(owed["id"]) == {
        line["id"] for rows in split.values() for line in rows if line.get("license", "") not in ("CC0",)
    }
    again = tmp_path / "again"
    words = ["audit", "--data.path", str(folder), "--write_split", str(again), "--data.simple_models", "false"]
    assert code(words, system="plants") == 0
    for part, rows in split.items():
        back = lines(again / f"{part}.jsonl")
        assert [line["id"] for line in back] == [line["id"] for line in rows]
        assert [line["group"] for line in back] == [line["group"] for line in rows]
        assert all((again / line["path"]).resolve() == (folder / line["path"]).resolve() for line in back)
    assert len(ids) == sum(map(len, split.values()))
    assert code(words, system="plants") == 3  # never over a split that is there


def test_a_random_split_with_separate_class_maps_is_explained_before_it_is_refused(written, tmp_path, capsys):
    _, folder = written
    pool = [line for path in sorted(folder.glob("*.jsonl")) for line in lines(path)]
    pool.append(pool[0] | {"id": "only", "latin_name": "Zea only", "group": "only"})
    random.Random(0).shuffle(pool)
    pool.sort(key=lambda line: line["id"] != "only")  # the one of its class is validated, as by chance
    for part, rows in {"val": pool[:40], "train": pool[40:]}.items():
        names = sorted({line["latin_name"] for line in rows})
        kept = ("id", "latin_name", "group")
        out = [
            {k: line[k] for k in kept}
            | {"path": str((folder / line["path"]).resolve()), "class_idx": names.index(line["latin_name"])}
            for line in rows
        ]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in out), encoding="utf-8")
    words = ["audit", "--data.path", str(tmp_path), "--name", "mixed", "--data.conflicts", "keep"]
    assert (
        code(
            [*words, "--split.test", "0", "--split.calib", "0", "--split.train", "0.8", "--split.val", "0.2"],
            system="plants",
        )
        == 3
    )
    said = capsys.readouterr()
    assert "class 'Zea only' is given for val only" in said.err
    assert "**The source counts its classes separately:" in said.out
    page = (tmp_path / "runs" / "plants" / "mixed" / "audit" / "AUDIT.md").read_text(encoding="utf-8")
    assert "What ruins validation" in page and "val images with a copy in train" in page
