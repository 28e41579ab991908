"""The table of an ablation: values, spread over seeds, paired intervals against the base, cost in time."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from callbacks.report_files import Predictions
from callbacks.report_plots import metric_label
from lightning_project import figures
from lightning_project.ablation_plan import BASE, Cell, Plan
from modules import statistics

LEVEL = 0.95
_NEEDS_PROBABILITIES = re.compile(r"nll|ece|top\d+")


@dataclass
class Outcome:
    """What a cell came to.

    Attributes:
        cell: The cell.
        found: Test predictions by seed, joined over the folds; ``None`` in place of a seed for an ensemble of seeds.
        seconds: Seconds of training of each finished seed, all folds together.
        trainable: Trained parameters.
        failures: Lines of what went wrong.
        decided: Whether the predictions are decisions, without probabilities.
    """

    cell: Cell
    found: dict[int | None, Predictions] = field(default_factory=dict)
    seconds: dict[int | None, float] = field(default_factory=dict)
    trainable: int | None = None
    failures: list[str] = field(default_factory=list)
    decided: bool = False


def tabulate(plan: Plan, outcomes: list[Outcome], bootstrap: int) -> pd.DataFrame:
    """Return one row per cell.

    Args:
        plan: The plan.
        outcomes: One per cell, the base first.
        bootstrap: Resamples of the groups.

    Returns:
        Columns cell, hoped, seeds, folds; per metric METRIC, ``_std`` over seeds, ``_low``, ``_high``,
        ``_difference`` with ``_low`` and ``_high``; seconds, time_ratio, trainable_params, failures, note.
    """
    drawn: dict[tuple[str, int | None], dict[str, np.ndarray]] = {}
    points: dict[tuple[str, int | None], dict[str, float]] = {}
    notes: dict[str, str] = {}
    for outcome in outcomes:
        name = outcome.cell.name
        for seed, found in outcome.found.items():
            metrics = _measurable(plan, outcome)
            try:
                by_index = {metric: statistics.by_index(metric, list(found.class_names)) for metric in metrics}
                exact = figures.measured(found, list(by_index.values()))
            except ValueError as error:
                notes[name] = str(error)
                continue
            values = figures.resampled(found, list(by_index.values()), bootstrap)
            drawn[name, seed] = {metric: values[index] for metric, index in by_index.items()}
            points[name, seed] = {metric: exact[index] for metric, index in by_index.items()}
    base = outcomes[0]
    lines = []
    for outcome in outcomes:
        name, seeds = outcome.cell.name, list(outcome.found)
        shared, remark = _paired(base, outcome)
        line: dict[str, Any] = {"cell": name, "hoped": outcome.cell.hoped, "seeds": len(seeds), "folds": plan.folds}
        for metric in plan.metrics:
            keys = [(name, seed) for seed in seeds if metric in points.get((name, seed), {})]
            others = [(BASE, seed) for seed in shared if metric in points.get((BASE, seed), {})]
            line |= _of_metric(metric, keys, others if name != BASE and keys else [], points, drawn)
        line["seconds"] = float(np.mean(list(outcome.seconds.values()))) if outcome.seconds else np.nan
        line["time_ratio"] = _ratio(outcome, base)
        line["trainable_params"] = outcome.trainable
        line["failures"] = " | ".join(outcome.failures)
        line["note"] = "; ".join(text for text in (outcome.cell.note, remark, notes.get(name, "")) if text)
        lines.append(line)
    return pd.DataFrame(lines)


def _measurable(plan: Plan, outcome: Outcome) -> list[str]:
    return [m for m in plan.metrics if not (outcome.decided and _NEEDS_PROBABILITIES.fullmatch(m))]


def _paired(base: Outcome, outcome: Outcome) -> tuple[list[int | None], str]:
    """Return the base's seeds that a cell is paired with, and why there are none."""
    if not base.found or not outcome.found:
        return [], ""
    one, other = (next(iter(each.found.values())) for each in (base, outcome))
    if list(one.class_names) != list(other.class_names):
        return [], "other classes than the base: no difference"
    if not np.array_equal(one.id, other.id) or not np.array_equal(one.group, other.group):
        return [], "other test samples than the base: no difference"
    if not np.array_equal(one.y, other.y):
        return [], "other labels of the test samples than the base: no difference"
    return [seed for seed in base.found if seed in outcome.found] or list(base.found), ""


def _of_metric(
    metric: str,
    keys: list[tuple[str, int | None]],
    others: list[tuple[str, int | None]],
    points: dict[tuple[str, int | None], dict[str, float]],
    drawn: dict[tuple[str, int | None], dict[str, np.ndarray]],
) -> dict[str, float]:
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    names = ("", "_std", "_low", "_high", "_difference", "_difference_low", "_difference_high")
    line = {f"{metric}{name}": np.nan for name in names}
    if not keys:
        return line
    values = np.array([points[key][metric] for key in keys])
    line[metric], line[f"{metric}_std"] = values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan
    resampled = np.mean([drawn[key][metric] for key in keys], axis=0)
    line[f"{metric}_low"], line[f"{metric}_high"] = np.quantile(resampled, ends)
    if others:
        seeds = {seed for _, seed in others}
        mine = [key for key in keys if key[1] in seeds] or keys
        # equal seeds of the bootstrap give equal resamples of equal groups, so that values can be subtracted
        apart = np.mean([drawn[key][metric] for key in mine], axis=0) - np.mean(
            [drawn[key][metric] for key in others], axis=0
        )
        line[f"{metric}_difference"] = float(
            np.mean([points[key][metric] for key in mine]) - np.mean([points[key][metric] for key in others])
        )
        line[f"{metric}_difference_low"], line[f"{metric}_difference_high"] = np.quantile(apart, ends)
    return line


def _ratio(outcome: Outcome, base: Outcome) -> float:
    both = [seed for seed in outcome.seconds if seed in base.seconds]
    if not both:
        return np.nan
    return sum(outcome.seconds[seed] for seed in both) / max(sum(base.seconds[seed] for seed in both), 1e-9)


def verdict(row: dict[str, Any], metric: str) -> str:
    """Say in a word what an interval says."""
    low, high = row[f"{metric}_difference_low"], row[f"{metric}_difference_high"]
    if np.isnan(low):
        return ""
    up = not figures.less_is_better(metric)
    return "undecided" if low <= 0 <= high else "helped" if (low > 0) == up else "hurt"


def markdown(plan: Plan, table: pd.DataFrame, outcomes: list[Outcome], bootstrap: int) -> str:
    """Return the page of the ablation."""
    rows, first = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")], plan.metrics[0]
    header = ["cell", "hoped", *(metric_label(m) for m in plan.metrics), f"{metric_label(first)} minus base", "verdict"]
    header += ["time", "trained parameters", "remark"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [_value(row, metric) for metric in plan.metrics]
        time = "" if np.isnan(row["time_ratio"]) else f"x {row['time_ratio']:.2f}"
        size = "" if pd.isna(row["trainable_params"]) else f"{int(row['trainable_params']):,}"
        failed = f"**failed**: {row['failures']}" if row["failures"] else ""
        remark = "; ".join(text for text in (failed, row["note"]) if text).replace("|", "/")
        lines.append(
            [f"`{row['cell']}`", row["hoped"], *cells, _difference(row, first), verdict(row, first), time, size, remark]
        )
    found = next((each for outcome in outcomes for each in outcome.found.values()), None)
    text = [f"# Ablation: {plan.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines), _words(rows, first)]
    if found is not None:
        text.append(_how(plan, found, len(rows) - 1, bootstrap))
    text.append("![differences](ablation.png)")
    for metric in plan.metrics[1:]:
        body = [[f"`{row['cell']}`", _difference(row, metric), verdict(row, metric)] for row in rows]
        body = [["cell", f"{metric_label(metric)} minus base", "verdict"], ["---"] * 3, *body]
        text += [f"## {metric_label(metric)}", "\n".join(f"| {' | '.join(line)} |" for line in body)]
    return "\n\n".join(part for part in text if part) + "\n"


def _words(rows: list[dict[str, Any]], metric: str) -> str:
    groups = {word: [f"`{row['cell']}`" for row in rows if verdict(row, metric) == word] for word in _VERDICTS}
    failed = [f"`{row['cell']}`" for row in rows if row["failures"]]
    said = [f"**{word}** ({len(names)}): {', '.join(names) or '-'}" for word, names in groups.items()]
    return "  \n".join(
        [f"By {metric_label(metric)}:", *said, *([f"**failed**: {', '.join(failed)}"] if failed else [])]
    )


_VERDICTS = ("helped", "hurt", "undecided")


def _how(plan: Plan, found: Predictions, compared: int, bootstrap: int) -> str:
    real = found.labelled()
    folds = f", out of fold over {plan.folds} folds" if plan.folds else ""
    seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''} ({', '.join(map(str, plan.seeds))})"
    by_chance = (1 - LEVEL) * compared
    return (
        f"Judged on the same {len(real.y)} test samples in {len(np.unique(real.group))} groups{folds}; {seeds}; mean "
        f"and, with ±, standard deviation over seeds. In brackets {LEVEL:.0%} intervals from {bootstrap} resamples of "
        "the groups, of the mean over seeds; differences are paired, and cover the choice of samples, not that of "
        f"seeds. Of {compared} such intervals about {by_chance:.1f} leave out zero by chance alone. The time is that "
        "of training, against the base's; `hoped` is what the source of the idea hoped for, where it said so."
    )


def _value(row: dict[str, Any], metric: str) -> str:
    if np.isnan(row[metric]):
        return ""
    spread = "" if np.isnan(row[f"{metric}_std"]) else f" ± {row[f'{metric}_std']:.3f}"
    return f"{row[metric]:.3f}{spread}"


def _difference(row: dict[str, Any], metric: str) -> str:
    value, low, high = (row[f"{metric}_difference{end}"] for end in ("", "_low", "_high"))
    return "" if np.isnan(value) else f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
