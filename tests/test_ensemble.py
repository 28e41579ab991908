"""The verb `ensemble` over fabricated run folders; every number is recomputed here with scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from callbacks.report_files import Baselines, Predictions, read_json, write_json
from datamodules.errors import DataError
from lightning_project.compare import compare
from lightning_project.ensemble import ensemble
from modules import ensembling
from tests.running import code

NAMES, N = np.array(["cs.AI", "cs.CL", "cs.CV", "cs.LG"]), 240
METHODS = ("mean", "weighted", "stacking", "boosting")


def fabricate(
    folder,
    seed,
    skill,
    split="s1",
    system="papers",
    part_seed=0,
    parts=("val", "calib", "test"),
    prefix="",
    shuffle=True,
):
    """Write a run with stored predictions; equal `part_seed` gives equal samples. Rows are in an order of their own."""
    rng = np.random.default_rng(seed)
    for part in parts:
        y = np.random.default_rng([part_seed, len(part)]).integers(0, 4, N)
        logits = rng.normal(size=(N, 4)) + skill * np.eye(4)[y]
        prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        ids, group = (np.array([f"{prefix}{part}{i // k:03d}" for i in range(N)]) for k in (1, 3))
        order = rng.permutation(N) if shuffle else np.arange(N)
        found = Predictions(ids[order], group[order], y[order], prob[order].astype(np.float32), NAMES)
        found.save(folder / ("test" if part == "test" else "fit") / f"predictions_{part}.npz")
    config = folder.parent.name if folder.name.startswith("seed") else f"c{seed}"
    write_json(folder / "run.json", {"system": system, "split_hash": split, "seed": seed, "config_hash": config})
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [
        fabricate(tmp_path / name, seed, skill) for seed, (name, skill) in enumerate([("a", 1), ("b", 1.5), ("c", 0.2)])
    ]


def load(folder, part="test"):
    found = Predictions.load(folder / ("test" if part == "test" else "fit") / f"predictions_{part}.npz")
    order = np.argsort(found.id)
    return found.prob[order], found.y[order]


def test_the_mean_of_three_against_the_best_member_on_validation(tmp_path, runs):
    ensemble(runs, str(tmp_path / "out"), bootstrap=300)
    expected = np.mean([load(tmp_path / name)[0] for name in "abc"], axis=0)
    prob, y = load(tmp_path / "out")
    assert np.allclose(prob, expected, atol=1e-6)
    frame = pd.read_csv(tmp_path / "out" / "ensemble.csv").set_index("run")
    assert list(frame.index) == ["b", "a", "c", "mean of 3"]  # by validation

    def f1(p):
        return sk.f1_score(y, p.argmax(1), average="macro")

    line = frame.loc["mean of 3"]
    assert line["macro_f1"] == pytest.approx(f1(prob))
    assert line["macro_f1_difference"] == pytest.approx(f1(prob) - f1(load(tmp_path / "b")[0]))
    assert line["macro_f1_difference_low"] < line["macro_f1_difference"] < line["macro_f1_difference_high"]
    val, truth = load(tmp_path / "a", "val")
    assert frame.loc["a", "val_macro_f1"] == pytest.approx(sk.f1_score(truth, val.argmax(1), average="macro"))
    text = (tmp_path / "out" / "ENSEMBLE.md").read_text(encoding="utf-8")
    assert "the best member on validation" in text and "80 groups" in text and "nothing of it was fitted" in text
    assert (tmp_path / "out" / "ensemble.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_fitted_on_test(tmp_path, runs, method):
    """The labels of test are shuffled: every stored probability stays, and so does everything that was fitted."""
    ensemble(runs, str(tmp_path / "out"), method, bootstrap=10)
    shuffle = np.random.default_rng(7).permutation(N)
    for name in "abc":
        path = tmp_path / name / "test" / "predictions_test.npz"
        found = Predictions.load(path)
        other = dict(zip(np.sort(found.id), np.sort(found.id)[shuffle], strict=True))
        truth = dict(zip(found.id, found.y, strict=True))
        y = np.array([truth[other[key]] for key in found.id])
        Predictions(found.id, found.group, y, found.prob, found.class_names).save(path)
    ensemble(runs, str(tmp_path / "again"), method, bootstrap=10)
    assert (load(tmp_path / "out")[0] == load(tmp_path / "again")[0]).all()
    assert (load(tmp_path / "out")[1] != load(tmp_path / "again")[1]).any()
    fitted = [read_json(tmp_path / name / "ensemble.json")["fitted"] for name in ("out", "again")]
    assert fitted[0] == fitted[1]


@pytest.mark.parametrize("method", METHODS[1:])
def test_validation_is_answered_out_of_fold_where_it_was_fitted_on(tmp_path, runs, method):
    ensemble(runs, str(tmp_path / "out"), method, bootstrap=10)
    ensemble(runs, str(tmp_path / "calib"), method, "calib", bootstrap=10)
    members, y = np.stack([load(tmp_path / name, "val")[0] for name in "abc"]), load(tmp_path / "a", "val")[1]
    if method == "weighted":
        inside = ensembling.mean(members, ensembling.fit_weights(members, y))
        assert np.abs(load(tmp_path / "out", "val")[0] - inside).max() > 1e-4
    assert np.abs(load(tmp_path / "calib", "val")[0] - load(tmp_path / "out", "val")[0]).max() > 1e-4
    assert (tmp_path / "calib" / "fit" / "predictions_calib.npz").is_file()
    assert "fitted on calib, never on test; nothing" in (tmp_path / "calib" / "ENSEMBLE.md").read_text(encoding="utf-8")


def test_every_knob_changes_the_answer(tmp_path, runs):
    changes = [
        {"method": "weighted"},
        {"method": "weighted", "by": "macro_f1"},
        {"method": "weighted", "weights": [0.4, 0.6, 0.0]},
        {"method": "weighted", "part": "calib"},
        {"method": "stacking"},
        {"method": "stacking", "strength": 0.01},
        {"method": "boosting"},
        {"method": "boosting", "weights": [1.0, 2.0, 0.5]},
        {},
    ]
    answers = []
    for i, change in enumerate(changes):
        ensemble(runs, str(tmp_path / f"out{i}"), bootstrap=5, **change)
        answers.append(load(tmp_path / f"out{i}")[0].tobytes())
    assert len(set(answers)) == len(changes)
    fixed = 0.4 * load(tmp_path / "a")[0] + 0.6 * load(tmp_path / "b")[0]
    assert np.allclose(load(tmp_path / "out2")[0], fixed, atol=1e-6)


def test_one_class_can_choose_the_best_member(tmp_path, runs):
    ensemble(runs, str(tmp_path / "out"), metric="recall:cs.AI", bootstrap=50)
    prob, y = load(tmp_path / "out")
    line = pd.read_csv(tmp_path / "out" / "ensemble.csv").iloc[-1]
    assert line["recall:cs.AI"] == pytest.approx((prob.argmax(1) == 0)[y == 0].mean())
    assert line["recall:cs.AI_low"] < line["recall:cs.AI"] < line["recall:cs.AI_high"]


def test_folds_are_combined_one_by_one_and_judged_out_of_fold(tmp_path):
    for fold in (0, 1):
        for seed, name in enumerate("ab"):
            folder = tmp_path / name / f"fold-{fold}"
            fabricate(folder, 10 * fold + seed, 1.0 + seed, f"s{fold}", part_seed=fold, prefix=f"f{fold}")
    ensemble([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "out"), "weighted", bootstrap=20)
    facts = read_json(tmp_path / "out" / "ensemble.json")
    assert set(facts["fitted"]) == {"fold-0", "fold-1"} and facts["folds"] == 2
    answers = [load(tmp_path / "out" / f"fold-{k}") for k in (0, 1)]
    prob, y = (np.concatenate(column) for column in zip(*answers, strict=True))
    frame = pd.read_csv(tmp_path / "out" / "ensemble.csv")
    assert frame["macro_f1"].iloc[-1] == pytest.approx(sk.f1_score(y, prob.argmax(1), average="macro"))
    assert "over 2 folds" in (tmp_path / "out" / "ENSEMBLE.md").read_text(encoding="utf-8")
    ensemble([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "out"), bootstrap=5)  # its own may be replaced
    before = (tmp_path / "a" / "fold-0" / "test" / "predictions_test.npz").read_bytes()
    with pytest.raises(DataError, match="fold-0 is a run's own folder"):
        ensemble([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "a"))
    assert (tmp_path / "a" / "fold-0" / "test" / "predictions_test.npz").read_bytes() == before
    with pytest.raises(DataError, match="different folds"):
        ensemble([str(tmp_path / "a"), fabricate(tmp_path / "c", 9, 1.0)], str(tmp_path / "no"))
    fabricate(tmp_path / "b" / "fold-1", 5, 1.0, "s0", part_seed=0, prefix="f0")
    fabricate(tmp_path / "a" / "fold-1", 6, 1.0, "s0", part_seed=0, prefix="f0")
    with pytest.raises(DataError, match="occurs in two folds"):
        ensemble([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "no"))


def test_the_simple_models_that_were_tested_stand_beside_it(tmp_path):
    y, simple = {}, {}
    for fold in (0, 1):
        for seed, name in enumerate("ab"):
            folder = tmp_path / name / f"fold-{fold}"
            fabricate(folder, 10 * fold + seed, 1.5, f"s{fold}", part_seed=fold, prefix=f"f{fold}")
        found = Predictions.load(tmp_path / "b" / f"fold-{fold}" / "test" / "predictions_test.npz")
        prob = np.random.default_rng(fold).dirichlet(np.ones(4), N) + 0.2 * np.eye(4)[found.y]
        Baselines.of(found, {"tfidf": prob / prob.sum(1, keepdims=True)}).save(
            tmp_path / "b" / f"fold-{fold}" / "test" / "baselines_test.npz"
        )
        simple |= dict(zip(found.id, prob.argmax(1), strict=True))
        y |= dict(zip(found.id, found.y, strict=True))
    ensemble([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "out"), bootstrap=200)
    value, difference, low, high = read_json(tmp_path / "out" / "ensemble.json")["simple_models"]["tfidf"]["macro_f1"]
    ids = sorted(y)
    expected = sk.f1_score([y[i] for i in ids], [simple[i] for i in ids], average="macro")
    assert value == pytest.approx(expected)
    own = pd.read_csv(tmp_path / "out" / "ensemble.csv")["macro_f1"].iloc[-1]
    assert difference == pytest.approx(own - expected) and low < difference < high
    page = (tmp_path / "out" / "ENSEMBLE.md").read_text(encoding="utf-8")
    assert f"| tfidf | {value:.3f}; {difference:+.3f} ({low:+.3f} to {high:+.3f}) |" in page


def test_seeds_of_a_folder_are_members_and_the_result_is_compared_as_a_run(tmp_path):
    for seed in (1, 2, 10):
        fabricate(tmp_path / "many" / f"seed-{seed}", seed, 1.0, shuffle=False)
    ensemble([str(tmp_path / "many")], str(tmp_path / "out"), bootstrap=10)
    assert read_json(tmp_path / "out" / "ensemble.json")["members"][2].endswith("seed-10")
    compare([str(tmp_path / "many"), str(tmp_path / "out")], str(tmp_path / "compared"), bootstrap=10)
    frame = pd.read_csv(tmp_path / "compared" / "comparison.csv")
    assert list(frame["run"]) == ["many", "out"] and frame["macro_f1_difference"].iloc[1] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "s2"}, "split differently"),
        ({"system": "signs"}, "runs of signs and papers"),
        ({"prefix": "x"}, r"val predictions: .* have different ids: 480 are in only one"),
        ({"part_seed": 5}, "other labels or groups"),
        ({"parts": ("val",)}, "no test predictions; run `test"),
        ({"parts": ("test",)}, "no val predictions; a finished `fit`"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, change, message):
    runs = [fabricate(tmp_path / "a", 1, 1.0), fabricate(tmp_path / "b", 2, 1.0, **change)]
    with pytest.raises(DataError, match=message):
        ensemble(runs, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 1}, "two or more different"),
        ({"runs": [0, 0]}, "two or more different"),
        ({"metric": "f2"}, "unknown metric 'f2'"),
        ({"metric": "f1:cs.XX"}, "of one of the classes cs.AI, cs.CL"),
        ({"bootstrap": 0}, "bootstrap must be"),
        ({"strength": 0.0, "method": "stacking"}, "strength above 0"),
        ({"method": "stacking", "weights": [1.0, 1.0]}, "belong to the methods weighted and boosting"),
        ({"method": "weighted", "weights": [1.0]}, "must be 3 numbers"),
        ({"method": "boosting", "weights": [0.0, 0.0, 0.0]}, "not all zero"),
        ({"out": "a"}, "is a run's own folder"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, runs, change, message):
    chosen = change.pop("runs", [0, 1, 2])
    given = [runs[i] for i in ([0] if chosen == 1 else chosen)]
    out = str(tmp_path / change.pop("out", "out"))
    with pytest.raises(DataError, match=message):
        ensemble(given, out, **change)


def test_the_verb_reads_the_command_line(tmp_path, runs, capsys):
    words = ["ensemble", *runs, "--method", "weighted", "--out", str(tmp_path / "out"), "--bootstrap", "10"]
    assert code([*words, "--weights", "1", "2", "1"], config=False) == 0
    assert "weighted of 3" in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "ensemble.json")["fitted"]["run"]["weights"] == [0.25, 0.5, 0.25]
    assert code(["ensemble", runs[0]], config=False) == 3
    assert "two or more" in capsys.readouterr().err
