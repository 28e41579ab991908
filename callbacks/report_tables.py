"""Tables of a report in Markdown and for the terminal: the model beside its baselines, its best and worst classes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from callbacks import report_plots as plots
from callbacks.report_metrics import FEW
from callbacks.report_targets import REACHED, aim

LISTED = 40  # classes in a sentence


def number(value: float | None, digits: int = 3) -> str:
    """Format a number; a missing one is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _cell(entry: Mapping[str, Any], metric: str) -> str:
    interval = entry.get("intervals", {}).get(metric)
    return number(entry["values"].get(metric)) + (
        f" ({number(interval[0])} to {number(interval[1])})" if interval else ""
    )


def table(header: list[str], rows: list[list[Any]]) -> str:
    """Make a Markdown table; bars and line breaks in a cell do not break it."""
    cells = [
        [str(value).replace("|", "\\|").replace("\n", " ") for value in row]
        for row in [header, ["---"] * len(header), *rows]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _entries(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        ("**this model**", metrics),
        *((name, entry) for name, entry in metrics["baselines"].items() if "values" in entry),
    ]


def _verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """Say in words which baselines the model is above, by the paired interval of the accuracy."""
    lines = []
    for name, entry in metrics["baselines"].items():
        difference = entry.get("difference", {}).get("accuracy") or []
        if len(difference) == 3 and name != "chance":
            low, high = difference[1:]
            word = "above" if low > 0 else "**below**" if high < 0 else "**not distinguishable from**"
            lines.append(f"- This model is {word} {name} in accuracy.")
    return lines


def results(metrics: Mapping[str, Any], stage: str) -> str:
    """Compose the section of a stage's numbers: the model, its baselines, intervals, differences and the gap."""
    columns = [m for m in metrics["values"] if m in ("accuracy", "macro_f1", "nll") or m.startswith("top")]
    rows = []
    for name, entry in _entries(metrics):
        difference = entry.get("difference", {}).get("accuracy") or []
        gain = f"{difference[0]:+.3f}" if difference else ""
        interval = f" ({difference[1]:+.3f} to {difference[2]:+.3f})" if len(difference) == 3 else ""
        rows.append([name, *(_cell(entry, metric) for metric in columns), gain + interval])
    lines = [
        f"## Numbers on {'validation' if metrics['part'] == 'val' else metrics['part']}",
        "",
        table(["", *(plots.metric_label(m) for m in columns), "this model's accuracy minus its"], rows),
        "",
    ]
    if metrics["bootstrap"]:
        lines.append(
            f"In brackets: {metrics['level']:.0%} intervals from {metrics['bootstrap']} resamples of "
            f"{metrics['n_groups']} groups ({metrics['n']} samples); differences are paired, on the same samples."
        )
    else:
        lines.append("No intervals: `report.bootstrap` is 0.")
    lines += ["", *_verdicts(metrics)]
    lines += [f"- {name}: {entry['not_run']}" for name, entry in metrics["baselines"].items() if "not_run" in entry]
    others = {m: v for m, v in metrics["values"].items() if m not in columns}
    lines += [
        "",
        "Also: "
        + ", ".join(f"{plots.metric_label(m)} {number(v)}" for m, v in others.items())
        + f". Files: `{stage}/`.",
    ]
    if metrics["evaluated"] < metrics["expected"]:
        lines.append(f"\n**Only {metrics['evaluated']} of this part's {metrics['expected']} samples were evaluated.**")
    gap = metrics.get("generalisation_gap")
    if gap:
        first, second = (name.removesuffix("_accuracy") for name in list(gap)[:2])
        note = (
            " (the training figure is taken while learning, with dropout and augmentation on)"
            if first == "train"
            else ""
        )
        lines.append(
            f"\nGeneralisation gap: accuracy {number(gap[first + '_accuracy'])} on {first}, "
            f"{number(gap[second + '_accuracy'])} on {second}, gap {gap['gap']:+.3f}{note}."
        )
    return "\n".join(lines)


def classes(root: Path, stage: str, metrics: Mapping[str, Any]) -> str:
    """Compose the section of the classes: best, worst, most confused and rarest, with the pictures."""
    scores = pd.read_csv(root / stage / "per_class.csv", index_col=0, keep_default_na=False, na_values=[""]).iloc[:-3]
    ranked = scores[scores["support"] > 0].sort_values(["f1-score", "support"], ascending=False, kind="stable")
    count = min(5, max(1, len(ranked) // 2))
    best, worst = ranked.head(count), ranked.tail(count).iloc[::-1]
    rows = [
        [a, number(x), int(n), b, number(z), int(m)]
        for (a, x, n), (b, z, m) in zip(
            best[["f1-score", "support"]].itertuples(), worst[["f1-score", "support"]].itertuples(), strict=True
        )
    ]
    pairs = [
        [pair["truth"], pair["prediction"], pair["count"], f"{pair['share']:.0%}"] for pair in metrics["confusions"]
    ]
    lines = ["## Classes", "", table(["best", "F1", "n", "worst", "F1", "n"], rows), ""]
    lines += (
        ["Most confused:", "", table(["truth", "taken for", "times", "of its samples"], pairs)]
        if pairs
        else ["No sample was confused."]
    )
    if metrics["support_warnings"]:
        lines += [
            "",
            f"**Too few samples to say anything** (fewer than {FEW} in this part): "
            + "; ".join(metrics["support_warnings"][:LISTED])
            + (f"; and {len(rest):,} more classes" if (rest := metrics["support_warnings"][LISTED:]) else "")
            + ".",
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"![per class]({stage}/per_class.png)",
            "",
            f"![confusion]({stage}/confusion.png)",
            "",
            f"![calibration]({stage}/calibration.png)",
        ]
    )


def terminal(metrics: Mapping[str, Any], run: Mapping[str, Any], stage: str) -> str:
    """A plain table: the model and its baselines, then the targets."""
    columns = [m for m in metrics["values"] if m in ("accuracy", "macro_f1", "nll") or m.startswith("top")]
    rows = [["", *(plots.metric_label(m) for m in columns)]]
    rows += [[name.strip("*"), *(_cell(entry, m) for m in columns)] for name, entry in _entries(metrics)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [f"{run['system']} · {stage} · {metrics['n']} samples, {metrics['n_groups']} groups"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {entry['not_run']}" for name, entry in metrics["baselines"].items() if "not_run" in entry]
    lines += [
        f"target {t['metric']} {aim(t)}: {REACHED[t['reached']]} ({number(t['value'], 4)})"
        for t in run.get("targets") or []
    ]
    return "\n".join(lines)
