"""How tokens are chosen, against the pieces of transformers, by hand, and by chance."""

import pytest
import torch
import transformers as hf
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modules.generation import Sampling, ban_repeats, choose, draw, generator_of, keep_top_k, keep_top_p, penalise
from modules.neural_cache import mix


def scores(rows: int = 3, vocabulary: int = 20) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(1)).double() * 3


HISTORY = [[1, 2, 3, 1, 2], [5, 5, 5, 5, 5], [0, 1, 2, 3, 4]]


def test_the_pieces_agree_with_those_of_transformers():
    given, ids = scores(), torch.tensor(HISTORY)
    pieces = [
        (penalise(given, HISTORY, 1.3, 0.0), hf.RepetitionPenaltyLogitsProcessor(1.3)),
        (ban_repeats(given, HISTORY, 3), hf.NoRepeatNGramLogitsProcessor(3)),
        (ban_repeats(given, HISTORY, 1), hf.NoRepeatNGramLogitsProcessor(1)),
        (keep_top_k(given, 5), hf.TopKLogitsWarper(5)),
        (keep_top_p(given, 0.8), hf.TopPLogitsWarper(0.8)),
        (keep_top_p(given, 0.01), hf.TopPLogitsWarper(0.01)),
    ]
    for ours, theirs in pieces:
        torch.testing.assert_close(ours, theirs(ids, given.clone()))


def test_the_nucleus_keeps_the_token_that_crosses_p():
    given = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.81, 3), (1.0, 4)):
        assert int(keep_top_p(given, p).isfinite().sum()) == kept, p


def test_a_frequency_penalty_counts():
    found = penalise(torch.zeros(1, 4), [[2, 2, 3]], 1.0, 0.5)
    assert found.tolist() == [[0.0, 0.0, -1.0, -0.5]]


def test_penalties_look_at_the_latest_tokens_only_when_told():
    given = torch.tensor([[4.0, 3.9, 0.0]])
    for history, expected in ((0, 1), (1, 0)):  # token 0 occurred two steps ago
        sampling = Sampling("greedy", repetition_penalty=2.0, history=history)
        assert choose(given, sampling, [[0, 2]], [generator_of(0, 0)])[0].tolist() == [expected]


PENALISED = Sampling("greedy", repetition_penalty=1.5, frequency_penalty=0.1)


@pytest.mark.parametrize("shift", [-100.0, 7.0])
def test_a_constant_added_to_the_scores_changes_nothing(shift):
    given = scores(200)
    history = [[i % 20, (i + 3) % 20, int(given[i].argmax())] for i in range(200)]
    for sampling in (PENALISED, Sampling("temperature", repetition_penalty=1.5), Sampling("top_p", no_repeat_ngram=1)):
        found = [
            choose(one, sampling, history, [generator_of(0, i) for i in range(200)])[0]
            for one in (given, given + shift)
        ]
        assert torch.equal(*found), sampling


def test_a_penalty_moves_a_text_away_from_what_its_log_probabilities_repeat():
    given = torch.tensor([[0.9, 0.09, 0.009, 0.001]]).log()
    for rest in (torch.tensor([[]]), torch.full((1, 3), 1e-20).log(), torch.full((1, 3), float("-inf"))):
        row = torch.cat([given, rest], 1)
        for repeated, expected in ((0, 1), (3, 0)):  # the likeliest token, and an unlikely one
            sampling = Sampling("greedy", repetition_penalty=4.0)
            assert choose(row, sampling, [[repeated]], [generator_of(0, 0)])[0].tolist() == [expected]


class NoDoubles(TorchDispatchMode):
    """Refuses float64 anywhere but on the CPU, as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                assert value.device.type == "cpu", func
        return found


@pytest.mark.parametrize("strategy", ["greedy", "temperature", "top_k_top_p"])
def test_an_apple_gpu_is_not_asked_for_the_float64_that_it_lacks(strategy):
    with FakeTensorMode(), NoDoubles():  # no such device is needed: only shapes, types and places are worked out
        logits = torch.zeros(2, 9, device="mps")
        choose(logits, Sampling(strategy, top_k=3), [[1], [2]], [generator_of(0, i) for i in range(2)])
        mix(*(torch.zeros(3, device="mps") for _ in range(2)), 0.2)


def test_where_every_token_is_ruled_out_none_is():
    assert ban_repeats(torch.zeros(1, 2), [[0, 1]], 1).isfinite().all()


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0], dtype=torch.float64)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = draw(probabilities.log().expand(20_000, -1), uniform).bincount(minlength=6) / 20_000
    torch.testing.assert_close(found.double(), probabilities, atol=0.015, rtol=0)
    assert not found[probabilities == 0].any()


def test_the_ends_of_the_draw_have_probability():
    given = torch.tensor([[0.0, 0.5, 0.5, 0.0]], dtype=torch.float64).log().expand(2, -1)
    assert draw(given, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == [1, 2]


def test_top_k_1_is_greedy_and_so_is_a_tiny_nucleus():
    given, generators = scores(50), [generator_of(3, i) for i in range(50)]
    greedy = choose(given, Sampling("greedy"), [[]] * 50, generators)[0]
    assert torch.equal(greedy, given.argmax(-1))
    for sampling in (Sampling("top_k", top_k=1), Sampling("top_p", top_p=1e-9), Sampling("top_k_top_p", top_k=1)):
        assert torch.equal(choose(given, sampling, [[]] * 50, generators)[0], greedy)


def test_every_setting_changes_what_is_chosen():
    given = scores(200)
    history = [[i % 20, (i + 1) % 20, i % 20] for i in range(200)]

    def chosen(sampling: Sampling, seed: int = 0) -> list[int]:
        return choose(given, sampling, history, [generator_of(seed, i) for i in range(200)])[0].tolist()

    base = chosen(Sampling("temperature"))
    assert chosen(Sampling("temperature")) == base
    others = [
        chosen(Sampling("temperature"), seed=1),
        chosen(Sampling("temperature", temperature=2.0)),
        chosen(Sampling("top_k", top_k=3)),
        chosen(Sampling("top_p", top_p=0.5)),
        chosen(Sampling("top_k_top_p", top_k=3, top_p=0.5)),
        chosen(Sampling("temperature", repetition_penalty=3.0)),
        chosen(Sampling("temperature", frequency_penalty=3.0)),
        chosen(Sampling("temperature", frequency_penalty=3.0, history=1)),
        chosen(Sampling("temperature", no_repeat_ngram=1)),
        chosen(Sampling("greedy")),
    ]
    assert len({tuple(one) for one in [base, *others]}) == 11


def test_both_cuts_together_are_the_cuts_after_each_other():
    given = scores(500, 30)
    sampling, generators = Sampling("top_k_top_p", top_k=4, top_p=0.7), [generator_of(0, i) for i in range(500)]
    found = choose(given, sampling, [[]] * 500, generators)[0]
    allowed = keep_top_p(keep_top_k(given, 4), 0.7).isfinite()
    assert allowed.gather(1, found[:, None]).all()
    assert len(allowed.sum(1).unique()) > 1


def test_a_text_has_random_numbers_of_its_own():
    given = scores(4)
    sampling = Sampling("temperature")
    together = choose(given, sampling, [[]] * 4, [generator_of(7, i) for i in range(4)])[0]
    for i in range(4):
        alone = choose(given[i : i + 1], sampling, [[]], [generator_of(7, i)])[0]
        assert alone == together[i]
    drawn = [torch.rand(1, generator=generator_of(seed, text)).item() for seed in range(5) for text in range(5)]
    assert len(set(drawn)) == 25


def test_tokens_off_the_likeliest_are_told():
    given = torch.tensor([[3.0, 2.9, 0.0]])
    assert choose(given, Sampling("greedy"), [[]], [generator_of(0, 0)])[1].tolist() == [False]
    assert choose(given, Sampling("greedy", repetition_penalty=2.0), [[0]], [generator_of(0, 0)])[1].tolist() == [True]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.0}, "use strategy greedy"),
        ({"temperature": -1.0}, "above 0"),
        ({"temperature": float("nan")}, "above 0"),
        ({"top_k": 0}, "at least 1"),
        ({"top_p": 0.0}, "above 0"),
        ({"top_p": 1.1}, "at most 1"),
        ({"repetition_penalty": 0.9}, "at least 1"),
        ({"frequency_penalty": -0.1}, "at least 0"),
        ({"no_repeat_ngram": -1}, "at least 0"),
        ({"strategy": "beam"}, "choose one of greedy"),
    ],
)
def test_settings_without_a_meaning_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**setting)
