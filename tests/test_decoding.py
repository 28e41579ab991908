"""Texts written side by side: what a reader is asked, when a text ends, and what can be shown when."""

import numpy as np
import pytest
import torch

from modules.continuing import Vocabulary, continue_texts, judge_continuations, places
from modules.decoding import Text, WindowReader, Written, write
from modules.generation import Sampling
from modules.nets.language import Dropouts, LanguageTransformer, Shape
from modules.nets.language_lstm import LanguageLSTM
from modules.nets.memory import Slots
from modules.text_metrics import bleu

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


def test_a_network_without_keys_and_values_reads_the_window_anew():
    torch.manual_seed(0)
    net, given = LanguageLSTM(V, Shape(16, 1, 2, 32, 12), Dropouts(), 0).eval(), tokens(2, 30)
    reader, steps = WindowReader(net, 2, 12), WindowReader(net, 2, 12)
    found = [steps.read(given[:, at : at + 1]) for at in range(30)][-1]
    torch.testing.assert_close(reader.read(given), found, atol=1e-5, rtol=1e-5)
    whole = net(given)["logits"][:, -1]  # an LSTM forgets nothing at the end of a window
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


NETS = {
    "none": (None, {}),
    "rotary and copy": (None, {"positions": "rotary", "copy": 8}),
    "keyed": (Slots(8, 8, 4), {}),
    "keyed, rotary and copy": (Slots(8, 8, 4), {"positions": "rotary", "copy": 8}),
    "brief": (Slots(8, 8, 4, kind="brief"), {"norm": "post"}),
}


def network(name: str) -> LanguageTransformer:
    """A tiny network that is not at its start, where the memory's gate is zero."""
    memory, form = NETS[name]
    torch.manual_seed(0)
    net = LanguageTransformer(V, Shape(16, 2, 2, 32, 12, **{"norm": "pre", **form}), memory=memory)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return net.eval()


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(2))


def by_hand(net: LanguageTransformer, row: torch.Tensor, window: int) -> torch.Tensor:
    """What the reader should say after a text (N,): halves that have left were written, the rest is the window."""
    half, state, gone = window // 2, net.new_state(1, window), 0
    while len(row) - gone > window:
        if state is not None:
            write = (torch.arange(window) < half)[None]
            state = net(row[None, gone : gone + window], state=state, write=write)["state"]
        gone += half
    return net(row[None, gone:], state=state)["logits"][0, -1]


@pytest.mark.parametrize("name", NETS)
def test_the_cache_changes_nothing_over_several_windows_and_neither_do_other_texts(name):
    net, given = network(name), tokens(3, 40)
    cached, plain, alone = WindowReader(net, 3, 12), WindowReader(net, 3, 12, cached=False), WindowReader(net, 1, 12)
    with torch.no_grad():
        for at in range(40):
            piece = given[:, at : at + 1]
            found = cached.read(piece)
            torch.testing.assert_close(plain.read(piece), found, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(alone.read(piece[1:2])[0], found[1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(by_hand(net, given[0, : at + 1], 12), found[0], atol=1e-5, rtol=1e-5)
    assert net(given[:, :12], last=True)["logits"].shape == (3, 1, V)


@pytest.mark.parametrize("name", ["none", "keyed"])
@pytest.mark.parametrize("length", [1, 12, 13, 40])
def test_a_long_prompt_is_read_at_once_as_token_by_token(name, length):
    net, given = network(name), tokens(2, length)
    steps = WindowReader(net, 2, 12)
    last = [steps.read(given[:, at : at + 1]) for at in range(length)][-1]
    torch.testing.assert_close(WindowReader(net, 2, 12).read(given), last, atol=1e-5, rtol=1e-5)


def test_what_has_left_the_window_is_known_by_the_memory_alone():
    given = tokens(1, 30)
    other = given.clone()
    other[:, :6] = (other[:, :6] + 1) % V
    for name, same in (("none", True), ("keyed", False)):
        found = [WindowReader(network(name), 1, 12).read(one) for one in (given, other)]
        assert torch.equal(*found) is same, name


@pytest.mark.parametrize("name", ["none", "keyed, rotary and copy"])
def test_texts_of_a_network_are_the_same_in_any_batch(name):
    net, found = network(name), []
    prompts = [[i % V, (3 * i) % V] * (i + 1) for i in range(7)]
    for batch_size in (1, 3, 7):
        some = texts(prompts, limit=25)
        continue_texts(net, some, 12, END, batch_size)
        found.append([(text.tokens, text.ended) for text in some])
    assert found[0] == found[1] == found[2]


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval"):
        WindowReader(network("none").train(), 1, 12)
    with pytest.raises(ValueError, match="at least 2"):
        WindowReader(network("none"), 1, 1)


def test_places_lie_in_one_document_and_are_spread():
    words, starts = np.arange(100), np.array([0, 30, 37])
    found = list(places(words, starts, prompt=4, length=6, count=5, end=999))
    assert len(found) == 5
    for prompt, true in found:
        assert prompt[-4:] + true == list(range(prompt[-4], prompt[-4] + 10))
        assert any(a <= prompt[-4] and true[-1] < b for a, b in ((0, 30), (37, 100)))
        assert (prompt[0] == 999) == (prompt[-4] in starts)
    assert len(list(places(words, starts, 4, 6, 1000, 999))) == 3 + 0 + 6
    assert list(places(words, starts, 90, 50, 5, 999)) == []


def test_continuations_are_measured_beside_the_true_ones():
    net, words = network("none"), np.arange(60) % V
    chosen = list(places(words, np.array([0]), prompt=4, length=8, count=4, end=END))
    vocabulary = Vocabulary(lambda ids: " ".join("abcdefghijk"[i] for i in ids), V, END, None)
    metrics, some = judge_continuations(net, chosen, vocabulary, 12, Sampling("greedy"), batch_size=2)
    assert [len(text.tokens) for text in some] == [8] * 4
    assert metrics["off_likeliest"] == 0 and metrics["true_repetition_1"] == 0
    true_texts = [[vocabulary.decode(true)] for _, true in chosen]
    assert metrics["bleu_1"] == bleu([text.written.text for text in some], true_texts, 1)
    bold, _ = judge_continuations(net, chosen, vocabulary, 12, Sampling("temperature", temperature=5.0), batch_size=2)
    assert bold["off_likeliest"] > 0.3
    assert bold["repetition_2"] < metrics["repetition_2"]


def test_a_network_can_be_exported_for_any_number_and_length_of_texts():
    from torch.export import Dim, export

    net, flags = network("keyed, rotary and copy"), torch.zeros(4, 10, dtype=torch.bool)
    free = dict.fromkeys((0, 1), Dim.DYNAMIC)
    with torch.no_grad():
        made = export(net, (tokens(4, 10), flags, ~flags), dynamic_shapes=(free, free, free), strict=False).module()
    other = torch.zeros(2, 7, dtype=torch.bool)
    expected = net(tokens(2, 7), other, ~other)["logits"]
    torch.testing.assert_close(made(tokens(2, 7), other, ~other)["logits"], expected)
