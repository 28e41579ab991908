"""The stored predictions of a decoder of G-code: one file, from which every figure of a report comes."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.report_files import Predictions, write_npz
from datamodules.errors import DataError
from modules import gcode_tokens, line_metrics

TEXT = ("id", "group", "class_names", "line", "free")
FILLS = {"tokens": 0, "fields": -1, "forced_fields": -1, "forced_tokens": -1, "log_prob": 0.0}  # padding
FILLS |= {"free_fields": -1, "free_tokens": 0, "free_log_prob": 0.0}


@dataclass(frozen=True)
class LinePredictions(Predictions):
    """What a decoder wrote for the windows of one part, in the order of the records.

    Attributes:
        row: (N,) first row of the window in its recording.
        line: (N,) true line. free: (N,) line written without help.
        tokens: (N, L) ids of the true line in the hybrid vocabulary, with its end; 0 = padding.
        fields: (N, L, F) the same as type, command, parameter, sign and digits; -1 = no target.
        forced_fields: (N, L, F) what each head said with the true tokens before it.
        forced_ids: (N, L) what the decoder said as ids of the vocabulary.
        flat_ids: (N, L) what the flat layer said, -1 where there is none.
        forced_logp: (N, L) log-probability of the true token.
        free_ids: (N, M) the written line as ids. free_logp: (N, M) log-probability of each of its tokens.
        anomaly: (N,) error of the encoder's reconstruction, NaN where it has none.
        by_id: () whether the flat layer is what writes.
    """

    row: np.ndarray
    line: np.ndarray
    free: np.ndarray
    tokens: np.ndarray
    fields: np.ndarray
    forced_fields: np.ndarray
    forced_ids: np.ndarray
    flat_ids: np.ndarray
    forced_logp: np.ndarray
    free_ids: np.ndarray
    free_logp: np.ndarray
    anomaly: np.ndarray
    by_id: np.ndarray

    def at(self, rows: np.ndarray) -> "LinePredictions":
        """Return some of the records."""
        chosen = {name: getattr(self, name)[rows] for name in _names(self) if name not in ("class_names", "by_id")}
        return replace(self, **chosen)

    def labelled(self) -> "LinePredictions":
        """Leave out the windows without a line."""
        return self.at(self.line != "")

    @property
    def confidence(self) -> np.ndarray:
        """Probability that the decoder gave each line that it wrote (N,)."""
        return np.exp(self.free_logp.sum(1, dtype=np.float64))

    @cached_property
    def sums(self) -> line_metrics.Sums:
        """Every figure as sums by record; see :mod:`modules.line_metrics`."""
        by_id = self.forced_ids if self.by_id else None
        right = (self.prob.argmax(1) == self.y) & (self.y != -1)
        found = {"operation_accuracy": np.stack([right, self.y != -1], 1).astype(float)}
        found |= line_metrics.free_sums(self.line.tolist(), self.free.tolist())
        found["line_accuracy_brief"] = line_metrics.same_ids(self.tokens, self.free_ids)
        found |= line_metrics.forced_sums(self.tokens, self.fields, self.forced_fields, by_id)
        found["token_accuracy_brief"] = line_metrics.brief_sums(self.tokens, self.forced_ids)
        if (self.flat_ids >= 0).any() and not self.by_id:
            found["token_accuracy_flat_layer"] = line_metrics.brief_sums(self.tokens, self.flat_ids)
        real = self.tokens != line_metrics.PAD
        found["nll"] = np.stack([-(self.forced_logp * real).sum(1), real.sum(1)], 1)
        return found

    def save(self, path: str | Path) -> Path:
        """Write the npz of the run folder."""
        arrays = {name: np.asarray(getattr(self, name), dtype=str if name in TEXT else None) for name in _names(self)}
        return write_npz(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> "LinePredictions":
        """Read an npz written by ``save``.

        Raises:
            DataError: The file is missing, is not such an npz, or its arrays do not fit together.
        """
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = cls(**{name: file[name] for name in _names(cls)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a decoder's predictions ({error}); run `test` again to write it") from error
        if any(len(getattr(found, name)) != len(found.id) for name in ("line", "free", "tokens", "free_logp", "prob")):
            raise DataError(f"{path}: the arrays have different lengths; run `test` again")
        return found


def _names(of: Any) -> list[str]:  # noqa: ANN401  # the class or one of its objects
    return [field.name for field in fields(of)]


def joined(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the outputs of batches, the padding of each filled up to the longest; each record once, in order.

    Raises:
        DataError: Nothing was evaluated.
    """
    if not batches:
        raise DataError("nothing to report: no batch was evaluated")
    found = {}
    for name in batches[0]:
        arrays = [batch[name] for batch in batches]
        if arrays[0].ndim > 1 and name in FILLS:
            width = max(array.shape[1] for array in arrays)
            arrays = [_widened(array, width, FILLS[name]) for array in arrays]
        found[name] = np.concatenate(arrays)
    kept, first = np.unique(found["id"], return_index=True)
    first = first[kept >= 0]
    return {name: array[first] for name, array in found.items()}


def _widened(array: np.ndarray, width: int, fill: float) -> np.ndarray:
    more = [(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, more, constant_values=fill)


def texts(vocabulary: Any, outputs: Mapping[str, np.ndarray], by_id: bool) -> list[str]:  # noqa: ANN401
    """Return the lines that a decoder wrote: from ids, or from fields."""
    if not by_id:
        return [vocabulary.from_fields(rows) for rows in outputs["free_fields"]]
    return [vocabulary.decode(ids.tolist()) for ids in outputs["free_tokens"]]


def line_ids(vocabulary: Any, lines: Sequence[str], width: int) -> np.ndarray:  # noqa: ANN401
    """Return lines as ids with their end (N, >= width); a line that is no G-code is unknown from its first token on."""
    rows = []
    for line in lines:
        try:
            rows.append([*vocabulary.encode(line), line_metrics.EOS])
        except gcode_tokens.TokenError:
            rows.append([line_metrics.UNK] * (len(line_metrics.split(line)) - 1) + [line_metrics.EOS])
    found = np.zeros((len(rows), max(width, *(len(row) for row in rows))), np.int32)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def field_ids(vocabulary: Any, fields: np.ndarray, said: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """Return answers of heads as ids of the vocabulary (N, L); a number without a letter has the true one before it.

    Args:
        vocabulary: A ``gcode_tokens.Vocabulary``.
        fields: (N, L, F) the target, whose letters are the context of numbers.
        said: (N, L, F) the answers.
    """
    letter = np.full(fields.shape[:2], -1)
    for place in range(1, fields.shape[1]):
        is_letter = fields[:, place - 1, 0] == gcode_tokens.LETTER
        letter[:, place] = np.where(is_letter, fields[:, place - 1, 2], letter[:, place - 1])
    keys = np.concatenate([letter[..., None], said], 2).reshape(-1, said.shape[2] + 1)
    kinds, inverse = np.unique(keys, axis=0, return_inverse=True)
    ids = np.array([_field_id(vocabulary, int(key[0]), key[1:]) for key in kinds], np.int32)
    return ids[inverse.reshape(-1)].reshape(fields.shape[:2])


def _field_id(vocabulary: Any, letter: int, row: np.ndarray) -> int:  # noqa: ANN401
    kind, letter = int(row[0]), int(row[2]) if row[2] >= 0 else letter
    if kind == gcode_tokens.SPECIAL:
        return line_metrics.EOS
    if kind == gcode_tokens.NUMBER and letter >= 0:
        head = np.full((2, len(row)), -1)
        head[0, [0, 2]] = gcode_tokens.LETTER, letter
        head[1] = row
        head[1, 2] = letter
        return int(vocabulary.encode(vocabulary.from_fields(head))[1])
    names, place = (vocabulary.commands, row[1]) if kind == gcode_tokens.COMMAND else (vocabulary.params, row[2])
    known = kind in (gcode_tokens.COMMAND, gcode_tokens.LETTER) and 0 <= place < len(names)
    return int(vocabulary.ids.get(names[place], line_metrics.UNK)) if known else line_metrics.UNK


@dataclass(frozen=True)
class LineCounts(Predictions):
    """The figures of a decoder by window, for tables of several runs.

    Attributes:
        counts: (N, K, 2) what is summed, and what it is divided by. figures: (K,) names of the figures.
    """

    counts: np.ndarray
    figures: np.ndarray

    @classmethod
    def of(cls, found: LinePredictions) -> "LineCounts":
        """Count the windows with a line."""
        real = found.labelled()
        counts = np.stack(list(real.sums.values()), axis=1)
        return cls(real.id, real.group, real.y, real.prob, real.class_names, counts, np.array(list(real.sums)))

    def labelled(self) -> "LineCounts":
        """Return all: those without a line are left out already."""
        return self

    def sums(self, names: Sequence[str]) -> line_metrics.Sums:
        """Return some figures as sums by record.

        Raises:
            ValueError: There is no figure of that name.
        """
        known = self.figures.tolist()
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"unknown metrics {unknown}; known of lines: {', '.join(known)}")
        return {name: self.counts[:, known.index(name)] for name in names}


def has_lines(path: str | Path) -> bool:
    """Tell whether a file of predictions is that of a decoder.

    Raises:
        DataError: It is no npz.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return "free_ids.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a predictions file ({error}); run `test` again to write it") from error
