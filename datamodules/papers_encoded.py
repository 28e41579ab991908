"""Tokens of all records, and what a frozen encoder makes of them; made when first asked for, grown with the records."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from datamodules.encoder_states import EncoderStates, States
from datamodules.errors import DataError
from datamodules.papers_dataset import Inputs, StateInputs, TokenInputs, VectorInputs, tokenise
from datamodules.papers_text import PapersTokenizer, Tokens

FIELDS = ("title", "abstract")


class Encoded:
    """The text of records in the form that a network takes.

    Args:
        tokenizer: Makes token ids.
        limits: Most tokens by field.
        states: A frozen encoder; None gives tokens.
    """

    def __init__(self, tokenizer: PapersTokenizer, limits: Mapping[str, int], states: EncoderStates | None) -> None:
        self.tokenizer, self.limits, self.encoder = tokenizer, dict(limits), states
        self._tokens: dict[str, Tokens] = {}
        self._states: dict[str, list[States]] = {name: [] for name in FIELDS}
        self._vectors: np.ndarray | None = None

    def tokens(self, records: pd.DataFrame) -> dict[str, Tokens]:
        """Return the tokens of all records by field."""
        done = len(next(iter(self._tokens.values()))) if self._tokens else 0
        if done < len(records):
            missing = records.iloc[done:]
            made = tokenise(self.tokenizer, missing["title"].tolist(), missing["abstract"].tolist(), self.limits)
            self._tokens = {key: self._tokens[key].followed_by(new) if done else new for key, new in made.items()}
        return self._tokens

    def inputs(self, records: pd.DataFrame) -> Inputs:
        """Return what makes the arguments of the network for these records."""
        if self.encoder is None:
            return TokenInputs(self.tokens(records), self.tokenizer.pad_id)
        if self.encoder.as_vectors:
            return VectorInputs(self.vectors(records))
        return StateInputs(self._all_states(records))

    def vectors(self, records: pd.DataFrame) -> np.ndarray:
        """Return (N, 2H) float32, the mean state of the title beside that of the abstract."""
        if self.encoder is None:
            raise DataError("there is no frozen encoder, so papers have no vectors: set --data.states")
        done = 0 if self._vectors is None else len(self._vectors)
        if done < len(records):
            made = self._made_vectors(records, done)
            self._vectors = made if self._vectors is None else np.concatenate([self._vectors, made])
        assert self._vectors is not None
        return self._vectors

    def add_vectors(self, records: pd.DataFrame, vectors: np.ndarray) -> None:
        """Take the vectors of the last records, which have no text.

        Args:
            records: All records.
            vectors: (n, 2H) of the last n of them.

        Raises:
            DataError: The network takes no vectors, or these are of another width.
        """
        if self.encoder is None or not self.encoder.as_vectors:
            raise DataError("rows with vectors and no text need a network on vectors: set --data.states.pooled true")
        known = self.vectors(records.iloc[: len(records) - len(vectors)])
        if vectors.ndim != 2 or vectors.shape[1] != known.shape[1]:
            raise DataError(f"added vectors have shape {vectors.shape}, those of the data are {known.shape[1]} wide")
        self._vectors = np.concatenate([known, vectors.astype(np.float32)])

    def forget(self, count: int) -> None:
        """Keep the first records only."""
        for name, tokens in self._tokens.items():
            if len(tokens) > count:
                end = int(tokens.offsets[count])
                kept = Tokens(tokens.values[:end], tokens.offsets[: count + 1], tokens.truncated[:count])
                self._tokens[name] = kept
        for pieces in self._states.values():
            while pieces and sum(map(len, pieces)) > count:
                pieces.pop()
        self._vectors = None if self._vectors is None else self._vectors[:count]

    def _all_states(self, records: pd.DataFrame) -> dict[str, list[States]]:
        assert self.encoder is not None
        tokens = self.tokens(records)
        for name, pieces in self._states.items():
            done = sum(map(len, pieces))
            if done < len(records):
                pieces.append(self.encoder.get(tokens[name].lists()[done : len(records)], f"{name}s"))
        return self._states

    def _made_vectors(self, records: pd.DataFrame, start: int) -> np.ndarray:
        assert self.encoder is not None
        if self.encoder.as_vectors:
            rows = records.iloc[start:]  # rows that came as vectors lie before them and have no tokens
            tokens = tokenise(self.tokenizer, rows["title"].tolist(), rows["abstract"].tolist(), self.limits)
            parts = [self.encoder.vectors(tokens[name].lists(), f"{name}s") for name in FIELDS]
        else:
            pooled = {name: [self.encoder.pooled(piece) for piece in pieces]
                      for name, pieces in self._all_states(records).items()}  # fmt: skip
            parts = [np.concatenate(pooled[name])[start:] for name in FIELDS]
        return np.concatenate(parts, axis=1).astype(np.float32)
