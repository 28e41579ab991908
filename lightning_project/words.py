"""Verbs without a config: the words of the command line become the arguments of one function."""

import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from docstring_parser import parse

from lightning_project.parser import Parser


def run_words(verb: str, words: Sequence[str]) -> None:
    """Call the function of a verb.

    Its parameters without a default are given without a name (a list takes one word or more); the others are options,
    a list taking any number of words. A parameter ``words`` takes everything that is not the verb's own, such as
    options of the runs that it starts.

    Args:
        verb: Name of the file in ``lightning_project`` and of the function in it.
        words: The words after the verb.
    """
    function = getattr(importlib.import_module(f"lightning_project.{verb}"), verb)
    parameters = inspect.signature(function).parameters
    passed: list[str] = []
    if "words" in parameters:
        words, passed = _divide(words, set(parameters))
    found = _parser(verb, function).parse_args(list(words))
    values = {key: value for key, value in found.as_dict().items() if key != "config"}
    function(**values, **({"words": passed} if "words" in parameters else {}))


def _parser(verb: str, function: Callable[..., None]) -> Parser:
    """Build the parser of a verb."""
    parameters, types_of = inspect.signature(function).parameters, typing.get_type_hints(function)
    text = parse(function.__doc__ or "")
    parser = Parser(prog=f"python -m lightning_project {verb}", description=text.short_description)
    helps = {found.arg_name: found.description or "" for found in text.params}
    by_hand: set[str | int] = {"words"}
    for name, parameter in parameters.items():
        listed = _items_of(types_of.get(name))
        switch = types_of.get(name) is bool
        if name == "words" or (parameter.default is not parameter.empty and listed is None and not switch):
            continue
        by_hand.add(name)
        if switch:
            parser.add_argument(
                f"--{name}", type=bool, nargs="?", const=True, default=parameter.default, help=helps.get(name, "")
            )
            continue
        form: dict[str, Any] = {"type": listed or types_of[name], "help": helps.get(name, "")}
        if parameter.default is parameter.empty:
            several: dict[str, Any] = {"nargs": "+"} if listed else {}
            parser.add_argument(name, **form, **several)
        else:
            parser.add_argument(f"--{name}", **form, nargs="+", default=parameter.default)
    parser.add_function_arguments(function, skip=by_hand)
    return parser


def _items_of(kind: Any) -> Any:  # noqa: ANN401  # a type as written in a signature
    """Return the type of the items of a list (or of a list that may be missing), or ``None`` for anything else."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        rest = [one for one in typing.get_args(kind) if one is not type(None)]
        kind = rest[0] if len(rest) == 1 else None
    return typing.get_args(kind)[0] if typing.get_origin(kind) is list else None


def _divide(words: Sequence[str], own: set[str]) -> tuple[list[str], list[str]]:
    """Divide words into the verb's own and those to be passed on; an option takes the words up to the next option."""
    mine: list[str] = []
    passed: list[str] = []
    target = mine  # what comes before the first option has no name, and is the verb's own
    for word in words:
        if word.startswith("--") or word in ("-c", "-h"):
            name = word.lstrip("-").split("=", 1)[0]
            target = mine if name in own or word in ("-h", "--help") else passed
        target.append(word)
    return mine, passed


def call(words: Sequence[str]) -> None:
    """Run another command in this process as if it had been typed, so that processes started by it read its words.

    Args:
        words: Verb and options.
    """
    from lightning_project.cli import main

    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        main()
    finally:
        sys.argv = before
