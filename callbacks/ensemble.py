"""An ensemble of one run: snapshots of the weights at the ends of epochs, whose probabilities are averaged."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from safetensors.torch import load_file
from torch import Tensor

from callbacks.report_files import write_weights
from datamodules.errors import DataError

_PREFIX = "net."


class Ensemble(Callback):
    """Keep the last snapshots of a fit, and judge and predict with their mean.

    Validation within the fit, the choice of the best epoch and ``weights.safetensors`` stay those of the single
    network; whatever is judged or predicted after it comes from the snapshots beside the checkpoint that is named. With
    a cyclic learning rate let ``every`` be the length of a cycle (snapshot ensembles, Huang et al. 2017).

    Args:
        snapshots: How many to keep; 0 switches the ensemble off.
        every: Epochs from one snapshot to the next.

    Raises:
        ValueError: For a negative number of snapshots, or no epoch between them.
    """

    def __init__(self, snapshots: int = 0, every: int = 1) -> None:
        if snapshots < 0 or every < 1:
            raise ValueError(f"snapshots must be at least 0 and every at least 1, got {snapshots} and {every}")
        self.snapshots, self.every = snapshots, every

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be averaged.

        Raises:
            ValueError: The system gives no class probabilities, or its weights are spread over processes.
        """
        if not self.snapshots:
            return
        if not hasattr(pl_module, "members"):
            raise ValueError(f"ensemble.snapshots: {type(pl_module).__name__} gives no class probabilities to average")
        if "FSDP" in type(trainer.strategy).__name__ or "ModelParallel" in type(trainer.strategy).__name__:
            raise ValueError("ensemble.snapshots need whole weights in each process: use DDP, or set snapshots to 0")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop snapshots that a resumed run will make again."""
        if self.snapshots and trainer.is_global_zero:
            for epoch, path in _kept(_own_folder(trainer)).items():
                if epoch >= trainer.current_epoch:
                    path.unlink()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights of every ``every``-th epoch."""
        if self.snapshots and (trainer.current_epoch + 1) % self.every == 0:
            self._keep(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last weights of a fit that ended before its first snapshot was due."""
        if self.snapshots and not trainer.interrupted:
            none = trainer.strategy.broadcast(not _kept(_own_folder(trainer)))  # the first process has the say
            if none:
                self._keep(trainer, max(trainer.current_epoch - 1, 0))

    def _keep(self, trainer: Trainer, epoch: int) -> None:
        state = trainer.strategy.lightning_module_state_dict()  # on all processes
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = _own_folder(trainer)
        net = {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
        write_weights(folder / f"snapshot-{epoch}.safetensors", net)
        for path in list(_kept(folder).values())[: -self.snapshots]:
            path.unlink()

    def _load(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.snapshots or trainer.state.fn == TrainerFn.FITTING:
            return
        folder = Path(trainer.ckpt_path).parent if trainer.ckpt_path else _own_folder(trainer)
        paths = list(_kept(folder).values())[-self.snapshots :]
        if not paths:
            raise DataError(f"{folder} holds no snapshots: fit with --ensemble.snapshots, or leave it out here")
        pl_module.members = [_weights(path, pl_module) for path in paths]  # type: ignore[assignment]

    def _drop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.snapshots and trainer.state.fn != TrainerFn.FITTING:
            pl_module.members = None  # type: ignore[assignment]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the members."""
        self._load(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the members."""
        self._load(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the members."""
        self._load(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the members go."""
        self._drop(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the members go."""
        self._drop(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the members go."""
        self._drop(trainer, pl_module)


def _own_folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


def _kept(folder: Path) -> dict[int, Path]:
    """Return the snapshots in a folder by epoch, oldest first."""
    found = {int(path.stem.rpartition("-")[2]): path for path in folder.glob("snapshot-*.safetensors")}
    return dict(sorted(found.items()))


def _weights(path: Path, pl_module: LightningModule) -> dict[str, Tensor]:
    """Read a snapshot under the names that the system gives to its weights.

    Raises:
        DataError: It is of another network.
    """
    found: dict[str, Any] = {_PREFIX + name: value.to(pl_module.device) for name, value in load_file(path).items()}
    own = {name: value for name, value in pl_module.state_dict().items() if name.startswith(_PREFIX)}
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in own.items()}:
        raise DataError(f"{path} is a snapshot of another network: use the config of the run that wrote it")
    return found
