"""Runs of language models to be compared: what is stored of each, or what each is worth on one given text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from callbacks import report_files as files
from callbacks.report_language_files import TextPredictions
from callbacks.report_settings import comparable_config
from datamodules.errors import DataError
from datamodules.language_layout import Corpus, TextBatches
from datamodules.language_text import Boundary, as_records, documents_of_path
from datamodules.language_tokenizer import UNKNOWN, Tokenizer, read_tokenizer
from datamodules.samplers import IndexBatch
from lightning_project.members import folds_of
from lightning_project.writer import Writer

ROWS = 8  # documents side by side while scoring


@dataclass(frozen=True)
class TextRun:
    """One run, or all folds of one: its facts, settings and losses by document (test part, or the given text).

    Attributes:
        unknown: Share of the labels of that text whose word is not in the vocabulary; NaN = not known.
        vocabulary: What tells vocabularies apart; "" = not known.
    """

    folder: Path
    facts: dict[str, Any]
    settings: dict[str, Any]
    found: TextPredictions | None
    unknown: float = 0.0
    vocabulary: str = ""

    @classmethod
    def read(cls, folder: Path, stored: bool, network: bool) -> "TextRun":
        """Read a run folder, or that of its folds; ``stored`` asks for the test losses, ``network`` for one network.

        Raises:
            DataError: It is no run of a language model, has no test losses, or has folds where one network is needed.
        """
        from lightning_project.compare import flat

        folds = [*folds_of(folder).values()]
        facts = files.read_json(folds[0] / "run.json")
        if facts.get("system") != "language":
            raise DataError(f"{folder} is no run of a language model; compare runs of one system")
        if folds != [folder] and network:
            raise DataError(f"{folder} has a network for each fold, and one has to read the text; give {folds[0]}")
        config = folds[0] / "config.yaml"
        settings = flat(
            comparable_config(yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {})
        )
        if len(folds) > 1:
            settings.pop("split.fold", None)
        if not stored:
            return cls(folder, facts, settings, None)
        return cls(folder, facts, settings, _pooled(folds), *_stored_words(folds, facts, settings))


def stored_losses(folder: Path) -> list[Path]:
    """Return the files of test losses of a run or of its folds, there or not."""
    return [fold / "test" / "predictions_test.npz" for fold in folds_of(folder).values()]


def _stored_words(folds: Sequence[Path], facts: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[float, str]:
    """Return ``unknown`` and ``vocabulary`` of the test part."""
    try:
        tokenizers = [read_tokenizer(str(fold)) for fold in folds]
    except DataError:  # no checkpoint any more: vocabularies of pieces know every word
        own = settings.get("data.init_args.vocabulary_from") is None
        pieces = own and (facts.get("data") or {}).get("tokenizer") in ("bpe", "bytes", "gpt2")
        return (0.0 if pieces else float("nan")), ""
    name = " ".join(one.fingerprint for one in tokenizers)
    if all(one.unk_id is None for one in tokenizers):
        return 0.0, name
    try:
        counts = [_count_again(fold, one) for fold, one in zip(folds, tokenizers, strict=True)]
    except DataError:
        return float("nan"), name
    unknown, labels = (sum(column) for column in zip(*counts, strict=True))
    return unknown / labels, name


def _count_again(folder: Path, tokenizer: Tokenizer) -> tuple[int, int]:
    """Read the text of a run again, and count in its test part as :func:`unknown_words`.

    Raises:
        DataError: The text is not there any more, or is one of pairs.
    """
    data = Writer.of_run(str(folder), device="cpu").data()
    if data.corpus("test").context is not None:
        raise DataError(f"{folder}: of pairs only the targets are judged, whose words are not counted here")
    return unknown_words(tokenizer, [data.text(int(i)) for i in data.documents("test")])


def unknown_words(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[int, int]:
    """Count labels whose word is not in a vocabulary, and all labels; an ``<unk>`` of the text itself is known."""
    unknown = labels = 0
    for text in texts:
        tokens = tokenizer.encode(text)
        labels += len(tokens)
        if tokenizer.unk_id is not None:
            unknown += int((tokens == tokenizer.unk_id).sum()) - text.split().count(UNKNOWN)
    return unknown, labels


def _pooled(folds: Sequence[Path]) -> TextPredictions:
    """Return the test losses of all folds, in the order of the documents' names."""
    paths = [path for folder in folds for path in stored_losses(folder)]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path.parent.parent}: no test losses; run `test --ckpt_path best` on it first, "
                            "or give --text FILE")  # fmt: skip
    parts = [TextPredictions.load(path) for path in paths]
    names = TextPredictions.__dataclass_fields__
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    if len(np.unique(columns["id"])) < len(columns["id"]):
        raise DataError(f"{paths[0].parents[2]}: a test document occurs in two folds, so they are none of one data set")
    rows = np.argsort(columns["id"], kind="stable")
    return TextPredictions(**{name: column[rows] for name, column in columns.items()})


def on_text(run: TextRun, writer: Writer, text: str, boundary: Boundary) -> TextRun:
    """Return a run as it is on a given text."""
    texts = [one for _, _, one, _ in documents_of_path(text, boundary)]
    unknown, labels = unknown_words(writer.tokenizer, texts)
    found = rescore(writer, text, boundary)
    return replace(run, found=found, unknown=unknown / labels, vocabulary=writer.tokenizer.fingerprint)


@torch.inference_mode()
def rescore(writer: Writer, text: str, boundary: Boundary) -> TextPredictions:
    """Return the losses of a run on the documents of a text, by the run's own window, without overlap.

    Args:
        writer: The trained model.
        text: Text file or folder.
        boundary: Where a document begins.
    """
    records, texts = as_records(documents_of_path(text, boundary))
    tokenizer = writer.tokenizer
    end = [tokenizer.eos_id] if tokenizer.closes else []
    pieces = [np.array([*tokenizer.encode(one), *end], np.int64) for one in texts]
    if any(not len(piece) for piece in pieces):
        raise DataError(f"{text}: a document has no token for the vocabulary of {writer.folder}")
    starts = np.cumsum([0, *map(len, pieces[:-1])])
    corpus = Corpus(np.concatenate(pieces), starts, np.arange(len(texts)), tokenizer.eos_id)
    batches = TextBatches(corpus, writer.window, writer.window, ROWS, None, 0)
    nll, state = np.zeros(len(texts)), writer.net.new_state(ROWS, writer.window)
    steps = tqdm(range(len(batches.layout(0).first)), desc=f"scoring {writer.folder.name}", disable=None, leave=False)
    for step in steps:
        batch = batches.__getitems__(IndexBatch(list(range(ROWS)), ROWS, 1.0, 0, step))
        batch = {name: value.to(writer.device) for name, value in batch.items()}
        inputs = {name: batch[name] for name in ("tokens", "starts", "write")}
        out = writer.net(**inputs, state=state, targets=batch["y"])
        state = out.get("state")
        real = batch["y_document"] >= 0
        losses = out["nll"][real].cpu().double().numpy()  # in this order: Apple GPUs have no float64
        nll += np.bincount(batch["y_document"][real].cpu().numpy(), losses, len(texts))
    words, size = (records[name].to_numpy(np.int64) for name in ("n_words", "n_bytes"))
    ids = records["id"].to_numpy(str)
    return TextPredictions(ids, records["group"].to_numpy(str), nll, np.array([*map(len, pieces)]), words, size)
