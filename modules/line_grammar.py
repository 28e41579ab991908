"""Which token may follow in a line of G-code: rules as tables over commands and letters, for one line or a batch.

A line is commands, then letters with a number each. It may begin with a letter: the motion of an earlier line then
still holds. A line never depends on the one before it, for recordings show only some lines of a program.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEWLINE = "NEWLINE"  # a pseudo-command between the lines of a longer target
# Of each group, a line has one command at most.
_GROUPS = (
    r"G(0|1|2|3|38\.[2-5]|73|76|8\d)",  # motion
    r"G1[789]",  # plane
    r"G9[01]",  # distance
    r"G9[345]",  # feed
    r"G2[01]",  # unit
    r"G4[012]",  # cutter radius
    r"G(43|49)",  # tool length
    r"G5[4-9](\.\d)?",  # coordinates
    r"M(0|1|2|30|60)",  # stop
    r"M[345]",  # spindle
    r"M[789]",  # coolant
    r"T\d+",
)
_STOP = re.compile(_GROUPS[8])
_NEVER = {"G0": "FRIJK", "G1": "RIJK"}
_NEEDS = {"G2": "RIJK", "G3": "RIJK", "M3": "S", "M4": "S"}  # at least one of these letters
_CLASH = {"R": "IJK", "I": "R", "J": "R", "K": "R"}  # an arc has a radius or a centre


@dataclass(frozen=True)
class Allowed:
    """What may come next: commands (C,), letters (P,), a number, or the end."""

    commands: np.ndarray
    letters: np.ndarray
    number: bool
    end: bool


@dataclass(frozen=True)
class Line:
    """What was written of a line: commands (C,) and letters (P,) used, and the letter that waits for its number."""

    commands: np.ndarray
    letters: np.ndarray
    open: int | None = None


class Grammar:
    """The rules of a line over given commands and letters.

    Args:
        commands: Names of the commands, with or without ``NEWLINE``.
        params: The letters.

    Attributes:
        conflicts: (C, C) bool: the two commands may not be in one line.
        forbids: (C, P) bool: the letter may not follow the command.
        clashes: (P, P) bool: the second letter may not join the first; each letter comes once.
        needs: (C, P) bool: the command needs at least one of these letters; no letter marked = none needed.
        possible: (C,) bool: the letters that the command needs exist.
        newline: Id of ``NEWLINE``, or ``None``.
    """

    def __init__(self, commands: Sequence[str], params: Sequence[str]) -> None:
        self.commands, self.params = tuple(commands), tuple(params)
        groups = [{name} | {rule for rule in _GROUPS if re.fullmatch(rule, name)} for name in commands]
        every = "".join(params)
        never = [every if _STOP.fullmatch(name) else _NEVER.get(name, "") for name in commands]
        size, letters = len(self.commands), len(self.params)
        self.forbids = _table([[letter in row for letter in params] for row in never], size, letters)
        self.clashes = _table([[b == a or b in _CLASH.get(a, "") for b in params] for a in params], letters, letters)
        self.needs = _table([[p in _NEEDS.get(name, "") for p in params] for name in commands], size, letters)
        # the first forbids all that the second needs
        starved = self.needs.any(axis=1, keepdims=True).T & ~(~self.forbids @ self.needs.T)
        together = _table([[bool(a & b) for b in groups] for a in groups], size, size)
        self.conflicts = together | starved | starved.T
        self.possible = np.array([name not in _NEEDS for name in commands], bool) | self.needs.any(1)
        self.newline = self.commands.index(NEWLINE) if NEWLINE in self.commands else None

    def start(self) -> Line:
        """Return a line in which nothing is written."""
        return Line(np.zeros(len(self.commands), bool), np.zeros(len(self.params), bool))

    def allowed(self, line: Line) -> Allowed:
        """Return what may come next."""
        used = line.commands
        letters = ~(used @ self.forbids) & ~(line.letters @ self.clashes)
        commands = ~(used @ self.conflicts) & self.possible & ~line.letters.any()
        wanted = self.needs[used & self.needs.any(1)]
        end = bool((used.any() or line.letters.any()) and (wanted & line.letters).any(1).all())
        if line.open is not None:
            return Allowed(np.zeros_like(commands), np.zeros_like(letters), True, False)
        if self.newline is not None:
            commands[self.newline] = end
        return Allowed(commands, letters, False, end)

    def command(self, line: Line, command: int) -> Line:
        """Return the line with one more command; ``NEWLINE`` begins a new one."""
        if command == self.newline:
            return self.start()
        used = line.commands.copy()
        used[command] = True
        return Line(used, line.letters)

    def letter(self, line: Line, letter: int) -> Line:
        """Return the line with one more letter, which waits for its number."""
        used = line.letters.copy()
        used[letter] = True
        return Line(line.commands, used, letter)

    def number(self, line: Line) -> Line:
        """Return the line with the number of its open letter."""
        return Line(line.commands, line.letters)


def _table(rows: list[list[bool]], height: int, width: int) -> np.ndarray:
    return np.array(rows, bool).reshape(height, width)
