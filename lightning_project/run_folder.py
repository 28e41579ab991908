"""Where a run lives: `runs/WORD/NAME/`, and which of its checkpoints is meant."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoint import UntrustedCheckpointError
from callbacks.report_files import write_text
from lightning_project.exits import UsageError

_ENVIRONMENT = "LIGHTNING_PROJECT_RUN"  # tells the processes that Lightning starts which folder the first one made


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and the checkpoint to start from.

    Attributes:
        path: The folder.
        checkpoint: Path of the checkpoint, or ``None``.
    """

    path: Path
    checkpoint: str | None


def find_run(word: str, verb: str, root: str, name: str | None, checkpoint: str | None) -> RunFolder:
    """Find the folder of a run, or choose a new one for ``fit``.

    Args:
        word: The system's word.
        verb: What is to be done.
        root: Folder of all runs.
        name: Name of the run; ``None`` is a new one for ``fit``, otherwise the newest.
        checkpoint: ``best``, ``last``, a run folder, a file, or ``None``.

    Raises:
        UntrustedCheckpointError: For a checkpoint at an address.
        UsageError: For a name that is taken, a run or a checkpoint that is not there, or none where one is needed.
    """
    if verb in ("validate", "test", "predict", "explain", "export") and checkpoint is None:
        raise UsageError(f"{verb} needs trained weights: add --ckpt_path best (of --name, or of the newest run)")
    if checkpoint and "://" in checkpoint:
        raise UntrustedCheckpointError(f"{checkpoint} is an address: fetch the file yourself and name it by its path")
    if checkpoint is None:
        path = Path(root) / word / _new_name(name, verb)
        if verb == "fit" and is_first() and (path / "config.yaml").exists():
            chosen = "" if name else " (its name is the job's)"
            raise UsageError(f"{path} exists{chosen}: choose another --name, or resume it with --ckpt_path last")
        return RunFolder(path, None)
    path, file = _locate(word, root, name, checkpoint)
    if not file.is_file():
        have = sorted(str(found) for found in path.glob("checkpoints/*.ckpt")) or "no checkpoints"
        raise UsageError(f"no checkpoint at {file}; {path} has {have}")
    return RunFolder(path, str(file))


def _locate(word: str, root: str, name: str | None, checkpoint: str) -> tuple[Path, Path]:
    named = Path(root) / word / name if name else None
    if checkpoint in ("best", "last"):
        path = named or Path(root) / word / "latest"
        if not path.exists():
            raise UsageError(f"no run at {path}: give --name, or fit first")
        path = _short(path)
        return path, path / "checkpoints" / f"{checkpoint}.ckpt"
    given = _short(Path(checkpoint))
    if given.is_dir():
        return named or given, given / "checkpoints" / "best.ckpt"
    owner = given.parent.parent if given.parent.name == "checkpoints" else None
    if named is None and owner is None:
        raise UsageError(f"{given} lies outside a run folder: say with --name where the results go")
    return named or owner or given.parent, given


def _short(path: Path) -> Path:
    """One way to write a path, for Lightning compares a run's folder with that in its checkpoint by the letter."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _new_name(name: str | None, verb: str) -> str:
    if name:
        return name
    if not is_first() and _ENVIRONMENT in os.environ:
        return os.environ[_ENVIRONMENT]
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
    if job == "none":  # torchrun without an id: each process would choose a name of its own
        raise UsageError("several processes need one name: add --name NAME, or --rdzv_id ID to torchrun")
    if job:
        return f"job-{job}"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return stamp if verb == "fit" else f"{verb}-{stamp}"


def is_first() -> bool:
    """Tell whether this process writes the files."""
    return (getattr(rank_zero_only, "rank", None) or 0) == 0


def announce(run: RunFolder, base: Path) -> bool:
    """Make the folder, check that it can be written, and tell the other processes.

    Args:
        run: The run.
        base: Folder of the system's runs.

    Returns:
        Whether the folder is new.

    Raises:
        UsageError: When the folder cannot be written.
    """
    if not is_first():
        return False
    fresh, probe = not run.path.exists(), run.path / ".writable"
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write the run folder {run.path} ({error.strerror}): choose --runs or --name"
        ) from error
    os.environ[_ENVIRONMENT] = str(run.path.relative_to(base)) if run.path.is_relative_to(base) else str(run.path)
    return fresh


def forget() -> None:
    """Forget the folder, once the command is done."""
    os.environ.pop(_ENVIRONMENT, None)


class KeepRun(Callback):
    """Write the config of a command once nothing can refuse it any more; until then a new folder can be withdrawn.

    A refused command so leaves no half run behind, and the config of a resumed run as it was.

    Args:
        run: The run.
        base: Folder of the system's runs, where ``latest`` points to the newest fit.
        verb: What is done; all but ``fit`` keep their config in a folder of their own.
        config: The resolved config.
        fresh: Whether the run's folder was made by this command.
    """

    def __init__(self, run: RunFolder, base: Path, verb: str, config: dict[str, Any], fresh: bool) -> None:
        self.run, self.base, self.verb, self.config, self.fresh = run, base, verb, config, fresh
        self.kept = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the run of a fit."""
        self.keep()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the run of a validation; the one within a fit comes too early."""
        if self.verb == "validate":
            self.keep()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the run of a test."""
        self.keep()

    @rank_zero_only
    def keep(self) -> None:
        """Write the config, and point ``latest`` to a fit."""
        if self.kept:
            return
        self.kept = True
        folder = self.run.path if self.verb == "fit" else self.run.path / self.verb
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
        if self.verb == "fit" and self.run.path.is_relative_to(self.base):
            link = self.base / f".latest-{os.getpid()}"
            link.symlink_to(self.run.path.relative_to(self.base), target_is_directory=True)
            link.replace(self.base / "latest")

    @rank_zero_only
    def withdraw(self) -> None:
        """Remove the folder of a command that was refused before it began."""
        if self.fresh and not self.kept and self.verb in ("fit", "audit", "augment"):
            shutil.rmtree(self.run.path, ignore_errors=True)


def with_config_of_run(words: list[str]) -> list[str]:
    """Add the config of a run folder that is named as checkpoint, where no config is given."""
    if words[:1] == ["fit"] or any(word in ("-c", "--config") or word.startswith("--config=") for word in words):
        return words
    joined = [word.split("=", 1) for word in words if word.startswith("--ckpt_path=")]
    given = joined[0][1] if joined else words[words.index("--ckpt_path") + 1] if "--ckpt_path" in words[:-1] else None
    if given in (None, "best", "last"):  # without a config the system's word is not known, nor so the run
        return words
    for folder in (Path(str(given)), Path(str(given)).parent.parent):
        if (folder / "config.yaml").is_file():
            return [words[0], "--config", str(folder / "config.yaml"), *words[1:]]
    return words
