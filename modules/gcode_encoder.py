"""`gcode_encoder`: windows of a machine's sensors to its operation, and to a memory that a decoder reads."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from modules.base import Batch
from modules.classifier import Classifier
from modules.keyed import keyed_normal
from modules.losses import CrossEntropy
from modules.mixup import draw_pairs, mix_targets, one_hot
from modules.nets.gcode_encoder import Encoder, build_encoder


class GcodeEncoder(Classifier):
    """Classify windows of sensors by the machine's operation, and learn to clean them of noise (the brief's stage one).

    Training loss of a window: that of the operation + ``reconstruction`` x the mean squared error with which the clean
    channels are made again from the noisy ones, over the channels that the recording has. That error without
    noise is the ``anomaly`` of a window that is judged or predicted.

    Batch: ``continuous`` (B, T, C) float, ``present`` (B, C) bool, ``categorical`` (B, T, K) int64, ``y`` (B,), ``id``,
    ``weight``; targets of the decoder (``y_...``) are left alone. With 155 channels, nine operations, categorical sizes
    6, 3, 3, 4 and ``missing: zeros`` the networks have 242,532 (brief) and 3,945,893 (trained) parameters.

    Args:
        optimizer: Builds the optimizer from parameter groups.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        loss: Loss of the operation; ``None`` is cross-entropy.
        architecture: ``brief`` (as drawn there), ``trained`` (as really trained there, without categorical columns) or
            ``strong`` (convolutions, channels hidden at times).
        input_dim: Channels; ``None`` takes the data's.
        num_classes: Operations; ``None`` takes the data's.
        categories: Values of each categorical column; ``None`` takes the data's.
        missing: What a channel that a recording lacks looks like: a ``learned`` number, or ``zeros`` as in the brief.
        width: Width of the network; ``None`` is the architecture's own.
        layers: LSTM layers.
        dropout: Dropout.
        input_dropout: Dropout before the LSTM of ``brief``.
        head_width: Hidden width of the operation's head of ``brief``; 0 is a single layer, as drawn there.
        noise: Standard deviation of the noise on the scaled channels in training.
        reconstruction: Weight of the reconstruction; 0 leaves it out of the network.
        mixup_alpha: Beta parameter of mixup; 0 switches it off.
        decay_all: Decay norms and biases too.
        compile_net: Compile the network with ``torch.compile``.
    """

    SIZES: ClassVar[tuple[str, ...]] = ("input_dim", "num_classes", "categories")

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        loss: nn.Module | None = None,
        architecture: Literal["brief", "trained", "strong"] = "brief",
        input_dim: int | None = None,
        num_classes: int | None = None,
        categories: list[int] | None = None,
        missing: Literal["learned", "zeros"] = "learned",
        width: int | None = None,
        layers: int = 2,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        head_width: int = 0,
        noise: float = 0.1,
        reconstruction: float = 0.3,
        mixup_alpha: float = 0.0,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if noise < 0 or reconstruction < 0:
            raise ValueError(f"noise={noise} and reconstruction={reconstruction} must not be below 0")
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.loss = loss if loss is not None else CrossEntropy()
        self.noise, self.reconstruction, self.mixup_alpha = noise, reconstruction, mixup_alpha
        self.decay_all, self.compile_net = decay_all, compile_net
        self.build_if_known()

    def build(self) -> None:
        """Build the network and its metrics."""
        names = (*self.SIZES, "architecture", "missing", "width", "layers", "dropout", "input_dropout", "head_width")
        self.net = build_encoder(**{name: self.hparams[name] for name in names}, reconstruction=self.reconstruction > 0)
        self.build_metrics(self.hparams["num_classes"], ["reconstruction"] if self.reconstruction > 0 else [])

    @property
    def encoder(self) -> Encoder:
        """The network."""
        assert isinstance(self.net, Encoder)
        return self.net

    def size_fits(self, name: str, given: Any, found: Any) -> bool:  # noqa: ANN401  # a number, or several
        """Tell whether a size that was given is the data's."""
        return list(given) == list(found) if name == "categories" else given == found

    def net_inputs(self, batch: Batch) -> Batch:
        """Return the inputs of the network, in training with the noise of each window."""
        inputs = super().net_inputs(batch)
        if self.training and self.noise > 0:
            clean = inputs["continuous"]
            made = keyed_normal(batch["id"], tuple(clean.shape[1:]), self.data_seed, self.current_epoch)
            inputs["noise"] = self.noise * made
        return inputs

    def mix(self, inputs: Batch, batch: Batch, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        """Mix the channels of two windows; what cannot be mixed is that of the window with the larger share."""
        pairs, share = draw_pairs(batch["y"], self.mixup_alpha, rng)
        own, x = share[:, None, None], inputs["continuous"]
        larger = share >= 0.5
        mixed = inputs | {
            "continuous": own * x + (1 - own) * x[pairs],
            "present": torch.where(larger[:, None], inputs["present"], inputs["present"][pairs]),
            "categorical": torch.where(larger[:, None, None], inputs["categorical"], inputs["categorical"][pairs]),
        }
        return mixed, mix_targets(one_hot(batch["y"], self.hparams["num_classes"]), pairs, share)

    def auxiliary_losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Return the error of the reconstruction of each window."""
        return {"reconstruction": (self.reconstruction, outputs["error"])} if self.reconstruction > 0 else {}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Update the validation metrics; return the outputs of the batch, with the anomaly of each window."""
        return super().validation_step(batch, batch_idx) | self._anomaly(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the outputs of the batch, with the anomaly of each window."""
        return super().test_step(batch, batch_idx) | self._anomaly(batch)

    def export_answers(self, inputs: Batch) -> dict[str, Tensor]:
        """Return the probabilities, and the anomaly of each window where the network reconstructs."""
        if self.members or self.reconstruction == 0:
            return super().export_answers(inputs)
        outputs = self.encoder(**inputs)
        return {"prob": outputs["logits"].float().softmax(1), "anomaly": outputs["error"]}

    def _anomaly(self, batch: Batch) -> dict[str, Tensor]:
        """Return the error (B,) of each window where the network reconstructs."""
        return {"anomaly": self.encoder(**self.net_inputs(batch))["error"]} if self.reconstruction > 0 else {}

    def describe(self) -> dict[str, Any]:
        """Return the live settings."""
        net = self.encoder
        return {
            "architecture": type(net).__name__,
            "input_dim": self.hparams["input_dim"],
            "num_classes": self.hparams["num_classes"],
            "categories": list(self.hparams["categories"]),
            "memory_dim": net.memory_dim,
            "missing_channels": self.hparams["missing"],
            "noise": self.noise,
            "reconstruction_weight": self.reconstruction,
            "dropout": self.hparams["dropout"],
        }
