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
    """What attention and memory did.

    Attributes:
        attention: Mean distance and entropy. slots: Figures of the memory's slots, empty where nothing was written.
        attention_map: (T, T) weights of the last layer, mean over heads, of one window. read_map: (T, S) read weights
            of the window that read most.
    """

    attention: dict[str, float]
    slots: dict[str, float]
    attention_map: np.ndarray | None
    read_map: np.ndarray | None


def look(trainer: Loose, module: Loose, loader: Any) -> Looked:  # noqa: ANN401  # batches of a part, with a length
    """Look at what attention and memory do on a part.

    Writes are followed through all of it: a memory of many slots fills late in a document. The weights of attention and
    of reads are large, so they come from :data:`LOOK_BATCHES` batches, spread evenly because the longest documents
    stand first.
    """
    chosen = set(np.linspace(0, len(loader) - 1, min(LOOK_BATCHES, len(loader))).round().astype(int).tolist())
    remembers = getattr(module.net, "memory", None) is not None
    weights, writes = Weights(), Writes()
    with judged(trainer, module):
        for number, batch in enumerate(batches(module, loader, "looking at attention and slots")):
            if number not in chosen and not remembers:
                continue  # nothing is carried on
            out = module.judge(batch, look=number in chosen)
            if number in chosen:
                weights.take(out, batch["y_place"] >= 0)
            if remembers:
                writes.take(out["state"], batch)
    return Looked(weights.attention(), writes.figures(weights.reads), weights.attention_map, weights.read_map)


class Weights:
    """The weights of attention and of reads in the batches that are looked at.

    Attributes:
        reads: (S,) read mass of each slot. attention_map, read_map: See :class:`Looked`.
    """

    def __init__(self) -> None:
        self.reads: np.ndarray | None = None
        self.attention_map: np.ndarray | None = None
        self.read_map: np.ndarray | None = None
        self._most = 0.0
        self._uses: list[dict[str, float]] = []
        self._windows: list[int] = []

    def take(self, out: dict[str, Tensor], real: Tensor) -> None:
        """Take the outputs for a batch; real (B, T) are the places whose labels count."""
        full = real[:, -1]  # labels that only give context stand before those that count
        if "attention" in out and full.any():
            weights = out["attention"][:, full].float()
            self._uses.append(attention_use(weights.cpu().numpy()))
            self._windows.append(weights.shape[1])
            self.attention_map = weights[-1, 0].mean(0).cpu().numpy()
        if "slots" in out:
            weights = out["slots"].float() * real.unsqueeze(2)
            mass = weights.sum((0, 1)).cpu().numpy()
            self.reads = mass if self.reads is None else self.reads + mass
            read, row = weights.sum((1, 2)).max(0)
            if self.read_map is None or read.item() > self._most:
                self._most, self.read_map = read.item(), out["slots"][int(row)].float().cpu().numpy()

    def attention(self) -> dict[str, float]:
        """Return the mean distance and entropy over all windows that were full."""
        names = self._uses[0] if self._uses else {}
        return {name: float(np.average([use[name] for use in self._uses], weights=self._windows)) for name in names}


class Writes:
    """What each segment writes into the memory of its document."""

    def __init__(self) -> None:
        self._before: Tensor | None = None  # (B, S) slots that the next segment finds in use
        self._written: list[np.ndarray] = []
        self._overwritten: list[np.ndarray] = []
        self._importance: list[np.ndarray] = []

    def take(self, state: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Take the state after a batch, whose slots hold what the segment before it left."""
        used = state["importance"] > 0
        fresh = used & (state["age"] == 0)
        live = (batch["y_place"] >= 0).any(1) & ~batch["starts"].any(1)  # a document's first segment has none before it
        if self._before is not None:
            self._written.append(fresh[live].cpu().numpy())
            self._overwritten.append((fresh & self._before)[live].cpu().numpy())
            self._importance.append(state["importance"][used & live.unsqueeze(1)].cpu().numpy())
        self._before = used & ~state["reset"].unsqueeze(1)  # a new document empties them before it writes

    def figures(self, reads: np.ndarray | None) -> dict[str, float]:
        """Return the figures of the slots, with the reads (S,); none where nothing was written."""
        importance = np.concatenate(self._importance) if self._importance else np.empty(0)
        if reads is None or not len(importance):
            return {}
        found = slot_use(reads, np.concatenate(self._written), importance)
        return found | {"overwritten_share": float(np.concatenate(self._overwritten).mean())}
