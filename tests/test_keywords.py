import numpy as np
import pytest

from datamodules.keywords import Keywords

TEXTS = [
    "graph kernels learn graph structure",
    "the kernels of images",
    "images of the graph and structure",
    "only once",
]


@pytest.fixture
def keywords():
    return Keywords.fit(TEXTS, 3, 100)


def test_the_vocabulary_is_that_of_the_training_texts(keywords):
    assert keywords.words == ["graph", "images", "kernels", "structure"], "no function words, nothing that occurs once"
    assert len(keywords) == 4 and Keywords.fit(TEXTS, 3, 2).words == ["graph", "images"]
    found = keywords.tables(["Unknown words"], ["of nobody. once only"])
    assert not found["keyword_mask"].any() and not found["keyword_links"].any()


def test_weights_are_those_of_scikit_learn(keywords):
    from sklearn.feature_extraction.text import TfidfVectorizer

    peer = TfidfVectorizer(vocabulary=keywords.words)
    peer.fit(TEXTS)
    title, abstract = "Graph kernels", "Images of a graph. Graph kernels again."
    dense = peer.transform([f"{title}. {abstract}"]).toarray()[0]
    found = keywords.tables([title], [abstract])
    assert found["keyword_ids"].shape == (1, 3) and found["keyword_mask"].all()
    np.testing.assert_allclose(found["keyword_weights"][0], np.sort(dense)[::-1][:3], rtol=1e-5)
    np.testing.assert_allclose(dense[found["keyword_ids"][0]], found["keyword_weights"][0], rtol=1e-5)


def test_links_are_keywords_of_one_sentence(keywords):
    found = keywords.tables(["The kernels"], ["A graph and its structure. Many images?"])
    assert Keywords(4, keywords.words, keywords.idf).tables(["x"], ["y"])["keyword_links"].shape == (1, 4, 4)
    wide = Keywords(5, keywords.words, keywords.idf).tables(
        ["The kernels"], ["A graph and its structure. Many images?"]
    )
    links, ids = wide["keyword_links"][0], wide["keyword_ids"][0].tolist()
    place = {keywords.words[word]: i for i, word in enumerate(ids[:4])}
    assert (
        links.sum() == 2 and links[place["graph"], place["structure"]] == 1 == links[place["structure"], place["graph"]]
    )
    assert wide["keyword_mask"][0].tolist() == [True] * 4 + [False] and not links[4].any() and not np.diag(links).any()
    assert found["keyword_ids"].dtype == np.int64 and found["keyword_links"].dtype == np.float32


def test_it_travels_as_plain_values(keywords):
    again = Keywords.from_state(keywords.state_dict())
    for key, table in keywords.tables(["graph images"], ["kernels"]).items():
        np.testing.assert_array_equal(again.tables(["graph images"], ["kernels"])[key], table)
    assert all(type(value) is float for value in keywords.state_dict()["idf"])
