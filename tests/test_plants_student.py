"""A student learns what its teacher said: the loss by hand, teachers found by id and class, and a fit that shows it."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.errors import DataError
from datamodules.plants_teachers import Teachers, combined
from datamodules.predictions import read_probabilities
from modules.losses_distillation import distillation, soften
from tests.fake_data.plants_student_toy import predictions
from tests.running import ROOT, code, fitted_run

NAMES = ["a", "b", "c"]


def test_softening_keeps_the_order_and_at_1_the_teacher_itself():
    prob = torch.tensor([[0.9, 0.09, 0.01], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(soften(prob, 1.0), prob)
    warm = soften(prob, 3.0)[0]
    by_hand = prob[0] ** (1 / 3) / (prob[0] ** (1 / 3)).sum()
    torch.testing.assert_close(warm, by_hand)
    assert warm.argmax() == 0 and warm.sum() == pytest.approx(1)


def test_a_peak_of_a_teacher_is_no_second_softmax():
    """0.9 among 8,587 classes: the brief's student took the softmax of that and was left with 0.000286."""
    prob = torch.full((1, 8587), 0.1 / 8586)
    prob[0, 7] = 0.9
    assert float(prob.softmax(1).max()) == pytest.approx(0.000286, abs=1e-6)
    assert float(soften(prob, 1.0).max()) == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_distillation_loss_by_hand(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, generator=generator, requires_grad=True)
    teacher_logits = torch.randn(4, 5, generator=generator) * 2
    teacher = teacher_logits.softmax(1)
    teacher[3] = 0  # no teacher knows it
    loss = distillation(logits, teacher, temperature)
    found = loss.detach()
    for row in range(3):
        p = (teacher_logits[row] / temperature).softmax(0)
        q = (logits[row].detach() / temperature).softmax(0)
        kl = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
        assert float(found[row]) == pytest.approx(temperature**2 * kl, rel=1e-4)
    assert found[3] == 0
    loss.sum().backward()
    assert (logits.grad[3] == 0).all() and (logits.grad[:3] != 0).any()
    assert distillation(teacher_logits, teacher, temperature)[:3].abs().max() < 1e-5  # nothing is left to learn


def test_padding_that_is_not_a_number_stays_out_of_the_loss():
    logits = torch.tensor([[float("nan")] * 3, [0.0, 1.0, 2.0]], requires_grad=True)
    loss = distillation(logits, torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.3, 0.5]]), 2.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def taught(files, weights=None, ids=("x", "y", "z"), parts=("train", "train", "val"), least=0.5):
    teachers = Teachers([str(file) for file in files], weights, least)
    return combined(teachers, list(ids), list(parts), NAMES, [""] * len(ids))


def test_samples_are_found_by_id_and_classes_by_name(tmp_path):
    one = predictions(tmp_path / "one.npz", ["y", "x"], [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], ["c", "a", "b"])
    found = taught([one])
    np.testing.assert_allclose(found, [[0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0, 0, 0]], atol=1e-6)


def test_several_teachers_are_weighted_over_those_that_know_a_sample(tmp_path):
    one = predictions(tmp_path / "one.npz", ["x", "y"], [[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]], NAMES)
    two = predictions(tmp_path / "two.npz", ["x"], [[0.3, 0.5, 0.2]], NAMES)
    found = taught([one, two], [3.0, 1.0])
    np.testing.assert_allclose(found[0], [0.75, 0.2, 0.05], atol=1e-6)
    np.testing.assert_allclose(found[1], [0.2, 0.3, 0.5], atol=1e-6)
    regional = predictions(tmp_path / "r.npz", ["x", "y"], [[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], ["a", "c", "zz"])
    found = taught([regional])
    np.testing.assert_allclose(found[0], [2 / 3, 0, 1 / 3], atol=1e-6)  # what it gives to a foreign class is left out
    assert (found[1] == 0).all()  # it knows nothing about this sample that the student could use


def test_too_few_hits_foreign_classes_and_a_leak_are_refused(tmp_path):
    one = predictions(tmp_path / "one.npz", ["x"], [[0.9, 0.1, 0.0]], NAMES)
    with pytest.raises(DataError, match=r"know 50.0% of the training samples, of 99.0% needed; 'y' is in none"):
        taught([one], least=0.99)
    other = predictions(tmp_path / "other.npz", ["x", "y"], np.eye(2), ["k", "l"])
    with pytest.raises(DataError, match="none of its 2 classes"):
        taught([other])
    leak = predictions(tmp_path / "leak.npz", ["x", "y", "z"], np.eye(3), NAMES)
    with pytest.raises(DataError, match=r"1 of its samples judge this student, such as 'z'"):
        taught([leak])
    with pytest.raises(DataError, match=r"missing\.npz: not a predictions file"):
        taught([tmp_path / "missing.npz"])


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.0], [-1.0]])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="teachers need files"):
        Teachers(["one.npz"], weights)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A teacher's predictions of its training part, and a student that learns from them alone; the folder of all."""
    teacher = fitted_run(tmp_path_factory, "plants")
    base = tmp_path_factory.mktemp("student")
    shutil.copytree(teacher, base / "runs" / "plants" / "teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        data = ["--data.path", str(next(teacher.parents[2].glob("plantas.jsonl")))]
        words = ["predict", "--name", "teacher", "--ckpt_path", "best", "--data.predict_part", "train", *data]
        assert code(words, system="plants") == 0
        root = Path(__file__).resolve().parents[1]
        words = ["fit", "--config", str(root / "configs/variants/plants_student_distilled.yaml"), *data]
        words += ["--data.teachers.files", "[runs/plants/teacher/predict/predictions_train.npz]"]
        words += ["--split.path", "runs/plants/teacher/split.csv", "--model.alpha", "1", "--name", "soft"]
        assert code([*words, "--trainer.max_epochs", "4"], system="plants_student") == 0
    return base, data


def test_a_student_comes_nearer_to_its_teacher(distilled):
    base, _ = distilled
    log = pd.read_csv(base / "runs/plants_student/soft/training_log.csv")
    assert log["train/loss"].iat[-1] < 0.7 * log["train/loss"].iat[0]
    facts = json.loads((base / "runs/plants_student/soft/run.json").read_text(encoding="utf-8"))
    assert facts["alpha"] == 1 and facts["temperature"] == 3
    ids, _, prob = read_probabilities(base / "runs/plants/teacher/predict/predictions_train.npz")
    split = pd.read_csv(base / "runs/plants_student/soft/split.csv", dtype=str)
    assert set(ids) == set(split.loc[split["part"] == "train", "id"])
    assert np.allclose(prob.sum(1), 1, atol=1e-4)


def test_fine_tuning_goes_on_from_the_distilled_weights_and_a_share_needs_a_teacher(distilled, monkeypatch, capsys):
    base, data = distilled
    monkeypatch.chdir(base)
    root = Path(__file__).resolve().parents[1]
    start = ["fit", "--config", str(root / "configs/variants/plants_student_finetuned.yaml"), *data]
    start += ["--model.init_from", "runs/plants_student/soft/checkpoints/best.ckpt"]
    start += ["--split.path", "runs/plants/teacher/split.csv", "--model.optimizer.lr", "0", "--name", "still"]
    assert code([*start, "--trainer.max_epochs", "1"], system="plants_student") == 0
    saved = {
        name: torch.load(base / f"runs/plants_student/{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("soft/checkpoints/best", "still/checkpoints/last")
    }
    first, second = saved.values()
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("net."))
    capsys.readouterr()
    assert code(["fit", *data, "--model.alpha", "0.5"], system="plants_student") == 3
    assert "alpha above 0 and data.teachers go together" in capsys.readouterr().err


def test_the_share_of_the_teachers_changes_the_loss_of_known_samples_only():
    from functools import partial

    from modules.plants_student import PlantsStudent

    def student(alpha):
        torch.manual_seed(0)
        made = PlantsStudent(optimizer=partial(torch.optim.SGD, lr=0.1), backbone="test_vit", num_classes=3,
                             image_size=32, alpha=alpha)  # fmt: skip
        made.loss.use_counts(torch.ones(3))
        return made

    logits, y = torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.tensor([0, 1])
    batch = {"y_teacher": torch.tensor([[0.2, 0.2, 0.6], [0.0, 0.0, 0.0]])}
    hard = student(0.0).sample_loss(logits, y, batch)
    mixed = student(0.7).sample_loss(logits, y, batch)
    soft = distillation(logits, batch["y_teacher"], 3.0)
    assert float(mixed[0]) == pytest.approx(0.3 * float(hard[0]) + 0.7 * float(soft[0]), rel=1e-5)
    assert float(mixed[1]) == pytest.approx(float(hard[1]))
    with pytest.raises(ValueError, match="alpha in"):
        student(1.5)


def test_what_a_student_keeps_is_measured_on_the_same_samples(distilled):
    from benchmarks.student import figures_of, kept
    from callbacks.report_files import Predictions
    from modules.nets.plants import PlantsNet

    base, _ = distilled
    found = figures_of(base / "runs/plants_student/soft")
    assert found["parameters"] == sum(p.numel() for p in PlantsNet("test_vit", 8, 32).parameters())
    assert found["backbone"] == "test_vit" and found["milliseconds"] > 0
    y = np.array([0, 1, 2, 0])
    names = np.array(NAMES)

    def said(guess, ids="wxyz"):
        return Predictions(np.array(list(ids)), np.array(list(ids)), y, np.eye(3, dtype=np.float32)[guess], names)

    said([0, 1, 2, 0]).save(base / "runs/plants_student/soft/test/predictions_test.npz")
    words = [sys.executable, "-m", "benchmarks.student", str(base / "runs/plants_student/soft"), "--bootstrap", "5"]
    alone = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)  # nothing imported before
    assert alone.returncode == 0, alone.stderr
    assert f"{found['parameters']:,}" in alone.stdout
    accuracy = kept(said([0, 1, 2, 0]), said([0, 1, 0, 1]), 50)["accuracy"]
    assert accuracy["value"] == 0.5 and accuracy["difference"][0] == -0.5
    assert accuracy["difference"][1] <= -0.5 <= accuracy["difference"][2] <= 0
    with pytest.raises(DataError, match="other samples"):
        kept(said([0, 1, 2, 0]), said([0, 1, 2, 0], "abcd"), 50)
