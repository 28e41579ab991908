"""Where a run lives: `runs/WORD/NAME/`, and which of its checkpoints is meant."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

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
        UsageError: For a name that is taken, a run or a checkpoint that is not there, or none where one is needed.
    """
    if verb in ("validate", "test", "predict") and checkpoint is None:
        raise UsageError(f"{verb} needs trained weights: add --ckpt_path best (of --name, or of the newest run)")
    if checkpoint is None:
        path = Path(root) / word / _new_name(name, verb)
        if verb == "fit" and _is_first() and (path / "config.yaml").exists():
            raise UsageError(f"{path} exists: choose another --name, or resume it with --ckpt_path last")
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
        path = path.resolve().relative_to(Path.cwd()) if path.resolve().is_relative_to(Path.cwd()) else path.resolve()
        return path, path / "checkpoints" / f"{checkpoint}.ckpt"
    given = Path(checkpoint)
    if given.is_dir():
        return named or given, given / "checkpoints" / "best.ckpt"
    owner = given.parent.parent if given.parent.name == "checkpoints" else None
    if named is None and owner is None:
        raise UsageError(f"{given} lies outside a run folder: say with --name where the results go")
    return named or owner or given.parent, given


def _new_name(name: str | None, verb: str) -> str:
    if name:
        return name
    if not _is_first() and _ENVIRONMENT in os.environ:
        return os.environ[_ENVIRONMENT]
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if job != "none":
        return f"job-{job}"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return stamp if verb == "fit" else f"{verb}-{stamp}"


def _is_first() -> bool:
    return (rank_zero_only.rank or 0) == 0


def announce(run: RunFolder, word: str, root: str, verb: str) -> None:
    """Make the folder, check that it can be written, tell the other processes, and point ``latest`` to a fit.

    Raises:
        UsageError: When the folder cannot be written.
    """
    if not _is_first():
        return
    base = Path(root) / word
    probe = run.path / ".writable"
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write the run folder {run.path} ({error.strerror}): choose --runs or --name") from error
    os.environ[_ENVIRONMENT] = str(run.path.relative_to(base)) if run.path.is_relative_to(base) else str(run.path)
    if verb == "fit" and run.path.is_relative_to(base):
        link = base / f".latest-{os.getpid()}"
        link.symlink_to(run.path.relative_to(base), target_is_directory=True)
        link.replace(base / "latest")


def forget() -> None:
    """Forget the folder, once the command is done."""
    os.environ.pop(_ENVIRONMENT, None)
