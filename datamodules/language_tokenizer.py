"""Text to token ids and back: an own byte-level BPE, bytes, words, or GPT-2's from a local folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from datamodules.errors import DataError

Kind = Literal["bpe", "bytes", "words", "gpt2"]
END, UNKNOWN, LINE = "<|endoftext|>", "<unk>", "<eos>"
GPT2_SIZE, GPT2_END = 50_257, 50_256
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


class Tokenizer:
    """Token ids of text. One that is not of words gives back the very text; ``words`` gives words apart by one space.

    Args:
        kind: How text is cut. ``words``: between white space, and a token at the end of each line (the field's form of
            WikiText); that token also closes a document. The others close a document with a token of its own.
        spec: What it knows: the words in order (a JSON list), or the ``tokenizers`` library's own JSON; "" for bytes.

    Attributes:
        kind: As given.
        eos_id: Token that closes a document, and the first input of one.
        vocab_size: Number of tokens.
        unk_id: Token of unknown words, or ``None``.
    """

    def __init__(self, kind: Kind, spec: str = "") -> None:
        self.kind, self.spec = kind, spec
        self.unk_id: int | None = None
        if kind == "bytes":
            self.vocab_size, self.eos_id = 257, 256
        elif kind == "words":
            self._words: list[str] = json.loads(spec)
            self._ids = {word: i for i, word in enumerate(self._words)}
            self.vocab_size, self.eos_id, self.unk_id = len(self._words), self._ids[LINE], self._ids[UNKNOWN]
        else:
            self._fast = FastTokenizer.from_str(spec)
            end = self._fast.token_to_id(END)
            assert end is not None  # it was put there when the vocabulary was made
            self.vocab_size, self.eos_id = self._fast.get_vocab_size(), end

    @property
    def closes(self) -> bool:
        """Whether a document is closed by a token that does not stand for anything in its text."""
        return self.kind != "words"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that it knows: two that differ in one entry differ here."""
        return hashlib.sha256(f"{self.kind}\n{self.spec}".encode()).hexdigest()

    @classmethod
    def train(cls, kind: Kind, texts: Iterable[str], vocab_size: int | None, folder: str | None = None) -> "Tokenizer":
        """Make one from training text; the same text gives the same ids.

        Args:
            kind: How text is cut.
            texts: Training documents; nothing else may be in them.
            vocab_size: Most entries; ``None`` keeps all words, and is 8,000 for BPE.
            folder: Folder with ``vocab.json`` and ``merges.txt``, for ``gpt2``.
        """
        if kind == "bytes":
            return cls(kind)
        if kind == "words":
            counts = Counter(word for text in texts for word in text.split())
            known = sorted((word for word in counts if word not in (UNKNOWN, LINE)), key=lambda w: (-counts[w], w))
            return cls(kind, json.dumps([UNKNOWN, LINE, *known[: vocab_size - 2 if vocab_size else None]]))
        if kind == "gpt2":
            return cls(kind, _read_gpt2(folder).to_str())
        learner = FastTokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learner.decoder = decoders.ByteLevel()
        wanted = vocab_size or 8000
        if wanted < len(_BYTES) + 1:
            raise ValueError(f"vocab_size={wanted} has no room for {len(_BYTES)} bytes and the end of a document")
        trainer = trainers.BpeTrainer(
            vocab_size=wanted, special_tokens=[END], initial_alphabet=_BYTES, show_progress=False
        )
        learner.train_from_iterator(texts, trainer)
        return cls(kind, learner.to_str())

    def encode(self, text: str) -> np.ndarray:
        """Return token ids (n,) int32 of a text, without the token that closes a document."""
        if self.kind == "bytes":
            return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
        if self.kind == "words":
            unknown, line, ids = self._ids[UNKNOWN], self._ids[LINE], []
            lines = text.split("\n")
            for number, words in enumerate(lines, 1):
                ids += [self._ids.get(word, unknown) for word in words.split()]
                if number < len(lines):  # a line that has an end
                    ids.append(line)
            return np.array(ids, np.int32)
        return np.array(self._fast.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of token ids; the closing token of a document gives nothing (a line feed, for words)."""
        listed = [int(i) for i in ids]
        if self.kind == "bytes":
            return bytes(i for i in listed if i != self.eos_id).decode("utf-8", errors="replace")
        if self.kind == "words":
            text = " ".join("\n" if i == self.eos_id else self._words[i] for i in listed)
            return text.replace(" \n", "\n").replace("\n ", "\n")
        return self._fast.decode([i for i in listed if i != self.eos_id], skip_special_tokens=False)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, for the checkpoint."""
        return {"kind": self.kind, "spec": self.spec}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Tokenizer":
        """Make it again from what :meth:`state_dict` gave."""
        return cls(state["kind"], state["spec"])


def read_tokenizer(run: str) -> Tokenizer:
    """Read the vocabulary of a trained model.

    Args:
        run: Its run folder (the best checkpoint is read) or a checkpoint.

    Raises:
        DataError: There is none, or it is of no language model.
    """
    path = Path(run) / "checkpoints" / "best.ckpt" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}: name the run folder of a trained language model, and keep it")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is no checkpoint of tensors and plain values: use another one ({error})") from error
    values = saved.values() if isinstance(saved, dict) else ()
    found = [value for value in values if isinstance(value, dict) and "tokenizer" in value]
    if not found:
        raise DataError(f"{path} has no vocabulary: it is not of a language model")
    return Tokenizer.from_state(found[0]["tokenizer"])


def _read_gpt2(folder: str | None) -> FastTokenizer:
    """Read GPT-2's vocabulary; sizes are checked, for a tokenizer that is silently empty is worse than none."""
    if folder is None:
        raise DataError("the tokenizer gpt2 needs its files: set --data.tokenizer_path to their folder")
    vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
    for path in (vocabulary, merges):
        if not path.is_file():
            raise DataError(f"{path} does not exist: tokenizer_path names a folder with vocab.json and merges.txt")
    try:
        model = models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # the library raises its bare Exception
        raise DataError(f"{folder}: not the files of a BPE tokenizer ({error})") from error
    found = FastTokenizer(model)
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([END])
    size, end = found.get_vocab_size(), found.token_to_id(END)
    if (size, end) != (GPT2_SIZE, GPT2_END):
        raise DataError(f"{folder}: {size} entries with {END} at {end}, GPT-2 has {GPT2_SIZE} with it at {GPT2_END}: "
                        "use its own vocab.json and merges.txt")  # fmt: skip
    return found
