"""The command line as a user meets it: help, mistakes, run folders, predictions, what wins over a checkpoint."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from datamodules.errors import DataError
from tests.running import CLASSIFIERS, NAME, ROOT, SYSTEMS, TINY, code, data_of, digest, fitted_run, run, toy

QUICK = [
    "--report.baselines",
    "false",
    *(w for k in ("padding", "batch_order", "batch_size") for w in (f"--probes.{k}", "false")),
]


@pytest.fixture
def system():
    """`signs`, where a test names no other: what it is about has nothing of a system."""
    return "signs"


@pytest.fixture
def fitted(system, tmp_path_factory):
    return fitted_run(tmp_path_factory, system)


@pytest.fixture
def copied(system, fitted, tmp_path):
    """A copy of the fitted run, in the default folder of runs."""
    folder = tmp_path / "runs" / system / NAME
    shutil.copytree(fitted, folder)
    return folder


def files_in(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("word", ["--help", "--version", "fot"])
def test_first_answers_come_without_torch(word):
    script = (
        f"import sys, runpy\nsys.argv = ['x', '{word}']\n"
        "try: runpy.run_module('lightning_project', run_name='__main__')\n"
        "except SystemExit as stop: print('code', stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"code {2 if word == 'fot' else 0} False" in done.stdout
    assert {"--help": "audit", "--version": "0.", "fot": "fit"}[word] in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--trianer.max_epochs", "1"], "trainer.max_epochs"),
        (["--trainer.max_epoch", "1"], "trainer.max_epochs"),
        (["--model.widht", "4"], "width"),
        (["--data.batchsize", "4"], "batch_size"),
        (["--model.optimizer.lrr", "4"], "lr"),
        (["--model.class_path", "modules.signs.SignClasifier"], "modules.signs.SignClassifier"),
        (["--config", "{'trainer': {'max_epoks': 1}}"], "trainer.max_epochs"),
        (["--config", "{'trianer': {'max_epochs': 1}}"], "trainer.max_epochs"),
        (["--config", "{'split': {'groupaware': 1}}"], "split.group_aware"),
        (["--config", "{'model': {'init_args': {'widht': 1}}}"], "width"),
    ],
)
def test_a_mistake_is_answered_in_three_lines_with_the_right_word(words, meant, tmp_path, capsys):
    if words[0] == "--config":
        (tmp_path / "over.yaml").write_text(words[1])
        words = ["--config", "over.yaml"]
    assert code(["fit", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and lines[0].startswith("error: ")
    assert lines[1].startswith(f"did you mean: {meant}")
    assert lines[2] == "all options: python -m lightning_project fit --help"
    assert not (tmp_path / "runs").exists()


def test_a_missing_config_is_named(capsys):
    assert code(["fit"], config=False) == 2
    assert "--config configs/signs.yaml" in capsys.readouterr().err


def test_printed_config_can_be_read_again(tmp_path, capsys):
    assert code(["fit", "--model.width", "24", "--print_config"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(first, encoding="utf-8")
    assert yaml.safe_load(first)["model"]["init_args"]["width"] == 24
    assert code(["fit", "--config", "printed.yaml", "--print_config"], config=False) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


def test_help_of_a_verb_names_the_options_of_the_project(capsys):
    assert code(["predict", "--help"], config=False) == 0
    out = capsys.readouterr().out
    for option in ("--config", "--name", "--ckpt_path", "--model", "--data", "--report.top_k", "--split.group_aware"):
        assert option in out
    assert "return_predictions" not in out  # the launcher fills it in


def test_a_run_folder_holds_its_config_and_is_the_latest(fitted):
    config = yaml.safe_load((fitted / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["width"] == 16 and "ckpt_path" not in config
    assert (fitted.parent / "latest").resolve() == fitted.resolve()
    assert (fitted / "REPORT.md").is_file() and not [p for p in fitted.rglob(".*") if p.is_file()]


def test_a_name_that_is_taken_is_refused_and_nothing_changes(fitted, capsys):
    before = files_in(fitted)
    assert code(["fit", "--runs", str(fitted.parents[1]), "--name", fitted.name, *data_of(fitted)]) == 2
    assert "--ckpt_path last" in capsys.readouterr().err
    assert files_in(fitted) == before


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_judging_without_weights_is_refused(verb, tmp_path, capsys):
    assert code([verb]) == 2
    assert "--ckpt_path best" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_or_checkpoint_that_is_not_there(copied, capsys):
    assert code(["test", "--name", "nobody", "--ckpt_path", "best"]) == 2
    assert "nobody" in capsys.readouterr().err
    (copied / "checkpoints" / "best.ckpt").unlink()
    assert code(["test", "--name", NAME, "--ckpt_path", "best"]) == 2
    assert "last.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("in_the_way", ["runs", "runs/signs", "runs/signs/one"])
def test_a_folder_that_cannot_be_written(in_the_way, tmp_path, capsys):
    path = tmp_path / in_the_way
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    assert code(["fit", "--name", "one"]) == 2
    err = capsys.readouterr().err
    assert "cannot write the run folder" in err and len(err.strip().splitlines()) == 1
    assert path.read_text() == "a file" and len(list(tmp_path.rglob("*"))) == len(in_the_way.split("/"))


@pytest.mark.slow
@pytest.mark.parametrize("system", CLASSIFIERS)
def test_test_takes_best_last_a_folder_and_a_file(system, copied, fitted):
    """Four names of the same run: by name, from its folder without any config, by file."""
    (copied.parent / "latest").symlink_to(NAME)
    run(["test", "--ckpt_path", "last", *QUICK, *data_of(fitted)], system=system)
    assert (copied / "test" / "metrics.json").is_file()
    last = np.load(copied / "test" / "predictions_test.npz")["prob"]
    run(["test", "--ckpt_path", str(copied)], config=False)  # best, by the run's own config
    best = np.load(copied / "test" / "predictions_test.npz")["prob"]
    run(["test", "--ckpt_path", str(copied / "checkpoints" / "best.ckpt"), *QUICK, *data_of(fitted)], system=system)
    np.testing.assert_array_equal(np.load(copied / "test" / "predictions_test.npz")["prob"], best)
    same = digest(copied / "checkpoints" / "best.ckpt") == digest(copied / "checkpoints" / "last.ckpt")
    assert same == np.array_equal(last, best)
    assert yaml.safe_load((copied / "test" / "config.yaml").read_text())["report"]["baselines"] is False


@pytest.mark.parametrize("system", CLASSIFIERS)
def test_predict_needs_no_training_data_and_gives_the_probabilities_of_the_test(system, copied, fitted, tmp_path):
    run(["test", "--name", NAME, "--ckpt_path", "best", *QUICK, *data_of(fitted)], system=system)
    new = toy(system).write(tmp_path, labels=False)  # the same samples
    words = ["--name", NAME, "--ckpt_path", "best", "--data.path", "gone", "--data.predict_path", str(new)]
    run(["predict", *words], system=system)
    table = pd.read_csv(copied / "predict" / "predictions.csv", dtype={"id": str}).set_index("id")
    stored = np.load(copied / "test" / "predictions_test.npz")
    prob = table[[f"p({name})" for name in stored["class_names"]]]
    assert len(table) == getattr(toy(system), "PREDICTED", 240)  # also those that a split left out
    assert [name for name in table if name.startswith("p(")] == list(prob)
    np.testing.assert_allclose(prob.loc[stored["id"]].to_numpy(float), stored["prob"], rtol=2e-5, atol=1e-6)
    assert table.loc[stored["id"], "prediction"].tolist() == stored["class_names"][stored["prob"].argmax(1)].tolist()


def learning_rate(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return state["optimizer_states"][0]["param_groups"][0]


@pytest.mark.slow
def test_config_wins_over_the_checkpoint_on_resume(copied, fitted, capsys):
    words = ["--name", NAME, "--ckpt_path", "last", "--trainer.max_epochs", "3", *QUICK, *data_of(fitted)]
    run(["fit", *words, "--model.optimizer.lr", "0.002", "--model.optimizer.weight_decay", "0.5"])
    out = capsys.readouterr().out
    assert "model.optimizer.init_args.lr: the config's 0.002 is used; the checkpoint had 0.0005" in out
    assert "betas" not in out  # a tuple and a list of the same numbers do not differ
    group = learning_rate(copied)
    assert group["weight_decay"] == 0.5
    assert 0.0005 < group["lr"] < 0.002  # in the warm-up of the new rate
    assert json.loads((copied / "run.json").read_text())["epochs_run"] == 3


@pytest.mark.slow
def test_config_wins_with_a_schedule_of_torch(tmp_path):
    steps = ["--model.schedule", "torch.optim.lr_scheduler.StepLR", "--model.schedule.step_size", "1"]
    schedule = [
        *steps,
        "--model.schedule.gamma",
        "0.5",
        "--model.schedule_interval",
        "epoch",
        "--name",
        "steps",
        *QUICK,
    ]
    run(["fit", "--trainer.max_epochs", "1", *schedule])
    assert learning_rate(tmp_path / "runs/signs/steps")["lr"] == pytest.approx(0.0005 * 0.5)
    words = ["--ckpt_path", "last", "--trainer.max_epochs", "2", "--model.optimizer.lr", "0.004"]
    run(["fit", *schedule, *words])
    assert learning_rate(tmp_path / "runs/signs/steps")["lr"] == pytest.approx(0.004 * 0.25)


def test_another_architecture_is_refused_before_loading(copied, fitted, capsys):
    before = files_in(copied)
    assert code(["fit", "--name", NAME, "--ckpt_path", "last", "--model.depth", "2", *data_of(fitted)]) == 3
    err = capsys.readouterr().err
    assert "weights are in only one of them" in err and "net.blocks.1" in err
    changed = {name for name, time in files_in(copied).items() if before.get(name) != time}
    assert not {name for name in changed if "log-" not in name}, changed


def test_lightning_still_lets_the_checkpoint_win(fitted):
    """When this fails, `ProjectCLI._parse_ckpt_path` can go."""
    from lightning.pytorch.cli import LightningCLI

    from datamodules.base import SplitDataModule
    from lightning_project import cli as ours
    from modules.base import System

    assert LightningCLI._parse_ckpt_path is not ours.ProjectCLI._parse_ckpt_path

    class Stock(LightningCLI):
        def add_arguments_to_parser(self, parser):
            ours.ProjectCLI.add_arguments_to_parser(self, parser)

        def before_instantiate_classes(self):
            raise InterruptedError

        def _parse_ckpt_path(self):
            super()._parse_ckpt_path()
            Stock.seen = self.config.fit.model.init_args.dropout

    words = ["fit", *TINY, "--ckpt_path", str(fitted / "checkpoints" / "last.ckpt"), "--model.dropout", "0.7"]
    with pytest.raises((InterruptedError, SystemExit)):
        Stock(System, SplitDataModule, subclass_mode_model=True, subclass_mode_data=True, args=words)
    assert Stock.seen == 0.1


@pytest.mark.slow
def test_audit_finds_the_planted_twins(tmp_path, capsys):
    assert code(["audit", "--name", "row by row", "--split.group_aware", "false"]) == 3
    folder = tmp_path / "runs" / "signs" / "row by row" / "audit"
    found = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    assert "group_crosses_parts" in json.dumps(found)
    assert "extra_trees" in (folder / "AUDIT.md").read_text(encoding="utf-8")
    assert "leak" in capsys.readouterr().err
    assert code(["audit", "--name", "by group"]) == 0
    assert "extra_trees" in capsys.readouterr().out


def test_a_leaking_split_is_not_trained_on(tmp_path, capsys):
    assert code(["fit", "--name", "leak", "--split.group_aware", "false"]) == 3
    assert "group_aware" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "signs" / "leak").exists()
    assert not (tmp_path / "runs" / "signs" / "latest").is_symlink()


def test_the_readme_of_verbs_lists_the_verbs():
    from lightning_project.__main__ import _HELP
    from lightning_project.cli import ProjectCLI
    from lightning_project.verbs import VERBS, WITHOUT_CONFIG

    assert set(ProjectCLI.subcommands()) | set(WITHOUT_CONFIG) == set(VERBS)
    assert all(f"\n  {verb} " in _HELP for verb in VERBS)
    assert (ROOT / "configs" / "signs.yaml").is_file()


def test_compare_takes_run_folders_as_words(capsys):
    from lightning_project.cli import main

    with pytest.raises(DataError, match="first: not a run folder"):
        main(["compare", "runs/signs/first", "runs/signs/second", "--out", "here"])
    with pytest.raises(SystemExit) as stop:
        main(["compare", "a", "b", "--outt", "here"])
    assert stop.value.code == 2
    assert "did you mean: out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gradient_clipping.max_norm", "-1"], "max_norm must be positive"),
        (["--data.max_len", "0"], "max_len=0 must be at least 1"),
        (["--model.heads", "3", "--model.num_classes", "30", "--model.input_dim", "128"], "heads=3 does not divide"),
    ],
)
def test_a_value_that_a_class_refuses_is_one_line(words, said, capsys):
    assert code(["fit", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if said in line and line.startswith("error: ")] == lines[-1:]


def test_changed_data_settings_are_said_at_a_test(copied, fitted, capsys):
    run(["test", "--name", NAME, "--ckpt_path", "best", *data_of(fitted), "--data.max_len", "80", *QUICK])
    printed = capsys.readouterr().out
    assert "data.max_len: the config's 80 is used; the run was trained with 96" in printed
    assert "data.path" not in printed and "model." not in printed


def test_an_audit_beside_a_run_judges_the_split_that_is_asked_for(copied, fitted, capsys):
    before = files_in(copied)
    words = ["audit", "--name", NAME, *data_of(fitted)]
    assert code(words) == 0
    assert code([*words, "--split.group_aware", "false"]) == 3
    assert "leak" in capsys.readouterr().err
    after = files_in(copied)
    assert {name: after[name] for name in before} == before  # the run itself is untouched


@pytest.mark.parametrize("overlay", sorted((ROOT / "configs" / "machine").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("system", SYSTEMS)
def test_each_machine_overlay_builds_its_trainer(system, overlay, monkeypatch, tmp_path):
    """As far as a machine without an accelerator can: the accelerator and the number of devices are swapped."""
    from lightning_project import cli

    built = []
    monkeypatch.setattr(cli.ProjectCLI, "_run_subcommand", lambda self, verb: built.append(self.trainer))
    one = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"]
    for name in ("NODEID", "PROCID", "LOCALID") if "slurm" in overlay.stem else ():
        monkeypatch.setenv(f"SLURM_{name}", "0")
    if "fsdp" in overlay.stem:  # refuses a CPU
        one += ["--trainer.strategy", "auto"]
    run(["fit", "--config", str(overlay), *one, "--name", "n"], system=system)
    assert [type(callback).__name__ for callback in built[0].callbacks].count("RunReport") == 1
