"""The cache over hidden states: the formula written out slowly, the past alone, and settings from validation."""

import math

import pytest
import torch

from modules.neural_cache import CacheSetting, cache_probabilities, choose, mix


def stream(n: int = 70, width: int = 6, vocab: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator), torch.randint(vocab, (n,), generator=generator)


@pytest.mark.parametrize("block", [1, 16, 512])
def test_the_formula_written_out_gives_the_same_numbers(block):
    hidden, labels = stream()
    found = cache_probabilities(hidden, labels, 20, [3.0, 9.0], block)
    for row, factor in enumerate([3.0, 9.0]):
        for t in range(len(labels)):
            past = range(max(0, t - 20), t)
            weight = {i: math.exp(factor * torch.cosine_similarity(hidden[t], hidden[i], dim=0).item()) for i in past}
            total = sum(weight.values())
            expected = sum(w for i, w in weight.items() if labels[i] == labels[t]) / total if total else 0.0
            assert found[row, t].item() == pytest.approx(expected, abs=1e-5)


def test_the_cache_knows_nothing_of_what_follows():
    hidden, labels = stream()
    changed, other = hidden.clone(), labels.clone()
    changed[40:], other[41:] = 0.5, 0
    before = cache_probabilities(hidden, labels, 20, [4.0])[0, :40]
    assert torch.equal(before, cache_probabilities(changed, other, 20, [4.0])[0, :40])


def test_over_all_labels_the_mixture_sums_to_one():
    hidden, labels = stream()
    t, total = 50, 0.0
    for label in range(5):
        guess = labels.clone()
        guess[t] = label
        cached = cache_probabilities(hidden[: t + 1], guess[: t + 1], 30, [4.0])[0, t]
        total += mix(torch.tensor(math.log(5)), cached, 0.3).neg().exp().item()
    assert total == pytest.approx(1, abs=1e-6)


def test_a_text_that_repeats_itself_asks_for_the_cache_and_noise_does_not():
    hidden, labels = stream(200, 16, 50)
    hidden, labels = hidden.repeat(2, 1), labels.repeat(2)
    nll = torch.full((400,), math.log(50))
    settings = [5.0, 40.0]
    chosen = choose(nll, cache_probabilities(hidden, labels, 300, settings), 300, settings)
    assert chosen.share >= 0.3 and chosen.sharpness == 40.0
    noise = torch.randint(50, (400,), generator=torch.Generator().manual_seed(1))
    noisy = choose(nll, cache_probabilities(torch.randn(400, 16), noise, 300, settings), 300, settings)
    assert noisy.share <= 0.02
    assert isinstance(noisy, CacheSetting)


def test_without_a_share_the_model_is_left_as_it_is():
    nll = torch.rand(10)
    assert mix(nll, torch.zeros(10), 0.0) is nll
    with pytest.raises(ValueError, match="size"):
        cache_probabilities(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), 0, [1.0])
