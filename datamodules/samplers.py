"""Which samples make which batch: a pure function of (seed, epoch), and a loader that resumes in mid-epoch.

A batch size is global. Every process plans the same global batches and takes its share of each, so that one process and
several train on the same batches, and every sample is judged exactly once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.curriculum import Curriculum

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class IndexBatch:
    """One process's share of a global batch; what a dataset's ``__getitems__`` receives.

    Attributes:
        indices: Rows of the records; those from ``real`` on are padding rows that keep the processes in step.
        real: Number of leading rows that count.
        weight: Training weight of a real row: the sum of weighted losses is the exact mean over all processes and
            accumulated batches, once Lightning has averaged them.
        epoch: Epoch, for augmentation keyed by (seed, epoch, index).
        step: Position of the batch in the epoch.
    """

    indices: list[int]
    real: int
    weight: float
    epoch: int
    step: int


def plan_batches(
    indices: np.ndarray,
    *,
    batch_size: int,
    lengths: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    window: int = 20,
    easy: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Cut one epoch into global batches; only the last one may be smaller.

    Args:
        indices: Rows of the records (n,).
        batch_size: Global batch size.
        lengths: Real length of each row (n,): batches of similar length, which pads less. Training sorts within windows
            of ``window`` shuffled batches, so that the order stays random; judging sorts all.
        weights: Draw n rows with replacement, in proportion to these (n,); ``None`` visits each row once.
        shuffle: A new order each epoch.
        seed: With ``epoch`` the only source of randomness.
        epoch: Epoch, from 0.
        window: Batches that are sorted together.
        easy: Rows that take part (n,), for training only; ``None`` is all. They are repeated, one complete permutation
            after another, until n are drawn: a Trainer counts the batches of an epoch once, before the first.
    """
    rng = np.random.default_rng([seed, epoch])
    order = np.arange(len(indices))
    chosen = order if easy is None else np.flatnonzero(easy)
    if weights is not None:
        share = weights[chosen] / weights[chosen].sum()
        order = chosen[rng.choice(len(chosen), size=len(indices), p=share)]
    elif shuffle:
        rounds = max(1, -(-len(indices) // max(1, len(chosen))))
        order = np.concatenate([chosen[rng.permutation(len(chosen))] for _ in range(rounds)])[: len(indices)]
    if lengths is not None:
        span = window * batch_size if shuffle else max(1, len(order))
        chunks = [order[start : start + span] for start in range(0, len(order), span)]
        order = np.concatenate([chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks] or [order])
    batches = [indices[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    if lengths is not None and shuffle and len(batches) > 1:
        # shuffle the batches too, or each window would go from short to long; a smaller last one stays last
        full = len(batches) - (len(batches[-1]) < batch_size)
        batches = [batches[i] for i in rng.permutation(full)] + batches[full:]
    return batches


class BatchSampler(Sampler[IndexBatch]):
    """This process's share of each global batch of an epoch, from any position on.

    Args:
        indices: Rows of the records (n,).
        batch_size: Global batch size, over all processes.
        lengths: See :func:`plan_batches`.
        weights: See :func:`plan_batches`.
        shuffle: A new order each epoch.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
        accumulate: Batches per optimizer step, for exact training weights.
        curriculum: How much of each class an epoch draws from; ``None`` is all of it.
        ranks: Rank of each row by difficulty within its class (n,), for the curriculum.
    """

    def __init__(
        self,
        indices: np.ndarray,
        batch_size: int,
        lengths: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        curriculum: Curriculum | None = None,
        ranks: np.ndarray | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.indices, self.batch_size, self.lengths, self.weights = indices, batch_size, lengths, weights
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.accumulate, self.curriculum, self.ranks = accumulate, curriculum, ranks
        self.epoch = 0
        self._resume = (0, 0)  # epoch, and the batches of it that were already seen

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (called by the Trainer)."""
        self.epoch = epoch

    def resume(self, epoch: int, position: int) -> None:
        """Leave out the first batches of one epoch, and of no other."""
        self._resume = (epoch, position)

    @property
    def start(self) -> int:
        """Position of the first batch that an iteration over this epoch gives."""
        epoch, position = self._resume
        return position if epoch == self.epoch else 0

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[IndexBatch]:
        easy = None
        if self.curriculum is not None and self.ranks is not None:
            easy = self.ranks < self.curriculum.share(self.epoch)
        plan = plan_batches(
            self.indices,
            batch_size=self.batch_size,
            lengths=self.lengths,
            weights=self.weights,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=self.epoch,
            easy=easy,
        )
        for step in range(self.start, len(plan)):
            yield self._share(plan, step)

    def _share(self, plan: Sequence[np.ndarray], step: int) -> IndexBatch:
        whole = plan[step]
        mine = whole[self.rank :: self.world_size].tolist()
        rows = -(-len(whole) // self.world_size)
        # every process gets the same number of rows: a process without a row would not take part in a collective
        padded = mine + [int(whole[0])] * (rows - len(mine))
        first = step - step % self.accumulate
        count = sum(len(batch) for batch in plan[first : first + self.accumulate])
        weight = self.world_size * self.accumulate / count
        return IndexBatch(padded, len(mine), weight, self.epoch, step)


def _identity(batch: Batch) -> Batch:
    return batch


class BatchLoader:
    """Iterates over the batches of a dataset and remembers its position, so that a run resumes in mid-epoch.

    Not a ``DataLoader`` itself: the Trainer then leaves its sampler alone. Its position is saved in checkpoints by the
    Trainer, which asks every loader for a ``state_dict``.

    Args:
        dataset: Makes a batch from an :class:`IndexBatch`.
        sampler: The order.
        num_workers: Worker processes; kept alive over epochs.
        pin_memory: Pin batches for the copy to a GPU.
    """

    def __init__(
        self, dataset: Dataset[Batch], sampler: BatchSampler, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.batch_sampler = None  # the Trainer looks for both names
        self._seen = (0, 0)  # epoch, and how many of its batches were handed out
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=sampler,  # type: ignore[arg-type]  # batches of its own kind, passed on as they are
            num_workers=num_workers,
            collate_fn=_identity,  # type: ignore[arg-type]
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            # its own generator: the seed it draws for workers must not move the stream that dropout uses
            generator=torch.Generator().manual_seed(sampler.seed),
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # a generator: nothing starts before the first batch is asked for, when the epoch is known
        epoch, start = self.sampler.epoch, self.sampler.start
        for position, batch in enumerate(self._loader, start + 1):
            self._seen = (epoch, position)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the number of its batches that were handed out."""
        epoch, position = self._seen
        return {"epoch": epoch, "position": position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches that were handed out before the checkpoint."""
        self._seen = (state["epoch"], state["position"])
        self.sampler.resume(*self._seen)
