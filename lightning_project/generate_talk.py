"""`generate --interactive`: turns with a language model, whose latest stay inside the window."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TextIO

import yaml

from lightning_project.writer import Writer, printable
from modules.continuing import continue_texts
from modules.decoding import Text
from modules.generation import Sampling

HELP = "write a prompt; `config` shows the settings, `config top_k 5` sets one, `clear` forgets the turns, `exit` ends"


@dataclass
class Settings:
    """What can be set while talking."""

    sampling: Sampling
    max_new_tokens: int
    stop: list[str] = field(default_factory=list)
    seed: int = 0

    def shown(self) -> dict[str, Any]:
        """Return all values by name."""
        return asdict(self.sampling) | {"max_new_tokens": self.max_new_tokens, "stop": self.stop, "seed": self.seed}

    def set(self, name: str, value: str) -> None:
        """Set a value from what was typed.

        Raises:
            ValueError: There is no such setting, or it cannot have this value.
        """
        old = self.shown()
        if name not in old:
            raise ValueError(f"no setting {name!r}; there are {', '.join(old)}")
        kind = type(old[name])
        typed: Any = value if kind is str else yaml.safe_load(value)
        typed = float(typed) if kind is float and isinstance(typed, int) else [typed] if kind is list else typed
        if type(typed) is not kind:
            raise ValueError(f"{name} takes {kind.__name__}, not {value!r}")
        if name in asdict(self.sampling):
            self.sampling = replace(self.sampling, **{name: typed})
            return
        if typed == [""] or (name == "max_new_tokens" and typed < 1) or (name == "seed" and typed < 0):
            raise ValueError(f"{name} cannot be {value!r}")
        setattr(self, name, typed)


def room_of(window: int, max_new_tokens: int) -> int:
    """Return how many tokens of the turns are read: what an answer leaves of the window, but half of it at least.

    A longer answer moves the window on while it is written.
    """
    return max(window - max_new_tokens, window // 2)


def within(turns: Sequence[list[int]], room: int) -> list[list[int]]:
    """Return the latest turns (tokens each) that fit into ``room`` tokens; of a longer last one, its end."""
    kept: list[list[int]] = []
    for turn in reversed(turns):
        room -= len(turn)
        if room < 0:
            return kept or [turn[-room:]]
        kept.insert(0, turn)
    return kept


def talk(
    writer: Writer,
    sampling: Sampling,
    max_new_tokens: int,
    stop: Sequence[str],
    seed: int,
    given: TextIO | None = None,
) -> None:
    """Talk until the input ends or says `exit` or `quit`.

    Args:
        writer: The model.
        sampling: How to choose tokens, at first.
        max_new_tokens: Tokens of an answer.
        stop: Strings that end an answer.
        seed: Seed; the answers of a talk have different draws.
        given: Where the lines come from; the terminal by default.
    """
    given = given or sys.stdin
    settings, turns, number = Settings(sampling, max_new_tokens, list(stop), seed), list[list[int]](), 0
    print(HELP, flush=True)
    while True:
        print("> ", end="", flush=True)
        line = given.readline()
        words = line.split()
        if not line or words in (["exit"], ["quit"]):
            print(flush=True)
            return
        if words[:1] == ["config"]:
            _configure(settings, words[1:])
        elif words == ["clear"]:
            turns = []
        elif words:
            said = line.rstrip("\n")
            turns.append(writer.encode("\n" + said) if turns else writer.prompt(said))
            turns = within(turns, room_of(writer.window, settings.max_new_tokens))
            text = _answer(writer, settings, [token for turn in turns for token in turn], number)
            turns[-1] = turns[-1] + text.tokens
            number += 1


def _answer(writer: Writer, settings: Settings, prompt: list[int], number: int) -> Text:
    decode = writer.vocabulary.decode
    text = Text.make(
        number, prompt, settings.sampling, settings.max_new_tokens, settings.seed, decode, tuple(settings.stop)
    )
    continue_texts(
        *(writer.net, [text], writer.window, writer.vocabulary.end),
        show=lambda _, piece: print(printable(piece), end="", flush=True),
    )
    print(flush=True)
    return text


def _configure(settings: Settings, words: Sequence[str]) -> None:
    if words:
        try:
            settings.set(words[0], " ".join(words[1:]))
        except (ValueError, yaml.YAMLError) as error:
            print(f"error: {error}", flush=True)
            return
    print(yaml.safe_dump(settings.shown(), sort_keys=False, allow_unicode=True), end="", flush=True)
