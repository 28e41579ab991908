"""What is kept between the commands of a process: made once for the same inputs, anew for others."""

import pytest

from datamodules import papers_dataset
from datamodules.kept import Kept, digest
from datamodules.papers import PapersData
from datamodules.papers_text import PapersTokenizer
from tests.fake_data.papers import write_papers


def test_one_result_is_kept_under_its_key_and_none_of_a_failure():
    kept, made = Kept(), []

    def make(value):
        def call():
            made.append(value)
            if value == "bad":
                raise ValueError(value)
            return value

        return call

    assert [kept.get(key, make(key)) for key in ("a", "a", "b", "a")] == ["a", "a", "b", "a"]
    assert made == ["a", "b", "a"]
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            kept.get("bad", make("bad"))
    assert made[3:] == ["bad", "bad"] and kept.get("a", make("a")) == "a" and len(made) == 6


def test_a_digest_tells_apart_where_texts_end():
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["abc"])
    assert digest(iter(["ab", "c"])) == digest(["ab", "c"])


def test_a_file_is_read_again_when_it_or_a_setting_has_changed_and_its_records_are_ones_own(tmp_path):
    path = write_papers(tmp_path / "papers.csv")
    first = PapersData(path=str(path)).read_records()
    first["title"] = "changed"
    again = PapersData(path=str(path)).read_records()
    assert (again["title"] != "changed").all()
    merged = PapersData(path=str(path), merge=["cs.AI=cs.LG"]).read_records()
    assert "cs.AI" in set(again["label"]) and "cs.AI" not in set(merged["label"])
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("cs.AI", "cs.XY"), encoding="utf-8")  # of the same size
    assert "cs.XY" in set(PapersData(path=str(path)).read_records()["label"])


def test_texts_are_tokenised_once_for_the_same_tokenizer_and_limits(monkeypatch):
    monkeypatch.setattr(papers_dataset, "_TOKENS", Kept())
    tokenizer, calls = PapersTokenizer.train(["some words of a text"] * 3, 100), []
    plain = PapersTokenizer.encode
    monkeypatch.setattr(PapersTokenizer, "encode", lambda *given: calls.append(given[1]) or plain(*given))
    titles, abstracts, limits = ["some words"], ["of a text"], {"title": 5, "abstract": 5}
    for _ in range(2):
        found = papers_dataset.tokenise(tokenizer, titles, abstracts, limits)
        found.pop("title")  # a taker's own dict
    assert len(calls) == 2
    for other in ((titles, ["of text"], limits), (titles, abstracts, {"title": 3, "abstract": 5})):
        papers_dataset.tokenise(tokenizer, *other)
    papers_dataset.tokenise(PapersTokenizer.train(["some words"] * 3, 100), titles, abstracts, limits)
    assert len(calls) == 8
