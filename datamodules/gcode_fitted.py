"""What `gcode` learns from the training recordings besides the networks: channels, vocabulary, maps of lines.

It travels in the checkpoint as plain values, so that new recordings can be predicted without the training data.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.gcode_columns import Choice, Columns
from datamodules.gcode_recordings import NO_TEXT, Recording
from modules.gcode_tokens import NEWLINE, Digits, TokenError, Vocabulary, tokens


@dataclass(frozen=True)
class Fitted:
    """Fitted on training recordings alone.

    Attributes:
        columns: Chooses and scales channels.
        vocabulary: Ids of tokens.
        line_maps: Text of each line number, by operation.
        conflicts: Line numbers with more than one text, by operation.
    """

    columns: Columns
    vocabulary: Vocabulary
    line_maps: dict[str, dict[int, str]]
    conflicts: dict[str, int]

    @classmethod
    def fit(
        cls,
        recordings: Sequence[Recording],
        *,
        choice: Choice,
        drop: Sequence[str],
        vocabulary: str | None,
        digits: Digits,
        several: bool,
    ) -> "Fitted":
        """Learn from recordings.

        Args:
            recordings: Training recordings; nothing else may be among them.
            choice: See `gcode_columns`.
            drop: See `gcode_columns`.
            vocabulary: JSON file of a vocabulary in the brief's form; None makes one of the training lines.
            digits: Digits of the numbers in a vocabulary that is made.
            several: Whether a target may have several lines.

        Raises:
            DataError: There is no line to learn from, or the file is no vocabulary.
        """
        lines = sorted({text for recording in recordings for text in recording.texts})
        if not lines:
            raise DataError("no training recording has a line of G-code: fill the column gcode_string")
        try:
            # two lines in one text bring the pseudo-command between lines into the vocabulary
            made = Vocabulary.build([*lines, f"{lines[0]}\n{lines[0]}"] if several else lines, digits)
            words = made if vocabulary is None else Vocabulary.load(vocabulary)
        except TokenError as error:
            raise DataError(f"{_place_of(recordings)}: {error}" if vocabulary is None else str(error)) from error
        if several and NEWLINE not in words.ids:
            raise DataError(f"{vocabulary}: has no entry {NEWLINE}, which targets of several lines need: leave the "
                            "vocabulary out, or take target: mode or last")  # fmt: skip
        maps, conflicts = line_maps(recordings)
        return cls(Columns.fit(recordings, choice, drop), words, maps, conflicts)

    def texts_of(self, recording: Recording) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return (T,) index of the line of each row and the lines, lost text refilled by the number of the line."""
        known = self.line_maps.get(recording.operation, {})
        lost = np.flatnonzero((recording.text == NO_TEXT) & recording.usable() & (recording.line >= 0))
        if not len(lost) or not known:
            return recording.text, recording.texts
        texts, text = list(recording.texts), np.array(recording.text)
        place = {line: i for i, line in enumerate(texts)}
        for row in lost:
            line = known.get(int(recording.line[row]))
            if line is not None:
                if line not in place:
                    place[line] = len(texts)
                    texts.append(line)
                text[row] = place[line]
        return text, tuple(texts)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "columns": self.columns.state_dict(),
            "vocabulary": self.vocabulary.state(),
            "line_maps": {name: dict(lines) for name, lines in self.line_maps.items()},
            "conflicts": dict(self.conflicts),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Fitted":
        """Make it again from what `state_dict` gave."""
        maps = {name: {int(number): text for number, text in lines.items()} for name, lines in
                state["line_maps"].items()}  # fmt: skip
        words = Vocabulary.from_state(state["vocabulary"])
        return cls(Columns.from_state(state["columns"]), words, maps, dict(state["conflicts"]))


def line_maps(recordings: Sequence[Recording]) -> tuple[dict[str, dict[int, str]], dict[str, int]]:
    """Return the (most frequent) text of each line number by operation, and how many numbers have several texts."""
    counts: dict[str, dict[int, Counter[str]]] = {}
    for recording in recordings:
        known = np.flatnonzero((recording.text != NO_TEXT) & (recording.line >= 0))
        pairs, often = np.unique(np.stack([recording.line[known], recording.text[known]]), axis=1, return_counts=True)
        of_class = counts.setdefault(recording.operation, {})
        for number, text, count in zip(*pairs.tolist(), often.tolist(), strict=True):
            of_class.setdefault(number, Counter())[recording.texts[text]] += count
    maps = {name: {number: max(sorted(found), key=found.__getitem__) for number, found in sorted(of_class.items())}
            for name, of_class in counts.items()}  # fmt: skip
    several = {name: sum(len(found) > 1 for found in of_class.values()) for name, of_class in counts.items()}
    return maps, {name: count for name, count in several.items() if count}


def _place_of(recordings: Sequence[Recording]) -> str:
    """Name the first line that has no tokens, and its recording."""
    for recording in recordings:
        for text in recording.texts:
            try:
                tokens(text)
                Vocabulary.build([text], 6)
            except TokenError:
                return f"recording {recording.name}, line {text!r}"
    return "gcode_string"
