"""What every system shares: sizes read from the data, a class map in the checkpoint, an optimizer with decay groups."""

from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from modules.exporting import Axes, free_axes
from modules.optim import Warmup, parameter_groups

Batch = dict[str, Tensor]
# Fields of a batch that describe samples; all others are arguments of the network, but for further targets (``y_...``).
_NOT_INPUTS = ("id", "y", "weight")


class ClassMapError(ValueError):
    """The data and the checkpoint do not mean the same classes or sizes."""


class System(LightningModule):
    """A network with its training logic; subclasses say how the network is built and what a step does.

    Sizes named in ``SIZES`` may be left out of a config: they are then read from the data, kept in the hyperparameters,
    and so travel in the checkpoint, from which the network is rebuilt without any data.
    """

    SIZES: ClassVar[tuple[str, ...]] = ()
    PREDICTS: ClassVar[str] = "classes"  # or "text": what its steps return, and so how a report judges it
    FILLED_IN: ClassVar[tuple[str, ...]] = ()  # further settings that a system writes itself, for its checkpoints
    TARGET_SIZES: ClassVar[tuple[str, ...]] = ("num_classes",)  # those of labels, which data to predict do not have

    net: nn.Module | None
    loss: nn.Module
    optimizer: OptimizerCallable
    schedule: LRSchedulerCallable | None
    schedule_interval: str
    decay_all: bool
    compile_net: bool

    def __init__(self) -> None:
        super().__init__()
        self.net = None
        self.class_names: list[str] = []

    def build(self) -> None:
        """Build the network from the hyperparameters; called once all sizes are known."""
        raise TypeError(f"{type(self).__name__} must define build")

    def build_if_known(self) -> None:
        """Build the network at once where the hyperparameters already hold every size."""
        if self.net is None and all(self.hparams[name] is not None for name in self.SIZES):
            self.build()

    def setup(self, stage: str) -> None:
        """Check the sizes against the data, or take them from it, and build the network."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.class_names = list(data.class_names)
            for name in self.SIZES:
                if stage != "predict" or name not in self.TARGET_SIZES:
                    self._settle(name, getattr(data, name))
        self.build_if_known()
        if self.net is None:
            missing = [name for name in self.SIZES if self.hparams[name] is None]
            raise ClassMapError(f"sizes {missing} are unknown: give a checkpoint, or set them under `model`")
        if self.compile_net and self.net._compiled_call_impl is None:  # each stage of a run sets up
            self.net.compile()  # in place: the names of the weights stay as they are

    def _settle(self, name: str, found: int) -> None:
        given = self.hparams[name]
        if given is None:
            if any(isinstance(callback, WeightAveraging) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
                raise ClassMapError(f"weight averaging copies the network early: set model.{name} to {found}")
            self.hparams[name] = found
        elif not self.size_fits(name, given, found):
            raise ClassMapError(f"model.{name} is {given}, but the data have {found}: leave it out, or use other data")

    def size_fits(self, name: str, given: int, found: int) -> bool:
        """Tell whether a size that was given can take the data's."""
        return given == found

    def net_inputs(self, batch: Batch) -> Batch:
        """Return the named arguments of the network."""
        return {name: x for name, x in batch.items() if name not in _NOT_INPUTS and not name.startswith("y_")}

    def export_axes(self, batches: list[Batch]) -> Axes:
        """Name the axes of the inputs that may have any size; by default those that differ among real batches."""
        return free_axes([self.net_inputs(batch) for batch in batches])

    def export_answers(self, inputs: Batch) -> dict[str, Tensor]:
        """Return what an exported network answers, by name; the first is compared by its largest value, too."""
        return {"output": self.net(**inputs)}  # type: ignore[misc]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: each trainable parameter in exactly one, with a ``name``."""
        return parameter_groups(self, self.decay_all)

    def describe(self) -> dict[str, Any]:
        """Return live settings for the report, under the names of the brief."""
        return {}

    def expected_initial_loss(self) -> float | None:
        """Return the loss that an untrained network should have, or ``None``."""
        return None

    def on_train_start(self) -> None:
        """Let the config's settings win over those of the optimizer state that a resumed run restored."""
        if self.trainer.ckpt_path is None:
            return
        schedule = self.lr_schedulers()
        base = getattr(schedule, "base_lrs", None)  # a schedule's own copy, restored too
        for optimizer in self.trainer.optimizers:
            for i, (group, wanted) in enumerate(zip(optimizer.param_groups, self._settings, strict=True)):
                old, new = group.get("initial_lr", group["lr"]), wanted["lr"]
                if old != new and not isinstance(schedule, Warmup):  # that one has done it
                    group["lr"] *= new / old
                    if base is not None:
                        base[i] = group["initial_lr"] = new
                group.update({key: value for key, value in wanted.items() if key != "lr"})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the class map with the weights."""
        checkpoint["class_names"] = list(self.class_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the class map of the checkpoint, or refuse when the data have another one.

        Raises:
            ClassMapError: Naming the classes that differ.
        """
        saved = list(checkpoint.get("class_names", []))
        if self.class_names and saved and saved != self.class_names:
            only_saved = sorted(set(saved) - set(self.class_names))
            only_data = sorted(set(self.class_names) - set(saved))
            detail = f"only in the checkpoint: {only_saved}; only in the data: {only_data}"
            raise ClassMapError(
                "the class names of the data differ from the checkpoint's ("
                + (detail if only_saved or only_data else "same names in another order")
                + "): use the data that the checkpoint was trained on, or train anew"
            )
        self.class_names = saved or self.class_names
        self._refuse_other_shapes(checkpoint["state_dict"])

    def _refuse_other_shapes(self, saved: dict[str, Tensor]) -> None:
        own = self.state_dict()
        names = [name for name in own if name not in saved] + [name for name in saved if name not in own]
        shapes = [name for name in own if name in saved and own[name].shape != saved[name].shape]
        if names or shapes:
            listed = ", ".join((names + shapes)[:5])
            raise ClassMapError(
                f"the config builds another network than the checkpoint's: {len(names)} weights are in only one of "
                f"them, {len(shapes)} have another shape ({listed}): use the run's own config"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer over decay groups, and the schedule."""
        optimizer = self.optimizer(self.parameter_groups())
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule(optimizer)  # adds initial_lr to the groups
        if getattr(scheduler, "total_steps", 0) is None:
            scheduler.total_steps = int(self.trainer.estimated_stepping_batches)  # type: ignore[attr-defined]
        setting: dict[str, Any] = {"scheduler": scheduler, "interval": self.schedule_interval}
        if hasattr(scheduler, "monitor"):
            setting["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": setting}  # type: ignore[return-value]
