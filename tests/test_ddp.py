"""One and two processes: the same metrics, the same weights, one report."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import multiprocessing

from tests.ddp_worker import grid, work
from tests.running import launch, run

pytestmark = [pytest.mark.slow, pytest.mark.ddp]
TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
ROOT = Path("runs/signs")


def test_two_processes_judge_1_to_17_samples_as_one_does(tmp_path):
    alone = grid(0, 1)
    multiprocessing.spawn(work, args=(2, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8"))
        assert len(found) == len(alone) == 85
        for two, one in zip(found, alone, strict=True):
            assert two["values"] == pytest.approx(one["values"], abs=1e-6)
            assert (two["ids"], two["y"]) == (one["ids"], one["y"])  # every sample once


def weights(name):
    return torch.load(ROOT / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def log(name):
    with (ROOT / name / "training_log.csv").open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def values(name, verb="test"):
    return json.loads((ROOT / name / verb / "metrics.json").read_text(encoding="utf-8"))


def test_fit_and_test_with_two_processes_give_what_one_gives_and_report_once():
    config = {
        "trainer": {"accumulate_grad_batches": 3},  # of 8 batches: the last window is smaller, and so is the last batch
        "model": {
            "init_args": {
                "dropout": 0.0,
                "head_dropout": 0.0,
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}},
            }
        },
        "report": {"baselines": False},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run(["fit", "--config", "config.yaml", "--name", "one"])
    done = launch(["fit", "--config", "config.yaml", "--name", "two", *TWO, "--wandb", "offline"])
    assert done.code == 0, done.err[-3000:]

    one, two = weights("one"), weights("two")
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)
    assert len(log("one")) == len(log("two")) == 2
    for row, other in zip(log("two"), log("one"), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert sorted(path.name for path in ROOT.iterdir()) == ["latest", "one", "two"]
    assert len(list(ROOT.rglob("offline-run-*.wandb")) + list(ROOT.rglob("run-*.wandb"))) == 1
    assert done.out.count("report: ") == 1
    assert not [path for path in (ROOT / "two").rglob(".*") if path.is_file() and "wandb" not in str(path)]

    run(["test", "--config", "config.yaml", "--ckpt_path", "best", "--name", "one"])
    alone = values("one")
    done = launch(["test", "--config", "config.yaml", "--ckpt_path", "best", "--name", "one", *TWO])
    assert done.code == 0, done.err[-3000:]
    both = values("one")
    assert both["values"] == pytest.approx(alone["values"], abs=1e-6)
    assert both["evaluated"] == alone["evaluated"] == alone["expected"]
