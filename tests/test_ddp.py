"""One and two processes: the same metrics, the same weights, one report."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import multiprocessing

from tests.ddp_worker import grid, work
from tests.running import SYSTEMS, launch, no_dropout, run

pytestmark = [pytest.mark.slow, pytest.mark.ddp]
TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}}


def test_two_processes_judge_1_to_17_samples_as_one_does(tmp_path):
    alone = grid(0, 1)
    multiprocessing.spawn(work, args=(2, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8"))
        assert len(found) == len(alone) == 85
        for two, one in zip(found, alone, strict=True):
            assert two["values"] == pytest.approx(one["values"], abs=1e-6)
            assert (two["ids"], two["y"]) == (one["ids"], one["y"])  # every sample once


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def log(folder):
    with (folder / "training_log.csv").open(encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    # perplexities as what they are made of: their digits are those of an exponential
    return [{key: math.log(value) if key.endswith("ppl") else value for key, value in row.items()} for row in rows]


def values(folder, verb="test"):
    return json.loads((folder / verb / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_fit_and_test_with_two_processes_give_what_one_gives_and_report_once(system):
    config = no_dropout(system) | {
        "trainer": {"accumulate_grad_batches": 3},  # the last window is smaller, and so is the last batch
        "report": {"baselines": False},
    }
    config["model"]["init_args"]["optimizer"] = SGD
    Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    root = Path("runs") / system
    run(["fit", "--config", "config.yaml", "--name", "one"], system=system)
    two_processes = ["fit", "--config", "config.yaml", "--name", "two", *TWO, "--wandb", "offline"]
    done = launch(two_processes, system=system)
    assert done.code == 0, done.err[-3000:]

    one, two = weights(root / "one"), weights(root / "two")
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)
    assert len(log(root / "one")) == len(log(root / "two")) == 2
    for row, other in zip(log(root / "two"), log(root / "one"), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert sorted(path.name for path in root.iterdir()) == ["latest", "one", "two"]
    assert len(list(root.rglob("offline-run-*.wandb")) + list(root.rglob("run-*.wandb"))) == 1
    assert done.out.count("report: ") == 1
    assert not [path for path in (root / "two").rglob(".*") if path.is_file() and "wandb" not in str(path)]

    judge = ["test", "--config", "config.yaml", "--ckpt_path", "best", "--name", "one"]
    run(judge, system=system)
    alone = values(root / "one")
    done = launch([*judge, *TWO], system=system)
    assert done.code == 0, done.err[-3000:]
    both = values(root / "one")
    assert both["values"] == pytest.approx(alone["values"], abs=1e-6)
    assert both["evaluated"] == alone["evaluated"] == alone["expected"]
