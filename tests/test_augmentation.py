"""Made rows come after the split, from training rows only, and only in a fit; what each method makes and drops."""

import json
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from jsonargparse import ArgumentParser

from callbacks import back_translation
from callbacks.augmentation import Augmentation, Augmenter
from callbacks.back_translation import BackTranslation
from callbacks.oversampling import Oversampling
from callbacks.pseudo_labels import PseudoLabels
from callbacks.stratified_split import StratifiedSplit
from datamodules.errors import DataError
from datamodules.predictions import write_predictions
from datamodules.splits import split_hash
from tests.fake_data.translators import WORDS, write_marian
from tests.test_stratified_split import TinyModel, make_trainer
from tests.test_train_rows import Words, digest


class Texts(Words):
    """Forty short texts in groups of two; what the augmentation methods ask for."""

    def read_records(self):
        records = super().read_records()
        rng = np.random.default_rng(0)
        self.texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 6))) for _ in range(40)]
        self.vector = rng.normal(size=(40, 3)).astype(np.float32)
        return records.assign(text=self.texts, hash=self.content_hashes(records.assign(text=self.texts)))

    def content_hashes(self, rows):
        return [digest(f"{name} {text}") for name, text in zip(rows["id"], rows["text"], strict=True)]

    def read_unlabelled(self, path):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        return rows.assign(label="", given="", hash=self.content_hashes(rows))

    def vectors(self, indices):
        return self.vector[indices]

    def rows_added(self, rows):
        super().rows_added(rows if rows is None or "text" in rows else rows.assign(text=""))
        if rows is None:
            self.vector = self.vector[:40]
        elif "vector" in rows:
            self.vector = np.concatenate([self.vector, np.stack(list(rows["vector"]))])


def split_texts(counts=None):
    """The texts, split; `counts` leaves only so many training rows of each class."""
    data = Texts(batch_size=8)
    data.setup("fit")
    part = ["train"] * 24 + ["val"] * 4 + ["calib"] * 4 + ["test"] * 8
    table = data.records[["id", "group", "hash", "label"]].assign(part=part)
    for label, count in zip(["even", "odd"], counts or (12, 12), strict=True):
        mine = table.index[(table["part"] == "train") & (table["label"] == label)]
        table.loc[mine[count:], "part"] = "test"
    data.apply_split(table)
    return data


class Shout(Augmenter):
    """Training texts in capitals."""

    def rows(self, data):
        old = data.records.iloc[data.indices("train")]
        rows = old.assign(id=old["id"] + f"#{len(data.records)}", augmented_from=old["id"])
        rows["text"] = old["text"].str.upper()
        self.counts = {"asked": len(old)}
        return rows.assign(hash=data.content_hashes(rows))


class Model(TinyModel):
    """Reads the batches of the texts."""

    def training_step(self, batch):
        return self.layer(batch["x"].float()).square().mean()

    def validation_step(self, batch):
        self.log("val/loss", self.layer(batch["x"].float()).square().mean(), batch_size=1)

    def test_step(self, batch):
        self.seen = [*getattr(self, "seen", []), *batch["id"].tolist()]


def test_a_fit_trains_on_made_rows_and_every_other_stage_does_not(tmp_path):
    split, augmentation, data, model = StratifiedSplit(seed=1), Augmentation([Shout(), Shout()]), Texts(), Model()
    trainer = make_trainer(tmp_path, split)
    trainer.callbacks.insert(trainer.callbacks.index(split) + 1, augmentation)
    trainer.fit(model, datamodule=data)
    train = (split.table["part"] == "train").sum()
    assert augmentation.counts == {
        "Shout": {"added": train, "asked": train},
        "Shout-1": {"added": 2 * train, "asked": 2 * train},  # made from the rows of the first as well
    }
    assert trainer.num_training_batches == -(-4 * train // 32)
    kept = pd.read_csv(tmp_path / "augmented.csv", dtype=str, keep_default_na=False)
    assert len(kept) == 3 * train and list(kept.columns)[:5] == ["method", "id", "augmented_from", "source", "label"]
    written = pd.read_csv(tmp_path / "split.csv", dtype=str)
    assert len(written) == 40 and split_hash(written) == split_hash(split.table)
    held = set(written.loc[written["part"] != "train", "id"])
    assert not held & set(kept["augmented_from"])
    trainer.test(model, datamodule=data, verbose=False)
    assert sorted(model.seen) == sorted(np.flatnonzero(split.table["part"] == "test")) and len(data.records) == 40
    again = make_trainer(tmp_path / "other", StratifiedSplit(path=str(tmp_path / "split.csv")))
    again.fit(Model(), datamodule=Texts())
    assert again.num_training_batches == -(-train // 32)


def test_a_run_in_the_folder_of_an_old_one_is_compared_without_made_rows(tmp_path):
    for _ in range(2):
        split = StratifiedSplit(seed=1)
        trainer = make_trainer(tmp_path, split)
        trainer.callbacks.insert(trainer.callbacks.index(split) + 1, Augmentation([Shout()]))
        trainer.fit(Model(), datamodule=Texts())
        assert split_hash(split.table) == split_hash(pd.read_csv(tmp_path / "split.csv", dtype=str))


def test_without_methods_nothing_is_done_and_data_of_another_kind_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, Augmentation())
    Augmentation().setup(trainer, Model(), "fit")
    assert not (tmp_path / "augmented.csv").exists()
    trainer.datamodule = L.LightningDataModule()
    with pytest.raises(DataError, match="needs a datamodule that holds records"):
        Augmentation([Shout()]).setup(trainer, Model(), "fit")


# back-translation


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marian")
    return write_marian(folder / "there", 0), write_marian(folder / "back", 1)


def translation(models, **options):
    options = {"fields": ["text"], "max_length": 6, "batch_size": 4, "beams": 2} | options
    return BackTranslation(*models, **options)


def translated(monkeypatch):
    """What is translated from here on, batch by batch."""
    batches, call = [], back_translation.Translator.__call__

    def count(self, texts, *args, **kwargs):
        batches.append(list(texts))
        return call(self, texts, *args, **kwargs)

    monkeypatch.setattr(back_translation.Translator, "__call__", count)
    return batches


def test_training_texts_are_paraphrased_and_the_rest_stays(models, tmp_path):
    data, method = split_texts(), translation(models)
    rows = method.rows(data)
    dropped = sum(method.counts[key] for key in ("unchanged", "empty", "repeated"))
    assert method.counts["asked"] == 24 == len(rows) + dropped
    old = data.records.set_index("id").loc[rows["augmented_from"]]
    assert set(rows["augmented_from"]) <= set(data.records["id"][data.indices("train")])
    assert rows["label"].tolist() == old["label"].tolist() and rows["group"].tolist() == old["group"].tolist()
    assert (rows["text"].to_numpy() != old["text"].to_numpy()).all()
    assert rows["hash"].tolist() == data.content_hashes(rows)
    there, back = (back_translation.Translator(source) for source in models)
    text = old["text"].iloc[0]
    assert rows["text"].iloc[0] == back(there([text], 2, 6, False), 2, 6, False)[0]  # whatever else was in its batch
    assert data.extend_train(rows) == len(rows)


def test_translations_are_kept_and_a_killed_run_goes_on(models, tmp_path, monkeypatch):
    first = translation(models).rows(split_texts())
    path = next((tmp_path / "cache" / "translations").glob("*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    batches = translated(monkeypatch)
    pd.testing.assert_frame_equal(translation(models).rows(split_texts()), first)
    assert batches == []
    path.write_bytes(b"".join(lines[:-3]) + lines[-3][:20])  # killed within a line
    pd.testing.assert_frame_equal(translation(models).rows(split_texts()), first)
    assert sum(map(len, batches)) == 2 * 3  # there and back
    translation(models, beams=1).rows(split_texts())
    translation(models[::-1]).rows(split_texts())
    assert len(list(path.parent.glob("*.jsonl"))) == 3
    path.write_text('{"key": 1}\n')
    with pytest.raises(DataError, match=r"jsonl, line 1: not a translation"):
        translation(models).rows(split_texts())


def test_sampled_copies_differ_and_follow_from_the_seed(models, tmp_path):
    rows = translation(models, copies=3).rows(split_texts())
    texts = rows.groupby("augmented_from")["text"].agg(list)
    assert all(len(set(found)) == len(found) for found in texts) and max(map(len, texts)) == 3
    first = rows[rows["id"].str.endswith("-0")].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, translation(models).rows(split_texts()))  # the first stays as it is
    path = next((tmp_path / "cache" / "translations").glob("*.jsonl"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:30]))  # killed among the sampled copies
    pd.testing.assert_frame_equal(translation(models, copies=3).rows(split_texts()), rows)
    other = translation(models, copies=3, seed=1).rows(split_texts())
    assert set(rows["text"]) != set(other["text"])


def test_what_the_way_back_did_not_change_is_dropped_and_counted(models, tmp_path):
    data, method = split_texts(), translation(models, copies=2)
    method.rows(data)
    path = next((tmp_path / "cache" / "translations").glob("*.jsonl"))
    found = [json.loads(line) for line in path.read_text().splitlines()]
    train = data.records["text"].iloc[data.indices("train")].tolist()
    unique = list(dict.fromkeys(train))
    half = len(unique)
    assert len(found) == 2 * half
    kept = {}
    for copy in range(2):
        name = {}
        for text in unique:
            settings = "beam search" if copy == 0 else "1 0 4"
            name[digest(f"{settings}\n{text}")] = text
        for row in found:
            if row["key"] in name:
                kept[copy, name[row["key"]]] = row
    kept[0, unique[0]]["text"] = f"  {unique[0].upper()} "  # unchanged but for case and blanks
    kept[1, unique[0]]["text"] = ""
    kept[0, unique[1]]["text"] = kept[1, unique[1]]["text"] = "algo nuevo"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    rows, again = method.rows(data), method.counts
    assert again["unchanged"] >= 1 and again["empty"] >= 1 and again["repeated"] >= 1
    assert again["asked"] == 48 == len(rows) + again["unchanged"] + again["empty"] + again["repeated"]
    assert (rows["text"] == "algo nuevo").sum() == train.count(unique[1])


def test_classes_and_share(models):
    data = split_texts()
    some = translation(models, classes=["odd"], fraction=0.5).rows(data)
    assert set(some["label"]) == {"odd"} and len(some) <= 6
    other = translation(models, classes=["odd"], fraction=0.5, seed=1).rows(data)
    assert set(some["augmented_from"]) != set(other["augmented_from"])
    with pytest.raises(DataError, match="class 'third' is not among even, odd"):
        translation(models, classes=["third"]).rows(data)
    with pytest.raises(DataError, match="no column 'abstract'"):
        translation(models, fields=None).rows(data)
    with pytest.raises(DataError, match="cannot be read"):
        BackTranslation("no/model", models[1], fields=["text"]).rows(data)


@pytest.mark.parametrize(
    "wrong", [{"fraction": 0}, {"fraction": 1.5}, {"copies": 0}, {"beams": 0}, {"max_length": 0}, {"batch_size": 0},
              {"fields": []}]
)  # fmt: skip
def test_wrong_settings_of_the_translation(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BackTranslation("a", "b", **wrong)


# pseudo-labels


def unlabelled(tmp_path, sure, data, **columns):
    """A file of samples and its predictions: `sure` is the probability of "odd"."""
    names = [f"n{i}" for i in range(len(sure))]
    rows = pd.DataFrame({"id": names, "group": names, "text": [f"text {name}" for name in names]}).assign(**columns)
    rows.to_csv(tmp_path / "more.csv", index=False)
    prob = np.stack([np.array(sure), 1 - np.array(sure)], axis=1)
    write_predictions(tmp_path / "predictions.csv", rows["id"], prob, ["odd", "even"])  # another order than the data's
    return {"path": str(tmp_path / "more.csv"), "predictions": str(tmp_path / "predictions.csv")}


def test_sure_samples_get_their_label_best_first_within_the_quota(tmp_path):
    data = split_texts()
    files = unlabelled(tmp_path, [0.99, 0.97, 0.96, 0.6, 0.02, 0.01, 0.9], data)
    method = PseudoLabels(**files, quota=2)
    rows = method.rows(data)
    assert dict(zip(rows["id"], rows["label"], strict=True)) == {"n0": "odd", "n1": "odd", "n4": "even", "n5": "even"}
    assert method.counts["over quota"] == 1 and method.counts["not sure"] == 2
    assert set(rows["augmented_from"]) == {""} and set(rows["source"]) == {files["path"]}
    assert data.extend_train(rows) == 4
    assert len(PseudoLabels(**files).rows(split_texts())) == 5
    assert len(PseudoLabels(**files, threshold=0.85).rows(split_texts())) == 6


def test_the_temperature_cools_an_over_confident_network(tmp_path):
    data = split_texts()
    files = unlabelled(tmp_path, [0.999, 0.96, 0.04], data)
    assert len(PseudoLabels(**files).rows(data)) == 3
    found = PseudoLabels(**files, temperature=2.0).rows(data)  # 0.999 -> 0.969, 0.96 -> 0.83
    assert found["id"].tolist() == ["n0"]


@pytest.mark.parametrize("part", ["val", "calib", "test", "train"])
@pytest.mark.parametrize("what", ["id", "group", "hash"])
def test_known_samples_are_dropped_and_counted(part, what, tmp_path):
    data = split_texts()
    known = data.records.iloc[data.indices(part)[0]]
    files = unlabelled(tmp_path, [0.99, 0.99], data)
    rows = pd.read_csv(files["path"], dtype=str)
    if what == "hash":  # the same content under another name: as if the hash were of the text alone
        data.content_hashes = lambda rows: [known["hash"], *map(digest, rows["text"][1:])]
    else:
        rows.loc[0, what] = known[what]
    rows.to_csv(files["path"], index=False)
    write_predictions(files["predictions"], rows["id"], np.array([[0.99, 0.01]] * 2), ["odd", "even"])
    method = PseudoLabels(**files)
    assert method.rows(data)["id"].tolist() == ["n1"]
    assert method.counts["held out" if part != "train" else "known to train"] == 1


def test_the_same_sample_twice_is_taken_once(tmp_path):
    data = split_texts()
    files = unlabelled(tmp_path, [0.96, 0.99], data, group="one")
    method = PseudoLabels(**files)
    assert method.rows(data)["id"].tolist() == ["n1"] and method.counts["repeated"] == 1


def test_predictions_of_something_else_are_refused(tmp_path):
    data = split_texts()
    files = unlabelled(tmp_path, [0.99, 0.98], data)
    write_predictions(files["predictions"], ["n0"], np.array([[1.0, 0.0]]), ["odd", "even"])
    with pytest.raises(DataError, match="no prediction for 'n1'"):
        PseudoLabels(**files).rows(data)
    write_predictions(files["predictions"], ["n0", "n1"], np.eye(2), ["odd", "third"])
    with pytest.raises(DataError, match="predicts odd, third; the classes of the data are even, odd"):
        PseudoLabels(**files).rows(data)


def test_predictions_of_a_run_on_another_split_are_refused(tmp_path):
    """A network that was trained on this run's test part would label its neighbours by heart."""
    data = split_texts()
    files = unlabelled(tmp_path, [0.99, 0.98], data)
    inside = tmp_path / "run" / "predict" / "predictions.csv"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(Path(files["predictions"]).read_bytes())
    method = PseudoLabels(files["path"], str(inside))
    for hashed, fits in ((split_hash(data.table), True), ("another", False)):
        (tmp_path / "run" / "run.json").write_text(json.dumps({"split_hash": hashed}), encoding="utf-8")
        if fits:
            assert len(method.rows(data)) == 2
            data.extend_train(method.rows(data).iloc[:1])  # rows that were added are no part of the split
            assert len(method.rows(data)) == 1
        else:
            with pytest.raises(DataError, match="of a run on another split"):
                method.rows(data)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.2}, {"quota": 0}, {"temperature": 0}])
def test_wrong_settings_of_pseudo_labels(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PseudoLabels("a", "b", **wrong)


# oversampling


def test_a_minority_is_filled_up_with_vectors_between_its_own():
    data, method = split_texts((12, 6)), Oversampling(SMOTE(k_neighbors=2))
    rows = method.rows(data)
    assert rows["label"].tolist() == ["odd"] * 6 and method.counts == {"for odd": 6}
    train = data.indices("train")
    mine = train[data.y[train] == 1]
    low, high = data.vector[mine].min(axis=0), data.vector[mine].max(axis=0)
    for origin, vector in zip(rows["augmented_from"], rows["vector"], strict=True):
        assert ((vector >= low - 1e-6) & (vector <= high + 1e-6)).all()
        row = data.records.index[data.records["id"] == origin][0]
        assert row in mine
        distance = np.linalg.norm(data.vector[mine] - vector, axis=1)
        assert mine[distance.argmin()] == row  # nothing outside train, or of another class, is ever its origin
    assert data.extend_train(rows) == 6
    assert data.class_counts("train").tolist() == [12, 12] and len(data.vector) == 46
    np.testing.assert_array_equal(data.vector[40], rows["vector"][0])


def test_synthetic_vectors_follow_from_the_seed():
    made = [Oversampling(SMOTE(k_neighbors=2), seed).rows(split_texts((12, 6)))["hash"].tolist() for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    own = [Oversampling(SMOTE(k_neighbors=2, random_state=7), seed).rows(split_texts((12, 6))) for seed in (0, 1)]
    assert own[0]["hash"].tolist() == own[1]["hash"].tolist()


def test_a_sampler_that_would_do_nothing_is_refused():
    """The brief's `minority` on 3,000 papers of each class made no row, and nobody noticed."""
    with pytest.raises(DataError, match=r"adds no row: the classes are balanced as it sees them \(even 12, odd 12\)"):
        Oversampling(SMOTE(sampling_strategy="minority")).rows(split_texts())


def test_samplers_that_cannot_work_are_refused():
    with pytest.raises(DataError, match=r"SMOTE cannot sample from these classes \(even 12, odd 3\)"):
        Oversampling(SMOTE(k_neighbors=5)).rows(split_texts((12, 3)))
    with pytest.raises(DataError, match="removes or changes given samples"):
        Oversampling(RandomUnderSampler()).rows(split_texts((12, 6)))
    data = Words()
    data.setup("fit")
    table = data.records[["id", "group", "hash", "label"]].assign(part=["train"] * 30 + ["val"] * 10)
    data.apply_split(table)
    with pytest.raises(DataError, match="Words has no vectors to sample between"):
        Oversampling(RandomOverSampler()).rows(data)


def test_methods_are_named_in_a_config_by_their_class():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Augmentation, "augmentation", fail_untyped=False)
    over = {
        "class_path": "callbacks.oversampling.Oversampling",
        "init_args": {"sampler": {"class_path": "imblearn.over_sampling.SMOTE", "init_args": {"k_neighbors": 3}}},
    }
    back = {"class_path": "callbacks.back_translation.BackTranslation", "init_args": {"forward": "a", "backward": "b"}}
    built = parser.instantiate(parser.parse_object({"augmentation": {"methods": [over, back]}})).augmentation
    assert [type(method) for method in built.methods] == [Oversampling, BackTranslation]
    assert built.methods[0].sampler.k_neighbors == 3
