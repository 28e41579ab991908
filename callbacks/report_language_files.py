"""The stored predictions of a language model: what each document cost, from which every figure comes."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from callbacks.report_files import write_npz
from datamodules.errors import DataError

COUNTS = ("n_tokens", "n_words", "n_bytes")


@dataclass(frozen=True)
class TextPredictions:
    """The loss of each document of one part, in the order of the records.

    Attributes:
        id: (D,) record names. group: (D,) resampling units. nll: (D,) nats, float64.
        n_tokens: (D,) int64 tokens of the model. n_words: (D,) words, with one end of line a line. n_bytes: (D,) UTF-8.
    """

    id: np.ndarray
    group: np.ndarray
    nll: np.ndarray
    n_tokens: np.ndarray
    n_words: np.ndarray
    n_bytes: np.ndarray

    def sums(self) -> dict[str, np.ndarray]:
        """Return what ``modules.perplexity`` takes."""
        return {"nll": self.nll, "tokens": self.n_tokens, "words": self.n_words, "bytes": self.n_bytes}

    def with_losses(self, nll: np.ndarray, n_tokens: np.ndarray | None = None) -> "TextPredictions":
        """Return what another model says about the same documents, in its own tokens where given."""
        tokens = self.n_tokens if n_tokens is None else n_tokens
        return TextPredictions(self.id, self.group, nll, tokens, self.n_words, self.n_bytes)

    def save(self, path: str | Path) -> Path:
        """Write the npz of the run folder."""
        text = {name: np.asarray(getattr(self, name), dtype=str) for name in ("id", "group")}
        counts = {name: np.asarray(getattr(self, name), np.int64) for name in COUNTS}
        return write_npz(path, {**text, "nll": self.nll.astype(np.float64), **counts})

    @classmethod
    def load(cls, path: str | Path) -> "TextPredictions":
        """Read an npz written by ``save``.

        Raises:
            DataError: The file is missing, is not such an npz, or its arrays do not fit together.
        """
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = cls(**{name: file[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a language model's predictions ({error}); run `test` again") from error
        if len({len(getattr(found, name)) for name in cls.__dataclass_fields__}) != 1:
            raise DataError(f"{path}: the arrays have different lengths; run `test` again")
        return found
