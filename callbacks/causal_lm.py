"""Any causal language model of a local folder or hub id, judged by the protocol of a run: the same text and windows.

Its pieces differ from the run's, so only figures per word and per byte compare; they count the same string.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.errors import DataError
from datamodules.pretrained import unreadable
from modules.perplexity import windows


@dataclass(frozen=True)
class Scored:
    """What a model says about documents.

    Attributes:
        nll: (D,) nats. tokens: (D,) of the model's own pieces. window: Tokens of context at most. stride: Tokens that
            each window adds. parameters: Size of the model. closed: Whether the token that ends each document is in.
    """

    nll: np.ndarray
    tokens: np.ndarray
    window: int
    stride: int
    parameters: int
    closed: bool


@torch.inference_mode()
def score(
    source: str,
    texts: Sequence[str],
    window: int,
    stride: int,
    device: torch.device,
    closed: bool,
    batch_size: int = 4,
) -> Scored:
    """Return the loss of every document, whole and without padding; each starts behind the beginning-of-text token.

    Args:
        source: Local folder or hub id.
        texts: Documents.
        window: Tokens of context at most; a model with fewer positions is given as many as it has.
        stride: New tokens of each window.
        device: Where to compute.
        closed: Score the model's end of text after each document, where it has one, as a run's own model does.
        batch_size: Windows at once.

    Raises:
        DataError: The model cannot be read, or has no token for the beginning of a text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval().to(device)
    except (OSError, ValueError) as error:
        raise DataError(unreadable(source, error)) from error
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise DataError(f"{source!r}: the tokenizer has neither a beginning nor an end of text; choose a causal model")
    most = getattr(model.config, "max_position_embeddings", None)
    window = min(window, most) if most else window
    stride = min(stride, window)
    end = [tokenizer.eos_token_id] if closed and tokenizer.eos_token_id is not None else []
    ids = [[begin, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], *end] for text in texts]
    plan = [(d, w) for d, document in enumerate(ids) for w in windows(len(document), window, stride)]
    plan.sort(key=lambda item: item[1][1] - item[1][0])  # windows of one length together
    nll = np.zeros(len(texts))
    steps = range(0, len(plan), batch_size)
    for first in tqdm(steps, desc=f"scoring {source}", disable=None, leave=False):
        for document, value in _losses(model, ids, plan[first : first + batch_size], device):
            nll[document] += value
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Scored(nll, np.array([len(document) - 1 for document in ids]), window, stride, parameters, bool(end))


def _losses(
    model: Any,  # noqa: ANN401  # a causal model of transformers
    ids: Sequence[Sequence[int]],
    plan: Sequence[tuple[int, tuple[int, int, int]]],
    device: torch.device,
) -> Iterator[tuple[int, float]]:
    """Yield the document and the summed loss of each window of a batch; what is padded comes after all that counts."""
    longest = max(end - start for _, (start, end, _) in plan)
    tokens = torch.zeros(len(plan), longest, dtype=torch.long)
    counts = torch.zeros(len(plan), longest - 1, dtype=torch.bool)
    for row, (document, (start, end, first)) in enumerate(plan):
        tokens[row, : end - start] = torch.tensor(ids[document][start:end])
        counts[row, first - start - 1 : end - start - 1] = True
    tokens, counts = tokens.to(device), counts.to(device)
    logits = model(input_ids=tokens[:, :-1]).logits.float()
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view_as(counts)
    sums = (losses.double() * counts).sum(1).tolist()
    yield from ((document, value) for (document, _), value in zip(plan, sums, strict=True))
