"""What the benchmarks of training share: a ``fit`` that measures itself, words for a command, and how figures read."""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import ROOT, Figures, sha256, write_record

SOURCES = (
    "benchmarks/rounds.py",
    "callbacks/gradient_clipping.py",
    "modules/base.py",
    "modules/classifier.py",
    "datamodules/samplers.py",
)


@dataclass(frozen=True)
class Given:
    """What the words of a benchmark say.

    Attributes:
        system: Word of the system.
        configs: The system's config and those laid over it.
        data: Real data, or ``None`` for the synthetic ones.
        options: Further words for ``fit``.
        rounds: Rounds (epochs) of each side.
        record: Name of a record to leave, or ``None``.
    """

    system: str
    configs: list[str]
    data: Path | None
    options: list[str]
    rounds: int
    record: str | None

    def command(self, program: str, own: Sequence[str] = ()) -> str:
        """The command, with words of the benchmark's own, and without the paths of this machine."""
        words = [f"python -m {program} --system {self.system}"]
        if self.configs[1:]:
            words.append(f"--config {' '.join(self.configs[1:])}")
        if self.data:
            words.append(f"--data {self.data.name}")
        return " ".join([*words, *own, f"--rounds {self.rounds}", *(_public(word) for word in self.options)])

    def keep(self, program: str, sources: Iterable[str], figures: Figures, own: Sequence[str] = ()) -> None:
        """Write the record, when one is wanted."""
        if self.record is None:
            return
        system = [str(path.relative_to(ROOT)) for name in ("modules/{}.py", "modules/nets/{}*.py", "datamodules/{}*.py")
                  for path in sorted(ROOT.glob(name.format(self.system)))]  # fmt: skip
        files = [f"{program.replace('.', '/')}.py", "benchmarks/common.py", *self.configs, *SOURCES, *system, *sources]
        data = {self.data.name: sha256(self.data)} if self.data else {"synthetic": 0}
        paths = [ROOT / name for name in dict.fromkeys(files)]
        path = write_record(self.record, self.command(program, own), paths, data, [0], figures)
        print(f"written: {os.path.relpath(path)}")


def read_words(
    program: str, text: str | None, systems: Iterable[str], rounds: int, args: Sequence[str] | None
) -> Given:
    """Read the words of a benchmark; those that it does not know go to ``fit``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=text, allow_abbrev=False, epilog="Further words are those of `fit`."
    )
    parser.add_argument("--system", required=True, choices=sorted(systems))
    parser.add_argument("--config", nargs="+", default=[], help="configs laid over the system's own")
    parser.add_argument("--data", type=Path, help="real data; without it, the synthetic data")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of each side (default {rounds})")
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: as PyTorch chooses")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given, rest = parser.parse_known_args(args)
    for path in (given.data, *map(Path, given.config)):
        if path and not path.is_file():
            parser.error(f"{'--data' if path == given.data else '--config'} {path}: no such file")
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: at least 1")
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    configs = [f"configs/{given.system}.yaml", *given.config]
    return Given(given.system, configs, given.data, rest, given.rounds, given.record)


def measure(config: Sequence[str], callback: str, options: Sequence[str], folder: Path) -> dict:
    """Run one ``fit`` with a measuring callback and return its figures.

    Args:
        config: Configs, relative to the project or absolute.
        callback: Path of the class; its argument ``out`` is the file of its figures.
        options: Further words of the command.
        folder: Folder for the run and the figures.
    """
    from lightning_project.cli import main

    name = callback.rsplit(".", 1)[-1].lower()
    out = folder / f"{name}.json"
    words = [word for path in config for word in ("--config", str(ROOT / path))]
    main(
        [
            *("fit", *words, "--runs", str(folder / "runs"), "--name", name),
            *(f"--trainer.callbacks+={callback}", f"--trainer.callbacks.out={out}"),
            *("--report.bootstrap=0", "--report.baselines=false", *options),
        ]
    )
    found: dict = json.loads(out.read_text(encoding="utf-8"))
    return found


def epochs(number: int) -> list[str]:
    """Words for a fit of so many epochs, none of which is the last before its time."""
    return [f"--trainer.max_epochs={number}", f"--early_stopping.patience={number}"]


def ratio(figures: dict) -> str:
    """A ratio with the middle half of its rounds."""
    low, high = figures["ratio_spread"]
    return f"ratio {figures['ratio']:.3f} (middle half of {figures['rounds']} rounds: {low:.3f} to {high:.3f})"


def verdict(value: float, at_most: float | None = None, at_least: float | None = None) -> str:
    """Say whether a target was reached."""
    if at_most is None and at_least is None:
        return "no target"
    reached = value <= at_most if at_most is not None else value >= (at_least or 0.0)
    text = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
    return f"target {text}: {'reached' if reached else 'NOT reached'}"


def _public(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word
