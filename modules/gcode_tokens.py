"""G-code as text, as words, as tokens of a vocabulary, and as fields with digits (no value vocabulary needed).

One token is a command (``G1``, ``M30``, ``T2``), a parameter letter (``X``) or the number behind a letter. A number is
written in whole steps of its letter: with 4 digits as the brief's tokenizer does (X 0.001, R 0.0001, F 1, S 10; more
digits are cut off), with 6 digits as two integer and four decimal ones (F 0.1, S 1; a larger number is an error).
Pure Python and numpy: data, networks and judgement share this one file.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modules.line_grammar import NEWLINE, Grammar

SPECIALS = ("PAD", "BOS", "EOS", "UNK", "MASK")
PAD, BOS, EOS, UNK, MASK = range(5)

SPECIAL, COMMAND, LETTER, NUMBER = range(4)  # values of the field `type`
PLUS, MINUS, ZERO = range(3)  # values of the field `sign`
FIELDS = ("type", "command", "param", "sign")  # then the digits, the most significant first
NO_TARGET = -1  # in a field that a token does not have

Digits = Literal[4, 6]
STEPS: dict[int, dict[str, Decimal]] = {
    4: {
        **dict.fromkeys("XYZABCPQ", Decimal("0.001")),
        **dict.fromkeys("IJKRE", Decimal("0.0001")),
        **{"F": Decimal(1), "S": Decimal(10)},
    },
    6: {**dict.fromkeys("XYZABCPQIJKRE", Decimal("0.0001")), "F": Decimal("0.1"), "S": Decimal(1)},
}
LETTERS = tuple(sorted(STEPS[6]))
UNSIGNED = frozenset("FS")  # feed and speed are never negative

_COMMENT = re.compile(r"\([^)]*\)|;.*|\*\s*\d+\s*$|^\s*/|%")
_WORD = re.compile(r"\s*([A-Z])\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*")


class TokenError(ValueError):
    """Text that is not G-code, or a number that the digits cannot hold."""


@dataclass(frozen=True)
class Word:
    """A letter and its number."""

    letter: str
    value: Decimal

    @property
    def text(self) -> str:
        """The word in canonical form: ``X1.575``, ``F40``, ``G1``."""
        return self.letter + plain(self.value)

    @property
    def is_command(self) -> bool:
        """Whether the word is one token (``G1``), not a parameter with a number."""
        return self.letter in "GMT"


@dataclass(frozen=True)
class Token:
    """A command (``text`` = G1), a letter (``text`` = X), or a number (``text`` = its letter) with its ``value``."""

    type: int
    text: str
    value: Decimal | None = None


def plain(value: Decimal) -> str:
    """Return a number without exponent, closing zeros, a bare point, or a minus before zero."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def words(line: str) -> list[Word]:
    """Split a line into words; comments, line numbers, checksums and ``%`` are dropped.

    Raises:
        TokenError: Something in the line is no word.
    """
    rest = _COMMENT.sub(" ", line).upper().strip()
    found, place = [], 0
    while place < len(rest):
        match = _WORD.match(rest, place)
        if match is None:
            raise TokenError(f"{line!r}: {rest[place:]!r} is not a letter and a number")
        found.append(Word(match[1], Decimal(match[2])))
        place = match.end()
    return [word for word in found if word.letter != "N"]


def canonical(line: str) -> str:
    """Return the line with one blank between words, upper case, numbers in plain form (``G01 x1.50`` -> ``G1 X1.5``).

    Several lines stay several; empty ones go. ``""`` = no G-code in it, such as a comment.
    """
    lines = (" ".join(word.text for word in words(part)) for part in line.split("\n"))
    return "\n".join(part for part in lines if part)


def tokens(text: str) -> list[Token]:
    """Return the tokens of a line, or of several with ``NEWLINE`` between them."""
    found: list[Token] = []
    for line in text.split("\n"):
        parsed = words(line)
        if found and parsed:
            found.append(Token(COMMAND, NEWLINE))
        for word in parsed:
            if word.is_command:
                found.append(Token(COMMAND, word.text))
            else:
                found += [Token(LETTER, word.letter), Token(NUMBER, word.letter, word.value)]
    return found


def join(found: Sequence[Token]) -> str:
    """Return the text of tokens; a letter without a number, or a number without its letter, is left as it stands."""
    text = ""
    for i, token in enumerate(found):
        if token.text == NEWLINE:
            text += "\n"
        elif token.type == NUMBER:
            text += plain(token.value or Decimal(0))
        else:
            glue = "" if not text or text.endswith("\n") else " "
            text += glue + (token.text or f"?{i}")
    return text


def step(letter: str, digits: int) -> Decimal:
    """Return the smallest difference between two numbers of a letter.

    Raises:
        TokenError: The letter takes no number here.
    """
    try:
        return STEPS[digits][letter]
    except KeyError:
        raise TokenError(f"letter {letter} is not known (known: {''.join(LETTERS)})") from None


def to_steps(letter: str, value: Decimal, digits: int) -> int:
    """Return a number in whole steps of its letter, with its sign.

    Raises:
        TokenError: With 6 digits, the number is too large for them.
    """
    size = int((abs(value) / step(letter, digits)).quantize(Decimal(1), ROUND_HALF_EVEN))
    if size >= 10**digits and digits != 4:
        raise TokenError(f"{letter}{plain(value)} needs more than {digits} digits of {step(letter, digits)}")
    size = int(str(size)[:digits])  # the brief's tokenizer cuts what is too long
    return -size if value < 0 else size


def from_steps(letter: str, steps: int, digits: int) -> Decimal:
    """Return the number that so many steps of a letter are."""
    return steps * step(letter, digits)


def valid(text: str) -> bool:
    """Tell whether each line of a text follows the grammar; an empty text is no line."""
    try:
        found = tokens(text)
    except TokenError:
        return False
    grammar = Grammar(sorted({token.text for token in found if token.type == COMMAND}), LETTERS)
    line = grammar.start()
    for token in found:
        allowed = grammar.allowed(line)
        if token.type == NUMBER:
            if token.text in UNSIGNED and (token.value or 0) < 0:
                return False
            line = grammar.number(line)
        elif token.type == COMMAND:
            command = grammar.commands.index(token.text)
            if not allowed.commands[command]:
                return False
            line = grammar.command(line, command)
        elif token.text not in LETTERS or not allowed.letters[LETTERS.index(token.text)]:
            return False
        else:
            line = grammar.letter(line, LETTERS.index(token.text))
    return grammar.allowed(line).end


class Vocabulary:
    """Ids of tokens in the brief's hybrid form, and the commands and letters that fields count.

    Args:
        entries: All entries in the order of their ids; the first five are PAD, BOS, EOS, UNK, MASK. ``G1`` is a
            command, ``X`` a letter, ``NUM_X_1575`` a number in steps; anything else keeps its id and is never used.
        digits: How numbers are written in the entries.

    Attributes:
        commands: Commands in alphabetical order: the ids of the field ``command``.
        params: Letters in alphabetical order: the ids of the field ``param``.
    """

    def __init__(self, entries: Sequence[str], digits: Digits = 4) -> None:
        if tuple(entries[:5]) != SPECIALS or len(set(entries)) != len(entries):
            raise TokenError(f"a vocabulary begins with {', '.join(SPECIALS)} and names nothing twice")
        if digits not in STEPS:
            raise TokenError(f"digits must be 4 or 6, got {digits}")
        self.entries, self.digits = tuple(entries), digits
        self.ids = {entry: i for i, entry in enumerate(entries)}
        known = [entry for entry in entries[5:] if entry == NEWLINE or re.fullmatch(r"[GMT]\d+(\.\d+)?", entry)]
        self.commands = tuple(sorted(known))
        self.params = tuple(sorted(entry for entry in entries[5:] if len(entry) == 1 and entry in STEPS[6]))
        self._command_ids = {name: i for i, name in enumerate(self.commands)}
        self._param_ids = {name: i for i, name in enumerate(self.params)}

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read the brief's JSON file: ``config`` and ``vocab`` (entry -> id).

        Raises:
            TokenError: The file is not of that form.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            ids: dict[str, int] = content["vocab"]
            digits = content["config"].get("bucket_digits", 4)
            entries = sorted(ids, key=ids.__getitem__)
            if [ids[entry] for entry in entries] != list(range(len(ids))):
                raise TokenError("its ids are not 0, 1, 2, ...")
            return cls(entries, digits)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TokenError(f"{path}: not a vocabulary with `config` and `vocab`: {error}") from error

    @classmethod
    def build(cls, lines: Iterable[str], digits: Digits = 4) -> "Vocabulary":
        """Make a vocabulary of training lines (or texts of several lines): commands, letters, then numbers, sorted."""
        seen = {token for line in lines for token in tokens(line)}
        commands = sorted({token.text for token in seen if token.type == COMMAND})
        letters = sorted({token.text for token in seen if token.type == LETTER})
        numbers = sorted({_entry(token, digits) for token in seen if token.type == NUMBER})
        return cls([*SPECIALS, *commands, *letters, *numbers], digits)

    def state(self) -> dict[str, Any]:
        """Return the vocabulary as plain values, for a checkpoint."""
        return {"entries": list(self.entries), "digits": self.digits}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Vocabulary":
        """Return the vocabulary of :meth:`state`."""
        return cls(state["entries"], state["digits"])

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, UNK for what is not an entry; without BOS and EOS."""
        return [self.ids.get(_entry(token, self.digits), UNK) for token in tokens(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids up to the first EOS or PAD; BOS and MASK are skipped, UNK shows as ``?``."""
        text = ""
        for i in ids:
            if i in (EOS, PAD):
                break
            entry = self.entries[i]
            number = re.fullmatch(r"NUM_([A-Z])_(-?\d+)", entry)
            if entry == NEWLINE:
                text += "\n"
            elif number is not None:
                text += plain(from_steps(number[1], int(number[2]), self.digits))
            elif i == UNK and text[-1:].isalpha():
                text += "?"
            elif i not in (BOS, MASK):
                text += ("" if not text or text.endswith("\n") else " ") + ("?" if i == UNK else entry)
        return text

    def fields(self, text: str, digits: Digits = 6) -> np.ndarray:
        """Return the fields of a text (tokens, 4 + digits) int64: type, command, param, sign, digits.

        A letter has a param; a number has the param of its letter, a sign (plus, minus, zero) and digits. What a token
        has not is -1, as is a command or letter that the vocabulary does not know.
        """
        found = tokens(text)
        rows = np.full((len(found), len(FIELDS) + digits), NO_TARGET, np.int64)
        for row, token in zip(rows, found, strict=True):
            row[0] = token.type
            if token.type == COMMAND:
                row[1] = self._command_ids.get(token.text, NO_TARGET)
            else:
                row[2] = self._param_ids.get(token.text, NO_TARGET)
            if token.value is not None:
                row[3:] = _digits(to_steps(token.text, token.value, digits), digits)
        return rows

    def from_fields(self, rows: np.ndarray) -> str:
        """Return the text of fields (tokens, 4 + digits), up to the first of type special or -1."""
        found, digits = [], rows.shape[1] - len(FIELDS)
        for kind, command, param, sign, *places in rows.tolist():
            if kind in (SPECIAL, NO_TARGET):
                break
            name = self.commands[command] if kind == COMMAND and command >= 0 else "?"
            if kind != COMMAND:
                name = self.params[param] if 0 <= param < len(self.params) else "?"
            value = None
            if kind == NUMBER:
                size = 0 if sign == ZERO or name == "?" else int("".join(map(str, places)))
                value = Decimal(0) if name == "?" else from_steps(name, -size if sign == MINUS else size, digits)
            found.append(Token(kind, name, value))
        return join(found)

    def field_table(self, digits: Digits = 6) -> np.ndarray:
        """Return the fields of each id (V, 4 + digits); EOS has type special, other specials and unused entries -1.

        Numbers keep their value where ``digits`` differ from the vocabulary's.
        """
        table = np.full((len(self), len(FIELDS) + digits), NO_TARGET, np.int64)
        table[EOS, 0] = SPECIAL
        for i, entry in enumerate(self.entries):
            number = re.fullmatch(r"NUM_([A-Z])_(-?\d+)", entry)
            if entry in self._command_ids:
                table[i, :2] = COMMAND, self._command_ids[entry]
            elif entry in self._param_ids:
                table[i, [0, 2]] = LETTER, self._param_ids[entry]
            elif number is not None and number[1] in self._param_ids:
                value = from_steps(number[1], int(number[2]), self.digits)
                table[i, [0, 2]] = NUMBER, self._param_ids[number[1]]
                table[i, 3:] = _digits(to_steps(number[1], value, digits), digits)
        return table


def _entry(token: Token, digits: int) -> str:
    if token.type != NUMBER or token.value is None:
        return token.text
    number = f"{to_steps(token.text, token.value, digits):0{digits}d}"
    # of 4 digits, a minus takes the place of one, as in the brief
    return f"NUM_{token.text}_{number[:4] if digits == 4 else number}"


def _digits(steps: int, digits: int) -> list[int]:
    """Sign and digits."""
    sign = ZERO if steps == 0 else MINUS if steps < 0 else PLUS
    return [sign, *map(int, f"{abs(steps):0{digits}d}")]
