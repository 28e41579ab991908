"""`language`: text as documents, an own vocabulary, and batches of windows or of streams."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.base import SplitDataModule
from datamodules.errors import DataError
from datamodules.language_layout import Corpus, Order, TextBatches, TextSampler
from datamodules.language_text import (
    Boundary,
    Synthetic,
    as_records,
    check_enough,
    documents_of_hub,
    documents_of_path,
    synthetic_texts,
)
from datamodules.language_tokenizer import Kind, Tokenizer, read_tokenizer
from datamodules.samplers import Batch, BatchLoader


class LanguageData(SplitDataModule):
    """Text for a language model; one record a document.

    The vocabulary is trained on the training documents alone and travels in the checkpoint. Token arrays are kept as
    memory-mapped files under the hash of what they were made from.

    Args:
        path: Text file, or folder of text files; ``None`` and no ``hub`` is the embedded text.
        hub: Data set of the hub with a column ``text``, as ``DATASET/CONFIG``.
        predict_path: Text file or folder to score with ``predict``.
        boundary: Where a document begins.
        tokenizer: How text is cut into tokens.
        tokenizer_path: Folder with GPT-2's ``vocab.json`` and ``merges.txt``, for the tokenizer ``gpt2``.
        vocabulary_from: Run folder or checkpoint whose vocabulary is taken, in place of a new one; ``fit --init_from``
            sets it.
        vocab_size: Most entries of the vocabulary, for ``bpe`` and ``words``; ``None`` is 8,000, and all words.
        window: Tokens of a window, or of a segment of a stream.
        stride: Tokens by which a window moves on in an evaluation; ``None`` is the window: no label twice in context.
        order: Training on shuffled windows, or on contiguous streams, which a memory needs.
        cache: Folder of token files; ``None`` keeps tokens in memory.
        synthetic: Kind of the embedded text: articles, pairs to recall, or words without any structure.
        synthetic_samples: Words of the embedded text.
        synthetic_seed: Its seed.
        batch_size: Windows of a batch, over all processes.
        num_workers: Loader processes.
        predict_part: ``predict`` scores this part of the run's own split, in place of new text; never test.

    Attributes:
        tokenizer: The vocabulary, once there is a split (or a checkpoint was read).
        vocab_size: Its entries.
    """

    tokenizer: Tokenizer | None

    def __init__(
        self,
        *,
        path: str | None = None,
        hub: str | None = None,
        predict_path: str | None = None,
        boundary: Boundary = "heading",
        tokenizer: Kind = "bpe",
        tokenizer_path: str | None = None,
        vocabulary_from: str | None = None,
        vocab_size: int | None = None,
        window: int = 256,
        stride: int | None = None,
        order: Order = "windows",
        cache: str | None = "cache/language",
        synthetic: Synthetic = "articles",
        synthetic_samples: int = 1_000_000,
        synthetic_seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        predict_part: Literal["train", "val", "calib"] | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, bucket=False, predict_part=predict_part)
        if path is not None and hub is not None:
            raise ValueError("path and hub exclude each other: the text comes from one place")
        if window < 2 or not 1 <= (stride or window) <= window:
            raise ValueError(f"need window >= 2 and 1 <= stride <= window, got {window} and {stride}")
        self.path, self.hub, self.predict_path, self.boundary = path, hub, predict_path, boundary
        self.kind, self.tokenizer_path, self.wanted_size = tokenizer, tokenizer_path, vocab_size
        self.vocabulary_from = vocabulary_from
        self.window, self.stride, self.order, self.cache = window, stride or window, order, cache
        self.synthetic, self.synthetic_samples, self.synthetic_seed = synthetic, synthetic_samples, synthetic_seed
        self.tokenizer = None
        self.vocab_size = 0
        self._texts: list[str] = []
        self._nats: np.ndarray | None = None
        self._trained_on = ""
        self._encoded: tuple[str, np.ndarray, np.ndarray] | None = None
        self._corpora: dict[str | None, Corpus] = {}

    # records

    def read_records(self) -> pd.DataFrame:
        """Read the documents, and what the embedded text's generator knows of them."""
        self._nats = None
        if self.path is not None:
            documents = documents_of_path(self.path, self.boundary)
        elif self.hub is not None:
            documents = documents_of_hub(self.hub, self.boundary)
        else:
            texts = synthetic_texts(self.synthetic, self.synthetic_samples, self.synthetic_seed)
            self._nats = np.array([text.nats for text in texts])
            documents = [(f"{self.synthetic}-{i}", text.name, text.text, "") for i, text in enumerate(texts)]
        if source := self.path or self.hub:
            check_enough(documents, source)
        return self._take_documents(documents)

    def read_predict_records(self) -> pd.DataFrame:
        """Read the text to score."""
        if self.predict_path is None:
            raise DataError("there is no text to score: set --data.predict_path to a text file or a folder of them")
        self._nats = None
        return self._take_documents(documents_of_path(self.predict_path, self.boundary))

    def _take_documents(self, documents: list[tuple[str, str, str, str]]) -> pd.DataFrame:
        records, self._texts = as_records(documents)
        self._forget_tokens()
        self.source_classes = ["text"]
        return records

    def _forget_tokens(self) -> None:
        self._encoded, self._corpora = None, {}

    # vocabulary

    def apply_split(self, table: pd.DataFrame) -> None:
        """Take a split and make the vocabulary from its training part."""
        super().apply_split(table)
        self._corpora = {}
        train = self.indices("train")
        given = json.dumps([self.kind, self.wanted_size, table["hash"].iloc[train].tolist()])
        if self.vocabulary_from is not None:
            self._use(read_tokenizer(self.vocabulary_from))
        elif self.tokenizer is None or self._trained_on != given:
            rank_zero_info(f"vocabulary: {self.kind}, from {len(train)} training documents")
            texts = (self._texts[i] for i in train)
            self._use(Tokenizer.train(self.kind, texts, self.wanted_size, self.tokenizer_path))
            self._trained_on = given
        self.class_names = [self._tokenizer().fingerprint]

    def _use(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size
        self._forget_tokens()

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise DataError("there is no vocabulary yet: it is trained on the split, or comes with a checkpoint")
        return self.tokenizer

    @property
    def num_classes(self) -> int:
        """Entries of the vocabulary."""
        return self.vocab_size

    def state_dict(self) -> dict[str, Any]:
        """Return the vocabulary, for the checkpoint."""
        return {"tokenizer": self.tokenizer.state_dict()} if self.tokenizer is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the vocabulary of a checkpoint where there is none; another one is left for the system to refuse."""
        if state_dict and self.tokenizer is None:
            self._use(Tokenizer.from_state(state_dict["tokenizer"]))
            self.class_names = [self._tokenizer().fingerprint]

    # tokens

    def text(self, index: int) -> str:
        """Return the text of a record."""
        return self._texts[index]

    def corpus(self, part: str | None) -> Corpus:
        """Return the labels of a part, made once; ``None`` is all records."""
        if part not in self._corpora:
            documents = np.arange(len(self._texts)) if part is None else self._not_empty(part)
            self._corpora[part] = self._corpus_of(documents)
        return self._corpora[part]

    def _corpus_of(self, documents: np.ndarray) -> Corpus:
        values, offsets = self._all_tokens()
        lengths = np.diff(offsets)[documents]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        if (np.diff(documents) == 1).all():  # neighbours stay in the file: a view of the map, no copy in memory
            labels = np.asarray(values)[offsets[documents[0]] : offsets[documents[-1] + 1]]
        else:
            labels = np.concatenate([values[offsets[i] : offsets[i + 1]] for i in documents])
        return Corpus(labels, starts, documents, self._tokenizer().eos_id)

    def tokens(self, part: str) -> np.ndarray:
        """Return all labels of a part (N,), documents in the order of the records, each with its closing token."""
        return self.corpus(part).labels

    def starts(self, part: str) -> np.ndarray:
        """Return where each document of a part begins in :meth:`tokens` (D,)."""
        return self.corpus(part).starts

    def documents(self, part: str) -> np.ndarray:
        """Return the records of a part (D,)."""
        return self.indices(part)

    def counts(self, part: str) -> pd.DataFrame:
        """Return document, n_tokens, n_words, n_bytes of each document of a part."""
        corpus, records = self.corpus(part), self._records()
        chosen = records.iloc[corpus.documents]
        return pd.DataFrame(
            {
                "document": corpus.documents,
                "n_tokens": corpus.lengths - (0 if corpus.context is None else corpus.context),
                "n_words": chosen["n_words"].to_numpy(),
                "n_bytes": chosen["n_bytes"].to_numpy(),
            }
        )

    @property
    def question(self) -> int | None:
        """Token of the embedded text ``recall`` that stands before an answer of one token; ``None`` where none does.

        Only a vocabulary of words has one: else an answer is several tokens, and its first one often the same.
        """
        tokenizer = self._tokenizer()
        if self.path is not None or self.hub is not None or self.synthetic != "recall" or tokenizer.kind != "words":
            return None
        found = int(tokenizer.encode("?")[0])
        return found if found != tokenizer.unk_id else None

    def entropy(self, part: str) -> float | None:
        """Return the surprise per word of a part to who knows the generator of the embedded text, or ``None``."""
        if self._nats is None:
            return None
        chosen = self._not_empty(part)
        return float(self._nats[chosen].sum() / self._records()["n_words"].iloc[chosen].sum())

    def _all_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of all records and where each begins, from memory, from the cache, or made now."""
        tokenizer, records = self._tokenizer(), self._records()
        key = hashlib.sha256("\n".join([tokenizer.fingerprint, *records["hash"]]).encode()).hexdigest()
        if self._encoded is None or self._encoded[0] != key:
            folder = Path(self.cache) / key[:32] if self.cache is not None else None
            if folder is None or not (folder / "offsets.npy").is_file():
                values, offsets = self._encode(tokenizer)
                if folder is not None:
                    _write_array(folder / "tokens.npy", values)
                    _write_array(folder / "offsets.npy", offsets)  # last: it says that the folder is whole
            if folder is not None:
                values = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
                offsets = np.load(folder / "offsets.npy", allow_pickle=False)
            self._encoded = (key, values, offsets)
        return self._encoded[1:]

    def _encode(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        end = np.array([tokenizer.eos_id] if tokenizer.closes else [], np.int32)
        shown = tqdm(self._texts, desc="tokens", unit=" documents", disable=None, leave=False)
        pieces = [np.concatenate([tokenizer.encode(text), end]) for text in shown]
        short = [i for i, piece in enumerate(pieces) if not len(piece)]
        if short:
            raise DataError(f"document {self._records()['id'].iat[short[0]]!r} has no token: leave it out")
        return np.concatenate(pieces), np.cumsum([0, *map(len, pieces)])

    # batches

    def dataset(self, indices: np.ndarray, train: bool) -> Dataset[Batch]:
        """Return what makes batches of these documents."""
        return self._batches(self._corpus_of(indices), train)

    def _batches(self, corpus: Corpus, train: bool) -> TextBatches:
        order = self.order if train else None
        return TextBatches(corpus, self.window, self.stride, self.batch_size, order, self.seed)

    def probe_batch(self, n: int) -> Batch:
        """Return the beginnings of the first ``n`` training documents."""
        few = self._first(self.corpus("train"), n)
        rows = len(few.starts)
        batches = TextBatches(few, self.window, self.stride, rows, None, self.seed)
        return next(iter(BatchLoader(batches, TextSampler(batches, 0, 1, 1))))

    @staticmethod
    def _first(corpus: Corpus, n: int | None) -> Corpus:
        """Return the first n documents."""
        labels = corpus.labels[: int(corpus.lengths[:n].sum())]
        context = corpus.context[:n] if corpus.context is not None else None
        return Corpus(labels, corpus.starts[:n], corpus.documents[:n], corpus.eos, context)

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches, in a new order each epoch."""
        return self._text_loader("train", train=True)

    def val_dataloader(self) -> BatchLoader:
        """Return the validation batches, each label once."""
        return self._text_loader("val", train=False)

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches, each label once."""
        return self._text_loader("test", train=False)

    def calib_dataloader(self) -> BatchLoader:
        """Return the batches of the calibration part, each label once."""
        return self._text_loader("calib", train=False)

    def part_dataloader(self, part: str, documents: int | None = None) -> BatchLoader:
        """Return the batches of any part as it is judged, all in this process, each label once.

        Args:
            part: Part.
            documents: Only so many of its first documents.
        """
        batches = self._batches(self._first(self.corpus(part), documents), train=False)
        return self._loader_of(batches, TextSampler(batches, rank=0, world_size=1, accumulate=1))

    def predict_dataloader(self) -> BatchLoader:
        """Return all text to score, or that of ``predict_part``, each label once."""
        return self._text_loader(self.predict_part, train=False)

    def _text_loader(self, part: str | None, train: bool) -> BatchLoader:
        trainer, batches = self.trainer, self._batches(self.corpus(part), train)
        sampler = TextSampler(
            batches,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            accumulate=trainer.accumulate_grad_batches if trainer and train else 1,
        )
        return self._loader_of(batches, sampler)

    def _loader_of(self, batches: TextBatches, sampler: TextSampler) -> BatchLoader:
        return BatchLoader(batches, sampler, self.num_workers, torch.cuda.is_available())

    def describe(self) -> dict[str, Any]:
        """Return plain facts about the text for the report."""
        records = self._records()
        source = self.path or self.hub or f"embedded text ({self.synthetic}, synthetic)"
        return {
            "samples": len(records),
            "source": source,
            "words": int(records["n_words"].sum()),
            "bytes": int(records["n_bytes"].sum()),
            "tokenizer": self.kind,
            "vocab_size": self.vocab_size,
            "tokens": len(self._all_tokens()[0]) if self.tokenizer is not None else None,
            "window": self.window,
            "stride": self.stride,
            "order": self.order,
        }


def _write_array(path: Path, array: np.ndarray) -> None:
    """Write an array whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
