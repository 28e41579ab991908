"""Losses of G-code tokens: each head by hand, masked; gamma, smoothing, class weights, curriculum, sampled inputs."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from modules.gcode_losses import PHASES, Losses, TokenLoss, chosen_positions, sampled_inputs
from modules.gcode_tokens import EOS, Vocabulary
from modules.nets.gcode_decoder import Shape, build_decoder
from modules.nets.gcode_heads import Sizes

LINES = ["G1 X1.575 Y-0.25", "X0 Z2", "G2 X1 R0.375", "M30"]
WORDS = Vocabulary.build(LINES, digits=6)
SIZES = Sizes(3, len(WORDS), len(WORDS.commands), len(WORDS.params), 6, 12)
PLAIN = Losses(gamma=0.0, label_smoothing=0.0)
HEADS = ("flat", "type", "command", "param", "sign", "digits", "value")


def targets(lines: list[str] = LINES) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and fields with the end, padded."""
    tokens, fields = torch.zeros(len(lines), 8, dtype=torch.long), torch.full((len(lines), 8, 10), -1)
    for i, line in enumerate(lines):
        ids, rows = WORDS.encode(line), torch.as_tensor(WORDS.fields(line, 6))
        tokens[i, : len(ids) + 1] = torch.tensor([*ids, EOS])
        fields[i, : len(rows)], fields[i, len(rows), 0] = rows, 0
    return tokens, fields


def small(seed: int = 0, **settings: object):
    """A decoder without dropout, and its outputs for the lines."""
    torch.manual_seed(seed)
    shape = Shape(width=16, attention_heads=2, layers=1, ffn=16, dropout=0.0, input_dropout=0.0, **settings)
    net = build_decoder(SIZES, 5, range(4), shape)
    with torch.no_grad():
        for parameter in net.parameters():  # a start in which every path is open
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens, fields = targets()
    context = net.prepare(torch.randn(4, 6, 5), torch.arange(4) % 3)
    hidden, _ = net.hidden(
        context, F.pad(tokens[:, :-1], (1, 0), value=1), F.pad(fields[:, :-1], (0, 0, 1, 0), value=-1)
    )
    return net, net.heads(hidden, context["operation"], fields)


def test_each_head_by_hand_over_its_own_positions():
    _, outputs = small()
    tokens, fields = targets()
    found = TokenLoss(PLAIN, 6)(outputs, tokens, fields, None)
    wanted = {"flat": tokens.masked_fill(tokens == 0, -1), "type": fields[..., 0], "command": fields[..., 1]}
    wanted |= {"param": fields[..., 2], "sign": fields[..., 3], "digits": fields[..., 4:]}
    for name, y in wanted.items():
        log_prob = outputs[name].log_softmax(-1)
        for row in range(4):
            real = y[row] >= 0
            by_hand = -log_prob[row][real].gather(-1, y[row][real][:, None]).mean() if real.any() else torch.tensor(0.0)
            torch.testing.assert_close(found[name][row], by_hand)
    values = torch.tensor([1.575, -0.25])
    by_hand = F.huber_loss(outputs["value"][0][fields[0, :, 3] >= 0], values)
    torch.testing.assert_close(found["value"][0], by_hand)
    assert found["value"][3] == found["digits"][3] == 0  # M30 has no number


def test_padding_is_in_no_loss_and_has_no_gradient():
    _, outputs = small()
    outputs = {name: x.detach().clone() for name, x in outputs.items()}
    tokens, fields = targets()
    padded = tokens == 0
    for x in outputs.values():
        x[padded] = torch.nan
        x.requires_grad_()
    loss = TokenLoss(Losses(), 6)
    total = loss.total(loss(outputs, tokens, fields, None), None).sum()
    assert total.isfinite()
    total.backward()
    for name, x in outputs.items():
        assert (x.grad[padded] == 0).all() and x.grad[~padded].abs().sum() > 0, name


@pytest.mark.parametrize("chain", [False, True])
def test_every_head_gets_a_gradient(chain):
    net, outputs = small(chain=chain)
    loss = TokenLoss(Losses(), 6)
    loss.total(loss(outputs, *targets(), None), None).sum().backward()
    dead = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not dead


@pytest.mark.parametrize("name", HEADS)
def test_the_weight_of_a_head_reaches_its_gradient_and_no_other_heads(name):
    heads = {"flat": "flat", "type": "kind", "command": "command", "param": "param", "sign": "number.sign"}
    heads |= {"digits": "number.digits", "value": "number.value"}
    zeros = dict.fromkeys(HEADS, 0.0)
    net, outputs = small()
    loss = TokenLoss(Losses(**zeros | {name: 1.0}), 6)
    loss.total(loss(outputs, *targets(), None), None).sum().backward()
    for other, place in heads.items():
        gradients = [p.grad for p in net.heads.get_submodule(place).parameters()]
        alive = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        assert alive == (other == name), other


def test_gamma_changes_the_loss_of_type_and_command_alone():
    _, outputs = small()
    found = {gamma: TokenLoss(replace(PLAIN, gamma=gamma), 6)(outputs, *targets(), None) for gamma in (0.0, 1.0, 3.0)}
    for name in HEADS:
        changed = name in ("type", "command")
        assert torch.equal(found[0.0][name], found[3.0][name]) != changed
    assert (found[3.0]["type"] < found[1.0]["type"]).all() and (found[1.0]["type"] < found[0.0]["type"]).all()
    # the command's exponent is one more: (1 - p)^4 at gamma 3
    y = targets()[1][3, 0, 1]
    log_prob = outputs["command"][3, 0].log_softmax(-1)[y]
    torch.testing.assert_close(found[3.0]["command"][3], -((1 - log_prob.exp()) ** 4) * log_prob)


def test_smoothing_changes_every_head_that_chooses():
    _, outputs = small()
    plain, smooth = (TokenLoss(replace(PLAIN, label_smoothing=s), 6)(outputs, *targets(), None) for s in (0.0, 0.1))
    assert all(torch.equal(plain[name], smooth[name]) == (name == "value") for name in HEADS)


def test_class_weights_follow_the_training_counts():
    _, outputs = small()
    loss = TokenLoss(replace(PLAIN, class_weight="balanced"), 6)
    counts = {
        "type": torch.tensor([4, 3, 9, 0]),
        "command": torch.tensor([1, 1, 2]),
        "param": torch.tensor([1, 3, 1, 1]),
    }
    loss.use_counts(counts)
    found, plain = loss(outputs, *targets(), None), TokenLoss(PLAIN, 6)(outputs, *targets(), None)
    for name in HEADS:
        assert torch.equal(found[name], plain[name]) != (name in counts)
    m30 = plain["command"][3]  # n / (K n_c) = 4 / (3 x 2)
    assert WORDS.commands == ("G1", "G2", "M30")
    torch.testing.assert_close(found["command"][3], m30 * 4 / 6)


def test_a_curriculum_has_three_phases():
    settings = Losses(phase_epochs=2)
    assert [settings.phase(epoch) for epoch in range(6)] == [0, 0, 1, 1, 2, 2]
    weights = [settings.weights(epoch) for epoch in (0, 2, 4)]
    assert [found["digits"] for found in weights] == [0.0, 0.5, 1.0]
    assert [found["sign"] for found in weights] == [0.0, 1.0, 1.0]
    assert [found["value"] for found in weights] == [0.0, 0.0, settings.value * PHASES[2][2]]
    assert all(found["command"] == settings.command for found in weights)
    assert settings.weights(None)["value"] == settings.value  # what is judged has no phase
    assert Losses().weights(0) == Losses().weights(None)


def test_the_second_phase_teaches_the_first_digits_alone():
    _, outputs = small()
    digits = outputs["digits"] = outputs["digits"].detach().requires_grad_()
    tokens, fields = targets()
    loss = TokenLoss(Losses(phase_epochs=1), 6)
    for epoch, taught in ((0, [False] * 6), (1, [True] * 3 + [False] * 3), (2, [True] * 6)):
        digits.grad = None
        loss.total(loss(outputs, tokens, fields, epoch), epoch).sum().backward(retain_graph=True)
        assert digits.grad.abs().sum((0, 1, 3)).gt(0).tolist() == taught


def test_teacher_forcing_falls_to_its_end():
    settings = Losses(teacher_forcing=0.5)
    assert settings.true_share(0.0) == 1.0
    assert settings.true_share(0.5) == pytest.approx(0.75)
    assert settings.true_share(1.0) == settings.true_share(7.0) == pytest.approx(0.5)
    assert Losses().true_share(1.0) == 1.0


def test_scheduled_sampling_changes_the_inputs_as_often_as_it_says():
    keys = torch.arange(400)
    chosen = chosen_positions(keys, 10, 0.75, 3, 1)
    assert chosen.float().mean() == pytest.approx(0.25, abs=0.03)
    assert not chosen_positions(keys, 10, 1.0, 3, 1).any() and chosen_positions(keys, 10, 0.0, 3, 1).all()
    torch.testing.assert_close(chosen_positions(keys[5:9], 6, 0.75, 3, 1), chosen[5:9, :6])  # of the window alone
    assert not torch.equal(chosen_positions(keys, 10, 0.75, 3, 2), chosen)  # another epoch
    true, guess = torch.tensor([[1, 11, 12, 13]]), torch.tensor([[21, 22, 23, 24]])
    mask = torch.tensor([[True, True, False, True]])
    assert sampled_inputs(true, guess, mask).tolist() == [[1, 21, 12, 23]]  # BOS stays; a guess is one place behind
    rows = sampled_inputs(true[..., None].expand(-1, -1, 2), guess[..., None].expand(-1, -1, 2), mask)
    assert rows[..., 1].tolist() == [[1, 21, 12, 23]]


@pytest.mark.parametrize("wrong", [{"flat": -1.0}, {"gamma": -1.0}, {"teacher_forcing": 1.5}, {"phase_epochs": -1}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at least 0|must lie in"):
        Losses(**wrong)
