"""The target of each window: the line of the program that it stands for, as text and as tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.errors import DataError
from datamodules.gcode_fitted import Fitted
from datamodules.gcode_recordings import Recording
from datamodules.gcode_windows import Target, target_of
from modules.gcode_tokens import EOS, NO_TARGET, PAD, SPECIAL, Digits, TokenError, Vocabulary, tokens


@dataclass(frozen=True)
class Lines:
    """Target text of each window.

    Attributes:
        texts: N texts; several lines are one text with line breaks; "" where there is none.
        ties: (N,) bool: several lines were equally frequent.
        cut_short: Texts of several lines that were cut to the last ones that fit.
    """

    texts: list[str]
    ties: np.ndarray
    cut_short: int = 0

    @classmethod
    def none(cls, count: int) -> "Lines":
        """No line for any window, as in recordings to predict."""
        return cls([""] * count, np.zeros(count, bool))

    @classmethod
    def find(
        cls,
        recordings: Sequence[Recording],
        where: np.ndarray,
        window: int,
        *,
        target: Target,
        max_lines: int | None,
        max_tokens: int,
        refill: Fitted | None,
    ) -> "Lines":
        """Find the line of each window.

        Args:
            recordings: All recordings.
            where: (N, 2) recording and first row of each window.
            window: Rows of a window.
            target: See `target_of`.
            max_lines: See `target_of`.
            max_tokens: With several lines, the last ones are kept that have no more tokens, their end included.
            refill: Refills lost text; None leaves it lost.
        """
        parts = [(one.text, one.texts) if refill is None else refill.texts_of(one) for one in recordings]
        texts, ties, cut_short = [], [], 0
        for i, start in where.tolist():
            text, names = parts[i]
            found, tie = target_of(text[start : start + window], target, max_lines)
            lines = [names[place] for place in found]
            kept = _fitting(lines, max_tokens) if target == "all" else lines
            cut_short += len(kept) < len(lines)
            texts.append("\n".join(kept))
            ties.append(tie)
        return cls(texts, np.array(ties, dtype=bool), cut_short)


def _fitting(lines: list[str], max_tokens: int) -> list[str]:
    """The last lines that fit with their end."""
    room, kept = max_tokens - 1, 0
    for line in reversed(lines):
        room -= len(tokens(line)) + (kept > 0)
        if room < 0:
            break
        kept += 1
    return lines[len(lines) - kept :]


@dataclass(frozen=True)
class Targets:
    """Tokens of the target of each window.

    Attributes:
        tokens: (N, L) int64 flat ids with EOS, then PAD; nothing but PAD for a window without a line.
        fields: (N, L, F) int64 fields with that of EOS; -1 where there is none.
        lengths: (N,) tokens with EOS.
    """

    tokens: np.ndarray
    fields: np.ndarray
    lengths: np.ndarray

    @classmethod
    def make(cls, lines: Sequence[str], vocabulary: Vocabulary, digits: Digits, max_tokens: int) -> "Targets":
        """Encode lines; each distinct one once.

        Raises:
            DataError: A line that has too many tokens, or a number that the digits cannot hold.
        """
        distinct = sorted(set(lines) - {""})
        number = {line: i for i, line in enumerate(distinct)}
        try:
            flat = [[*vocabulary.encode(line), EOS] for line in distinct]
            parts = [vocabulary.fields(line, digits) for line in distinct]
        except TokenError as error:
            raise DataError(f"a line has no tokens: {error}; leave its recording out") from error
        longest = max(map(len, flat), default=1)
        if longest > max_tokens:
            line = distinct[int(np.argmax([len(ids) for ids in flat]))]
            raise DataError(f"{line!r} has {longest} tokens with its end: set max_tokens to at least that")
        tokens = np.full((len(distinct) + 1, longest), PAD, np.int64)  # the last row is for windows without a line
        fields = np.full((*tokens.shape, 4 + digits), NO_TARGET, np.int64)
        for row, (ids, part) in enumerate(zip(flat, parts, strict=True)):
            tokens[row, : len(ids)] = ids
            fields[row, : len(part)], fields[row, len(part), 0] = part, SPECIAL
        rows = np.array([number.get(line, len(distinct)) for line in lines], dtype=np.int64)
        lengths = np.array([*map(len, flat), 0])
        return cls(tokens[rows], fields[rows], lengths[rows])
