"""Continuations of many prompts by a language model, and what they are worth beside the true ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modules.decoding import Decode, Text, WindowReader, write
from modules.generation import Sampling
from modules.text_metrics import generation_metrics


@dataclass(frozen=True)
class Vocabulary:
    """What generation has to know of a tokenizer.

    Attributes:
        decode: Turns tokens that follow others into text.
        size: Number of tokens.
        end: The token that ends a text; ``None`` for none.
        unknown: Stands for what is not in the vocabulary; ``None`` where nothing is unknown.
    """

    decode: Decode
    size: int
    end: int | None
    unknown: int | None

    @classmethod
    def of(cls, tokenizer: Any) -> "Vocabulary":  # noqa: ANN401  # of the data, which modules do not know
        """Return that of a tokenizer of the data."""
        if tokenizer.closes:
            return cls(tokenizer.decode, tokenizer.vocab_size, tokenizer.eos_id, tokenizer.unk_id)
        # tokens that are words do not know of the space before them, and what begins a text ends every line of it
        return cls(lambda ids: " " + tokenizer.decode(ids), tokenizer.vocab_size, None, tokenizer.unk_id)


def continue_texts(
    net: Any,  # noqa: ANN401  # shared code knows no system's network
    texts: Sequence[Text],
    window: int,
    end: int | None,
    batch_size: int = 32,
    cached: bool = True,
    show: Callable[[int, str], None] | None = None,
) -> None:
    """Continue texts, those with prompts of similar length together.

    Args:
        net: Language model in evaluation mode; see :class:`modules.decoding.WindowReader`.
        texts: Changed in place.
        window: Tokens seen at once.
        end: Token that ends a text.
        batch_size: Texts at once; changes the speed and not the texts.
        cached: Keep keys and values.
        show: Called with the place of a text in ``texts`` and each piece of it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = next(net.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i].prompt), i))
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        reader = WindowReader(net, len(rows), window, cached)
        for pieces in write(reader, [texts[i] for i in rows], end, device):
            for i, piece in zip(rows, pieces, strict=True):
                if piece and show is not None:
                    show(i, piece)


def places(
    tokens: np.ndarray, starts: np.ndarray, prompt: int, length: int, count: int, end: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Choose places of a text to be continued: spread evenly, none across two documents.

    Args:
        tokens: (N,) all tokens of the documents, one after another.
        starts: (D,) where each document begins.
        prompt: Tokens of a prompt.
        length: Tokens of a true continuation.
        count: Places at most.
        end: Token before the first one of a document.

    Yields:
        Prompt and true continuation; a document's first prompt begins with ``end``.
    """
    ends = [*starts[1:], len(tokens)]
    every = prompt + length
    found = [at for a, b in zip(starts, ends, strict=True) for at in range(int(a), int(b) - every + 1, every)]
    first = set(starts.tolist())
    for at in sorted({found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)}):
        before = [end] if at in first else []
        yield before + tokens[at : at + prompt].tolist(), tokens[at + prompt : at + every].tolist()


def judge_continuations(
    net: Any,  # noqa: ANN401
    chosen: Sequence[tuple[list[int], list[int]]],
    vocabulary: Vocabulary,
    window: int,
    sampling: Sampling,
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[dict[str, float], list[Text]]:
    """Continue prompts whose true continuation is known, and measure both.

    Nothing ends a text early, so that all have the length of the true one: shorter texts repeat less.

    Args:
        net: Language model in evaluation mode.
        chosen: Prompt and true continuation of each place, see :func:`places`.
        vocabulary: Of the tokenizer.
        window: Tokens seen at once.
        sampling: How to choose tokens.
        seed: Seed of the draws.
        batch_size: Texts at once.

    Returns:
        The metrics of :func:`modules.text_metrics.generation_metrics` and ``off_likeliest``, the share of tokens that
        were not the likeliest ones; and the texts.
    """
    texts = [
        Text.make(i, prompt, sampling, len(true), seed, vocabulary.decode) for i, (prompt, true) in enumerate(chosen)
    ]
    with torch.inference_mode():
        continue_texts(net, texts, window, None, batch_size)
    made, truth = [text.tokens for text in texts], [true for _, true in chosen]
    decoded = [vocabulary.decode(true) for true in truth]
    found = generation_metrics(
        [text.written.text for text in texts], made, decoded, truth, vocabulary.size, vocabulary.unknown
    )
    total = sum(len(tokens) for tokens in made)
    off = sum(text.off_likeliest for text in texts)
    return found | {"off_likeliest": off / total if total else float("nan")}, texts
