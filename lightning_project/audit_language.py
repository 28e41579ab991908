"""What the verb `audit` says about text: its parts, its tokens, and whether there is anything to learn in it."""

import math
from typing import Any

import numpy as np

from datamodules.ngram import KneserNey, unigram_log_prob

RANDOM = 0.97  # a bigram that gets no further below the unigram than this: the order of the words says nothing
SPREAD = 1.25  # tokens per word of a part, over those of train: the vocabulary does not suit the part


def about_text(data: Any, part: str) -> str:  # noqa: ANN401  # a language datamodule
    """Return the sections on tokens and counting models, with what is wrong in bold.

    Args:
        data: The datamodule, split.
        part: Part on which counting models are judged.
    """
    lines = [
        "",
        "## Text",
        "",
        "| part | documents | words | tokens | tokens per word | unknown |",
        "|---|---|---|---|---|---|",
    ]
    warnings, ratios = [], {}
    for name in ("train", "val", "calib", "test"):
        if not len(data.indices(name)):
            continue
        counts, tokens = data.counts(name), np.asarray(data.tokens(name))
        ratios[name] = len(tokens) / counts["n_words"].sum()
        unknown = 0.0 if data.tokenizer.unk_id is None else float((tokens == data.tokenizer.unk_id).mean())
        words = f"{counts['n_words'].sum():,}"
        lines.append(f"| {name} | {len(counts)} | {words} | {len(tokens):,} | {ratios[name]:.3f} | {unknown:.2%} |")
    for name, ratio in ratios.items():
        if ratio > SPREAD * ratios["train"]:
            warnings.append(
                f"{name} needs {ratio:.2f} tokens a word and train {ratios['train']:.2f}: another language or another "
                "cleaning; the vocabulary does not suit it"
            )
    train, held_out = (np.asarray(data.tokens(name), np.int64) for name in ("train", part))
    unigram = math.exp(-unigram_log_prob(train, held_out, data.vocab_size).mean())
    lines += ["", f"## Counting models on {part}, perplexity per token", "", "| model | perplexity |", "|---|---|"]
    lines.append(f"| unigram | {unigram:.2f} |")
    for order in (2, 5):
        model = KneserNey(data.vocab_size, order).fit(train, np.asarray(data.starts("train")))
        found = math.exp(-model.log_prob(held_out, np.asarray(data.starts(part))).mean())
        lines.append(f"| Kneser-Ney {order}-gram | {found:.2f} |")
        if order == 2 and found > RANDOM * unigram:
            warnings.append(
                f"the order of the tokens says next to nothing (bigram {found:.1f}, unigram {unigram:.1f}): random "
                "text, on which no model can be better than the unigram"
            )
    return "\n".join([*lines, "", *(f"- **{warning}.**" for warning in warnings)]) + "\n"
