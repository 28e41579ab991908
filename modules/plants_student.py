"""`plants_student`: a small network that learns from labels and from what large ones said about the same pictures."""

from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from modules.base import Batch, ClassMapError
from modules.classifier import Classifier
from modules.losses import CrossEntropy
from modules.losses_distillation import distillation
from modules.nets.plants import PlantsNet
from modules.plants_weights import read_weights


class PlantsStudent(Classifier):
    """Classify pictures of plants with a small network.

    Training loss of a picture: (1 - alpha) x the loss of its label + alpha x T^2 KL(teacher || student), both at
    temperature T; a picture that no teacher knows has the loss of its label alone. Validation knows labels only.
    Fine-tuning is the same with ``alpha: 0`` and the weights of the distilled run as ``init_from``.

    Batch: ``image`` (B, 3, S, S) with values in 0..255, ``y`` (B,), ``id``, ``weight``, and ``y_teacher`` (B, C), the
    teachers' probabilities, where there is a teacher.

    Args:
        optimizer: Builds the optimizer from parameter groups.
        backbone: Name of a timm model.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        loss: Loss of the labels; ``None`` is cross-entropy.
        alpha: Share of the teachers' part; needs ``data.teachers``.
        temperature: Of teachers and student in that part.
        num_classes: Number of species; ``None`` takes the data's.
        image_size: Side of the pictures; ``None`` takes the data's.
        init_from: Start from the weights of another run: a checkpoint, or a ``weights.safetensors``.
        head_dropout: Dropout before the last layer.
        drop_path: Stochastic depth.
        channels_last: Keep the channels last in memory.
        decay_all: Decay norms and biases too.
        compile_net: Compile the network with ``torch.compile``.
    """

    SIZES: ClassVar[tuple[str, ...]] = ("num_classes", "image_size")
    top_k = 5

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        backbone: str = "mobilenetv3_small_050",
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        loss: nn.Module | None = None,
        alpha: float = 0.0,
        temperature: float = 3.0,
        num_classes: int | None = None,
        image_size: int | None = None,
        init_from: str | None = None,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        channels_last: bool = False,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not 0 <= alpha <= 1 or not temperature > 0:
            raise ValueError(f"need alpha in [0, 1] and a temperature above 0, got {alpha} and {temperature}")
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.loss = loss if loss is not None else CrossEntropy()
        self.alpha, self.temperature, self.init_from = alpha, temperature, init_from
        self.decay_all, self.compile_net = decay_all, compile_net
        self._net_settings: dict[str, Any] = {
            "backbone": backbone,
            "head_dropout": head_dropout,
            "drop_path": drop_path,
            "channels_last": channels_last,
        }
        self.dropped: list[str] = []
        self.build_if_known()

    def build(self) -> None:
        """Build the network and its metrics."""
        sizes = {name: self.hparams[name] for name in self.SIZES}
        self.net = PlantsNet(**sizes, **self._net_settings)
        self.build_metrics(sizes["num_classes"])

    def setup(self, stage: str) -> None:
        """Build the network; refuse a share of the teachers without teachers, and teachers without a share."""
        super().setup(stage)
        teachers = getattr(self.trainer.datamodule, "teachers", None)  # type: ignore[attr-defined]
        if stage == "fit" and (self.alpha > 0) != (teachers is not None):
            raise ClassMapError(
                "model.alpha above 0 and data.teachers go together: a share of the teachers needs their stored "
                "predictions, and these teach nothing without a share"
            )

    def on_fit_start(self) -> None:
        """Take the weights to start from, unless a run is resumed."""
        if self.init_from is None or self.trainer.ckpt_path is not None:
            return
        try:
            self.dropped = self.student.load(read_weights(self.init_from))
        except ValueError as error:
            raise ClassMapError(f"init_from={self.init_from}: {error}") from error
        left = f"left out, for the classes differ: {', '.join(self.dropped)}" if self.dropped else "all of them"
        rank_zero_info(f"plants_student: weights taken from {self.init_from} ({left})")

    @property
    def student(self) -> PlantsNet:
        """The network."""
        assert isinstance(self.net, PlantsNet)
        return self.net

    def sample_loss(self, logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each sample (B,), part label and part teacher."""
        hard = self.loss(logits, target)
        if self.alpha == 0:
            return hard
        teacher = batch["y_teacher"]
        soft = distillation(logits, teacher, self.temperature)
        share = torch.where(teacher.sum(dim=1) > 0, self.alpha, 0.0)
        return (1 - share) * hard + share * soft

    def expected_initial_loss(self) -> float | None:
        """Return the loss of an untrained network; what the teachers' part is then, they alone know."""
        return super().expected_initial_loss() if self.alpha == 0 else None

    def describe(self) -> dict[str, Any]:
        """Return the live settings."""
        net = self.student
        return {
            "architecture": net.backbone,
            "num_classes": self.hparams["num_classes"],
            "image_size": net.image_size,
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "head_dropout": self._net_settings["head_dropout"],
            "drop_path": self._net_settings["drop_path"],
            "alpha": self.alpha,
            "temperature": self.temperature,
            "init_from": self.init_from,
            "tensors_left_out": self.dropped,
        }
