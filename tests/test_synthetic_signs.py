import hashlib
import time

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from datamodules.baselines import fit_extra_trees, resample
from datamodules.synthetic.signs import CLASS_NAMES, CONFUSABLE, COUNTS, FEATURES, SyntheticSigns, make_signs

# From the brief's report, index order.
BRIEF = [78, 10, 22, 22, 18, 18, 28, 18, 22, 16, 12, 18, 28, 24, 28, 18, 18, 82, 76, 18, 28, 18, 18, 22, 18, 68, 22, 64]
BRIEF += [18, 18]


@pytest.fixture(scope="module")
def data():
    return make_signs()


def digest(data):
    return hashlib.sha256(
        b"".join(x.tobytes() for x in data.x) + data.y.tobytes() + "".join(data.ids).encode()
    ).hexdigest()


def distances(data):
    points = resample(data.x, 16).reshape(len(data.x), -1).astype(np.float64)
    square = (points**2).sum(1)
    return np.sqrt((square[:, None] + square - 2 * points @ points.T).clip(0))


def test_the_sizes_are_those_of_the_brief(data):
    assert isinstance(data, SyntheticSigns)
    assert len(data.x) == 868 and np.bincount(data.y).tolist() == BRIEF and list(COUNTS.values()) == BRIEF
    assert len(CLASS_NAMES) == 30 and CLASS_NAMES[10] == "Disculpa" and set(CONFUSABLE.values()) <= set(CLASS_NAMES)
    lengths = np.array([len(x) for x in data.x])
    assert lengths.min() >= 24 and 90 < lengths.max() <= 96 and len(set(lengths.tolist())) > 40
    assert all(x.shape[1] == FEATURES and x.dtype == np.float32 and np.isfinite(x).all() for x in data.x)
    assert len(set(data.ids)) == 868


def test_recordings_are_pairs_of_one_class_and_one_signer(data):
    for values in (data.y.tolist(), data.signers):
        assert len({*zip(data.groups, values, strict=True)}) == 434
    assert set(np.unique(data.groups, return_counts=True)[1].tolist()) == {2}
    assert len(set(data.signers)) >= 8


def test_the_same_seed_gives_the_same_bytes_quickly_and_every_knob_acts(data):
    start = time.process_time()
    again = make_signs()
    assert time.process_time() - start < 2.0
    assert digest(again) == digest(data)
    small = digest(make_signs(samples=200))
    for change in ({"seed": 1}, {"noise": 0.5}, {"style": 0.0}, {"samples": 202}):
        assert digest(make_signs(**{"samples": 200, **change})) != small, change


def test_other_sizes_keep_every_class(data):
    for samples in (120, 300, 1736):
        made = make_signs(samples=samples)
        counts = np.bincount(made.y, minlength=30)
        assert len(made.x) == samples and counts.min() >= 4 and (counts % 2 == 0).all()
    with pytest.raises(ValueError, match="samples=119 must be at least 120"):
        make_signs(samples=119)


def test_twins_are_far_closer_than_any_other_recording_of_their_class(data):
    apart = distances(data)
    groups = np.array(data.groups)
    same = groups[:, None] == groups
    other = (data.y[:, None] == data.y) & ~same
    np.fill_diagonal(same, False)
    twin = np.where(same, apart, np.inf).min(1)
    nearest = np.where(other, apart, np.inf).min(1)
    assert (nearest > 3 * twin).all()


def test_one_exact_duplicate_is_planted(data):
    hashes, counts = np.unique([x.tobytes() for x in data.x], return_counts=True)
    assert sorted(counts.tolist())[-2:] == [1, 2] and len(hashes) == 867


def test_it_is_learnable_and_a_split_that_ignores_twins_flatters(data):
    groups = np.array(data.groups)
    train, test = next(StratifiedGroupKFold(4, shuffle=True, random_state=0).split(groups, data.y, groups))
    shuffled = np.random.default_rng(0).permutation(len(groups))

    def accuracy(train, test):
        predict = fit_extra_trees([data.x[i] for i in train], data.y[train], 30, frames=12, trees=60)
        return (predict([data.x[i] for i in test]).argmax(1) == data.y[test]).mean()

    honest, leaky = accuracy(train, test), accuracy(shuffled[: len(train)], shuffled[len(train) :])
    assert 0.4 < honest < 0.85 and leaky > honest + 0.1
