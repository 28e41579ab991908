"""The moving average of the weights: its formula, its first steps, and its limits."""

import pytest
import torch
from torch import nn

from callbacks.moving_average import MovingAverage


def averaged(decay, values):
    """Average a weight that takes these values after each step, as a fit would."""
    from torch.optim.swa_utils import AveragedModel

    net = nn.Linear(1, 1, bias=False)
    model = AveragedModel(net, **MovingAverage(decay)._kwargs)
    for value in values:
        with torch.no_grad():
            net.weight.fill_(value)
        model.update_parameters(net)
    return float(model.module.weight.detach())


def test_an_average_follows_its_formula():
    values, expected = [1.0, 3.0, -2.0, 5.0, 0.5], 1.0  # the first step is copied
    for n, value in enumerate(values[1:], start=1):
        share = min(0.4, (1 + n) / (10 + n))
        expected = share * expected + (1 - share) * value
    assert averaged(0.4, values) == pytest.approx(expected, abs=1e-6)


def test_the_ramp_forgets_the_first_weights_sooner_than_a_constant_decay():
    steps = 20
    constant = 100.0 * 0.999 ** (steps - 1)
    assert abs(averaged(0.999, [100.0] + [0.0] * (steps - 1))) < 0.01 * constant


def test_no_decay_is_the_last_weight():
    assert averaged(0.0, [1.0, 2.0, 7.0]) == 7.0


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be in"):
        MovingAverage(decay)
