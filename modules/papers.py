"""`papers`: title and abstract of a paper to its category."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from modules.base import Batch, ClassMapError
from modules.classifier import Classifier
from modules.losses import CrossEntropy
from modules.losses_catalogue import MultiLabel
from modules.mixup import draw_pairs, mix_targets, one_hot
from modules.nets.papers import Cross, Encoding, PapersNet
from modules.nets.papers_encoder import Encoder
from modules.nets.papers_pooling import Pooling
from modules.nets.papers_tuning import LowRank, tune
from modules.tuning import Tuning, tuning_groups


@dataclass(frozen=True)
class Auxiliary:
    """Weights of the further tasks; 0 leaves the head of a task out. They need ``data.auxiliary: true``.

    Args:
        crosslist: Which other categories the paper is listed in (mean binary cross-entropy).
        learning: Whether "learn" occurs in the abstract (binary cross-entropy; readable from the input, as the brief
            has it).
        length: Standardised log number of words of the abstract (squared error).

    Raises:
        ValueError: For a negative weight.
    """

    crosslist: float = 0.0
    learning: float = 0.0
    length: float = 0.0

    def __post_init__(self) -> None:
        if min(self.crosslist, self.learning, self.length) < 0:
            raise ValueError("weights of auxiliary tasks are at least 0")

    def weights(self) -> dict[str, float]:
        """Return the weights above zero, by task."""
        given = {"crosslist": self.crosslist, "learning": self.learning, "length": self.length}
        return {name: weight for name, weight in given.items() if weight > 0}


class PapersClassifier(Classifier):
    """Classify papers from tokens, cached states or cached vectors of title and abstract (the brief of `papers`).

    Batch: see :meth:`modules.nets.papers.PapersNet.forward`; besides ``y``, ``id`` and ``weight`` it may hold the
    targets ``y_crosslist`` (B, M), ``y_learning`` (B,), ``y_length`` (B,) and ``y_labels`` (B, C).
    Logged besides: ``train/aux_NAME`` of each further task; ``train/loss`` is the main loss alone.

    Args:
        optimizer: Builds the optimizer from parameter groups; its learning rate and decay are those of the encoder.
        encoder: What reads the input, by class_path: one of ``modules.nets.papers_encoder``.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        loss: Training loss; ``None`` is cross-entropy with a smoothing of 0.1.
        num_classes: Number of classes; ``None`` takes the data's, here and below.
        vocab_size: Tokens; 0 without tokens.
        num_keywords: Keywords of the vocabulary; 0 without a graph.
        num_terms: Terms of the wide part; 0 without.
        num_crosslists: Categories of the task ``crosslist``; 0 without.
        input_width: Width of cached states or vectors; 0 for tokens.
        encoder_config: Filled in: the encoder's configuration as JSON, from which it is built again.
        encoding: One encoder for both fields, one each, or title and abstract as one text.
        pooling: How token states become one vector; ``mean`` for cached vectors.
        block: Tokens of a block of the hierarchical pooling.
        cross: Cross-attention: none, the title asks the abstract, or both ask.
        cross_heads: Its heads.
        term_width: Size of a term's vector in the wide part; 0 gives a term one score a class.
        vector_length: Length that cached vectors are scaled to, each field by itself; ``None`` leaves them.
        head: Widths of the head's hidden blocks; none is a linear head.
        activation: Activation of the head.
        dropout: Dropout of the head.
        encoder_dropout: Dropout of the encoder's states.
        tuning: What is trained, and how fast.
        auxiliary: Weights of further tasks.
        prior_shift: How far decisions move towards rare classes after training: this times the log share of each class
            is taken from its score (Menon et al. 2021); 1 judges as if classes were equally frequent. It takes the
            training rows as they are: leave it 0 with balanced draws, class weights or logit adjustment.
        mixup_alpha: Beta parameter of mixup of the fused vectors; 0 switches it off.
        decay_all: Decay norms, biases and embeddings, too.
        compile_net: Compile the network with ``torch.compile``.
    """

    SIZES: ClassVar[tuple[str, ...]] = (
        *("num_classes", "vocab_size", "num_keywords", "num_terms", "num_crosslists", "input_width"),
    )
    FILLED_IN: ClassVar[tuple[str, ...]] = ("encoder_config",)
    log_share: Tensor  # of each class in training (C,)
    TARGET_SIZES: ClassVar[tuple[str, ...]] = ("num_classes", "num_crosslists")

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        encoder: Encoder,
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        loss: nn.Module | None = None,
        num_classes: int | None = None,
        vocab_size: int | None = None,
        num_keywords: int | None = None,
        num_terms: int | None = None,
        num_crosslists: int | None = None,
        input_width: int | None = None,
        encoder_config: str | None = None,
        encoding: Encoding = "shared",
        pooling: Pooling = "attention",
        block: int = 10,
        cross: Cross = "none",
        cross_heads: int = 8,
        term_width: int = 32,
        vector_length: float | None = None,
        head: tuple[int, ...] = (512, 256, 128),
        activation: Literal["gelu", "relu"] = "gelu",
        dropout: float = 0.35,
        encoder_dropout: float = 0.1,
        tuning: Tuning = Tuning(),  # noqa: B008  # frozen
        auxiliary: Auxiliary = Auxiliary(),
        prior_shift: float = 0.0,
        mixup_alpha: float = 0.0,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.loss = loss if loss is not None else CrossEntropy(label_smoothing=0.1)
        self.mixup_alpha, self.decay_all, self.compile_net = mixup_alpha, decay_all, compile_net
        self.prior_shift = prior_shift
        self.encoder, self.tuning, self.tasks = encoder, tuning, auxiliary.weights()
        self._net_settings: dict[str, Any] = {
            "encoding": encoding,
            "pooling": pooling,
            "block": block,
            "cross": cross,
            "cross_heads": cross_heads,
            "term_width": term_width,
            "vector_length": vector_length,
            "head": list(head),
            "activation": activation,
            "dropout": dropout,
            "encoder_dropout": encoder_dropout,
        }
        self.build_if_known()

    def build(self) -> None:
        """Build encoder, network and metrics; keep the encoder's configuration."""
        sizes, stored = self.hparams, self.hparams["encoder_config"]
        if "crosslist" in self.tasks and not sizes["num_crosslists"]:
            raise ClassMapError("model.auxiliary.crosslist needs data.auxiliary: true and papers with other categories")
        form, width = self.encoder.form, sizes["input_width"]
        if (form == "tokens") != (width == 0):
            have = f"cached input, {width} wide" if width else "tokens"
            raise ClassMapError(f"{type(self.encoder).__name__} reads {form}, but the data give {have}")
        shape = json.loads(stored) if stored else self.encoder.shape(sizes["vocab_size"])
        if self.encoder.source is not None:
            shape.pop("_name_or_path", None)  # a path of this machine
            self.hparams["encoder_config"] = json.dumps(shape)
        count = 0 if form == "vectors" else 2 if self._net_settings["encoding"] == "separate" else 1
        encoders: list[Any] = [self.encoder.build(shape, width, with_weights=not stored) for _ in range(count)]
        for part, frozen in zip(encoders, self.tuning.frozen_of(count) if count else [], strict=True):
            tune(part, frozen, self.tuning.frozen_embeddings, self.tuning.lora_rank)
        outputs = {"crosslist": sizes["num_crosslists"], "learning": 1, "length": 1}
        self.net = PapersNet(
            encoders,
            encoders[0].width if encoders else width // 2,
            sizes["num_classes"],
            form,
            num_keywords=sizes["num_keywords"],
            num_terms=sizes["num_terms"],
            auxiliary={name: outputs[name] for name in self.tasks},
            **self._net_settings,
        )
        # saved with the weights: what is predicted later has no labels to count
        self.register_buffer("log_share", torch.zeros(sizes["num_classes"]))
        self.build_metrics(sizes["num_classes"], self.tasks)

    def setup(self, stage: str) -> None:
        """Build the network; refuse data that were made for another one.

        Raises:
            ClassMapError: When states, labels or further targets of the data do not fit.
        """
        data = getattr(self.trainer, "datamodule", None)
        above, below = getattr(self.encoder, "layer", None), getattr(getattr(data, "states", None), "layer", None)
        if above is not None and below is not None and above != below:
            raise ClassMapError(f"the states went through {below} layers, the encoder goes on after layer {above}")
        trained = self.encoder.source and not getattr(self.encoder, "random_weights", False)
        if stage == "fit" and data is not None and trained:
            read = getattr(getattr(data, "states", None), "source", getattr(data, "tokenizer", self.encoder.source))
            if read != self.encoder.source:
                raise ClassMapError(
                    f"the encoder is {self.encoder.source}, but the data were made for {read}: give both the same "
                    "folder or id (data.tokenizer, or data.states.source)"
                )
        if data is not None and isinstance(self.loss, MultiLabel) != (getattr(data, "labels", "single") == "multi"):
            raise ClassMapError("data.labels: multi and the loss modules.losses_catalogue.MultiLabel go together")
        if stage == "fit" and self.tasks and not getattr(data, "auxiliary", False):
            raise ClassMapError(f"the tasks {sorted(self.tasks)} need data.auxiliary: true")
        super().setup(stage)
        self._check_lengths(getattr(data, "limits", {}))
        if stage != "predict":
            counts = torch.as_tensor(self.trainer.datamodule.class_counts("train"), dtype=torch.float32)  # type: ignore[attr-defined]
            self.log_share.copy_((counts / counts.sum()).log())

    def _check_lengths(self, limits: dict[str, int]) -> None:
        """Refuse texts that may be longer than the encoder has places for: the lookup would fail deep in a step."""
        places = [found for encoder in self.net.encoders if (found := getattr(encoder, "places", None))]  # type: ignore[union-attr]
        for field, limit in limits.items():
            if places and limit > min(places):
                mend = "title_len and abstract_len together" if field == "text" else f"data.{field}_len"
                raise ClassMapError(
                    f"{field}: a text may have {limit} tokens, the encoder has places for {min(places)}: set {mend} "
                    f"to at most {min(places)}, or use a longer encoder"
                )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups by depth and by what is new."""
        net: Any = self.net
        added = [module for module in net.modules() if isinstance(module, LowRank)]
        return tuning_groups(self, net.encoders, added, self.tuning, self.optimizer, self.decay_all)

    def scores(self, logits: Tensor) -> Tensor:
        """Return shifted logits, or for several labels the log of each one's sigmoid: its softmax is their share."""
        found = F.logsigmoid(logits) if isinstance(self.loss, MultiLabel) else logits
        return found - self.prior_shift * self.log_share if self.prior_shift else found

    def target(self, batch: Batch) -> Tensor:
        """Return the classes (B,), or all labels (B, C) of each paper; zeros for a paper without one."""
        if isinstance(self.loss, MultiLabel):
            return batch["y_labels"] * (batch["y"] >= 0).unsqueeze(1)
        return batch["y"]

    def mix(self, inputs: Batch, batch: Batch, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        """Return inputs with the pairs whose fused vectors the network mixes, and their soft targets (B, C)."""
        pairs, share = draw_pairs(batch["y"], self.mixup_alpha, rng)
        target = self.target(batch)
        soft = target if target.is_floating_point() else one_hot(target, self.hparams["num_classes"])
        return inputs | {"mix_pairs": pairs, "mix_share": share}, mix_targets(soft, pairs, share)

    def auxiliary_losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Return weight and per-sample loss (B,) of each further task."""
        found = {}
        for name, weight in self.tasks.items():
            output, wanted = outputs[name].float(), batch[f"y_{name}"].float()
            if name == "length":
                value = (output.squeeze(1) - wanted) ** 2
            else:
                wanted = wanted.view_as(output)
                value = F.binary_cross_entropy_with_logits(output, wanted, reduction="none").mean(1)
            found[name] = (weight, value)
        return found

    def describe(self) -> dict[str, Any]:
        """Return the live settings, read from the network."""
        net: Any = self.net
        config = json.loads(self.hparams["encoder_config"] or "{}")
        trained = [p.numel() for p in net.parameters() if p.requires_grad]
        return {
            "architecture": type(net).__name__,
            "encoder": type(self.encoder).__name__,
            "encoder_source": self.encoder.source,
            "encoder_type": config.get("model_type"),
            "hidden_size": net.width,
            "encoder_layers": [len(encoder.layers) for encoder in net.encoders],
            "frozen_layers": self.tuning.frozen_layers,
            "lora_rank": self.tuning.lora_rank,
            **self._net_settings,
            "auxiliary": self.tasks,
            "num_keywords": self.hparams["num_keywords"],
            "num_terms": self.hparams["num_terms"],
            "num_classes": net.head[-1].out_features,
            "parameters": sum(p.numel() for p in net.parameters()),
            "trainable_parameters": sum(trained),
        }
