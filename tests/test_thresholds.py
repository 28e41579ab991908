"""Decision rules, their tuners, temperature and abstention, against brute force and scikit-learn."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as sk

from modules import calibration, statistics, thresholds
from modules.thresholds import Target

N, C = 240, 4
GRID = (0.1, 0.2, 0.3, 0.4, 0.5)


def made(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, C, N)
    logits = scale * (rng.normal(size=(N, C)) + 1.2 * np.eye(C)[y] - np.array([0.8, 0, 0, 0]))
    prob = np.exp(logits)
    return prob / prob.sum(1, keepdims=True), y


def test_rule_a_takes_the_positive_class_from_its_threshold_on():
    prob = np.array([[0.4, 0.6, 0, 0], [0.39, 0.61, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    assert thresholds.rule_a(prob, 0, 0.4).tolist() == [0, 1, 3]
    assert thresholds.rule_a(prob, 0, np.inf).tolist() == prob.argmax(1).tolist()
    assert (thresholds.rule_a(prob, 0, 0.0) == 0).all()


def test_rule_b_at_one_over_c_is_argmax_and_a_raised_threshold_only_removes():
    prob, _ = made()
    assert (thresholds.rule_b(prob, np.full(C, 0.25)) == prob.argmax(1)).all()
    raised = thresholds.rule_b(prob, np.array([0.5, 0.25, 0.25, 0.25]))
    changed = raised != prob.argmax(1)
    assert changed.any() and (prob.argmax(1)[changed] == 0).all() and (prob[changed, 0] < 0.5).all()
    assert thresholds.rule_b(np.array([[0.4, 0.3, 0.2, 0.1]]), np.full(C, 0.9)).tolist() == [0]  # none passes


def test_the_two_rules_differ_with_the_same_threshold():
    """They share one name in the brief; at 0.3 rule A takes samples that rule B leaves where they are."""
    prob, _ = made()
    a, b = thresholds.rule_a(prob, 0, 0.3), thresholds.rule_b(prob, np.array([0.3, 0.25, 0.25, 0.25]))
    assert (a == 0).sum() > (prob.argmax(1) == 0).sum() >= (b == 0).sum()


def test_cost_decision_against_a_loop_and_with_equal_costs_argmax():
    prob, y = made()
    cost = np.array([[0, 2, 2, 1.5], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
    expected = [min(range(C), key=lambda j, p=p: sum(p[k] * cost[k, j] for k in range(C))) for p in prob]
    guess = thresholds.cost_decision(prob, cost)
    assert guess.tolist() == expected and (guess == 0).sum() > (prob.argmax(1) == 0).sum()
    assert (thresholds.cost_decision(prob, 1 - np.eye(C)) == prob.argmax(1)).all()
    assert thresholds.mean_cost(guess, y, cost) == pytest.approx(
        np.mean([cost[t, g] for t, g in zip(y, guess, strict=True)])
    )


def test_decision_metrics_agree_with_scikit_learn_and_with_the_report():
    prob, y = made()
    guess = prob.argmax(1)
    found = thresholds.decision_metrics(guess, y, C, 0)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert found[name] == pytest.approx(score(y, guess, labels=[0], average=None)[0])
    y[:10], y[10:20] = -1, -2
    theirs = statistics.classification_metrics(prob, y, list("abcd"))
    ours = thresholds.decision_metrics(guess, y, C)
    assert ours == pytest.approx({name: theirs[name] for name in ours})
    with pytest.raises(ValueError, match="no sample has a label"):
        thresholds.decision_metrics(guess, np.full(N, -1), C)


def test_rule_a_is_tuned_to_the_best_of_its_curve():
    prob, y = made()
    curve = thresholds.curve_a(prob, y, 0, GRID)
    assert curve["recall"].is_monotonic_decreasing
    for metric in ("macro_f1", "f1"):
        best = thresholds.tune_a(prob, y, 0, GRID, Target(metric))
        assert best == curve["threshold"][curve[metric].idxmax()]


def test_a_floor_of_recall_comes_before_the_metric():
    prob, y = made()
    free = thresholds.tune_a(prob, y, 0, GRID, Target("accuracy"))
    held = thresholds.tune_a(prob, y, 0, GRID, Target("accuracy", recall=0.6))
    curve = thresholds.curve_a(prob, y, 0, GRID).set_index("threshold")
    allowed = curve[curve["recall"] >= 0.6]
    assert held == allowed["accuracy"].idxmax() and held < free
    assert thresholds.tune_a(prob, y, 0, GRID, Target("accuracy", recall=1.0)) == min(GRID)  # none has it: the most


def test_where_argmax_is_best_rule_a_says_so():
    y = np.arange(40) % C
    assert thresholds.tune_a(np.eye(C)[y] * 0.96 + 0.01, y, 0, [0.005], Target("accuracy")) == np.inf


def test_the_grid_of_rule_b_finds_the_best_combination_and_greedy_never_loses_to_argmax():
    prob, y = made()
    tried = [0.1, 0.3, 0.5]

    def score(t):
        return thresholds.decision_metrics(thresholds.rule_b(prob, np.array(t)), y, C)["macro_f1"]

    found = thresholds.tune_b_grid(prob, y, 0, tried, Target())
    assert score(found) == pytest.approx(max(score(t) for t in itertools.product(tried, repeat=C)))
    greedy = thresholds.tune_b_greedy(prob, y, 0, tried, Target())
    assert score(found) >= score(greedy) - 1e-12 and score(greedy) >= score(np.zeros(C))
    with pytest.raises(ValueError, match=r"81 combinations, more than 80"):
        thresholds.tune_b_grid(prob, y, 0, tried, Target(), limit=80)


def test_the_order_of_the_classes_matters_to_the_greedy_search():
    orders = [None, [3, 2, 1, 0]]
    found = [
        [
            thresholds.tune_b_greedy(*made(seed), 0, np.arange(0.05, 0.9, 0.05), Target(), order).tolist()
            for seed in range(6)
        ]
        for order in orders
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": []}, "no candidate"),
        ({"candidates": [1.2]}, "lie in"),
        ({"y": np.ones(N, dtype=int)}, "no labelled sample of the positive class"),
    ],
)
def test_what_cannot_be_tuned_is_refused(change, message):
    prob, y = made()
    given = {"prob": prob, "y": y, "positive": 0, "candidates": GRID, "target": Target()} | change
    for tune in (thresholds.tune_a, thresholds.tune_b_greedy, thresholds.tune_b_grid):
        with pytest.raises(ValueError, match=message):
            tune(**given)
    with pytest.raises(ValueError, match="unknown target"):
        Target("weighted_f1")
    with pytest.raises(ValueError, match="recall lies"):
        Target(recall=2.0)


def test_a_planted_temperature_is_found():
    prob, y = made(3)
    rng = np.random.default_rng(4)
    y = np.array([rng.choice(C, p=p) for p in np.repeat(prob, 20, axis=0)])  # labels drawn from the probabilities
    sure = calibration.temper(np.repeat(prob, 20, axis=0), 1 / 2.5)
    found = calibration.fit_temperature(sure, y)
    assert found.value == pytest.approx(2.5, rel=0.05) and not found.at_bound and found.samples == len(y)
    cooled = calibration.temper(sure, found.value)
    assert found.after == pytest.approx(-np.log(cooled[np.arange(len(y)), y]).mean()) and found.after < found.before
    assert (cooled.argmax(1) == sure.argmax(1)).all()
    assert np.allclose(calibration.temper(prob, 1.0), prob)


def test_a_temperature_at_a_bound_is_told():
    y = np.arange(60) % C
    assert calibration.fit_temperature(np.eye(C)[y] * 0.4 + 0.15, y).at_bound  # always right: never sure enough
    with pytest.raises(ValueError, match="above 0"):
        calibration.temper(np.eye(C), 0.0)
    with pytest.raises(ValueError, match="cannot be fitted"):
        calibration.fit_temperature(np.eye(C), np.full(C, -1))


def test_abstention_against_a_loop():
    prob, y = made()
    prob = prob.round(2)  # with ties
    y[:5], y[5:9] = -1, -2
    curve = calibration.abstention_curve(prob, y)
    labelled = y != -1
    for row in curve.itertuples():
        answered = (prob.max(1) >= row.threshold) & labelled
        assert row.answered == answered.sum() and row.coverage == pytest.approx(answered.sum() / labelled.sum())
        assert row.accuracy == pytest.approx((prob.argmax(1) == y)[answered].mean())
        assert (row.coverage, row.accuracy) == pytest.approx(calibration.abstain(prob, y, row.threshold))
    assert curve["threshold"].is_monotonic_increasing and curve["coverage"].iloc[0] == 1
    held = calibration.abstention_threshold(curve, 0.8)
    assert calibration.abstain(prob, y, held)[1] >= 0.8
    assert (curve["accuracy"][curve["threshold"] < held] < 0.8).all()
    assert calibration.abstention_threshold(curve.assign(accuracy=0.5), 0.8) is None
    with pytest.raises(ValueError, match="accuracy to reach"):
        calibration.abstention_threshold(curve, 0.0)
