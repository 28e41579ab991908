"""`language`: the next token of a text (INFINITO, causal and with a memory that is read)."""

import math
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from modules.base import Batch, ClassMapError, System
from modules.language_teaching import Distillation, Teaching
from modules.metrics import LongMean
from modules.nets.language import Dropouts, LanguageTransformer, Shape
from modules.nets.language_lstm import LanguageLSTM
from modules.nets.language_parts import Exploration, TokenLoss
from modules.nets.memory import Slots, State

_SLOTS = ("key", "value", "token", "importance", "age", "usage")


class LanguageModel(System):
    """Predict the next token; with a memory, segment by segment along streams.

    Batch: ``tokens`` (B, T), ``starts`` (B, T), ``write`` (B, T), ``y`` (B, T) with -1 = not in the loss, ``weight``
    (B,) of a token, and in an evaluation ``y_place``, ``y_document``, ``y_position`` (B, T).
    Logged: ``train/loss`` and ``train/ppl``, ``val/nll`` (nats per token) and ``val/ppl``, ``val/word_ppl``,
    ``val/bpb`` (bits per byte), all weighted by tokens; with exploration ``train/noise``, its scale.

    Args:
        optimizer: Builds the optimizer from parameter groups.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        vocab_size: Tokens of the vocabulary; ``None`` takes the data's.
        network: The Transformer, or an LSTM to compare it with (of ``shape`` it takes width, depth and max_len).
        shape: Sizes and form of the Transformer.
        dropouts: Everything that is dropped in training.
        memory: External memory; ``None`` leaves it out. It needs ``data.order: streams``.
        exploration: Noise on the hidden states in training; ``None`` leaves it out.
        distillation: A trained model that teaches this one; ``None`` learns from the text alone.
        loss_chunk: Positions whose scores over the vocabulary exist at once; 0 = all.
        decay_all: Decay norms, biases and embeddings, too.
        compile_net: Compile the network with ``torch.compile``.
    """

    PREDICTS: ClassVar[str] = "text"
    SIZES: ClassVar[tuple[str, ...]] = ("vocab_size",)
    TARGET_SIZES: ClassVar[tuple[str, ...]] = ("vocab_size",)

    net: LanguageTransformer | LanguageLSTM | None
    loss: TokenLoss

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        vocab_size: int | None = None,
        network: Literal["transformer", "lstm"] = "transformer",
        shape: Shape = Shape(),  # noqa: B008  # frozen
        dropouts: Dropouts = Dropouts(),  # noqa: B008
        memory: Slots | None = None,
        exploration: Exploration | None = None,
        distillation: Distillation | None = None,
        loss_chunk: int = 0,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.loss, self.decay_all, self.compile_net = TokenLoss(loss_chunk), decay_all, compile_net
        if network == "lstm" and (memory is not None or exploration is not None):
            raise ValueError("the LSTM is a baseline without memory and exploration: set both to null")
        self.network, self.shape, self.dropouts = network, shape, dropouts
        self.memory, self.exploration, self.distillation = memory, exploration, distillation
        self.teaching: Teaching | None = None  # of a fit
        self.memory_mode: Literal["on", "off", "shuffled"] = "on"  # of an evaluation; no weight changes
        self.train_loss, self.val_nll = LongMean(), LongMean()
        self.carry: State | None = None  # what training carries from segment to segment; no part of the weights
        self._judged: State | None = None
        self._documents = 0  # of the batch that is judged
        self.build_if_known()

    def build(self) -> None:
        """Build the Transformer, or the LSTM."""
        size, chunk = self.hparams["vocab_size"], self.loss.chunk
        if self.network == "lstm":
            self.net = LanguageLSTM(size, self.shape, self.dropouts, chunk)
        else:
            self.net = LanguageTransformer(size, self.shape, self.dropouts, self.memory, self.exploration, chunk)

    def setup(self, stage: str) -> None:
        """Build the network; refuse data that it cannot be trained on."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        if data.window > self._net().shape.max_len:
            raise ClassMapError(
                f"data.window is {data.window}, but model.shape.max_len {self._net().shape.max_len}: raise max_len"
            )
        if stage == "fit" and (self.memory is not None or self.network == "lstm") and data.order == "windows":
            raise ClassMapError("a memory is written from earlier segments of a stream: set data.order to streams")
        if stage == "fit" and self.distillation is not None:
            self.teaching = Teaching(self.distillation, self.class_names)

    def _net(self) -> LanguageTransformer | LanguageLSTM:
        assert self.net is not None
        return self.net

    def on_train_start(self) -> None:
        """Begin without a memory, unless a checkpoint brings one (it is put back at the first batch)."""
        super().on_train_start()
        self.carry = None

    def on_train_epoch_start(self) -> None:
        """Begin the streams anew."""
        self.carry = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the exact mean loss of the global batch (see ``IndexBatch.weight``)."""
        net = self._net()
        if net.noise is not None:
            net.noise.factor.fill_(net.noise.settings.factor(self.global_step))
        if self.carry is None:
            self.carry = net.new_state(*batch["tokens"].shape)
        inputs, y = self.net_inputs(batch), batch["y"]
        if self.teaching is not None:
            loss, nll, self.carry = self.teaching.losses(net, inputs, y, self.carry or {})
        else:
            out = net(**inputs, state=self.carry, targets=y)
            self.carry, nll = out.get("state"), out["nll"]
            loss = nll
        self.train_loss.update(nll.detach(), (y >= 0).float())
        return (loss.sum(1) * batch["weight"]).sum()

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Log the epoch's training loss after its last batch; nothing is carried over the end of an epoch."""
        if self.trainer.is_last_batch:
            self.carry = None
            mean = self.train_loss.compute()
            values = {"train/loss": mean, "train/ppl": mean.exp()}
            net = self._net()
            if net.noise is not None:
                values["train/noise"] = (net.noise.scale * net.noise.factor).detach()
            self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
            self.train_loss.reset()

    def on_validation_epoch_start(self) -> None:
        """Begin without a memory."""
        self._judged = None

    def on_test_epoch_start(self) -> None:
        """Begin without a memory."""
        self._judged = None

    def on_predict_epoch_start(self) -> None:
        """Begin without a memory."""
        self._judged = None

    def judge(self, batch: Batch, extra: bool = False, look: bool = False) -> dict[str, Any]:
        """Score the labels of a batch and carry the memory on, as ``memory_mode`` says.

        Args:
            batch: Of an evaluation; batches of one part in their order.
            extra: Return logits in place of ``nll``.
            look: Also return the weights of attention and of the memory's reads.

        Returns:
            ``nll`` (B, T), ``hidden`` (B, T, W), ``state`` where one is carried.
        """
        net: Any = self._net()  # the two networks take different arguments
        state = self._judged
        if state is None or self.memory_mode == "off":
            state = net.new_state(*batch["tokens"].shape)
        order: Tensor | None = None
        if self.memory_mode == "shuffled" and state is not None:
            order = self._another(batch["starts"])
            state = {name: value[order] for name, value in state.items()} if order is not None else None
        looking = {"look": True} if look else {}
        # not the compiled call: an evaluation has graphs of its own, and compiling them costs more than it saves
        out = net.forward(**self.net_inputs(batch), state=state, targets=None if extra else batch["y"], **looking)
        after = out.get("state")
        if order is not None and after is not None:
            own = order.argsort()
            after = {name: value[own] if name in _SLOTS else value for name, value in after.items()}
        self._judged = after
        return out

    def _another(self, starts: Tensor) -> Tensor | None:
        """Return for each row the row whose memory it reads in place of its own (B,), or ``None`` for one row alone.

        Rows without a document stand behind the others and have nothing to read.
        """
        if starts[:, 0].any():  # the documents of a batch begin side by side
            self._documents = int(starts[:, 0].sum())
        if self._documents < 2:
            return None
        order = torch.arange(len(starts), device=starts.device)
        return torch.cat([order[: self._documents].roll(1), order[self._documents :]])

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the surprise of each label of the batch; see :meth:`test_step`."""
        nll = self.judge(batch)["nll"]
        self.val_nll.update(nll, (batch["y"] >= 0).float())
        return {"nll": nll, **_where(batch)}

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        mean = self.val_nll.compute()
        counts = self.trainer.datamodule.counts("val")  # type: ignore[attr-defined]
        tokens, words, size = (float(counts[name].sum()) for name in ("n_tokens", "n_words", "n_bytes"))
        values = {
            "val/nll": mean,
            "val/ppl": mean.exp(),
            "val/word_ppl": (mean * (tokens / words)).exp(),
            "val/bpb": mean * (tokens / size / math.log(2)),
        }
        self.log_dict(values, sync_dist=True)
        self.val_nll.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the surprise of each label; the report computes all test metrics from the one file it stores.

        Returns:
            All (B, T): ``nll`` in nats; ``document``, the record that the label belongs to, -1 = no label; ``place``
            of the label in the part's tokens; ``position``, input tokens that its window held before it.
        """
        return {"nll": self.judge(batch)["nll"], **_where(batch)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the surprise of each label."""
        return self.test_step(batch, batch_idx)

    def export_answers(self, inputs: Batch) -> dict[str, Tensor]:
        """Return log-probabilities (B, T, V) of the next token at each place of a text that begins, for `export`."""
        return {"log_prob": self._net()(**inputs)["logits"].float().log_softmax(-1)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint with another vocabulary.

        Raises:
            ClassMapError: The vocabularies differ.
        """
        saved = list(checkpoint.get("class_names", []))
        if self.class_names and saved and saved != self.class_names:
            raise ClassMapError(
                f"the vocabulary of the data (hash {self.class_names[0][:12]}) is not that of the checkpoint (hash "
                f"{saved[0][:12]}): the same ids would mean other words. Use the data, split and tokenizer settings "
                "that the checkpoint was trained with, or train anew"
            )
        super().on_load_checkpoint(checkpoint)

    def expected_initial_loss(self) -> float | None:
        """Return the loss of a network that gives every token the same probability."""
        return math.log(self.hparams["vocab_size"])

    def describe(self) -> dict[str, Any]:
        """Return the live settings under the names of the brief's checkpoint file."""
        net = self._net()
        shape, memory = net.shape, net.memory
        return {
            "architecture": type(net).__name__,
            "vocab_size": net.embedding.num_embeddings,
            "hidden_dim": net.embedding.embedding_dim,
            "num_layers": shape.depth,
            "num_heads": shape.heads,
            "ffn": shape.ffn,
            "max_len": shape.max_len,
            "norm": shape.norm,
            "positions": shape.positions,
            "tied": net.head.weight is net.embedding.weight,
            "copy": shape.copy,
            "memory": memory.sizes.kind if memory is not None else "none",
            "memory_slots": memory.sizes.slots if memory is not None else 0,
            "exploration": float(net.noise.scale.detach()) if net.noise is not None else 0.0,
            "loss_chunk": net.loss.chunk,
            **{name: value for name, value in vars(net.dropouts).items()},
        }


def _where(batch: Batch) -> dict[str, Tensor]:
    return {name: batch[f"y_{name}"] for name in ("document", "place", "position")}
