"""The command line for tests: in this process (`run`, `code`) or as a user starts it (`launch`), at toy size.

A system is each `configs/WORD.yaml`. To be tested with the others it brings `tests/fake_data/WORD_tiny.yaml`, its toy
sizes, and `tests/fake_data/WORD_toy.py` with `write`, the file of a user, and `words`, what a variant needs offline;
`always`, what each command of the system needs, is only there where it does.
"""

import contextlib
import hashlib
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import lightning.pytorch  # noqa: F401  # now: its logger keeps the stderr of its import, which one test's would not outlive
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = tuple(sorted(path.stem for path in (ROOT / "configs").glob("*.yaml")))
OTHERS = ("language", "gcode_decoder")  # they predict text, and lines of a program
CLASSIFIERS = tuple(name for name in SYSTEMS if name not in OTHERS)  # those that give each sample a class
DATA = ROOT / "tests" / "fake_data"
NAME = "primera señal"  # of the fitted run


def tiny_config(system: str) -> list[str]:
    """Return the words that give a system's config at toy size."""
    files = ROOT / "configs" / f"{system}.yaml", DATA / f"{system}_tiny.yaml"
    words = [word for path in files for word in ("--config", str(path))] + ["--trainer.accelerator", "cpu"]
    return words + getattr(toy(system), "always", list)()


def toy(system: str) -> ModuleType:
    """Return what a system brings for the shared tests: `write` and `words`."""
    return importlib.import_module(f"tests.fake_data.{system}_toy")


TINY = tiny_config("signs")


def variants(system: str) -> list[Path]:
    """Return the variants of a system, without those of a system whose name begins with this one's."""
    longer = tuple(f"{other}_" for other in SYSTEMS if other.startswith(f"{system}_"))
    found = sorted((ROOT / "configs" / "variants").glob(f"{system}_*.yaml"))
    return [path for path in found if not path.stem.startswith(longer)]


def is_stage(system: str) -> bool:
    """Tell whether a system is a further stage of another one, as `plants_student` is of `plants`."""
    return any(system.startswith(f"{other}_") for other in SYSTEMS)


def no_dropout(system: str) -> dict:
    """Return a config that sets every dropout of a system to 0, read from its complete config."""

    def zeros(node: object, key: str = "") -> object:
        if isinstance(node, dict):
            found = {name: zeros(value, name) for name, value in node.items()}
            return {name: value for name, value in found.items() if value is not None} or None
        return 0.0 if "dropout" in key else None

    config = yaml.safe_load((ROOT / "configs" / f"{system}.yaml").read_text(encoding="utf-8"))
    found = zeros(config)
    assert isinstance(found, dict), f"no dropout in configs/{system}.yaml"
    return found


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def tiny(words: list[str], system: str = "signs") -> list[str]:
    """Return the words with the tiny config right after the verb."""
    return [words[0], *tiny_config(system), *words[1:]]


def run(words: list[str], config: bool = True, system: str = "signs") -> None:
    """Run a command in this process; errors are raised as they are."""
    from lightning_project.cli import main

    main(tiny(words, system) if config else words)


def code(words: list[str], config: bool = True, system: str = "signs") -> int:
    """Run a command in this process as `python -m` would; return the exit code, and print the line of an error."""
    from lightning_project.__main__ import run as entry

    try:
        entry(tiny(words, system) if config else words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def start(
    words: list[str], config: bool = True, env: dict[str, str] | None = None, system: str = "signs"
) -> subprocess.Popen[str]:
    """Start a command in its own process, in the current folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_project", *(tiny(words, system) if config else words)],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(
    words: list[str],
    config: bool = True,
    env: dict[str, str] | None = None,
    timeout: float = 500,
    system: str = "signs",
) -> Finished:
    """Run a command in its own process, in the current folder, and wait for its end."""
    process = start(words, config, env, system)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, out, err)


def fitted_run(factory: pytest.TempPathFactory, system: str = "signs") -> Path:
    """Fit once for all tests, on a file; return the run's folder. Tests that change it take a copy."""
    return _fitted(factory.getbasetemp() / f"{system} y más", system)


@cache
def _fitted(base: Path, system: str) -> Path:
    base.mkdir()
    with contextlib.chdir(base):  # paths of a run are relative, as a user's are
        run(["fit", "--name", NAME, "--data.path", str(toy(system).write(base))], system=system)
    return base / "runs" / system / NAME


def data_of(fitted: Path) -> list[str]:
    """Return the words that name the file of a fitted run."""
    config = yaml.safe_load((fitted / "config.yaml").read_text(encoding="utf-8"))
    return ["--data.path", config["data"]["init_args"]["path"]]


def data_of_run(folder: Path, checkpoint: dict):
    """Build the data of a tiny run outside of the launcher, with the run's split and what its training fitted."""
    from datamodules.base import SplitDataModule

    given = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]
    name = given["class_path"].rsplit(".", 1)[1]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SplitDataModule, "data")
    data = parser.instantiate_classes(parser.parse_object({"data": given})).data
    data.setup("fit")
    data.apply_split(pd.read_csv(folder / "split.csv", dtype=str, keep_default_na=False))
    data.load_state_dict(checkpoint.get(name, {}))
    return data


def parameters(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the parameters in a checkpoint."""
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def digest(checkpoint: Path) -> str:
    """Return the SHA-256 of all parameters in a checkpoint."""
    total = hashlib.sha256()
    for name, value in sorted(parameters(checkpoint).items()):
        total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()
