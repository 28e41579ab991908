"""Mixup: convex pairs, exact soft targets, rows without a label untouched."""

import numpy as np
import pytest
import torch

from modules.losses import CrossEntropy
from modules.mixup import mixup


def batch(n=6):
    x = torch.randn(n, 4, 3)
    mask = torch.arange(4) < torch.arange(1, n + 1).clamp(max=4)[:, None]
    return {"x": x, "mask": mask}, torch.arange(n) % 3


def drawn(n, alpha, seed):
    rng = np.random.default_rng(seed)
    return rng.permutation(n), rng.beta(alpha, alpha)


def test_inputs_and_targets_are_the_same_mixture():
    inputs, y = batch()
    mixed, target = mixup(inputs, y, 3, 0.4, np.random.default_rng(7))
    pairs, share = drawn(6, 0.4, 7)
    one_hot = torch.eye(3)
    torch.testing.assert_close(mixed["x"], share * inputs["x"] + (1 - share) * inputs["x"][pairs])
    torch.testing.assert_close(target, share * one_hot[y] + (1 - share) * one_hot[y[pairs]])
    assert torch.equal(mixed["mask"], inputs["mask"] | inputs["mask"][pairs])
    assert target.sum(1).tolist() == pytest.approx([1] * 6)
    assert target.dtype == mixed["x"].dtype == torch.float32


def test_a_row_without_a_label_neither_changes_nor_lends_itself_nor_costs():
    inputs, y = batch()
    y[1], y[4] = -1, -2
    inputs["x"][1] = inputs["x"][4] = 1e6
    for seed in range(5):
        mixed, target = mixup(inputs, y, 3, 0.4, np.random.default_rng(seed))
        for row in (1, 4):
            assert torch.equal(mixed["x"][row], inputs["x"][row])
            assert target[row].tolist() == [0, 0, 0]
        assert mixed["x"][[0, 2, 3, 5]].abs().max() < 100
        logits = torch.randn(6, 3, requires_grad=True)
        loss = CrossEntropy(label_smoothing=0.1)(logits, target)
        assert (loss == 0).tolist() == [False, True, False, False, True, False]


def test_the_same_key_gives_the_same_mixture_and_no_global_stream_moves():
    inputs, y = batch()
    before = torch.get_rng_state()
    first, second, other = (mixup(inputs, y, 3, 0.4, np.random.default_rng([s, 0, 2]))[0]["x"] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_an_input_that_cannot_be_mixed_is_refused():
    with pytest.raises(ValueError, match="cannot mix the input 'tokens'"):
        mixup({"tokens": torch.zeros(2, 3, dtype=torch.long)}, torch.tensor([0, 1]), 2, 0.4, np.random.default_rng(0))
