import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from callbacks.stratified_split import StratifiedSplit
from datamodules.base import IGNORE, UNSEEN
from datamodules.curriculum import Curriculum
from datamodules.errors import DataError
from datamodules.papers import PapersData
from datamodules.papers_dataset import AugmentedTokens, PapersDataset, TokenInputs
from datamodules.papers_records import TimeSplit
from datamodules.papers_text import PapersTokenizer, Tokens
from datamodules.samplers import IndexBatch
from datamodules.splits import make_split
from datamodules.text_augmentation import EDA, RandomDeletion
from tests.fake_data.papers import paper_rows, write_encoder, write_papers

ROWS = paper_rows()
FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


def split(data):
    data.apply_split(make_split(data.records, fractions=FRACTIONS, seed=1))
    return data


def ready(path, **settings):
    data = PapersData(path=str(path), **{"batch_size": 5, "vocab_size_wanted": 300, **settings})
    data.setup("fit")
    return split(data)


def batches(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return [{key: value.clone() for key, value in batch.items()} for batch in loader]


def equal(one, two):
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, two, strict=True)
    )


@pytest.fixture
def path(tmp_path):
    return write_papers(tmp_path / "papers.csv")


def test_records_sizes_and_description(path):
    data = ready(path)
    assert data.records["id"][3] == "2601.00030" and data.class_names == ["cs.AI", "cs.CL", "cs.CV", "cs.LG"]
    assert (data.num_keywords, data.num_crosslists, data.input_width) == (0, 0, 0) and 100 < data.vocab_size <= 300
    facts = data.describe()
    assert facts["samples"] == facts["groups"] == 32 and facts["duplicates"] == 0 and facts["source"] == str(path)
    assert facts["vocab_size"] == data.vocab_size and facts["abstract_truncated"] == 0 and facts["form"] == "tokens"
    assert ready(path, abstract_len=8).describe()["abstract_truncated"] == 1


def test_a_batch_holds_the_tokens_and_is_padded_to_its_longest(path):
    data = ready(path)
    dataset = data.dataset(np.arange(32), train=False)
    assert isinstance(dataset, PapersDataset) and isinstance(dataset.inputs, TokenInputs)
    rows = [0, 2, 9]
    batch = dataset.__getitems__(IndexBatch(rows, 2, 0.25, 0, 0))
    tokenizer = data.fitted.tokenizer.tokenizer
    for field in ("title", "abstract"):
        expected = [tokenizer.encode(ROWS[row][field]).ids for row in rows]
        ids, mask = batch[f"{field}_ids"], batch[f"{field}_mask"]
        assert ids.dtype == torch.int64 and mask.dtype == torch.bool
        assert ids.shape == mask.shape == (3, max(map(len, expected)))
        for place, tokens in enumerate(expected):
            assert ids[place][mask[place]].tolist() == tokens and mask[place, : len(tokens)].all()
            assert (ids[place, len(tokens) :] == data.fitted.tokenizer.pad_id).all()
    assert batch["id"].tolist() == [0, 2, -1] and batch["weight"].tolist() == [0.25, 0.25, 0.0]
    assert batch["y"].tolist() == [0, 2, IGNORE] and set(batch) == {
        "id", "y", "weight", "title_ids", "title_mask", "abstract_ids", "abstract_mask"}  # fmt: skip


def test_lengths_are_tokens_and_a_cut_text_still_ends_with_its_mark(path):
    data = ready(path, title_len=4, abstract_len=9)
    batch = data.dataset(np.arange(32), False).__getitems__(IndexBatch(list(range(32)), 32, 1.0, 0, 0))
    real = batch["title_mask"].sum(1) + batch["abstract_mask"].sum(1)
    np.testing.assert_array_equal(data.lengths(), real)
    assert batch["title_ids"].shape[1] == 4 and batch["abstract_ids"].shape[1] == 9
    end = data.fitted.tokenizer.tokenizer.token_to_id("[SEP]")
    assert (batch["abstract_ids"][:, -1] == end).all() and (batch["title_ids"][:, -1] == end).all()


def test_title_and_abstract_can_be_one_text(path):
    data = ready(path, single=True, title_len=5, abstract_len=15)
    batch = data.probe_batch(4)
    assert set(batch) == {"id", "y", "weight", "text_ids", "text_mask"} and batch["text_ids"].shape[1] <= 20
    tokenizer = data.fitted.tokenizer.tokenizer
    short = ready(path, single=True)
    row = int(short.probe_batch(1)["id"][0])
    words = short.explain_words(row)["text"]
    assert words.count("[SEP]") == 2 and words[0] == "[CLS]"
    assert (
        short.probe_batch(1)["text_ids"][0].tolist() == tokenizer.encode(ROWS[row]["title"], ROWS[row]["abstract"]).ids
    )


def test_every_sample_is_visited_once_an_epoch_and_the_last_batch_is_kept(path):
    data = ready(path)
    for loader, part in ((data.train_dataloader(), "train"), (data.val_dataloader(), "val")):
        seen = torch.cat([batch["id"] for batch in batches(loader)])
        assert sorted(seen.tolist()) == data.indices(part).tolist()


def test_the_tokenizer_never_saw_a_word_of_other_parts(tmp_path):
    rows = paper_rows(12)
    data = ready(write_papers(tmp_path / "a.csv", rows), vocab_size_wanted=2000)
    held = data.indices("test")[0]
    rows[held] = {**rows[held], "abstract": "qqqzzx " * 50}
    changed = ready(write_papers(tmp_path / "b.csv", rows), vocab_size_wanted=2000)
    assert changed.fitted.state_dict() == data.fitted.state_dict()
    trained = data.indices("train")[0]
    rows[trained] = {**rows[trained], "abstract": "qqqzzx " * 50}
    assert (
        "qqqzzx"
        in ready(write_papers(tmp_path / "c.csv", rows), vocab_size_wanted=2000).fitted.tokenizer.tokenizer.get_vocab()
    )


def test_training_a_tokenizer_gives_the_same_ids_in_every_process():
    code = (
        "from datamodules.papers_text import PapersTokenizer\n"
        "from datamodules.synthetic.papers import make_papers\n"
        "import hashlib; made = PapersTokenizer.train(make_papers(200).abstracts, 1000)\n"
        "print(hashlib.sha256(str(made.state_dict()).encode()).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""


def test_the_size_of_a_trained_vocabulary_is_a_knob(path):
    small, large = (ready(path, vocab_size_wanted=size) for size in (110, 300))
    assert small.vocab_size == 110 < large.vocab_size <= 300
    assert small.lengths().sum() > large.lengths().sum()


def test_an_encoders_tokenizer_is_used_as_it_is(path, tmp_path):
    folder = write_encoder(tmp_path / "encoder")
    data = ready(path, tokenizer=str(folder))
    tokenizer = PapersTokenizer.load(str(folder))
    assert data.vocab_size == tokenizer.vocab_size and data.describe()["tokenizer"] == str(folder)
    tokens = tokenizer.encode([ROWS[0]["title"]], 32)
    assert isinstance(tokens, Tokens) and tokens.lists()[0] == data._encoder().tokens(data.records)["title"].lists()[0]
    with pytest.raises(DataError, match=r"the tokenizer '.*nothing' cannot be read"):
        ready(path, tokenizer=str(tmp_path / "nothing"))


def test_augmentation_acts_on_training_batches_only_and_is_keyed(path, monkeypatch):
    plain, noisy = ready(path), ready(path, augmentations=[RandomDeletion(1.0, 0.3)])
    assert equal(batches(plain.val_dataloader()), batches(noisy.val_dataloader()))
    assert torch.equal(plain.probe_batch(4)["abstract_ids"], noisy.probe_batch(4)["abstract_ids"])
    one, two = batches(plain.train_dataloader())[0], batches(noisy.train_dataloader())[0]
    assert torch.equal(one["id"], two["id"]) and one["abstract_mask"].sum() > two["abstract_mask"].sum()
    dataset = noisy.dataset(noisy.indices("train"), train=True)
    assert isinstance(dataset.inputs, AugmentedTokens)

    def row(index, epoch, others=(), source=dataset):
        batch = source.__getitems__(IndexBatch([*others, index], len(others) + 1, 1.0, epoch, 0))
        return batch["abstract_ids"][-1][batch["abstract_mask"][-1]]

    assert torch.equal(row(1, 0), row(1, 0, others=[0, 3])) and not torch.equal(row(1, 0), row(1, 1))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(row(1, 0), row(1, 0, source=noisy.dataset(noisy.indices("train"), train=True)))


def test_workers_change_nothing(path):
    settings = {"augmentations": [EDA(1.0, 0.3)], "keywords": 3, "auxiliary": True}
    own, workers = ready(path, **settings), ready(path, num_workers=2, **settings)
    loader = workers.train_dataloader()
    for epoch in (0, 1):
        assert equal(batches(own.train_dataloader(), epoch), batches(loader, epoch))


def test_keywords_stand_beside_the_text(path):
    data = ready(path, keywords=4, keyword_vocab=9)
    batch = data.probe_batch(6)
    assert data.num_keywords == 9 and batch["keyword_ids"].shape == (6, 4) and batch["keyword_ids"].max() < 9
    assert batch["keyword_links"].shape == (6, 4, 4) and batch["keyword_mask"].any()
    assert ready(path, keywords=4, keyword_vocab=5).num_keywords == 5
    with pytest.raises(DataError, match="no keyword"):
        ready(
            write_papers(path, [{**row, "title": f"z{i}", "abstract": f"x{i} y{i}"} for i, row in enumerate(ROWS)]),
            keywords=2,
        )


def test_targets_of_other_tasks_come_from_the_training_part(path):
    data = ready(path, auxiliary=True)
    train = data.records.iloc[data.indices("train")]
    assert data.fitted.crosslists[0] == "stat.ML" and data.num_crosslists == 5
    batch = data.dataset(np.arange(32), False).__getitems__(IndexBatch(list(range(32)), 32, 1.0, 0, 0))
    for row in range(32):
        listed = {name for name, on in zip(data.fitted.crosslists, batch["y_crosslist"][row], strict=True) if on}
        assert listed == set(ROWS[row]["all_categories"].split())
        assert bool(batch["y_learning"][row]) == ("learn" in ROWS[row]["abstract"])
    words = np.log([len(text.split()) for text in train["abstract"]])
    expected = (np.log([len(row["abstract"].split()) for row in ROWS]) - words.mean()) / words.std()
    np.testing.assert_allclose(batch["y_length"], expected, rtol=1e-5)
    plain = [{key: row[key] for key in ("id", "title", "abstract", "category")} for row in ROWS]
    with pytest.raises(DataError, match="no all_categories"):
        ready(write_papers(path, plain), auxiliary=True)


def test_all_labels_are_targets_beside_the_primary_one(path):
    batch = ready(path, labels="multi").probe_batch(16)
    assert batch["y_labels"].shape == (16, 4) and set(batch["y_labels"].sum(1).tolist()) == {1.0, 2.0}
    assert (batch["y_labels"][torch.arange(16), batch["y"]] == 1).all()
    assert "y_labels" not in ready(path).probe_batch(4)


def test_duplicates_keep_together_and_the_audit_shows_conflicts(tmp_path):
    again = {**ROWS[0], "id": "2601.99990", "title": ROWS[0]["title"].upper() + "!", "category": "cs.CL"}
    data = PapersData(path=str(write_papers(tmp_path / "a.csv", [*ROWS, again, ROWS[1]])))
    data.setup("fit")
    callback = StratifiedSplit()
    table = callback.draw(data)
    report = callback.check(data, table)
    kinds = {finding.kind: finding for finding in report.findings}
    assert kinds["label_conflict_in_source"].examples == [f"{ROWS[0]['id']} = cs.AI, 2601.99990 = cs.CL"]
    assert kinds["repeated_paper"].count == 2 and not report.leaks and len(data.records) == 33
    assert table.set_index("id").loc[[ROWS[0]["id"], "2601.99990"], "part"].nunique() == 1
    assert PapersData(path=str(tmp_path / "a.csv"), conflicts="drop").read_records().shape[0] == 31
    with pytest.raises(DataError, match=r"a\.csv: 1 papers carry several labels"):
        PapersData(path=str(tmp_path / "a.csv"), conflicts="refuse").read_records()


def test_a_copy_with_another_title_is_found_by_its_words(tmp_path):
    rows = [{**row, "abstract": f"{row['abstract']} " + " ".join(f"{row['title'][3:7]}{i}{j}" for j in range(40))}
            for i, row in enumerate(paper_rows(40))]  # fmt: skip
    anew = f"This time we begin anew. {rows[0]['abstract']}"  # else its opening would give it the group of the other
    rows.append({**rows[0], "id": "copy", "title": "Called something else", "abstract": anew})
    data = PapersData(path=str(write_papers(tmp_path / "a.csv", rows)))
    data.setup("fit")
    table = data.records[["id", "group", "hash", "label"]].assign(part=np.arange(161) % 3)
    table["part"] = table["part"].map({0: "train", 1: "val", 2: "test"})
    report = StratifiedSplit().check(data, table, raise_on_leak=False)
    assert any(
        "copy" in example
        for finding in report.findings
        if finding.kind.startswith("near_dup")
        for example in finding.examples
    )


def test_parts_by_date_are_kept_by_the_split(path):
    data = PapersData(path=str(path), time_split=TimeSplit("2026-10", "2026-07"))
    data.setup("fit")
    table = StratifiedSplit().draw(data)
    dates = data.records.groupby(table["part"])["published"].agg(["min", "max"])
    assert dates.loc["train", "max"] < "2026-07" <= dates.loc["val", "min"] < "2026-10" <= dates.loc["test", "min"]


def test_what_was_fitted_travels_in_plain_values_and_predicts_without_training_data(path, tmp_path):
    settings = {"keywords": 3, "auxiliary": True}
    trained = ready(path, **settings)
    file = tmp_path / "state.ckpt"
    torch.save(trained.state_dict(), file)
    state = torch.load(file, weights_only=True)
    rows = [{key: row[key] for key in ("id", "title", "abstract")} for row in ROWS[:6]]
    fresh = PapersData(predict_path=str(write_papers(tmp_path / "new.csv", rows)), batch_size=5, **settings)
    assert (fresh.vocab_size, fresh.num_keywords, fresh.num_crosslists) == (None, None, None)
    fresh.setup("predict")
    with pytest.raises(DataError, match="a checkpoint has to be given"):
        fresh.predict_dataloader()
    fresh.load_state_dict(state)
    assert (fresh.vocab_size, fresh.num_keywords, fresh.num_crosslists) == (trained.vocab_size, trained.num_keywords, 5)
    found = batches(fresh.predict_dataloader())
    assert sum(len(batch["id"]) for batch in found) == 6 and (found[0]["y"] == IGNORE).all()
    assert not any(key.startswith("y_") for key in found[0])
    dataset = trained.dataset(np.arange(32), False)
    for batch in found:
        same = dataset.__getitems__(IndexBatch(batch["id"].tolist(), len(batch["id"]), 1.0, 0, 0))
        for key in ("title_ids", "abstract_ids", "keyword_ids", "keyword_links"):
            assert torch.equal(batch[key], same[key])


def test_a_checkpoint_wins_over_what_was_fitted_here(path, tmp_path):
    trained, other = ready(path, vocab_size_wanted=300), ready(path, vocab_size_wanted=110)
    before = other.lengths().sum()
    other.load_state_dict(trained.state_dict())
    assert other.vocab_size == trained.vocab_size and other.lengths().sum() < before
    split(other)
    assert other.vocab_size == trained.vocab_size, "the same split is fitted once"
    assert PapersData().state_dict() == {}


def test_a_class_only_in_test_is_unseen(path):
    data = PapersData(path=str(path), vocab_size_wanted=300)
    data.setup("fit")
    part = np.where(data.records["label"] == "cs.CL", "test", np.where(np.arange(32) % 3, "train", "val"))
    data.apply_split(data.records[["id", "group", "hash", "label"]].assign(part=part))
    assert data.class_names == ["cs.AI", "cs.CV", "cs.LG"]
    assert set(torch.cat([b["y"] for b in batches(data.test_dataloader())]).tolist()) == {UNSEEN}


def added(data, count=2):
    rows = data.records.iloc[data.indices("train")[:count]]
    made = rows.assign(augmented_from=rows["id"], id=rows["id"] + "#1", abstract=rows["abstract"] + " Again, anew.")
    return made.assign(hash=data.content_hashes(made))


def test_added_rows_are_tokenised_trained_on_and_forgotten(path):
    data = ready(path, keywords=3, labels="multi")
    vocabulary, lengths = data.vocab_size, data.lengths()
    plain = data.baselines("val")["tfidf"]
    assert data.extend_train(added(data)) == 2
    assert len(data.lengths()) == 34 and (data.lengths()[:32] == lengths).all() and data.vocab_size == vocabulary
    seen = torch.cat([batch["id"] for batch in batches(data.train_dataloader())])
    assert {32, 33} <= set(seen.tolist())
    np.testing.assert_array_equal(data.baselines("val")["tfidf"], plain)  # simple models see the papers as they are
    data.setup("validate")
    assert len(split(data).lengths()) == 32 and data.fitted is not None


def test_unlabelled_papers_that_are_known_get_their_group(path, tmp_path):
    data = ready(path)
    rows = [
        {"id": "x", "title": ROWS[3]["title"].upper(), "abstract": "b"},
        {"id": "y", "title": "unheard of", "abstract": "c"},
    ]
    found = data.read_unlabelled(str(write_papers(tmp_path / "more.csv", rows)))
    assert found["group"].tolist() == [ROWS[3]["id"], "y"]


def test_difficulty_is_words_or_words_and_terms(path):
    data = ready(path, curriculum=Curriculum("length"))
    assert data.difficulty().tolist() == [len(f"{row['title']}. {row['abstract']}".split()) for row in ROWS]
    hard = data.indices("train")[:2].tolist()  # two papers with a word that only they have
    rows = [{**row, "abstract": row["abstract"] + (" Zeolites." if i in hard else "")} for i, row in enumerate(ROWS)]
    terms = ready(write_papers(path, rows), curriculum=Curriculum("length_and_terms")).difficulty()
    words = np.array([len(f"{row['title']}. {row['abstract']}".split()) for row in rows])
    np.testing.assert_allclose(terms, words / 1000 + np.isin(np.arange(32), hard) / 40)
    data = ready(path)
    assert len(batches(data.train_dataloader())) == len(batches(ready(path).train_dataloader()))


def test_the_simple_models_learn(path):
    data = ready(path)
    prob = data.baselines("test")
    y = data.y[data.indices("test")]
    assert set(prob) == {"majority", "tfidf"} and (prob["tfidf"].argmax(1) == y).mean() > 0.7
    np.testing.assert_allclose(prob["majority"][0], data.class_counts("train") / data.class_counts("train").sum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conflicts": "first"}, "conflicts='first' must be one of primary, drop, refuse"),
        ({"labels": "all"}, "labels='all' must be one of"),
        ({"title_len": 2}, "title_len=2 must be at least 3"),
        ({"keywords": -1}, "keywords=-1"),
        ({"vocab_size_wanted": 50}, "vocab_size_wanted=50 must be at least 100"),
        ({"path": "a.csv", "hub": "b"}, "two sources"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"merge": ["a"]}, "old=new"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PapersData(**settings)


def test_synthetic_knobs_reach_the_generator():
    def records(**settings):
        return PapersData(**{"synthetic_samples": 60, **settings}).read_records()

    base = records()
    assert len(base) == 60
    for change in ({"synthetic_samples": 70}, {"synthetic_seed": 1}, {"synthetic_overlap": 0.1},
                   {"synthetic_duplicates": 0.2}, {"synthetic_conflicts": 0.1}):  # fmt: skip
        assert not records(**change).equals(base), change
    assert isinstance(base, pd.DataFrame)
    with pytest.raises(ValueError, match="synthetic_samples=3"):
        records(synthetic_samples=3)
