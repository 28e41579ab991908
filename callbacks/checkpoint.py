"""Checkpoints that survive a kill: written whole or not at all, with the random state, resumed exactly."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torchmetrics import Metric

MapLocation = torch.device | str | Callable | dict[str, str] | None


class UntrustedCheckpointError(ValueError):
    """A checkpoint holds more than tensors and plain Python, or is no checkpoint at all."""


class Checkpoint(ModelCheckpoint):
    """Keep ``checkpoints/best.ckpt`` by one metric and ``checkpoints/last.ckpt`` for resuming.

    ``last`` is written after each epoch and, if asked, every so many steps. It carries the random state and the running
    metrics of every process: a resumed run draws the same dropout masks and logs the same numbers as one that ran on.

    Args:
        monitor: Metric that chooses the best epoch; made on validation.
        mode: Whether more or less is better; a tie keeps the earlier epoch.
        every_n_steps: Also write ``last`` every so many optimizer steps (one later where a validation follows, which a
            resumed run would leave out); ``None`` only after each epoch.
        every_n_epochs: Write ``last`` after every so many epochs only, and after the last one, where epochs are short.
    """

    def __init__(
        self,
        monitor: str = "val/macro_f1",
        mode: Literal["min", "max"] = "max",
        every_n_steps: int | None = None,
        every_n_epochs: int = 1,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"checkpoint.every_n_epochs={every_n_epochs} must be at least 1")
        super().__init__(
            monitor=monitor, mode=mode, filename="best", save_top_k=1, save_last=False, enable_version_counter=False
        )
        self.every_n_steps, self.last_every = every_n_steps, every_n_epochs
        self.best_epoch: int | None = None
        self._due = False
        self._process_state: dict[str, Any] | None = None  # to go back to at the first batch of a resumed run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the checkpoints into the run folder."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    @property
    def last_path(self) -> str:
        """Path of ``last.ckpt``."""
        return str(Path(str(self.dirpath)) / "last.ckpt")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the loaders their saved positions, before the first batch is made."""
        super().on_train_start(trainer, pl_module)
        # Lightning did it when it made the loaders, but a schedule that asks for the number of steps has them made
        # before the checkpoint is read, and the positions would be lost in silence.
        trainer.fit_loop._load_combined_loader_states()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Go back to the saved state of this process at the first batch of a resumed run."""
        if self._process_state is not None:
            _set_random_state(self._process_state["random"])
            _set_metric_states(pl_module, self._process_state["metrics"])
            if "carry" in self._process_state:
                carry = self._process_state["carry"]
                moved = {name: value.to(pl_module.device) for name, value in carry.items()}
                pl_module.carry = moved  # type: ignore[assignment]  # of a system that reads streams
            self._process_state = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Write ``last`` every ``every_n_steps`` optimizer steps."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        loop = trainer.fit_loop
        if not self.every_n_steps or _is_trial(trainer) or loop._should_accumulate():
            return
        fetcher = loop._data_fetcher
        assert fetcher is not None
        self._due = self._due or trainer.global_step % self.every_n_steps == 0
        ends = loop.epoch_loop._num_ready_batches_reached() or loop.epoch_loop._should_check_val_fx(fetcher)
        if self._due and not ends:
            trainer.save_checkpoint(self.last_path)
            self._due = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``last`` after the epoch's validation."""
        super().on_train_epoch_end(trainer, pl_module)
        self._due = False
        epochs = trainer.current_epoch + 1
        ends = epochs == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step or trainer.should_stop
        if (ends or epochs % self.last_every == 0) and not _is_trial(trainer):
            trainer.save_checkpoint(self.last_path)

    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_epoch = trainer.current_epoch  # before the file is written, which holds it
        super()._update_best_and_save(current, trainer, monitor_candidates)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the base class and the best epoch."""
        return {**super().state_dict(), "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value and its epoch."""
        self.best_epoch = state_dict.get("best_epoch")
        # a run's folder may have moved, or be named from another place: the base class would then forget the best value
        here = {"dirpath": self.dirpath, "best_model_path": self._moved(state_dict["best_model_path"])}
        here["kth_best_model_path"] = self._moved(state_dict["kth_best_model_path"])
        models = {self._moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **here, "best_k_models": models})

    def _moved(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of every process."""
        own = {"random": _get_random_state(), "metrics": _get_metric_states(pl_module)}
        carry: Any = getattr(pl_module, "carry", None)
        if carry is not None:  # of streams that are read on after this batch
            own["carry"] = {name: value.detach().cpu() for name, value in carry.items()}
        states = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        checkpoint["processes"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the state of this process for the first batch, unless the number of processes is another one."""
        states = checkpoint.get("processes", [])
        self._process_state = states[trainer.global_rank] if len(states) == trainer.world_size else None


def _is_trial(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _get_random_state() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, gauss = state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([value.cpu() for value in state["cuda"]])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _get_metric_states(module: nn.Module) -> dict[str, Any]:
    """Return the running sums of each metric that has any, with the number of updates."""
    found = {name: part for name, part in module.named_modules() if isinstance(part, Metric) and part.update_count}
    return {
        name: {
            "count": part.update_count,
            "state": {key: value.cpu() for key, value in part.metric_state.items() if isinstance(value, Tensor)},
        }
        for name, part in found.items()
    }


def _set_metric_states(module: nn.Module, states: dict[str, Any]) -> None:
    for name, part in module.named_modules():
        if isinstance(part, Metric) and name in states:
            for key, value in states[name]["state"].items():
                setattr(part, key, value.to(part.device))
            part._update_count, part._computed = states[name]["count"], None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its final name, flush it to the disk, then rename; read only tensors and plain Python.

    Lightning's own save goes through the folder for temporary files, so on another file system a kill can leave a stump
    under the final name, and a failed save can pass silently.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: object = None) -> None:
        """Write whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: _PATH, map_location: MapLocation = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a local checkpoint without running anything in it.

        Raises:
            UntrustedCheckpointError: When it holds code, or is not a whole checkpoint.
        """
        return read_checkpoint(path, map_location)


def read_checkpoint(path: _PATH, map_location: MapLocation = None) -> dict[str, Any]:
    """Read a local checkpoint without running anything in it.

    Raises:
        FileNotFoundError: When there is no such file.
        UntrustedCheckpointError: When it holds code, or is not a whole checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location=map_location or (lambda storage, _: storage), weights_only=True)
    except UnpicklingError as error:
        raise UntrustedCheckpointError(
            f"{path} holds pickled objects and was not loaded, for loading could run code. Save plain tensors instead: "
            "in a place that you trust with it, load the file there and keep only its `state_dict`"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise UntrustedCheckpointError(f"{path} is cut short or is no checkpoint: use another one ({error})") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UntrustedCheckpointError(f"{path} has no `state_dict`: it is not a checkpoint of this project")
    return checkpoint
