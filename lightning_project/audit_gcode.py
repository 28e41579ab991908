"""What the verb `audit` says about windows of recordings: do they overlap across parts, and what needs no network."""

from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from callbacks.report_gcode_score import answer_sums, measured
from callbacks.report_tables import number, table
from datamodules.gcode_baselines import line_answers, task_of
from datamodules.splits import make_split

TREES = 100  # of a forest: both ways to split need their own
SHOWN = {
    "operation_accuracy": "operation",
    "token_accuracy_brief": "tokens, forced, as the brief counted",
    "token_accuracy": "tokens, forced",
    "line_accuracy": "whole line, free",
}


def overlapping(recording: ndarray, row: ndarray, part: ndarray, window: int) -> dict[str, float]:
    """Return for each part but train the share of its windows that share rows with a training window.

    Args:
        recording: (N,) name of each window's recording.
        row: (N,) its first row there.
        part: (N,) its part.
        window: Rows of a window.
    """
    found = {}
    for name in ("val", "calib", "test"):
        asked = np.flatnonzero(part == name)
        if not len(asked):
            continue
        hits = 0
        for one in np.unique(recording[asked]):
            train = np.sort(row[(part == "train") & (recording == one)])
            rows = row[asked[recording[asked] == one]]
            first = np.searchsorted(train, rows - window, side="right")  # training windows that begin late enough
            hits += int((np.searchsorted(train, rows + window, side="left") > first).sum())
        found[name] = hits / len(asked)
    return found


def about_lines(data: Any, table_of_split: pd.DataFrame, fractions: dict[str, float], seed: int, part: str) -> str:  # noqa: ANN401
    """Return the section: overlap of windows across parts, and simple models under both ways to split.

    Args:
        data: A datamodule of windows, split.
        table_of_split: Its split.
        fractions: Fractions that the other split is drawn with.
        seed: Its seed.
        part: Part on which the simple models are judged.
    """
    names, rows = np.array(data.recording_names()), np.asarray(data.rows)
    leaky = data.protocol == "leaky_random_windows"
    group = names if leaky else data.records["id"].to_numpy(str)
    records = data.records.assign(group=group, given="")
    other = make_split(records, fractions=fractions, seed=seed, group_aware=True)["part"].to_numpy(str)
    parts = {"this split": table_of_split["part"].to_numpy(str), "by recording" if leaky else "random windows": other}
    task, columns, lines = task_of(data), {}, []
    for protocol, where in parts.items():
        shares = overlapping(names, rows, where, data.window)
        lines.append([protocol, *(number(shares.get(name), 3) for name in ("val", "test"))])
        train, asked = (np.flatnonzero(where == name) for name in ("train", part))
        asked = asked[[task.lines[record] != "" for record in asked]]
        answers = line_answers(task, train, asked, TREES)
        true = [task.lines[record] for record in asked]
        order = np.arange(len(asked))
        columns[protocol] = {n: measured(answer_sums(a, true, data.y[asked], order)) for n, a in answers.items()}
    first, second = columns.values()
    body = [
        [name, *(number(found.get(metric)) for metric in SHOWN for found in (first[name], second[name]))]
        for name in first
    ]
    header = ["", *(f"{label} · {protocol}" for label in SHOWN.values() for protocol in columns)]
    return "\n".join(
        [
            "\n## Windows that share rows with a training window\n",
            table(["split", "validation", "test"], lines),
            f"\n## What needs no network, on {part}, under both ways to split\n",
            table(header, body),
            "",
            _verdict(leaky, first, overlapping(names, rows, parts["this split"], data.window)),
            "",
        ]
    )


def _verdict(leaky: bool, found: dict[str, dict[str, float]], shares: dict[str, float]) -> str:
    """Say what the figures of this split are worth."""
    share = max(shares.values(), default=0.0)
    if share == 0:
        return "No window is judged that shares rows with one that was trained on."
    lines = {name: figures["line_accuracy"] for name, figures in found.items() if "line_accuracy" in figures}
    best = max(lines, key=lines.__getitem__)
    tokens = found["table: operation + prefix + window number"]["token_accuracy_brief"]
    why = "Under `leaky_random_windows`" if leaky else "In this split"
    text = (
        f"**These numbers must not be used for a new recording.** {why} up to {share:.0%} of the windows of a judged "
        f"part share rows with a training window of the same recording: a table that sees no sensor reaches "
        f"{tokens:.3f} of the tokens as the brief counted (its network: 0.902), and {best} writes {lines[best]:.3f} of "
        "the whole lines."
    )
    if not leaky:
        return text + " Split by recording, with `split.group_aware: true`, or give another split."
    return (
        text + " It is there so that the brief's 0.9023 can be compared like for like; to train all the same, set "
        "`split.on_leak: warn`."
    )
