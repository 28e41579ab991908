import subprocess
import sys

import numpy as np
import pytest

from datamodules.baselines import fit_extra_trees, fit_majority, fit_minirocket, hand_channels, resample


def waves(n, classes, features=3, seed=0):
    """Sequences of 10-30 frames; the class is the frequency."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    sequences = []
    for label in y:
        time = np.linspace(0, 1, rng.integers(10, 31))[:, None]
        sequences.append(
            (np.sin(2 * np.pi * (label + 1) * time) + 0.1 * rng.normal(size=(len(time), features))).astype(np.float32)
        )
    return sequences, y


def test_resample_interpolates_between_first_and_last_frame():
    out = resample([np.array([[0.0], [1.0], [2.0]], dtype=np.float32), np.array([[5.0]], dtype=np.float32)], 5)
    np.testing.assert_allclose(out[..., 0], [[0, 0.5, 1, 1.5, 2], [5, 5, 5, 5, 5]])
    assert resample([], 5).shape == (0, 5, 0)


def test_majority_is_the_training_shares():
    prob = fit_majority(np.array([0, 2, 2, 2]), 4)([np.zeros((3, 1))] * 2)
    np.testing.assert_array_equal(prob, [[0.25, 0, 0.75, 0]] * 2)


def test_extra_trees_learn_and_leave_unseen_classes_at_zero():
    train, y = waves(40, 2)
    test, truth = waves(20, 2, seed=1)
    prob = fit_extra_trees(train, 2 * y, num_classes=4, trees=50)(test)  # classes 0 and 2 of 0..3
    assert prob.shape == (20, 4) and (prob[:, [1, 3]] == 0).all()
    np.testing.assert_allclose(prob.sum(1), 1)
    assert (prob.argmax(1) == 2 * truth).mean() >= 0.9


def test_the_length_is_used():
    train = [np.zeros((5 + 10 * (i % 2), 1), np.float32) for i in range(20)]
    prob = fit_extra_trees(train, np.arange(20) % 2, 2, trees=20)(train)
    assert (prob.argmax(1) == np.arange(20) % 2).all()


def test_the_seed_decides():
    train, y = waves(30, 3)
    first, again, other = (fit_extra_trees(train, y, 3, trees=10, seed=s)(train[::2]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    noisy, label = waves(30, 3, seed=5)
    assert not np.array_equal(
        fit_extra_trees(train, label, 3, trees=10, seed=0)(noisy),
        fit_extra_trees(train, label, 3, trees=10, seed=1)(noisy),
    )
    assert other.shape == first.shape


def test_hands_are_described_free_of_their_place():
    rng = np.random.default_rng(0)
    hand = rng.normal(size=(1, 4, 66)).astype(np.float32)
    moved = hand + np.tile(np.array([1.0, 2.0, 3.0], np.float32), 22)
    out = hand_channels(hand)
    assert out.shape == (1, 4, 132) and not out[:, :, 3:6].any() and not out[:, 0, 69:72].any()
    np.testing.assert_allclose(hand_channels(moved), out, atol=1e-5)
    drifting = hand + np.arange(4)[None, :, None].astype(np.float32)
    np.testing.assert_allclose(hand_channels(drifting)[..., :66], out[..., :66], atol=1e-5)
    assert not np.allclose(hand_channels(drifting)[..., 66:], out[..., 66:], atol=0.5)
    other = rng.normal(size=(1, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(hand_channels(other), other)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_minirocket_learns_and_leaves_unseen_classes_at_zero(classes):
    pytest.importorskip("aeon")
    train, y = waves(30, classes)
    test, truth = waves(12, classes, seed=1)
    prob = fit_minirocket(train, y + 1, num_classes=classes + 2, frames=24, kernels=168)(test)
    assert prob.shape == (12, classes + 2) and (prob[:, [0, -1]] == 0).all()
    np.testing.assert_allclose(prob.sum(1), 1, rtol=1e-5)
    assert (prob.argmax(1) == truth + 1).mean() >= 0.9


def test_without_aeon_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "aeon.transformations.collection.convolution_based", None)
    train, y = waves(6, 2)
    with pytest.raises(ImportError, match=r"pip install 'lightning-project\[baselines\]'"):
        fit_minirocket(train, y, 2)


def test_aeon_is_not_imported_before_it_is_needed():
    code = "import sys, datamodules.baselines as b; b.has_minirocket(); assert 'aeon' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
