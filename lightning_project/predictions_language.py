"""The verb `predict` of a language model: what each document costs, one row a document."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.report_files import write_csv


class CollectLosses(Callback):
    """Adds up the loss of each document, over all processes."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, Tensor]] = []
        self.document = np.empty(0, np.int64)
        self.nll = np.empty(0)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Keep a batch."""
        self.rows.append((outputs["document"], outputs["nll"]))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Gather the labels of all processes."""
        mine = [torch.cat([part.flatten() for part in column]).cpu().numpy() for column in zip(*self.rows, strict=True)]
        parts: list = [mine]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, mine)
        document, nll = (np.concatenate(column) for column in zip(*parts, strict=True))
        self.document, self.nll = document[document >= 0], nll[document >= 0].astype(np.float64)


def write_losses_of(trainer: Trainer, folder: Path, model: Any, datamodule: Any, ckpt_path: str) -> None:  # noqa: ANN401
    """Score documents and write `predict/predictions.csv` into the run folder.

    Columns: id, n_tokens, n_words (with one end of line a line), n_bytes, nll (nats), perplexity, word_perplexity.

    Args:
        trainer: Trainer.
        folder: Run folder.
        model: Language system.
        datamodule: Data with something to score.
        ckpt_path: Checkpoint.
    """
    collect = CollectLosses()
    trainer.callbacks.insert(0, collect)  # type: ignore[attr-defined]
    trainer.predict(model, datamodule, ckpt_path=ckpt_path, return_predictions=False)
    if not trainer.is_global_zero:
        return
    scored, tokens = np.unique(collect.document, return_counts=True)
    nll = np.bincount(collect.document, collect.nll)[scored]
    table = datamodule.records[["id", "n_words", "n_bytes"]].iloc[scored].reset_index(drop=True)
    table.insert(1, "n_tokens", tokens)
    with np.errstate(over="ignore"):  # a perplexity may be beyond all numbers where a word has many tokens
        per = {"perplexity": np.exp(nll / tokens), "word_perplexity": np.exp(nll / table["n_words"].to_numpy())}
    path = folder / "predict" / "predictions.csv"
    write_csv(path, pd.concat([table, pd.DataFrame({"nll": nll, **per})], axis=1))
    print(f"written: {path} ({len(table)} documents)")
