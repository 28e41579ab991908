"""Simple models for texts, printed beside every result of a network (pure: numpy and scikit-learn).

A `fit_*` function sees training rows only and returns a function from rows to probabilities (N, num_classes) float64;
rows sum to 1, columns are in the order of the class indices, 0 for a class that training did not contain.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PredictTexts = Callable[[Sequence[str]], np.ndarray]
PredictVectors = Callable[[np.ndarray], np.ndarray]


def fit_tfidf(texts: Sequence[str], y: np.ndarray, num_classes: int) -> PredictTexts:
    """TF-IDF of words and pairs of words, and logistic regression with balanced classes.

    Args:
        texts: Training texts, N of them.
        y: (N,) class indices.
        num_classes: Columns of the result.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    table = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
    model = LogisticRegression(class_weight="balanced", max_iter=2000).fit(table.fit_transform(texts), y)
    return lambda rows: _columns(model, table.transform, rows, num_classes)


def fit_vectors(vectors: np.ndarray, y: np.ndarray, num_classes: int) -> PredictVectors:
    """Logistic regression on vectors of a frozen encoder, each scaled to unit length.

    Not balanced, unlike the model on words, so that its confidence is that of the data.

    Args:
        vectors: (N, D) of the training rows.
        y: (N,) class indices.
        num_classes: Columns of the result.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    model = LogisticRegression(C=5.0, max_iter=2000).fit(normalize(vectors), y)
    return lambda rows: _columns(model, normalize, rows, num_classes)


def _columns(model: Any, transform: Callable[[Any], Any], rows: Any, num_classes: int) -> np.ndarray:  # noqa: ANN401
    """Put the columns of the classes seen in training at their class index; no row gives no row."""
    out = np.zeros((len(rows), num_classes))
    if len(rows):
        out[:, model.classes_] = model.predict_proba(transform(rows))
    return out
