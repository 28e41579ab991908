"""Writing lines: the cache, beams, random choices, the grammar as masks, both layouts; tables beside the pure code."""

import random

import numpy as np
import pytest
import torch

from modules.gcode_decoding import Decoding, Writer
from modules.gcode_tables import TokenTables
from modules.gcode_tokens import BOS, EOS, NUMBER, PAD, UNK, Vocabulary, canonical, valid
from modules.line_grammar import Grammar
from modules.nets.gcode_decoder import Shape, build_decoder
from modules.nets.gcode_heads import Sizes
from tests.test_gcode_tokens import LINES, made_line

MORE = [*LINES, "G1 X1 F22", "G2 X1 Y1 R0.5", "G3 X2 I0.5 J1", "M9"]
WORDS = Vocabulary.build([*map(canonical, MORE), "G1 X1\nX2"], digits=6)
LIMIT = 24


def pair(seed: int = 0, words: Vocabulary = WORDS, digits: int = 6, **settings: object):
    """An untrained decoder with lively logits, its tables, and what it reads of five windows."""
    torch.manual_seed(seed)
    sizes = Sizes(3, len(words), len(words.commands) + 1, len(words.params) + 2, digits, LIMIT)
    given = {"width": 16, "attention_heads": 2, "layers": 2, "ffn": 16} | settings
    net = build_decoder(sizes, 5, range(4), Shape(**given)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    context = net.prepare(torch.randn(5, 6, 5), torch.arange(5) % 3)
    return net, TokenTables(words, digits, sizes.num_commands, sizes.num_params), context


def texts(tables: TokenTables, written, layout: str) -> list[str]:
    if layout == "flat":
        return [tables.vocabulary.decode(row) for row in written.tokens.tolist()]
    return [tables.vocabulary.from_fields(row) for row in written.fields.numpy()]


@pytest.mark.parametrize("layout", ["flat", "heads"])
@pytest.mark.parametrize(
    "settings", [{}, {"inputs": "fields", "chain": True}, {"network": "lstm"}, {"positions": False}]
)
@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_the_cache_changes_nothing(layout, settings, method):
    net, tables, context = pair(**settings)
    with torch.inference_mode():
        fast, slow = (
            Writer(net, tables, layout, Decoding(method, beams=3), cached).write(context, LIMIT)
            for cached in (True, False)
        )
    assert torch.equal(fast.tokens, slow.tokens) and torch.equal(fast.fields, slow.fields)
    torch.testing.assert_close(fast.log_prob, slow.log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["flat", "heads"])
@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("seed", range(4))
def test_with_the_grammar_every_ended_line_is_valid(layout, method, seed):
    net, tables, context = pair(seed)
    with torch.inference_mode():
        written = Writer(net, tables, layout, Decoding(method, seed=seed)).write(context, LIMIT)
    found = texts(tables, written, layout)
    assert written.ended.any()
    for line, ended in zip(found, written.ended.tolist(), strict=True):
        assert valid(line) or not ended, line
        assert "?" not in line


def test_without_the_grammar_an_untrained_decoder_writes_nonsense():
    found = []
    for seed in range(4):
        net, tables, context = pair(seed)
        with torch.inference_mode():
            written = Writer(net, tables, "heads", Decoding(grammar=False)).write(context, LIMIT)
        found += texts(tables, written, "heads")
    assert not all(map(valid, found))


@pytest.mark.parametrize("layout", ["flat", "heads"])
def test_a_window_is_written_alike_in_any_batch_and_masked_after_its_end(layout):
    net, tables, context = pair(2)
    with torch.inference_mode():
        writer = Writer(net, tables, layout, Decoding())
        together = writer.write(context, LIMIT)
        for i in range(5):
            alone = writer.write({name: x[i : i + 1] for name, x in context.items()}, LIMIT)
            length = int((alone.tokens[0] != PAD).sum())
            assert torch.equal(alone.tokens[0, :length], together.tokens[i, :length])
    lengths = (together.tokens != PAD).sum(1)
    assert len(set(lengths.tolist())) > 1
    for row, length in enumerate(lengths.tolist()):
        if together.ended[row]:
            assert together.tokens[row, length - 1] == EOS
        assert (together.tokens[row, length:] == PAD).all() and (together.fields[row, length:] == -1).all()
        assert (together.log_prob[row, length:] == 0).all() and (together.log_prob[row, :length] < 0).all()


@pytest.mark.parametrize("layout", ["flat", "heads"])
@pytest.mark.parametrize("settings", [{}, {"inputs": "fields", "chain": True}])
def test_the_log_probability_is_that_of_the_written_tokens(layout, settings):
    """Told again with all its tokens at once, a line has the probability that was kept while it was written."""
    net, tables, context = pair(1, **settings)
    with torch.inference_mode():
        written = Writer(net, tables, layout, Decoding()).write(context, LIMIT)
        tokens = torch.nn.functional.pad(written.tokens[:, :-1], (1, 0), value=BOS)
        fields = torch.nn.functional.pad(written.fields[:, :-1], (0, 0, 1, 0), value=-1)
        hidden, _ = net.hidden(context, tokens, fields)
        outputs = net.heads(hidden, context["operation"], written.fields, true_param=True)
    if layout == "flat":
        each = outputs["flat"].log_softmax(-1).gather(-1, written.tokens[..., None])[..., 0]
        each = each.masked_fill(written.tokens == PAD, 0)
    else:
        each = torch.zeros(written.log_prob.shape)
        zero, number = (written.fields[..., 3] == 2), written.fields[..., 0] == NUMBER
        for i, name in enumerate(("type", "command", "param", "sign", *["digits"] * 6)):
            logits = outputs[name][..., i - 4, :] if i >= 4 else outputs[name]
            y = written.fields[..., i]
            real = (
                (y >= 0) & ~(zero & (i >= 4)) & ~(number & (i == 2))
            )  # zero has no digits; a number's letter is known
            each = each + logits.log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0].masked_fill(~real, 0)
    torch.testing.assert_close(each, written.log_prob, rtol=1e-4, atol=1e-4)


def test_a_beam_finds_more_probable_lines_than_greedy():
    gaps = []
    for seed in range(6):
        net, tables, context = pair(seed)
        with torch.inference_mode():
            greedy, beam = (
                Writer(net, tables, "flat", Decoding(method, beams=8, length_penalty=0.0)).write(context, LIMIT)
                for method in ("greedy", "beam")
            )
        both = greedy.ended & beam.ended
        gaps += (beam.log_prob.sum(1) - greedy.log_prob.sum(1))[both].tolist()
    assert np.mean(gaps) > 0.5 and np.mean(np.array(gaps) > -1e-3) > 0.8


def test_a_beam_of_one_is_greedy_and_a_length_penalty_makes_lines_longer():
    net, tables, context = pair(3)
    with torch.inference_mode():
        one = Writer(net, tables, "flat", Decoding("beam", beams=1)).write(context, LIMIT)
        greedy = Writer(net, tables, "flat", Decoding()).write(context, LIMIT)
        assert torch.equal(one.tokens, greedy.tokens)
        writers = [Writer(net, tables, "flat", Decoding("beam", length_penalty=p)) for p in (0.0, 3.0)]
        lengths = [int((writer.write(context, LIMIT).tokens > 0).sum()) for writer in writers]
    assert lengths[0] < lengths[1]


def test_random_choices_depend_on_seed_temperature_top_k_and_top_p():
    net, tables, context = pair(0)

    def sampled(**settings: object) -> torch.Tensor:
        with torch.inference_mode():
            return Writer(net, tables, "heads", Decoding("sample", **settings)).write(context, LIMIT).fields

    assert torch.equal(sampled(seed=1), sampled(seed=1))
    assert not torch.equal(sampled(seed=1), sampled(seed=2))
    first = [sampled(seed=seed, **settings)[:, :1, :3] for settings in ({"top_k": 1}, {"top_p": 1e-6},
             {"temperature": 1e-4}) for seed in (1, 2)]  # fmt: skip
    assert all(torch.equal(found, first[0]) for found in first)  # nothing is left to chance


@pytest.mark.parametrize("layout", ["flat", "heads"])
def test_random_choices_of_a_window_do_not_depend_on_its_batch(layout):
    net, tables, context = pair(0)
    keys = torch.tensor([7, 3, 11, 4, 9])

    def sampled(rows: list[int], seed: int = 0) -> list[str]:
        some = {name: x[rows] for name, x in context.items()}
        with torch.inference_mode():
            written = Writer(net, tables, layout, Decoding("sample", seed=seed)).write(some, LIMIT, keys[rows])
        return texts(tables, written, layout)

    together = sampled([0, 1, 2, 3, 4])
    assert sampled([4, 2]) + sampled([0]) == [together[4], together[2], together[0]]
    assert sampled([0, 1, 2, 3, 4], seed=1) != together
    with torch.inference_mode():
        same = {name: x[[0] * 200] for name, x in context.items()}
        drawn = Writer(net, tables, layout, Decoding("sample")).write(same, 1, torch.arange(200)).tokens[:, 0]
        free = Writer(net, tables, layout, Decoding("sample")).write(same, 1).tokens[:, 0]
    shares = [torch.bincount(found, minlength=99)[:99] / 200 for found in (drawn, free)]
    assert (shares[0] - shares[1]).abs().max() < 0.15  # the same distribution


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_k": -1}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match="decoding needs"):
        Decoding(**wrong)


def test_a_layout_needs_its_heads_and_evaluation_mode():
    net, tables, _ = pair(field_heads=False)
    with pytest.raises(ValueError, match="layout='heads'"):
        Writer(net, tables, "heads", Decoding())
    with pytest.raises(ValueError, match="evaluation mode"):
        Writer(net.train(), tables, "flat", Decoding())


@pytest.mark.parametrize("digits", [4, 6])
@pytest.mark.parametrize("own", [4, 6])
def test_ids_of_fields_are_those_of_the_text(digits, own):
    rng = random.Random(1)
    lines = [canonical(made_line(rng)) for _ in range(200)]
    words = Vocabulary.build([*lines[:150], *LINES], digits=own)
    tables = TokenTables(words, digits, len(words.commands), len(words.params))
    for line in [*lines, *LINES]:
        rows = torch.as_tensor(words.fields(line, digits))
        text = words.from_fields(rows.numpy())  # four digits have lost some
        assert tables.ids(rows).tolist() == words.encode(text)
        if digits == own == 6:
            known = tables.ids(rows) != UNK
            assert tables.fields[tables.ids(rows)][known].tolist() == rows[known].tolist()
    assert tables.ids(torch.full((2, 4 + digits), -1)).tolist() == [PAD, PAD]


def test_the_grammar_of_a_batch_is_that_of_each_line():
    rng = np.random.default_rng(0)
    commands, params = len(WORDS.commands), len(WORDS.params)
    tables = TokenTables(WORDS, 6, commands + 1, params + 2)
    grammar = Grammar(WORDS.commands, WORDS.params)
    lines, each = tables.start(64), [grammar.start() for _ in range(64)]
    for _ in range(30):
        found = tables.allowed(lines)
        rows = torch.full((64, 10), -1)
        for row, line in enumerate(each):
            allowed = grammar.allowed(line)
            assert found[0][row].tolist() == [*allowed.commands.tolist(), False]
            assert found[1][row].tolist() == [*allowed.letters.tolist(), False, False]
            assert (bool(found[2][row]), bool(found[3][row])) == (allowed.number, allowed.end)
            options = [(1, i) for i in np.flatnonzero(allowed.commands)]
            options += [(2, i) for i in np.flatnonzero(allowed.letters)]
            if allowed.number:
                rows[row, 0], rows[row, 2], each[row] = 3, line.open, grammar.number(line)
            elif options:
                kind, index = options[rng.integers(len(options))]
                rows[row, 0], rows[row, kind] = kind, int(index)
                each[row] = grammar.command(line, index) if kind == 1 else grammar.letter(line, index)
        lines = tables.advance(lines, rows)


def test_a_vocabulary_wider_than_the_network_is_refused():
    with pytest.raises(ValueError, match="the vocabulary has"):
        TokenTables(WORDS, 6, 2, 20)
