"""Texts written side by side, token by token, by anything that reads tokens and says what comes next.

All texts of a batch are read in step: while the longer prompts are still read, the shorter ones are already continued.
So there is no padding and no mask, a position means the same in every row, and windows end for all rows at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from modules.generation import Sampling, choose, generator_of

Decode = Callable[[list[int]], str]
_BROKEN = "\ufffd"  # what a decoder shows for the first bytes of a character


class Reader(Protocol):
    """Reads B texts and says what comes next."""

    def read(self, tokens: Tensor) -> Tensor:
        """Read the next tokens (B, T) of each text; return the logits (B, V) of the token after the last."""
        ...


class WindowReader:
    """Reads with a language model, through a window that moves on.

    When the window is full its older half goes: the memory, if there is one, may write its positions, and the newer
    half is read again from the first position. So no position reads its own part of the text from the memory, and no
    position beyond those of training is used.

    Args:
        net: Language model in evaluation mode; its ``forward`` takes ``state``, see ``new_state``, and where it has
            ``new_cache`` also ``cache`` and ``last``. One that has not, such as an LSTM, reads the window anew.
        batch: Number of texts.
        window: Tokens seen at once, as in training.
        cached: Keep keys and values, so that each token is read once; without it each step reads the window anew, with
            the same results.
    """

    def __init__(self, net: Any, batch: int, window: int, cached: bool = True) -> None:  # noqa: ANN401  # shared code knows no system's network
        if net.training:
            raise ValueError("a network in training mode would drop and explore: call eval() first")
        if window < 2:
            raise ValueError(f"a window has at least 2 tokens, got {window}")
        self.keeps = hasattr(net, "new_cache")
        self.net, self.batch, self.window, self.cached = net, batch, window, cached and self.keeps
        self.half = window // 2
        self.state = net.new_state(batch, window)
        self._empty()

    def read(self, tokens: Tensor) -> Tensor:
        """Read the next tokens (B, T), T at least 1, of each text; return the logits (B, V) after the last."""
        with torch.inference_mode():
            while True:
                piece, tokens = tokens.split([room := min(self.room, tokens.shape[1]), tokens.shape[1] - room], 1)
                logits = self._advance(piece) if room else None
                if logits is not None and not tokens.shape[1]:
                    return logits
                self._move_on()

    @property
    def room(self) -> int:
        """Tokens that the window still takes."""
        return self.window - self.tokens.shape[1]

    def _empty(self) -> None:
        self.tokens = torch.empty(self.batch, 0, dtype=torch.long)
        self.cache = self.net.new_cache(self.batch, self.window) if self.cached else None

    def _advance(self, tokens: Tensor) -> Tensor:
        self.tokens = torch.cat([self.tokens.to(tokens.device), tokens], 1)
        # `forward`, not the call: a compiled network would be compiled again for each length
        given = {"cache": self.cache, "last": True} if self.keeps else {}
        out = self.net.forward(tokens if self.cached else self.tokens, state=self.state, **given)
        return out["logits"][:, -1].float()

    def _move_on(self) -> None:
        whole, older, newer = self.tokens, self.tokens[:, : self.half], self.tokens[:, self.half :]
        if self.state is not None and self.keeps:
            write = (torch.arange(self.window, device=whole.device) < self.half).expand_as(whole)
            self.state = self.net.forward(whole, state=self.state, write=write, last=True)["state"]
        elif self.state is not None:  # a recurrent network, whose state is all that it has read
            self.state = self.net.forward(older, state=self.state)["state"]
        self._empty()
        self._advance(newer)


class Written:
    """The readable side of a text: pieces that can be shown, and whether a stop string came up.

    A piece that may be the begin of a stop string, or of a character of several bytes, is held back.

    Args:
        decode: Turns tokens into text.
        stops: Strings that end the text, and are not part of it.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise ValueError("an empty stop string would end every text at once: leave it out")
        self.decode, self.stops = decode, tuple(stops)
        self.text, self.stopped, self._shown = "", False, 0

    def update(self, tokens: list[int]) -> str:
        """Take all tokens so far; return what can be shown beyond what was returned before."""
        text = self.decode(tokens)
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        self.stopped = bool(found)
        self.text = text[: min(found)] if found else text
        return self._piece(len(self.text) if found else len(self.text) - self._doubtful())

    def finish(self) -> str:
        """Return what was held back."""
        return self._piece(len(self.text))

    def _doubtful(self) -> int:
        starts = (stop[:n] for stop in self.stops for n in range(1, len(stop)))
        open_stop = max((len(start) for start in starts if self.text.endswith(start)), default=0)
        return max(open_stop, len(self.text) - len(self.text.rstrip(_BROKEN)))

    def _piece(self, end: int) -> str:
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece


@dataclass
class Text:
    """A text to be continued.

    Attributes:
        prompt: Its first tokens, at least one.
        sampling: How to choose the next ones.
        generator: Its own random numbers.
        limit: Tokens to be written at most.
        written: Its readable side.
        tokens: What was written, without the token that ended it.
        off_likeliest: How many of the tokens were not the likeliest ones.
        ended: Why it ended: the model's own end of text, a stop string, or the limit.
    """

    prompt: list[int]
    sampling: Sampling
    generator: torch.Generator
    limit: int
    written: Written
    tokens: list[int] = field(default_factory=list)
    off_likeliest: int = 0
    ended: Literal["", "end of text", "stop string", "length"] = ""

    @classmethod
    def make(
        cls,
        number: int,
        prompt: list[int],
        sampling: Sampling,
        limit: int,
        seed: int,
        decode: Decode,
        stops: Sequence[str] = (),
    ) -> "Text":
        """Return a text whose random numbers depend on the seed and on its number alone."""
        if not prompt:
            raise ValueError("a prompt has at least one token: begin an empty one with the end-of-text token")
        if limit < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {limit}")
        return cls(prompt, sampling, generator_of(seed, number), limit, Written(decode, stops))

    def add(self, token: int, off: bool, end: int | None) -> str:
        """Take the next token; return what can be shown."""
        if token == end:
            self.ended = "end of text"
            return self.written.finish()
        self.tokens.append(token)
        self.off_likeliest += off
        piece = self.written.update(self.tokens)
        if self.written.stopped:
            self.ended = "stop string"
        elif len(self.tokens) == self.limit:
            self.ended = "length"
        return piece + self.written.finish() if self.ended else piece


def write(reader: Reader, texts: Sequence[Text], end: int | None, device: torch.device) -> Iterator[list[str]]:
    """Continue texts until each has ended.

    Args:
        reader: Fresh reader, for as many texts.
        texts: Changed in place.
        end: The tokenizer's end-of-text token, which ends a text; ``None`` for none.
        device: Where the reader reads.

    Yields:
        For each text what can be shown now; ``""`` for those that wait or have ended.
    """
    position = min(len(text.prompt) for text in texts)
    logits = reader.read(torch.tensor([text.prompt[:position] for text in texts], device=device))
    while True:
        pieces = _step(logits, texts, position, end)
        yield pieces
        if all(text.ended for text in texts):
            return
        logits = reader.read(torch.tensor([[_token_at(text, position)] for text in texts], device=device))
        position += 1


def _step(logits: Tensor, texts: Sequence[Text], position: int, end: int | None) -> list[str]:
    """Choose the next token of each text whose prompt was read."""
    pieces = [""] * len(texts)
    open_rows = [i for i, text in enumerate(texts) if not text.ended and position >= len(text.prompt)]
    for sampling in dict.fromkeys(texts[i].sampling for i in open_rows):
        rows = [i for i in open_rows if texts[i].sampling == sampling]
        histories = [texts[i].prompt + texts[i].tokens for i in rows]
        chosen, off = choose(logits[rows], sampling, histories, [texts[i].generator for i in rows])
        for i, token, other in zip(rows, chosen.tolist(), off.tolist(), strict=True):
            pieces[i] = texts[i].add(token, other, end)
    return pieces


def _token_at(text: Text, position: int) -> int:
    """Return the token at a position; a text that has ended is filled up with its last one, which nobody reads."""
    if position < len(text.prompt):
        return text.prompt[position]
    return (text.prompt + text.tokens)[min(position, len(text.prompt) + len(text.tokens) - 1)]
