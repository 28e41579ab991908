"""What written G-code lines are worth, in numpy: every figure is a sum over a count, kept by record.

A figure of a set of records is the sum of the first over the sum of the second, never a mean of means; intervals come
from resampling the groups (recordings). Two ways to ask a decoder are kept apart, because they differ by ten points
and more: *forced* (every token is asked with the true ones before it) and *free* (the line is written without help).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modules import gcode_tokens

PAD, EOS, UNK = 0, 2, 3  # ids of the hybrid vocabulary that are no text
SPECIAL, COMMAND, LETTER, NUMBER = range(4)  # types of a token
KINDS = {"command": COMMAND, "letter": LETTER, "number": NUMBER, "end": SPECIAL}
AXES = ("X", "Y", "Z", "R", "I", "J", "K")  # words that hold a length
MILLIMETRES = 25.4  # of one inch: recorded machine positions (mm) have this slope to the program's numbers
END = "<end>"

_PIECE = re.compile(r"[GMT]\d+(?:\.\d+)?|\n|[A-Z]|[-+]?(?:\d+\.?\d*|\.\d+)|[^\sA-Z]")
Sums = dict[str, np.ndarray]  # name -> (N, 2): what is summed, and what it is divided by


@dataclass(frozen=True)
class Word:
    """One token of a written line: its kind, and its text."""

    kind: str
    text: str


def split(line: str) -> list[Word]:
    """Return the tokens of a line with the end as the last one; a number's text has its letter in front.

    Unlike a parser it takes anything, for a decoder may write a letter without a number: each such piece is a token.

    Args:
        line: Canonical text; several lines have line breaks between them, which count as commands.
    """
    found, letter = [], ""
    for text in _PIECE.findall(line):
        if text[0] in "GMT\n":
            found.append(Word("command", text))
        elif text[0].isalpha():
            letter = text
            found.append(Word("letter", text))
        else:
            found.append(Word("number", letter + text))
            letter = "?"  # a second number has no letter of its own
    return [*found, Word("end", END)]


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the least number of tokens to insert, delete or replace that makes the two equal."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (left != right))
    return row[-1]


def lengths_of(line: str) -> dict[str, float]:
    """Return the first number of each axis word of a line, in millimetres, the program taken as in inches."""
    found: dict[str, float] = {}
    for word in split(line):
        if word.kind == "number" and word.text[0] in AXES and not word.text.endswith("?"):
            found.setdefault(word.text[0], float(word.text[1:]) * MILLIMETRES)
    return found


def free_sums(true: Sequence[str], free: Sequence[str]) -> Sums:
    """Judge lines that were written without help.

    Args:
        true: (N) canonical lines.
        free: (N) lines that were written.

    Returns:
        line_accuracy, validity, edit_distance (tokens a line), edit_share (edits over true tokens),
        token_accuracy_free (position by position, the end counted), token_accuracy_free_no_eos, free_KIND,
        mm_AXIS (mean distance where both lines have the word) and found_AXIS (share of true words that are there).
    """
    pairs, inverse = np.unique(np.array([true, free], dtype=str).T.reshape(-1, 2), axis=0, return_inverse=True)
    judged = [_judge_pair(str(one), str(other)) for one, other in pairs]
    names = list(judged[0]) if judged else []
    inverse = inverse.reshape(-1)
    return {name: np.array([one[name] for one in judged], float).reshape(-1, 2)[inverse] for name in names}


def _judge_pair(true: str, free: str) -> dict[str, tuple[float, float]]:
    words, said = split(true), split(free)
    texts = [word.text for word in said]
    right = [place < len(texts) and texts[place] == word.text for place, word in enumerate(words)]
    edits = edit_distance([word.text for word in words[:-1]], texts[:-1])
    found: dict[str, tuple[float, float]] = {
        "line_accuracy": (float(true == free), 1.0),
        "validity": (float(gcode_tokens.valid(free)), 1.0),
        "edit_distance": (edits, 1.0),
        "edit_share": (edits, len(words) - 1),
        "token_accuracy_free": (sum(right), len(right)),
        "token_accuracy_free_no_eos": (sum(right[:-1]), len(right) - 1),
    }
    for kind in KINDS:
        hits = [hit for hit, word in zip(right, words, strict=True) if word.kind == kind]
        found[f"free_{kind}"] = (sum(hits), len(hits))
    wanted, got = lengths_of(true), lengths_of(free)
    for axis in AXES:
        both = axis in wanted and axis in got
        found[f"mm_{axis}"] = (abs(wanted[axis] - got[axis]) if both else 0.0, float(both))
        found[f"found_{axis}"] = (float(both), float(axis in wanted))
    return found


def forced_sums(tokens: np.ndarray, fields: np.ndarray, forced: np.ndarray, by_id: np.ndarray | None = None) -> Sums:
    """Judge tokens that were asked for with the true ones before them.

    Args:
        tokens: (N, L) ids of the target in the hybrid vocabulary, 0 after its end.
        fields: (N, L, F) type, command, parameter, sign and digits of the target, -1 where a head has none.
        forced: (N, L, F) what each head said.
        by_id: (N, L) ids that a flat layer answered with; then tokens are right by id, and never where the target is
            unknown to the vocabulary. ``None``: a token is right where all its heads are, so that a number need not
            be in the vocabulary.

    Returns:
        token_accuracy, token_accuracy_no_eos (neither end nor unknown tokens are asked), forced_KIND, and head_NAME:
        each head on the positions where it has a target.
    """
    real, asked = tokens != PAD, fields >= 0
    right = ((forced == fields) | ~asked).all(2) if by_id is None else (by_id == tokens) & (tokens != UNK)
    for number, head in ((COMMAND, 1), (LETTER, 2)):  # what the vocabulary has no command or letter for cannot be said
        right &= (fields[..., 0] != number) | asked[..., head]
    plain = real & (tokens != EOS) & (tokens != UNK)
    found = {"token_accuracy": _of(right, real), "token_accuracy_no_eos": _of(right, plain)}
    for kind, number in KINDS.items():
        found[f"forced_{kind}"] = _of(right, real & (fields[..., 0] == number))
    for place, name in enumerate(head_names(fields.shape[2])):
        found[f"head_{name}"] = _of(forced[..., place] == fields[..., place], real & asked[..., place])
    return found


def head_names(count: int) -> list[str]:
    """Return the names of the heads: type, command, param, sign, digit1, ..."""
    return ["type", "command", "param", "sign", *(f"digit{place}" for place in range(1, count - 3))]


def brief_sums(tokens: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Judge ids as the brief did: all targets that are no padding, the end and unknown tokens counted (N, 2)."""
    return _of(said == tokens, tokens != PAD)


def same_ids(tokens: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Return where whole lines are the same ids, unknown ones being equal, as (N, 2); widths may differ."""
    width = max(tokens.shape[1], said.shape[1])
    one, other = (np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=PAD) for ids in (tokens, said))
    right = (one == other).all(1)
    return np.stack([right, np.ones(len(right))], 1).astype(float)


def _of(right: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return np.stack([(right & asked).sum(1), asked.sum(1)], 1).astype(float)


def measured(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return each figure over all records; one that nothing was asked for is NaN."""
    totals = {name: counts.sum(0) for name, counts in sums.items()}
    return {name: float(right / of) if of else float("nan") for name, (right, of) in totals.items()}


def resampled(
    sums: Mapping[str, np.ndarray], groups: np.ndarray, n: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return each figure in n resamples of the groups, (n,) each; equal groups and seed give equal resamples.

    Args:
        sums: name -> (N, 2).
        groups: (N,) group of each record.
        n: Resamples.
        seed: Seed of the resampling.
    """
    code = np.unique(groups, return_inverse=True)[1]
    count = int(code.max()) + 1
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n).astype(float)
    found = {}
    for name, counts in sums.items():
        right, of = (times @ np.bincount(code, counts[:, place], minlength=count) for place in (0, 1))
        found[name] = np.divide(right, of, out=np.full(n, np.nan), where=of > 0)
    return found


def intervals(drawn: Mapping[str, np.ndarray], level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of each figure that every resample has."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    kept = {name: values for name, values in drawn.items() if not np.isnan(values).any()}
    return {name: tuple(float(end) for end in np.quantile(values, ends)) for name, values in kept.items()}  # type: ignore[misc]


def at_coverage(confidence: np.ndarray, right: np.ndarray, shares: Sequence[float]) -> list[dict[str, float]]:
    """Return how often the surest lines are right: share kept, lines, least confidence among them, accuracy."""
    order, rows = np.argsort(-confidence, kind="stable"), []
    for share in shares:
        kept = order[: max(1, round(share * len(order)))]
        rows.append(
            {
                "share": share,
                "lines": len(kept),
                "threshold": float(confidence[kept].min()),
                "accuracy": float(right[kept].mean()),
            }
        )
    return rows


def above(confidence: np.ndarray, right: np.ndarray, thresholds: Sequence[float]) -> list[dict[str, float]]:
    """Return how often lines above thresholds are right: threshold, share kept, accuracy (NaN = none kept)."""
    rows = []
    for threshold in thresholds:
        kept = confidence >= threshold
        accuracy = float(right[kept].mean()) if kept.any() else float("nan")
        rows.append({"threshold": float(threshold), "share": float(kept.mean()), "accuracy": accuracy})
    return rows


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error of yes-or-no answers over equal bins of confidence."""
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gap = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(right))
