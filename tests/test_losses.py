"""Losses against slow references and against the libraries' own."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modules.losses import CrossEntropy, Focal

LOGITS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
TARGET = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 3, 4])
COUNTS = torch.tensor([4, 2, 2, 2, 20])


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), leaf)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_cross_entropy_equals_torch(smoothing: float, class_weight: str) -> None:
    loss = CrossEntropy(smoothing, class_weight)
    loss.use_counts(COUNTS)
    weight = None if class_weight == "none" else (COUNTS.sum() / (5 * COUNTS)).double()
    target = TARGET.clone()
    target[3] = -1
    ours, theirs = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    value = loss(ours, target)
    reference = functional.cross_entropy(
        theirs, target, weight=weight, ignore_index=-1, reduction="none", label_smoothing=smoothing
    )
    torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient(value, ours), gradient(reference, theirs), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_targets_equal_torch(smoothing: float) -> None:
    soft = torch.rand(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(dim=1)
    reference = functional.cross_entropy(LOGITS, soft, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(smoothing)(LOGITS, soft), reference)


@pytest.mark.parametrize("loss", [CrossEntropy(0.1), Focal(label_smoothing=0.1), Focal(gamma=0.5)])
def test_hard_and_one_hot_targets_agree(loss: CrossEntropy) -> None:
    hot = functional.one_hot(TARGET, 5).double()
    torch.testing.assert_close(loss(LOGITS, TARGET), loss(LOGITS, hot), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_equals_a_slow_loop(gamma: float, smoothing: float) -> None:
    loss = Focal(gamma, "balanced", smoothing)
    loss.use_counts(COUNTS)
    expected = []
    for row, label in zip(LOGITS.tolist(), TARGET.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        terms = 0.0
        for index, value in enumerate(row):
            share = (1 - smoothing) * (index == label) + smoothing / 5
            prob = math.exp(value) / total
            terms -= share * 30 / (5 * COUNTS[index].item()) * (1 - prob) ** gamma * math.log(prob)
        expected.append(terms)
    torch.testing.assert_close(loss(LOGITS, TARGET), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_focal_equals_torchvision_on_two_classes() -> None:
    ops = pytest.importorskip("torchvision.ops")
    score = torch.linspace(-6, 6, 13).requires_grad_()
    label = torch.arange(13) % 2
    ours = Focal(gamma=2.0)(torch.stack([torch.zeros(13), score], dim=1), label)
    theirs = ops.sigmoid_focal_loss(score, label.float(), alpha=-1, gamma=2.0, reduction="none")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, score), gradient(theirs, score))


def test_focal_without_focus_is_cross_entropy() -> None:
    torch.testing.assert_close(Focal(gamma=0.0)(LOGITS, TARGET), CrossEntropy()(LOGITS, TARGET))


@pytest.mark.parametrize("make", [CrossEntropy, Focal])
def test_gradients_pass_the_numeric_check(make: type[CrossEntropy]) -> None:
    loss = make(label_smoothing=0.1)
    target = TARGET.clone()
    target[0] = -1
    assert torch.autograd.gradcheck(lambda logits: loss(logits, target), LOGITS.clone().requires_grad_())


@pytest.mark.parametrize("make", [CrossEntropy, Focal])
@pytest.mark.parametrize("poison", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("label", [-1, -2])
def test_ignored_rows_are_exactly_zero(make: type[CrossEntropy], poison: float, label: int) -> None:
    loss = make(label_smoothing=0.1, class_weight="balanced")
    loss.use_counts(COUNTS)
    logits = LOGITS.clone()
    logits[4] += poison
    logits.requires_grad_()
    hard = TARGET.clone()
    hard[4] = label
    soft = functional.one_hot(TARGET, 5).double()
    soft[4] = 0
    for target in (hard, soft):
        value = loss(logits, target)
        slope = gradient(value, logits)
        assert value[4] == 0 and bool((slope[4] == 0).all())
        others = torch.arange(12) != 4
        assert bool((value[others] > 0).all()) and bool(slope.isfinite().all())


def test_focal_stays_finite_when_sure() -> None:
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0]], requires_grad=True)
    value = Focal(gamma=0.5)(logits, torch.tensor([0, 1]))
    assert bool(value.isfinite().all()) and bool(gradient(value, logits).isfinite().all())


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits = LOGITS.to(torch.bfloat16)
    value = CrossEntropy(0.1)(logits, TARGET)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, CrossEntropy(0.1)(logits.float(), TARGET))


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(0.2, "balanced"), Focal(2.0, "balanced", 0.1)])
def test_expected_loss_of_a_uniform_network(loss: CrossEntropy) -> None:
    loss.use_counts(COUNTS)
    labels = torch.repeat_interleave(torch.arange(5), COUNTS)
    measured = loss(torch.zeros(30, 5), labels).mean().item()
    assert loss.expected_at_init(5) == pytest.approx(measured, rel=1e-5)


def test_balanced_weights_come_from_the_counts_and_stay_out_of_the_checkpoint() -> None:
    loss = CrossEntropy(class_weight="balanced")
    with pytest.raises(RuntimeError, match="use_counts"):
        loss(LOGITS, TARGET)
    loss.use_counts(COUNTS)
    assert loss.class_weights is not None
    torch.testing.assert_close(loss.class_weights, 30 / (5 * COUNTS.float()))
    assert loss.state_dict() == {}
    with pytest.raises(ValueError, match=r"without one: \[1\]"):
        loss.use_counts(torch.tensor([3, 0, 2]))
    with pytest.raises(ValueError, match="do not fit"):
        loss(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_every_setting_changes_the_loss() -> None:
    base = CrossEntropy()(LOGITS, TARGET)
    balanced = CrossEntropy(class_weight="balanced")
    balanced.use_counts(COUNTS)
    others = [CrossEntropy(0.1)(LOGITS, TARGET), balanced(LOGITS, TARGET), Focal()(LOGITS, TARGET)]
    assert not any(torch.allclose(base, other) for other in others)
    assert not torch.allclose(Focal(1.0)(LOGITS, TARGET), Focal(2.0)(LOGITS, TARGET))


def test_wrong_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropy(1.0)
    with pytest.raises(ValueError, match="class_weight"):
        CrossEntropy(class_weight="inverse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gamma"):
        Focal(-1.0)
    with pytest.raises(ValueError, match="do not fit"):
        CrossEntropy()(LOGITS, TARGET[:3])
    with pytest.raises(ValueError, match="do not fit"):
        CrossEntropy()(LOGITS, torch.rand(12, 4))
