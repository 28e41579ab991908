"""The verb `decide` over fabricated run folders; every number is recomputed here."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from callbacks.report_files import Predictions, read_json, write_json
from datamodules.errors import DataError
from datamodules.predictions import write_predictions
from lightning_project.decide import decide, read_cost
from modules import calibration, thresholds
from modules.thresholds import Target
from tests.running import code

NAMES, N = ["cs.AI", "cs.CL", "cs.CV", "cs.LG"], 300
COST = "truth,cs.AI,cs.CL,cs.CV,cs.LG\ncs.AI,0,2,2,1.5\ncs.CL,1,0,1,1\ncs.CV,1,1,0,1\ncs.LG,1,1,1,0\n"


def fabricate(folder, seed=0, parts=("calib", "val", "test"), sure=3.0, split="s"):
    """Write a run whose rare first class is predicted too seldom, and whose probabilities are too sure."""
    for k, part in enumerate(parts):
        rng = np.random.default_rng([seed, k])
        y = rng.choice(4, N, p=[0.15, 0.25, 0.3, 0.3])
        logits = sure * (rng.normal(size=(N, 4)) + 1.3 * np.eye(4)[y] - np.array([0.9, 0, 0, 0]))
        prob = np.exp(logits - logits.max(1, keepdims=True))
        prob /= prob.sum(1, keepdims=True)
        ids, group = (np.array([f"{seed}{part}{i // n:03d}" for i in range(N)]) for n in (1, 2))
        found = Predictions(ids, group, y, prob.astype(np.float32), np.array(NAMES))
        found.save(folder / ("test" if part == "test" else "fit") / f"predictions_{part}.npz")
    write_json(folder / "run.json", {"system": "papers", "split_hash": split})
    return str(folder)


@pytest.fixture
def run(tmp_path):
    return fabricate(tmp_path / "run")


def load(folder, part="test"):
    return Predictions.load(folder / ("test" if part == "test" else "fit") / f"predictions_{part}.npz")


def results(folder):
    return pd.read_csv(folder / "results.csv").set_index("rule")


def test_rules_are_tuned_on_validation_and_judged_on_test(tmp_path, run):
    decide(run, positive="cs.AI", bootstrap=200)
    folder = tmp_path / "run" / "decide"
    facts = read_json(folder / "decisions.json")["fitted"]["run"]
    calib, val, test = (load(tmp_path / "run", part) for part in ("calib", "val", "test"))
    temperature = calibration.fit_temperature(calib.prob, calib.y).value
    assert facts["temperature"]["value"] == pytest.approx(temperature) and temperature > 2
    prob = calibration.temper(test.prob, temperature)
    cooled = calibration.temper(val.prob, temperature)
    tried = np.arange(0.05, 0.955, 0.01).round(2).tolist()
    t = thresholds.tune_a(cooled, val.y, 0, tried, Target())
    assert facts["a"] == pytest.approx(t)
    frame = results(folder)
    expected = {
        "argmax": test.prob.argmax(1),
        "a": thresholds.rule_a(prob, 0, t),
        "b": thresholds.rule_b(prob, thresholds.tune_b_greedy(cooled, val.y, 0, tried, Target())),
    }
    assert list(frame.index) == ["argmax", "a", "b"]
    for rule, guess in expected.items():
        assert frame.loc[rule, "accuracy"] == pytest.approx(sk.accuracy_score(test.y, guess))
        assert frame.loc[rule, "macro_f1"] == pytest.approx(sk.f1_score(test.y, guess, average="macro"))
        assert frame.loc[rule, "recall"] == pytest.approx(sk.recall_score(test.y, guess, labels=[0], average=None)[0])
        stored = Predictions.load(folder / f"decisions_{rule}.npz")
        assert (stored.prob.argmax(1) == guess).all() and (stored.id == test.id).all()
    line = frame.loc["a"]
    assert line["recall_difference"] == pytest.approx(line["recall"] - frame.loc["argmax", "recall"])
    assert 0 < line["recall_difference_low"] < line["recall_difference"] < line["recall_difference_high"]
    text = (folder / "DECISIONS.md").read_text(encoding="utf-8")
    assert "rule A (one class)" in text and "rule B (every class)" in text and "150 groups" in text
    assert (folder / "decisions.png").read_bytes().startswith(b"\x89PNG")
    assert list(pd.read_csv(folder / "decisions.csv").columns)[:4] == ["id", "truth", "argmax", "a"]


def test_the_whole_curve_is_reported_on_validation_and_on_test(tmp_path, run):
    decide(run, positive="cs.AI", candidates=[0.2, 0.3, 0.5], bootstrap=5)
    folder = tmp_path / "run" / "decide"
    curve = pd.read_csv(folder / "curve_a.csv")
    assert curve.groupby("part")["threshold"].apply(list).to_dict() == {"val": [0.2, 0.3, 0.5], "test": [0.2, 0.3, 0.5]}
    fitted = read_json(folder / "decisions.json")["fitted"]["run"]
    on_test = curve[curve["part"] == "test"].set_index("threshold")
    assert on_test.loc[fitted["a"], "macro_f1"] == pytest.approx(results(folder).loc["a", "macro_f1"])
    b = pd.read_csv(folder / "curve_b.csv")
    assert set(b["class"]) == set(NAMES) and set(b["threshold"]) == {0.0, 0.2, 0.3, 0.5}
    row = b[(b["part"] == "test") & (b["class"] == "cs.AI") & (b["threshold"] == fitted["b"]["cs.AI"])].iloc[0]
    assert row["macro_f1"] == pytest.approx(results(folder).loc["b", "macro_f1"])


def test_nothing_of_test_reaches_a_tuner(tmp_path, run):
    """Labels and probabilities of test are replaced: what was fitted stays to the last digit."""
    (tmp_path / "cost.csv").write_text(COST)
    decide(run, cost=str(tmp_path / "cost.csv"), bootstrap=5)
    before = read_json(tmp_path / "run" / "decide" / "decisions.json")
    path = tmp_path / "run" / "test" / "predictions_test.npz"
    found = Predictions.load(path)
    order = np.random.default_rng(3).permutation(N)
    Predictions(found.id, found.group, found.y[order], found.prob[:, ::-1], found.class_names).save(path)
    decide(run, cost=str(tmp_path / "cost.csv"), bootstrap=5)
    after = read_json(tmp_path / "run" / "decide" / "decisions.json")
    assert {k: v for k, v in before.items() if k != "test"} == {k: v for k, v in after.items() if k != "test"}
    assert before["test"] != after["test"]


def test_every_knob_changes_something(tmp_path, run):
    (tmp_path / "cost.csv").write_text(COST)
    (tmp_path / "mild.csv").write_text(COST.replace("2", "1.2"))
    changes = [
        {"positive": "cs.AI"},
        {"positive": "cs.LG"},
        {"positive": "cs.AI", "target": "f1"},
        {"positive": "cs.AI", "target": "accuracy"},
        {"positive": "cs.AI", "recall": 0.9},
        {"positive": "cs.AI", "search": "grid"},
        {"positive": "cs.AI", "candidates": [0.15, 0.3]},
        {"positive": "cs.AI", "order": ["cs.LG", "cs.CV", "cs.CL", "cs.AI"]},
        {"positive": "cs.AI", "rules": ["a"]},
        {"positive": "cs.AI", "cost": str(tmp_path / "cost.csv")},
        {"positive": "cs.AI", "cost": str(tmp_path / "mild.csv")},
        {"positive": "cs.AI", "calibrate_on": "val"},
    ]
    seen = set()
    for i, change in enumerate(changes):
        some = np.arange(0.05, 0.95, 0.03).round(2).tolist() if "search" not in change else None  # for speed
        decide(run, **{"candidates": some, **change}, out=str(tmp_path / f"out{i}"), bootstrap=5)
        seen.add((tmp_path / f"out{i}" / "decisions.csv").read_text())
    assert len(seen) == len(changes)
    for answers in (0.7, 0.95):
        decide(run, answers=answers, out=str(tmp_path / f"answers{answers}"), bootstrap=5)
    few, many = (pd.read_csv(tmp_path / f"answers{a}" / "decisions.csv")["answered"].mean() for a in (0.95, 0.7))
    assert few < many


def test_the_cost_rule_costs_less_than_argmax(tmp_path, run):
    (tmp_path / "cost.csv").write_text(COST)
    decide(run, cost=str(tmp_path / "cost.csv"), bootstrap=5)
    frame = results(tmp_path / "run" / "decide")
    assert frame.loc["cost", "cost"] < frame.loc["argmax", "cost"]
    assert "mean cost" in (tmp_path / "run" / "decide" / "DECISIONS.md").read_text(encoding="utf-8")


def test_costs_follow_the_names_of_the_classes(tmp_path):
    (tmp_path / "cost.csv").write_text("x, b,a\nb,0,3\na,1,0\n")
    assert read_cost(str(tmp_path / "cost.csv"), ["a", "b"]).tolist() == [[0, 1], [3, 0]]
    for text, message in [
        ("x,a\na,0\nb,1\n", r"the columns are \['a'\]"),
        ("x,a,b\na,0,1\na,1,0\n", r"the rows are \['a', 'a'\]"),
        ("x,a,b\na,0,-1\nb,1,0\n", "row a, column b"),
        ("x,a,b\na,0,1\nb,much,0\n", "row b, column a"),
        ("", "not a table"),
    ]:
        (tmp_path / "cost.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_cost(str(tmp_path / "cost.csv"), ["a", "b"])


def test_without_a_calibration_part_the_page_says_so(tmp_path):
    run = fabricate(tmp_path / "run", parts=("val", "test"))
    decide(run, bootstrap=5)
    folder = tmp_path / "run" / "decide"
    assert read_json(folder / "decisions.json")["fitted"]["run"]["temperature"] is None
    assert "no calibration part" in (folder / "DECISIONS.md").read_text(encoding="utf-8")
    assert not (folder / "abstention.csv").exists()
    assert "answered" not in pd.read_csv(folder / "decisions.csv")


def test_a_temperature_at_a_bound_is_warned_about(tmp_path, capsys):
    run = fabricate(tmp_path / "run")
    path = tmp_path / "run" / "fit" / "predictions_calib.npz"
    found = Predictions.load(path)
    prob = (np.eye(4)[found.y] * 0.4 + 0.15).astype(np.float32)
    Predictions(found.id, found.group, found.y, prob, found.class_names).save(path)
    decide(run, bootstrap=5)
    assert "ended at a bound" in capsys.readouterr().out


def test_the_weakest_class_on_validation_is_the_positive_one_unless_named(tmp_path, run):
    decide(run, bootstrap=5)
    assert read_json(tmp_path / "run" / "decide" / "decisions.json")["positive"] == "cs.AI"


def test_folds_are_fitted_one_by_one_and_judged_together(tmp_path):
    for k in (0, 1):
        fabricate(tmp_path / "run" / f"fold-{k}", seed=k, split=f"s{k}", sure=1.0 + k)
    decide(str(tmp_path / "run"), positive="cs.AI", bootstrap=20)
    facts = read_json(tmp_path / "run" / "decide" / "decisions.json")["fitted"]
    assert facts["fold-0"]["temperature"]["value"] < facts["fold-1"]["temperature"]["value"]
    guesses, truth = [], []
    for k in (0, 1):
        found = load(tmp_path / "run" / f"fold-{k}")
        cooled = calibration.temper(found.prob, facts[f"fold-{k}"]["temperature"]["value"])
        guesses.append(thresholds.rule_a(cooled, 0, facts[f"fold-{k}"]["a"]))
        truth.append(found.y)
    frame = results(tmp_path / "run" / "decide")
    assert frame.loc["a", "accuracy"] == pytest.approx((np.concatenate(guesses) == np.concatenate(truth)).mean())
    assert "over 2 folds" in (tmp_path / "run" / "decide" / "DECISIONS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive": "cs.XX"}, "no class 'cs.XX'"),
        ({"order": ["cs.AI", "x"]}, "no class 'x'"),
        ({"rules": ["cost"]}, "go together"),
        ({"rules": ["a"], "cost": "cost.csv"}, "go together"),
        ({"recall": 1.5}, "a recall lies"),
        ({"answers": 0.0}, "answers in"),
        ({"bootstrap": 0}, "bootstrap must be"),
        ({"candidates": [2.0]}, "thresholds lie in"),
        ({"search": "grid", "candidates": list(np.linspace(0, 1, 11))}, "14641 combinations, more than 10000"),
    ],
)
def test_settings_that_cannot_be_are_refused(run, change, message):
    with pytest.raises(DataError, match=message):
        decide(run, **change)


def test_missing_predictions_are_refused_with_the_command_that_writes_them(tmp_path):
    run = fabricate(tmp_path / "run", parts=("val",))
    with pytest.raises(DataError, match="no test predictions; run `test"):
        decide(run, bootstrap=5)
    with pytest.raises(DataError, match="not a run folder"):
        decide(str(tmp_path / "none"))


def test_the_verb_reads_the_command_line(tmp_path, run, capsys):
    words = ["decide", run, "--rules", "a", "b", "--positive", "cs.AI", "--target", "f1", "--bootstrap", "5"]
    assert code(words, config=False) == 0
    assert "those of cs.AI" in capsys.readouterr().out
    assert code(["decide", run, "--positive", "none"], config=False) == 3


def test_a_coarser_class_is_answered_where_the_class_is_not_sure_enough(tmp_path, run):
    levels = {"genus": ["A", "A", "B", "B"], "family": ["F"] * 4}
    pd.DataFrame({"class": NAMES, "train": 1, **levels}).to_csv(tmp_path / "run" / "classes.csv", index=False)
    decide(run, answers=0.8, bootstrap=20)
    folder = tmp_path / "run" / "decide"
    found = read_json(folder / "decisions.json")
    backed, temperature = found["back_off"]["run"], found["fitted"]["run"]["temperature"]["value"]
    calib, test = (load(tmp_path / "run", part) for part in ("calib", "test"))

    def answer(part, threshold):
        prob = calibration.temper(part.prob, temperature)
        level = np.full(len(part.y), -1)
        right = np.zeros(len(part.y), bool)
        for place, members in enumerate(([[0], [1], [2], [3]], [[0, 1], [2, 3]], [[0, 1, 2, 3]])):
            summed = np.stack([prob[:, rows].sum(1) for rows in members], axis=1)
            truth = np.array([next(k for k, rows in enumerate(members) if y in rows) for y in part.y])
            now = (level == -1) & (summed.max(1) >= threshold)
            level[now], right[now] = place, (summed.argmax(1) == truth)[now]
        return level, right

    level, right = answer(calib, backed["threshold"])
    assert right[level >= 0].mean() >= 0.8
    lower, wrong = answer(calib, backed["threshold"] - 0.01)
    assert wrong[lower >= 0].mean() < 0.8
    level, right = answer(test, backed["threshold"])
    assert backed["answered"] == pytest.approx((level >= 0).mean()) == 1  # all four are of one family
    assert backed["accuracy"] == pytest.approx(right.mean())
    assert backed["levels"] == {n: pytest.approx((level == i).mean()) for i, n in enumerate(["class", *levels])}
    assert "## Back-off" in (folder / "DECISIONS.md").read_text()
    new = tmp_path / "predictions.csv"
    write_predictions(new, test.id.tolist(), test.prob, NAMES)
    decide(run, answers=0.8, bootstrap=20, new=str(new))
    given = pd.read_csv(folder / "answers.csv", keep_default_na=False)
    assert given["level"].tolist() == [["class", "genus", "family", ""][i] for i in level]
    coarser = {kind: dict(zip(NAMES, names, strict=True)) for kind, names in {"class": NAMES, **levels}.items()}
    truth = [coarser[kind][NAMES[y]] for kind, y in zip(given["level"], test.y, strict=True)]
    assert ((given["answer"] == truth) == right).all() and (given["probability"] >= backed["threshold"]).all()
    pd.DataFrame({"class": NAMES[::-1], "train": 1, **levels}).to_csv(tmp_path / "run" / "classes.csv", index=False)
    with pytest.raises(DataError, match=r"classes\.csv lists other classes"):
        decide(run, bootstrap=20)


def test_new_samples_get_an_answer_or_none_as_calibration_taught(tmp_path, run):
    test = load(tmp_path / "run")
    new = tmp_path / "predictions.csv"
    write_predictions(new, test.id.tolist(), test.prob, NAMES)
    decide(run, answers=0.9, bootstrap=20, new=str(new))
    folder = tmp_path / "run" / "decide"
    fitted = read_json(folder / "decisions.json")["fitted"]["run"]
    prob = calibration.temper(test.prob, fitted["temperature"]["value"])
    sure = prob.max(axis=1) >= fitted["abstention"]
    given = pd.read_csv(folder / "answers.csv", keep_default_na=False)
    assert 0 < sure.mean() < 1 and ((given["answer"] != "") == sure).all()
    assert given["answer"][sure].tolist() == [NAMES[i] for i in prob.argmax(axis=1)[sure]]
    assert given["probability"].to_numpy() == pytest.approx(prob.max(axis=1), abs=1e-4)
    write_predictions(new, test.id.tolist(), test.prob, NAMES[::-1])
    with pytest.raises(DataError, match="about other classes"):
        decide(run, bootstrap=20, new=str(new))
    with pytest.raises(DataError, match="has no calibration part"):
        decide(fabricate(tmp_path / "bare", parts=("val", "test")), bootstrap=20, new=str(new))
