"""Networks of the second stage: counts of the brief, the sums of torch's own layers, what reads what, each switch."""

import pytest
import torch
from torch import nn

from modules.nets.gcode_decoder import Block, Shape, build_decoder, sinusoid
from modules.nets.gcode_encoder import build_encoder
from modules.nets.gcode_heads import Sizes
from modules.nets.gcode_pair import EncoderDecoder
from modules.nets.gcode_summary import Summary, statistics_of

TINY = {"width": 16, "attention_heads": 2, "layers": 2, "ffn": 16, "dropout": 0.0, "input_dropout": 0.0}
SIZES = Sizes(num_classes=3, vocab_size=20, num_commands=4, num_params=5, digits=6, max_tokens=8)


def count(digits: int = 6, **settings: object) -> int:
    net = build_decoder(Sizes(9, 668, 6, 10, digits, 32), 128, range(155), Shape(**settings))
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameter_counts_of_the_brief():
    assert count() == 2_964_848
    assert count(digits=4) == 2_916_156
    assert count(field_heads=False) == 2_666_252  # those that got a gradient behind the brief's figures


def inputs(rows: int = 3, length: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    fields = torch.stack([torch.randint(-1, n, (rows, length)) for n in (4, 4, 5, 3, *[10] * 6)], -1)
    return {"tokens": torch.randint(0, 20, (rows, length)), "fields": fields}


def told(net, memory, operation, summary=None, **changed):
    """All logits side by side, of a decoder in evaluation mode."""
    given = inputs() | changed
    context = net.prepare(memory, operation, summary)
    hidden, _ = net.hidden(context, **given)
    outputs = net.heads(hidden, operation, given["fields"])
    return torch.cat([x.flatten(2) if x.dim() > 2 else x[..., None] for x in outputs.values()], -1)


def lively(**settings: object):
    torch.manual_seed(0)
    conditioned = settings.pop("conditioned", True)
    net = build_decoder(SIZES, 7, range(5), Shape(**TINY | settings), conditioned).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net, torch.randn(3, 9, 7), torch.tensor([0, 1, 2]), torch.randn(3, 9, 5)


def test_a_block_is_torchs_own_decoder_layer():
    shape = Shape(width=16, attention_heads=2, ffn=32)
    torch.manual_seed(0)
    ours = Block(shape).eval()
    theirs = nn.TransformerDecoderLayer(16, 2, 32, norm_first=True, batch_first=True).eval()
    pairs = [(ours.own, theirs.self_attn), (ours.cross, theirs.multihead_attn)]
    for own, other in pairs:
        other.in_proj_weight.data = torch.cat([own.query.weight, own.key_value.weight]).detach().clone()
        other.in_proj_bias.data = torch.cat([own.query.bias, own.key_value.bias]).detach().clone()
        other.out_proj.load_state_dict(own.out.state_dict())
    theirs.linear1.load_state_dict(ours.ffn[0].state_dict())
    theirs.linear2.load_state_dict(ours.ffn[3].state_dict())
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    found, _, _ = ours(x, ours.cross.keys_values(memory), None)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    torch.testing.assert_close(found, theirs(x, memory, tgt_mask=mask, tgt_is_causal=True), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("network", ["transformer", "lstm"])
@pytest.mark.parametrize("kind", ["tokens", "fields"])
def test_no_place_sees_its_own_token_or_later_ones(network, kind):
    net, memory, operation, _ = lively(network=network, inputs=kind)
    before = told(net, memory, operation)
    given = inputs()
    given[kind] = given[kind].clone()
    given[kind][:, 3:] = (given[kind][:, 3:] + 1).clamp(max=2)
    context = net.prepare(memory, operation)
    hidden, _ = net.hidden(context, **given)
    after = torch.cat([net.heads(hidden, operation)[name] for name in ("flat", "type", "param")], -1)
    hidden, _ = net.hidden(context, **inputs())
    wanted = torch.cat([net.heads(hidden, operation)[name] for name in ("flat", "type", "param")], -1)
    torch.testing.assert_close(after[:, :3], wanted[:, :3])
    assert not torch.allclose(after[:, 3:], wanted[:, 3:]) and before.isfinite().all()


@pytest.mark.parametrize("network", ["transformer", "lstm"])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("conditioned", [True, False])
def test_memory_and_operation_are_read_where_they_are_switched_on(network, cross, conditioned):
    net, memory, operation, _ = lively(network=network, cross_attention=cross, conditioned=conditioned)
    base = told(net, memory, operation)
    assert torch.allclose(told(net, memory.flip(2), operation), base) != cross
    assert torch.allclose(told(net, memory, operation.flip(0)), base) != conditioned


def test_positions_tell_the_places_of_tokens_apart():
    same = {"tokens": torch.full((3, 6), 7), "fields": torch.full((3, 6, 10), 1)}
    for positions in (True, False):
        net, memory, operation, _ = lively(positions=positions)
        found = told(net, memory, operation, **same)
        assert torch.allclose(found[:, 0], found[:, 5], atol=1e-5) != positions
    assert sinusoid(3, 4)[1].tolist() == pytest.approx([0.841471, 0.540302, 0.0099998, 0.99995], abs=1e-5)


@pytest.mark.parametrize("settings", [{"summary": "memory"}, {"summary": "window", "summary_bins": 4},
                                      {"summary": "window", "summary_blocks": 3}])  # fmt: skip
@pytest.mark.parametrize("network", ["transformer", "lstm"])
def test_a_summary_reaches_every_token(settings, network):
    net, memory, operation, window = lively(network=network, **settings)
    seen = memory if settings["summary"] == "memory" else window
    base, other = told(net, memory, operation, seen), told(net, memory, operation, seen.roll(1, 0))
    assert ((base - other).abs().amax(-1) > 1e-6).all()


def test_statistics_of_a_window_by_hand():
    x = torch.tensor([[[1.0], [3.0], [8.0]]])
    wanted = [4.0, (26 / 3) ** 0.5, 1.0, 8.0, 1.0 - 4.0, 5.5 - 4.0]
    assert statistics_of(x, 2)[0].tolist() == pytest.approx(wanted, rel=1e-5)
    assert statistics_of(x, 0)[0].tolist() == pytest.approx(wanted[:4], rel=1e-5)


def test_bins_are_equally_full_and_linear_inside():
    windows = torch.arange(101.0)[:, None, None].expand(-1, 2, 1) * torch.tensor([7.0, 1.0])  # the second is read
    summary = Summary([1], 0, 4, 4, 0, 0.0, 0.0)
    summary.fit(windows)
    torch.testing.assert_close(summary.edges[0], torch.tensor([0.0, 25, 50, 75, 100]), atol=1e-3, rtol=0)
    seen = []
    summary.first[1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    summary.eval()(torch.full((1, 2, 2), 60.0), torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(seen[0][0, :4], torch.tensor([1, 1, 0.4, 0]), atol=1e-3, rtol=0)
    assert summary.edges.diff().gt(0).all()  # also of the deviation, which is the same everywhere


def test_inputs_that_are_fields_need_no_entry_of_the_vocabulary():
    net, memory, operation, _ = lively(inputs="fields", flat_head=False)
    base = told(net, memory, operation)
    assert torch.equal(told(net, memory, operation, tokens=torch.zeros(3, 6, dtype=torch.long)), base)
    changed = inputs()["fields"].clone()
    changed[:, 0, 9] = 9  # the last digit
    assert not torch.allclose(told(net, memory, operation, fields=changed), base)


def test_a_chained_digit_knows_the_sign_and_the_digits_before_it_and_no_later_one():
    for chain in (True, False):
        net, memory, operation, _ = lively(chain=chain)
        hidden, _ = net.hidden(net.prepare(memory, operation), **inputs())
        given = inputs()["fields"].clamp(min=0)
        base = net.heads(hidden, operation, given)["digits"]
        for place in range(-1, 6):
            other = given.clone()
            other[..., 4 + place] = (other[..., 4 + place] + 1) % (3 if place < 0 else 10)
            moved = (net.heads(hidden, operation, other)["digits"] - base).abs().amax((0, 1, 3)) > 1e-6
            assert moved.tolist() == [chain and i > place for i in range(6)]


def test_numbers_are_told_by_the_true_letter_on_request():
    net, memory, operation, _ = lively()
    hidden, _ = net.hidden(net.prepare(memory, operation), **inputs())
    given = inputs()["fields"].clamp(min=0)
    other = given.clone()
    other[..., 2] = (other[..., 2] + 1) % 5
    for true_param in (True, False):
        digits = [net.heads(hidden, operation, fields, true_param)["digits"] for fields in (given, other)]
        assert torch.allclose(*digits) != true_param


def both(trained: bool = False, **settings: object):
    torch.manual_seed(0)
    encoder = build_encoder("brief", 5, 3, [3, 2], width=6, dropout=0.5)
    decoder = build_decoder(SIZES, encoder.memory_dim, range(5), Shape(**TINY | settings))
    window = {"continuous": torch.randn(3, 9, 5), "present": torch.ones(3, 5, dtype=torch.bool)}
    window["categorical"] = torch.randint(0, 2, (3, 9, 2))
    return EncoderDecoder(encoder, decoder, trained), window


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_encoder_stays_in_evaluation_mode_and_has_no_gradient(trained):
    net, window = both(trained)
    net.train()
    assert net.decoder.training and net.encoder.training == trained
    assert all(parameter.requires_grad == trained for parameter in net.encoder.parameters())
    given = inputs()
    outputs = net(**window, **given)
    (outputs["logits"].square().mean() + outputs["digits"].mean()).backward()
    assert any(p.grad is not None for p in net.encoder.parameters()) == trained
    assert torch.equal(net(**window, **given)["operation"], outputs["operation"]) != trained  # dropout, or none
    net.eval()
    assert not net.encoder.training


def test_the_decoder_is_told_the_given_operation_or_the_most_probable_one():
    net, window = both()
    net.eval()
    context, logits = net.encode(**window)
    assert torch.equal(context["operation"], logits.argmax(1))
    given = torch.tensor([2, -1, 0])
    context, logits = net.encode(**window, operation=given)
    assert context["operation"].tolist() == [2, int(logits[1].argmax()), 0]


def test_the_decoder_is_told_the_program_of_an_operation():
    net, window = both()
    told = EncoderDecoder(net.encoder, net.decoder, told_as=[0, 1, 1]).eval()
    assert told.encode(**window, operation=torch.tensor([2, 1, 0]))[0]["operation"].tolist() == [1, 1, 0]


def test_noise_is_measured_by_the_memory_of_its_own_window():
    net, window = both(summary="memory")
    net.eval()
    noise = torch.randn(3, 9, 6)
    plain, noisy, other = (net.encode(**window, noise=x)[0]["summary"] for x in (None, noise, noise * 2))
    assert not torch.allclose(plain, noisy) and not torch.allclose(noisy, other)
    one = {name: x[:1] for name, x in window.items()}
    torch.testing.assert_close(net.encode(**one, noise=noise[:1])[0]["summary"], noisy[:1])


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="must be divisible"):
        Shape(width=18)
    with pytest.raises(ValueError, match="needs the flat head"):
        build_decoder(SIZES, 7, range(5), Shape(**TINY, flat_head=False, field_heads=False))
