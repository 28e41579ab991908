"""Samples of text while a language model learns: a file in the run folder, and a table in W&B."""

import json
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger

from callbacks.report_files import write_text
from modules.continuing import Vocabulary, continue_texts
from modules.decoding import Text
from modules.generation import Sampling

PROMPTS = ("The city of", "Once upon a time", "In the year", "The scientist looked at the data and realized")


class Generation(pl.Callback):
    """Continue the same prompts after each validation of a fit, into ``samples.jsonl`` and the W&B table ``samples``.

    The draws have random numbers of their own: training goes on as it would have without this callback.

    Args:
        prompts: Prompts.
        sampling: How to choose tokens.
        max_new_tokens: Tokens of a sample at most.
        every_n_epochs: Epochs between samples.
        seed: Seed of the draws, the same each time.

    Raises:
        ValueError: For no prompts, or numbers below 1.
    """

    def __init__(
        self,
        prompts: tuple[str, ...] = PROMPTS,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        max_new_tokens: int = 60,
        every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        if not prompts or max_new_tokens < 1 or every_n_epochs < 1:
            raise ValueError("generation needs a prompt, and max_new_tokens and every_n_epochs of at least 1")
        self.prompts, self.sampling, self.max_new_tokens = prompts, sampling, max_new_tokens
        self.every_n_epochs, self.seed = every_n_epochs, seed
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the samples of a run that is resumed, but for those of epochs that come again."""
        path = _path(trainer)
        # `splitlines` would cut at further characters, such as U+2028, that a text may hold
        kept = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        self.rows = [row for row in map(json.loads, filter(None, kept)) if row["epoch"] < trainer.current_epoch]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the samples; all processes do, for a network may lie in shards."""
        if not trainer.state.fn == "fit" or trainer.sanity_checking or trainer.current_epoch % self.every_n_epochs:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        tokenizer, vocabulary = data.tokenizer, Vocabulary.of(data.tokenizer)
        texts = [
            Text.make(
                *(i, [tokenizer.eos_id, *tokenizer.encode(prompt).tolist()], self.sampling, self.max_new_tokens),
                *(self.seed, vocabulary.decode),
            )
            for i, prompt in enumerate(self.prompts)
        ]
        continue_texts(pl_module.net, texts, data.window, vocabulary.end)
        self.rows = [row for row in self.rows if row["epoch"] != trainer.current_epoch]
        self.rows += [
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "prompt": prompt,
                "text": text.written.text,
                "off_likeliest": text.off_likeliest / max(1, len(text.tokens)),
            }
            for prompt, text in zip(self.prompts, texts, strict=True)
        ]
        if trainer.is_global_zero:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows]
            write_text(_path(trainer), "".join(lines))
            self._send(trainer)

    def _send(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            if not isinstance(logger, WandbLogger):
                continue
            try:
                columns = list(self.rows[0])
                logger.log_table(
                    "samples", columns=columns, data=[[row[name] for name in columns] for row in self.rows]
                )
            except Exception as error:  # a dead server must not end a fit; the samples are in the file
                warnings.warn(f"samples were not sent to W&B ({type(error).__name__}: {error})", stacklevel=2)


def _path(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "samples.jsonl"
