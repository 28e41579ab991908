"""How the next token is chosen: plain functions over logits, and random numbers that belong to one text alone.

A row of a batch never looks at another row: each text has its own generator of random numbers and its own history, so
that it comes out the same alone, in a batch, and in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Strategy = Literal["greedy", "temperature", "top_k", "top_p", "top_k_top_p"]
NEEDS_K, NEEDS_P = ("top_k", "top_k_top_p"), ("top_p", "top_k_top_p")
BANNED = float("-inf")


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    Attributes:
        strategy: ``greedy`` (the likeliest token), ``temperature`` (all tokens), ``top_k``, ``top_p`` or both of these.
        temperature: Divides the logits before anything is cut off; above 0. For the limit 0 there is ``greedy``.
        top_k: Tokens kept by ``top_k``; 1 is the same as greedy.
        top_p: Probability kept by ``top_p``: the smallest set of likeliest tokens that reaches it, the one that crosses
            it included (nucleus sampling, Holtzman et al. 2020).
        repetition_penalty: Logits of tokens that occurred, less the mean of all, are divided by it where positive and
            multiplied where negative (CTRL, Keskar et al. 2019); 1 is none.
        frequency_penalty: Taken from a token's logit for each time that it occurred; 0 is none.
        no_repeat_ngram: Length of runs of tokens that may not occur twice; 0 is off.
        history: Number of latest tokens, prompt included, that the two penalties look at; 0 is all.
    """

    strategy: Strategy = "top_p"
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    history: int = 0

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        known = Strategy.__args__  # type: ignore[attr-defined]
        if self.strategy not in known:
            raise ValueError(f"strategy {self.strategy!r} is unknown: choose one of {', '.join(known)}")
        if not self.temperature > 0 or self.temperature == float("inf"):
            raise ValueError(f"temperature must be above 0, got {self.temperature}: use strategy greedy for no chance")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}: use strategy temperature to keep all tokens")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not self.repetition_penalty >= 1:
            raise ValueError(f"repetition_penalty must be at least 1 (none), got {self.repetition_penalty}")
        if not self.frequency_penalty >= 0:
            raise ValueError(f"frequency_penalty must be at least 0 (none), got {self.frequency_penalty}")
        if self.no_repeat_ngram < 0 or self.history < 0:
            raise ValueError("no_repeat_ngram and history must be at least 0 (off, all)")

    @property
    def plain(self) -> bool:
        """Whether tokens that occurred are chosen like any other."""
        return self.repetition_penalty == 1 and self.frequency_penalty == 0 and self.no_repeat_ngram == 0


def generator_of(seed: int, text: int) -> torch.Generator:
    """Return the random numbers of one text.

    Args:
        seed: Seed of the call.
        text: Number of the text among those of the call.
    """
    if seed < 0 or text < 0:
        raise ValueError(f"a seed is at least 0, got {seed}")
    # numbers of neighbouring seeds are kept apart: seed 0, text 1 is not seed 1, text 0
    mixed = (seed * 0x9E3779B97F4A7C15 + (text + 1) * 0xD1B54A32D192ED03) % 2**63
    return torch.Generator().manual_seed(mixed)


def choose(
    logits: Tensor, sampling: Sampling, histories: Sequence[Sequence[int]], generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Choose the next token of each text.

    Args:
        logits: (B, V).
        sampling: How to choose.
        histories: The tokens of each text so far, prompt included.
        generators: The random numbers of each text; one is drawn from each, whatever the strategy but greedy.

    Returns:
        (B,) tokens, and (B,) whether each differs from the likeliest one (before penalties and temperature).
    """
    if logits.device.type == "mps":  # has no float64
        logits = logits.cpu()
    likeliest = logits.argmax(-1)
    scores = logits.double()  # sums of 50,000 probabilities in float32 would lose the unlikeliest tokens
    if not sampling.plain:
        recent = [tokens[-sampling.history :] if sampling.history else tokens for tokens in histories]
        scores = penalise(centred(scores), recent, sampling.repetition_penalty, sampling.frequency_penalty)
        scores = ban_repeats(scores, histories, sampling.no_repeat_ngram)
    if sampling.strategy == "greedy":
        chosen = scores.argmax(-1)
        return chosen, chosen != likeliest
    scores = scores / sampling.temperature
    if sampling.strategy in NEEDS_K:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.strategy in NEEDS_P:
        scores = keep_top_p(scores, sampling.top_p)
    draws = torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in generators])
    chosen = draw(scores, draws.to(scores.device))
    return chosen, chosen != likeliest


def centred(scores: Tensor) -> Tensor:
    """Return scores (B, V) less the mean of each row's finite ones.

    A constant in the scores means nothing, but a penalty that divides and multiplies looks at their sign: of
    log-probabilities, all negative, it would hardly move the likeliest token, whose own is near 0.
    """
    return scores - scores.masked_fill(scores == BANNED, float("nan")).nanmean(-1, keepdim=True)


def penalise(scores: Tensor, histories: Sequence[Sequence[int]], repetition: float, frequency: float) -> Tensor:
    """Make tokens that occurred less likely; see :class:`Sampling`."""
    scores = scores.clone()
    for row, tokens in zip(scores, histories, strict=True):
        if not tokens:
            continue
        seen, counts = torch.tensor(tokens, device=scores.device).unique(return_counts=True)
        old = row[seen]
        row[seen] = torch.where(old > 0, old / repetition, old * repetition) - frequency * counts
    return scores


def ban_repeats(scores: Tensor, histories: Sequence[Sequence[int]], n: int) -> Tensor:
    """Rule out each token that would complete a run of ``n`` tokens that occurred already; ``n`` 0 is off.

    Where every token is ruled out, none is: a text has to go on.
    """
    if n == 0:
        return scores
    scores = scores.clone()
    for row, tokens in zip(scores, histories, strict=True):
        last = tuple(tokens[len(tokens) - n + 1 :]) if len(tokens) >= n - 1 else None
        ends = range(n - 1, len(tokens))
        banned = {tokens[i] for i in ends if last is not None and tuple(tokens[i - n + 1 : i]) == last}
        if banned and len(banned) < len(row):
            row[torch.tensor(sorted(banned), device=row.device)] = BANNED
    return scores


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Rule out all but the ``k`` likeliest tokens (B, V); of equal ones those with the lower number stay."""
    if k >= scores.shape[-1]:
        return scores
    kept = scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.full_like(scores, BANNED).scatter(-1, kept, scores.gather(-1, kept))


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Keep the likeliest tokens (B, V) up to the one with which their probability reaches ``p``; at least one."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    cut = before >= p
    cut[..., 0] = False
    return scores.scatter(-1, order, ordered.masked_fill(cut, BANNED))


def draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """Draw a token from each row by the inverse of its distribution function.

    Args:
        scores: (B, V) unnormalised log-probabilities.
        uniform: (B,) numbers in [0, 1).

    Returns:
        (B,) tokens, none of which has probability 0.
    """
    sums = scores.softmax(-1).cumsum(-1)
    last = (sums < sums[:, -1:]).sum(-1)  # that has any probability; takes what rounding leaves
    return torch.minimum(torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0], last)
