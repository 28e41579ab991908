"""Ensembles of stored probabilities against independent formulas, scikit-learn, and brute force."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.ensemble import AdaBoostClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.tree import DecisionTreeClassifier

from modules import ensembling

N, C = 300, 4


def softmax(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.fixture
def made():
    """Three members of different skill on the same samples."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, C, N)
    skills = np.array([0.5, 1.0, 2.0])[:, None, None]
    return softmax(rng.normal(size=(3, N, C)) + skills * np.eye(C)[y]), y


def nll(prob, y):
    return -np.log(prob[np.arange(len(y)), y]).mean()


def test_the_mean_is_weighted_and_its_weights_need_not_sum_to_one(made):
    members, _ = made
    assert np.allclose(ensembling.mean(members), members.mean(0))
    assert np.allclose(ensembling.mean(members, np.array([4.0, 0.0, 6.0])), 0.4 * members[0] + 0.6 * members[2])


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -0.1, 1.0], [0.0, 0.0, 0.0]])
def test_weights_that_are_none_are_refused(made, weights):
    with pytest.raises(ValueError, match="3 members need"):
        ensembling.mean(made[0], np.array(weights))


def test_weights_by_likelihood_are_the_optimum_on_the_simplex(made):
    members, y = made
    weights = ensembling.fit_weights(members, y)
    free = minimize(lambda z: nll(ensembling.mean(members, softmax(z)), y), np.zeros(3), method="Nelder-Mead")
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert nll(ensembling.mean(members, weights), y) <= free.fun + 1e-6
    assert weights.argmax() == 2


def test_weights_by_macro_f1_are_at_least_as_good_as_equal_ones_and_every_single_member(made):
    members, y = made
    weights = ensembling.fit_weights(members, y, "macro_f1")

    def score(prob):
        return f1_score(y, prob.argmax(1), average="macro")

    found = score(ensembling.mean(members, weights))
    assert found >= max(score(ensembling.mean(members)), *(score(member) for member in members))
    assert not np.allclose(weights, ensembling.fit_weights(members, y))
    with pytest.raises(ValueError, match="unknown criterion"):
        ensembling.fit_weights(members, y, "accuracy")


def test_rows_without_a_known_label_change_no_fit(made):
    members, y = made
    hidden = y.copy()
    hidden[:50], hidden[50:60] = -1, -2
    for by in ("nll", "macro_f1"):
        assert np.allclose(
            ensembling.fit_weights(members, hidden, by), ensembling.fit_weights(members[:, 60:], y[60:], by)
        )
    some, all_ = ensembling.Stacking.fit(members, hidden), ensembling.Stacking.fit(members[:, 60:], y[60:])
    assert np.allclose(some.coefficients, all_.coefficients)
    with pytest.raises(ValueError, match="no sample has a label"):
        ensembling.fit_weights(members, np.full(N, -1))


def test_stacking_is_a_logistic_regression_on_log_probabilities(made):
    members, y = made
    logs = np.log(np.concatenate(list(members), axis=1))
    scaled = (logs - logs.mean(0)) / logs.std(0)
    expected = LogisticRegression(max_iter=5000).fit(scaled, y).predict_proba(scaled)
    assert np.allclose(ensembling.Stacking.fit(members, y).predict(members), expected, atol=1e-6)
    weak = ensembling.Stacking.fit(members, y, strength=0.001)
    assert np.abs(weak.coefficients).sum() < np.abs(ensembling.Stacking.fit(members, y).coefficients).sum()


def test_stacking_of_two_classes_agrees_with_scikit_learn():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    members = softmax(rng.normal(size=(2, 80, 2)) + np.eye(2)[y])
    logs = np.log(np.concatenate(list(members), axis=1))
    scaled = (logs - logs.mean(0)) / logs.std(0)
    expected = LogisticRegression(max_iter=5000).fit(scaled, y).predict_proba(scaled)
    assert np.allclose(ensembling.Stacking.fit(members, y).predict(members), expected, atol=1e-6)


def test_a_class_that_the_fit_never_saw_keeps_the_mean_of_the_members(made):
    members, y = made
    kept = y != 3
    prob = ensembling.Stacking.fit(members[:, kept], y[kept]).predict(members)
    assert np.allclose(prob[:, 3], members.mean(0)[:, 3]) and np.allclose(prob.sum(1), 1)
    with pytest.raises(ValueError, match="two classes"):
        ensembling.Stacking.fit(members, np.zeros(N, dtype=int))


def test_one_sure_mistake_of_a_member_stays_finite(made):
    members, y = made
    members = members.copy()
    members[2, 0] = np.eye(C)[(y[0] + 1) % C]
    assert np.isfinite(ensembling.Stacking.fit(members, y).predict(members)).all()
    assert np.isfinite(ensembling.fit_weights(members, y)).all()


def test_out_of_fold_never_answers_for_a_sample_or_its_group_that_it_was_fitted_on(made):
    members, y = made
    groups = np.arange(N) // 3
    position = {members[0, i].tobytes(): i for i in range(N)}
    met = []

    def fit(inside, labels):
        fitted = {groups[position[row.tobytes()]] for row in inside[0]}

        def answer(outside):
            asked = [position[row.tobytes()] for row in outside[0]]
            assert not fitted & {groups[i] for i in asked}
            met.extend(asked)
            return outside[0]

        return answer

    assert np.allclose(ensembling.out_of_fold(fit, members, y, groups), members[0])
    assert sorted(met) == list(range(N))


def test_out_of_fold_answers_where_a_class_is_rare_and_where_labels_are_missing(made):
    members, y = made
    y = np.where(y == 3, 0, y)
    y[:2], y[2:6] = 3, -1

    def fit(inside, labels):
        return ensembling.Stacking.fit(inside, labels).predict

    prob = ensembling.out_of_fold(fit, members, y, np.arange(N))
    assert np.allclose(prob.sum(1), 1)
    assert (prob != ensembling.out_of_fold(fit, members, y, np.arange(N), seed=1)).any()
    with pytest.raises(ValueError, match="two groups"):
        ensembling.out_of_fold(fit, members, y, np.zeros(N))


def test_alpha_counts_the_classes():
    """The binary rule of the sketch gives 0.12 at an error of 0.44, and turns negative beyond one half."""
    assert 0.5 * np.log((1 - 0.44) / 0.44) == pytest.approx(0.12, abs=0.005)
    assert ensembling.samme_alpha(0.44, 4) == pytest.approx(1.34, abs=0.005)
    assert ensembling.samme_alpha(0.6, 4) > 0 > ensembling.samme_alpha(0.8, 4)
    assert ensembling.samme_alpha(0.75, 4) == pytest.approx(0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ensembling.samme_alpha(0.0, 4)


def test_boosting_agrees_with_scikit_learn(made):
    rng = np.random.default_rng(2)
    y = made[1]
    x = rng.normal(size=(N, 3)) + np.eye(C, 3)[y]
    theirs = AdaBoostClassifier(DecisionTreeClassifier(max_depth=2, random_state=0), n_estimators=4).fit(x, y)
    members = np.stack([np.eye(C)[tree.predict(x)] for tree in theirs.estimators_])
    alphas, weights = ensembling.samme_alphas(members, y), np.ones(N)
    for member, alpha in zip(members, alphas, strict=True):
        wrong = member.argmax(1) != y
        assert alpha == pytest.approx(ensembling.samme_alpha(weights[wrong].sum() / weights.sum(), C))
        weights = ensembling.samme_update(weights, wrong, alpha)
        assert weights.mean() == pytest.approx(1)
    assert alphas == pytest.approx(theirs.estimator_weights_)
    assert np.allclose(ensembling.samme_vote(members, alphas), theirs.predict_proba(x))


def test_a_member_no_better_than_guessing_has_no_vote_and_a_perfect_one_a_finite_one(made):
    _, y = made
    always_wrong, right = np.eye(C)[(y + 1) % C], np.eye(C)[y]
    alphas = ensembling.samme_alphas(np.stack([always_wrong, right]), y)
    assert alphas[0] == 0 and 0 < alphas[1] < 20


def test_members_are_aligned_by_id_or_refused():
    ids = np.array(["2601.08950", "a", "b"])
    rows = ensembling.align([ids, ids[[2, 0, 1]]], ["one", "two"])
    assert ids[[2, 0, 1]][rows[1]].tolist() == ids.tolist()
    with pytest.raises(ValueError, match="one and two have different ids: 2 are in only one"):
        ensembling.align([ids, np.array(["2601.0895", "a", "b"])], ["one", "two"])
    with pytest.raises(ValueError, match="two has the id 'a' twice"):
        ensembling.align([ids, np.array(["2601.08950", "a", "a"])], ["one", "two"])
