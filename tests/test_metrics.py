"""Device metrics against torchmetrics' own, with padding, in any batch split."""

import warnings

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from modules.metrics import build_metrics, rank_of_truth

CLASSES = 6


def sample(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions better than chance; class 5 never occurs and is never predicted."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES - 1, (n,), generator=generator)
    logits = torch.randn(n, CLASSES, generator=generator) + torch.nn.functional.one_hot(y, CLASSES)
    logits[:, -1] = -9
    return logits.softmax(dim=1), y


def compute(prob: Tensor, y: Tensor, batch_size: int, top_k: int = 3) -> dict[str, float]:
    metrics = build_metrics(CLASSES, top_k)
    for start in range(0, len(y), batch_size):
        metrics.update(prob[start : start + batch_size], y[start : start + batch_size])
    return {name: value.item() for name, value in metrics.compute().items()}


def test_equals_torchmetrics() -> None:
    prob, y = sample(200)
    ours = compute(prob, y, 32)
    assert sorted(ours) == ["accuracy", "ece", "macro_f1", "top3"]
    assert ours["accuracy"] == pytest.approx(MulticlassAccuracy(CLASSES, average="micro")(prob, y).item())
    assert ours["macro_f1"] == pytest.approx(MulticlassF1Score(CLASSES, average="macro")(prob, y).item())
    assert ours["top3"] == pytest.approx(MulticlassAccuracy(CLASSES, average="micro", top_k=3)(prob, y).item())
    assert ours["ece"] == pytest.approx(MulticlassCalibrationError(CLASSES, n_bins=15)(prob, y).item(), abs=1e-6)
    assert ours["accuracy"] < ours["top3"] == compute(prob, y, 32)["top3"] < compute(prob, y, 32, top_k=5)["top5"]


@pytest.mark.parametrize("batch_size", [1, 3, 17])
def test_padding_and_batch_split_change_nothing(batch_size: int) -> None:
    prob, y = sample(17)
    expected = compute(prob, y, 17)
    padding = torch.full((len(prob), CLASSES), float("nan"))
    padded = torch.stack([prob, padding], dim=1).flatten(0, 1)
    labels = torch.stack([y, torch.full_like(y, -1)], dim=1).flatten()
    assert compute(padded, labels, batch_size) == pytest.approx(expected, abs=1e-6)


def test_all_padding_batches_and_empty_states() -> None:
    prob, y = sample(9)
    metrics = build_metrics(CLASSES)
    metrics.update(prob, torch.full_like(y, -1))
    metrics.update(prob[:0], y[:0])
    assert all(value.isnan() for value in metrics.compute().values()), "nothing seen is not a score of zero"
    metrics.update(prob, y)
    expected = compute(prob, y, 9)
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(expected)
    metrics.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of a compute before the first update
        assert all(value.isnan() for value in metrics.compute().values())


def test_ties_follow_argmax_and_nan_is_wrong() -> None:
    prob = torch.tensor([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [float("nan")] * 3])
    assert rank_of_truth(prob, torch.tensor([0, 1, 0])).tolist() == [0, 1, 3]


def test_classes_never_trained_are_errors_of_no_class() -> None:
    prob, y = sample(40)
    y[::3] = -2
    ours = compute(prob, y, 7)
    more = torch.cat([prob, torch.zeros(len(prob), 1)], dim=1)  # the same with a seventh class that is never predicted
    truth = torch.where(y == -2, CLASSES, y)
    metrics = build_metrics(CLASSES + 1)
    expected = {name: value.item() for name, value in metrics(more, truth).items()}
    # In the mean over classes that strange class would be one more with F1 = 0.
    classes = len(torch.unique(torch.cat([truth, more.argmax(dim=1)])))
    expected["macro_f1"] *= classes / (classes - 1)
    assert ours == pytest.approx(expected)


def test_certain_predictions_fall_in_the_last_bin() -> None:
    prob = torch.eye(CLASSES)[torch.tensor([0, 1, 2, 3])]
    assert compute(prob, torch.tensor([0, 1, 2, 0]), 4)["ece"] == pytest.approx(0.25)


def test_half_precision_probabilities() -> None:
    prob, y = sample(50)
    low = prob.to(torch.bfloat16)
    assert compute(low, y, 8) == pytest.approx(compute(low.float(), y, 8))


def test_no_step_waits_for_the_device() -> None:
    """Meta tensors hold no values, so any read of one on the host raises."""
    metrics = build_metrics(CLASSES).to("meta")
    metrics.update(torch.empty(4, CLASSES, device="meta"), torch.empty(4, dtype=torch.long, device="meta"))


def test_states_need_no_float64() -> None:
    metrics = build_metrics(CLASSES)
    metrics.update(*sample(5))
    states = [value for metric in metrics.values() for value in metric.metric_state.values()]
    assert {state.dtype for state in states} == {torch.long, torch.float32}
    assert sum(state.numel() for state in states) < 50, "fixed-size sums, no lists of samples"


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        build_metrics(0)


def test_states_of_two_processes_add_up() -> None:
    prob, y = sample(13)
    y[5] = -1
    halves = [build_metrics(CLASSES), build_metrics(CLASSES)]
    for rank, metrics in enumerate(halves):
        metrics.update(prob[rank::2], y[rank::2])
    for name, metric in halves[0].items():
        metric.merge_state(halves[1][name])
    found = {name: value.item() for name, value in halves[0].compute().items()}
    assert found == pytest.approx(compute(prob, y, 4), abs=1e-6)


def test_a_mean_of_very_many_values_keeps_what_rounding_takes():
    from modules.metrics import LongMean, Mean

    values = (torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 5 + 3).split(10)
    exact = torch.cat(values).double().mean().item()
    long, short = LongMean(), Mean()
    for part in values:
        long.update(part, torch.ones_like(part))
        short.update(part, torch.ones_like(part))
    assert abs(long.compute().item() - exact) < 5e-7 * exact
    assert abs(long.compute().item() - exact) <= abs(short.compute().item() - exact)
    long.update(torch.full((3,), float("nan")), torch.zeros(3))
    assert long.compute().isfinite()
