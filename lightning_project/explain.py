"""The verb `explain`: for each paper the two most probable classes, and what the network looked at."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.func import functional_call

from callbacks.report_files import write_json, write_text
from datamodules.base import SplitDataModule
from lightning_project.exits import UsageError
from lightning_project.explain_page import page, terminal
from lightning_project.predictions import take_sizes

if TYPE_CHECKING:
    from modules.base import System

TOP = 8  # words of each field that are listed; the page shows them all
_SPECIAL = {"[CLS]", "[SEP]", "[PAD]", "[MASK]", "<s>", "</s>", "<pad>", "<mask>"}
_SPACE = ("Ġ", "▁")  # at the start of a word, where a tokenizer keeps the space before it


def explain(
    self: Trainer, model: "System", datamodule: SplitDataModule, ckpt_path: str | None = None, limit: int = 20
) -> None:
    """Show what the network looked at: weights of words and keywords, beside the two most probable classes.

    Writes explain/explanations.json and explain/explanations.html. The papers are those of --data.predict_path, or of
    a part of the run's own split (--data.predict_part val).

    Args:
        self: The Trainer.
        model: A system whose network tells its attention.
        datamodule: Data that tell the words of a record.
        ckpt_path: Checkpoint.
        limit: Papers at most.

    Raises:
        UsageError: A system without attention over words, or a limit below one.
    """
    if limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}")
    if not hasattr(datamodule, "explain_words"):
        raise UsageError(f"{type(datamodule).__name__} has no words to explain; explain works on papers")
    if self.world_size > 1:
        raise UsageError("explain runs in one process: add --trainer.devices 1")
    take_sizes(model, datamodule)
    collect = Looks(limit)
    self.callbacks.insert(0, collect)  # type: ignore[attr-defined]
    self.predict(model, datamodule, ckpt_path=ckpt_path, return_predictions=False)
    found = [_explained(look, datamodule, model.class_names) for look in sorted(collect.looks, key=lambda x: x["row"])]
    folder = Path(self.default_root_dir) / "explain"
    print(terminal(found))
    written = [
        write_json(folder / "explanations.json", {"papers": found}),
        write_text(folder / "explanations.html", page(found)),
    ]
    print("written:\n" + "\n".join(f"  {path}" for path in written))


class Looks(Callback):
    """Keeps probabilities and attention of the first samples that are predicted.

    Args:
        limit: Samples at most, those with the lowest record numbers.

    Attributes:
        looks: One dict per sample: row, prob (C,), weights by field, keyword_ids.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.looks = limit, list[dict[str, Any]]()

    def on_predict_start(self, trainer: Trainer, pl_module: "System") -> None:  # type: ignore[override]
        """Refuse a network that does not tell where it looks."""
        if not hasattr(pl_module.net, "attention"):
            raise UsageError(f"{type(pl_module.net).__name__} has no attention to show; explain works on papers")

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Look at a batch, through the weights that its probabilities come from."""
        inputs = pl_module.net_inputs(batch)
        with torch.no_grad():
            weights = _attention(pl_module, inputs)
        masks = {name: inputs[f"{name}_mask"].cpu() for name in weights if name != "keywords"}
        for i, row in enumerate(outputs["id"].tolist()):
            if row < 0:  # fills a batch up
                continue
            look: dict[str, Any] = {"row": row, "prob": outputs["prob"][i].float().cpu().tolist(), "fields": {}}
            for name, mask in masks.items():
                look["fields"][name] = weights[name][i][mask[i]].tolist()
            if "keywords" in weights:
                real = inputs["keyword_mask"][i].cpu()
                ids, shares = inputs["keyword_ids"][i].cpu()[real], weights["keywords"][i][real]
                look["keywords"] = list(zip(ids.tolist(), shares.tolist(), strict=True))
            self.looks.append(look)
        self.looks = sorted(self.looks, key=lambda look: look["row"])[: self.limit]


class _Asked(nn.Module):
    """A network that answers with its attention."""

    def __init__(self, net: Any) -> None:  # noqa: ANN401  # a network with the method attention
        super().__init__()
        self.net = net

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights by field."""
        return self.net.attention(**inputs)


def _attention(system: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # noqa: ANN401  # a System
    """Return the weights by field, on the CPU: of the network, or the mean over the members whose mean is predicted."""
    asked = _Asked(system.net)
    each = [functional_call(asked, weights, (inputs,)) for weights in getattr(system, "members", None) or [{}]]
    return {name: torch.stack([found[name].float().cpu() for found in each]).mean(0) for name in each[0]}


def _explained(look: dict[str, Any], data: Any, class_names: list[str]) -> dict[str, Any]:  # noqa: ANN401  # a SplitDataModule with words
    record = data.records.iloc[look["row"]]
    order = sorted(range(len(class_names)), key=lambda i: -look["prob"][i])[:2]
    found: dict[str, Any] = {"id": str(record["id"]), "title": str(record.get("title", ""))}
    found["answers"] = [{"class": class_names[i], "probability": look["prob"][i]} for i in order]
    found["fields"] = {}
    words = data.explain_words(look["row"]) if look["fields"] else {}
    for name, weights in look["fields"].items():
        joined = join(words[name], weights)
        top = sorted((each for each in joined if not each["special"]), key=lambda each: -each["weight"])[:TOP]
        found["fields"][name] = {"words": joined, "top": [{k: each[k] for k in ("word", "weight")} for each in top]}
    if "keywords" in look:
        names = data.keyword_words()
        ranked = sorted(look["keywords"], key=lambda each: -each[1])
        found["keywords"] = [{"word": names[i], "weight": weight} for i, weight in ranked]
    return found


def join(pieces: list[str], weights: list[float]) -> list[dict[str, Any]]:
    """Join word pieces to words; the weight of a word is the sum of those of its pieces.

    Args:
        pieces: T token strings, of any of the usual tokenizers (``##ing``, ``Ġnew``, ``▁new``).
        weights: T weights, sum 1.

    Returns:
        One dict per word: word, weight, special (a token of the tokenizer's own).

    Raises:
        ValueError: The two differ in length.
    """
    if len(pieces) != len(weights):
        raise ValueError(f"{len(pieces)} tokens do not fit {len(weights)} weights")
    spaced = any(piece.startswith(_SPACE) for piece in pieces)
    words: list[dict[str, Any]] = []
    for piece, weight in zip(pieces, weights, strict=True):
        special = piece in _SPECIAL
        inside = piece.startswith("##") or (spaced and not special and not piece.startswith(_SPACE))
        text = piece.removeprefix("##").lstrip("".join(_SPACE))
        if inside and words and not words[-1]["special"]:
            words[-1]["word"] += text
            words[-1]["weight"] += weight
        else:
            words.append({"word": text, "weight": weight, "special": special})
    return words
