"""Ablations: the file, what a run folder says about itself, numbers against scikit-learn, and one that really runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics as sk

from callbacks.report_files import Predictions, write_json, write_text
from datamodules.errors import DataError
from lightning_project.ablate import ablate, ordered
from lightning_project.ablation_made import decided
from lightning_project.ablation_plan import Cell, Plan
from lightning_project.ablation_runs import Job, changed, filled, with_leaf
from lightning_project.ablation_table import Outcome, markdown, tabulate, verdict
from lightning_project.exits import CellsFailedError
from tests.running import ROOT, code

NAMES, N = np.array(["Adiós", "Gracias", "Hola"]), 90
BASE = [str(ROOT / "configs" / "signs.yaml"), str(ROOT / "tests" / "fake_data" / "signs_tiny.yaml")]
FOCAL = str(ROOT / "configs" / "variants" / "signs_focal.yaml")


def write(path, **said):
    whole = {"base": BASE, "cells": {"dropout": {"set": {"model.dropout": 0.3}}}, **said}
    path.write_text(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return str(path)


def predictions(seed, skill, ids=None):
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 3
    logits = rng.normal(size=(N, 3)) + skill * np.eye(3)[y]
    prob = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    ids = np.array([f"r{i:02d}" for i in range(N)]) if ids is None else ids
    return Predictions(ids, np.array([f"g{i // 3:02d}" for i in range(N)]), y, prob, NAMES)


def plan_of(*cells, metrics=("macro_f1", "nll", "recall:Gracias"), seeds=(0, 1)):
    return Plan("toys", ("base.yaml",), {}, seeds, 0, metrics, (Cell("base"), *cells))


def test_a_file_becomes_cells_with_their_words_the_base_first_and_what_is_made_of_cells_last(tmp_path):
    cells = {
        "both": {"ensemble": {"method": "mean", "of": ["base", "focal"]}, "hoped": "+1"},
        "focal": {"config": FOCAL, "set": {"model.dropout": 0.3, "data.augmentations": None}},
        "rule": {"decide": {"rule": "a", "of": "base", "positive": "Hola"}, "note": "one class"},
    }
    path = write(tmp_path / "a.yaml", cells=cells, seeds=[3, 1], set={"trainer.max_epochs": 2})
    plan = Plan.read(path)
    assert [cell.name for cell in plan.cells] == ["base", "focal", "both", "rule"]
    assert plan.seeds == (3, 1) and plan.folds == 0 and plan.metrics == ("macro_f1", "accuracy")
    assert plan.words() == ["--config", BASE[0], "--config", BASE[1], "--trainer.max_epochs=2"]
    assert plan.cells[1].words() == ["--config", FOCAL, "--model.dropout=0.3", "--data.augmentations=null"]
    assert plan.cells[2].members == ["base", "focal"] and plan.cells[2].hoped == "+1"
    assert [cell.name for cell in plan.only(["both"]).cells] == ["base", "focal", "both"]
    with pytest.raises(DataError, match="did you mean focal"):
        plan.only(["focla"])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"cels": {}}, "unknown key 'cels' .did you mean cells"),
        ({"cells": {}}, "'cells' is missing or empty"),
        ({"cells": {"a": {"sett": {}}}}, "cells.a: unknown key 'sett' .did you mean set"),
        ({"cells": {"a": {}}}, "cells.a: changes nothing"),
        ({"cells": {"a b": {"set": {"x": 1}}}}, "letters, digits"),
        ({"cells": {"a": {"config": "nowhere.yaml"}}}, "no config nowhere.yaml"),
        ({"cells": {"a": {"ensemble": {"of": ["base", "b"]}}}}, "no cell 'b'"),
        ({"cells": {"a": {"ensemble": {"of": ["base"]}}}}, "one cell with one seed is no ensemble"),
        ({"cells": {"a": {"ensemble": {"method": "mean"}}}}, "a.ensemble: needs of"),
        ({"cells": {"a": {"decide": {"of": "base", "rule": "a", "posit": "x"}}}}, "unknown key 'posit'"),
        ({"cells": {"a": {"decide": {"of": ["base", "base"], "rule": "a"}}}}, "takes one cell"),
        ({"cells": {"a": {"ensemble": {"of": "base"}, "set": {"x": 1}}}}, "belong to these"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": []}, "one seed"),
        ({"folds": 1}, "at least 2"),
        ({"base": ["gone.yaml"]}, "no config gone.yaml"),
    ],
)
def test_a_wrong_file_is_refused_with_cell_and_key(tmp_path, said, message):
    with pytest.raises(DataError, match=message):
        Plan.read(write(tmp_path / "a.yaml", **said))


def test_an_unreadable_file_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [", encoding="utf-8")
    for name in ("a.yaml", "none.yaml"):
        with pytest.raises(DataError, match="not a readable ablation file"):
            Plan.read(tmp_path / name)


def test_the_table_has_means_spreads_and_paired_differences(tmp_path):
    better, plan = Cell("better", hoped="+2"), plan_of(Cell("better", hoped="+2"))
    found = {name: {s: predictions(s + i, skill) for s in (0, 1)} for i, (name, skill) in enumerate(SKILLS.items())}
    outcomes = [
        Outcome(Cell("base"), dict(found["base"]), {0: 10.0, 1: 20.0}, 100),
        Outcome(better, dict(found["better"]), {0: 30.0, 1: 30.0}, 150),
    ]
    table = tabulate(plan, outcomes, 400)
    row = table.set_index("cell").loc["better"]

    def f1(one):
        return sk.f1_score(one.y, one.prob.argmax(1), average="macro")

    def recall(one):
        return sk.recall_score(one.y, one.prob.argmax(1), labels=[1], average=None)[0]

    for column, score in (("macro_f1", f1), ("recall:Gracias", recall)):
        ours, base = ([score(one) for one in found[name].values()] for name in ("better", "base"))
        assert row[column] == pytest.approx(np.mean(ours))
        assert row[f"{column}_std"] == pytest.approx(np.std(ours, ddof=1))
        assert row[f"{column}_difference"] == pytest.approx(np.mean(ours) - np.mean(base))
    assert row["macro_f1_difference_low"] > 0 and row["time_ratio"] == pytest.approx(2.0)
    assert verdict(row.to_dict(), "macro_f1") == "helped" == verdict(row.to_dict(), "nll")  # a lower nll is better
    text = markdown(plan, table, outcomes, 400)
    assert "**helped** (1): `better`" in text and "| +2 |" in text and "90 test samples in 30 groups" in text


SKILLS = {"base": 0.5, "better": 4.0}


def test_equal_predictions_do_not_differ_and_unlike_ones_are_not_compared():
    plan = plan_of(Cell("same"), Cell("elsewhere"), Cell("rule"), Cell("broken"), seeds=(0,))
    one, other = predictions(0, 1.0), predictions(0, 1.0, np.array([f"q{i}" for i in range(N)]))
    outcomes = [
        Outcome(Cell("base"), {0: one}),
        Outcome(Cell("same"), {0: one}),
        Outcome(Cell("elsewhere"), {0: other}),
    ]
    outcomes += [Outcome(Cell("rule"), {0: one}, decided=True), Outcome(Cell("broken"), failures=["no such | file"])]
    table = tabulate(plan, outcomes, 50).set_index("cell")
    columns = ["macro_f1_difference", "macro_f1_difference_low", "macro_f1_difference_high"]
    assert table.loc["same", columns].tolist() == [0, 0, 0]
    assert table.loc["elsewhere", columns].isna().all() and "other test samples" in table.loc["elsewhere", "note"]
    assert table.loc["elsewhere", "macro_f1"] == table.loc["base", "macro_f1"]
    assert np.isnan(table.loc["rule", "nll"]) and table.loc["rule", "macro_f1"] == table.loc["base", "macro_f1"]
    text = markdown(plan, table.reset_index(), outcomes, 50)
    assert "**failed**: no such / file" in text and "**failed**: `broken`" in text


def test_an_ensemble_of_seeds_is_compared_with_the_mean_of_all_seeds_of_the_base():
    plan = plan_of(Cell("together"), metrics=("accuracy",))
    seeds = {s: predictions(s, 1.0) for s in (0, 1)}
    table = tabulate(plan, [Outcome(Cell("base"), dict(seeds)), Outcome(Cell("together"), {None: seeds[0]})], 50)
    accuracy = [(one.prob.argmax(1) == one.y).mean() for one in seeds.values()]
    assert table.loc[1, "accuracy_difference"] == pytest.approx(accuracy[0] - np.mean(accuracy))


def test_an_unknown_metric_is_a_note_and_no_crash():
    plan = plan_of(metrics=("recall:Nadie",), seeds=(0,))
    table = tabulate(plan, [Outcome(Cell("base"), {0: predictions(0, 1.0)})], 10)
    assert "one of the classes Adiós" in table.loc[0, "note"] and np.isnan(table.loc[0, "recall:Nadie"])


def test_the_folder_says_what_is_left_to_do(tmp_path):
    settings = {"dropout": 0.1, "num_classes": None, "schedule": None}
    model = {"class_path": "modules.signs.SignClassifier", "init_args": settings}
    wanted = {"seed_everything": 0, "model": model, "name": "x"}
    job = Job(tmp_path / "run", (), wanted)
    assert job.state() == "none"
    kept = with_leaf(wanted, "model.init_args.num_classes", 30)  # filled in by a resumed run
    write_text(job.folder / "config.yaml", yaml.safe_dump({k: v for k, v in kept.items() if k != "name"}))
    assert job.state() == "none"  # no checkpoint to go on from
    for path, state in (("checkpoints/last.ckpt", "begun"), ("fit/metrics.json", "fitted"), ("test/x.npz", "fitted")):
        write_text(job.folder / path, "")
        assert job.state() == state
    write_text(job.folder / "test" / "predictions_test.npz", "")
    assert job.state() == "done"
    other = Job(job.folder, (), with_leaf(wanted, "model.init_args.dropout", 0.2))
    assert other.state() == "other"
    assert changed(other.wanted, kept) == ["model.init_args.dropout"]
    scheduled = with_leaf(kept, "model.init_args.schedule", {"class_path": "modules.optim.WarmupCosine"})
    assert changed(wanted, scheduled), "a setting that was taken away is a change, though nothing stands in its place"


def test_a_rule_is_tuned_on_validation_and_never_sees_the_labels_of_test(tmp_path):
    val, test = predictions(0, 1.0), predictions(1, 1.0)
    rng = np.random.default_rng(0)
    guesses = []
    for name, y in (("plain", test.y), ("shuffled", rng.permutation(test.y))):
        folder = tmp_path / name
        val.save(folder / "fit" / "predictions_val.npz")
        Predictions(test.id, test.group, y, test.prob, test.class_names).save(folder / "test" / "predictions_test.npz")
        write_json(folder / "run.json", {"system": "signs"})
        guesses.append(decided(folder, {"rule": "a", "positive": "Hola", "target": "f1", "recall": 0.99}).prob)
    np.testing.assert_array_equal(*guesses)
    assert set(np.unique(guesses[0])) == {0, 1}
    assert guesses[0][:, 2].sum() > (test.prob.argmax(1) == 2).sum()  # a high recall is asked for
    cost = {"rule": "cost", "cost": [[0, 1, 1], [9, 0, 9], [1, 1, 0]]}
    assert decided(tmp_path / "plain", cost).prob[:, 1].sum() > (test.prob.argmax(1) == 1).sum()
    assert decided(tmp_path / "plain", {"rule": "b", "positive": "Hola"}).prob.sum() == N
    for wrong, message in (
        ({"rule": "a"}, "need `positive`"),
        ({"rule": "cost", "cost": [[0]]}, "3 rows of 3"),
        ({"rule": "c"}, "choose a, b or cost"),
    ):
        with pytest.raises(DataError, match=message):
            decided(tmp_path / "plain", wrong)


def test_cells_line_up_by_id():
    found = predictions(0, 1.0)
    mixed = Predictions(found.id[::-1], found.group[::-1], found.y[::-1], found.prob[::-1], found.class_names)
    np.testing.assert_array_equal(ordered(mixed).prob, found.prob)


def test_a_mistake_in_a_cell_is_said_before_anything_is_trained(tmp_path, capsys):
    path = write(tmp_path / "a.yaml", cells={"typo": {"set": {"model.droput": 0.3}}})
    assert code(["ablate", path], config=False) == 2
    err = capsys.readouterr().err
    assert "did you mean: dropout" in err and "in cell 'typo'" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_ablation_runs_goes_on_and_redoes_only_what_changed(tmp_path, capsys):
    quick = {f"probes.{name}": False for name in ("padding", "gradients", "batch_order", "batch_size", "initial_loss")}
    common = {"trainer.max_epochs": 1, "trainer.accelerator": "cpu", "report.baselines": False, **quick}
    cells = {
        "dropout": {"set": {"model.dropout": 0.3}, "hoped": "+1"},
        "broken": {"set": {"data.path": "gone.npz"}},
        "both": {"ensemble": {"method": "mean", "of": ["base", "dropout"]}},
        "none": {"ensemble": {"method": "mean", "of": ["base", "broken"]}},
        "rule": {"decide": {"rule": "a", "of": "base", "positive": "Gracias"}},
    }
    path = write(tmp_path / "toy.yaml", cells=cells, set=common, folds=2)
    words = [path, "none", 20]

    def again():
        with pytest.raises(CellsFailedError, match=r"2 of 6 cells failed \(broken: .*gone.npz.*; none: ") as error:
            ablate(words[0], bootstrap=words[2], words=["--data.synthetic_samples", "240"])
        assert "ablate.log" in str(error.value)
        return capsys.readouterr().out

    out = again()
    folder = tmp_path / "runs" / "signs" / "toy"
    table = pd.read_csv(folder / "ablation.csv").set_index("cell")
    assert list(table.index) == ["base", "dropout", "broken", "both", "none", "rule"]
    done = table.loc[["base", "dropout", "both", "rule"]]
    assert done["macro_f1"].notna().all() and (done["folds"] == 2).all() and table.loc["base", "time_ratio"] == 1
    assert "gone.npz" in table.loc["broken", "failures"] and "not a run folder" in table.loc["none", "failures"]
    pooled = [np.load(folder / "base" / "seed-0" / f"fold-{k}" / "test" / "predictions_test.npz") for k in (0, 1)]
    ids = np.concatenate([part["id"] for part in pooled])
    assert len(ids) == len(set(ids)) == 240  # each sample is judged once, by a network that did not see it
    right = np.concatenate([part["prob"].argmax(1) == part["y"] for part in pooled])
    assert table.loc["base", "accuracy"] == pytest.approx(right.mean())
    assert "cell 1/6 base seed 0 fold 1/2" in out and (folder / "ablation.png").stat().st_size > 1000
    assert "Traceback" in (folder / "ablate.log").read_text(encoding="utf-8")

    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("predictions_test.npz") if "both" not in str(p)}
    lost = folder / "dropout" / "seed-0" / "fold-1" / "test" / "predictions_test.npz"
    weights = (folder / "dropout" / "seed-0" / "fold-1" / "weights.safetensors").stat().st_mtime_ns
    before = lost.read_bytes()
    lost.unlink()
    assert "fold 2/2" in again()
    assert {p: p.stat().st_mtime_ns for p in stamps if p != lost} == {p: t for p, t in stamps.items() if p != lost}
    assert lost.read_bytes() == before  # judged again
    assert (folder / "dropout" / "seed-0" / "fold-1" / "weights.safetensors").stat().st_mtime_ns == weights
    assert code(["ablate", path, "--cells", "dropout", "--data.synthetic_samples=240"], config=False) == 0
    capsys.readouterr()

    cells["dropout"]["set"]["model.dropout"] = 0.6
    write(tmp_path / "toy.yaml", cells=cells, set=common, folds=2)
    again()
    config = yaml.safe_load((folder / "dropout" / "seed-0" / "fold-0" / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["dropout"] == 0.6 and config["split"]["fold"] == 0
    kept = [p for p in stamps if "base" in str(p)]
    assert len(kept) == 2 and all(p.stat().st_mtime_ns == stamps[p] for p in kept)


def test_a_setting_may_name_seed_and_folder_at_any_depth():
    config = {"split": {"path": "{folder}/base/seed-{seed}/split.csv"}, "files": ["{seed}", 3], "epochs": 2}
    made = {"split": {"path": "runs/a/base/seed-7/split.csv"}, "files": ["7", 3], "epochs": 2}
    assert filled(config, {"seed": 7, "folder": "runs/a"}) == made and config["files"] == ["{seed}", 3]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 4])
def test_a_cell_may_start_from_the_run_of_another_cell_with_its_own_seed(tmp_path, jobs):
    quick = {f"probes.{name}": False for name in ("padding", "gradients", "batch_order", "batch_size", "initial_loss")}
    common = {"trainer.max_epochs": 1, "trainer.accelerator": "cpu", "report.baselines": False, **quick}
    cells = {"again": {"set": {"split.path": "{folder}/base/seed-{seed}/split.csv"}}}
    path = write(tmp_path / "toy.yaml", cells=cells, set=common, seeds=[0, 3])
    ablate(path, name="own", bootstrap=20, jobs=jobs)  # with four at a time the second stage still waits for the first
    folder = Path("runs") / "signs" / "own"
    for seed in (0, 3):
        config = yaml.safe_load((folder / "again" / f"seed-{seed}" / "config.yaml").read_text(encoding="utf-8"))
        assert config["split"]["path"] == str(folder / "base" / f"seed-{seed}" / "split.csv")
    table = pd.read_csv(folder / "ablation.csv").set_index("cell")
    assert table.loc["again", "macro_f1"] == table.loc["base", "macro_f1"]  # the same split, seed and network
    stamps = {file: file.stat().st_mtime_ns for file in folder.rglob("config.yaml")}
    ablate(path, name="own", bootstrap=20)  # everything is found done
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("config.yaml")} == stamps and len(stamps) == 8


@pytest.mark.slow
def test_rounds_are_a_cell_judged_by_their_result(tmp_path):
    quick = {f"probes.{name}": False for name in ("padding", "gradients", "batch_order", "batch_size", "initial_loss")}
    common = {"trainer.max_epochs": 1, "trainer.accelerator": "cpu", "report.baselines": False, **quick}
    cells = {"boost": {"rounds": {"method": "boosting", "rounds": 2}, "hoped": "+2 to +3"}}
    ablate(write(tmp_path / "toy.yaml", cells=cells, set=common), bootstrap=20)
    folder = tmp_path / "runs" / "signs" / "toy"
    table = pd.read_csv(folder / "ablation.csv").set_index("cell")
    result = (
        folder / "boost" / "seed-0" / json.loads((folder / "boost" / "seed-0" / "rounds.json").read_text())["result"]
    )
    stored = Predictions.load(result / "test" / "predictions_test.npz")
    assert table.loc["boost", "accuracy"] == pytest.approx((stored.prob.argmax(1) == stored.y).mean())
    assert table.loc["boost", "macro_f1_difference"] == pytest.approx(
        table.loc["boost", "macro_f1"] - table.loc["base", "macro_f1"]
    )


@pytest.mark.slow
def test_fits_in_several_processes_give_the_same_table_and_are_left_alone_once_done(tmp_path, capsys):
    quick = {f"probes.{name}": False for name in ("padding", "gradients", "batch_order", "batch_size", "initial_loss")}
    common = {"trainer.max_epochs": 1, "trainer.accelerator": "cpu", "report.baselines": False, **quick}
    cells = {
        "broken": {"set": {"data.path": "gone.npz"}},
        "boost": {"rounds": {"method": "boosting", "rounds": 2}},
        "both": {"ensemble": {"method": "mean", "of": ["base", "boost_of_one"]}},
        "boost_of_one": {"set": {"model.dropout": 0.3}},
    }
    path = write(tmp_path / "toy.yaml", cells=cells, set=common)

    def table(name, jobs):
        with pytest.raises(CellsFailedError, match=r"1 of 5 cells failed \(broken: .*gone.npz"):
            ablate(path, name, bootstrap=20, jobs=jobs, words=["--data.synthetic_samples", "240"])
        out = capsys.readouterr().out
        folder = tmp_path / "runs" / "signs" / name
        return pd.read_csv(folder / "ablation.csv").set_index("cell"), folder, out

    alone, _, _ = table("alone", 1)
    apart, folder, out = table("apart", 2)
    figures = ["macro_f1", "accuracy", "macro_f1_difference"]
    pd.testing.assert_frame_equal(apart[figures], alone[figures])
    assert "4/4 " in out and "gone.npz" in apart.loc["broken", "failures"] and apart["macro_f1"].notna().sum() == 4
    log = (folder / "ablate.log").read_text(encoding="utf-8")
    assert "Traceback" in log and "=== base seed 0" in log and not list(folder.glob("ablate-*.log"))
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("best.ckpt")}
    again, _, _ = table("apart", 2)
    assert stamps and {p: p.stat().st_mtime_ns for p in stamps} == stamps
    pd.testing.assert_frame_equal(again[figures], apart[figures])
