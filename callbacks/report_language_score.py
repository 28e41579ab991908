"""Run a language model over a part of the data once more, outside of the Trainer's loops, for its report."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from modules.perplexity import attention_use, slot_use

Loose = Any  # a Trainer, or a language system, known by its attributes only
LOOK_BATCHES = 8  # batches whose attention and read weights are looked at; they are large


@dataclass(frozen=True)
class Scored:
    """The loss of every label of a part, in the order of the text.

    Attributes:
        place: (N,) index of the label in the tokens of the part, rising. nll: (N,) nats. position: (N,) tokens of
            context inside the window. hidden: (N, W) states before the head where asked for.
    """

    place: np.ndarray
    nll: np.ndarray
    position: np.ndarray
    hidden: Tensor | None = None

    @classmethod
    def of(cls, outputs: Iterable[tuple[Tensor, Tensor, Tensor]], hidden: Iterable[Tensor] = ()) -> "Scored":
        """Put outputs (place, nll, position; -1 = no label) of any order into that of the text, each label once."""
        columns = [
            torch.cat([part.flatten().cpu() for part in column]).numpy() for column in zip(*outputs, strict=True)
        ]
        kept, first = np.unique(columns[0], return_index=True)
        first = first[kept >= 0]
        states = list(hidden)
        chosen = torch.cat(states)[torch.from_numpy(first).to(states[0].device)] if states else None
        return cls(columns[0][first], columns[1][first].astype(np.float64), columns[2][first], chosen)

    def by_document(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of each document (D,), and whether all of its labels were scored (D,).

        Args:
            starts: (D,) where each document of the part begins.
            lengths: (D,) labels of each document that take part in the loss.
        """
        document = np.searchsorted(starts, self.place, side="right") - 1
        found = np.bincount(document, minlength=len(starts))
        return np.bincount(document, self.nll, len(starts)), found == lengths


@contextmanager
def judged(trainer: Loose, module: Loose, memory: str = "on") -> Iterator[None]:
    """Put a system into the state in which it is judged, with the precision of the Trainer; put it back afterwards."""
    training, before = module.training, module.memory_mode
    module.eval()
    module.memory_mode = memory
    try:
        with torch.inference_mode(), trainer.precision_plugin.val_step_context():
            yield
    finally:
        module.memory_mode = before
        module.train(training)


def batches(module: Loose, loader: Iterable[Any], what: str) -> Iterator[Any]:
    """Yield the batches of a loader on the system's device; streams begin anew."""
    module.on_test_epoch_start()
    for batch in tqdm(loader, desc=what, disable=None, leave=False):
        yield {name: value.to(module.device, non_blocking=True) for name, value in batch.items()}
    module.on_test_epoch_start()


def score(
    trainer: Loose, module: Loose, loader: Iterable[Any], what: str, memory: str = "on", hidden: bool = False
) -> Scored:
    """Return the loss of every label that a loader gives.

    Args:
        trainer: For its precision.
        module: A language system.
        loader: Evaluation batches of a part.
        what: What is done, for the progress display.
        memory: ``on``, ``off`` or ``shuffled``.
        hidden: Keep the states before the head.
    """
    outputs, states = [], []
    with judged(trainer, module, memory):
        for batch in batches(module, loader, what):
            out = module.judge(batch)
            found = (batch["y_place"], out["nll"].float(), batch["y_position"])
            if hidden:  # only those of labels: with a short stride most positions are context
                real = batch["y_place"] >= 0
                found = (found[0][real], found[1][real], found[2][real])
                states.append(out["hidden"][real].float())
            outputs.append(found)
    return Scored.of(outputs, states)


def recall(trainer: Loose, module: Loose, loader: Iterable[Any], question: int, memory: str = "on") -> dict[str, float]:
    """Return how often the likeliest token after a question is the right one, how many were asked, and chance.

    Args:
        trainer: For its precision.
        module: A language system.
        loader: Evaluation batches of a part.
        question: Token that stands before an answer.
        memory: ``on``, ``off`` or ``shuffled``.
    """
    right, answers = [], []
    with judged(trainer, module, memory):
        for batch in batches(module, loader, f"questions, memory {memory}"):
            logits = module.judge(batch, extra=True)["logits"]
            asked = (batch["tokens"] == question) & (batch["y"] >= 0)
            right.append((logits.argmax(2) == batch["y"])[asked])
            answers.append(batch["y"][asked])
    labels = torch.cat(answers)
    share = torch.cat(right).float().mean().item()
    return {"accuracy": share, "asked": len(labels), "chance": 1 / max(1, len(labels.unique()))}


@dataclass(frozen=True)
class Looked:
    """What attention and memory did on some batches.

    Attributes:
        attention: Mean distance and entropy. slots: Figures of the memory's slots, empty without a memory.
        attention_map: (T, T) weights of the last layer, mean over heads, of one window. read_map: (T, S) read weights.
    """

    attention: dict[str, float]
    slots: dict[str, float]
    attention_map: np.ndarray | None
    read_map: np.ndarray | None


def look(trainer: Loose, module: Loose, loader: Iterable[Any]) -> Looked:
    """Look at the weights of attention and of the memory's reads on the first batches of a loader."""
    uses: list[dict[str, float]] = []
    reads, written, overwritten, importance = [], [], [], []
    attention_map, read_map, used = None, None, None
    with judged(trainer, module):
        for number, batch in enumerate(batches(module, loader, "looking at attention and slots")):
            if number == LOOK_BATCHES:
                break
            out = module.judge(batch, look=True)
            real = batch["y_place"] >= 0
            full = real.all(1)
            if "attention" in out and full.any():
                weights = out["attention"][:, full].float()
                uses.append(attention_use(weights.cpu().numpy()))
                attention_map = weights[-1, 0].mean(0).cpu().numpy()
            if "slots" in out:
                now = out["state"]["importance"] > 0
                fresh = now & (out["state"]["age"] == 0)
                reads.append((out["slots"].float() * real.unsqueeze(2)).sum((0, 1)))
                live = real.any(1) & ~batch["starts"].any(1)  # the first segment of a document has nothing to write
                if used is not None and live.any():
                    written.append(fresh[live].float().mean(0))
                    overwritten.append((fresh & used)[live].float().mean(0))
                    importance.append(out["state"]["importance"][live].cpu().numpy())
                used = now
                read_map = out["slots"][int(real.sum(1).argmax())].float().cpu().numpy()
    attention = {name: float(np.mean([use[name] for use in uses])) for name in uses[0]} if uses else {}
    slots = {}
    if importance:
        mass = torch.stack(reads).sum(0).cpu().numpy()
        slots = slot_use(mass, torch.stack(written).mean(0).cpu().numpy(), np.concatenate(importance))
        slots["overwritten_share"] = float(torch.stack(overwritten).mean())
    return Looked(attention, slots, attention_map, read_map)
