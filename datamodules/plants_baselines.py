"""Simple models for pictures, printed beside every result of a network (pure: numpy and scikit-learn)."""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.special import softmax

CELLS, ORIENTATIONS, COLOURS = 8, 9, 4  # cells a side, directions of an edge, steps of each colour channel
COMPONENTS = 256
SMALL = 16  # side of the pictures that the nearest neighbour compares
Predict = Callable[[np.ndarray], np.ndarray]


class PlantsBaselines:
    """Nearest neighbour on pixels, and logistic regression on oriented gradients and colours; fitted once.

    Pictures are (n, 3, S, S) uint8.
    """

    def __init__(self) -> None:
        self._fitted: dict[str, Predict] = {}

    def predict(
        self, train: np.ndarray, y: np.ndarray, images: np.ndarray, num_classes: int
    ) -> dict[str, np.ndarray | None]:
        """Return probabilities (n, num_classes) for pictures, by name.

        Args:
            train: Training pictures.
            y: Their classes.
            images: Pictures to judge.
            num_classes: Columns of the result.
        """
        if not self._fitted:
            self._fitted["nearest_pixels"] = fit_nearest(train, y, num_classes)
            if len(np.unique(y)) > 1:
                self._fitted["hog_logistic"] = fit_logistic(train, y, num_classes)
        return {name: model(images) for name, model in self._fitted.items()}


def fit_nearest(train: np.ndarray, y: np.ndarray, num_classes: int) -> Predict:
    """Return the class of the nearest training picture, compared pixel by pixel at a small size.

    The probabilities fall with the distance to the nearest picture of each class: right order, not calibrated.
    """
    known = _small(train)
    squares = (known**2).sum(1)
    order = np.argsort(y, kind="stable")
    present, first = np.unique(y[order], return_index=True)

    def predict(images: np.ndarray) -> np.ndarray:
        out = np.zeros((len(images), num_classes))
        for start in range(0, len(images), 512):
            rows = _small(images[start : start + 512])
            distance = (rows**2).sum(1)[:, None] + squares - 2 * rows @ known.T
            nearest = np.minimum.reduceat(np.maximum(distance, 0)[:, order], first, axis=1) ** 0.5
            scale = np.median(nearest, axis=1, keepdims=True) / 10 + 1e-9
            out[start : start + 512, present] = softmax(-nearest / scale, axis=1)
        return out

    return predict


def fit_logistic(train: np.ndarray, y: np.ndarray, num_classes: int) -> Predict:
    """Logistic regression on the principal components of :func:`describe`."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = describe(train)
    components = min(COMPONENTS, len(features) - 1, features.shape[1])
    model = make_pipeline(
        StandardScaler(),
        PCA(components, random_state=0),
        StandardScaler(),
        LogisticRegression(C=0.1, max_iter=200),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not fully converged is near enough for a model to compare with
        model.fit(features, y)

    def predict(images: np.ndarray) -> np.ndarray:
        out = np.zeros((len(images), num_classes))
        out[:, model.classes_] = model.predict_proba(describe(images))
        return out

    return predict


def describe(images: np.ndarray) -> np.ndarray:
    """(n, D) float32: histograms of oriented gradients (Dalal, Triggs 2005) of 8 x 8 cells, and a colour histogram."""
    return np.concatenate(
        [_describe(images[start : start + 256]) for start in range(0, len(images), 256)]
        or [np.zeros((0, (CELLS - 1) ** 2 * 4 * ORIENTATIONS + COLOURS**3), np.float32)]
    )


def _describe(images: np.ndarray) -> np.ndarray:
    count, _, height, width = images.shape
    grey = images.mean(1, dtype=np.float32)
    dy, dx = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
    place = angle / np.pi * ORIENTATIONS
    low = np.floor(place).astype(int)
    share = (place - low).astype(np.float32)
    rows, columns = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
    cell = (np.arange(count)[:, None, None] * CELLS + rows[:, None]) * CELLS + columns
    size = count * CELLS * CELLS * ORIENTATIONS
    counts = np.zeros(size)
    for step, weight in ((low, strength * (1 - share)), (low + 1, strength * share)):
        counts += np.bincount((cell * ORIENTATIONS + step % ORIENTATIONS).ravel(), weight.ravel(), size)
    cells = counts.reshape(count, CELLS, CELLS, ORIENTATIONS).astype(np.float32)
    blocks = np.concatenate([cells[:, :-1, :-1], cells[:, 1:, :-1], cells[:, :-1, 1:], cells[:, 1:, 1:]], axis=3)
    blocks /= np.sqrt((blocks**2).sum(3, keepdims=True)) + 1e-3 * height
    steps = images.astype(int) * COLOURS // 256
    bins = COLOURS**3
    colour = np.arange(count)[:, None, None] * bins + steps[:, 0] * COLOURS**2 + steps[:, 1] * COLOURS + steps[:, 2]
    share_of = np.bincount(colour.ravel(), minlength=count * bins).reshape(count, bins) / (height * width)
    return np.hstack([blocks.reshape(count, -1), np.sqrt(share_of, dtype=np.float32)]).astype(np.float32)


def _small(images: np.ndarray) -> np.ndarray:
    """(n, 3 SMALL²) float32: block means, each picture with mean 0 and length 1."""
    count, channels, height, width = images.shape
    rows = np.linspace(0, height, SMALL, endpoint=False).astype(int)
    columns = np.linspace(0, width, SMALL, endpoint=False).astype(int)
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float32), rows, axis=2), columns, axis=3)
    flat = sums.reshape(count, channels * SMALL * SMALL)
    flat -= flat.mean(1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9)
