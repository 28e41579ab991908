"""`signs`: sequences of frames to the class of the sign."""

from typing import Any, ClassVar, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from modules.classifier import Classifier
from modules.losses import CrossEntropy
from modules.nets.signs import SignTransformer
from modules.nets.signs_streams import SignStreams


class SignClassifier(Classifier):
    """Classify isolated signs from sequences of frame vectors (the brief of `signs`, run G8.0).

    Batch: ``x`` (B, T, input_dim) float, ``mask`` (B, T) bool with True = real frame, ``y`` (B,), ``id``, ``weight``.
    With 128 features, 30 classes, 96 positions and the defaults the network has 2,203,294 parameters.

    Args:
        optimizer: Builds the optimizer from parameter groups.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        loss: Training loss; ``None`` is cross-entropy with the brief's smoothing of 0.1.
        input_dim: Features of a frame; ``None`` takes the data's.
        num_classes: Number of signs; ``None`` takes the data's.
        max_len: Positions; at least the longest sequence; ``None`` takes the data's longest.
        width: Width of the encoder.
        depth: Encoder layers.
        heads: Attention heads.
        ffn: Width inside the feed-forward part.
        dropout: Dropout in the encoder.
        head_width: Hidden width of the head.
        head_dropout: Dropout in the head.
        positions: Kind of position table.
        pooling: How frames become one vector.
        mixup_alpha: Beta parameter of mixup; 0 switches it off.
        decay_all: Decay norms, biases and positions too, as the brief does.
        compile_net: Compile the network with ``torch.compile``.
    """

    SIZES: ClassVar[tuple[str, ...]] = ("input_dim", "num_classes", "max_len")

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        loss: nn.Module | None = None,
        input_dim: int | None = None,
        num_classes: int | None = None,
        max_len: int | None = None,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        ffn: int = 512,
        dropout: float = 0.1,
        head_width: int = 128,
        head_dropout: float = 0.2,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        pooling: Literal["mean", "attention"] = "mean",
        mixup_alpha: float = 0.0,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.loss = loss if loss is not None else CrossEntropy(label_smoothing=0.1)
        self.mixup_alpha, self.decay_all, self.compile_net = mixup_alpha, decay_all, compile_net
        self._net_settings: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "heads": heads,
            "ffn": ffn,
            "dropout": dropout,
            "head_width": head_width,
            "head_dropout": head_dropout,
            "positions": positions,
            "pooling": pooling,
        }
        self.build_if_known()

    def build(self) -> None:
        """Build the Transformer and its metrics."""
        sizes = {name: self.hparams[name] for name in self.SIZES}
        self.net = SignTransformer(**sizes, **self._net_settings)
        self.build_metrics(sizes["num_classes"])

    def size_fits(self, name: str, given: int, found: int) -> bool:
        """Tell whether a size that was given can take the data's; a longer table of positions is no fault."""
        return given >= found if name == "max_len" else given == found

    def describe(self) -> dict[str, Any]:
        """Return the live settings under the key names of the brief's ``model_config`` file."""
        net = self.net
        assert isinstance(net, SignTransformer)
        block: Any = net.blocks[0]
        head: Any = net.head
        return {
            "architecture": "TransformerEncoderOnly",
            "input_dim": net.input.in_features,
            "d_model": net.input.out_features,
            "num_heads": block.heads,
            "num_layers": len(net.blocks),
            "dim_feedforward": block.ff1.out_features,
            "dropout": net.drop.p,
            "num_classes": head[-1].out_features,
            "max_seq_len": net.positions.max_len,
            "mlp_dropout": head[2].p,
            "activation": "gelu",
            "positions": self._net_settings["positions"],
            "pooling": self._net_settings["pooling"],
        }


class SignStreamsClassifier(Classifier):
    """Classify gestures from features of hand joints: convolutions over time, then attention, one or several members.

    Batch: as for :class:`SignClassifier`. The network is :class:`modules.nets.signs_streams.SignStreams`.

    Args:
        optimizer: Builds the optimizer from parameter groups.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        loss: Training loss; ``None`` is cross-entropy with a smoothing of 0.1.
        input_dim: Features of a frame; ``None`` takes the data's.
        num_classes: Number of classes; ``None`` takes the data's.
        max_len: Positions; at least the longest sequence; ``None`` takes the data's longest.
        width: Channels after the projection of a frame.
        stages: Channels of each stage; all but the first halve the sequence.
        blocks: Residual blocks in a stage.
        kernel: Frames seen by a convolution, odd.
        depth: Attention blocks.
        heads: Attention heads.
        input_dropout: Share of features hidden for a whole sequence.
        dropout: Dropout inside the blocks.
        head_dropout: Dropout of the head.
        members: Networks whose mean probability is the answer.
        mixup_alpha: Beta parameter of mixup; 0 switches it off.
        decay_all: Decay norms, biases and positions too.
        compile_net: Compile the network with ``torch.compile``.
    """

    SIZES: ClassVar[tuple[str, ...]] = ("input_dim", "num_classes", "max_len")

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        loss: nn.Module | None = None,
        input_dim: int | None = None,
        num_classes: int | None = None,
        max_len: int | None = None,
        width: int = 96,
        stages: tuple[int, ...] = (96, 160, 224),
        blocks: int = 1,
        kernel: int = 3,
        depth: int = 1,
        heads: int = 4,
        input_dropout: float = 0.1,
        dropout: float = 0.1,
        head_dropout: float = 0.4,
        members: int = 1,
        mixup_alpha: float = 0.0,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.loss = loss if loss is not None else CrossEntropy(label_smoothing=0.1)
        self.mixup_alpha, self.decay_all, self.compile_net = mixup_alpha, decay_all, compile_net
        self._net_settings: dict[str, Any] = {
            "width": width,
            "stages": tuple(stages),
            "blocks": blocks,
            "kernel": kernel,
            "depth": depth,
            "heads": heads,
            "input_dropout": input_dropout,
            "dropout": dropout,
            "head_dropout": head_dropout,
            "members": members,
        }
        self.build_if_known()

    def build(self) -> None:
        """Build the network and its metrics."""
        sizes = {name: self.hparams[name] for name in self.SIZES}
        self.net = SignStreams(**sizes, **self._net_settings)
        self.build_metrics(sizes["num_classes"])

    def size_fits(self, name: str, given: int, found: int) -> bool:
        """Tell whether a size that was given can take the data's; a longer table of positions is no fault."""
        return given >= found if name == "max_len" else given == found

    def describe(self) -> dict[str, Any]:
        """Return the settings the network was built with."""
        sizes = {"input_dim": "input_dim", "num_classes": "num_classes", "max_seq_len": "max_len"}
        return {
            "architecture": type(self.net).__name__,
            **{key: self.hparams[name] for key, name in sizes.items()},
            **self._net_settings,
        }
