"""Rows added to train after the split, sample weights, and prediction of the run's own parts."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset

from datamodules.base import IGNORE, SplitDataModule
from datamodules.errors import DataError
from datamodules.splits import make_split
from tests.running import run
from tests.test_curriculum import split_signs


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


class Rows(Dataset):
    """Batches of row numbers."""

    def __init__(self, data):
        self.data = data

    def __getitems__(self, batch):
        rows = np.array(batch.indices)
        real = np.arange(len(rows)) < batch.real
        return {
            "x": torch.tensor([[len(self.data.texts[row])] for row in rows]),
            "id": torch.from_numpy(np.where(real, rows, -1)),
            "y": torch.from_numpy(np.where(real, self.data.y[rows], IGNORE)),
            "weight": torch.from_numpy(np.where(real, batch.weight, 0).astype(np.float32)),
        }


class Words(SplitDataModule):
    """Forty words in twenty groups and two classes."""

    def read_records(self):
        self.source_classes = ["even", "odd"]
        self.texts = ["w" * (i + 1) for i in range(40)]
        return pd.DataFrame(
            {
                "id": [f"r{i}" for i in range(40)],
                "group": [f"g{i // 2}" for i in range(40)],
                "hash": [digest(text) for text in self.texts],
                "label": [["even", "odd"][i // 2 % 2] for i in range(40)],
                "given": "",
                "text": self.texts,
            }
        )

    def lengths(self):
        return np.array([len(text) for text in self.texts])

    def rows_added(self, rows):
        self.texts = self.texts[:40] if rows is None else [*self.texts, *rows["text"]]

    def dataset(self, indices, train):
        return Rows(self)


def words(**options):
    data = Words(batch_size=8, **options)
    data.setup("fit")
    fractions = {"train": 0.5, "val": 0.2, "calib": 0.1, "test": 0.2}
    data.apply_split(make_split(data.records, fractions=fractions, seed=0))
    return data


def copies(data, rows, **changes):
    records = data.records.iloc[rows]
    made = pd.DataFrame(
        {
            "id": [f"{name}#1" for name in records["id"]],
            "augmented_from": records["id"].tolist(),
            "label": records["label"].tolist(),
            "text": [f"{text}!" for text in records["text"]],
        }
    )
    return made.assign(hash=made["text"].map(digest)).assign(**changes)


def test_added_rows_are_trained_on_and_nothing_else_changes():
    data = words()
    train, held = data.indices("train"), {part: data.indices(part) for part in ("val", "calib", "test")}
    counts = data.class_counts("train")
    assert data.extend_train(copies(data, train[:5])) == 5
    assert data.extend_train(copies(data, train[:2], id=["p", "q"])) == 2
    assert data.indices("train").tolist() == [*train, *range(40, 47)]
    assert all((data.indices(part) == rows).all() for part, rows in held.items())
    assert data.class_counts("train").sum() == counts.sum() + 7
    assert data.records["augmented_from"].tolist()[38:42] == ["", "", "r" + str(train[0]), "r" + str(train[1])]
    assert data.table["group"].tolist()[40] == data.records["group"][train[0]]
    seen = sorted(i for batch in data.train_dataloader() for i in batch["id"].tolist() if i >= 0)
    assert seen == [*train, *range(40, 47)]
    batch = next(iter(data.train_dataloader()))
    assert batch["x"][:, 0].tolist() == [len(data.texts[i]) for i in batch["id"].tolist()]
    judged = sorted(i for batch in data.test_dataloader() for i in batch["id"].tolist())
    assert judged == held["test"].tolist()
    assert data.extend_train(copies(data, [])) == 0


def test_the_next_stage_starts_without_added_rows():
    data = words()
    table = data.table
    data.extend_train(copies(data, data.indices("train")[:5]))
    data.setup("validate")
    assert len(data.records) == len(data.texts) == 40 and "augmented_from" not in data.records
    data.apply_split(table)
    data.extend_train(copies(data, data.indices("train")[:3]))
    assert len(data.records) == len(data.texts) == 43


def test_no_rows_before_the_split():
    data = Words()
    data.setup("fit")
    with pytest.raises(DataError, match="rows are only made, from training records, after the split"):
        data.extend_train(copies(data, [0]))


@pytest.mark.parametrize("part", ["val", "calib", "test"])
def test_rows_made_from_held_out_records_are_refused(part):
    data = words()
    with pytest.raises(DataError, match="was made from a record outside train"):
        data.extend_train(copies(data, data.indices(part)[:1]))
    assert len(data.records) == 40


@pytest.mark.parametrize("part", ["val", "calib", "test"])
@pytest.mark.parametrize("what", ["id", "hash", "group"])
def test_rows_from_elsewhere_that_are_held_out_are_refused(part, what):
    data = words()
    held = data.records.iloc[data.indices(part)[0]]
    rows = copies(data, data.indices("train")[:2], augmented_from="", source="crawl", **{what: held[what]})
    said = {"id": "is a record that", "hash": "has the content of a held-out", "group": "belongs to a group that is"}
    with pytest.raises(DataError, match=said[what]):
        data.extend_train(rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augmented_from": "nobody"}, "was made from a record that is not in the data"),
        ({"augmented_from": ""}, "names neither its origin nor its source"),
        ({"id": "same"}, r"'same' has the id of another record \(2 such rows\)"),
        ({"label": "third"}, "has a label that training does not know .* the classes are even, odd"),
    ],
)
def test_wrong_rows_are_refused(changes, said):
    data = words()
    with pytest.raises(DataError, match=said):
        data.extend_train(copies(data, data.indices("train")[:3], **changes))
    train = data.records["id"][data.indices("train")[1]]
    with pytest.raises(DataError, match="has the id of another record"):
        data.extend_train(copies(data, data.indices("train")[:1], id=train))
    with pytest.raises(DataError, match="lack the columns"):
        data.extend_train(pd.DataFrame({"id": ["x"]}))


def test_rows_from_elsewhere_are_their_own_group():
    data = words()
    data.extend_train(copies(data, data.indices("train")[:2], augmented_from="", source="crawl"))
    assert data.table["group"].tolist()[40:] == data.records["id"].tolist()[40:]


def test_data_that_cannot_take_rows_say_so():
    data = split_signs()
    first = data.records.iloc[data.indices("train")[:1]]
    with pytest.raises(DataError, match="SignsData cannot take added rows"):
        data.extend_train(first.assign(augmented_from=first["id"], id="copy", hash="x"))


def write_weights(path, ids, weights):
    pd.DataFrame({"id": ids, "weight": weights}).to_csv(path, index=False)
    return str(path)


def weights_by_row(data):
    found = {}
    for batch in data.train_dataloader():
        size = (batch["id"] >= 0).sum().item()
        found |= {i: w * size for i, w in zip(batch["id"].tolist(), batch["weight"].tolist(), strict=True)}
    return found


@pytest.mark.parametrize("make", [words, split_signs])
def test_sample_weights_count_in_training_only_and_keep_their_proportions(make, tmp_path):
    plain = make()
    ids, train = plain.records["id"].to_numpy(str), plain.indices("train")
    wanted = np.random.default_rng(0).random(len(train)) + 0.1
    path = write_weights(tmp_path / "w.csv", ids[train], wanted)
    data = make(sample_weights=path)
    found = weights_by_row(data)
    assert [found[i] for i in train.tolist()] == pytest.approx((wanted / wanted.mean()).tolist(), rel=1e-5)
    val = [batch["weight"] for batch in data.val_dataloader()]
    assert all(torch.equal(a, b["weight"]) for a, b in zip(val, plain.val_dataloader(), strict=True))


def test_made_rows_weigh_what_their_origin_does(tmp_path):
    data = words()
    train = data.indices("train")
    ids = data.records["id"].to_numpy(str)[train]
    data.sample_weights = write_weights(tmp_path / "w.csv", [*ids, "listed"], [3.0] + [1.0] * (len(ids) - 1) + [5.0])
    data.extend_train(copies(data, train[:2]))
    data.extend_train(copies(data, train[1:2], id="listed"))
    found = weights_by_row(data)
    assert found[40] / found[41] == pytest.approx(3) and found[42] / found[41] == pytest.approx(5)
    assert np.mean(list(found.values())) == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,weight\nr0,1\n", "no weight for training sample"),
        ("id,other\nr0,1\n", "column 'weight' is missing"),
        ("id,weight\nr0,1\nr1,-2\n", r"line 3: 'r1' with weight '-2'"),
        ("id,weight\nr0,1\nr0,2\n", r"line 3: 'r0' with weight '2'"),
        ("id,weight\nr0,many\n", r"line 2: 'r0' with weight 'many'"),
        ("id,weight\n" + "".join(f"r{i},0\n" for i in range(40)), "are all 0"),
        (None, "cannot be read as sample weights"),
    ],
)
def test_wrong_weights_are_named(content, said, tmp_path):
    if content is not None:
        (tmp_path / "w.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        words(sample_weights=str(tmp_path / "w.csv")).train_dataloader()


def test_the_calibration_part_has_a_loader():
    data = words()
    found = [i for batch in data.calib_dataloader() for i in batch["id"].tolist()]
    assert sorted(found) == data.indices("calib").tolist()


@pytest.mark.parametrize("part", ["train", "val", "calib"])
def test_predict_part_gives_that_part_without_shuffling_or_weights(part):
    data = words(predict_part=part)
    table = data.table
    data.setup("predict")
    data.apply_split(table)
    found = [i for batch in data.predict_dataloader() for i in batch["id"].tolist()]
    assert sorted(found) == data.indices(part).tolist()


def test_the_test_part_cannot_be_predicted():
    with pytest.raises(ValueError, match="predict_part='test' must be train, val or calib"):
        Words(predict_part="test")


@pytest.mark.slow
def test_predict_writes_a_part_of_the_runs_own_split(tmp_path):
    run(["fit", "--name", "a"])
    run(["predict", "--name", "a", "--ckpt_path", "best", "--data.predict_part", "train"])
    folder = tmp_path / "runs" / "signs" / "a"
    split = pd.read_csv(folder / "split.csv", dtype=str)
    expected = split[split["part"] == "train"]
    table = pd.read_csv(folder / "predict" / "predictions.csv", dtype={"id": str})
    with np.load(folder / "predict" / "predictions_train.npz") as file:
        assert sorted(file["id"]) == sorted(expected["id"]) == sorted(table["id"])
        labels = dict(zip(expected["id"], expected["label"], strict=True))
        assert [file["class_names"][i] for i in file["y"]] == [labels[name] for name in file["id"]]
        np.testing.assert_allclose(file["prob"].max(axis=1), table["probability"], atol=1e-5)
