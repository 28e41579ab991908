"""The record of an accuracy: seeds, folds joined out of fold, and paired differences from the simple models."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from benchmarks import accuracy
from callbacks.report_files import Baselines, Predictions
from datamodules.errors import DataError
from modules import statistics
from tests.running import ROOT

NAMES = ["cs.AI", "cs.CL", "cs.CV"]


def fake_run(
    folder: Path, seed: int = 0, rows: range = range(60), split: str = "s", fold: int = 0, skill: float = 1.0
) -> Path:
    """A tested run, its files written by the report's own classes; the answers depend on the rows and the seed."""
    (folder / "test").mkdir(parents=True)
    rng = np.random.default_rng([seed, rows.start])
    y = np.arange(rows.start, rows.stop) % 3
    prob = rng.dirichlet(np.ones(3), size=len(y)) + skill * np.eye(3)[y]
    prob = (prob / prob.sum(1, keepdims=True)).astype(np.float32)
    ids = np.array([f"p{i:03d}" for i in rows])
    found = Predictions(ids, ids, y, prob, np.array(NAMES))
    found.save(folder / "test" / "predictions_test.npz")
    simple = {"majority": np.full((len(y), 3), 1 / 3), "tfidf": np.roll(prob, 1, axis=0)}
    Baselines.of(found, simple).save(folder / "test" / "baselines_test.npz")
    facts = {"system": "papers", "split_hash": f"{split}{fold}", "seed": seed, "total_params": 5}
    facts |= {"best_epoch": 1, "fit_seconds": 2.0, "git_commit": "abc"}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    config = f"seed_everything: {seed}\nsplit: {{folds: 3, fold: {fold}}}\ndata: {{init_args: {{path: x{fold}.csv}}}}\n"
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    (folder / "training_log.csv").write_text("epoch,step\n0,5\n1,10\n", encoding="utf-8")
    return folder


def folds(folder: Path, seed: int = 0, **changes: object) -> Path:
    for k in range(3):
        fake_run(folder / f"fold-{k}", seed, range(20 * k, 20 * k + 20), fold=k, **changes)
    return folder


def test_the_accuracy_of_several_seeds_is_their_mean_and_spread(tmp_path):
    seeds = [accuracy.read(fake_run(tmp_path / str(seed), seed)) for seed in range(3)]
    found = accuracy.summarise(seeds, bootstrap=50, also=["macro_recall", "accuracy"])
    balanced = [sk.balanced_accuracy_score(seed.found.y, seed.found.prob.argmax(1)) for seed in seeds]
    assert found["mean"]["macro_recall"]["mean"] == pytest.approx(np.mean(balanced))
    own = [sk.accuracy_score(seed.found.y, seed.found.prob.argmax(1)) for seed in seeds]
    assert found["mean"]["accuracy"]["mean"] == pytest.approx(np.mean(own))
    assert found["mean"]["accuracy"]["std"] == pytest.approx(np.std(own, ddof=1))
    assert [seed["epochs"] for seed in found["seeds"]] == [[2], [2], [2]] and found["folds"] == 1
    assert found["baselines"]["majority"]["values"]["accuracy"] == pytest.approx(1 / 3)


def test_folds_are_one_row_out_of_fold(tmp_path):
    seed = accuracy.read(folds(tmp_path / "base"))
    found = accuracy.summarise([seed], ["cs.AI"], bootstrap=200)
    assert found["folds"] == 3 and found["n"] == 60 and found["seeds"][0]["epochs"] == [2, 2, 2]
    parts = [Predictions.load(path) for path in sorted(tmp_path.rglob("predictions_test.npz"))]
    y, guess = np.concatenate([p.y for p in parts]), np.concatenate([p.prob.argmax(1) for p in parts])
    # of all samples together: the mean of the folds' macro-F1 is another number
    assert found["mean"]["macro_f1"]["mean"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    each = sk.f1_score(y, guess, average=None)
    assert [found["classes"][name]["f1"] for name in NAMES] == pytest.approx(each.tolist())
    assert found["mean"]["f1:cs.AI"]["mean"] == pytest.approx(each[0])
    assert found["mean"]["recall:cs.AI"]["mean"] == pytest.approx(sk.recall_score(y, guess, average=None)[0])
    assert found["classes"]["cs.AI"]["support"] == 20


def test_the_difference_from_a_simple_model_is_paired_on_the_same_samples(tmp_path):
    seed = accuracy.read(folds(tmp_path / "base"))
    found = accuracy.summarise([seed], ["cs.AI"], bootstrap=300)["baselines"]["tfidf"]["difference"]
    wanted = statistics.paired_bootstrap(
        seed.found.prob, seed.simple["tfidf"].prob, seed.found.y, seed.found.group, ["macro_f1", "f1[0]"], n=300
    )
    assert found["macro_f1"] == pytest.approx(list(wanted["macro_f1"]))
    assert found["f1:cs.AI"] == pytest.approx(list(wanted["f1[0]"]))


def test_a_sample_in_two_folds_is_refused(tmp_path):
    folds(tmp_path / "base")
    fake_run(tmp_path / "base" / "fold-3", 0, range(10, 30), fold=3)
    with pytest.raises(DataError, match="two folds"):
        accuracy.read(tmp_path / "base")


def test_folds_of_several_seeds_are_refused(tmp_path):
    folds(tmp_path / "base")
    fake_run(tmp_path / "base" / "fold-3", 1, range(60, 80), fold=3)
    with pytest.raises(ValueError, match="seed"):
        accuracy.read(tmp_path / "base")


def test_runs_on_different_splits_have_no_common_accuracy(tmp_path):
    seeds = [accuracy.read(fake_run(tmp_path / s, seed, split=s)) for seed, s in enumerate("ab")]
    with pytest.raises(ValueError, match="split_hash"):
        accuracy.summarise(seeds)


def test_a_seed_counts_once(tmp_path):
    seeds = [accuracy.read(fake_run(tmp_path / name, 3)) for name in "ab"]
    with pytest.raises(ValueError, match="occurs twice"):
        accuracy.summarise(seeds)


def test_an_unknown_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cs\.XX"):
        accuracy.summarise([accuracy.read(fake_run(tmp_path / "a"))], ["cs.XX"])


def test_the_files_of_a_record_are_those_that_the_config_leads_to():
    config = {"model": {"class_path": "modules.signs.SignsClassifier"}, "data": {"class_path": "datamodules.signs.X"}}
    found = {str(path.relative_to(ROOT)) for path in accuracy.sources(config)}
    assert {"modules/signs.py", "modules/nets/signs.py", "modules/classifier.py", "datamodules/samplers.py"} <= found
    assert "callbacks/stratified_split.py" in found
    assert not [name for name in found if "papers" in name or name.startswith("lightning_project")]
    config["model"]["init_args"] = {"encoder": {"class_path": "modules.nets.papers_encoder.SmallEncoder"}}
    assert ROOT / "modules" / "nets" / "papers_encoder.py" in accuracy.sources(config)


def test_the_command_prints_the_summary_of_a_folder_of_seeds(tmp_path, capsys):
    for seed in range(2):
        folds(tmp_path / "base" / f"seed-{seed}", seed)
    accuracy.main(
        [str(tmp_path / "base"), "--config", "configs/papers.yaml", "--positive", "cs.AI", "--bootstrap", "9"]
    )
    printed = json.loads(capsys.readouterr().out)
    assert [seed["seed"] for seed in printed["seeds"]] == [0, 1] and "recall:cs.AI" in printed["mean"]
