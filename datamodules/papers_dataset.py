"""Makes the batches of `papers` from token ids, from cached states of an encoder, or from one vector a paper."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.base import IGNORE
from datamodules.encoder_states import States, pad_states
from datamodules.kept import Kept, digest
from datamodules.papers_text import PapersTokenizer, Tokens
from datamodules.samplers import Batch, IndexBatch
from datamodules.text_augmentation import TextAugmentation

_TOKENS: Kept[dict[str, Tokens]] = Kept()


class Inputs(Protocol):
    """What makes the arguments of the network."""

    def __call__(self, rows: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Return the named arguments for some records."""
        ...


class TokenInputs:
    """Token ids, made once.

    Args:
        fields: Tokens of all records, by the name of the field (`title` and `abstract`, or `text`).
        pad_id: Id at padding.
    """

    def __init__(self, fields: Mapping[str, Tokens], pad_id: int) -> None:
        self.fields, self.pad_id = dict(fields), pad_id

    def __call__(self, rows: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Return `FIELD_ids` (B, T) int64 and `FIELD_mask` (B, T) bool; T is the longest of the batch."""
        found: dict[str, Tensor] = {}
        for name, tokens in self.fields.items():
            found |= _padded(name, [tokens.text(row) for row in rows], self.pad_id)
        return found


class AugmentedTokens:
    """Token ids of texts that are changed anew in every epoch, as a function of (seed, epoch, record) alone.

    Args:
        titles: Titles of all records.
        abstracts: Their abstracts.
        tokenizer: Makes ids of what the augmentations leave.
        limits: Most tokens by field (`title` and `abstract`, or `text`, a pair of both).
        augmentations: Applied in order to title and abstract.
        seed: Seed of the run.
    """

    def __init__(
        self,
        titles: Sequence[str],
        abstracts: Sequence[str],
        tokenizer: PapersTokenizer,
        limits: Mapping[str, int],
        augmentations: Sequence[TextAugmentation],
        seed: int,
    ) -> None:
        self.titles, self.abstracts, self.tokenizer = titles, abstracts, tokenizer
        self.limits, self.augmentations, self.seed = dict(limits), list(augmentations), seed

    def __call__(self, rows: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Return what `TokenInputs` returns."""
        texts = [self._changed(row, epoch) for row in rows]
        fields = tokenise(self.tokenizer, [text[0] for text in texts], [text[1] for text in texts], self.limits)
        return TokenInputs(fields, self.tokenizer.pad_id)(range(len(rows)), epoch)

    def _changed(self, row: int, epoch: int) -> tuple[str, str]:
        rng = np.random.default_rng([self.seed, epoch, row])
        title, abstract = self.titles[row], self.abstracts[row]
        for augmentation in self.augmentations:
            title, abstract = augmentation(title, rng), augmentation(abstract, rng)
        return title, abstract


class StateInputs:
    """Cached states of a frozen encoder.

    Args:
        fields: By name of the field, pieces of consecutive records (more than one where rows were added later).
    """

    def __init__(self, fields: Mapping[str, Sequence[States]]) -> None:
        self.fields = {name: list(pieces) for name, pieces in fields.items()}

    def __call__(self, rows: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Return `FIELD_states` (B, T, H) float32 and `FIELD_mask` (B, T) bool."""
        found: dict[str, Tensor] = {}
        for name, pieces in self.fields.items():
            states, mask = pad_states([_text_of(pieces, row) for row in rows])
            found |= {f"{name}_states": states, f"{name}_mask": mask}
        return found


class VectorInputs:
    """One vector a paper.

    Args:
        vectors: (N, D) float32 of all records.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def __call__(self, rows: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Return `vector` (B, D) float32."""
        return {"vector": torch.from_numpy(self.vectors[list(rows)])}


class PapersDataset(Dataset[Batch]):
    """Makes batches: the inputs, what stands beside them in tables, and what every batch has.

    Args:
        inputs: Makes the text part.
        y: (N,) class index of each record.
        tables: Further entries of the batch, one row a record: keywords, targets of other tasks.
    """

    def __init__(self, inputs: Inputs, y: np.ndarray, tables: Mapping[str, np.ndarray]) -> None:
        self.inputs, self.y, self.tables = inputs, y, dict(tables)

    def __getitems__(self, batch: IndexBatch) -> Batch:
        """Return one batch."""
        rows = np.array(batch.indices, dtype=np.int64)
        real = np.arange(len(rows)) < batch.real
        found = self.inputs(batch.indices, batch.epoch)
        found |= {name: torch.from_numpy(table[rows]) for name, table in self.tables.items()}
        return found | {
            "y": torch.from_numpy(np.where(real, self.y[rows], IGNORE)),
            "id": torch.from_numpy(np.where(real, rows, -1)),
            "weight": torch.from_numpy(np.where(real, batch.weight, 0).astype(np.float32)),
        }


def tokenise(
    tokenizer: PapersTokenizer, titles: Sequence[str], abstracts: Sequence[str], limits: Mapping[str, int]
) -> dict[str, Tokens]:
    """Return the tokens of each field that `limits` names: title and abstract apart, or `text`, a pair of both."""

    def make() -> dict[str, Tokens]:
        if "text" in limits:
            return {"text": tokenizer.encode(titles, limits["text"], abstracts)}
        return {
            "title": tokenizer.encode(titles, limits["title"]),
            "abstract": tokenizer.encode(abstracts, limits["abstract"]),
        }

    key = (digest([tokenizer.tokenizer.to_str()]), tuple(limits.items()), digest(titles), digest(abstracts))
    return dict(_TOKENS.get(key, make))


def _padded(name: str, texts: Sequence[np.ndarray], pad_id: int) -> dict[str, Tensor]:
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate(texts)
    return {f"{name}_ids": torch.from_numpy(ids), f"{name}_mask": torch.from_numpy(mask)}


def _text_of(pieces: Sequence[States], row: int) -> np.ndarray:
    for piece in pieces:
        if row < len(piece):
            return piece.text(row)
        row -= len(piece)
    raise IndexError(f"no states of record {row}")
