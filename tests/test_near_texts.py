"""Copies of documents are found although words were changed, and different documents of one kind stay apart."""

import numpy as np

from datamodules.near_texts import COMMON, near_text_groups, runs


def document(rng: np.random.Generator, words: int = 200) -> list[str]:
    return [f"w{i}" for i in rng.integers(300, size=words)]


def test_a_changed_copy_and_a_part_belong_to_their_source():
    rng = np.random.default_rng(0)
    first, other = document(rng), document(rng)
    changed = list(first)
    for i in range(0, 200, 40):
        changed[i] = "different"
    texts = [" ".join(words) for words in (other, first, changed, first[50:130], document(rng))]
    assert near_text_groups(texts, list("abcde")) == ["a", "b", "b", "b", "e"]


def test_some_shared_sentences_are_no_copy():
    rng = np.random.default_rng(1)
    first, other = document(rng), document(rng)
    other[:60] = first[:60]
    assert near_text_groups([" ".join(first), " ".join(other)], ["a", "b"]) == ["a", "b"]


def test_phrases_that_all_documents_share_prove_nothing():
    stock = " ".join(f"s{i}" for i in range(40))
    texts = [f"{stock} the town number {i}" for i in range(COMMON + 5)]
    names = [str(i) for i in range(len(texts))]
    assert near_text_groups(texts, names) == names


def test_short_and_empty_texts():
    assert near_text_groups(["one two", "one two", "", "two one", ""], list("abcde")) == ["a", "a", "c", "d", "e"]
    assert near_text_groups([], []) == []


def test_the_order_of_words_counts():
    assert len(runs("a b c d e f g h")) == 1
    assert runs("a b c d e f g h")[0] != runs("b a c d e f g h")[0]
    assert len(runs(" ".join("ab" * 20))) == 2, "each run once"
