"""The numbers of a language model, each recomputed by hand."""

import math

import numpy as np
import pytest

from modules import perplexity as P


def sums(**changed: list[float]) -> dict[str, np.ndarray]:
    base = {"nll": [10.0, 30.0, 5.0], "tokens": [5, 10, 5], "words": [4, 9, 2], "bytes": [20, 50, 10]}
    return {key: np.array(value, float) for key, value in (base | changed).items()}


def test_perplexities_are_those_of_the_sums_and_not_means_of_means():
    found = P.measured(sums())
    assert found["nll"] == pytest.approx(45 / 20)
    assert found["perplexity"] == pytest.approx(math.exp(45 / 20))
    assert found["word_perplexity"] == pytest.approx(math.exp(45 / 15))
    assert found["bits_per_byte"] == pytest.approx(45 / 80 / math.log(2))
    assert found["word_perplexity"] == pytest.approx(found["perplexity"] ** (20 / 15))


def test_resampling_takes_whole_groups_and_is_the_same_for_two_models():
    groups = np.array(["a", "b", "a"])
    drawn = P.resampled(sums(), groups, n=400)
    possible = {math.exp(rate) for rate in (15 / 6, 45 / 15, 30 / 9)}
    assert {round(value, 9) for value in drawn["word_perplexity"]} == {round(value, 9) for value in possible}
    again = P.resampled(sums(nll=[20.0, 60.0, 10.0]), groups, n=400)
    np.testing.assert_allclose(again["nll"], 2 * drawn["nll"])
    low, high = P.intervals(drawn)["word_perplexity"]
    assert low == pytest.approx(min(possible)) and high == pytest.approx(max(possible))


@pytest.mark.parametrize(
    ("value", "floor", "said"),
    [(3.0, None, "implausible"), (30.0, None, ""), (950.0, None, "guessing"), (3.0, 2.5, ""), (3.0, 3.5, "entropy")],
)
def test_implausible_numbers_are_flagged(value, floor, said):
    found = P.flags(value, 1000, floor, word_perplexity=value)
    assert (said in found[0]) if said else not found


def test_a_low_perplexity_per_byte_is_no_alarm_and_one_per_word_is():
    bytes_of_text = 2**1.9  # 1.9 bits per byte
    assert not P.flags(bytes_of_text, 257, None, word_perplexity=bytes_of_text**5.5)
    assert "implausible" in P.flags(1.2, 257, None, word_perplexity=1.2**5.5)[0]


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(100, 16, 16), (100, 16, 5), (10, 16, 4), (2, 3, 1), (97, 8, 1)]
)
def test_windows_count_each_label_once_with_its_context(length, window, stride):
    counted = []
    for start, end, first in P.windows(length, window, stride):
        assert end - 1 - start <= window
        for label in range(first, end):
            counted.append(label)
            assert label - start >= min(label, window - stride + 1)
    assert counted == list(range(1, length))


def test_a_stride_beyond_the_window_is_refused():
    with pytest.raises(ValueError, match="stride"):
        P.windows(100, 16, 17)


def test_distances_are_counted_within_a_document():
    tokens = np.array([5, 6, 5, 5, 5, 6, 7, 6])
    found = P.last_mention(tokens, np.array([0, 4]))
    assert found.tolist() == [0, 0, 2, 1, 0, 0, 0, 2]


def test_losses_by_distance_and_position_hold_every_label_once():
    rng = np.random.default_rng(0)
    nll, distance = rng.exponential(size=5000), rng.integers(0, 3000, size=5000)
    rows = P.by_distance(nll, distance, 256)
    assert sum(row["tokens"] for row in rows) == 5000
    assert [row["low"] for row in rows][:2] == [0, 1] and rows[-1]["high"] == math.inf
    beyond = next(row for row in rows if row["low"] == 257)
    inside = (distance >= 257) & (distance < 1024)
    assert beyond["high"] == 1023 and beyond["perplexity"] == pytest.approx(math.exp(nll[inside].mean()))
    places = P.by_position(nll, distance % 8, [0, 2, 4])
    assert [(row["low"], row["high"]) for row in places] == [(0, 1), (2, 3), (4, math.inf)]
    assert places[0]["perplexity"] == pytest.approx(math.exp(nll[distance % 8 < 2].mean()))


def test_slots_are_counted_by_their_share_of_the_reads():
    even = P.slot_use(np.ones(8), np.full(8, 0.25), np.full((2, 8), 0.5))
    assert even["effective_slots"] == pytest.approx(8) and even["active_share"] == 1.0
    assert (
        even["dead_share"] == 0.0 and P.slot_use(np.array([1, 1e-9]), np.ones(2), np.ones((1, 2)))["dead_share"] == 0.5
    )
    assert even["written_share"] == 0.25 and even["importance_std"] == 0.0
    one = P.slot_use(np.array([1.0, 0, 0, 0]), np.zeros(4), np.array([[0.0, 1.0, 0.0, 1.0]]))
    assert one["effective_slots"] == pytest.approx(1) and one["active_share"] == 0.25
    assert one["importance_mean"] == 0.5 and one["importance_std"] == 0.5


def test_attention_looks_as_far_back_as_its_weights_say():
    before = np.zeros((4, 4))
    before[0, 0] = before[1, 0] = before[2, 1] = before[3, 2] = 1.0
    assert P.attention_use(before) == {"attention_distance": 0.75, "attention_entropy": 0.0}
    even = np.tril(np.ones((2, 4, 4))) / np.arange(1, 5)[:, None]
    found = P.attention_use(even)
    assert found["attention_distance"] == pytest.approx((0 + 0.5 + 1 + 1.5) / 4)
    assert found["attention_entropy"] == pytest.approx(np.log([1, 2, 3, 4]).mean())
