"""The step that all classifiers share: exact losses, metrics per epoch, outputs for the report."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.func import functional_call
from torchmetrics import MetricCollection

from modules.base import Batch, System
from modules.metrics import Mean, build_metrics
from modules.mixup import mixup


def logits_of(outputs: Tensor | dict[str, Tensor]) -> Tensor:
    """Return the class logits of a network's outputs; one with auxiliary heads gives a dict."""
    return outputs["logits"] if isinstance(outputs, dict) else outputs


class Classifier(System):
    """A system that gives each sample one of ``num_classes`` classes.

    A batch holds ``id`` (B,), ``y`` (B,) with -1 = no label, ``weight`` (B,), and the arguments of the network.
    Logged per epoch: ``train/loss``, ``train/accuracy``, ``val/loss`` (the training loss), ``val/nll`` (not smoothed
    or weighted, comparable between losses), ``val/accuracy``, ``val/macro_f1``, ``val/topK``, ``val/ece``; all
    weighted by samples, and the same for any batch size or number of processes.
    """

    top_k: int = 3
    mixup_alpha: float = 0.0
    members: list[dict[str, Tensor]] | None = None  # weights by name; what is judged or predicted is then their mean

    def build_metrics(self, num_classes: int, auxiliary: Iterable[str] = ()) -> None:
        """Make the metrics of both stages; part of ``build``.

        Args:
            num_classes: Number of classes.
            auxiliary: Names of the further losses; each is logged as ``train/aux_NAME``.
        """
        self.train_auxiliary = nn.ModuleDict({name: Mean() for name in auxiliary})
        self.train_loss, self.train_accuracy, self.val_loss, self.val_nll = (Mean() for _ in range(4))
        self.val_metrics: MetricCollection = build_metrics(num_classes, min(self.top_k, num_classes))

    def setup(self, stage: str) -> None:
        """Build the network and give the loss the training counts."""
        super().setup(stage)
        if stage != "predict":
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            held = data.records["id"].to_numpy(str)[[*data.indices("val"), *data.indices("test")]]
            self.loss.use_held_out(frozenset(held.tolist()))  # type: ignore[operator]
            self.loss.use_class_names(self.class_names)  # type: ignore[operator]
            self.loss.use_counts(torch.as_tensor(data.class_counts("train")))  # type: ignore[operator]

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, C)."""
        return logits_of(self.net(**self.net_inputs(batch)))  # type: ignore[misc]

    def scores(self, logits: Tensor) -> Tensor:
        """Return scores (B, C) whose softmax are the probabilities; the logits themselves by default."""
        return logits

    def predict_probabilities(self, batch: Batch) -> Tensor:
        """Return float32 probabilities (B, C): of the network, or the mean over the weights in ``members``."""
        if not self.members:
            return self.scores(self(batch).float()).softmax(1)
        each = [functional_call(self, weights, (batch,)).float() for weights in self.members]
        return torch.stack([self.scores(logits).softmax(1) for logits in each]).mean(0)

    def export_answers(self, inputs: Batch) -> dict[str, Tensor]:
        """Return the probabilities, as ``predict`` writes them."""
        return {"prob": self.predict_probabilities(inputs)}

    def target(self, batch: Batch) -> Tensor:
        """Return what the loss compares with: the classes (B,), or soft targets (B, C)."""
        return batch["y"]

    @property
    def mixes(self) -> bool:
        """Whether training mixes samples at all."""
        return self.mixup_alpha > 0

    def mix(self, inputs: Batch, batch: Batch, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        """Return mixed inputs of the network and their soft targets (B, C)."""
        return mixup(inputs, batch["y"], self.hparams["num_classes"], self.mixup_alpha, rng)

    def sample_loss(self, logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Return the training loss of each sample (B,)."""
        return self.loss(logits, target)

    def auxiliary_losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Return the weight and the per-sample values (B,) of each further loss, by name."""
        return {}

    def on_train_start(self) -> None:
        """Tell the loss the epoch: one that is resumed in its middle has no start of its own."""
        super().on_train_start()
        self.loss.on_epoch(self.current_epoch)  # type: ignore[operator]

    def on_train_epoch_start(self) -> None:
        """Tell the loss the epoch."""
        self.loss.on_epoch(self.current_epoch)  # type: ignore[operator]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the exact mean loss of the global batch (see ``IndexBatch.weight``)."""
        inputs, y = self.net_inputs(batch), batch["y"]
        if self.mixes:
            key = [self.data_seed, self.current_epoch, batch_idx, self.global_rank]
            inputs, target = self.mix(inputs, batch, np.random.default_rng(key))
        else:
            target = self.target(batch)
        outputs = self.net(**inputs)  # type: ignore[misc]
        logits = logits_of(outputs)
        per_sample = self.sample_loss(logits, target, batch)
        real = (batch["weight"] > 0).float()
        self.train_loss.update(per_sample.detach(), real)
        self.train_accuracy.update((self.scores(logits).argmax(1) == y).float(), real)
        if isinstance(outputs, dict):
            for name, (share, values) in self.auxiliary_losses(outputs, batch).items():
                self.train_auxiliary[name].update(values.detach(), real)  # type: ignore[operator]
                per_sample = per_sample + share * values
        return (per_sample * batch["weight"]).sum()

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Log the epoch's training loss and accuracy (on the inputs as trained: augmented, mixed, with dropout).

        After the last batch and not at the end of the epoch: callbacks, whose turn comes first then, have to see them.
        """
        if self.trainer.is_last_batch:
            further = {f"aux_{name}": mean for name, mean in self.train_auxiliary.items()}
            self._log_epoch("train", {"loss": self.train_loss, "accuracy": self.train_accuracy, **further})

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Update the validation metrics; return the outputs of the batch."""
        logits, y = self(batch).float(), batch["y"]
        scores = self.scores(logits)
        if self.members:  # the loss is that of the network, all else that of the members
            scores = self.predict_probabilities(batch).clamp_min(torch.finfo(torch.float32).tiny).log()
        outputs = {"id": batch["id"], "prob": scores.softmax(1), "y": y}
        real = (y >= 0).float()
        self.val_loss.update(self.loss(logits, self.target(batch)), real)
        self.val_nll.update(F.cross_entropy(scores, y.clamp(min=0), reduction="none"), real)
        self.val_metrics.update(outputs["prob"], y)
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_epoch("val", {"loss": self.val_loss, "nll": self.val_nll})
        values = self.val_metrics.compute()
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)
        self.val_metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the outputs of the batch; the report computes all test metrics from the one file it stores."""
        return {"id": batch["id"], "prob": self.predict_probabilities(batch), "y": batch["y"]}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the outputs of the batch."""
        return self.test_step(batch, batch_idx)

    def expected_initial_loss(self) -> float | None:
        """Return the loss of a network that gives every class the same probability."""
        return float(self.loss.expected_at_init(self.hparams["num_classes"]))  # type: ignore[operator]

    @property
    def data_seed(self) -> int:
        """Seed of the run, as the loaders use it."""
        return int(getattr(getattr(self.trainer, "datamodule", None), "seed", 0))

    def _log_epoch(self, stage: str, metrics: dict[str, Any]) -> None:
        # every process takes part in compute(), so the values are equal and the mean over processes changes nothing
        values = {f"{stage}/{name}": metric.compute() for name, metric in metrics.items()}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        for metric in metrics.values():
            metric.reset()
