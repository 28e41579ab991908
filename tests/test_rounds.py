"""The verb `rounds`: boosting over real tiny fits, and pseudo-labels for an unlabelled file."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from callbacks.report_files import Predictions, read_json
from datamodules.errors import DataError
from datamodules.synthetic.papers import make_papers
from lightning_project import rounds as module
from lightning_project.rounds import Work, rounds
from modules import calibration
from tests.running import TINY, tiny_config

SMALL = [*TINY, "--trainer.max_epochs", "6", "--model.optimizer.lr", "0.02", "--report.baselines", "false"]


@pytest.fixture(scope="module")
def boosted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rounds(SMALL, "boost", "boosting", 2, bootstrap=20)
    return folder / "runs" / "signs" / "boost"


def test_a_round_is_trained_on_what_the_one_before_got_wrong(boosted):
    found = Predictions.load(boosted / "round-1" / "predict" / "predictions_train.npz")
    wrong = found.prob.argmax(1) != found.y
    lines = pd.read_csv(boosted / "rounds.csv")
    error, classes = wrong.mean(), len(found.class_names)
    assert lines["weighted_error"][0] == pytest.approx(error)
    alpha = math.log((1 - error) / error) + math.log(classes - 1)
    assert lines["alpha"][0] == pytest.approx(alpha)
    path = yaml.safe_load((boosted / "round-2" / "config.yaml").read_text())["data"]["init_args"]["sample_weights"]
    weights = pd.read_csv(boosted.parents[2] / path, dtype={"id": str}).set_index("id").loc[found.id, "weight"]
    assert weights[wrong].to_numpy() / weights[~wrong].mean() == pytest.approx(math.exp(alpha))
    second = Predictions.load(boosted / "round-2" / "predict" / "predictions_train.npz")
    assert (second.id == found.id).all() and (second.prob != found.prob).any()
    again = second.prob.argmax(1) != second.y
    assert lines["weighted_error"][1] == pytest.approx(weights.to_numpy()[again].sum() / weights.sum())


def test_the_rounds_end_with_their_ensemble(boosted):
    facts, lines = read_json(boosted / "ensemble.json"), read_json(boosted / "rounds.json")
    assert lines["result"] == "." and facts["method"] == "boosting"
    assert facts["fitted"]["run"]["weights"] == pytest.approx([line["alpha"] for line in lines["rounds"]])
    assert (boosted / "test" / "predictions_test.npz").is_file() and (boosted / "ENSEMBLE.md").is_file()
    assert "2 rounds" in (boosted / "ROUNDS.md").read_text(encoding="utf-8")
    parts = [pd.read_csv(boosted / f"round-{k}" / "split.csv", dtype=str)["part"] for k in (1, 2)]
    assert (parts[0] == parts[1]).all()


def test_done_rounds_are_left_alone(boosted, monkeypatch, capsys):
    monkeypatch.chdir(boosted.parents[2])
    before = (boosted / "round-2" / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    rounds(SMALL, "boost", "boosting", 2, bootstrap=20)
    assert "round 2/2: done already" in capsys.readouterr().out
    assert (boosted / "round-2" / "checkpoints" / "best.ckpt").stat().st_mtime_ns == before


def stand_in(monkeypatch, tmp_path, wrong):
    """Put stored predictions in place of fits: one list of mistakes for each round."""
    y, names = np.arange(12) % 4, np.array(list("abcd"))
    ids = np.array([f"r{i:02d}" for i in range(12)])

    def fit(self, number, more):
        folder = self.folder / f"round-{number}"
        guess = y.copy()
        guess[wrong[number - 1]] = (y[wrong[number - 1]] + 1) % 4
        found = Predictions(ids, ids, y, np.eye(4, dtype=np.float32)[guess] * 0.7 + 0.075, names)
        for path in ("predict/predictions_train", "fit/predictions_val", "test/predictions_test"):
            found.save(folder / f"{path}.npz")
        module.files.write_json(folder / "run.json", {"system": "toy", "split_hash": "s"})
        return folder

    monkeypatch.setattr(Work, "_fit", fit)
    monkeypatch.setattr(module, "call", lambda words: None)
    return Work([], tmp_path / "toy", tmp_path, "toy", len(wrong), 5)


def test_a_round_no_better_than_guessing_ends_boosting_and_is_not_used(monkeypatch, tmp_path):
    lines, result = stand_in(monkeypatch, tmp_path, [[0, 1], [2], list(range(12)), [0]]).boost()
    assert len(lines) == 3 and "no better than guessing" in lines[2]["stopped"] and lines[2]["alpha"] == 0
    assert result == "." and len(read_json(tmp_path / "toy" / "ensemble.json")["members"]) == 2


def test_a_round_without_an_error_ends_boosting_with_a_finite_vote(monkeypatch, tmp_path):
    lines, result = stand_in(monkeypatch, tmp_path, [[], [0]]).boost()
    assert len(lines) == 1 and lines[0]["stopped"] == "no error left to learn from"
    assert lines[0]["alpha"] == pytest.approx(math.log(23) + math.log(3)) and result == "round-1"


def test_weights_that_change_are_another_file(monkeypatch, tmp_path):
    for mistakes in ([[0, 1], [2]], [[0, 3], [2]]):
        stand_in(monkeypatch, tmp_path, mistakes).boost()
    assert len(list((tmp_path / "toy").glob("weights-2-*.csv"))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 1}, "at least 2"),
        ({"method": "pseudo"}, "go together"),
        ({"unlabelled": "new.csv"}, "go together"),
        ({"words": [*SMALL, "--data.sample_weights", "w.csv"]}, "leave data.sample_weights out"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        rounds(**{"words": SMALL, **change})


def test_the_folder_of_a_run_is_not_taken(tmp_path):
    folder = Path("runs/signs/mine")
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    with pytest.raises(DataError, match="choose another --name"):
        rounds(SMALL, "mine")


def write_unlabelled(path, samples=200):
    """Write papers as a user has them, without a category: new ones, and some of the training data."""
    parts = [make_papers(samples, seed=5, duplicates=0.0, conflicts=0.0), make_papers(240, seed=0)]
    frames = [
        pd.DataFrame({"id": [f"{k}-{name}" for name in made.ids], "title": made.titles, "abstract": made.abstracts})
        for k, made in enumerate(parts)
    ]
    pd.concat([frames[0], frames[1].iloc[:40]]).to_csv(path, index=False)
    return str(path)


@pytest.mark.slow
def test_a_round_is_trained_on_labels_that_the_one_before_is_sure_of(tmp_path):
    papers = [*tiny_config("papers"), "--trainer.max_epochs", "4", "--model.optimizer.lr", "0.01"]
    words = [*papers, "--report.baselines", "false", "--split.calib", "0.16", "--split.train", "0.48"]
    file = write_unlabelled(tmp_path / "new.csv")
    rounds(words, "pseudo", "pseudo", 2, unlabelled=file, threshold=0.3, quota=15, bootstrap=20)
    folder = Path("runs/papers/pseudo")
    made = pd.read_csv(folder / "round-2" / "augmented.csv", dtype=str)
    counts = made["label"].value_counts()
    assert len(made) > 0 and counts.max() <= 15
    assert made["id"].str.startswith("0-").all()  # none of those that the data know already
    predicted = pd.read_csv(folder / "round-1" / "predict" / "predictions.csv", dtype={"id": str}).set_index("id")
    assert (predicted.loc[made["id"], "prediction"].to_numpy() == made["label"].to_numpy()).all()
    facts = read_json(folder / "rounds.json")
    calib = Predictions.load(folder / "round-1" / "fit" / "predictions_calib.npz")
    fitted = calibration.fit_temperature(calib.prob, calib.y).value
    assert facts["rounds"][0]["temperature"] == pytest.approx(fitted, abs=1e-5)
    assert [line["pseudo_labels"] for line in facts["rounds"]] == [0, len(made)]
    assert facts["rounds"][0]["test_difference"] == 0
    best = max(facts["rounds"], key=lambda line: line["val_macro_f1"])
    assert facts["result"] == f"round-{best['round']}"
    assert "Pseudo-labels: 2 rounds" in (folder / "ROUNDS.md").read_text(encoding="utf-8")
