"""The page and the chart of a comparison of language models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from callbacks import report_plots as plots
from callbacks.report_language_files import TextPredictions
from lightning_project import compare_continued as continuations
from lightning_project.compare_continued import Starts
from lightning_project.compare_language_runs import TextRun

LEVEL = 0.95  # of the intervals


def chart(table: pd.DataFrame, metric: str) -> Figure:
    """Draw the runs side by side, without lines where there are no intervals."""
    ends = [f"{metric}_low", f"{metric}_high"]
    none = bool(table[ends].isna().all(axis=None))
    title = f"{metric.replace('_', ' ')} on the same documents ({'no intervals' if none else 'line = 95 % interval'})"
    return plots.comparison(table.assign(**{end: table[end].fillna(table[metric]) for end in ends}), metric, title)


def _cell(line: Mapping[Any, Any], name: str, form: str) -> str:
    """Return a figure with its interval, if it has one; nothing where it is NaN."""
    value, low, high = (line.get(f"{name}{end}", float("nan")) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return ""
    return f"{value:{form}}" if np.isnan(low) else f"{value:{form}} ({low:{form}} to {high:{form}})"


def markdown(
    table: pd.DataFrame,
    rows: Mapping[str, Sequence[TextRun]],
    text: str | None,
    bootstrap: int,
    plan: dict[str, Starts],
) -> str:
    """Return the page.

    Args:
        table: One line a configuration, with the figures, their intervals and flags.
        rows: The runs of each line.
        text: Text file or folder on which the runs were judged; ``None`` is their test part.
        bootstrap: Resamples of the intervals of perplexities.
        plan: What was continued for each metric of continuations.
    """
    from lightning_project.compare import differences

    names = [str(n) for n in table if f"{n}_low" in table and not str(n).endswith("_difference")]
    body = []
    for line in table.to_dict("records"):
        cells = [_cell(line, n, ".3f") for n in names]
        if line["seeds"] > 1:
            cells = [f"{cell} ± {line[f'{n}_std']:.3f}" for cell, n in zip(cells, names, strict=True)]
        low, high = (line[f"{names[0]}_difference_{end}"] for end in ("low", "high"))
        clear = "" if np.isnan(low) or low <= 0 <= high else " *clear*"
        body.append([line["run"], line["seeds"], *cells, _cell(line, f"{names[0]}_difference", "+.3f") + clear])
    header = [
        "run",
        "seeds",
        *(n.replace("_", " ") for n in names),
        f"{names[0].replace('_', ' ')} minus the first's",
    ]
    parts = [
        "# Comparison: language",
        "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in [header, ["---"] * len(header), *body]),
        _judged(next(iter(rows.values()))[0].found, text, bootstrap),
        *(_of_continuations(metric, starts) for metric, starts in plan.items()),
        *(f"**Flag, {line['run']}: {line['flags']}.**" for line in table.to_dict("records") if line["flags"]),
        "## What differs in the settings",
        differences(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _judged(found: TextPredictions | None, text: str | None, bootstrap: int) -> str:
    """Say on which documents the runs were judged, and where the intervals come from."""
    if found is None:
        return ""
    groups, words = len(np.unique(found.group)), f"{int(found.n_words.sum()):,} words (one end of line a line)"
    where = "test documents" if text is None else f"documents of {Path(text).name}"
    token = "Per token only runs of one vocabulary compare."
    if groups < 2:
        one = "one document" if len(found.id) == 1 else "one group of documents that are nearly the same"
        return (
            f"The same {len(found.id)} {where}, {words}; no intervals: {one}, which says nothing of others, so no "
            f"difference is called clear. `--text` of several documents, or `--boundary`, gives them. {token}"
        )
    return (
        f"The same {len(found.id)} {where} in {groups} groups, {words}. In brackets: {LEVEL:.0%} intervals from "
        f"{bootstrap} resamples of the groups, of the mean over seeds; differences are paired. ± is the standard "
        f"deviation over seeds. *clear*: the interval leaves out zero. {token}"
    )


def _of_continuations(metric: str, starts: Starts) -> str:
    count = len(starts.prompts)
    drawn = f"intervals from {continuations.RESAMPLES} resamples of them" if count > 1 else "no intervals: one text"
    return f"{metric}: of {count} continuations ({starts.source}), over words and of one length for all runs; {drawn}."
