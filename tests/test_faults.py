"""Faults: what is refused, what stops a run and with which code, and what is left on the disk afterwards."""

import json
import pickle
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback

from modules.losses import CrossEntropy
from tests.running import (
    CLASSIFIERS,
    NAME,
    SYSTEMS,
    code,
    data_of,
    digest,
    fitted_run,
    launch,
    parameters,
    run,
    start,
    toy,
)

NO_PROBES = [
    word
    for name in ("padding", "gradients", "batch_order", "batch_size", "initial_loss")
    for word in (f"--probes.{name}", "false")
]
QUICK = ["--report.baselines", "false", *NO_PROBES]


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


every_system = pytest.mark.parametrize("system", SYSTEMS)
every_classifier = pytest.mark.parametrize("system", CLASSIFIERS)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


# -- checkpoints and files that are not to be trusted (R7, R8) --------------------------------------------------------


@every_system
@pytest.mark.parametrize("verb", ["fit", "test", "predict"])
def test_a_checkpoint_with_code_is_refused_and_not_run(system, verb, copied, fitted, tmp_path, capsys):
    path, marker = copied / "checkpoints" / "last.ckpt", tmp_path / "executed"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "extra": Payload(marker)}, path)
    assert code([verb, "--name", NAME, "--ckpt_path", "last", *data_of(fitted)], system=system) == 3
    err = capsys.readouterr().err
    assert "pickled" in err and "state_dict" in err and str(path.relative_to(tmp_path)) in err
    assert len(err.strip().splitlines()) == 1
    assert not marker.exists()
    torch.load(path, weights_only=False)["extra"].close()  # the trap was armed
    assert marker.exists()


def test_a_plain_pickle_is_refused(copied, fitted, tmp_path, capsys):
    path, marker = tmp_path / "plain.ckpt", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    assert code(["test", "--name", NAME, "--ckpt_path", str(path), *data_of(fitted)]) == 3
    assert "plain.ckpt" in capsys.readouterr().err and not marker.exists()


def test_a_checkpoint_that_is_cut_short(copied, fitted, capsys):
    path = copied / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:2000])
    assert code(["fit", "--name", NAME, "--ckpt_path", "last", *data_of(fitted)]) == 3
    assert "cut short" in capsys.readouterr().err


def test_an_address_is_no_checkpoint(tmp_path, capsys):
    assert code(["test", "--name", NAME, "--ckpt_path", "http://127.0.0.1:9/best.ckpt"]) == 3
    assert "fetch the file yourself" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_npz_with_objects_is_refused_and_not_run(tmp_path, capsys):
    marker = tmp_path / "executed"
    arrays = dict(np.load(toy("signs").write(tmp_path)))
    np.savez(tmp_path / "bad.npz", **{**arrays, "y": np.array([Payload(marker)] * 240, dtype=object)})
    assert code(["fit", "--name", "one", "--data.path", "bad.npz"]) == 3
    err = capsys.readouterr().err
    assert "object array" in err and "np.savez" in err
    assert not marker.exists() and not (tmp_path / "runs" / "signs" / "one").exists()


def plain(value):
    if isinstance(value, dict):
        return all(plain(key) and plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(inner) for inner in value)
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)


@every_system
@pytest.mark.parametrize("name", ["best", "last"])
def test_own_checkpoints_hold_plain_types_only(system, name, fitted):
    state = torch.load(fitted / "checkpoints" / f"{name}.ckpt", weights_only=True)
    assert state["class_names"][0] == {"signs": "Adiós", "papers": "cs.AI"}.get(system, state["class_names"][0])
    odd = [key for key, value in state.items() if not plain(dict(value) if isinstance(value, dict) else value)]
    assert not odd, odd


# -- data that do not fit ---------------------------------------------------------------------------------------------


@every_classifier
def test_other_class_names_than_the_checkpoint(system, copied, tmp_path, capsys):
    """The same samples and split, but one class has another name."""
    last = torch.load(copied / "checkpoints" / "last.ckpt", weights_only=True)["class_names"][-1]
    data = toy(system).write(tmp_path, rename={last: "Zeta"})  # the last one still, where classes are sorted
    table = (copied / "split.csv").read_text(encoding="utf-8").replace(last, "Zeta")
    (copied / "split.csv").write_text(table, encoding="utf-8")
    assert code(["test", "--name", NAME, "--ckpt_path", "best", "--data.path", str(data)], system=system) == 3
    err = capsys.readouterr().err
    assert "Zeta" in err and last in err and "class names" in err
    assert not (copied / "test").exists()


def test_prediction_of_frames_with_other_features(copied, fitted, tmp_path, capsys):
    np.savez(tmp_path / "narrow.npz", X=np.ones((3, 5, 60), np.float32), mask=np.ones((3, 5), bool))
    words = ["--name", NAME, "--ckpt_path", "best", "--data.predict_path", "narrow.npz", *data_of(fitted)]
    assert code(["predict", *words]) == 3
    err = capsys.readouterr().err
    assert "128" in err and "60" in err
    assert not (copied / "predict").exists()


# -- losses that are not finite (R11) ---------------------------------------------------------------------------------


class NanAtStepThree(CrossEntropy):
    """A loss that is NaN in the third training batch."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, logits, target):
        self.calls += logits.requires_grad
        return super().forward(logits, target) * (float("nan") if self.calls == 3 and logits.requires_grad else 1.0)


class Watch(Callback):
    """Keeps the parameters before each batch and at the fault."""

    seen: ClassVar[list] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append({name: value.clone() for name, value in pl_module.named_parameters()})

    def on_exception(self, trainer, pl_module, exception):
        self.seen.append({name: value.clone() for name, value in pl_module.named_parameters()})


@every_classifier
def test_nan_stops_before_the_step_with_step_and_samples(system, tmp_path, capsys):
    Watch.seen.clear()
    words = ["--model.loss", "tests.test_faults.NanAtStepThree", "--trainer.callbacks+", "tests.test_faults.Watch"]
    assert code(["fit", "--name", "nan", "--checkpoint.every_n_steps", "1", *words, *QUICK], system=system) == 4
    folder = tmp_path / "runs" / system / "nan"
    found = json.loads((folder / "nonfinite.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "split.csv", dtype=str)
    assert found["global_step"] == 2 and len(found["ids"]) == 16
    assert set(found["ids"]) <= set(table["id"][table["part"] == "train"])
    assert found["ids"][0] in capsys.readouterr().err
    seen = __import__("tests.test_faults", fromlist=["Watch"]).Watch.seen
    first, _, before, after = seen
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert any(not torch.equal(first[name], before[name]) for name in before)
    saved = parameters(folder / "checkpoints" / "last.ckpt")
    assert all(torch.equal(saved[name], before[name]) for name in before)
    assert not (folder / "REPORT.md").exists() and not (folder / "fit" / "metrics.json").exists()


# -- the same again (R17) ---------------------------------------------------------------------------------------------


@every_system
def test_same_config_same_bytes_also_after_other_work(system, fitted, tmp_path):
    # one after the other: what a process has loaded since (compilers, other kernels) may change last bits of a fit
    run(["fit", "--name", "once", *data_of(fitted)], system=system)
    torch.rand(7), np.random.default_rng().random(), np.random.seed(5)
    run(["fit", "--name", "again", *data_of(fitted)], system=system)
    once, again = (tmp_path / "runs" / system / name / "checkpoints" / "last.ckpt" for name in ("once", "again"))
    assert digest(again) == digest(once)


# -- W&B (R18) and signals --------------------------------------------------------------------------------------------


@pytest.fixture
def silent_server():
    """An address that accepts connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []
    threading.Thread(target=lambda: _accept(listener, kept), daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for connection in kept:
        connection.close()


def _accept(listener, kept):
    try:
        while True:
            kept.append(listener.accept()[0])
    except OSError:
        return


@pytest.mark.slow
@pytest.mark.parametrize("key", [False, True])
def test_wandb_without_key_or_answer_does_not_stop_a_run(key, silent_server, tmp_path):
    env = {"WANDB_BASE_URL": silent_server, **({"WANDB_API_KEY": "0" * 40} if key else {})}
    done = launch(["fit", "--name", "one", "--wandb", "online", "--trainer.max_epochs", "1", *QUICK], env=env)
    assert done.code == 0, done.err
    assert done.err.count("recorded offline") == 1 and "wandb sync" in done.err
    assert (tmp_path / "runs/signs/one/REPORT.md").is_file()
    assert list((tmp_path / "runs/signs/one/wandb").glob("offline-run-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_with_its_code(number, expected, tmp_path):
    process = start(
        ["fit", "--name", "one", "--trainer.max_epochs", "5000", "--early_stopping.patience", "5000", *QUICK]
    )
    last = tmp_path / "runs/signs/one/checkpoints/last.ckpt"
    try:
        _wait_for(last, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == expected, err
    assert "Traceback" not in err
    assert torch.load(last, weights_only=True)["global_step"] > 0
    assert not [path for path in Path(tmp_path).rglob("*.part")]


def _wait_for(path, process, seconds=240):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)
