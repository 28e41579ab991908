"""Text as documents, vocabularies, and batches in which every label stands once."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.audit import audit
from datamodules.errors import DataError
from datamodules.language import LanguageData
from datamodules.language_layout import Corpus, TextBatches, TextSampler, train_layout
from datamodules.language_text import as_records, cut, documents_of_path
from datamodules.language_tokenizer import Tokenizer
from datamodules.near_texts import COMMON
from datamodules.samplers import BatchLoader
from datamodules.splits import make_split
from tests.fake_data.language import articles, wikitext_folder
from tests.running import code

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def corpus(lengths=(30, 7, 19, 44), eos=0):
    labels = np.arange(1, sum(lengths) + 1)
    return Corpus(labels, np.cumsum([0, *lengths[:-1]]), np.arange(len(lengths)) + 10, eos)


def batches(part, order=None, window=8, stride=None, rows=3, seed=0, rank=0, world=1, accumulate=1, epoch=0):
    made = TextBatches(part, window, stride or window, rows, order, seed)
    sampler = TextSampler(made, rank, world, accumulate)
    sampler.set_epoch(epoch)
    return list(BatchLoader(made, sampler))


def split(data, val=1, test=1):
    data.setup("fit")
    records = data.records
    part = np.array(["train"] * len(records), dtype=object)
    part[:val], part[val : val + test] = "val", "test"
    data.apply_split(records[["id", "group", "hash", "label"]].assign(part=part))
    return data


# -- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["heading", "blank", "line", "file"])
def test_documents_joined_again_are_the_text(boundary):
    text = articles(5).removeprefix(" \n")
    pieces = [piece for _, piece in cut(text, boundary)]
    assert "".join(pieces) == text
    assert len(pieces) == {"heading": 5, "file": 1}.get(boundary, len(pieces)) and (
        boundary == "file" or len(pieces) > 4
    )


def test_headings_name_documents_and_a_formula_is_none():
    text = " = One = \n \n a \n = 1 x / s = \n b \n \n = = Part = = \n \n c \n \n = Two = \n \n d \n"
    assert [title for title, _ in cut(text, "heading")] == ["One", "Two"]


def test_the_page_s_sample_of_the_data_format_is_read(tmp_path):
    """What the README says of the format: a folder of three files with headings."""
    folder = wikitext_folder(tmp_path / "own")
    found = documents_of_path(str(folder), "heading")
    assert {part for *_, part in found} == {"train", "val", "test"}
    assert found[0][0].startswith("test.txt:") and f" = {found[0][1]} = \n" in found[0][2]
    one = documents_of_path(str(folder / "train.txt"), "heading")
    assert {part for *_, part in one} == {"train"}


def test_a_training_file_alone_is_split_further(tmp_path):
    (tmp_path / "train.txt").write_text(articles(10), encoding="utf-8")
    data = LanguageData(path=str(tmp_path / "train.txt"), cache=None)
    data.setup("fit")
    assert data.records["given"].tolist() == ["train"] * 10
    parts = make_split(data.records, fractions=FRACTIONS, seed=0)["part"]
    assert parts.value_counts().to_dict() == {"train": 8, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("a b\nc d\n\n", 1), ("a b\nc d\n \n\n", 1), ("\n\na b\n\nc d", 2), ("a b\n\n\nc d\n", 2), ("\n \n", 1)],
)
@pytest.mark.parametrize("boundary", ["heading", "blank", "line", "file"])
def test_no_document_is_blank_and_nothing_is_lost(text, blocks, boundary):
    pieces = [piece for _, piece in cut(text, boundary)]
    assert "".join(pieces) == text
    if text.strip():
        assert all(piece.strip() for piece in pieces)
        assert len(pieces) == {"line": 2, "blank": blocks}.get(boundary, 1)


@pytest.mark.parametrize("name", ["book.txt", "train.txt"])
def test_a_text_of_too_few_documents_for_a_split_says_how_to_cut_it(tmp_path, name):
    path = tmp_path / name
    path.write_text("one two\n\nthree four\n\nfive six\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 document, .*--data\.boundary.*blank.*line.*train\.txt") as error:
        LanguageData(path=str(path), cache=None).setup("fit")
    assert name in str(error.value)
    blank = LanguageData(path=str(path), boundary="blank", cache=None)
    blank.setup("fit")
    assert len(blank.records) == 3
    new = LanguageData(predict_path=str(path), cache=None)
    new.setup("predict")  # what is only scored needs no split
    assert len(new.records) == 1


def test_files_that_state_the_parts_may_hold_one_document_each(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"some {name} text\n", encoding="utf-8")
    data = LanguageData(path=str(tmp_path), boundary="file", cache=None)
    data.setup("fit")
    assert sorted(data.records["given"]) == ["test", "train", "val"]
    (tmp_path / "test.txt").unlink()  # --split.test 0
    LanguageData(path=str(tmp_path), boundary="file", cache=None).setup("fit")


def often_copied(copies=38):
    """Return 300 lines that differ, and one line that stands between them more often than near copies are searched."""
    lines = [f"line {i} says {i * 7} and then {i * 13} .\n" for i in range(300)]
    for i in range(copies):
        lines.insert(i * 8, "Thank you very much indeed .\n")
    return "".join(lines)


def test_the_same_text_is_one_group_however_often_it_occurs():
    same = [("a", "", "Thank you .\n", ""), ("b", "", "Well , \n", "")] * 30
    more = [*same, ("", "", " Thank  you .", ""), ("", "", "\n", ""), ("", "", " \n", "")]
    documents = [(f"d{i}", *rest) for i, (_, *rest) in enumerate(more)]
    groups = as_records(documents)[0]["group"].tolist()
    assert groups == ["d0", "d1"] * 30 + ["d0", "d61", "d61"]


def test_the_audit_finds_no_leak_in_lines_that_are_copied_often(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(often_copied() + "\n\n", encoding="utf-8")
    assert COMMON < 38
    words = ["--data.path", str(path), "--data.boundary", "line", "--name", "x"]
    assert code(["audit", *words], system="language") == 0
    assert json.loads(next(tmp_path.rglob("audit.json")).read_text(encoding="utf-8"))["leaks"] == 0


@pytest.mark.parametrize("boundary", ["blank", "line"])
def test_real_text_without_parts_is_split_without_a_leak(real_data, tmp_path, boundary):
    """WikiText repeats the heading `= = = <unk> = = =` more often than near copies are searched for."""
    path = tmp_path / "book.txt"
    path.write_bytes((real_data / "language/wikitext-2/valid.txt").read_bytes())
    data = LanguageData(path=str(path), boundary=boundary, cache=None)
    data.setup("fit")
    assert "".join(data.text(i) for i in range(len(data.records))) == path.read_text(encoding="utf-8")
    table = make_split(data.records, fractions=FRACTIONS, seed=42)
    assert not audit(data.records, table).leaks


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "holds no text file"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00bad"), "not UTF-8"),
        (lambda path: path.write_text(" \n\n"), "holds no text"),
    ],
)
def test_bad_text_is_named(tmp_path, make, said):
    path = tmp_path / "text.txt"
    make(path)
    with pytest.raises(DataError, match=said) as error:
        LanguageData(path=str(path), cache=None).setup("fit")
    assert "text.txt" in str(error.value)


# -- vocabularies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "bytes", "words"])
def test_a_vocabulary_gives_back_the_text_and_survives_the_checkpoint(kind):
    text = "= Zoé =\n\nThe  ship won , 3 @.@ 5 .\nNew line\n"
    made = Tokenizer.train(kind, [text, articles(3)], None if kind != "bpe" else 400)
    ids = made.encode(text)
    assert made.eos_id < made.vocab_size and ids.max() < made.vocab_size and ids.dtype == np.int32
    if kind == "words":
        assert made.decode(ids).split() == text.split() and len(ids) == len(text.split()) + text.count("\n")
        assert made.encode("never-seen").tolist() == [made.unk_id]
    else:
        assert made.decode(ids) == text and made.decode([*ids, made.eos_id]) == text
    state = json.loads(json.dumps(made.state_dict()))
    again = Tokenizer.from_state(state)
    assert again.fingerprint == made.fingerprint and again.encode(text).tolist() == ids.tolist()
    other = Tokenizer.train(kind, [text], None if kind != "bpe" else 300)
    assert (other.fingerprint == made.fingerprint) == (kind == "bytes")


def test_the_vocabulary_is_made_from_the_training_part_alone(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("= A =\n\nonlyinval word\n\n= B =\n\nonlyintest word\n\n= C =\n\nseen word\n\n= D =\n\nseen\n")
    data = split(LanguageData(path=str(path), tokenizer="words", cache=None))
    assert "seen" in data.tokenizer.spec and "onlyin" not in data.tokenizer.spec
    assert data.tokenizer.unk_id in data.tokens("val")
    assert data.class_names == [data.tokenizer.fingerprint]


def test_gpt2_files_are_checked(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(DataError, match=r"vocab\.json does not exist"):
        Tokenizer.train("gpt2", [], None, str(tmp_path))
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<|endoftext|>": 1}))
    with pytest.raises(DataError, match=r"2 entries .* GPT-2 has 50257"):
        Tokenizer.train("gpt2", [], None, str(tmp_path))
    with pytest.raises(DataError, match="tokenizer_path"):
        Tokenizer.train("gpt2", [], None, None)


def test_gpt2_real_files(real_data):
    made = Tokenizer.train("gpt2", [], None, str(real_data / "language" / "gpt2"))
    assert (made.vocab_size, made.eos_id) == (50_257, 50_256) and made.encode("Hello world").tolist() == [15496, 995]
    text = (real_data / "language/wikitext-2/valid.txt").read_text(encoding="utf-8")
    ids = made.encode(text)
    assert len(ids) == 258_659 and made.decode(ids) == text


def test_wikitext_words_are_counted_as_the_field_does(real_data):
    data = LanguageData(path=str(real_data / "language/wikitext-2"), tokenizer="words", cache=None)
    data.setup("fit")
    records = data.records
    data.apply_split(records[["id", "group", "hash", "label"]].assign(part=records["given"]))
    assert data.vocab_size == 33_278
    for part, words, documents in (("train", 2_088_628, 600), ("val", 217_646, 60), ("test", 245_569, 60)):
        counts = data.counts(part)
        assert counts["n_words"].sum() == counts["n_tokens"].sum() == words and len(counts) == documents


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["windows", "streams"])
@pytest.mark.parametrize(("window", "rows"), [(8, 3), (7, 4), (100, 2), (9, 1)])
def test_every_label_stands_in_training_once_after_its_true_input(order, window, rows):
    part = corpus()
    seen = []
    for batch in batches(part, order, window, rows=rows):
        assert batch["tokens"].shape == batch["y"].shape == (rows, window)
        for tokens, starts, y, write in zip(*(batch[n] for n in ("tokens", "starts", "y", "write")), strict=True):
            real = y >= 0
            assert torch.equal(real, write)
            for token, begins, label in zip(
                tokens[real].tolist(), starts[real].tolist(), y[real].tolist(), strict=True
            ):
                first = label - 1 in part.starts.tolist()
                assert begins == first and token == (0 if first else label - 1)
                seen.append(label)
    assert sorted(seen) == part.labels.tolist()


def test_streams_go_on_where_the_batch_before_ended_and_windows_do_not():
    part = corpus((200, 100, 150))

    def joined(order):
        made = batches(part, order)
        ends = [(one["y"][:, -1], two["tokens"][:, 0], two["starts"][:, 0]) for one, two in pairwise(made)]
        return [bool(((a == b) | s | (a < 0)).all()) for a, b, s in ends]

    assert all(joined("streams")) and not all(joined("windows"))


def test_epochs_and_seeds_have_their_own_order():
    part = corpus((20,) * 12)
    layouts = [
        train_layout(part, "streams", 8, 3, seed, epoch).place for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert np.array_equal(layouts[0], layouts[3])
    assert not np.array_equal(layouts[0], layouts[1]) and not np.array_equal(layouts[0], layouts[2])


@pytest.mark.parametrize(("window", "stride", "rows"), [(8, 8, 3), (8, 3, 2), (64, 64, 3), (8, 1, 4)])
def test_an_evaluation_counts_every_label_once_with_the_context_it_says(window, stride, rows):
    part = corpus()
    seen = {}
    for batch in batches(part, None, window, stride, rows):
        for row in range(rows):
            for t in (batch["y"][row] >= 0).nonzero().flatten().tolist():
                place, label = batch["y_place"][row, t].item(), batch["y"][row, t].item()
                assert part.labels[place] == label and place not in seen
                assert batch["y_position"][row, t] == t + 1
                seen[place] = (batch["y_document"][row, t].item(), t + 1)
    assert sorted(seen) == list(range(len(part.labels)))
    document = np.repeat(part.documents, part.lengths)
    inside = np.arange(len(part.labels)) - np.repeat(part.starts, part.lengths)
    for place, (found, context) in seen.items():
        assert found == document[place]
        assert (
            min(inside[place] + 1, window - stride + 1) <= context <= inside[place] + 1
        )  # a full context, if there is one


def test_an_evaluation_of_a_document_does_not_hang_on_its_neighbours():
    part = corpus()
    alone = Corpus(part.labels[37:56], np.array([0]), np.array([12]), 0)
    one = batches(alone, None, rows=1)
    many = [batch for batch in batches(part, None) if (batch["y_document"] == 12).any()]
    for a, b in zip(one, many, strict=True):
        row = int((b["y_document"] == 12).any(1).nonzero()[0])
        assert all(torch.equal(a[name][0], b[name][row]) for name in ("tokens", "starts", "write", "y"))


@pytest.mark.parametrize("order", ["windows", "streams"])
def test_weights_make_the_exact_mean_for_processes_and_accumulation(order):
    part, world, accumulate = corpus(), 2, 3
    mine = [batches(part, order, rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    alone = batches(part, order)
    for group in range(0, len(alone), accumulate):
        labels = torch.cat([batch["y"].flatten() for batch in alone[group : group + accumulate]])
        labels = labels[labels >= 0].double()
        total = 0.0
        for rank in range(world):
            for batch in mine[rank][group : group + accumulate]:
                value = torch.where(batch["y"] >= 0, batch["y"], 0).double().sum(1)
                total += (value * batch["weight"]).sum().item() / world / accumulate
        assert total == pytest.approx(labels.mean().item(), rel=1e-6)


def test_tokens_are_kept_by_content_and_mapped(tmp_path):
    made = split(LanguageData(synthetic_samples=3000, vocab_size=300, cache="kept"))
    tokens = made.tokens("train")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.npy")}
    assert len(files) == 2 and isinstance(made._all_tokens()[0], np.memmap)
    again = split(LanguageData(synthetic_samples=3000, vocab_size=300, cache="kept"))
    assert np.array_equal(again.tokens("train"), tokens)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.npy")} == files
    split(LanguageData(synthetic_samples=3000, vocab_size=310, cache="kept")).tokens("train")
    assert len(list((tmp_path / "kept").rglob("*.npy"))) == 4
    plain = split(LanguageData(synthetic_samples=3000, vocab_size=300, cache=None))
    assert np.array_equal(plain.tokens("train"), tokens)


def test_a_part_of_neighbours_is_a_slice_of_the_map_and_is_made_once():
    data = split(LanguageData(synthetic_samples=6000, vocab_size=300, cache="kept"), val=2, test=2)
    values, offsets = data._all_tokens()
    assert isinstance(values, np.memmap) and len(data.records) > 6
    for part in ("train", "val", "test", None):
        labels, documents = data.corpus(part).labels, data.corpus(part).documents
        assert np.shares_memory(labels, values) and data.corpus(part) is data.corpus(part)
        expected = [values[offsets[i] : offsets[i + 1]] for i in documents]
        assert np.array_equal(labels, np.concatenate(expected))
    assert np.array_equal(data.tokens("val")[data.starts("val")], values[offsets[:2]])
    batch = next(iter(data.val_dataloader()))
    assert batch["y"].shape[1] == data.window


def test_scattered_documents_of_a_part_are_joined():
    data = split(LanguageData(synthetic_samples=6000, tokenizer="bytes", cache=None))
    part = np.array(["train", "val"] * len(data.records))[: len(data.records)]
    data.apply_split(data.records[["id", "group", "hash", "label"]].assign(part=part))
    texts = [data.text(i) for i in range(0, len(part), 2)]
    assert data.tokenizer.decode(data.tokens("train")) == "".join(texts)
    assert data.starts("train").tolist() == np.cumsum([0, *(len(text) + 1 for text in texts[:-1])]).tolist()


def test_tokens_of_an_old_split_vocabulary_or_text_are_not_answered(tmp_path):
    data = split(LanguageData(synthetic_samples=6000, tokenizer="bytes", cache=None), val=1)
    for count in (1, 3):  # of the same training part, so of the same vocabulary
        split(data, val=count, test=4 - count)
        text = "".join(data.text(i) for i in range(count))
        assert data.tokenizer.decode(data.tokens("val")) == text and len(data.counts("val")) == count
    before = data.tokens("val")
    data._use(Tokenizer.train("words", ["a b\n"], None))
    assert len(data.tokens("val")) < len(before)
    path = tmp_path / "new.txt"
    path.write_text("new text\n", encoding="utf-8")
    data.predict_path = str(path)
    all_tokens = data.corpus(None).labels
    data.setup("predict")
    assert len(data.corpus(None).labels) == 3 != len(all_tokens)


def test_only_a_vocabulary_of_words_has_a_token_that_stands_before_an_answer():
    """Elsewhere an answer is several tokens, and the first of them is a space for bytes and another "?" for BPE."""
    settings = {"synthetic": "recall", "synthetic_samples": 2000, "cache": None}
    words = split(LanguageData(tokenizer="words", **settings))
    assert words.tokenizer.decode([words.question]) == "?"
    for kind in ("bpe", "bytes"):
        assert split(LanguageData(tokenizer=kind, vocab_size=300, **settings)).question is None
    assert split(LanguageData(tokenizer="words", synthetic_samples=2000, cache=None)).question is None
    words._use(Tokenizer.train("words", ["key1 is value2 .\n"], None))  # it does not know the question mark
    assert words.question is None


def test_counts_and_entropy_are_those_of_the_documents():
    data = split(LanguageData(synthetic_samples=4000, vocab_size=300, cache=None))
    counts = data.counts("train")
    assert counts["n_tokens"].sum() == len(data.tokens("train"))
    text = "".join(data.text(i) for i in data.documents("train"))
    assert counts["n_words"].sum() == len(text.split()) + text.count("\n")
    assert counts["n_bytes"].sum() == len(text.encode())
    assert data.tokenizer.decode(data.tokens("train")) == text
    assert 1.2 < data.entropy("train") < 1.7
    assert isinstance(data.describe()["tokens"], int) and "synthetic" in data.describe()["source"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"window": 1}, "window >= 2"), ({"stride": 300}, "stride <= window"), ({"path": "a", "hub": "b/c"}, "exclude")],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ValueError, match=said):
        LanguageData(**settings)


def test_hub_data_without_a_column_of_text_are_refused(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"sentence": ["a"], "label": [1]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: rows)
    with pytest.raises(DataError, match=r"own/set.*no column text.*sentence, label"):
        LanguageData(hub="own/set", cache=None).setup("fit")


def test_the_hub_is_read_through_its_library(monkeypatch):
    """The library is the real one; only its download is replaced by rows in memory."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, config):
        asked.append((name, config))
        rows = {
            part: {"text": articles(3, seed).splitlines()} for seed, part in enumerate(("train", "validation", "test"))
        }
        return datasets.DatasetDict({part: datasets.Dataset.from_dict(row) for part, row in rows.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = LanguageData(hub="wikitext/wikitext-2-raw-v1", cache=None)
    data.setup("fit")
    assert asked == [("wikitext", "wikitext-2-raw-v1")]
    assert data.records["given"].value_counts().to_dict() == {"train": 3, "val": 3, "test": 3}
    assert data.text(0) == next(piece for _, piece in cut(articles(3, 0), "heading"))
    monkeypatch.undo()
    with pytest.raises(DataError, match="hub data wikitext/x cannot be had"):
        LanguageData(hub="wikitext/x", cache=None).setup("fit")
    assert isinstance(data.records, pd.DataFrame)
