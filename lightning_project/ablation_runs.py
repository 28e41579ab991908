"""The runs of an ablation: each is done, resumed, redone or left alone, by what its folder holds."""

import contextlib
import gc
import io
import logging
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from datamodules.errors import DataError
from lightning_project.exits import INTERRUPTED, TERMINATED, exit_code
from lightning_project.parser import class_at
from lightning_project.words import call

Part = TypeVar("Part")
_OF_ONE_CALL = ("name", "runs", "wandb", "ckpt_path", "config")


@dataclass(frozen=True)
class Job:
    """One fit with its test.

    Attributes:
        folder: Run folder.
        words: Words of ``fit`` but name and folder of runs.
        wanted: The resolved config.
    """

    folder: Path
    words: tuple[str, ...]
    wanted: Mapping[str, Any]

    def state(self) -> str:
        """Tell what the folder holds: ``done``, ``fitted``, ``begun``, ``other`` (another config) or ``none``."""
        kept = self.folder / "config.yaml"
        if not kept.is_file():
            return "none"
        if changed(self.wanted, yaml.safe_load(kept.read_text(encoding="utf-8"))):
            return "other"
        if (self.folder / "test" / "predictions_test.npz").is_file():
            return "done"
        if (self.folder / "fit" / "metrics.json").is_file():
            return "fitted"
        return "begun" if (self.folder / "checkpoints" / "last.ckpt").is_file() else "none"

    def run(self, runs: Path, name: str) -> None:
        """Bring the run to its end, from wherever it stands.

        Args:
            runs: Folder of all runs.
            name: Name of this one.
        """
        state = self.state()
        if state in ("none", "other"):
            self._clear()
        if state != "fitted":
            resume = ["--ckpt_path", "last"] if state == "begun" else []
            call(["fit", *self.words, "--runs", str(runs), "--name", name, *resume])
        call(["test", "--ckpt_path", str(self.folder)])

    def _clear(self) -> None:
        """Take away what a fit with another config, or one that wrote no checkpoint, has left."""
        if not self.folder.exists():
            return
        unknown = {path.name for path in self.folder.iterdir()} & {"seed-0", "fold-0", "ablation.csv"}
        if unknown:
            raise DataError(f"{self.folder} is not the folder of one run (it holds {min(unknown)}): choose --name")
        shutil.rmtree(self.folder)


def resolved(words: list[str]) -> dict[str, Any]:
    """Return the config that ``fit`` would run with; a mistake is answered on the screen as by ``fit``.

    Args:
        words: Words of ``fit``.
    """
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            call(["fit", *words, "--print_config"])
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise
    return dict(yaml.safe_load(out.getvalue()))


def with_leaf(config: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """Return a config with one dotted setting replaced."""
    first, _, rest = key.partition(".")
    return {**config, first: with_leaf(config.get(first) or {}, rest, value) if rest else value}


def filled(part: Part, values: Mapping[str, object]) -> Part:
    """Return settings with ``{seed}`` and the like replaced in every text: how a cell names a run of an earlier one.

    Args:
        part: A text, or lists and mappings with texts inside.
        values: What stands for each name in braces.
    """
    made: Any = part
    if isinstance(part, str):
        for name, value in values.items():
            made = made.replace(f"{{{name}}}", str(value))
    elif isinstance(part, Mapping):
        made = {key: filled(value, values) for key, value in part.items()}
    elif isinstance(part, list):
        made = [filled(value, values) for value in part]
    return cast(Part, made)


def changed(wanted: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """Return the settings that differ; what a resumed run has read from its data does not count."""
    system = class_at(wanted["model"]["class_path"])
    from_data = {f"model.init_args.{name}" for name in (*system.SIZES, *system.FILLED_IN)}
    one, other = (_flat({k: v for k, v in config.items() if k not in _OF_ONE_CALL}) for config in (wanted, kept))
    names = sorted(one.keys() | other.keys())
    return [
        name for name in names if one.get(name) != other.get(name) and not (name in from_data and one.get(name) is None)
    ]


def _flat(config: object, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    return {
        key: value for name, item in config.items() for key, value in _flat(item, f"{prefix}.{name}".strip(".")).items()
    }


@contextlib.contextmanager
def recorded(log: Path, failures: list[str], what: str) -> Iterator[None]:
    """Send what is printed to a log, and keep an error as a line; an interruption goes on.

    Args:
        log: File that is added to.
        failures: Gets the line.
        what: What is being done, for the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), _calm():
        print(f"\n=== {what}", flush=True)
        try:
            yield
        except BaseException as error:
            code, line = exit_code(error)
            if code in (INTERRUPTED, TERMINATED):
                raise
            if isinstance(error, SystemExit):
                line = f"ended with exit code {error.code}"
            text = " ".join((line or f"{type(error).__name__}: {error}").split())
            failures.append(text[:300])
            _trace(error)
        finally:
            gc.collect()  # a Trainer and its network hold each other


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Hold back what Lightning says at the start of each of many runs; warnings stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trace(error: BaseException) -> None:
    traceback.print_exception(error, file=sys.stdout)
