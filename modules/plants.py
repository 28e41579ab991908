"""`plants`: a picture to its species, by any backbone of timm."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from modules.base import Batch, ClassMapError
from modules.classifier import Classifier
from modules.losses import CrossEntropy
from modules.mixup import mix_targets, mixup, one_hot
from modules.nets.plants import Frozen, PlantsNet
from modules.optim import parameter_groups
from modules.plants_weights import read_weights


class PlantsClassifier(Classifier):
    """Classify pictures of plants (the brief of `plants`).

    Batch: ``image`` (B, 3, S, S) with values in 0..255, ``y`` (B,), ``id``, ``weight``. The network normalises pixels
    itself, with the mean and deviation of the backbone.

    Args:
        optimizer: Builds the optimizer from parameter groups; its learning rate is that of the head.
        backbone: Name of a timm model.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        loss: Training loss; ``None`` is cross-entropy with the brief's smoothing of 0.1.
        num_classes: Number of species; ``None`` takes the data's.
        image_size: Side of the pictures; ``None`` takes the data's.
        pretrained: Start from timm's weights (a download).
        init_from: Start from the weights of another run: a checkpoint, or a ``weights.safetensors``; a head for other
            classes is left out, and said.
        reset_head: Start the head anew after ``init_from`` (the second stage of decoupled training).
        frozen: What is not trained: ``none``, ``backbone`` (a linear probe), or so many blocks from the input on.
        layer_decay: Learning rate of a block over that of the block above it.
        head_dropout: Dropout before the last layer.
        drop_path: Stochastic depth.
        mixup_alpha: Beta parameter of mixup; 0 switches it off.
        cutmix_alpha: Beta parameter of cutmix (Yun et al. 2019); 0 switches it off. With both, each batch draws one.
        mix_probability: Share of the batches that are mixed at all.
        channels_last: Keep the channels last in memory.
        checkpointing: Trade time for memory in the backward pass.
        decay_all: Decay norms, biases and positions too.
        compile_net: Compile the network with ``torch.compile``.
    """

    SIZES: ClassVar[tuple[str, ...]] = ("num_classes", "image_size")
    top_k = 5

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        backbone: str = "resnet10t",
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        loss: nn.Module | None = None,
        num_classes: int | None = None,
        image_size: int | None = None,
        pretrained: bool = False,
        init_from: str | None = None,
        reset_head: bool = False,
        frozen: Frozen = "none",
        layer_decay: float = 1.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        mix_probability: float = 1.0,
        channels_last: bool = False,
        checkpointing: bool = False,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not 0 < layer_decay <= 1 or not 0 <= mix_probability <= 1 or min(mixup_alpha, cutmix_alpha) < 0:
            raise ValueError("need layer_decay in (0, 1], mix_probability in [0, 1], and alphas of at least 0")
        if pretrained and init_from is not None:
            raise ValueError("pretrained and init_from exclude each other: give one start")
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.loss = loss if loss is not None else CrossEntropy(label_smoothing=0.1)
        self.pretrained, self.init_from, self.reset_head = pretrained, init_from, reset_head
        self.layer_decay, self.decay_all, self.compile_net = layer_decay, decay_all, compile_net
        self.mixup_alpha, self.cutmix_alpha, self.mix_probability = mixup_alpha, cutmix_alpha, mix_probability
        self.dropped: list[str] = []
        self._net_settings: dict[str, Any] = {
            "backbone": backbone,
            "head_dropout": head_dropout,
            "drop_path": drop_path,
            "channels_last": channels_last,
            "checkpointing": checkpointing,
            "frozen": frozen,
        }
        self.build_if_known()

    def build(self) -> None:
        """Build the network and its metrics."""
        sizes = {name: self.hparams[name] for name in self.SIZES}
        self.net = PlantsNet(**sizes, **self._net_settings)
        self.build_metrics(sizes["num_classes"])

    def on_fit_start(self) -> None:
        """Take the weights to start from, unless a run is resumed, and say how large the network is for its data."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        images = len(data.indices("train"))
        size = sum(parameter.numel() for parameter in self.plants_net.parameters())
        note = "" if size < 1000 * images else "; it can learn them by heart: regularise, or take a smaller backbone"
        rank_zero_info(f"plants: {size:,} parameters, {images:,} training pictures, {size / images:,.0f} each{note}")
        if self.trainer.ckpt_path is not None:
            return
        if self.pretrained:
            self.plants_net.load_pretrained()
        if self.init_from is not None:
            self._start_from(self.init_from)

    def on_train_start(self) -> None:
        """Put what is frozen in judging mode: a Trainer takes the modes as it finds them, and warns of it before."""
        super().on_train_start()
        self.plants_net.train()

    def _start_from(self, path: str) -> None:
        try:
            self.dropped = self.plants_net.load(read_weights(path))
        except ValueError as error:
            raise ClassMapError(f"init_from={path}: {error}") from error
        left = f"left out, for the classes differ: {', '.join(self.dropped)}" if self.dropped else "all of them"
        rank_zero_info(f"plants: weights taken from {path} ({left})")
        if self.reset_head:
            self.plants_net.reset_head()

    @property
    def plants_net(self) -> PlantsNet:
        """The network."""
        assert isinstance(self.net, PlantsNet)
        return self.net

    @property
    def mixes(self) -> bool:
        """Whether training mixes pictures at all."""
        return self.mix_probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    def mix(self, inputs: Batch, batch: Batch, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        """Return pictures mixed by mixup or cutmix, or left as they are, and their soft targets (B, C)."""
        classes, y = self.hparams["num_classes"], batch["y"]
        if rng.random() >= self.mix_probability:
            return inputs, one_hot(y, classes)
        image = {"image": inputs["image"].float()}
        if self.mixup_alpha > 0 and (self.cutmix_alpha == 0 or rng.random() < 0.5):
            return mixup(image, y, classes, self.mixup_alpha, rng)
        return cutmix(image["image"], y, classes, self.cutmix_alpha, rng)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups; with a layer decay, one pair for each depth."""
        groups = parameter_groups(self, self.decay_all)
        if self.layer_decay == 1:
            return groups
        depth, top = self.plants_net.depths()
        lr = float(self.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"])
        made: dict[str, dict[str, Any]] = {}
        for group in groups:
            for parameter in group["params"]:
                below = top - depth.get(id(parameter), top)
                name = f"{group['name']}_{below}"
                rest = {key: value for key, value in group.items() if key not in ("params", "name")}
                made.setdefault(name, {"params": [], "name": name, "lr": lr * self.layer_decay**below, **rest})
                made[name]["params"].append(parameter)
        return [made[name] for name in sorted(made)]

    def describe(self) -> dict[str, Any]:
        """Return the live settings."""
        net = self.plants_net
        counted = list(net.parameters())
        return {
            "architecture": net.backbone,
            "num_classes": self.hparams["num_classes"],
            "image_size": net.image_size,
            "parameters": sum(p.numel() for p in counted),
            "trainable_parameters": sum(p.numel() for p in counted if p.requires_grad),
            "head_dropout": self._net_settings["head_dropout"],
            "drop_path": self._net_settings["drop_path"],
            "frozen": net.frozen,
            "layer_decay": self.layer_decay,
            "mixup_alpha": self.mixup_alpha,
            "cutmix_alpha": self.cutmix_alpha,
            "mix_probability": self.mix_probability,
            "pretrained": self.pretrained,
            "init_from": self.init_from,
            "tensors_left_out": self.dropped,
        }


def cutmix(image: Tensor, y: Tensor, num_classes: int, alpha: float, rng: np.random.Generator) -> tuple[Batch, Tensor]:
    """Put a rectangle of another picture into each picture; the targets are mixed by area.

    Args:
        image: (B, 3, H, W) floating.
        y: Class indices (B,); a picture without a label neither changes nor lends itself.
        num_classes: Number of classes C.
        alpha: Both parameters of the Beta distribution of the share that a picture keeps.
        rng: Source of the share, the place and the pairs.
    """
    pairs = torch.from_numpy(rng.permutation(len(y))).to(y.device)
    paired = (y >= 0) & (y[pairs] >= 0)
    height, width = image.shape[-2:]
    side = float(np.sqrt(rng.beta(alpha, alpha)))
    high, wide = round(side * height), round(side * width)
    top, left = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1))
    box = torch.zeros(height, width, dtype=torch.bool, device=image.device)
    box[top : top + high, left : left + wide] = True
    mixed = torch.where(box & paired.view(-1, 1, 1, 1), image[pairs], image)
    kept = torch.where(paired, 1.0 - high * wide / (height * width), 1.0)
    return {"image": mixed}, mix_targets(one_hot(y, num_classes), pairs, kept)
