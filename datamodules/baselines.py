"""Simple models for sequences, printed beside every result of a network (pure: numpy, scikit-learn, optionally aeon).

A `fit_*` function sees training sequences only and returns a function from sequences to probabilities. Sequences are
lists of (T_i, F) float32 arrays of real frames; probabilities are (N, num_classes) float64 with rows that sum to 1,
columns in the order of the class indices, 0 for a class that training did not contain. Hands of 22 joints (F = 66) are
first described by `hand_channels`.
"""

import importlib.util
import warnings
from collections.abc import Callable, Sequence

import numpy as np

Sequences = Sequence[np.ndarray]
Predict = Callable[[Sequences], np.ndarray]

HAND_FEATURES, PALM = 66, 1  # 22 joints x 3 in the order of SHREC'17: wrist, palm, fingers


def resample(sequences: Sequences, frames: int) -> np.ndarray:
    """(N, frames, F) float32: every sequence linearly interpolated to `frames` equidistant moments."""
    out = np.empty((len(sequences), frames, sequences[0].shape[1] if len(sequences) else 0), dtype=np.float32)
    for row, sequence in zip(out, sequences, strict=True):
        place = np.linspace(0, len(sequence) - 1, frames)
        low = place.astype(int)
        part = (place - low).astype(np.float32)[:, None]
        row[:] = sequence[low] * (1 - part) + sequence[np.minimum(low + 1, len(sequence) - 1)] * part
    return out


def fit_majority(y: np.ndarray, num_classes: int) -> Predict:
    """The shares of the training labels, whatever the sequence."""
    shares = np.bincount(y, minlength=num_classes) / len(y)
    return lambda sequences: np.tile(shares, (len(sequences), 1))


def fit_extra_trees(
    sequences: Sequences,
    y: np.ndarray,
    num_classes: int,
    frames: int = 24,
    trees: int = 300,
    seed: int = 0,
    jobs: int = 1,
) -> Predict:
    """Extremely randomised trees on `frames` resampled frames and the length.

    Args:
        sequences: Training sequences.
        y: (N,) class index of each.
        num_classes: Columns of the result.
        frames: Moments that every sequence is resampled to.
        trees: Size of the forest.
        seed: Seed of the forest.
        jobs: Processor threads.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    def table(rows: Sequences) -> np.ndarray:
        lengths = np.array([[len(row)] for row in rows], dtype=np.float32)
        return np.hstack([hand_channels(resample(rows, frames)).reshape(len(rows), -1), lengths])

    model = ExtraTreesClassifier(trees, random_state=seed, n_jobs=jobs).fit(table(sequences), y)
    return lambda rows: _columns(model.predict_proba(table(rows)), model.classes_, num_classes)


def has_minirocket() -> bool:
    """Whether aeon is installed (extra `baselines`)."""
    return importlib.util.find_spec("aeon") is not None


def fit_minirocket(
    sequences: Sequences,
    y: np.ndarray,
    num_classes: int,
    frames: int = 96,
    kernels: int = 10_000,
    seed: int = 0,
    jobs: int = 1,
) -> Predict:
    """MiniRocket features and a ridge classifier, what one would try first on time series.

    Source: Dempster, Schmidt, Webb, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series
    Classification", KDD 2021. The probabilities are the softmax of the ridge scores: right order, not calibrated.

    Args:
        sequences: Training sequences.
        y: (N,) class index of each.
        num_classes: Columns of the result.
        frames: Moments that every sequence is resampled to.
        kernels: Number of MiniRocket features.
        seed: Seed of the kernels' biases.
        jobs: Processor threads.

    Raises:
        ImportError: aeon is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what aeon's dependencies say about each other
            from aeon.transformations.collection.convolution_based import MiniRocket
    except ImportError as error:
        raise ImportError("MiniRocket needs aeon: pip install 'lightning-project[baselines]'") from error
    from scipy.special import softmax
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def channels(rows: Sequences) -> np.ndarray:
        return np.ascontiguousarray(hand_channels(resample(rows, frames)).transpose(0, 2, 1))

    rocket = MiniRocket(n_kernels=kernels, random_state=seed, n_jobs=jobs)
    ridge = make_pipeline(StandardScaler(with_mean=False), RidgeClassifierCV(alphas=np.logspace(-3, 4, 10)))
    ridge.fit(rocket.fit_transform(channels(sequences), y), y)

    def predict(rows: Sequences) -> np.ndarray:
        scores = ridge.decision_function(rocket.transform(channels(rows)))
        if scores.ndim == 1:  # two classes: one score
            scores = np.stack([-scores, scores], axis=1)
        return _columns(softmax(scores, axis=1), ridge[-1].classes_, num_classes)

    return predict


def hand_channels(x: np.ndarray) -> np.ndarray:
    """(N, T, 66) to (N, T, 132): joints relative to the palm, then to the palm's first place; other widths unchanged.

    Neither depends on where the hand is, the first shows its shape, the second its path. Chosen on SHREC'17 training
    subjects (two folds): extra trees 0.59 and 0.69 on the raw values, 0.80 and 0.83 on these; MiniRocket 0.82 and 0.83.
    """
    if x.shape[2] != HAND_FEATURES:
        return x
    joints = x.reshape(*x.shape[:2], -1, 3)
    palm = joints[:, :, PALM : PALM + 1]
    return np.concatenate([joints - palm, joints - palm[:, :1]], axis=2).reshape(*x.shape[:2], -1)


def _columns(prob: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Put the columns of the classes seen in training at their class index."""
    out = np.zeros((len(prob), num_classes))
    out[:, classes] = prob
    return out
