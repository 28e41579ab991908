"""Muon and AdamW as one optimizer: who gets what, the same steps as torch's two, and a state that comes back whole."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from modules.muon import MuonAdamW
from modules.nets.language import LanguageTransformer, Shape
from modules.nets.memory import Slots
from modules.optim import WarmupCosine, parameter_groups


def language() -> LanguageTransformer:
    torch.manual_seed(0)
    shape = Shape(16, 2, 2, 32, 16, norm="pre", positions="rotary", gated=True, bias=False, tied=True, copy=8)
    return LanguageTransformer(30, shape, memory=Slots(8, 8, 4))


def learn(net: LanguageTransformer, optimizer: torch.optim.Optimizer, steps: int, schedule: object = None) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        tokens = torch.randint(30, (2, 9))
        state = net.new_state(2, 8)
        net(tokens[:, :-1], state=state, targets=tokens[:, 1:])["nll"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule is not None:
            schedule.step()


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_matrices_go_to_muon_and_embeddings_norms_and_convolutions_do_not():
    net = nn.ModuleDict(
        {"words": nn.Embedding(9, 4), "inner": nn.Linear(4, 4), "norm": nn.LayerNorm(4), "conv": nn.Conv1d(4, 4, 3)}
    )
    optimizer = MuonAdamW(parameter_groups(net, decay_all=False), lr=1e-3, matrix_lr=1e-2)
    found = {
        name: group
        for group in optimizer.param_groups
        for name, parameter in net.named_parameters()
        if any(parameter is one for one in group["params"])
    }
    assert len(found) == len(list(net.parameters()))
    assert [name for name, group in found.items() if "ns_steps" in group] == ["inner.weight"]
    assert {name: group["lr"] for name, group in found.items() if name != "inner.weight"} == dict.fromkeys(
        set(found) - {"inner.weight"}, 1e-3
    )
    assert found["inner.weight"]["lr"] == 1e-2
    assert found["conv.weight"]["weight_decay"] == 0.1 and found["words.weight"]["weight_decay"] == 0


def test_each_step_is_that_of_torchs_two_optimizers_and_a_schedule_drives_both():
    one, two = language(), language()
    optimizer = MuonAdamW(parameter_groups(one, decay_all=False), lr=1e-3, matrix_lr=2e-2, weight_decay=0.2)
    learn(one, optimizer, 6, WarmupCosine(optimizer, 2, 6, 0.1))
    decay, no_decay = parameter_groups(two, decay_all=False)
    parts = [
        Muon(decay["params"], lr=2e-2, weight_decay=0.2, momentum=0.95),
        AdamW([no_decay], lr=1e-3, betas=(0.9, 0.98), eps=1e-9),
    ]
    schedules = [WarmupCosine(part, 2, 6, 0.1) for part in parts]

    class Both:
        step = staticmethod(lambda: [part.step() for part in parts])
        zero_grad = staticmethod(lambda: [part.zero_grad() for part in parts])

    class Rates:
        step = staticmethod(lambda: [schedule.step() for schedule in schedules])

    learn(two, Both(), 6, Rates())
    assert equal(one, two) and not equal(one, language())


@pytest.mark.parametrize("way", ["state_dict", "copy"])
def test_a_state_that_was_kept_goes_on_exactly(way):
    one = language()
    first = MuonAdamW(parameter_groups(one, decay_all=False))
    learn(one, first, 3)
    if way == "copy":
        two, second = copy.deepcopy((one, first))
    else:
        two = copy.deepcopy(one)
        second = MuonAdamW(parameter_groups(two, decay_all=False), lr=9.0, matrix_lr=9.0)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    kept = copy.deepcopy(first.state_dict())
    learn(two, second, 3)
    assert not equal(one, two)
    assert all(
        torch.equal(value, first.state_dict()["state"][i][name])
        for i, entries in kept["state"].items()
        for name, value in entries.items()
    ), "the other's steps changed the first one's state"
    learn(one, first, 3)
    assert equal(one, two)


def test_without_a_matrix_that_decays_it_refuses():
    with pytest.raises(ValueError, match=r"use torch\.optim\.AdamW"):
        MuonAdamW(parameter_groups(nn.Embedding(9, 4), decay_all=False))


def test_a_bare_list_of_parameters_is_refused():
    with pytest.raises(ValueError, match="rates by group"):
        MuonAdamW([nn.Parameter(torch.zeros(1))])


def test_a_closure_is_run_once_with_gradients():
    net = language()
    optimizer, calls = MuonAdamW(parameter_groups(net, decay_all=False)), []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        loss = net(torch.zeros(1, 4).long(), targets=torch.ones(1, 4).long())["nll"].mean()
        loss.backward()
        return loss

    before = language()
    assert optimizer.step(closure) > 0 and calls == [True]
    assert not equal(net, before)
