"""Continuations of the same prompts by several language models, and what they are worth: BLEU and repetition.

Both count words, and each run writes as many of its own tokens as the true continuation has in its vocabulary: texts of
one length, for a shorter one repeats less and loses BLEU for its brevity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datamodules.errors import DataError
from datamodules.language_pairs import read_pairs
from datamodules.language_text import Boundary, documents_of_path
from lightning_project.generate import read_prompts
from lightning_project.writer import Writer
from modules import text_metrics
from modules.continuing import continue_texts, places
from modules.decoding import Text
from modules.generation import Sampling

METRICS = ("bleu", "repetition")
PROMPT, LENGTH, PLACES = 48, 64, 48  # words of a prompt and of what follows; places of a text that are continued
RESAMPLES = 100  # for the intervals of these metrics, which are slow
NOTHING = "nothing to continue: give --prompts FILE, or --text FILE whose places are continued"
NO_TRUTH = 'prompts alone have no true continuation: give --text FILE, or lines {"prompt": "...", "target": "..."}'


@dataclass(frozen=True)
class Starts:
    """What every run continues: prompts, how each of them truly goes on (``None`` = not known), and whose they are."""

    prompts: tuple[str, ...]
    true: tuple[str, ...] | None
    source: str


def plan(metrics: Sequence[str] | None, text: str | None, boundary: Boundary, prompts: str | None) -> dict[str, Starts]:
    """Return what is continued for each metric: for BLEU places of the text, for repetition the prompts, if given.

    Args:
        metrics: Those asked for; ``None`` is all that can be had.
        text: Text file or folder.
        boundary: Where a document of it begins.
        prompts: File of prompts, or of pairs.

    Raises:
        DataError: A metric that was asked for cannot be had, a file cannot be read, or nothing would be made of it.
    """
    of_file = _of_file(prompts) if prompts is not None else None
    of_text = _of_text(text, boundary) if text is not None else None
    found: dict[str, Starts] = {}
    for name in METRICS if metrics is None else [name for name in METRICS if name in metrics]:
        order = (of_text, of_file) if name == "bleu" else (of_file, of_text)
        usable = [one for one in order if one is not None and (name != "bleu" or one.true is not None)]
        if usable:
            found[name] = usable[0]
            continue
        short = f"{text}: no document has {PROMPT + LENGTH} words to be continued; give --prompts FILE"
        reason = short if text is not None else NO_TRUTH if prompts is not None else NOTHING
        if text is not None and prompts is not None:
            reason = f"{short}, and {NO_TRUTH}"
        if metrics is not None:
            raise DataError(f"{name}: {reason}")
        if text is not None or prompts is not None:
            print(f"{name}: not compared ({reason})")
    if metrics is not None:
        _check_used(metrics, text, prompts, of_text in found.values(), of_file in found.values())
    return found


def _check_used(
    metrics: Sequence[str], text: str | None, prompts: str | None, text_used: bool, prompts_used: bool
) -> None:
    """Refuse a file that nothing would be made of."""
    listed = ", ".join(metrics)
    if prompts is not None and not prompts_used:
        raise DataError(f"--prompts is not used for {listed}: leave it out, or add repetition (BLEU is of --text)")
    if text is not None and not text_used and "perplexity" not in metrics:
        raise DataError(f"--text is not used for {listed}: leave it out, or add perplexity or bleu")


def _of_file(path: str) -> Starts:
    """Read prompts, one a line, or pairs; a file of pairs begins with the brace of its first object."""
    lines = read_prompts(path)
    if not lines[0].startswith("{"):
        return Starts(tuple(lines), None, Path(path).name)
    pairs = read_pairs(path)
    return Starts(tuple(one["prompt"] for one in pairs), tuple(one["target"] for one in pairs), Path(path).name)


def _of_text(text: str, boundary: Boundary) -> Starts | None:
    """Choose places of a text, by its words and so the same ones for every vocabulary; ``None`` if it is too short."""
    documents = [one.split(" ") for _, _, one, _ in documents_of_path(text, boundary)]
    flat = [word for one in documents for word in one]
    starts = np.cumsum([0, *map(len, documents[:-1])])
    chosen = [
        (" ".join(flat[i] for i in before if i >= 0), " " + " ".join(flat[i] for i in after))
        for before, after in places(np.arange(len(flat)), starts, PROMPT, LENGTH, PLACES, -1)
    ]
    chosen = [(before, after) for before, after in chosen if after.strip()]
    if not chosen:
        return None
    return Starts(tuple(before for before, _ in chosen), tuple(after for _, after in chosen), Path(text).name)


def continued(writer: Writer, starts: Starts) -> list[str]:
    """Let a run continue prompts; nothing ends a text early."""
    decode = writer.vocabulary.decode
    texts = [
        Text.make(i, writer.prompt(prompt), Sampling(), limit, 0, decode)
        for i, (prompt, limit) in enumerate(zip(starts.prompts, _limits(writer, starts), strict=True))
    ]
    with torch.inference_mode():
        continue_texts(writer.net, texts, writer.window, None)
    return [one.written.text for one in texts]


def _limits(writer: Writer, starts: Starts) -> list[int]:
    """Return the new tokens of each text; without a truth, what ``LENGTH`` words of the prompts take."""
    if starts.true is not None:
        return [len(writer.encode(one)) for one in starts.true]
    tokens = sum(len(writer.encode(one)) for one in starts.prompts)
    words = sum(len(one.split()) for one in starts.prompts)
    return [round(LENGTH * tokens / words)] * len(starts.prompts)


def measured(metric: str, texts: Sequence[str], starts: Starts) -> dict[str, tuple[float, np.ndarray]]:
    """Return a metric by the length of its runs of words: its value, and (RESAMPLES,) of resampled texts.

    The resamples are NaN where there is one text, which says nothing of others.

    Args:
        metric: One of :data:`METRICS`.
        texts: Continuations.
        starts: What was continued.
    """
    count, found = len(texts), {}
    words = [text_metrics.words_of(text) for text in texts]
    measure = partial(_bleu, texts, starts.true or ()) if metric == "bleu" else partial(_repetition, words)
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    for n in text_metrics.ORDERS:
        drawn = np.array([measure(rows, n) for rows in draws]) if count > 1 else np.full(RESAMPLES, np.nan)
        found[f"{metric}_{n}"] = measure(np.arange(count), n), drawn
    return found


def _bleu(texts: Sequence[str], true: Sequence[str], rows: np.ndarray, n: int) -> float:
    return text_metrics.bleu([texts[i] for i in rows], [[true[i]] for i in rows], n)


def _repetition(words: Sequence[Sequence[str]], rows: np.ndarray, n: int) -> float:
    return text_metrics.repetition([words[i] for i in rows], n)
