"""Text to token ids for `papers`: a tokenizer of its own, trained on the training part, or that of an encoder."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from datamodules.errors import DataError

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET = 300  # most characters that get a token of their own; rarer ones are [UNK]
SMALLEST = 100  # least vocabulary that still has room for an alphabet and some pieces
CHUNK = 1024  # texts that are encoded at once, so that memory does not grow with the data


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, one after the other.

    Attributes:
        values: (sum of lengths,) int32.
        offsets: (N + 1,) int64; text i is ``values[offsets[i]:offsets[i + 1]]``.
        truncated: (N,) bool, True where the text was longer than allowed.
    """

    values: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray

    @classmethod
    def pack(cls, ids: Sequence[Sequence[int]], truncated: Sequence[bool]) -> "Tokens":
        """Pack lists of ids."""
        lengths = np.array([0, *map(len, ids)], dtype=np.int64)
        values = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum()))
        return cls(values, np.cumsum(lengths), np.array(truncated, dtype=bool))

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens of each text, special ones included."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.truncated)

    def text(self, index: int) -> np.ndarray:
        """(T,) ids of one text."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def lists(self) -> list[list[int]]:
        """All texts as lists of ids."""
        values, places = self.values.tolist(), self.offsets.tolist()
        return [values[a:b] for a, b in pairwise(places)]

    def followed_by(self, other: "Tokens") -> "Tokens":
        """These texts and then the others."""
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        truncated = np.concatenate([self.truncated, other.truncated])
        return Tokens(np.concatenate([self.values, other.values]), offsets, truncated)


class PapersTokenizer:
    """A fast tokenizer with a padding id, which can be written as plain text and read again.

    Args:
        tokenizer: Adds the special tokens itself.
        pad_id: Id at padding.
        source: Where it comes from, for messages.
    """

    def __init__(self, tokenizer: Tokenizer, pad_id: int, source: str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()  # a file may bring its own limits
        self.tokenizer, self.pad_id, self.source = tokenizer, pad_id, source

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 4000) -> "PapersTokenizer":
        """Train a WordPiece vocabulary (lower case, no accents); the same texts give the same ids.

        Source: Schuster and Nakajima, "Japanese and Korean Voice Search", ICASSP 2012; pieces are merged by frequency
        as the `tokenizers` library does it.

        Args:
            texts: Training texts; nothing else may be in them.
            vocab_size: Entries wanted, special ones included; few texts give fewer.
        """
        normalizer = normalizers.BertNormalizer(lowercase=True)
        plain = [normalizer.normalize_str(text) for text in texts]
        counts: Counter[str] = Counter()
        for text in plain:
            counts.update(text)
        common = sorted((char for char in counts if not char.isspace()), key=lambda char: (-counts[char], char))
        alphabet = sorted(common[: min(ALPHABET, vocab_size // 3)])
        # The trainer numbers what it meets inside words in the order of a hash map, which differs between processes,
        # and breaks ties by these numbers. Numbered beforehand, its vocabulary depends on the texts alone.
        inside = [f"##{char}" for char in alphabet]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=[*SPECIAL, *inside],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        learner = Tokenizer(models.WordPiece(unk_token=UNK))
        learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        learner.train_from_iterator(plain, trainer)
        vocabulary = learner.get_vocab()
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNK))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(token, vocabulary[token]) for token in (CLS, SEP)],
        )
        tokenizer.add_special_tokens(list(SPECIAL))
        return cls(tokenizer, vocabulary[PAD], "trained on the training part")

    @classmethod
    def load(cls, source: str) -> "PapersTokenizer":
        """Read the tokenizer of an encoder.

        Args:
            source: A local folder as `save_pretrained` writes it, or the id of a hub repository.

        Raises:
            DataError: It cannot be read, is not a fast one, or has no padding token.
        """
        from transformers import AutoTokenizer

        mend = "name a local folder with tokenizer.json, or a hub id while online"
        try:
            found = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"the tokenizer {source!r} cannot be read ({first}); {mend}") from error
        fast = getattr(found, "backend_tokenizer", None)
        if not isinstance(fast, Tokenizer):
            raise DataError(f"the tokenizer {source!r} is a {type(found).__name__}, which has no fast form; {mend}")
        if found.pad_token_id is None:
            raise DataError(f"the tokenizer {source!r} has no padding token; use that of an encoder")
        return cls(Tokenizer.from_str(fast.to_str()), int(found.pad_token_id), source)

    def state_dict(self) -> dict[str, str | int]:
        """Return all of it as plain values."""
        return {"tokenizer": self.tokenizer.to_str(), "pad_id": self.pad_id, "source": self.source}

    @classmethod
    def from_state(cls, state: dict[str, str | int]) -> "PapersTokenizer":
        """Make it again from what `state_dict` gave."""
        return cls(Tokenizer.from_str(str(state["tokenizer"])), int(state["pad_id"]), str(state["source"]))

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str], max_len: int, pairs: Sequence[str] | None = None) -> Tokens:
        """Return the ids of each text, special tokens included, at most `max_len` of them.

        Args:
            texts: N texts.
            max_len: Most tokens; what is longer loses its end, and still closes with its last special token.
            pairs: N second texts; the longer one of both is shortened first.
        """
        ids: list[list[int]] = []
        truncated: list[bool] = []
        self.tokenizer.enable_truncation(max_len, strategy="longest_first")
        try:
            for start in range(0, len(texts), CHUNK):
                chunk: list = list(texts[start : start + CHUNK])
                if pairs is not None:
                    chunk = list(zip(chunk, pairs[start : start + CHUNK], strict=True))
                for found in self.tokenizer.encode_batch(chunk):
                    ids.append(found.ids)
                    truncated.append(bool(found.overflowing))
        finally:
            self.tokenizer.no_truncation()
        return Tokens.pack(ids, truncated)

    def words(self, ids: Sequence[int]) -> list[str]:
        """Return the token strings of some ids."""
        return [self.tokenizer.id_to_token(int(token)) or UNK for token in ids]
