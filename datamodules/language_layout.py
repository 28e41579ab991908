"""Which tokens make which batch: shuffled windows, streams, or documents in lockstep (pure).

A layout is a table of windows, one row a batch and one column a row of the batch. Every label stands in exactly one
window as one that counts, but for those that a document only gives as context.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.samplers import Batch, BatchSampler, IndexBatch

Order = Literal["windows", "streams", "documents"]
IGNORE = -1


@dataclass(frozen=True)
class Corpus:
    """The labels of a part, document after document.

    Attributes:
        labels: (N,) token ids.
        starts: (D,) place of each document's first label.
        documents: (D,) records.
        eos: First input of a document.
        context: (D,) leading labels of each document that are read and not scored, such as a prompt; ``None`` = 0.
    """

    labels: np.ndarray
    starts: np.ndarray
    documents: np.ndarray
    eos: int
    context: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """(D,) labels of each document."""
        return np.diff(np.append(self.starts, len(self.labels)))

    @property
    def scored(self) -> np.ndarray:
        """(N,) bool, labels that take part in a loss."""
        if self.context is None:
            return np.ones(len(self.labels), bool)
        return np.arange(len(self.labels)) >= np.repeat(self.starts + self.context, self.lengths)


@dataclass(frozen=True)
class Layout:
    """One epoch.

    Attributes:
        place: (N,) place in the corpus of each label, in the order of this epoch.
        first: (batches, rows) position of a window's first label in that order.
        length: (batches, rows) labels of a window; 0 = none.
        skip: (batches, rows) leading labels of a window that are context only.
        opens: (N,) bool, True where a document begins.
    """

    place: np.ndarray
    first: np.ndarray
    length: np.ndarray
    skip: np.ndarray
    opens: np.ndarray

    def counted(self, scored: np.ndarray) -> np.ndarray:
        """Return how many labels of each batch count (batches,), of those that are scored (N,)."""
        before = np.append(0, np.cumsum(scored[self.place]))
        return (before[self.first + self.length] - before[self.first + self.skip]).sum(1)


def train_layout(corpus: Corpus, order: Order, window: int, rows: int, seed: int, epoch: int) -> Layout:
    """Lay out an epoch of training: documents in a new order, end to end.

    ``windows`` cuts every ``window`` labels and shuffles the pieces; ``streams`` cuts into ``rows`` equal streams,
    which are read side by side. The tail is a shorter window. ``documents`` gives each document a row of its own.

    Args:
        corpus: The training part.
        order: Which of them.
        window: Labels of a window.
        rows: Windows of a batch, over all processes.
        seed: With ``epoch`` the only source of randomness.
        epoch: Epoch, from 0.
    """
    rng = np.random.default_rng([seed, epoch])
    turn = rng.permutation(len(corpus.starts))
    if order == "documents":
        return _side_by_side(corpus, turn, window, window, rows)
    lengths = corpus.lengths[turn]
    ends = np.cumsum(lengths)
    place = np.repeat(corpus.starts[turn] - (ends - lengths), lengths) + np.arange(len(corpus.labels))
    opens = np.zeros(len(place), bool)
    opens[ends - lengths] = True
    total = len(place)
    if order == "windows":
        first = rng.permutation(-(-total // window)) * window
        first = np.concatenate([first, np.full(-len(first) % rows, total)]).reshape(-1, rows)
        length = np.clip(total - first, 0, window)
    else:
        stream = -(-total // rows)
        begin = np.minimum(np.arange(rows) * stream, total)
        end = np.minimum(begin + stream, total)
        first = np.minimum(begin + np.arange(-(-stream // window))[:, None] * window, end)
        length = np.minimum(end - first, window)
    return Layout(place, first, length, np.zeros_like(first), opens)


def judge_layout(corpus: Corpus, window: int, stride: int, rows: int) -> Layout:
    """Lay out an evaluation: each document in a row of its own, documents of similar length side by side.

    The first window of a document counts whole; each further one begins ``stride`` later and counts what is new.

    Args:
        corpus: The part.
        window: Labels of a window.
        stride: Labels by which a window moves on, at most ``window``.
        rows: Documents side by side, over all processes.
    """
    return _side_by_side(corpus, np.argsort(-corpus.lengths, kind="stable"), window, stride, rows)


def _side_by_side(corpus: Corpus, turn: np.ndarray, window: int, stride: int, rows: int) -> Layout:
    """Lay out documents in this order, each in a row of its own, the next ones when all of a batch are read."""
    lengths, place = corpus.lengths, np.arange(len(corpus.labels))
    steps = np.maximum(0, -(-(lengths - window) // stride)) + 1
    tables = []
    for group in range(0, len(turn), rows):
        ids = turn[group : group + rows]
        ids = np.concatenate([ids, np.full(rows - len(ids), -1)])
        count = np.where(ids >= 0, steps[ids], 0)
        step = np.arange(int(count.max()))[:, None]
        there = step < count
        begin = np.where(ids >= 0, corpus.starts[ids], 0)
        first = np.where(there, begin + step * stride, 0)
        length = np.where(there, np.minimum(begin + lengths[ids] - first, window), 0)
        skip = np.where(there & (step > 0), window - stride, 0)
        tables.append((first, length, skip))
    first, length, skip = (np.concatenate(column) for column in zip(*tables, strict=True))
    opens = np.zeros(len(place), bool)
    opens[corpus.starts] = True
    return Layout(place, first, length, skip, opens)


class TextBatches(Dataset[Batch]):
    """Makes the batches of a part.

    Args:
        corpus: The part.
        window: Labels of a window.
        stride: Labels by which a window of an evaluation moves on.
        rows: Rows of a batch, over all processes.
        order: Order of training; ``None`` is an evaluation.
        seed: Seed of the order.
    """

    def __init__(self, corpus: Corpus, window: int, stride: int, rows: int, order: Order | None, seed: int) -> None:
        self.corpus, self.window, self.stride, self.rows = corpus, window, stride, rows
        self.order, self.seed = order, seed
        self.scored = corpus.scored
        self._document = np.repeat(np.arange(len(corpus.starts)), corpus.lengths)
        self.layout = lru_cache(1)(self._layout)

    def _layout(self, epoch: int) -> Layout:
        if self.order is None:
            return judge_layout(self.corpus, self.window, self.stride, self.rows)
        return train_layout(self.corpus, self.order, self.window, self.rows, self.seed, epoch)

    def __getstate__(self) -> dict[str, object]:
        """Leave the kept layout behind: a worker makes its own."""
        return {name: value for name, value in vars(self).items() if name != "layout"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take the settings."""
        vars(self).update(state)
        self.layout = lru_cache(1)(self._layout)

    def __getitem__(self, index: int) -> Batch:
        """Return the first window of a column, alone."""
        return self.__getitems__(IndexBatch([index], 1, 1.0, 0, 0))

    def __getitems__(self, part: IndexBatch) -> Batch:
        """Return a process's rows of a batch; ``id`` is the record that a row's first label belongs to.

        Args:
            part: Columns of the layout, the step, and the weight of a label.
        """
        layout, columns = self.layout(part.epoch if self.order else 0), part.indices
        real = np.arange(len(columns)) < part.real
        first, length, skip = (
            np.where(real, table[part.step, columns], 0)[:, None]
            for table in (layout.first, layout.length, layout.skip)
        )
        step = np.arange(self.window)
        there, counts = step < length, (step >= skip) & (step < length)
        position = np.where(there, first + step, 0)
        where, starts = layout.place[position], layout.opens[position] & there
        labels = self.corpus.labels
        tokens = np.where(there & ~starts, labels[where - 1], self.corpus.eos)
        counts &= self.scored[where]
        y, place = np.where(counts, labels[where], IGNORE), np.where(counts, where, IGNORE)
        write = there & (step < (self.window if self.order else self.stride))
        batch = {
            "id": np.where(there[:, 0], self.corpus.documents[self._document[where[:, 0]]], IGNORE),
            "tokens": tokens.astype(np.int64),
            "starts": starts,
            "write": write,
            "y": y.astype(np.int64),
            "weight": np.full(len(columns), part.weight, np.float32),
        }
        if self.order is None:
            document = np.where(place >= 0, self.corpus.documents[self._document[place]], IGNORE)
            position = np.where(place >= 0, np.arange(1, self.window + 1), 0)
            batch |= {"y_place": place, "y_document": document, "y_position": position}
        return {name: torch.from_numpy(value) for name, value in batch.items()}


class TextSampler(BatchSampler):
    """This process's columns of each batch of an epoch, from any position on.

    Args:
        batches: What makes the batches.
        rank: This process.
        world_size: Number of processes.
        accumulate: Batches per optimizer step, for exact weights.
    """

    def __init__(self, batches: TextBatches, rank: int, world_size: int, accumulate: int) -> None:
        super().__init__(
            np.arange(batches.rows),
            batches.rows,
            seed=batches.seed,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
        )
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches.layout(self.epoch).first)

    def __iter__(self) -> Iterator[IndexBatch]:
        layout = self.batches.layout(self.epoch)
        counted = layout.counted(self.batches.scored)
        columns = list(range(self.rank, self.batches.rows, self.world_size))
        rows = -(-self.batches.rows // self.world_size)  # every process the same number
        padded = columns + [0] * (rows - len(columns))
        for step in range(self.start, len(layout.first)):
            group = step - step % self.accumulate
            count = int(counted[group : group + self.accumulate].sum())
            weight = self.world_size * self.accumulate / max(1, count)
            yield IndexBatch(padded, len(columns), weight, self.epoch, step)
