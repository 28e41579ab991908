"""Windows of sensor recordings with the G-code that was running: files, the brief's arrays, or a synthetic machine."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from datamodules.audit import Finding
from datamodules.base import IGNORE, SplitDataModule
from datamodules.curriculum import Curriculum
from datamodules.errors import DataError
from datamodules.gcode_baselines import Answer, line_answers, task_of, tree_answers
from datamodules.gcode_columns import CHOICES, Choice, Columns
from datamodules.gcode_dataset import Augmentation, GcodeDataset, Scaled
from datamodules.gcode_findings import findings, refused
from datamodules.gcode_fitted import Fitted
from datamodules.gcode_npz import PARTS, padded, write_npz, write_vocabulary
from datamodules.gcode_recordings import PARENTS, Recording, operations_in_order
from datamodules.gcode_sources import arrays_of, generated, recordings_of
from datamodules.gcode_targets import Lines, Targets
from datamodules.gcode_windows import TARGETS, Target, window_starts
from datamodules.samplers import Batch
from datamodules.splits import split_hash
from modules.gcode_tokens import Digits, Vocabulary

Protocol = Literal["by_recording", "leaky_random_windows"]
PROTOCOLS = ("by_recording", "leaky_random_windows")


class GcodeData(SplitDataModule):
    """Windows of recordings; the operation is the class, a line of the program the target text.

    A window never crosses a gap and has a sensor in each row. All windows of a recording are one group. Channels, their
    scale, codes, vocabulary and maps of lines are fitted on training recordings, after the split.

    Batch (T = `window`, C = `input_dim`, L = the most tokens of the batch):

    - `continuous` (B, T, C) float32 scaled, 0 where missing; `present` (B, C) bool, False = the recording lacks it;
    - `categorical` (B, T, 4) int64 index of stat, unit, dist, coor; 0 = not seen in training;
    - `y` (B,) operation; `y_tokens` (B, L) int64 flat ids with EOS, then PAD; `y_fields` (B, L, 4 + digits) int64 type,
      command, param, sign, digits, -1 where there is none; a window without a line has nothing but PAD and -1;
    - `y_row` (B,) first row in the recording; `id`, `weight` as every batch.

    Args:
        path: Folder of recordings (see `gcode_recordings`), or of the brief's arrays (see `gcode_npz`); None is the
            synthetic machine, never a stand-in for files that cannot be read.
        predict_path: A recording, or a folder of them, to predict; they need no text.
        window: Rows of a window (64 are 16.5 s).
        stride: Rows from one window to the next.
        columns: Which channels are used; see `gcode_columns`.
        drop: Modalities (such as `machine_position`), families of three axes, or boards that are left out.
        target: The most frequent line of a window (`mode`, the brief's), the `last` one, or `all` in order.
        max_lines: With `target: all`, the most lines, the last ones; None is all that fit into `max_tokens`.
        max_tokens: Most tokens of a target, its end included.
        vocabulary: JSON file of a vocabulary in the brief's form; None makes one of the training lines.
        digits: Digits of a number: 6 (two before the point, four after), or 4 as in the brief.
        protocol: Split by recording, or the brief's split of overlapping windows at random, which leaks.
        fill_text: Refill lost text by the number of the line, from what training recordings of the class say.
        pair_damage: Recordings with a damaged tool get the class of the program they run, and are the test part: does
            what was learnt on healthy tools hold?
        prepared: Folder of arrays that `prepare` made, or that are made here; None reads the files.
        noise: Standard deviation of noise on scaled training readings.
        offset: Standard deviation of a shift of a whole channel of a scaled training window, as sessions shift levels.
        scale: Training channels are multiplied by a number within 1 ± this.
        board_dropout: Probability that a board of a training window is missing.
        synthetic_samples: Synthetic windows aimed at (without `path`); at least 27.
        synthetic_seed: Seed of the synthetic data.
        synthetic_noise: Strength of the synthetic noise.
        batch_size: Global batch size, over all processes.
        num_workers: Loader processes.
        bucket: Batches of windows whose targets are similarly long, which pads less.
        balanced: Draw the training samples so that each class is equally likely.
        sample_weights: CSV (id, weight) of how much each training sample counts.
        predict_part: Predict this part of the run's own split in place of new recordings.
        curriculum: Easy training samples first.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        predict_path: str | None = None,
        window: int = 64,
        stride: int = 16,
        columns: Choice = "all",
        drop: list[str] | None = None,
        target: Target = "mode",
        max_lines: int | None = None,
        max_tokens: int = 32,
        vocabulary: str | None = None,
        digits: Digits = 6,
        protocol: Protocol = "by_recording",
        fill_text: bool = True,
        pair_damage: bool = False,
        prepared: str | None = None,
        noise: float = 0.0,
        offset: float = 0.0,
        scale: float = 0.0,
        board_dropout: float = 0.0,
        synthetic_samples: int = 1000,
        synthetic_seed: int = 0,
        synthetic_noise: float = 1.0,
        batch_size: int = 32,
        num_workers: int = 0,
        bucket: bool = False,
        balanced: bool = False,
        sample_weights: str | None = None,
        predict_part: Literal["train", "val", "calib"] | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            bucket=bucket,
            balanced=balanced,
            sample_weights=sample_weights,
            predict_part=predict_part,
            curriculum=curriculum,
        )
        self.path, self.predict_path, self.window, self.stride = path, predict_path, window, stride
        self.columns, self.drop, self.target, self.max_lines = columns, list(drop or []), target, max_lines
        self.max_tokens, self.vocabulary_path, self.digits = max_tokens, vocabulary, digits
        self.protocol, self.fill_text, self.pair_damage, self.prepared = protocol, fill_text, pair_damage, prepared
        self.noise, self.offset, self.scale, self.board_dropout = noise, offset, scale, board_dropout
        self.synthetic: dict[str, Any] = {
            "samples": synthetic_samples,
            "seed": synthetic_seed,
            "window": window,
            "stride": stride,
            "noise": synthetic_noise,
        }
        self.source_name = ""
        self.recordings: list[Recording] = []
        self.where = np.empty((0, 2), np.int64)  # recording and first row of each window
        self._lines = Lines.none(0)
        self.fitted: Fitted | None = None
        self._fitted_on = ""
        self._scaled: Scaled | None = None
        self._targets: Targets | None = None
        # Sizes of the networks, known once something was fitted, or the checkpoint was read.
        self.input_dim: int | None = None
        self.categories: list[int] | None = None
        self.vocab_size: int | None = None
        self.num_commands: int | None = None
        self.num_params: int | None = None
        self._check()

    def _check(self) -> None:
        """Refuse settings that mean nothing."""
        choices = {"columns": CHOICES, "target": TARGETS, "protocol": PROTOCOLS, "digits": (4, 6)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(str, allowed))}")
        for name, least in {"window": 2, "stride": 1, "max_tokens": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.max_lines is not None and (self.target != "all" or self.max_lines < 1):
            raise ValueError(f"max_lines={self.max_lines} must be at least 1, and needs target: all")
        if min(self.noise, self.offset, self.scale) < 0 or not 0 <= self.board_dropout < 1:
            raise ValueError("noise, offset and scale must be at least 0, and 0 <= board_dropout < 1")
        if self.pair_damage and self.protocol != "by_recording":
            raise ValueError("pair_damage tests whole recordings: it needs protocol: by_recording")

    # reading

    def read_records(self) -> pd.DataFrame:
        """Read the recordings, or generate them, and cut them into windows."""
        if self.path is None:
            recordings, self.source_name = (
                generated(**self.synthetic),
                f"synthetic (generated, seed {self.synthetic['seed']})",
            )
        else:
            names_used = bool(self.drop) or self.columns == "brief"
            arrays = arrays_of(self.path, self.window, self.vocabulary_path, names_used)
            recordings = recordings_of(self.path, self.prepared, labelled=True) if arrays is None else arrays
            self.source_name = self.path
        records = self._take(recordings)
        self.source_classes = operations_in_order(set(records["label"]))
        return records

    def read_predict_records(self) -> pd.DataFrame:
        """Read the recordings to predict; text in them is left alone."""
        if self.predict_path is None:
            return super().read_predict_records()
        recordings = recordings_of(self.predict_path, self.prepared, labelled=False)
        self.table, self.y, self.source_name = None, None, self.predict_path
        records = self._take(recordings)
        self._lines = Lines.none(len(records))
        return records.assign(label="", given="")

    def _take(self, recordings: list[Recording]) -> pd.DataFrame:
        """Keep recordings, and make one record for each of their windows."""
        starts = [window_starts(recording, self.window, self.stride) for recording in recordings]
        self.recordings = recordings
        places = [(i, start) for i, found in enumerate(starts) for start in found]
        self.where = np.array(places, np.int64).reshape(-1, 2)
        if not len(self.where):
            raise DataError(f"{self.source_name or self.predict_path}: no recording has {self.window} rows without a "
                            "gap: set a shorter window")  # fmt: skip
        self._scaled, self._targets, self._fitted_on = None, None, ""
        rows = [(recordings[i], int(start)) for i, start in self.where]
        ids = [f"{recording.name}/{start:05d}" for recording, start in rows]
        leaky = self.protocol == "leaky_random_windows"
        columns = {
            "id": ids,
            "group": ids if leaky else [recording.group or recording.name for recording, _ in rows],
            "hash": [f"{recording.hash[:32]}-{start}-{self.window}" for recording, start in rows],
            "label": [self._label(recording.operation) for recording, _ in rows],
            "given": ["test" if self.pair_damage and recording.operation in PARENTS else recording.given
                      for recording, _ in rows],
        }  # fmt: skip
        return pd.DataFrame(columns, dtype=str)

    def _label(self, operation: str) -> str:
        return PARENTS.get(operation, operation) if self.pair_damage else operation

    # fitting, on the training part alone

    def apply_split(self, table: pd.DataFrame) -> None:
        """Take a split, and fit what is fitted on its training recordings; the same split is fitted once."""
        super().apply_split(table)
        if self.fitted is not None and self._fitted_on == split_hash(table):
            return
        train = np.unique(self.where[self.indices("train"), 0])
        self._use(
            Fitted.fit(
                [self.recordings[i] for i in train],
                choice=self.columns,
                drop=self.drop,
                vocabulary=self.vocabulary_path,
                digits=self.digits,
                several=self.target == "all",
            )
        )
        self._fitted_on = split_hash(table)

    def state_dict(self) -> dict[str, Any]:
        """Return what was fitted, for the checkpoint."""
        return self.fitted.state_dict() if self.fitted is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what the training of the checkpoint fitted, whatever was fitted here."""
        if state_dict:
            self._use(Fitted.from_state(state_dict))

    def _use(self, fitted: Fitted) -> None:
        self.fitted, self._scaled, self._targets = fitted, None, None
        self.input_dim, self.categories = len(fitted.columns.names), fitted.columns.sizes
        self.vocab_size = len(fitted.vocabulary)
        self.num_commands, self.num_params = len(fitted.vocabulary.commands), len(fitted.vocabulary.params)
        if self.table is not None:
            self._lines = Lines.find(
                self.recordings,
                self.where,
                self.window,
                target=self.target,
                max_lines=self.max_lines,
                max_tokens=self.max_tokens,
                refill=fitted if self.fill_text else None,
            )

    # batches

    def dataset(self, indices: np.ndarray, train: bool) -> Dataset[Batch]:
        """Return the dataset of all windows; which of them make a batch is the sampler's choice."""
        fitted, y = self._fitted(), self.y
        augmentation = None
        if train and max(self.noise, self.offset, self.scale, self.board_dropout) > 0:
            boards = tuple(tuple(channels) for channels in fitted.columns.boards().values())
            augmentation = Augmentation(self.noise, self.offset, self.scale, self.board_dropout, boards)
        y = np.full(len(self.where), IGNORE) if y is None else y
        return GcodeDataset(self._scale(), y, self._tokens(), augmentation, self.seed)

    def _tokens(self) -> Targets:
        if self._targets is None:
            self._targets = Targets.make(self.lines, self.vocabulary, self.digits, self.max_tokens)
        return self._targets

    def lengths(self) -> np.ndarray:
        """(N,) tokens of each target, its end included; 0 where there is none."""
        return self._tokens().lengths

    def window_values(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, T, C) float32 scaled values and (n, C) bool present of some windows, without augmentation."""
        values, present, _ = self._scale().cut(indices)
        return values, present

    def _scale(self) -> Scaled:
        if self._scaled is None:
            self._scaled = Scaled.make(self.recordings, self.where, self.window, self._fitted().columns)
        return self._scaled

    # what others ask

    @property
    def vocabulary(self) -> Vocabulary:
        """Ids of tokens."""
        return self._fitted().vocabulary

    @property
    def fitted_columns(self) -> Columns:
        """Channels with their scale."""
        return self._fitted().columns

    @property
    def lines(self) -> list[str]:
        """Target text of each window; "" where there is none."""
        return self._lines.texts

    @property
    def rows(self) -> np.ndarray:
        """(N,) first row of each window in its recording."""
        return self.where[:, 1]

    def channel_groups(self) -> dict[str, list[int]]:
        """Return the channels of each modality, by their place in the input."""
        return self._fitted().columns.groups()

    def boards(self) -> tuple[list[str], np.ndarray]:
        """Return the boards, and (N, boards) bool: whether a window's recording has any channel of it."""
        boards = self._fitted().columns.boards()
        present = np.stack(self._scale().present)
        has = np.stack([present[:, channels].any(axis=1) for channels in boards.values()], axis=1)
        return list(boards), has[self.where[:, 0]]

    def recording_names(self) -> list[str]:
        """Return the name of each window's recording, whatever the split takes for a group."""
        return [self.recordings[i].group or self.recordings[i].name for i in self.where[:, 0]]

    def baselines(self, part: str) -> dict[str, np.ndarray | None]:
        """Return what trees on plain statistics say about the operation of the windows of a part."""
        task, train, asked = task_of(self), self.indices("train"), self.indices(part)
        answers = tree_answers(task, train, asked, operations_only=True)
        return {name: answer.prob for name, answer in answers.items()}

    def line_baselines(self, part: str) -> dict[str, Answer]:
        """Return what tables without sensors, and trees on plain statistics, say about the lines of a part."""
        return line_answers(task_of(self), self.indices("train"), self.indices(part))

    @property
    def refused(self) -> dict[str, int]:
        """What no window holds, or was mended while reading, by kind."""
        return refused(self.recordings)

    def field_counts(self) -> dict[str, np.ndarray]:
        """Return how often each type (4,), command and letter occurs in the training targets."""
        fields = self._tokens().fields[self.indices("train")]
        sizes = {"type": 4, "command": self.num_commands or 0, "param": self.num_params or 0}
        parts = {name: fields[..., place] for place, name in enumerate(sizes)}
        return {name: np.bincount(part[part >= 0], minlength=sizes[name]) for name, part in parts.items()}

    def write_parts(self, folder: Path, table: pd.DataFrame) -> dict[str, int]:
        """Write the parts of a split as the brief's three arrays, and the vocabulary beside them."""
        written: dict[str, int] = {}
        for part in PARTS:
            rows = np.flatnonzero(table["part"].to_numpy() == part)
            values, _, codes = self._scale().cut(rows)
            write_npz(
                folder,
                part,
                values=values,
                codes=codes,
                tokens=padded([self.vocabulary.encode(self.lines[row]) for row in rows]),
                texts=[self.lines[row] for row in rows],
                operations=[self.recordings[i].operation for i in self.where[rows, 0]],
            )
            written[part] = len(rows)
        write_vocabulary(folder, self.vocabulary)
        return written

    def tie_rate(self) -> float:
        """Return the share of windows in which several lines are equally frequent; the first of them is the target."""
        return float(self._lines.ties.mean()) if len(self.lines) else 0.0

    def facets(self) -> dict[str, np.ndarray]:
        """Return whether the tool of each window was damaged."""
        names = [self.recordings[i].operation for i in self.where[:, 0]]
        return {"tool": np.array(["damaged" if name in PARENTS else "healthy" for name in names])}

    def class_levels(self) -> dict[str, list[str]]:
        """Return the program that each class runs, and its kind."""
        programs = [PARENTS.get(name, name) for name in self.class_names]
        return {"program": programs, "kind": [name.removesuffix("150025") for name in programs]}

    def findings(self) -> list[Finding]:
        """What was found while reading, for the audit."""
        leaky = self.protocol == "leaky_random_windows"
        return findings(self.recordings, self.where, self.window, self.stride, leaky)

    def describe(self) -> dict[str, Any]:
        """Return plain facts about the data for the report."""
        facts = {
            "source": self.source_name,
            "samples": len(self.where),
            "recordings": len(self.recordings),
            "window": self.window,
            "stride": self.stride,
            "target": self.target,
            "protocol": self.protocol,
            "refused": self.refused,
        }
        if self.fitted is not None:
            facts |= {"input_dim": self.input_dim, "categories": self.categories, "vocab_size": self.vocab_size}
            facts |= {"tie_rate": round(self.tie_rate(), 4), "distinct_lines": len(set(self.lines) - {""})}
        return facts

    def _fitted(self) -> Fitted:
        if self.fitted is None:
            raise DataError("nothing was fitted yet: the split has to run first, or a checkpoint has to be given")
        return self.fitted
