"""The benchmarks of `papers` measure what they say: turns, the Trainer of transformers, passes of an encoder."""

import math
from functools import partial

import pytest
import torch

from tests.running import ROOT

CONFIG = ["configs/papers.yaml", "tests/fake_data/papers_tiny.yaml"]
QUICK = ["--trainer.accelerator=cpu"]


def turns_of(order: list[str], length: int, epochs: int = 2, steps: int = 5, fail_at: int | None = None):
    from benchmarks.turns import Turns

    turns = Turns("a", "b", steps, length, torch.device("cpu"))

    def work(side: str, fail_at: int | None) -> None:
        for _ in range(epochs):
            turns.begin(side)
            for number in range(steps):
                if number == fail_at:
                    raise ValueError("broken")
                order.append(f"{side}{number}")
                turns.step(side)
            turns.end(side)

    turns.run(lambda: work("b", fail_at))
    work("a", None)
    turns.finish()
    return turns


def test_two_loops_run_in_turns():
    order: list[str] = []
    turns = turns_of(order, 2)
    epoch = ["a0", "a1", "b0", "b1", "a2", "a3", "b2", "b3", "a4", "b4"]
    assert order == epoch + epoch
    assert [len(found) for found in turns.seconds.values()] == [2, 2] and min(turns.seconds["a"]) > 0
    assert not turns.thread.is_alive()


@pytest.mark.parametrize("length", [1, 5, 9])
def test_the_length_of_a_turn_changes_no_step(length):
    order: list[str] = []
    turns_of(order, length)
    assert sorted(order) == sorted([f"{side}{i}" for side in "ab" for i in range(5)] * 2)


def test_the_failure_of_one_loop_is_an_error_of_the_other():
    with pytest.raises(RuntimeError, match="the b failed") as error:
        turns_of([], 2, fail_at=3)
    assert isinstance(error.value.__cause__, ValueError)


def test_a_loop_whose_partner_stopped_ends():
    from benchmarks.turns import Turns

    turns = Turns("a", "b", 5, 2, torch.device("cpu"))
    turns.run(lambda: pytest.fail("it never had a turn"))
    turns.stop()
    turns.thread.join(timeout=10)
    assert not turns.thread.is_alive()


@pytest.mark.slow
def test_fit_and_the_trainer_train_the_same_on_the_same_papers(tmp_path):
    pytest.importorskip("accelerate")
    from benchmarks.common import epochs, measure
    from benchmarks.hf_trainer import FUSED, describe

    words = [
        *epochs(3),
        FUSED,
        "--data.title_len=40",
        "--trainer.callbacks.turn=3",
        "--model.dropout=0",
        "--model.encoder_dropout=0",
    ]
    found = measure(CONFIG, "benchmarks.hf_trainer.BesideTrainer", [*words, *QUICK], tmp_path)
    assert found["rounds"] == 2 and found["steps"] > 5 and 0 < found["ratio"] < math.inf  # of time: no test of it
    # the same start, loss, rates and papers, in other orders
    assert found["trainer_loss"] == pytest.approx(found["fit_loss"], rel=0.05)
    assert 0 < found["trainer_padding"] < 0.3 and 0 < found["fit_padding"] < 0.3
    assert "target at most 0.95" in describe(found)


def test_the_network_in_the_trainer_is_a_copy_with_the_groups_of_the_system():
    """A bare loop that trained the system's own network, or other groups, would compare nothing."""
    from benchmarks.rounds import copied
    from modules.nets.papers_encoder import SmallEncoder
    from modules.papers import PapersClassifier

    sizes = dict.fromkeys(PapersClassifier.SIZES, 0) | {"num_classes": 4, "vocab_size": 50}
    system = PapersClassifier(
        optimizer=partial(torch.optim.AdamW, lr=1e-3), encoder=SmallEncoder(16, 1, 2, 16), **sizes
    )
    own = system.net
    net, _, groups = copied(system)
    assert system.net is own and net is not own
    inside = {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    assert {id(parameter) for group in groups for parameter in group["params"]} == inside
    shapes = [[[p.shape for p in group["params"]] for group in some] for some in (groups, system.parameter_groups())]
    assert shapes[0] == shapes[1]
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["head_decay"] == pytest.approx(5 * rates["encoder_decay"])


@pytest.mark.slow
def test_the_second_epoch_of_cached_states_makes_no_pass_of_the_encoder(tmp_path):
    from benchmarks.common import epochs, measure
    from benchmarks.states import describe, words_of
    from tests.fake_data.papers import write_encoder

    encoder, found = write_encoder(tmp_path / "encoder"), {}
    for side, words in words_of(str(encoder), tmp_path).items():
        found[side] = measure(CONFIG[:1], "benchmarks.states.Passes", [*words, *epochs(2), *SMALL], tmp_path / side)
    network, cached = found["network"], found["cached"]
    assert network["passes"][1] == network["passes"][0] > 4
    assert cached["passes"] == [0, 0] and cached["passes_before"] > 0
    assert "passes in the second epoch: 0; target 0: reached" in describe(network, cached)


SMALL = ["--trainer.accelerator=cpu", "--data.synthetic_samples=160", "--data.title_len=16", "--data.abstract_len=32"]


def test_the_configs_of_the_benchmarks_exist():
    assert all((ROOT / name).is_file() for name in CONFIG)
