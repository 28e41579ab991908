"""Paraphrases of training texts by translating them into another language and back."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from callbacks.augmentation import Augmenter
from callbacks.translation_cache import TranslationCache
from datamodules.base import SplitDataModule
from datamodules.errors import DataError
from datamodules.pretrained import unreadable, weights_hash

_FORMAT = "1"  # part of every key: raise it when the same settings would give other texts


class BackTranslation(Augmenter):
    """Adds training texts that went through another language and back; label and other fields stay.

    The first copy is found by beam search, further ones are sampled. Translations are kept by the content of the text,
    of the models and of the settings; what is the same as before, or empty, is dropped and counted.

    Args:
        forward: Model from the language of the texts to the other one: a local folder, or an id on the hub such as
            Helsinki-NLP/opus-mt-en-es.
        backward: Model back.
        classes: Classes whose texts are translated; None takes all.
        fraction: Share of the training samples of each class.
        copies: Copies of each sample.
        fields: Columns to translate; None is the abstract.
        beams: Beams of the search.
        max_length: Most tokens of a text, and of its translation; the rest of a longer text is lost.
        batch_size: Texts translated together; they are sorted by length.
        cache: Folder of the translations.
        seed: Seed of which samples are taken and of the sampled copies.
    """

    def __init__(
        self,
        forward: str,
        backward: str,
        classes: list[str] | None = None,
        fraction: float = 1.0,
        copies: int = 1,
        fields: list[str] | None = None,
        beams: int = 4,
        max_length: int = 512,
        batch_size: int = 16,
        cache: str = "cache/translations",
        seed: int = 0,
    ) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction} must be above 0 and at most 1")
        at_least_one = {"copies": copies, "beams": beams, "max_length": max_length, "batch_size": batch_size}
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if fields == []:
            raise ValueError("fields must name at least one column, such as abstract")
        self.forward, self.backward, self.classes = forward, backward, classes
        self.fraction, self.copies, self.fields = fraction, copies, fields or ["abstract"]
        self.beams, self.max_length, self.batch_size = beams, max_length, batch_size
        self.cache, self.seed = Path(cache), seed
        self.counts = {}

    def rows(self, data: SplitDataModule) -> pd.DataFrame:
        """Return the paraphrased samples.

        Raises:
            DataError: A class or a column is unknown, or a model cannot be read.
        """
        chosen = self._chosen(data)
        models = f"{weights_hash(self.forward)} {weights_hash(self.backward)}"
        key = hashlib.sha256(f"{_FORMAT} {models} {self.beams} {self.max_length}".encode()).hexdigest()[:16]
        texts = list(dict.fromkeys(text for name in self.fields for text in chosen[name] if text.strip()))
        made: list[pd.DataFrame] = []
        self.counts = {"asked": len(chosen) * self.copies, "unchanged": 0, "empty": 0, "repeated": 0}
        for copy in range(self.copies):
            found = self._translated(texts, key, copy)
            rows = chosen.copy()
            for name in self.fields:
                rows[name] = [found.get(text, text) for text in chosen[name]]
            rows["id"] = [f"{name}#bt-{key[:8]}-{copy}" for name in chosen["id"]]
            made.append(rows.assign(augmented_from=chosen["id"], source=""))
        return self._useful(data, chosen, made)

    def _chosen(self, data: SplitDataModule) -> pd.DataFrame:
        """The records to translate: a seeded share of each class of the training part as it was split."""
        records, y = data.records, data.y
        assert records is not None and y is not None
        absent = [name for name in self.fields if name not in records.columns]
        if absent:
            raise DataError(f"back-translation: the records have no column {absent[0]!r}; set fields")
        unknown = sorted(set(self.classes or []) - set(data.class_names))
        if unknown:
            raise DataError(f"back-translation: class {unknown[0]!r} is not among {', '.join(data.class_names)}")
        train = data.indices("train")
        train = train[train < (data.originals or len(records))]
        rows: list[int] = []
        for index, name in enumerate(data.class_names):
            if self.classes is None or name in self.classes:
                mine = train[y[train] == index]
                order = np.random.default_rng([self.seed, index]).permutation(len(mine))
                rows += mine[order[: round(self.fraction * len(mine))]].tolist()
        return records.iloc[sorted(rows)].reset_index(drop=True)

    def _useful(self, data: SplitDataModule, chosen: pd.DataFrame, made: list[pd.DataFrame]) -> pd.DataFrame:
        """Leave out what the way through the other language did not change, lost, or gave already."""
        before = _words(chosen, self.fields)
        seen: list[set[tuple[str, ...]]] = [set() for _ in before]
        kept = []
        for rows in made:
            keep = []
            for old, new, known in zip(before, _words(rows, self.fields), seen, strict=True):
                lost = any(a and not b for a, b in zip(old, new, strict=True))
                why = "empty" if lost else "unchanged" if new == old else "repeated" if new in known else ""
                if why:
                    self.counts[why] += 1
                known.add(new)
                keep.append(not why)
            kept.append(rows[keep])
        found = pd.concat(kept, ignore_index=True)
        return found.assign(hash=data.content_hashes(found))

    def _translated(self, texts: Sequence[str], key: str, copy: int) -> dict[str, str]:
        """Translate texts there and back; what the cache has is not translated again."""
        store = TranslationCache(self.cache / f"{key}.jsonl")
        settings = f"{copy} {self.seed} {self.batch_size}" if copy else "beam search"
        name = {text: hashlib.sha256(f"{settings}\n{text}".encode()).hexdigest() for text in texts}
        with store.open():
            missing = [text for text in texts if name[text] not in store.found]
            # a sampled text follows from its batch: the batches are the same however much of them is known already
            batches = self._batches(texts if copy else missing)
            batches = [batch for batch in batches if not set(batch).isdisjoint(missing)]
            if batches:
                rank_zero_info(f"back-translating {len(missing)} texts (once; kept in {self.cache})")
                there, back = Translator(self.forward), Translator(self.backward)
            for batch in tqdm(batches, desc=f"copy {copy + 1}/{self.copies}", unit="batch", disable=None):
                draw = int(hashlib.sha256("\n".join([settings, *batch]).encode()).hexdigest()[:12], 16)
                with torch.random.fork_rng():
                    torch.manual_seed(draw)
                    pivots = there(batch, self.beams, self.max_length, sample=copy > 0)
                    made = back(pivots, self.beams, self.max_length, sample=copy > 0)
                store.add([name[text] for text in batch], pivots, made)
        return {text: store.found[name[text]] for text in texts}

    def _batches(self, texts: Sequence[str]) -> list[list[str]]:
        """Cut texts into batches of similar length, the longest first, so that memory fails early."""
        order = sorted(texts, key=lambda text: (-len(text), text))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


class Translator:
    """A translation model, loaded.

    Args:
        source: Local folder or hub id; any model of `AutoModelForSeq2SeqLM` with its tokenizer.
    """

    def __init__(self, source: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(source)
        except ImportError as error:  # Marian's own tokenizer
            raise DataError(f"the tokenizer of {source} needs: pip install sentencepiece sacremoses") from error
        except (OSError, ValueError) as error:
            raise DataError(unreadable(source, error)) from error
        self.model.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], beams: int, max_length: int, sample: bool) -> list[str]:
        """Translate; sampled from the model's distribution, or by beam search."""
        given = self.tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=max_length)
        way: dict[str, Any] = {"do_sample": True, "num_beams": 1, "top_k": 0} if sample else {"num_beams": beams}
        inputs = {key: given[key].to(self.device) for key in ("input_ids", "attention_mask")}
        out = self.model.generate(**inputs, max_new_tokens=max_length, **way)
        return [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]


def _words(rows: pd.DataFrame, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """The fields of each row in lower case and with single blanks: what counts as the same text."""
    return [tuple(" ".join(text.lower().split()) for text in row) for row in rows[list(fields)].itertuples(index=False)]
