"""Reported numbers against scikit-learn and torchmetrics; intervals against a slow loop and against known coverage."""

import time

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as reference
from torchmetrics.classification import MulticlassCalibrationError, MulticlassPrecision

from modules import statistics
from modules.metrics import build_metrics

CLASSES = 5
NAMES = list("abcde")


def sample(n: int = 300, seed: int = 0, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities better than chance, labels, and groups of about three; the last class never occurs."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes - 1, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y]
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return prob.astype(np.float32), y, rng.integers(0, n // 3, n)


def test_equals_sklearn() -> None:
    prob, y, _ = sample()
    guess = prob.argmax(axis=1)
    found = statistics.classification_metrics(prob, y, NAMES, top_k=2)
    expected = {
        "accuracy": reference.accuracy_score(y, guess),
        "macro_f1": reference.f1_score(y, guess, average="macro"),
        "macro_precision": reference.precision_score(y, guess, average="macro", zero_division=0),
        "macro_recall": reference.recall_score(y, guess, average="macro", zero_division=0),
        "weighted_f1": reference.f1_score(y, guess, average="weighted"),
        "top2": reference.top_k_accuracy_score(y, prob, k=2, labels=range(CLASSES)),
        "nll": -np.log(prob[np.arange(len(y)), y]).mean(),
    }
    ece = found.pop("ece")
    assert found == pytest.approx(expected, rel=1e-5)
    pair = torch.from_numpy(prob), torch.from_numpy(y)
    assert ece == pytest.approx(MulticlassCalibrationError(CLASSES, n_bins=15)(*pair).item(), abs=1e-6)
    precision = MulticlassPrecision(CLASSES, average="macro")(*pair).item()
    assert found["macro_precision"] == pytest.approx(precision, abs=1e-6)


def test_equals_the_metrics_on_the_device() -> None:
    prob, y, _ = sample()
    prob[:5] = np.eye(CLASSES)[:5]
    prob[5:9] = 0.2
    y[9], y[10:30] = -1, -2
    live = build_metrics(CLASSES)(torch.from_numpy(prob), torch.from_numpy(y))
    found = statistics.classification_metrics(prob, y, NAMES)
    assert {name: found[name] for name in live} == pytest.approx({name: value.item() for name, value in live.items()})


def test_perfect_and_certainly_wrong_predictions() -> None:
    prob, y = np.eye(CLASSES), np.arange(CLASSES)
    found = statistics.classification_metrics(prob, y, NAMES)
    assert found["accuracy"] == found["macro_f1"] == found["top3"] == 1.0
    assert found["nll"] == found["ece"] == 0.0
    wrong = statistics.classification_metrics(prob, (y + 1) % CLASSES, NAMES)
    assert wrong["accuracy"] == 0.0 and wrong["ece"] == 1.0 and np.isfinite(wrong["nll"])


def test_classes_never_trained_are_errors_of_no_class() -> None:
    prob, y, _ = sample()
    before, table = statistics.classification_metrics(prob, y, NAMES), statistics.per_class(prob, y, NAMES)
    more = np.concatenate([prob, prob[:30]])
    strange = np.concatenate([y, np.full(30, -2)])
    after = statistics.classification_metrics(more, strange, NAMES)
    assert after["accuracy"] == pytest.approx(before["accuracy"] * 300 / 330) and after["nll"] == before["nll"]
    assert after["top3"] == pytest.approx(before["top3"] * 300 / 330) and after["macro_f1"] < before["macro_f1"]
    changed = statistics.per_class(more, strange, NAMES)
    assert changed["recall"].equals(table["recall"]) and changed["precision"].sum() < table["precision"].sum()
    assert changed["f1-score"].mean() == pytest.approx(after["macro_f1"])
    assert statistics.confusion(more, strange, CLASSES).sum() == 300


def test_per_class_equals_sklearn() -> None:
    prob, y, _ = sample()
    found = statistics.per_class(prob, y, NAMES)
    expected = reference.classification_report(
        y, prob.argmax(axis=1), labels=range(CLASSES), target_names=NAMES, output_dict=True, zero_division=0
    )
    assert list(found.columns) == ["class", "precision", "recall", "f1-score", "support"]
    for row in found.to_dict("records"):
        assert {key: row[key] for key in expected[row["class"]]} == pytest.approx(expected[row["class"]])


def test_confusion_and_most_confused_pairs() -> None:
    prob, y, _ = sample()
    matrix = statistics.confusion(prob, y, CLASSES)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(y, prob.argmax(axis=1), labels=range(CLASSES)))
    counts = np.array([[5, 2, 0], [4, 6, 0], [0, 1, 3]])
    pairs = statistics.top_confusions(counts, ["x", "y", "z"], k=9)
    assert pairs["truth"].tolist() == ["y", "x", "z"] and pairs["prediction"].tolist() == ["x", "y", "y"]
    assert pairs["count"].tolist() == [4, 2, 1] and pairs["share"].tolist() == pytest.approx([0.4, 2 / 7, 0.25])
    assert len(statistics.top_confusions(counts, ["x", "y", "z"], k=1)) == 1 and counts[0, 0] == 5


def test_reliability_counts_every_sample_and_gives_the_ece() -> None:
    prob, y, _ = sample()
    table = statistics.reliability(prob, y, bins=15)
    assert table["count"].sum() == len(y) and len(table) == 15
    filled = table[table["count"] > 0]
    assert filled["confidence"].between(filled["low"] - 1e-6, filled["high"] + 1e-6).all()
    ece = ((filled["confidence"] - filled["accuracy"]).abs() * filled["count"]).sum() / len(y)
    assert ece == pytest.approx(statistics.classification_metrics(prob, y, NAMES)["ece"])
    assert table[table["count"] == 0]["accuracy"].isna().all()


def test_unlabelled_rows_are_left_out_everywhere() -> None:
    prob, y, groups = sample()
    y[::4] = -1
    keep = y >= 0
    all_metrics = statistics.classification_metrics(prob, y, NAMES)
    assert all_metrics == statistics.classification_metrics(prob[keep], y[keep], NAMES)
    assert statistics.confusion(prob, y, CLASSES).sum() == keep.sum() == statistics.reliability(prob, y)["count"].sum()
    found = statistics.bootstrap(prob, y, groups, n=20)
    assert found == statistics.bootstrap(prob[keep], y[keep], groups[keep], n=20)


def test_bootstrap_equals_a_slow_loop() -> None:
    prob, y, groups = sample(60)
    names = ["accuracy", "macro_f1", "macro_recall", "top2", "nll", "ece"]
    found, count = statistics.bootstrap(prob, y, groups, names, n=40, seed=3)
    codes = np.unique(groups, return_inverse=True)[1]
    assert count == codes.max() + 1
    times = np.random.default_rng(3).multinomial(count, np.full(count, 1 / count), size=40)
    values = []
    for row in times:
        rows = np.repeat(np.arange(len(y)), row[codes])
        values.append(statistics.classification_metrics(prob[rows], y[rows], NAMES, top_k=2))
    for name in names:
        low, high = np.quantile([value[name] for value in values], [0.025, 0.975])
        assert found[name] == pytest.approx((low, high))


def test_resampled_values_lie_behind_the_intervals_and_can_be_subtracted() -> None:
    prob, y, groups = sample(60)
    draws = statistics.resampled(prob, y, groups, ["accuracy", "nll"], n=50, seed=2)
    assert set(draws) == {"accuracy", "nll"} and draws["nll"].shape == (50,)
    found = statistics.bootstrap(prob, y, groups, ["accuracy", "nll"], n=50, seed=2)[0]
    assert found == {name: pytest.approx(np.quantile(values, [0.025, 0.975])) for name, values in draws.items()}
    worse = statistics.resampled(np.roll(prob, 1, axis=1), y, groups, ["accuracy"], n=50, seed=2)["accuracy"]
    pair = statistics.paired_bootstrap(prob, np.roll(prob, 1, axis=1), y, groups, ["accuracy"], n=50, seed=2)
    assert pair["accuracy"][1:] == pytest.approx(np.quantile(draws["accuracy"] - worse, [0.025, 0.975]))


def test_bootstrap_of_single_samples_agrees_with_the_binomial() -> None:
    prob, y, _ = sample(400)
    (low, high), count = statistics.bootstrap(prob, y, np.arange(400), ["accuracy"], n=2000)[0]["accuracy"], 400
    right = int((prob.argmax(axis=1) == y).sum())
    expected = np.array(stats.binom.interval(0.95, count, right / count)) / count
    assert (low, high) == pytest.approx(expected, abs=0.01)


def test_groups_of_copies_give_wider_intervals() -> None:
    prob, y, _ = sample(100)
    copies = np.repeat(np.arange(100), 10)
    apart = statistics.bootstrap(prob[copies], y[copies], np.arange(1000), ["accuracy"])[0]["accuracy"]
    together = statistics.bootstrap(prob[copies], y[copies], copies, ["accuracy"])[0]["accuracy"]
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_bootstrap_is_seeded_and_does_not_depend_on_row_order_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    prob, y, groups = sample()
    first = statistics.bootstrap(prob, y, groups, n=50)
    order = np.random.default_rng(1).permutation(len(y))
    names = np.array([f"group {group:04d}" for group in groups])
    shuffled = statistics.bootstrap(prob[order], y[order], names[order], n=50)
    assert shuffled[0] == {name: pytest.approx(first[0][name]) for name in first[0]} and shuffled[1] == first[1]
    assert statistics.bootstrap(prob, y, groups, n=50, seed=1) != first
    monkeypatch.setattr(statistics, "_CELLS", 1000)
    assert statistics.bootstrap(prob, y, groups, n=50)[0] == {name: pytest.approx(first[0][name]) for name in first[0]}


def test_paired_bootstrap() -> None:
    prob, y, groups = sample()
    worse = 0.6 * prob + 0.4 * np.random.default_rng(5).dirichlet(np.ones(CLASSES), len(y))
    same = statistics.paired_bootstrap(prob, prob, y, groups, n=50)
    assert all(value == (0, 0, 0) for value in same.values())
    for name, (difference, low, high) in statistics.paired_bootstrap(prob, worse, y, groups, n=200).items():
        a, b = (statistics.classification_metrics(p, y, NAMES)[name] for p in (prob, worse))
        assert difference == pytest.approx(a - b) and low <= difference <= high
    gap = statistics.paired_bootstrap(prob, worse, y, groups, ["nll"], n=200)["nll"]
    apart = [statistics.bootstrap(p, y, groups, ["nll"], n=200)[0]["nll"] for p in (prob, worse)]
    assert gap[2] < 0, "the better model has a lower loss"
    assert gap[2] - gap[1] < (apart[0][1] - apart[0][0]) + (apart[1][1] - apart[1][0])


def test_a_thousand_resamples_take_a_moment() -> None:
    prob, y, _ = sample(840, classes=28)
    start = time.process_time()
    statistics.bootstrap(prob, y, np.arange(840), ["accuracy", "macro_f1", "top3", "nll", "ece"], n=1000)
    assert time.process_time() - start < 2


def test_errors_name_the_fault() -> None:
    prob, y, groups = sample(12)
    with pytest.raises(ValueError, match="unknown metrics"):
        statistics.bootstrap(prob, y, groups, ["acuracy"])
    with pytest.raises(ValueError, match="class names"):
        statistics.classification_metrics(prob, y, NAMES[:3])
    with pytest.raises(ValueError, match="no sample has a label"):
        statistics.classification_metrics(prob, np.full(12, -1), NAMES)
    with pytest.raises(ValueError, match="groups do not fit"):
        statistics.bootstrap(prob, y, groups[:4])
    with pytest.raises(ValueError, match="do not fit"):
        statistics.confusion(prob, y[:4], CLASSES)
    with pytest.raises(ValueError, match="different shapes"):
        statistics.paired_bootstrap(prob, prob[:, :3], y, groups)


def test_metrics_of_one_class_equal_sklearn_and_resample_like_a_loop() -> None:
    prob, y, groups = sample()
    y[:7] = -2  # an error that belongs to no class
    guess, names = prob.argmax(axis=1), ["f1[1]", "recall[1]", "precision[1]", "f1[4]", "recall[4]"]
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        y, guess, labels=range(CLASSES), zero_division=0
    )
    found = statistics.paired_bootstrap(prob, np.roll(prob, 1, 1), y, groups, names, n=20)
    rolled = np.roll(prob, 1, 1).argmax(1)
    other = reference.precision_recall_fscore_support(y, rolled, labels=range(CLASSES), zero_division=0)
    assert found["f1[1]"][0] == pytest.approx(f1[1] - other[2][1])
    assert found["recall[1]"][0] == pytest.approx(recall[1] - other[1][1])
    assert found["precision[1]"][0] == pytest.approx(precision[1] - other[0][1])
    draws = statistics.resampled(prob, y, groups, names, n=5, seed=3)
    codes = np.unique(groups, return_inverse=True)[1]
    times = np.random.default_rng(3).multinomial(codes.max() + 1, np.full(codes.max() + 1, 1 / (codes.max() + 1)), 5)
    slow = [reference.recall_score(y, guess, labels=[1], average=None, sample_weight=row[codes])[0] for row in times]
    np.testing.assert_allclose(draws["recall[1]"], slow)
    assert (draws["recall[4]"] == 0).all()  # never occurs


def test_metrics_of_a_class_by_name() -> None:
    assert statistics.by_index("recall:c", NAMES) == "recall[2]"
    assert statistics.by_index("macro_f1", NAMES) == "macro_f1"
    for wrong in ("recall:z", "nll:a"):
        with pytest.raises(ValueError, match="one of the classes a, b"):
            statistics.by_index(wrong, NAMES)
    with pytest.raises(ValueError, match="unknown metrics"):
        statistics.resampled(*sample(), ["recall[5]"], n=2)
