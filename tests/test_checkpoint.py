"""Checkpoint files: whole or not there, readable without running anything, at home in a folder that has moved."""

import os
import pickle

import pytest
import torch
from torch import nn

from callbacks.checkpoint import AtomicCheckpointIO, Checkpoint, UntrustedCheckpointError, read_checkpoint


def test_a_checkpoint_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "checkpoints" / "last.ckpt"
    io = AtomicCheckpointIO()
    for value in (1.0, 2.0):
        io.save_checkpoint({"state_dict": {"w": torch.tensor(value)}}, target)
    assert io.load_checkpoint(target)["state_dict"]["w"] == 2.0
    assert [path.name for path in target.parent.iterdir()] == ["last.ckpt"]


def test_a_save_that_fails_keeps_the_old_checkpoint(tmp_path):
    target = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {}}, target)
    before = target.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        io.save_checkpoint({"state_dict": {}, "bad": lambda: None}, target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": {}, "x": Payload(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    with pytest.raises(UntrustedCheckpointError, match="could run code"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_file_cut_short_is_named(tmp_path):
    path = tmp_path / "short.ckpt"
    torch.save({"state_dict": nn.Linear(50, 50).state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UntrustedCheckpointError, match="cut short"):
        read_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(UntrustedCheckpointError, match="no `state_dict`"):
        read_checkpoint(path)


def test_a_moved_run_keeps_its_best_value(tmp_path):
    before, after = Checkpoint("val/loss", "min"), Checkpoint("val/loss", "min")
    before.dirpath, after.dirpath = str(tmp_path / "old"), str(tmp_path / "new")
    before.best_model_path = before.kth_best_model_path = str(tmp_path / "old" / "best.ckpt")
    before.best_model_score = torch.tensor(0.25)
    before.best_k_models = {before.best_model_path: before.best_model_score}
    after.load_state_dict(before.state_dict())
    assert after.best_model_score == 0.25
    assert after.best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert after.best_k_models == {after.best_model_path: torch.tensor(0.25)}
