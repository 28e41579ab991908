"""`gcode_decoder`: lines of G-code from windows of a machine's sensors, over the encoder of a first stage."""

import json
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from modules.base import Batch, ClassMapError, System
from modules.exporting import Axes
from modules.gcode_answers import forced_answers, right_lines, right_tokens, true_log_prob
from modules.gcode_decoding import Decoding, Writer, Written
from modules.gcode_encoder_run import build_from, read_encoder_run
from modules.gcode_losses import Losses, TokenLoss, chosen_positions, sampled_inputs
from modules.gcode_tables import TokenTables
from modules.gcode_tokens import BOS, PAD, Vocabulary
from modules.keyed import keyed_normal
from modules.metrics import Mean
from modules.nets.gcode_decoder import Shape, build_decoder
from modules.nets.gcode_heads import Sizes
from modules.nets.gcode_pair import EncoderDecoder
from modules.optim import parameter_groups

_WINDOW = ("continuous", "present", "categorical")
_FITTED_ON = 4096  # training windows that bins are fitted on, at most
_NOISE = 1  # tells the noise of the memory from other numbers that belong to a window


class GcodeDecoder(System):
    """Write the line of G-code of a window (the brief's stage two).

    Training loss of a window: the weighted sum over the heads of their mean loss over the positions where they have a
    target (see ``Losses``). Batch: that of ``GcodeEncoder``, with ``y_tokens`` (B, L) and ``y_fields`` (B, L, F).

    Logged: ``train/loss`` and ``train/loss_HEAD``, the mean over windows; ``val/loss``, the same with true inputs and
    without curriculum; ``val/token_accuracy`` with true inputs, the end of a line included; ``val/line_accuracy``,
    whole lines written freely and greedily; ``val/operation_accuracy``.

    Args:
        optimizer: Builds the optimizer from parameter groups.
        encoder: Run folder (its best checkpoint) or checkpoint of a `gcode_encoder` with this run's split; needed by a
            new fit alone. Its network is copied: a checkpoint of this system needs no other.
        schedule: Builds the learning-rate schedule; ``None`` keeps the rate.
        schedule_interval: Whether the schedule counts optimizer steps or epochs.
        shape: Form of the decoder.
        losses: What is learned, and how.
        layout: Which heads answer: the ``flat`` one, as in the brief, or the ``heads`` of the fields.
        decoding: How lines are written by ``test`` and ``predict``; validation is greedy.
        conditioning: The operation that the decoder is told: the encoder's most probable one; the one whose ``program``
            that is, for a damaged tool runs the lines of a healthy one; the ``label``; or none.
        train_encoder: Train the encoder, too, with the loss of the operation.
        encoder_lr_ratio: Learning rate of the encoder over that of the decoder, where it is trained.
        memory_noise: Noise on the memory in training, in units of its deviation within a window: what the encoder says
            of windows that it was trained on is surer than of new ones.
        summary_of: Modalities of the channels that a summary of the window reads (see ``GcodeData.drop``); ``None`` is
            all.
        num_classes: Operations; ``None`` takes the data's, here and below.
        input_dim: Channels.
        categories: Values of each categorical column.
        vocab_size: Entries of the vocabulary.
        num_commands: Commands, at least the data's.
        num_params: Letters, at least the data's.
        max_tokens: Positions, at least the data's.
        digits: Digits of a number.
        encoder_config: Filled in: settings of the encoder's network as JSON, from which it is built again.
        vocabulary: Filled in: the vocabulary as JSON.
        summary_channels: Filled in: places of the channels of ``summary_of``.
        programs: Filled in: for each operation the one whose program it runs, for conditioning: program.
        decay_all: Decay norms, biases and embeddings, too.
        compile_net: Compile the network with ``torch.compile``.
    """

    PREDICTS: ClassVar[str] = "tokens"
    SIZES: ClassVar[tuple[str, ...]] = (
        *("num_classes", "input_dim", "categories", "vocab_size", "num_commands", "num_params", "max_tokens", "digits"),
    )
    FILLED_IN: ClassVar[tuple[str, ...]] = ("encoder_config", "vocabulary", "summary_channels", "programs")

    loss: TokenLoss

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        encoder: str | None = None,
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        shape: Shape = Shape(),  # noqa: B008  # frozen
        losses: Losses = Losses(),  # noqa: B008
        layout: Literal["flat", "heads"] = "heads",
        decoding: Decoding = Decoding(),  # noqa: B008
        conditioning: Literal["predicted", "program", "label", "none"] = "predicted",
        train_encoder: bool = False,
        encoder_lr_ratio: float = 0.1,
        memory_noise: float = 0.0,
        summary_of: list[str] | None = None,
        num_classes: int | None = None,
        input_dim: int | None = None,
        categories: list[int] | None = None,
        vocab_size: int | None = None,
        num_commands: int | None = None,
        num_params: int | None = None,
        max_tokens: int | None = None,
        digits: int | None = None,
        encoder_config: str | None = None,
        vocabulary: str | None = None,
        summary_channels: list[int] | None = None,
        programs: list[int] | None = None,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if memory_noise < 0 or encoder_lr_ratio <= 0:
            raise ValueError(f"need memory_noise >= 0 and encoder_lr_ratio > 0: {memory_noise}, {encoder_lr_ratio}")
        if memory_noise > 0 and not shape.cross_attention and shape.summary != "memory":
            raise ValueError("memory_noise needs a memory that is read: cross_attention, or summary: memory")
        if summary_of is not None and shape.summary != "window":
            raise ValueError("summary_of needs shape.summary: window")
        if not (shape.flat_head if layout == "flat" else shape.field_heads):
            raise ValueError(f"layout: {layout} needs shape.{'flat_head' if layout == 'flat' else 'field_heads'}: true")
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.shape, self.losses, self.layout, self.decoding = shape, losses, layout, decoding
        self.conditioning, self.train_encoder, self.memory_noise = conditioning, train_encoder, memory_noise
        self.encoder_lr_ratio, self.decay_all, self.compile_net = encoder_lr_ratio, decay_all, compile_net
        self.tables: TokenTables | None = None
        self.build_if_known()

    # building

    def build_if_known(self) -> None:
        """Build the network where sizes and encoder are known, and the tables where the vocabulary is."""
        chosen = self.hparams["summary_of"] is None or self.hparams["summary_channels"] is not None
        chosen = chosen and (self.conditioning != "program" or self.hparams["programs"] is not None)
        if chosen and (self.hparams["encoder"] is not None or self.hparams["encoder_config"] is not None):
            super().build_if_known()
        if self.net is not None and self.tables is None and self.hparams["vocabulary"] is not None:
            words = Vocabulary.from_state(json.loads(self.hparams["vocabulary"]))
            sizes = (self.hparams[name] for name in ("digits", "num_commands", "num_params"))
            self.tables = TokenTables(words, *sizes)

    def build(self) -> None:
        """Build both stages, the loss and the metrics; a new fit takes the encoder's weights from its run."""
        sizes = Sizes(**{name: self.hparams[name] for name in Sizes.__dataclass_fields__})
        stored = self.hparams["encoder_config"]
        run = read_encoder_run(self.hparams["encoder"]) if stored is None else None
        self.hparams["encoder_config"] = stored if run is None else run.settings
        encoder = build_from(self.hparams["encoder_config"], reconstruction=not self.train_encoder)
        for name, found in json.loads(self.hparams["encoder_config"]).items():
            if name in self.SIZES and not self.size_fits(name, self.hparams[name], found):
                raise ClassMapError(f"the encoder was built for {name} {found}, this run has {self.hparams[name]}: "
                                    "give both stages the same settings of data")  # fmt: skip
        if run is not None:
            own = encoder.state_dict()
            encoder.load_state_dict({name: x for name, x in run.weights.items() if name in own})
        decoder = build_decoder(
            sizes,
            encoder.memory_dim,
            self.hparams["summary_channels"] or range(self.hparams["input_dim"]),
            self.shape,
            self.conditioning != "none",
            self.losses.value > 0,
        )
        self.net = EncoderDecoder(encoder, decoder, self.train_encoder, self.hparams["programs"])
        self.loss = TokenLoss(self.losses, sizes.digits)
        heads = [name for name, weight in self.losses.weights(None).items() if self._has(name) and weight > 0]
        self.train_loss, self.val_loss = Mean(), Mean()
        further = [*heads, "operation"] if self.train_encoder else heads
        self.train_heads = nn.ModuleDict({f"loss_{name}": Mean() for name in further})
        judged = ("token_accuracy", "line_accuracy", "operation_accuracy")
        self.val_metrics = nn.ModuleDict({name: Mean() for name in judged})

    def _has(self, head: str) -> bool:
        return self.shape.flat_head if head == "flat" else self.shape.field_heads

    def setup(self, stage: str) -> None:
        """Take vocabulary and sizes from the data, build, and refuse an encoder that does not fit.

        Raises:
            ClassMapError: The encoder has another split, other operations or channels; or another vocabulary.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and stage != "predict":
            found, given = json.dumps(data.vocabulary.state()), self.hparams["vocabulary"]
            if given not in (None, found):
                raise ClassMapError("the vocabulary of the data is not the checkpoint's: use the data, split and "
                                    "tokens of its run, or train anew")  # fmt: skip
            self.hparams["vocabulary"] = found
        if self.hparams["summary_of"] is not None and self.hparams["summary_channels"] is None and data is not None:
            self.hparams["summary_channels"] = self._channels_of(data.channel_groups())
        if self.conditioning == "program" and self.hparams["programs"] is None and data is not None:
            self.hparams["programs"] = _programs(list(data.class_names), data.class_levels()["program"])
        named = self.hparams["encoder"] is not None and stage == "fit" and self.trainer.ckpt_path is None
        if named or (self.net is None and self.hparams["encoder_config"] is None):
            run = read_encoder_run(self.hparams["encoder"])
            if data is not None:
                self._check_encoder(run.path, run.split, {"operations": run.class_names, "channels": run.channels})
        super().setup(stage)
        summary = self.pair.decoder.summary
        if summary is not None and summary.bins and stage == "fit" and self.trainer.ckpt_path is None:
            values, _ = data.window_values(_spread(data.indices("train"), _FITTED_ON))  # type: ignore[union-attr]
            summary.fit(torch.as_tensor(values))
        if stage == "fit" and self.losses.class_weight != "none":
            counts = {name: torch.as_tensor(x) for name, x in data.field_counts().items()}  # type: ignore[union-attr]
            self.loss.use_counts(self._padded(counts))

    def _channels_of(self, groups: dict[str, list[int]]) -> list[int]:
        """Return the places of the channels that the summary reads."""
        wanted = self.hparams["summary_of"]
        if missing := [name for name in wanted if name not in groups]:
            raise ClassMapError(f"model.summary_of names {missing}, the data have {sorted(groups)}")
        return sorted({int(place) for name in wanted for place in groups[name]})

    def _check_encoder(self, path: object, split: str, names: dict[str, list[str]]) -> None:
        """Refuse an encoder that saw windows that this run judges, or whose classes or channels are others."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        hashes = [callback.state_dict().get("split_hash") for callback in self.trainer.callbacks]  # type: ignore[attr-defined]
        own = [found for found in hashes if found]
        if split and own and split not in own:
            raise ClassMapError(
                f"the encoder {path} was trained on another split, so it may have seen what is judged here: set "
                "--split.path to the split.csv in its run folder, or train an encoder on this split"
            )
        columns = getattr(data, "fitted_columns", None)
        ours = {"operations": list(data.class_names), "channels": list(columns.names) if columns is not None else []}
        for name, found in names.items():
            if found and ours[name] and found != ours[name]:
                raise ClassMapError(f"the encoder {path} has other {name} than the data: give both stages the same "
                                    "settings of data, or train an encoder on these")  # fmt: skip

    def _padded(self, counts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Counts as wide as the heads, which may be wider than the vocabulary."""
        wide = {"type": 4, "command": self.hparams["num_commands"], "param": self.hparams["num_params"]}
        return {name: F.pad(x, (0, wide[name] - len(x))) for name, x in counts.items() if self.shape.field_heads}

    def size_fits(self, name: str, given: Any, found: Any) -> bool:  # noqa: ANN401  # a number, or several
        """Tell whether a size that was given can take the data's."""
        if name in ("num_commands", "num_params", "max_tokens"):
            return bool(given >= found)
        return list(given) == list(found) if name == "categories" else bool(given == found)

    @property
    def pair(self) -> EncoderDecoder:
        """Both stages."""
        assert isinstance(self.net, EncoderDecoder)
        return self.net

    @property
    def data_seed(self) -> int:
        """Seed of the run, as the loaders use it."""
        return int(getattr(getattr(self.trainer, "datamodule", None), "seed", 0))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups; those of a trained encoder have a rate of their own."""
        if not self.train_encoder:
            return super().parameter_groups()
        lr = self.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"]
        own = {id(parameter) for parameter in self.pair.encoder.parameters()}
        groups = []
        for group in parameter_groups(self, self.decay_all):
            for name, inside, rate in (("decoder", False, lr), ("encoder", True, lr * self.encoder_lr_ratio)):
                chosen = [parameter for parameter in group["params"] if (id(parameter) in own) == inside]
                made = group | {"params": chosen, "lr": rate, "name": f"{name}_{group['name']}"}
                groups += [made] if chosen else []
        return groups

    # training

    def net_inputs(self, batch: Batch) -> Batch:
        """Return the inputs of the network: sensors, and the tokens before each place."""
        inputs = super().net_inputs(batch)
        tokens, fields = batch["y_tokens"], batch["y_fields"]
        inputs["tokens"] = F.pad(tokens[:, :-1], (1, 0), value=BOS)
        if self.shape.inputs == "fields":
            inputs["fields"] = F.pad(fields[:, :-1], (0, 0, 1, 0), value=-1)
        if self.shape.chain or self.shape.true_param:
            inputs["given"] = fields
        if self.conditioning == "label":
            inputs["operation"] = batch["y"]
        return inputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the exact mean loss of the global batch (see ``IndexBatch.weight``)."""
        inputs = self.net_inputs(batch)
        if self.memory_noise > 0:
            shape = (batch["continuous"].shape[1], self.pair.encoder.memory_dim)
            made = keyed_normal(batch["id"], shape, self.data_seed, self.current_epoch, _NOISE)  # type: ignore[arg-type]
            inputs["noise"] = self.memory_noise * made
        inputs = self._sampled(inputs, batch)
        outputs = self.pair(**inputs)
        epoch, real = self.current_epoch, (batch["weight"] > 0).float()
        parts = self.loss(outputs, batch["y_tokens"], batch["y_fields"], epoch)
        total = self.loss.total(parts, epoch)
        if self.train_encoder:
            y = batch["y"].clamp(min=-1)
            parts["operation"] = F.cross_entropy(outputs["operation"].float(), y, ignore_index=-1, reduction="none")
            total = total + self.losses.operation * parts["operation"]
        self.train_loss.update(total.detach(), real)
        for name, mean in self.train_heads.items():
            mean.update(parts[name.removeprefix("loss_")].detach(), real)  # type: ignore[operator]
        return (total * batch["weight"]).sum()

    def _sampled(self, inputs: Batch, batch: Batch) -> Batch:
        """Put guesses in place of some of the true tokens before each place, once the schedule says so."""
        if self.losses.teacher_forcing == 1:
            return inputs
        share = self.losses.true_share(self.global_step / max(1, int(self.trainer.estimated_stepping_batches)))
        with torch.no_grad():
            told = self.pair(**{name: x for name, x in inputs.items() if name != "given"})
        tokens, fields = forced_answers(told, self._tables(), self.layout)
        chosen = chosen_positions(batch["id"], tokens.shape[1], share, self.data_seed, self.current_epoch)
        inputs = inputs | {"tokens": sampled_inputs(inputs["tokens"], tokens, chosen)}
        if "fields" in inputs:
            inputs["fields"] = sampled_inputs(inputs["fields"], fields, chosen)
        return inputs

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Log the epoch's training losses after its last batch: callbacks have to see them."""
        if self.trainer.is_last_batch:
            self._log_epoch("train", {"loss": self.train_loss, **self.train_heads})

    # judging

    def judge(self, batch: Batch, decoding: Decoding) -> dict[str, Tensor]:
        """Tell the tokens of a batch, with the true ones before each and without; see :meth:`test_step`."""
        # not the compiled call: an evaluation has graphs of its own, and compiling them costs more than it saves
        net, tables, inputs = self.pair, self._tables(), self.net_inputs(batch)
        window = {name: inputs[name] for name in _WINDOW}
        context, operation = net.encode(**window, operation=inputs.get("operation"))
        hidden, _ = net.decoder.hidden(context, inputs["tokens"], inputs.get("fields"))
        outputs = net.decoder.heads(hidden, context["operation"], inputs.get("given"), self.shape.true_param)
        writer = Writer(net.decoder, tables, self.layout, decoding)
        free = writer.write(context, self.hparams["max_tokens"], batch["id"])
        tokens, fields = batch["y_tokens"], batch["y_fields"]
        raw = forced_answers(outputs, tables, self.layout, tidy=False)[1]
        found = {
            "id": batch["id"],
            "y": batch["y"],
            "prob": operation.float().softmax(1),
            "tokens": tokens,
            "fields": fields,
            "forced_tokens": outputs["flat"].argmax(-1) if "flat" in outputs else torch.full_like(tokens, -1),
            "forced_fields": raw,
            "log_prob": true_log_prob(outputs, tokens, fields, self.layout),
            **_written(free),
        }
        found["loss"] = self.loss.total(self.loss(outputs, tokens, fields, None), None)
        return found | self._anomaly(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Update the validation metrics; return the outputs of the batch, written greedily."""
        found = self.judge(batch, replace(self.decoding, method="greedy"))
        real = found["tokens"] != PAD
        has_line = real.any(1).float()
        self.val_loss.update(found.pop("loss"), has_line)
        right = {
            "token_accuracy": (right_tokens(found, self.layout), real.float()),
            "line_accuracy": (right_lines(found, self.layout), has_line),
            "operation_accuracy": (found["prob"].argmax(1) == batch["y"], (batch["y"] != -1).float()),
        }
        for name, (values, weight) in right.items():
            self.val_metrics[name].update(values.float(), weight)  # type: ignore[operator]
        return found

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_epoch("val", {"loss": self.val_loss, **self.val_metrics})

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return what was told of each window; the report computes all test metrics from the one file it stores.

        Returns:
            ``id``, ``y``, ``prob`` (B, classes) of the operation; ``tokens`` (B, L) and ``fields`` (B, L, F), the true
            line; with the true tokens before: ``forced_tokens`` (B, L) of the flat head, -1 where there is none,
            ``forced_fields`` (B, L, F) of each head, ``log_prob`` (B, L) of the true token; written freely:
            ``free_tokens`` (B, T), ``free_fields`` (B, T, F), ``free_log_prob`` (B, T); and ``anomaly`` (B,), the
            encoder's reconstruction error, where it has one. After the end: PAD, -1 and 0.
        """
        found = self.judge(batch, self.decoding)
        found.pop("loss")
        return found

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the line of each window, and its operation; see :meth:`test_step`."""
        found = self.test_step(batch, batch_idx)
        kept = ("id", "y", "prob", "free_tokens", "free_fields", "free_log_prob", "anomaly")
        return {name: found[name] for name in kept if name in found}

    def _anomaly(self, batch: Batch) -> dict[str, Tensor]:
        encoder: Any = self.pair.encoder
        if not getattr(encoder, "reconstructs", False):
            return {}
        return {"anomaly": encoder(*(batch[name] for name in _WINDOW))["error"]}

    def texts(self, found: dict[str, Tensor]) -> list[str]:
        """Return the lines that were written, as text."""
        words = self._tables().vocabulary
        if self.layout == "flat":
            return [words.decode(row) for row in found["free_tokens"].tolist()]
        return [words.from_fields(row) for row in found["free_fields"].cpu().numpy()]

    def export_axes(self, batches: list[Batch]) -> Axes:
        """Any number of windows, and of tokens, whether or not the samples differ in it."""
        names = self.net_inputs(batches[0])
        lengths = {"tokens", "fields", "given"}
        return {name: {0: "batch", 1: "length"} if name in lengths else {0: "batch"} for name in names}

    def export_answers(self, inputs: Batch) -> dict[str, Tensor]:
        """Return the probabilities of the operation, and of each head at each token of a line that is given."""
        outputs = self.pair(**inputs)
        heads = ("flat", "type", "command", "param", "sign", "digits")
        found = {name: outputs[name].float().softmax(-1) for name in heads if name in outputs}
        return {"prob": outputs["operation"].float().softmax(1)} | found

    def _tables(self) -> TokenTables:
        assert self.tables is not None
        return self.tables

    def _log_epoch(self, stage: str, metrics: dict[str, Any]) -> None:
        # every process takes part in compute(), so the values are equal and the mean over processes changes nothing
        values = {f"{stage}/{name}": metric.compute() for name, metric in metrics.items()}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        for metric in metrics.values():
            metric.reset()

    def describe(self) -> dict[str, Any]:
        """Return the live settings."""
        net = self.pair
        count = sum(parameter.numel() for parameter in net.decoder.parameters())
        return {
            "architecture": type(net.decoder).__name__,
            "encoder": type(net.encoder).__name__,
            "parameters": count,
            "encoder_frozen": not any(parameter.requires_grad for parameter in net.encoder.parameters()),
            "memory_noise": self.memory_noise,
            "conditioning": self.conditioning,
            "layout": self.layout,
            **vars(net.decoder.sizes),
            **vars(net.decoder.shape),
            **{f"loss_{name}": value for name, value in vars(self.loss.settings).items()},
            **{f"decoding_{name}": value for name, value in vars(self.decoding).items()},
        }


def _written(free: Written) -> dict[str, Tensor]:
    return {"free_tokens": free.tokens, "free_fields": free.fields, "free_log_prob": free.log_prob}


def _spread(indices: Any, count: int) -> Any:  # noqa: ANN401  # an array of numpy
    """At most so many of some indices, from all over them."""
    return indices[:: -(-len(indices) // count)] if len(indices) > count else indices


def _programs(names: list[str], programs: list[str]) -> list[int]:
    """For each operation the one that is named as its program, or itself."""
    return [names.index(program) if program in names else i for i, program in enumerate(programs)]
