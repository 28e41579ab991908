"""The command line for tests: in this process (`run`, `code`) or as a user starts it (`launch`), at toy size."""

import contextlib
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    *("--config", str(ROOT / "configs" / "signs.yaml")),
    *("--config", str(ROOT / "tests" / "fake_data" / "signs_tiny.yaml")),
    *("--trainer.accelerator", "cpu"),
]


NAME = "primera señal"  # of the fitted run


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def tiny(words: list[str]) -> list[str]:
    """Return the words with the tiny config right after the verb."""
    return [words[0], *TINY, *words[1:]]


def run(words: list[str], config: bool = True) -> None:
    """Run a command in this process; errors are raised as they are."""
    from lightning_project.cli import main

    main(tiny(words) if config else words)


def code(words: list[str], config: bool = True) -> int:
    """Run a command in this process as `python -m` would; return the exit code, and print the line of an error."""
    from lightning_project.__main__ import run as entry

    try:
        entry(tiny(words) if config else words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def start(words: list[str], config: bool = True, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command in its own process, in the current folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_project", *(tiny(words) if config else words)],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(words: list[str], config: bool = True, env: dict[str, str] | None = None, timeout: float = 300) -> Finished:
    """Run a command in its own process, in the current folder, and wait for its end."""
    process = start(words, config, env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, out, err)


def write_signs(path: Path, samples: int = 240, labels: bool = True, names: dict[str, str] | None = None) -> Path:
    """Write the synthetic signs as the `.npz` file of a user.

    Args:
        path: The file.
        samples: How many sequences.
        labels: Whether the file holds labels.
        names: New names of classes.
    """
    from datamodules.synthetic.signs import CLASS_NAMES, make_signs

    made = make_signs(samples)
    x = np.zeros((len(made.x), max(map(len, made.x)), made.x[0].shape[1]), np.float32)
    mask = np.zeros(x.shape[:2], bool)
    for row, frames in enumerate(made.x):
        x[row, : len(frames)], mask[row, : len(frames)] = frames, True
    arrays = {"X": x, "mask": mask, "filenames": np.array(made.ids)}
    if labels:
        classes = [(names or {}).get(name, name) for name in CLASS_NAMES]
        arrays |= {"y": made.y, "class_names": np.array(classes), "groups": np.array(made.groups)}
    np.savez(path, **arrays)
    return path


def fitted_run(factory: pytest.TempPathFactory) -> Path:
    """Fit once for all tests, on a file; return the run's folder. Tests that change it take a copy."""
    return _fitted(factory.getbasetemp() / "señas y más")


@cache
def _fitted(base: Path) -> Path:
    base.mkdir()
    write_signs(base / "señas.npz")
    with contextlib.chdir(base):  # paths of a run are relative, as a user's are
        run(["fit", "--name", NAME, "--data.path", str(base / "señas.npz")])
    return base / "runs" / "signs" / NAME


def parameters(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the parameters in a checkpoint."""
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def digest(checkpoint: Path) -> str:
    """Return the SHA-256 of all parameters in a checkpoint."""
    total = hashlib.sha256()
    for name, value in sorted(parameters(checkpoint).items()):
        total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()
