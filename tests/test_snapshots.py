"""The callback `ensemble`: snapshots of one fit, averaged; and the stored predictions on the calibration part."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from callbacks.ensemble import Ensemble
from callbacks.report_files import Predictions, read_json
from datamodules.errors import DataError
from lightning_project.decide import decide
from lightning_project.ensemble import ensemble
from tests.running import ROOT, launch, run

FIT = ["fit", "--ensemble.snapshots", "2", "--trainer.max_epochs", "3", "--report.baselines", "false"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Two runs over one split: with snapshots and a calibration part, and plain."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run([*FIT, "--name", "first", "--split.calib", "0.1", "--split.train", "0.54"])
        path = "runs/signs/first/split.csv"
        plain = [*FIT[:1], *FIT[3:], "--name", "second", "--seed_everything", "5"]
        run([*plain, "--split.path", path, "--model.init_args.mixup_alpha", "0.0"])
        run(["test", "--name", "second", "--ckpt_path", "best", "--split.path", path, "--report.baselines", "false"])
    return folder


def test_the_last_snapshots_are_kept(fitted):
    kept = sorted(path.name for path in (fitted / "runs/signs/first/checkpoints").glob("snapshot*"))
    assert kept == ["snapshot-1.safetensors", "snapshot-2.safetensors"]
    assert not list((fitted / "runs/signs/second/checkpoints").glob("snapshot*"))
    last = torch.load(fitted / "runs/signs/first/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    found = load_file(fitted / "runs/signs/first/checkpoints/snapshot-2.safetensors")
    assert all(torch.equal(value, last[f"net.{name}"]) for name, value in found.items())


def test_what_is_tested_is_the_mean_of_the_snapshots(fitted, monkeypatch):
    """Each snapshot is tested alone, as a checkpoint without the callback."""
    monkeypatch.chdir(fitted)
    words = ["--split.calib", "0.1", "--split.train", "0.54", "--report.baselines", "false"]
    run(["test", "--name", "first", "--ckpt_path", "best", "--ensemble.snapshots", "2", *words])
    own = Predictions.load("runs/signs/first/test/predictions_test.npz").prob
    alone = []
    for epoch in (1, 2):
        checkpoint = torch.load("runs/signs/first/checkpoints/best.ckpt", weights_only=True)
        snapshot = load_file(f"runs/signs/first/checkpoints/snapshot-{epoch}.safetensors")
        checkpoint["state_dict"] |= {f"net.{name}": value for name, value in snapshot.items()}
        torch.save(checkpoint, f"alone-{epoch}.ckpt")
        where = ["--name", f"alone-{epoch}", "--split.path", "runs/signs/first/split.csv"]
        run(["test", "--ckpt_path", f"alone-{epoch}.ckpt", *where, *words])
        alone.append(Predictions.load(f"runs/signs/alone-{epoch}/test/predictions_test.npz").prob)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    assert np.allclose(own, np.mean(alone, axis=0), atol=1e-6)
    run(["test", "--name", "first", "--ckpt_path", "best", "--ensemble.snapshots", "1", *words])
    assert np.allclose(Predictions.load("runs/signs/first/test/predictions_test.npz").prob, alone[1], atol=1e-6)
    assert read_json("runs/signs/first/test/metrics.json")["part"] == "test"


def test_validation_that_closes_the_fit_is_of_the_snapshots_too(fitted, monkeypatch):
    monkeypatch.chdir(fitted)
    before = Predictions.load("runs/signs/first/fit/predictions_val.npz").prob
    words = ["--split.calib", "0.1", "--split.train", "0.54", "--report.baselines", "false"]
    run(["validate", "--name", "first", "--ckpt_path", "best", "--ensemble.snapshots", "2", *words])
    assert np.allclose(Predictions.load("runs/signs/first/validate/predictions_val.npz").prob, before, atol=1e-6)
    run(["validate", "--name", "first", "--ckpt_path", "best", *words])
    assert np.abs(Predictions.load("runs/signs/first/validate/predictions_val.npz").prob - before).max() > 1e-4


def test_a_run_without_snapshots_is_refused(fitted, monkeypatch):
    monkeypatch.chdir(fitted)
    words = ["--split.path", "runs/signs/first/split.csv", "--ensemble.snapshots", "2"]
    with pytest.raises(DataError, match="holds no snapshots: fit with"):
        run(["test", "--name", "second", "--ckpt_path", "best", *words])


def test_every_is_the_distance_and_a_short_fit_keeps_its_end(tmp_path):
    short = ["--report.baselines", "false", "--ensemble.snapshots", "2"]
    run(["fit", "--name", "third", "--trainer.max_epochs", "4", "--ensemble.every", "2", *short])
    run(["fit", "--name", "short", "--trainer.max_epochs", "2", "--ensemble.every", "9", *short])
    for name, epochs in (("third", [1, 3]), ("short", [1])):
        kept = sorted(Path(f"runs/signs/{name}/checkpoints").glob("snapshot*"))
        assert [path.stem for path in kept] == [f"snapshot-{epoch}" for epoch in epochs]
        assert not Path(f"runs/signs/{name}/fit/predictions_calib.npz").exists()  # no calibration part


def test_wrong_settings_and_other_systems_are_refused():
    for given in ({"snapshots": -1}, {"every": 0}):
        with pytest.raises(ValueError, match="at least"):
            Ensemble(**given)
    with pytest.raises(ValueError, match="no class probabilities"):
        Ensemble(1).setup(None, torch.nn.Linear(1, 1), "fit")


def test_calibration_predictions_are_kept_and_not_judged(fitted):
    folder = fitted / "runs/signs/first"
    table = pd.read_csv(folder / "split.csv", dtype=str, keep_default_na=False)
    found = Predictions.load(folder / "fit" / "predictions_calib.npz")
    assert found.id.tolist() == table.loc[table["part"] == "calib", "id"].tolist()
    assert np.allclose(found.prob.sum(1), 1, atol=1e-5) and (found.y >= -1).all()
    assert read_json(folder / "fit" / "metrics.json")["part"] == "val"
    assert not (folder / "fit" / "predictions_test.npz").exists()
    assert (
        fitted / "runs/signs/second/fit/predictions_calib.npz"
    ).is_file()  # its split, read from a file, has the part
    assert "test_accuracy" not in pd.read_csv(folder / "training_log.csv")


def test_runs_of_any_classifier_are_combined_and_decided(fitted, monkeypatch):
    """The verbs over real runs of `signs`, from the fit to the report."""
    monkeypatch.chdir(fitted)
    words = ["--split.calib", "0.1", "--split.train", "0.54", "--report.baselines", "false"]
    run(["test", "--name", "first", "--ckpt_path", "best", *words])
    ensemble(["runs/signs/first", "runs/signs/second"], "both", "stacking", bootstrap=20)
    parts = [Predictions.load(f"runs/signs/{name}/test/predictions_test.npz") for name in ("first", "second")]
    both = Predictions.load("both/test/predictions_test.npz")
    assert both.id.tolist() == parts[0].id.tolist() == parts[1].id.tolist()
    assert "ensemble.png" in (Path("both") / "ENSEMBLE.md").read_text(encoding="utf-8")
    decide("runs/signs/first", rules=["a"], bootstrap=20)
    assert read_json("runs/signs/first/decide/decisions.json")["fitted"]["run"]["temperature"]["value"] > 0
    decide("both", rules=["a"], bootstrap=20)


@pytest.mark.slow
def test_a_killed_fit_makes_the_same_snapshots_again(tmp_path):
    words = [*FIT, "--trainer.callbacks+", "tests.spies.Kill"]
    spied = {"PYTHONPATH": str(ROOT)}
    died = launch([*words, "--trainer.callbacks.step", "20", "--name", "killed"], env=spied)
    assert died.code == -9, died.err
    # each in a process of its own, as a user's are: what other tests left in this one must not count
    for rest in (["--name", "killed", "--ckpt_path", "last"], ["--name", "whole"]):
        done = launch([*FIT, *rest], env=spied)
        assert done.code == 0, done.err
    for path in Path("runs/signs/whole/checkpoints").glob("snapshot*"):
        other = load_file(Path("runs/signs/killed/checkpoints") / path.name)
        assert all(torch.equal(value, other[name]) for name, value in load_file(path).items())
