"""Comparison of fabricated run folders; every number is recomputed here with scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from callbacks.report_files import Predictions, write_json, write_text
from datamodules.errors import DataError
from lightning_project.compare import compare

NAMES, N = np.array(["Adiós", "Gracias", "Hola", "Lápiz"]), 60


def fabricate(folder, seed, skill, config="a", system="signs", split="s1", ids=None):
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 4
    logits = rng.normal(size=(N, 4)) + skill * np.eye(4)[y]
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = np.array([f"r{i:02d}" for i in range(N)]) if ids is None else ids
    found = Predictions(ids, np.array([f"g{i // 3:02d}" for i in range(N)]), y, prob.astype(np.float32), NAMES)
    found.save(folder / "test" / "predictions_test.npz")
    write_json(
        folder / "run.json",
        {"system": system, "config_hash": config, "split_hash": split, "seed": seed, "best_epoch": seed},
    )
    write_text(
        folder / "config.yaml",
        f"seed_everything: {seed}\nmodel:\n  class_path: signs\n  dropout: 0.{ord(config) - 96}\n",
    )
    return found


def score(found):
    guess = found.prob.argmax(1)
    return sk.f1_score(found.y, guess, average="macro"), sk.accuracy_score(found.y, guess)


def test_rows_are_recomputed_and_the_best_is_seen(tmp_path):
    one, two = fabricate(tmp_path / "one", 1, 0.5, "a"), fabricate(tmp_path / "two", 2, 4.0, "b")
    compare([str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path / "out"), bootstrap=300)
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("run")
    for name, found in (("one", one), ("two", two)):
        f1, accuracy = score(found)
        assert table.loc[name, ["macro_f1", "accuracy"]].tolist() == pytest.approx([f1, accuracy])
        assert table.loc[name, "macro_f1_low"] <= f1 <= table.loc[name, "macro_f1_high"]
    assert table.loc["two", "macro_f1_difference"] == pytest.approx(score(two)[0] - score(one)[0])
    assert table.loc["two", "macro_f1_difference_low"] > 0
    assert np.isnan(table.loc["one", "macro_f1_difference"])
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "20 groups" in text and "| `model.dropout` | 0.1 | 0.2 |" in text and "seed_everything" not in text
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_of_one_config_are_one_row_with_mean_spread_and_interval_of_the_mean(tmp_path):
    fabricate(tmp_path / "base", 9, 1.0, "b")
    seeds = [fabricate(tmp_path / "many" / f"seed-{s}", s, 2.0, "a") for s in (1, 2, 10)]
    compare([str(tmp_path / "base"), str(tmp_path / "many")], str(tmp_path / "out"), "accuracy", 2000)
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("run")
    values = [score(found)[1] for found in seeds]
    row = table.loc["many"]
    assert (row["seeds"], table.loc["base", "seeds"]) == (3, 1)
    assert row["accuracy"] == pytest.approx(np.mean(values))
    assert row["accuracy_std"] == pytest.approx(np.std(values, ddof=1))
    right = np.mean([found.prob.argmax(1) == found.y for found in seeds], axis=0).reshape(20, 3).mean(1)  # by group
    draws = right[np.random.default_rng(5).integers(0, 20, (4000, 20))].mean(1)
    assert [row["accuracy_low"], row["accuracy_high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    assert row["best_epoch"] == pytest.approx(13 / 3)


def test_flat_seeds_join_by_config_and_equal_runs_do_not_differ(tmp_path):
    for seed in (1, 2):
        fabricate(tmp_path / f"run{seed}", seed, 2.0, "a")
    fabricate(tmp_path / "twin", 1, 2.0, "b")
    compare([str(tmp_path / name) for name in ("run1", "twin", "run1")], str(tmp_path / "out"), bootstrap=50)
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert list(table["run"]) == ["run1", "twin"] and list(table["seeds"]) == [1, 1]  # a folder named twice counts once
    assert table.loc[1, ["accuracy_difference", "accuracy_difference_low", "accuracy_difference_high"]].tolist() == [
        0,
        0,
        0,
    ]
    compare([str(tmp_path / name) for name in ("run1", "twin", "run2")], str(tmp_path / "out"), bootstrap=50)
    assert list(pd.read_csv(tmp_path / "out" / "comparison.csv")["seeds"]) == [2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "s2"}, "split differently"),
        ({"ids": np.array([f"q{i:02d}" for i in range(N)])}, "120 test ids"),
        ({"system": "plants"}, "is a run of plants"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, change, message):
    fabricate(tmp_path / "one", 1, 1.0)
    fabricate(tmp_path / "two", 2, 1.0, "b", **change)
    with pytest.raises(DataError, match=message):
        compare([str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path / "out"), bootstrap=10)
    assert not (tmp_path / "out").exists()


def test_missing_predictions_and_too_few_runs_are_refused(tmp_path):
    fabricate(tmp_path / "one", 1, 1.0)
    fabricate(tmp_path / "two", 1, 1.0)
    (tmp_path / "two" / "test" / "predictions_test.npz").unlink()
    with pytest.raises(DataError, match="two: no test predictions"):
        compare([str(tmp_path / "one"), str(tmp_path / "two")])
    with pytest.raises(DataError, match="two or more"):
        compare([str(tmp_path / "one")])
    with pytest.raises(DataError, match="not a run folder"):
        compare([str(tmp_path / "one"), str(tmp_path / "none")])
    with pytest.raises(DataError, match="unknown metric 'f1'"):
        compare([str(tmp_path / "one")] * 2, metric="f1")


def test_runs_of_several_folds_are_judged_out_of_fold(tmp_path):
    found = {}
    for name, skill, config in (("one", 0.5, "a"), ("two", 4.0, "b")):
        for seed in (1, 2):
            for fold in (0, 1):
                folder = tmp_path / name / f"seed-{seed}" / f"fold-{fold}"
                ids = np.array([f"f{fold}-{i:02d}" for i in range(N)])
                given = (10 * seed + fold, skill, config, "signs", f"s{fold}", ids)
                found[name, seed, fold] = fabricate(folder, *given)
                facts = {"system": "signs", "config_hash": f"{config}{fold}", "split_hash": f"s{fold}", "seed": seed}
                write_json(folder / "run.json", {**facts, "epochs_run": 4 + fold})
    compare([str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path / "out"), bootstrap=200)
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("run")
    assert table["seeds"].tolist() == [2, 2] and table["epochs_run"].tolist() == [4.5, 4.5]
    for name in ("one", "two"):
        both = [[found[name, seed, fold] for fold in (0, 1)] for seed in (1, 2)]
        expected = [
            sk.f1_score(np.concatenate([f.y for f in folds]), np.concatenate([f.prob for f in folds]).argmax(1),
                        average="macro")
            for folds in both
        ]  # fmt: skip
        assert table.loc[name, "macro_f1"] == pytest.approx(np.mean(expected))
    assert table.loc["two", "macro_f1_difference_low"] > 0
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert f"same {2 * N} test samples" in text and "split.fold" not in text
    (tmp_path / "two" / "seed-1" / "fold-1" / "test" / "predictions_test.npz").unlink()
    with pytest.raises(DataError, match="fold-1: no test predictions"):
        compare([str(tmp_path / "one"), str(tmp_path / "two")])
