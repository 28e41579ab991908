"""What counting models say about the documents of a report: they see the same text and are fitted on train alone."""

from typing import Any

import numpy as np

from callbacks.report_language_files import TextPredictions
from datamodules.ngram import KneserNey, unigram_log_prob

END = "\n"  # no word holds one, so the end of a line is a word of its own
CLOSE = ""  # no word is empty: the end of a document, where the model says it, too


def counting_models(
    data: Any,  # noqa: ANN401  # a language datamodule, known by its attributes only
    part: str,
    found: TextPredictions,
    order: int,
) -> tuple[dict[str, TextPredictions], dict[str, str]]:
    """Score the documents by a unigram and a Kneser-Ney n-gram over the model's tokens, and by one over words.

    Args:
        data: The datamodule.
        part: Part of the data.
        found: Predictions of the network on whole documents of this part.
        order: Longest n-gram.

    Returns:
        name -> predictions, and name -> why there are none.
    """
    known, name = set(found.id), f"Kneser-Ney {order}-gram"
    ids = data.records["id"].to_numpy(str)[data.documents(part)]
    kept = np.array([one in known for one in ids])
    tokens, starts = np.asarray(data.tokens(part), np.int64), np.asarray(data.starts(part))
    train, train_starts = np.asarray(data.tokens("train"), np.int64), np.asarray(data.starts("train"))

    def of_documents(logs: np.ndarray) -> np.ndarray:
        return -np.add.reduceat(logs, starts)[kept]

    unigram = of_documents(unigram_log_prob(train, tokens, data.vocab_size))
    model = KneserNey(data.vocab_size, order).fit(train, train_starts)
    ngram = of_documents(model.log_prob(tokens, starts))
    result = {"unigram": found.with_losses(unigram), f"{name}, tokens": found.with_losses(ngram)}
    words, unknown = _by_words(data, part, order)
    if words is None:
        return result, {f"{name}, words": f"not run ({unknown} words of this part are not in the training text)"}
    counts = found.n_words + int(data.tokenizer.closes)
    return result | {f"{name}, words": found.with_losses(words[kept], counts)}, {}


def _by_words(data: Any, part: str, order: int) -> tuple[np.ndarray | None, int]:  # noqa: ANN401
    """Return the loss of each document over whole words (D,), or the number of words that it could not score."""
    train, held_out = (_words(data, name) for name in ("train", part))
    index = {word: i for i, word in enumerate(sorted({word for document in train for word in document}))}
    unknown = sum(word not in index for document in held_out for word in document)
    if unknown:
        return None, unknown
    arrays = [np.array([index[word] for document in documents for word in document]) for documents in (train, held_out)]
    starts = [np.cumsum([0, *map(len, documents[:-1])]) for documents in (train, held_out)]
    model = KneserNey(len(index), order).fit(arrays[0], starts[0])
    return -np.add.reduceat(model.log_prob(arrays[1], starts[1]), starts[1]), 0


def _words(data: Any, part: str) -> list[list[str]]:  # noqa: ANN401
    texts = (data.text(row).removesuffix("\n") for row in data.documents(part))
    last = [CLOSE] if data.tokenizer.closes else []
    return [[word for line in text.split("\n") for word in (*line.split(), END)] + last for text in texts]
