"""Prompts and what should follow them, to train a language model further: the prompt is read, the target learnt."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from datamodules.language import LanguageData
from datamodules.language_layout import Corpus
from datamodules.language_text import as_records
from datamodules.language_tokenizer import Kind, Tokenizer


class LanguagePairs(LanguageData):
    """Pairs of a JSON-lines file, each a document of its own: ``{"prompt": "...", "target": "..."}``.

    No token of a prompt takes part in a loss or a perplexity; words and bytes are counted of the targets alone. A text
    is what stands in the file: a space or line feed between prompt and target has to be written there.

    Args:
        path: JSON-lines file; further keys are ``id`` and ``part`` (train, val or test, all or none).
        vocabulary_from: Run folder or checkpoint whose vocabulary is taken; ``fit --init_from`` sets it.
        tokenizer: How text is cut, without ``vocabulary_from``.
        tokenizer_path: As for :class:`datamodules.language.LanguageData`.
        vocab_size: As for :class:`datamodules.language.LanguageData`.
        window: Tokens of a window; a longer pair is read in several.
        batch_size: Pairs of a batch, over all processes.
        num_workers: Loader processes.
        predict_path: File of pairs to score with ``predict``.
        predict_part: ``predict`` scores this part of the run's own split; never test.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        vocabulary_from: str | None = None,
        tokenizer: Kind = "bpe",
        tokenizer_path: str | None = None,
        vocab_size: int | None = None,
        window: int = 256,
        batch_size: int = 16,
        num_workers: int = 0,
        predict_path: str | None = None,
        predict_part: Literal["train", "val", "calib"] | None = None,
    ) -> None:
        super().__init__(
            path=path,
            predict_path=predict_path,
            tokenizer=tokenizer,
            tokenizer_path=tokenizer_path,
            vocabulary_from=vocabulary_from,
            vocab_size=vocab_size,
            window=window,
            order="documents",
            cache=None,
            batch_size=batch_size,
            num_workers=num_workers,
            predict_part=predict_part,
        )
        self._prompts: list[str] = []
        self._context = np.empty(0, np.int64)

    def read_records(self) -> pd.DataFrame:
        """Read the pairs."""
        if self.path is None:
            raise DataError('there are no pairs: set --data.path to a file of lines {"prompt": "...", "target": "..."}')
        return self._take_pairs(self.path)

    def read_predict_records(self) -> pd.DataFrame:
        """Read the pairs to score."""
        if self.predict_path is None:
            raise DataError("there are no pairs to score: set --data.predict_path to a file of them")
        return self._take_pairs(self.predict_path)

    def _take_pairs(self, path: str) -> pd.DataFrame:
        rows = read_pairs(path)
        records, _ = as_records([(row["id"], "", row["target"], row["part"]) for row in rows])
        self._prompts = [row["prompt"] for row in rows]
        self._texts = [row["prompt"] + row["target"] for row in rows]
        # a target is a line: its end is read and scored, whether it is spelt out or not
        records["n_words"] += [int(not row["target"].endswith("\n")) for row in rows]
        records["hash"] = [
            hashlib.sha256(json.dumps([row["prompt"], row["target"]]).encode()).hexdigest() for row in rows
        ]
        records["group"] = [hashlib.sha256(prompt.encode()).hexdigest()[:16] for prompt in self._prompts]
        self._nats, self.source_classes = None, ["text"]
        self._forget_tokens()
        return records

    def _encode(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        end, none = np.array([tokenizer.eos_id], np.int32), np.array([], np.int32)
        pairs = [
            (tokenizer.encode(prompt), tokenizer.encode(text[len(prompt) :]))
            for prompt, text in zip(self._prompts, self._texts, strict=True)
        ]
        self._context = np.array([len(prompt) for prompt, _ in pairs])
        # among words it is the end of a line that closes a target, once
        ends = [none if tokenizer.kind == "words" and text.endswith("\n") else end for text in self._texts]
        pieces = [np.concatenate([*pair, end]) for pair, end in zip(pairs, ends, strict=True)]
        return np.concatenate(pieces), np.cumsum([0, *map(len, pieces)])

    def _corpus_of(self, documents: np.ndarray) -> Corpus:
        corpus = super()._corpus_of(documents)
        return Corpus(corpus.labels, corpus.starts, corpus.documents, corpus.eos, self._context[documents])


def read_pairs(path: str) -> list[dict[str, str]]:
    """Read a JSON-lines file of pairs.

    Returns:
        id, prompt, target and part ("" = none) of each.

    Raises:
        DataError: The file cannot be read, or a line is no pair; the message names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}): check the path and the encoding") from error
    rows = [_pair(f"{path}, line {number}", line, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f'{path} holds no pair: write lines {{"prompt": "...", "target": "..."}}')
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise DataError(f"{path}: the id {row['id']!r} occurs twice")
        seen.add(row["id"])
    if len({row["part"] == "" for row in rows}) > 1:
        raise DataError(f"{path}: some pairs name a part and some do not: name one for all, or for none")
    return rows


def _pair(where: str, line: str, number: int) -> dict[str, str]:
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f'{where} is no object: write {{"prompt": "...", "target": "..."}}')
    row = {"id": f"pair-{number}", "part": "", **found}
    if unknown := sorted(row.keys() - {"id", "prompt", "target", "part"}):
        raise DataError(f"{where}: unknown key {unknown[0]!r}; a pair has prompt, target, and maybe id and part")
    for name in ("prompt", "target"):
        if not isinstance(row.get(name), str):
            raise DataError(f"{where}: {name} is missing or no text")
    if not row["target"].strip():
        raise DataError(f"{where}: the target is empty, there is nothing to learn")
    if row["part"] not in ("", "train", "val", "test"):
        raise DataError(f"{where}: part is {row['part']!r}; use train, val or test")
    return {**row, "id": str(row["id"])}
