"""Table and page of a run's decisions: each rule beside argmax on the same test samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from callbacks.report_files import Predictions
from callbacks.report_tables import number
from callbacks.report_tables import table as markdown_table
from lightning_project import decide_back_off
from modules import statistics, thresholds

LEVEL = 0.95
RULES = {
    "argmax": "argmax",
    "a": "rule A (one class)",
    "b": "rule B (every class)",
    "cost": "least expected cost",
}


@dataclass(frozen=True)
class Judged:
    """Test samples with tempered probabilities, and what was decided about them.

    Attributes:
        test: Labelled test predictions at the fitted temperature. raw: (N, C) probabilities as they were stored.
        decisions: rule -> (N,) class indices, argmax first. curves: tables to be stored, by name.
        answered: (N,) whether the confidence reaches the limit of abstention, or ``None`` without a calibration part.
        costs: rule -> mean cost, where there is a matrix.
    """

    test: Predictions
    raw: np.ndarray
    decisions: dict[str, np.ndarray]
    curves: dict[str, pd.DataFrame]
    answered: np.ndarray | None
    costs: dict[str, float] | None


def table(judged: Judged, positive: int, bootstrap: int) -> pd.DataFrame:
    """Return one row per rule: metrics on test, and the paired differences from argmax with their intervals."""
    test, size = judged.test, len(judged.test.class_names)
    metrics = {"accuracy": "accuracy", "macro_f1": "macro_f1", "recall": f"recall[{positive}]", "f1": f"f1[{positive}]"}
    rows: list[dict[str, Any]] = []
    one_hot = {rule: np.eye(size)[guess] for rule, guess in judged.decisions.items()}
    for rule, guess in judged.decisions.items():
        row: dict[str, Any] = {"rule": rule, **thresholds.decision_metrics(guess, test.y, size, positive)}
        row |= {"cost": None if judged.costs is None else judged.costs[rule]}
        names = list(metrics.values())
        paired = statistics.paired_bootstrap(one_hot[rule], one_hot["argmax"], test.y, test.group, names, bootstrap)
        for name, index in metrics.items():
            ends = zip(("", "_low", "_high"), paired[index], strict=True)
            row |= {f"{name}_difference{end}": value for end, value in ends}
        rows.append(row)
    return pd.DataFrame(rows)


def decisions(judged: Judged) -> pd.DataFrame:
    """Return one row per test sample: id, truth, what each rule decides, confidence, answered."""
    names = np.asarray(judged.test.class_names, dtype=object)
    truth = np.where(judged.test.y >= 0, names[np.maximum(judged.test.y, 0)], "(not in training)")
    frame = pd.DataFrame({"id": judged.test.id, "truth": truth})
    for rule, guess in judged.decisions.items():
        frame[rule] = names[guess]
    frame["confidence"] = judged.test.prob.max(axis=1)
    if judged.answered is not None:
        frame["answered"] = judged.answered
    return frame


def terminal(frame: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    """Return the table for the screen, and a warning where a temperature ended at a bound."""
    columns = ["rule", "accuracy", "macro_f1", "precision", "recall", "f1", "macro_f1_difference"]
    lines = [f"precision, recall and f1 are those of {facts['positive']}; all on test"]
    lines += [frame[columns].to_string(index=False, float_format="{:.3f}".format), *_bounds(facts)]
    lines += decide_back_off.summed(facts["back_off"])
    return "\n".join(lines)


def _bounds(facts: Mapping[str, Any]) -> list[str]:
    at = [name for name, fold in facts["fitted"].items() if fold["temperature"] and fold["temperature"]["at_bound"]]
    return (
        [f"warning: the temperature of {', '.join(at)} ended at a bound of the search: it is no optimum"] if at else []
    )


def page(judged: Judged, frame: pd.DataFrame, facts: Mapping[str, Any], bootstrap: int) -> str:
    """Compose ``DECISIONS.md``."""
    test, positive = judged.test, facts["positive"]
    columns = ["accuracy", "macro_f1", "precision", "recall", "f1"]
    header = ["", "Accuracy", "Macro-F1", f"{positive} precision", f"{positive} recall", f"{positive} F1"]
    header += [*(["mean cost"] if judged.costs else []), "Macro-F1 minus argmax's", f"{positive} recall minus argmax's"]
    rows = []
    for line in frame.to_dict("records"):
        gains = [
            ""
            if line["rule"] == "argmax"
            else f"{line[f'{m}_difference']:+.3f} ({line[f'{m}_difference_low']:+.3f} to "
            f"{line[f'{m}_difference_high']:+.3f})"
            for m in ("macro_f1", "recall")
        ]
        costs = [f"{line['cost']:.3f}"] if judged.costs else []
        rows.append([RULES[line["rule"]], *(f"{line[name]:.3f}" for name in columns), *costs, *gains])
    floor = "" if facts["recall"] is None else f", with a recall of {positive} of at least {facts['recall']:g} first"
    folds = f", out of fold over {len(facts['fitted'])} folds" if len(facts["fitted"]) > 1 else ""
    text = [
        f"# Decisions: {positive}",
        markdown_table(header, rows),
        f"{len(test.y)} test samples in {len(np.unique(test.group))} groups{folds}. In brackets: {LEVEL:.0%} intervals "
        f"from {bootstrap} resamples of the groups; differences are paired. Thresholds make {facts['target']} as large "
        f"as possible on validation{floor}; nothing was fitted on test. Every threshold that was tried, on validation "
        "and on test: `curve_a.csv`, `curve_b.csv`.",
        "![decisions](decisions.png)",
        "## Thresholds",
        _thresholds(facts),
        "## Temperature and abstention",
        _calibration(judged, facts),
        *([backed] if (backed := decide_back_off.section(facts["back_off"], facts["answers"])) else []),
    ]
    return "\n\n".join(text) + "\n"


def _thresholds(facts: Mapping[str, Any]) -> str:
    rows = []
    for name, fold in facts["fitted"].items():
        if "a" in facts["rules"]:
            shown = "argmax is at least as good" if fold["a"] is None else f"{facts['positive']} from {fold['a']:g} on"
            rows.append([name, RULES["a"], shown])
        if fold["b"] is not None:
            rows.append([name, RULES["b"], ", ".join(f"{label} {value:g}" for label, value in fold["b"].items())])
    return markdown_table(["fold", "rule", "thresholds"], rows) if rows else "No rule with thresholds was asked for."


def _calibration(judged: Judged, facts: Mapping[str, Any]) -> str:
    part = facts["calibrated_on"]
    if part is None or judged.answered is None:
        return (
            "Not fitted: the run has no calibration part, so rules work on the probabilities as they are. Fit with "
            "`--split.calib 0.1 --split.train 0.54`, or take validation for it with `--calibrate_on val`."
        )
    test, names = judged.test, [str(name) for name in judged.test.class_names]
    before = statistics.classification_metrics(judged.raw, test.y, names)
    after = statistics.classification_metrics(test.prob, test.y, names)
    rows = [
        [name, *(number(fold["temperature"][key]) for key in ("value", "before", "after")), number(fold["abstention"])]
        for name, fold in facts["fitted"].items()
    ]
    right = judged.test.prob.argmax(axis=1) == test.y
    answered = judged.answered
    share = f"accuracy {right[answered].mean():.3f}" if answered.any() else "no answer at all"
    lines = [
        f"Fitted on {part}" + (", where settings were chosen before" if part == "val" else "") + ".",
        "",
        markdown_table(["fold", "temperature", "NLL at 1", "NLL at it", "least confidence of an answer"], rows),
        "",
        f"On test: NLL {before['nll']:.3f} before and {after['nll']:.3f} after, ECE {before['ece']:.3f} and "
        f"{after['ece']:.3f}. Answering only where sure (meant to reach {facts['answers']:g}): {answered.mean():.1%} "
        f"answered, {share}; without abstention {right.mean():.3f}.",
        *_bounds(facts),
    ]
    return "\n".join(lines)
