"""Texts written side by side: what a reader is asked, when a text ends, and what can be shown when."""

import pytest
import torch

from modules.decoding import Text, Written, write
from modules.generation import Sampling

V, END = 11, 10
CPU = torch.device("cpu")


class Digits:
    """A reader whose logits depend on the whole text, and on nothing else; it remembers what it was asked."""

    def __init__(self) -> None:
        self.rows: torch.Tensor | None = None

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        self.rows = tokens if self.rows is None else torch.cat([self.rows, tokens], 1)
        seeds = [hash(tuple(row)) % 2**31 for row in self.rows.tolist()]
        return torch.stack([torch.randn(V, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def decode(tokens: list[int]) -> str:
    return "".join("ab cdefgh._"[token] for token in tokens)


def texts(prompts: list[list[int]], limit: int = 30, sampling: Sampling | None = None, stops=(), first: int = 0):
    sampling = sampling or Sampling("temperature")
    return [Text.make(first + i, prompt, sampling, limit, 0, decode, stops) for i, prompt in enumerate(prompts)]


def written(some: list[Text], end: int | None = END) -> list[str]:
    pieces = list(write(Digits(), some, end, CPU))
    return ["".join(column) for column in zip(*pieces, strict=True)]


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 0, 1, 2], [3, 3]]


def test_a_text_is_the_same_alone_and_in_company():
    together = texts(PROMPTS)
    written(together)
    for i, prompt in enumerate(PROMPTS):
        alone = texts([prompt], first=i)
        written(alone)
        assert alone[0].tokens == together[i].tokens
        assert alone[0].ended == together[i].ended
    assert len({tuple(text.tokens) for text in together}) == 4


def test_what_is_shown_is_the_text():
    some = texts(PROMPTS)
    assert written(some) == [decode(text.tokens) for text in some] == [text.written.text for text in some]


def test_each_text_has_its_own_sampling_and_limit():
    some = [
        Text.make(0, [1], Sampling("greedy"), 5, 0, decode),
        Text.make(1, [1], Sampling("temperature", temperature=3.0), 9, 0, decode),
        Text.make(2, [1], Sampling("greedy"), 9, 1, decode),
    ]
    written(some, end=None)
    assert [len(text.tokens) for text in some] == [5, 9, 9]
    assert some[0].tokens == some[2].tokens[:5]
    assert some[0].off_likeliest == 0 < some[1].off_likeliest
    assert some[1].tokens != some[2].tokens


def test_the_end_of_text_ends_a_text_and_is_not_part_of_it():
    some = texts([[i] for i in range(10)], limit=200)
    written(some)
    assert all(END not in text.tokens and text.ended == "end of text" for text in some)
    longer = texts([[i] for i in range(10)], limit=20)
    written(longer, end=None)
    assert {text.ended for text in longer} == {"length"}
    assert any(END in text.tokens for text in longer)


def test_a_stop_string_ends_a_text_wherever_the_tokens_are_cut():
    for length in (1, 2, 3):
        reference = texts(PROMPTS)
        written(reference, end=None)
        stop = reference[0].written.text[5 : 5 + length]
        some = texts(PROMPTS, stops=(stop,))
        shown = written(some, end=None)
        for text, piece, whole in zip(some, shown, reference, strict=True):
            expected = whole.written.text.split(stop)[0]
            assert piece == text.written.text == expected
            assert text.ended == ("stop string" if stop in whole.written.text else "length")


def test_what_may_become_a_stop_string_is_held_back():
    state = Written(lambda tokens: "".join("abc"[token] for token in tokens), stops=("bcb",))
    assert [state.update(tokens) for tokens in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 0])] == ["a", "", "", "bca"]
    assert state.update([0, 1, 2, 0, 1]) == ""
    assert state.finish() == "b"
    assert not state.stopped


def test_half_a_character_is_held_back():
    data = "aé€z".encode()
    state = Written(lambda tokens: bytes(data[token] for token in tokens).decode(errors="replace"))
    shown = [state.update(list(range(n + 1))) for n in range(len(data))]
    assert shown == ["a", "", "é", "", "", "€", "z"]


@pytest.mark.parametrize(
    ("prompt", "limit", "stops", "message"),
    [([], 5, (), "at least one token"), ([1], 0, (), "max_new_tokens"), ([1], 5, ("",), "empty stop")],
)
def test_what_cannot_be_written_is_refused(prompt, limit, stops, message):
    with pytest.raises(ValueError, match=message):
        Text.make(0, prompt, Sampling(), limit, 0, decode, stops)
