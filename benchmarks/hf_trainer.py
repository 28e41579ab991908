"""``fit`` beside the ``Trainer`` of transformers: ``python -m benchmarks.hf_trainer --system papers [--data FILE]``.

Both train a copy of the system's own network, with its loss, parameter groups, schedule and clipping, on the same
papers for as many epochs, in one process and in turns of a few steps; batches are padded to their longest by the same
code. The optimizer is fused on both sides, the Trainer's default. The Trainer groups by length and does nothing else
that costs time: no logging, saving, judging, progress bar or search for NaN. ``fit`` has its shipped callbacks and
loggers; what it does between the epochs (validation, checkpoint) is not counted.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.common import epochs, measure, ratio, read_words, verdict
from benchmarks.rounds import copied, max_norm, stepping
from benchmarks.turns import Turns
from callbacks.report_files import write_json
from datamodules.samplers import Batch, IndexBatch
from modules.classifier import Classifier, logits_of

TARGET = 0.95
FUSED = "--model.init_args.optimizer.init_args.fused=true"


class Wrapped(nn.Module):
    """A network with its loss, as the Trainer calls it.

    Args:
        net: Network; its arguments are those of a batch.
        loss: Loss of each sample.
    """

    accepts_loss_kwargs = False  # or the Trainer would hand its own count of items to the network

    def __init__(self, net: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the mean loss and the logits."""
        logits = logits_of(self.net(**inputs))
        return {"loss": self.loss(logits, labels).mean(), "logits": logits}


class Rows(Dataset):
    """Rows of the records; of ``input_ids`` the Trainer reads only the length, to group by it.

    Args:
        rows: Rows.
        lengths: Tokens of each record.
    """

    def __init__(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        self.items = [{"row": int(row), "input_ids": range(int(lengths[row]))} for row in rows]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


class BesideTrainer(Callback):
    """In turns with each epoch of ``fit``, let the Trainer train a copy of the network; write both times.

    Args:
        out: JSON file for the figures.
        turn: Steps of a turn.
    """

    def __init__(self, out: str, turn: int = 8) -> None:
        self.out, self.turn = Path(out), turn
        self.turns: Turns | None = None
        self.places = {"fit": 0, "trainer": 0}  # tokens and padding that each side computed
        self.losses: list[float] = []
        self.trainer_loss = float("nan")
        self.trained = False

    def on_train_start(self, trainer: LightningTrainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Copy what will be trained, and let the Trainer wait for its turn."""
        self.turns = Turns("fit", "trainer", int(trainer.num_training_batches), self.turn, pl_module.device)
        beside = hugging_face(trainer, pl_module, self.turns, self.places, str(self.out.parent))

        def train() -> None:
            self.trainer_loss = beside.train().training_loss

        self.turns.run(train)

    def on_train_epoch_start(self, trainer: LightningTrainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Start the clock."""
        self.turns.begin("fit")
        self.trained = True

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: LightningTrainer, pl_module: Classifier, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Count the step."""
        self.places["fit"] += places(batch)
        self.turns.step("fit")

    def on_validation_start(self, trainer: LightningTrainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Stop the clock of the epoch: the first call after all that belongs to its last step."""
        if self.turns is not None and self.trained:
            self.turns.end("fit")
            self.trained = False

    def on_train_epoch_end(self, trainer: LightningTrainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Note the loss."""
        self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer: LightningTrainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Write the figures; the first epoch warms both up and is left out."""
        self.turns.finish()
        data = trainer.datamodule  # type: ignore[attr-defined]
        rows, seconds = data.indices("train"), self.turns.seconds
        real, count = int(data.lengths()[rows].sum()), len(seconds["fit"])
        rates = [a / b for a, b in zip(seconds["fit"][1:], seconds["trainer"][1:], strict=True)]
        figures = {
            "rounds": len(rates),
            "steps": self.turns.steps,
            "turn": self.turn,
            "batch_size": data.batch_size,
            "fit_seconds": median(seconds["fit"][1:]),
            "trainer_seconds": median(seconds["trainer"][1:]),
            "ratio": median(rates),
            "ratio_spread": [float(np.quantile(rates, q)) for q in (0.25, 0.75)],
            **{f"{side}_padding": 1 - count * real / found for side, found in self.places.items()},
            "fit_loss": mean(self.losses),
            "trainer_loss": self.trainer_loss,
        }
        write_json(self.out, figures)

    def on_exception(self, trainer: LightningTrainer, pl_module: Classifier, exception: BaseException) -> None:  # type: ignore[override]
        """Let the Trainer's thread end."""
        if self.turns is not None:
            self.turns.stop()


def hugging_face(
    trainer: LightningTrainer, system: Classifier, turns: Turns, counted: dict[str, int], folder: str
) -> Any:  # noqa: ANN401  # transformers is imported late
    """Build the Trainer of transformers for a copy of what ``fit`` trains.

    Args:
        trainer: Trainer of ``fit``.
        system: What it trains, before its first step.
        turns: What the Trainer tells its steps.
        counted: Tokens and padding by side, added to.
        folder: Folder that the Trainer may write to.
    """
    from dataclasses import fields

    from transformers import Trainer, TrainerCallback, TrainingArguments

    data = trainer.datamodule  # type: ignore[attr-defined]
    rows = data.indices("train")
    everything, net = data.dataset(rows, True), copied(system)
    optimizer, schedule = stepping(system, trainer, net[2])
    grouping = {"train_sampling_strategy": "group_by_length"}
    if "train_sampling_strategy" not in {field.name for field in fields(TrainingArguments)}:
        grouping = {"group_by_length": True}  # type: ignore[dict-item]  # its name in earlier releases

    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        chosen = [item["row"] for item in items]
        batch = everything.__getitems__(IndexBatch(chosen, len(chosen), 1 / len(chosen), 0, 0))
        counted["trainer"] += places(batch)
        return {"labels": batch["y"], **system.net_inputs(batch)}

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            turns.begin("trainer")

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            turns.step("trainer")

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            turns.end("trainer")

    settings = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=data.batch_size,
        num_train_epochs=trainer.max_epochs,
        max_grad_norm=max_norm(trainer) or 0.0,
        seed=data.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=system.device.type == "cpu",
        **grouping,
    )
    return Trainer(
        model=Wrapped(net[0], net[1]),
        args=settings,
        data_collator=collate,
        train_dataset=Rows(rows, data.lengths()),
        optimizers=(optimizer, schedule),
        callbacks=[Clock()],
    )


def places(batch: Batch) -> int:
    """Return the tokens of a batch with its padding."""
    return sum(x.numel() for name, x in batch.items() if name.endswith("_mask") and name != "keyword_mask")


def describe(found: dict) -> str:
    """The figures in a few lines, with the target beside them."""
    return "\n".join(
        [
            f"an epoch of {found['steps']} steps, in turns of {found['turn']}: fit {found['fit_seconds']:.2f} s, "
            f"Trainer grouped by length {found['trainer_seconds']:.2f} s",
            f"  {ratio(found)}; {verdict(found['ratio'], at_most=TARGET)}",
            f"  padding: fit {found['fit_padding']:.1%}, Trainer {found['trainer_padding']:.1%}; "
            f"mean training loss: fit {found['fit_loss']:.3f}, Trainer {found['trainer_loss']:.3f}",
        ]
    )


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and leave a record when asked."""
    given = read_words("benchmarks.hf_trainer", __doc__, ["papers"], 6, args)
    options = [f"--data.path={given.data.resolve()}"] if given.data else []
    with tempfile.TemporaryDirectory() as name:
        words = [*epochs(given.rounds + 1), FUSED, *options, *given.options]
        found = measure(given.configs, "benchmarks.hf_trainer.BesideTrainer", words, Path(name))
    print(describe(found))
    import accelerate
    import transformers

    versions = {"transformers": transformers.__version__, "accelerate": accelerate.__version__}
    figures = {**found, "target": TARGET, "versions": versions}
    given.keep("benchmarks.hf_trainer", ["benchmarks/turns.py"], figures)


if __name__ == "__main__":
    main()
