import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from datamodules.text_baselines import fit_tfidf, fit_vectors

RNG = np.random.default_rng(0)
TEXTS = [f"{'alpha beta' if i % 4 else 'gamma delta'} paper number {i % 7}" for i in range(80)]
Y = np.array([2 if i % 4 else 0 for i in range(80)])


def test_tfidf_learns_and_a_class_without_samples_has_no_probability():
    prob = fit_tfidf(TEXTS, Y, 4)(["a gamma delta paper", "alpha beta is it"])
    assert prob.shape == (2, 4) and prob.argmax(1).tolist() == [0, 2] and not prob[:, [1, 3]].any()
    np.testing.assert_allclose(prob.sum(1), 1)
    assert fit_tfidf(TEXTS, Y, 4)([]).shape == (0, 4)


def test_the_order_of_two_words_counts():
    texts = [("deep graphs" if i % 2 else "graphs deep") + f" {i % 3}" for i in range(60)]
    prob = fit_tfidf(texts, np.arange(60) % 2, 2)(["deep graphs", "graphs deep"])
    assert prob.argmax(1).tolist() == [1, 0]


def test_rare_classes_are_balanced():
    y = (np.arange(200) % 20 == 0).astype(int)
    hint = np.random.default_rng(3).random(200) < np.where(y == 1, 0.8, 0.2)
    texts = [f"alpha {'delta' if known else 'gamma'} beta" for known in hint]
    assert fit_tfidf(texts, y, 2)(texts).argmax(1).sum() > 20, "an unbalanced model would hardly name ten rows of 200"


def test_vectors_have_unit_length():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import Normalizer

    vectors, y = RNG.normal(size=(60, 4)) * [1, 100, 0.01, 1], RNG.integers(0, 3, 60)
    peer = make_pipeline(Normalizer(), LogisticRegression(C=5.0, max_iter=2000)).fit(vectors, y)
    np.testing.assert_allclose(fit_vectors(vectors, y, 3)(vectors), peer.predict_proba(vectors), rtol=1e-6)


@pytest.mark.parametrize("fit", [fit_tfidf])
def test_only_training_words_are_known(fit):
    prob = fit(TEXTS, Y, 3)
    np.testing.assert_allclose(prob(["zeta eta"]), prob(["theta"]))
