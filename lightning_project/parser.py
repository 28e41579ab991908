"""A parser without abbreviations that answers a mistake with one line and a guess at what was meant."""

import difflib
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from inspect import signature
from types import ModuleType
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from datamodules.base import SplitDataModule
from lightning_project.verbs import VERBS
from modules.base import System

_WORDS = (
    r"[Uu]nrecognized arguments?: --([\w.+-]+)",
    r"not accept option '([\w.]+)'",
    r"[Oo]ption '([\w.]+)' is not accepted",
    r"[Kk]ey[s]? \"?'?([\w.]+)\"?'? is not expected",
    r"No action for key \"([\w.]+)\"",
    r"class_path '([\w.]+)'",
    r"dot import path string: ([\w.]+)",
)


class Parser(LightningArgumentParser):
    """The launcher's parser."""

    def __init__(self, *args: object, **kwargs: Any) -> None:  # noqa: ANN401  # as argparse takes them
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the heart of a message and the nearest known words; exit with 2."""
        wrong = next((found.group(1) for pattern in _WORDS if (found := re.search(pattern, message))), None)
        parser = self._of_verb(message, ex)
        verb = next((word for word in parser.prog.split() if word in VERBS), "fit")
        sys.stderr.write(f"error: {_heart(message, wrong)}\n")
        if wrong and (near := _nearest(wrong, sorted(set(_known(parser, message))))):
            sys.stderr.write(f"did you mean: {', '.join(near)}?\n")
        if "required: " in message and ".model" in message:
            sys.stderr.write("name a config: --config configs/signs.yaml\n")
        else:
            sys.stderr.write(f"all options: python -m lightning_project {verb} --help\n")
        self.exit(2)

    def _of_verb(self, message: str, ex: Exception | None) -> LightningArgumentParser:
        """Return the parser of the verb that an error is about; all verbs share most options."""
        verbs = self._subcommands_action._name_parser_map if self._subcommands_action else {}
        named = re.search(r"[Ss]ubcommand '(\w+)'", message)
        first = next(iter(verbs.values()), self)
        return getattr(ex, "subcommand_parser", None) or verbs.get(named.group(1) if named else "", first)


def class_at(path: str) -> Any:  # noqa: ANN401  # any class that a config names
    """Return the class that a dotted path names."""
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def import_all(*packages: ModuleType) -> None:
    """Import the modules of packages, so that short class names work and mistyped ones can be guessed."""
    for package in packages:
        for found in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{found.name}")


def _nearest(wrong: str, known: list[str]) -> list[str]:
    near = difflib.get_close_matches(wrong, known, 3, 0.75)
    near += difflib.get_close_matches(wrong.rsplit(".", 1)[-1], known, 3, 0.75)
    return list(dict.fromkeys(near))[:3]


def _heart(message: str, wrong: str | None) -> str:
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    if wrong:
        lines = [line for line in lines if wrong in line] or lines
        return lines[-1] if "Option" in lines[-1] else lines[0]
    return " ".join(lines)[:600]


def _known(parser: LightningArgumentParser, message: str) -> Iterator[str]:
    for action in parser._actions:
        for option in action.option_strings:
            yield option.lstrip("-")
            yield option.rsplit(".", 1)[-1].lstrip("-")
    for base in (System, SplitDataModule):
        for found in _subclasses(base):
            yield f"{found.__module__}.{found.__qualname__}"
            yield found.__qualname__
            yield from signature(found).parameters
    for path in re.findall(r"'([\w.]+\.[A-Z]\w+)'", message):  # a class named in the config, such as an optimizer
        owner, _, name = path.rpartition(".")
        named = getattr(sys.modules.get(owner), name, None)
        if isinstance(named, type):
            yield from signature(named).parameters


def _subclasses(base: type) -> Iterator[type]:
    found: type
    for found in base.__subclasses__():
        yield found
        yield from _subclasses(found)
