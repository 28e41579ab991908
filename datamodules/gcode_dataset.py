"""Makes the batches of `gcode`: windows cut from scaled recordings, with their targets beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.base import IGNORE
from datamodules.gcode_columns import Columns
from datamodules.gcode_recordings import Recording
from datamodules.gcode_targets import Targets
from datamodules.samplers import Batch, IndexBatch
from modules.gcode_tokens import NO_TARGET, PAD


@dataclass(frozen=True)
class Scaled:
    """Recordings as a network sees them, and where the windows lie in them.

    Attributes:
        values: (T, C) float32 of each recording.
        present: (C,) bool of each recording.
        codes: (T, 4) int64 of each recording.
        where: (N, 2) int64: recording and first row of each window.
        window: Rows of a window.
    """

    values: list[np.ndarray]
    present: list[np.ndarray]
    codes: list[np.ndarray]
    where: np.ndarray
    window: int

    @classmethod
    def make(cls, recordings: Sequence[Recording], where: np.ndarray, window: int, columns: Columns) -> "Scaled":
        """Scale recordings."""
        parts = [columns.transform(recording) for recording in recordings]
        values, present, codes = ([part[i] for part in parts] for i in range(3))
        return cls(values, present, codes, where, window)

    def cut(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (n, window, C) float32 values, (n, C) bool present, (n, window, 4) int64 codes of some windows."""
        places = [(int(i), slice(int(start), int(start) + self.window)) for i, start in self.where[np.asarray(rows)]]
        return (
            np.stack([self.values[i][span] for i, span in places]),
            np.stack([self.present[i] for i, _ in places]),
            np.stack([self.codes[i][span] for i, span in places]),
        )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training windows, on the scaled values.

    Attributes:
        noise: Standard deviation of noise on every reading.
        offset: Standard deviation of a shift of a channel, the same over the window: sessions shift levels.
        scale: A channel is multiplied by a number within 1 ± this.
        board_dropout: Probability that a board of a window is missing.
        boards: Channels of each board.
    """

    noise: float
    offset: float
    scale: float
    board_dropout: float
    boards: tuple[tuple[int, ...], ...]

    def __call__(self, values: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> None:
        """Change one window in place: (T, C) values and (C,) present."""
        if self.scale > 0:
            values *= 1 + self.scale * (2 * rng.random(values.shape[1], dtype=np.float32) - 1)
        if self.offset > 0:
            values += self.offset * rng.standard_normal(values.shape[1], dtype=np.float32)
        if self.noise > 0:
            values += self.noise * rng.standard_normal(values.shape, dtype=np.float32)
        if self.board_dropout > 0:
            for channels, gone in zip(self.boards, rng.random(len(self.boards)) < self.board_dropout, strict=True):
                if gone:
                    present[list(channels)] = False
        values *= present


class GcodeDataset(Dataset[Batch]):
    """Makes batches of windows; see `GcodeData` for their entries.

    Args:
        scaled: All recordings.
        y: (N,) class index of each window.
        targets: Tokens of each window.
        augmentation: Changes of training windows; None on the judging side.
        seed: Seed of the run.
    """

    def __init__(
        self, scaled: Scaled, y: np.ndarray, targets: Targets, augmentation: Augmentation | None, seed: int
    ) -> None:
        self.scaled, self.y, self.targets, self.augmentation, self.seed = scaled, y, targets, augmentation, seed

    def __getitems__(self, batch: IndexBatch) -> Batch:
        """Return one batch."""
        rows = np.array(batch.indices, dtype=np.int64)
        real = np.arange(len(rows)) < batch.real
        values, present, codes = self.scaled.cut(rows)
        if self.augmentation is not None:
            for place, row in enumerate(batch.indices):
                rng = np.random.default_rng([self.seed, batch.epoch, row])
                self.augmentation(values[place], present[place], rng)
        longest = max(1, int(self.targets.lengths[rows].max()))
        return {
            "continuous": torch.from_numpy(values),
            "present": torch.from_numpy(present),
            "categorical": torch.from_numpy(codes),
            "y": torch.from_numpy(np.where(real, self.y[rows], IGNORE)),
            "y_tokens": torch.from_numpy(np.where(real[:, None], self.targets.tokens[rows, :longest], PAD)),
            "y_fields": torch.from_numpy(np.where(real[:, None, None], self.targets.fields[rows, :longest], NO_TARGET)),
            "y_row": torch.from_numpy(self.scaled.where[rows, 1]),
            "id": torch.from_numpy(np.where(real, rows, -1)),
            "weight": torch.from_numpy((real * batch.weight).astype(np.float32)),
        }
