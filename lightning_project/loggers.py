"""Loggers of a run: local CSV always, W&B when asked; W&B never stops a run.

Asked for W&B online without a key, or without a server that answers, the run is recorded offline with one warning.
"""

import netrc
import os
import secrets
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint

ANSWER_WITHIN = 5.0  # seconds for the server's first answer; the client's own patience is a minute and a half
START_WITHIN = 15.0  # seconds to open the run, when the server answered and then falls silent


def make_loggers(
    run_dir: str | Path,
    stage: str,
    wandb: Literal["off", "offline", "online"],
    project: str,
    run_name: str,
    config: Mapping[str, object] | None = None,
) -> list[Logger]:
    """Build the loggers of one stage.

    Args:
        run_dir: Run folder.
        stage: ``fit``, ``test``, ...; its CSV goes to ``run_dir/stage/log-K``, K counted up, so nothing is erased.
        wandb: Whether, and how, W&B takes part; ``WANDB_MODE`` in the environment can only make it quieter.
        project: W&B project.
        run_name: Name of the run in W&B.
        config: Resolved config of the run, recorded in W&B under the one key ``config``.
    """
    run_dir = Path(run_dir)
    folder, attempt = run_dir / stage, 0
    while (folder / f"log-{attempt}").exists():
        attempt += 1
    loggers: list[Logger] = [CSVLogger(save_dir=folder, name="", version=f"log-{attempt}")]
    if wandb == "off":
        return loggers
    environment = os.environ.get("WANDB_MODE", "").lower()
    mode = {"dryrun": "offline", "offline": "offline", "disabled": "disabled"}.get(environment, wandb)
    hint = f"the run is recorded offline; send it later with: wandb sync {run_dir}/wandb/offline-run-*"
    if mode == "online" and _rank() == 0:
        reason = why_offline()
        if reason:
            warnings.warn(f"W&B: {reason}; {hint}", stacklevel=2)
            mode = "offline"
    return [*loggers, SafeWandbLogger(run_dir, mode, project, run_name, config, hint)]


class SafeWandbLogger(WandbLogger):
    """``WandbLogger`` whose faults cost the dashboard and not the run.

    A run that cannot be opened online is opened offline; any later fault ends the logging. One warning either way.
    The run's id is kept in ``wandb_id.txt`` of the run folder, so a resumed fit and a later test continue the same run.

    Args:
        run_dir: Run folder, which gets the folder ``wandb``.
        mode: ``online``, ``offline`` or ``disabled``.
        project: W&B project.
        run_name: Name of the run.
        config: Resolved config, recorded under the one key ``config``.
        hint: What to do about a run that was recorded offline.
    """

    def __init__(
        self, run_dir: Path, mode: str, project: str, run_name: str, config: Mapping[str, object] | None, hint: str
    ) -> None:
        import wandb

        settings = wandb.Settings(  # no source, no machine: the run's own files say enough
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            console="off",
            init_timeout=START_WITHIN,
            silent=mode != "online",
        )
        run_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=run_name,
            save_dir=str(run_dir),
            project=project,
            id=_run_id(run_dir),
            config={"config": dict(config)} if config else None,
            mode=mode,
            settings=settings,
        )
        self._hint, self._broken = hint, False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401  # wandb.Run, or a stand-in that takes every call
        """The W&B run; opened offline when it cannot be opened online."""
        opened = WandbLogger.experiment.fget  # type: ignore[attr-defined]  # the property behind Lightning's decorator
        try:
            return opened(self)
        except Exception as error:
            import wandb

            warnings.warn(f"W&B: {type(error).__name__} when opening the run; {self._hint}", stacklevel=2)
            wandb.teardown()  # the service process of the failed attempt
            quiet = self._wandb_init["settings"].model_copy(update={"silent": True})
            self._wandb_init |= {"mode": "offline", "settings": quiet}
            return opened(self)

    def _safely(self, call: Callable[[], object]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # whatever the client raises, training goes on
            self._broken = True
            warnings.warn(f"W&B logging ended ({type(error).__name__}: {error}); {self._hint}", stacklevel=3)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a step's metrics."""
        self._safely(lambda: super(SafeWandbLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:  # noqa: ANN401  # a dict or a Namespace
        """Record hyperparameters."""
        self._safely(lambda: super(SafeWandbLogger, self).log_hyperparams(params))

    def after_save_checkpoint(self, checkpoint_callback: "ModelCheckpoint") -> None:
        """Take note of a checkpoint."""
        self._safely(lambda: super(SafeWandbLogger, self).after_save_checkpoint(checkpoint_callback))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a stage."""
        self._safely(lambda: super(SafeWandbLogger, self).finalize(status))


@rank_zero_only
def close_loggers(loggers: list[Logger]) -> None:
    """Finish the W&B run, so that another run can start in this process."""
    for logger in loggers:
        if isinstance(logger, SafeWandbLogger) and logger._experiment is not None:
            logger._safely(logger._experiment.finish)
            logger._experiment = None


def why_offline() -> str | None:
    """Say what keeps W&B from being online, or ``None``; answers within about five seconds."""
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
    if not _has_key(base):
        return "no API key (WANDB_API_KEY, or `wandb login`)"
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(f"{base}/healthz", timeout=ANSWER_WITHIN).close()
        except urllib.error.HTTPError as error:  # any status is an answer, but one from a gateway is not the server's
            if error.code in (502, 503, 504, 407):
                return
        except (OSError, ValueError):
            return
        except Exception:  # a broken answer (http.client) is no answer
            return
        answered.set()

    # In a thread of its own because a name look-up has no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_WITHIN)
    return None if answered.is_set() else f"no answer from {base} within {ANSWER_WITHIN:.0f} s"


def _rank() -> int:
    return getattr(rank_zero_only, "rank", 0)  # set by Lightning on the function itself


def _has_key(base: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(urlparse(base).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _run_id(run_dir: Path) -> str | None:
    path = run_dir / "wandb_id.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip() or None
    if _rank() != 0:
        return None
    name = secrets.token_hex(4)
    path.write_text(name + "\n", encoding="utf-8")
    return name
