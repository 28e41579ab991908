import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from datamodules.errors import DataError
from datamodules.terms import Terms
from modules.nets.papers_fusion import Terms as WidePart

TEXTS = [
    "a graph of words and a graph of papers",
    "words of a language, words of a paper",
    "the graph learns from papers",
    "images of papers and of a graph",
]


def test_weights_are_those_of_the_simple_model():
    """Words and pairs with (1 + ln tf) idf, of length 1: what the baseline beside the network is fitted on."""
    tables = Terms.fit(TEXTS, 1000).tables(TEXTS)
    expected = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(TEXTS).toarray()
    found = np.zeros_like(expected)
    for row in range(len(TEXTS)):
        mask = tables["term_mask"][row]
        found[row, tables["term_ids"][row, mask]] = tables["term_weights"][row, mask]
        assert not tables["term_weights"][row, ~mask].any()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_only_training_texts_make_terms_and_unknown_words_weigh_nothing():
    terms = Terms.fit(TEXTS[:3], 1000)
    assert "graph" in terms.names and "images" not in terms.names and "images of" not in terms.names
    assert not terms.tables(["images"])["term_mask"].any()


def test_the_most_frequent_terms_are_kept():
    assert len(Terms.fit(TEXTS, 3)) == 3
    assert set(Terms.fit(TEXTS, 3).names) < set(Terms.fit(TEXTS, 1000).names)


def test_plain_values_make_the_same_terms_again():
    terms = Terms.fit(TEXTS, 1000)
    again = Terms.from_state(terms.state_dict())
    for name, table in terms.tables(TEXTS).items():
        np.testing.assert_array_equal(again.tables(TEXTS)[name], table)
    assert all(isinstance(value, float) for value in terms.state_dict()["idf"])


def test_texts_without_a_common_word_are_refused():
    with pytest.raises(DataError, match="terms 0"):
        Terms.fit(["one", "two"], 10)


def test_the_wide_part_is_a_weighted_sum_and_padding_is_nothing():
    torch.manual_seed(0)
    part = WidePart(5, 4, 3, 0.0)
    ids, weights = torch.tensor([[1, 2, 0], [4, 3, 3]]), torch.tensor([[0.5, 0.7, float("nan")], [0.1, 0.2, 0.3]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    table = part.bag.weight
    by_hand = torch.stack([0.5 * table[1] + 0.7 * table[2], 0.1 * table[4] + 0.5 * table[3]])
    torch.testing.assert_close(part(ids, weights, mask), by_hand)


def test_it_starts_so_small_that_the_deep_part_is_heard():
    torch.manual_seed(0)
    part = WidePart(1000, 32, 4, 0.0)
    weights = torch.full((1, 100), 0.1)  # of length 1, as TF-IDF weights are
    total = part(torch.arange(100)[None], weights, torch.ones(1, 100, dtype=torch.bool)).detach()
    assert float(total.abs().max()) < 0.1


def test_without_width_each_term_has_a_score_a_class():
    part = WidePart(6, 0, 3, 0.5)
    ids, weights = torch.tensor([[1, 4]]), torch.tensor([[0.5, 2.0]])
    out = part.scores(part(ids, weights, torch.ones(1, 2, dtype=torch.bool)))
    torch.testing.assert_close(out, (0.5 * part.bag.weight[1] + 2 * part.bag.weight[4])[None])
