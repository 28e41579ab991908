"""Decay groups by module and the schedule, against closed forms and through a resume."""

import math

import pytest
import torch
from torch import nn

from modules.optim import Warmup, WarmupCosine, WarmupLinear, parameter_groups


class LearnedPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, 7, 4))
        self.mix = nn.Linear(4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.extra = LearnedPositions()
        self.pos_embed = nn.Parameter(torch.zeros(1, 7, 4))
        self.projection = nn.Parameter(torch.zeros(4, 4))
        self.conv = nn.Conv1d(4, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.words.weight

    def no_weight_decay(self) -> set[str]:
        return {"cls_token"}


def names(net: nn.Module, group: dict) -> set[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in net.named_parameters() if id(parameter) in wanted}


def test_only_weights_that_multiply_decay() -> None:
    net = Net()
    decay, spared = parameter_groups(net, decay_all=False)
    assert names(net, decay) == {
        *("projection", "conv.weight", "extra.mix.weight"),
        *("attention.in_proj_weight", "attention.out_proj.weight"),
    }
    assert {"words.weight", "extra.table", "pos_embed", "cls_token", "norms.0.weight"} <= names(net, spared)
    assert spared["weight_decay"] == 0.0 and "weight_decay" not in decay
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    assert len(decay["params"]) + len(spared["params"]) == len(trainable), "each parameter once, frozen ones left out"


def test_decay_all_is_one_group_and_empty_groups_are_left_out() -> None:
    (group,) = parameter_groups(Net(), decay_all=True)
    assert len(group["params"]) == sum(parameter.requires_grad for parameter in Net().parameters())
    assert [group["name"] for group in parameter_groups(nn.Linear(2, 2, bias=False), decay_all=False)] == ["decay"]


def test_decay_moves_only_the_decay_group() -> None:
    net = Net()
    nn.init.ones_(net.projection)
    optimizer = torch.optim.AdamW(parameter_groups(net, decay_all=False), lr=0.1, weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in net.named_parameters() if not torch.equal(before[name], parameter)}
    assert moved == names(net, optimizer.param_groups[0])


def schedule(lr: float = 0.5, **settings: float) -> tuple[torch.optim.Optimizer, WarmupCosine]:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]}], lr=lr)
    return optimizer, WarmupCosine(optimizer, **settings)  # type: ignore[arg-type]


def walk(optimizer: torch.optim.Optimizer, scheduler: WarmupCosine, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warmup_then_cosine() -> None:
    rates = walk(*schedule(warmup_steps=4, total_steps=14, min_ratio=0.1), 18)
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    expected = [0.5 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1, t / 10)))) for t in range(14)]
    assert rates[4:] == pytest.approx(expected)


def test_without_warmup_it_is_torchs_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)
    assert walk(*schedule(total_steps=9), 9) == pytest.approx(walk(optimizer, reference, 9))  # type: ignore[arg-type]


def test_every_setting_changes_the_rates() -> None:
    base = walk(*schedule(total_steps=10), 8)
    for change in ({"warmup_steps": 3}, {"total_steps": 12}, {"min_ratio": 0.5}):
        assert walk(*schedule(**{"total_steps": 10, **change}), 8) != base


def test_total_steps_may_come_later_but_not_never() -> None:
    optimizer, scheduler = schedule(warmup_steps=2)
    optimizer.step()
    with pytest.raises(RuntimeError, match="total_steps"):
        scheduler.step()
    optimizer, scheduler = schedule(warmup_steps=2)
    scheduler.total_steps = 10
    assert walk(optimizer, scheduler, 10) == walk(*schedule(warmup_steps=2, total_steps=10), 10)


def test_a_run_shorter_than_its_warmup_only_warms_up() -> None:
    assert walk(*schedule(warmup_steps=9, total_steps=3), 3) == pytest.approx([0.05, 0.1, 0.15])


def test_resume_continues_exactly_and_the_live_settings_win() -> None:
    whole = walk(*schedule(warmup_steps=3, total_steps=12), 12)
    optimizer, scheduler = schedule(warmup_steps=3, total_steps=12)
    walk(optimizer, scheduler, 5)
    saved, saved_optimizer = scheduler.state_dict(), optimizer.state_dict()
    optimizer, scheduler = schedule(warmup_steps=3, total_steps=12)
    optimizer.load_state_dict(saved_optimizer)
    scheduler.load_state_dict(saved)
    assert walk(optimizer, scheduler, 7) == whole[5:]
    assert all(isinstance(value, int) for value in saved.values())

    optimizer, scheduler = schedule(lr=1.0, warmup_steps=3, total_steps=24)
    optimizer.load_state_dict(saved_optimizer)
    scheduler.load_state_dict(saved)
    assert walk(optimizer, scheduler, 19) == walk(*schedule(lr=1.0, warmup_steps=3, total_steps=24), 24)[5:]


@pytest.mark.parametrize("wrong", [{"warmup_steps": -1}, {"min_ratio": 1.5}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="need warmup_steps"):
        schedule(**wrong)


def linear(**settings: object) -> WarmupLinear:
    return WarmupLinear(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), **settings)


def test_linear_warms_up_over_a_share_of_the_steps_and_falls_to_the_least() -> None:
    schedule = linear(warmup_share=0.1, total_steps=100, min_ratio=0.2)
    found = [schedule.ratio(step) for step in (0, 9, 10, 55, 100, 900)]
    assert found == pytest.approx([1 / 11, 10 / 11, 1.0, 0.6, 0.2, 0.2])
    assert linear(warmup_share=0.0, total_steps=10).ratio(0) == 1.0


def test_linear_knows_its_first_rate_once_the_steps_are_known() -> None:
    schedule = linear(warmup_share=0.25)
    assert schedule.get_last_lr() == [2.0]  # a share of an unknown number
    schedule.total_steps = 12
    assert schedule.get_last_lr() == [schedule.optimizer.param_groups[0]["lr"]] == [0.5]
    assert schedule.last_epoch == 0
    assert isinstance(schedule, Warmup)  # by which a system knows that a resumed run follows its own config
    schedule.optimizer.step()
    schedule.step()
    assert schedule.optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("wrong", [{"warmup_share": -0.1}, {"warmup_share": 1.0}, {"min_ratio": 2.0}])
def test_wrong_settings_of_the_linear_schedule_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="warmup_share"):
        linear(**wrong)


def test_a_schedule_by_the_clock_warms_up_in_steps_and_falls_in_seconds(monkeypatch):
    from modules import optim

    clock = iter([100.0, 100.0, 105.0, 110.0, 999.0])
    monkeypatch.setattr(optim.time, "monotonic", lambda: next(clock))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = optim.WarmupSeconds(optimizer, warmup_steps=1, seconds=10, min_ratio=0.1)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(4):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates == pytest.approx([0.5, 1.0, 0.55, 0.1, 0.1])
    with pytest.raises(ValueError, match="seconds > 0"):
        optim.WarmupSeconds(optimizer, seconds=0)
