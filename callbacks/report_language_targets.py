"""What the brief hoped for, beside what was reached: one row a figure, judged by its own definition here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hope:
    """A figure of the brief.

    Attributes:
        name: What it is. place: Where it stands in ``metrics.json``, keys joined by dots; ``fit:`` = that of the fit.
        low: Least value that counts as reached, or ``None``. high: Largest value, or ``None``.
        note: How its definition differs from the brief's. per_token: A perplexity per token, which compares only with
            the brief's vocabulary and on text of people. explored: Only of models that were trained with exploration.
    """

    name: str
    place: str
    low: float | None = None
    high: float | None = None
    note: str = ""
    per_token: bool = False
    explored: bool = False


GPT2_VOCABULARY = 50_257  # that of the brief
_TOKENS = "tokens, not characters"
_EPOCHS = ((1, 650.62, "650.62"), (5, 250, "200-250"), (10, 150, "100-150"), (15, 80, "60-80"), (20, 70, "50-70"))
_EPOCH_NAME = "perplexity per token, validation, epoch {}"
HOPES = (
    *(
        Hope(_EPOCH_NAME.format(n), f"fit:by_epoch.{n}", None, most, f"brief: {said}", per_token=True)
        for n, most, said in _EPOCHS
    ),
    Hope("perplexity per token, train", "fit:train.values.perplexity", None, 65, "brief: 45-65", per_token=True),
    Hope("perplexity per token, validation", "fit:values.perplexity", None, 80, "brief: 50-80", per_token=True),
    Hope("perplexity per token, test", "values.perplexity", None, 85, "brief: 55-85", per_token=True),
    Hope("gap of validation to train", "gap", None, 0.10, "(validation - train) / train"),
    Hope("repetition, 1-grams", "generation.repetition_1", None, 0.15, _TOKENS),
    Hope("repetition, 2-grams", "generation.repetition_2", None, 0.08, _TOKENS),
    Hope("repetition, 3-grams", "generation.repetition_3", None, 0.03, _TOKENS),
    Hope("different tokens in 100", "generation.unique_per_100", 40, 60),
    Hope("unknown tokens", "generation.unknown_share", None, 0.0),
    Hope("BLEU-1", "generation.bleu_1", 0.25, None, "of the corpus, against true continuations"),
    Hope("BLEU-2", "generation.bleu_2", 0.15, None, "of the corpus, against true continuations"),
    Hope("BLEU-3", "generation.bleu_3", 0.08, None, "of the corpus, against true continuations"),
    Hope("BLEU-4", "generation.bleu_4", 0.04, None, "of the corpus, against true continuations"),
    Hope("Self-BLEU", "generation.self_bleu", None, 0.8, "high = samples are alike; the brief took it for diversity"),
    Hope(
        "tokens other than the likeliest",
        "generation.off_likeliest",
        0.25,
        0.35,
        "brief: explored / exploited 30/70",
        explored=True,
    ),
    Hope("slots with a share of the reads", "slots.active_share", 0.4, 0.6, "more than 1/(2 x slots) of the read mass"),
    Hope("effective number of slots", "slots.effective_slots", 100, 150, "exp(entropy of the read mass)"),
    Hope("mean importance", "slots.importance_mean", 0.6, 0.8, "of slots in use"),
    Hope("slots overwritten a segment", "slots.overwritten_share", 0.15, 0.25),
    Hope("attention distance (tokens)", "attention.attention_distance", 50, 100, "mean over heads and positions"),
)


def panel(metrics: Mapping[str, Any], fit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each figure that was measured: name, hope, value, whether it was reached, note.

    ``reached`` is ``None`` where the figure does not compare with the brief's; the note then says why.

    Args:
        metrics: ``metrics.json`` of the stage.
        fit: ``metrics.json`` of the fit, or an empty one.
    """
    at_fit = fit or (metrics if metrics["part"] == "val" else {})
    own = metrics if metrics["part"] == "test" else {key: value for key, value in metrics.items() if key != "values"}
    gap = gap_to_train(at_fit)
    rows = []
    for hope in HOPES:
        source = at_fit if hope.place.startswith("fit:") else {**own, "gap": gap}
        value = _find(source, hope.place.removeprefix("fit:"))
        if value is None or math.isnan(value) or (hope.explored and not metrics.get("explored")):
            continue
        reached = (hope.low is None or value >= hope.low) and (hope.high is None or value <= hope.high)
        why = _incomparable(source) if hope.per_token else ""
        verdict = {"reached": None, "note": why} if why else {"reached": reached, "note": hope.note}
        rows.append({"name": hope.name, "hope": _words(hope), "value": value, **verdict})
    return rows


def _incomparable(judged: Mapping[str, Any]) -> str:
    """Say why a perplexity per token does not compare with the brief's; empty where it does."""
    if judged["entropy_per_word"] is not None:
        return "made text"
    return "" if judged["protocol"]["vocabulary"] == GPT2_VOCABULARY else "another vocabulary"


def gap_to_train(fit: Mapping[str, Any]) -> float | None:
    """Return how much higher the perplexity per token is on validation than on train, as a share of the latter."""
    train, val = _find(fit, "train.values.perplexity"), _find(fit, "values.perplexity")
    return None if train is None or val is None else (val - train) / train


def _find(tree: Mapping[str, Any], path: str) -> float | None:
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return None if node is None else float(node)


def _words(hope: Hope) -> str:
    if hope.low is not None and hope.high is not None:
        return f"{hope.low:g} to {hope.high:g}"
    return f"at least {hope.low:g}" if hope.low is not None else f"at most {hope.high:g}"
