"""The line of an epoch: its number, its seconds and its metrics, once, from one process."""

from types import SimpleNamespace

import torch

from callbacks.epoch_lines import EpochLines
from lightning_project.exits import UsageError, exit_code


def trainer(rank_zero=True):
    metrics = {"val/loss": torch.tensor(0.51234), "train/loss": torch.tensor(1.0), "grad/norm": torch.tensor(9.0)}
    return SimpleNamespace(is_global_zero=rank_zero, callback_metrics=metrics, current_epoch=2, max_epochs=5)


def test_an_epoch_is_one_line_with_the_metrics_of_both_stages(capsys):
    lines = EpochLines()
    lines.on_train_epoch_start(trainer(), None)
    lines.on_train_epoch_end(trainer(), None)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("epoch 3/5 ") and "train/loss 1 " in printed and "val/loss 0.5123" in printed
    assert "grad" not in printed


def test_other_processes_print_nothing(capsys):
    lines = EpochLines()
    lines.on_train_epoch_start(trainer(False), None)
    lines.on_train_epoch_end(trainer(False), None)
    assert capsys.readouterr().out == ""


def test_an_error_keeps_its_code_when_it_is_wrapped():
    try:
        try:
            raise UsageError("give a name")
        except UsageError as error:
            raise RuntimeError("while building") from error
    except RuntimeError as wrapped:
        assert exit_code(wrapped) == (2, "give a name")
    assert exit_code(RuntimeError("a fault")) == (1, None)
