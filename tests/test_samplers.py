"""Which samples make which batch: each once, exact weights, the same plan anywhere, any position resumed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from datamodules.samplers import BatchLoader, BatchSampler, plan_batches

SIZES = {"n": st.integers(1, 23), "batch": st.integers(1, 9), "ranks": st.integers(1, 3), "seed": st.integers(0, 5)}


class Rows(Dataset):
    """Batches that are their own description."""

    def __getitems__(self, batch):
        real = torch.arange(len(batch.indices)) < batch.real
        return {
            "id": torch.tensor(batch.indices).where(real, torch.tensor(-1)),
            "weight": torch.where(real, batch.weight, 0.0),
            "key": torch.tensor([batch.epoch, batch.step]),
        }


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


def shares(n, batch, ranks, seed=0, epoch=0, shuffle=True, **more):
    """Batches of each rank over records that are not 0, 1, 2, ..."""
    rows = np.arange(n) + 100
    samplers = [BatchSampler(rows, batch, None, None, shuffle, seed, r, ranks, **more) for r in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(BatchLoader(Rows(), sampler)) for sampler in samplers]


@given(**SIZES)
def test_each_index_once_an_epoch_on_any_number_of_processes(n, batch, ranks, seed):
    each = shares(n, batch, ranks, seed)
    found = [i for rank in each for part in ids(rank) for i in part if i >= 0]
    assert sorted(found) == list(range(100, 100 + n))
    # the processes stay in step: as many batches, as many rows in each
    assert len({tuple(len(part) for part in ids(rank)) for rank in each}) == 1
    assert len(each[0]) == -(-n // batch)


@given(**SIZES)
def test_padding_weighs_nothing_and_the_processes_train_on_one_global_batch(n, batch, ranks, seed):
    each, alone = shares(n, batch, ranks, seed), shares(n, batch, 1, seed)[0]
    for step, whole in enumerate(ids(alone)):
        parts = [rank[step] for rank in each]
        assert sorted(i for part in parts for i in part["id"].tolist() if i >= 0) == sorted(whole)
        assert all(((part["id"] < 0) == (part["weight"] == 0)).all() for part in parts)


@given(**SIZES, accumulate=st.integers(1, 4))
def test_weights_give_the_exact_mean_of_each_optimizer_step(n, batch, ranks, seed, accumulate):
    value = np.random.default_rng(seed).normal(size=n + 100)
    each = shares(n, batch, ranks, seed, accumulate=accumulate)
    steps = len(each[0])
    for first in range(0, steps, accumulate):
        window = range(first, min(first + accumulate, steps))
        seen = [i for rank in each for s in window for i in rank[s]["id"].tolist() if i >= 0]
        # as Lightning sums: divided by the accumulated batches, then averaged over the processes
        sums = [sum((rank[s]["weight"].numpy() * value[rank[s]["id"]]).sum() for s in window) for rank in each]
        loss = np.mean(sums) / accumulate
        assert loss == pytest.approx(value[seen].mean(), abs=1e-5)


def test_the_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        torch.manual_seed(np.random.SeedSequence().entropy % 1000)  # no other random stream takes part
        return ids(shares(20, 6, 1, seed, epoch)[0])

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert ids(shares(7, 3, 1, shuffle=False)[0]) == [[100, 101, 102], [103, 104, 105], [106]]


def make_loader(workers=0):
    lengths = np.random.default_rng(0).integers(5, 90, size=21)
    return BatchLoader(Rows(), BatchSampler(np.arange(21), 4, lengths, None, shuffle=True, seed=3), workers)


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return ids(loader)


@pytest.mark.parametrize("position", range(7))
def test_any_position_gives_the_remaining_batches_and_whole_epochs_after(position):
    loader = make_loader()
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    for _ in range(position):
        next(batches)
    state = loader.state_dict()
    resumed = make_loader()
    if position:
        assert state == {"epoch": 2, "position": position}
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
    assert epoch_of(resumed, 2) == epoch_of(make_loader(), 2)[position:]
    assert epoch_of(resumed, 3) == epoch_of(make_loader(), 3)


def test_a_position_belongs_to_its_epoch():
    loader = make_loader()
    loader.load_state_dict({"epoch": 1, "position": 3})  # as after an epoch of fewer batches than the loader has
    assert len(epoch_of(loader, 2)) == len(loader) == 6


@pytest.mark.slow
def test_workers_hand_out_the_same_batches_and_count_only_what_was_handed_out():
    loader = make_loader(workers=2)
    assert epoch_of(loader, 0) == epoch_of(make_loader(), 0)
    loader.sampler.set_epoch(1)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict() == {"epoch": 1, "position": 1}  # though workers are ahead
    resumed = make_loader(workers=2)
    resumed.load_state_dict(loader.state_dict())
    assert epoch_of(resumed, 1) == epoch_of(make_loader(), 1)[1:]


def test_making_batches_moves_no_random_stream():
    before = torch.get_rng_state()
    epoch_of(make_loader(), 0)
    assert torch.equal(before, torch.get_rng_state())


def padded(batches, lengths):
    return sum(len(rows) * lengths[rows].max() for rows in batches)


@pytest.mark.parametrize("shuffle", [True, False])
def test_buckets_pad_less_and_keep_every_sample(shuffle):
    lengths = np.random.default_rng(0).integers(10, 171, size=500)
    plan = {"batch_size": 16, "shuffle": shuffle, "seed": 0}
    mixed, bucketed = (plan_batches(np.arange(500), **plan, lengths=used) for used in (None, lengths))
    assert sorted(np.concatenate(bucketed)) == list(range(500))
    assert padded(bucketed, lengths) < 0.7 * padded(mixed, lengths)
    assert [len(rows) for rows in bucketed] == [16] * 31 + [4]


def test_bucketed_training_order_does_not_run_from_short_to_long():
    lengths = np.arange(320)
    batches = plan_batches(np.arange(320), batch_size=16, shuffle=True, lengths=lengths)
    first = np.array([lengths[rows].mean() for rows in batches])
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.6
    assert all(np.ptp(lengths[rows]) == 15 for rows in batches)  # 20 batches are one window: neighbours in length


def test_balanced_draws_make_each_class_equally_likely_and_never_draw_weight_zero():
    y = np.array([0] * 900 + [1] * 90 + [2] * 9 + [3])
    weights = np.where(y < 3, 1 / np.bincount(y)[y], 0)
    drawn = y[np.concatenate(plan_batches(np.arange(1000), batch_size=32, weights=weights, shuffle=True))]
    share = np.bincount(drawn, minlength=4) / 1000
    assert share[:3] == pytest.approx([1 / 3] * 3, abs=0.06)
    assert share[3] == 0


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        BatchSampler(np.arange(3), size)
