"""The command line for tests: in this process (`run`, `code`) or as a user starts it (`launch`), at toy size."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    *("--config", str(ROOT / "configs" / "signs.yaml")),
    *("--config", str(ROOT / "tests" / "fake_data" / "signs_tiny.yaml")),
    *("--trainer.accelerator", "cpu"),
]


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
