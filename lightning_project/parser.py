"""A parser without abbreviations that answers a mistake with one line and a guess at what was meant."""

import difflib
import re
import sys
from collections.abc import Iterator
from inspect import signature
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from datamodules.base import SplitDataModule
from modules.base import System

_WORDS = (
    r"[Uu]nrecognized arguments?: --([\w.+-]+)",
    r"[Oo]ption '([\w.]+)' is not accepted",
    r"[Kk]ey[s]? \"?'?([\w.]+)\"?'? is not expected",
    r"[Kk]ey '([\w.]+)' is not expected",
    r"No action for key \"([\w.]+)\"",
    r"argument (?:[\w_]+): invalid choice: '?([\w.]+)",
    r"[Uu]nknown (?:sub)?command '?([\w.]+)",
)


class Parser(LightningArgumentParser):
    """The launcher's parser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the heart of a message and the nearest known words; exit with 2."""
        parser = getattr(ex, "subcommand_parser", None) or self
        wrong = next((found.group(1) for pattern in _WORDS if (found := re.search(pattern, message))), None)
        sys.stderr.write(f"error: {_heart(message, wrong)}\n")
        if wrong:
            tail = wrong.rsplit(".", 1)[-1]
            known = sorted(set(_known(parser)))
            near = difflib.get_close_matches(wrong, known, 3, 0.75)
            near += [word for word in difflib.get_close_matches(tail, known, 3, 0.75) if word not in near]
            if near:
                sys.stderr.write(f"did you mean: {', '.join(near[:3])}?\n")
        verb = parser.prog.replace(" [options]", "").split(" ")[-1]
        sys.stderr.write(f"all options: python -m lightning_project {verb if verb in _VERBS else 'fit'} --help\n")
        self.exit(2)


_VERBS = ("fit", "validate", "test", "predict", "audit", "compare")


def _heart(message: str, wrong: str | None) -> str:
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    if wrong:
        lines = [line for line in lines if wrong in line] or lines
        return lines[-1] if "Option" in lines[-1] else lines[0]
    return " ".join(lines)[:600]


def _known(parser: LightningArgumentParser) -> Iterator[str]:
    yield from _VERBS
    for action in parser._actions:
        for option in action.option_strings:
            yield option.lstrip("-")
            yield option.rsplit(".", 1)[-1].lstrip("-")
    for base in (System, SplitDataModule):
        for found in _subclasses(base):
            yield from signature(found.__init__).parameters


def _subclasses(base: type) -> Iterator[type]:
    for found in base.__subclasses__():
        yield found
        yield from _subclasses(found)
