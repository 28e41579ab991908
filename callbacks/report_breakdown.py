"""The part of a report that looks closer: kinds of samples, coarser classes, what needs data, and pictures.

Only what the data offer is written (``facets``, ``class_levels`` and ``pictures`` of a datamodule).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks import report_files as files
from callbacks import report_plots as plots
from callbacks.report_pictures import grid
from callbacks.report_tables import number, table
from modules import breakdown

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHOWN, PICTURES, LEAST = 8, 24, 3  # rows of a table, pictures of a grid, samples that a row of it needs
BREAKDOWN, LEVELS, BACK_OFF, CLASSES = "breakdown.csv", "levels.csv", "back_off.csv", "classes.csv"


def write_breakdown(root: Path, stage: str, found: files.Predictions, data: Any, top_k: int, bootstrap: int) -> None:  # noqa: ANN401
    """Write the tables and pictures of a stage.

    Args:
        root: Run folder.
        stage: Sub-folder.
        found: Labelled predictions.
        data: A ``SplitDataModule``.
        top_k: Guesses of the top-k accuracy.
        bootstrap: Resamples for intervals; 0 leaves them out.
    """
    folder, levels = root / stage, data.class_levels()
    place = pd.Series(np.arange(len(data.records)), index=data.records["id"].astype(str))
    rows = place.loc[found.id].to_numpy()
    parts = [
        breakdown.by_kind(found.prob, found.y, found.group, kinds[rows], top_k, bootstrap).assign(facet=facet)
        for facet, kinds in data.facets().items()
    ]
    if parts:
        whole = pd.concat(parts, ignore_index=True)
        files.write_csv(folder / BREAKDOWN, whole[["facet", *whole.columns.drop("facet")]])
    if levels:
        counts = data.class_counts("train")
        files.write_csv(folder / LEVELS, breakdown.by_level(found.prob, found.y, levels))
        files.write_csv(folder / BACK_OFF, breakdown.back_off_table(found.prob, found.y, levels, THRESHOLDS))
        for level, names in levels.items():
            files.write_csv(folder / f"needs_{level}.csv", breakdown.needs(found.prob, found.y, counts, names))
        known = pd.DataFrame({"class": [str(name) for name in found.class_names], "train": counts, **levels})
        files.write_csv(root / CLASSES, known)
    _write_pictures(folder, found, data, rows)


def _write_pictures(folder: Path, found: files.Predictions, data: Any, rows: np.ndarray) -> None:  # noqa: ANN401
    """Write a grid of samples drawn at random, and one of the surest mistakes."""
    if data.pictures(rows[:1]) is None:
        return
    guess, confidence = found.prob.argmax(axis=1), found.prob.max(axis=1)
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:PICTURES])
    wrong = np.flatnonzero(guess != found.y)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:PICTURES]
    for name, chosen, title in (
        ("examples", drawn, "Samples drawn at random: truth, and what was answered"),
        ("errors", surest, "The surest mistakes: truth, and what was answered"),
    ):
        if not len(chosen):
            continue
        names = [str(known) for known in found.class_names]
        said = [
            (names[found.y[i]] if found.y[i] >= 0 else "(not in training)", names[guess[i]], float(confidence[i]))
            for i in chosen
        ]
        files.write_figure(folder / f"{name}.png", grid(data.pictures(rows[chosen]), said, title), dpi=110)


def section(root: Path, stage: str) -> str:
    """Compose the section of ``REPORT.md`` from the files of a stage; nothing where there are none."""
    folder = root / stage
    text = [part for part in (_kinds(folder), _levels(folder), _needs(folder), _pictures(folder, stage)) if part]
    return "\n\n".join(["## A closer look", *text]) if text else ""


def _read(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, keep_default_na=False, na_values=[""]) if path.is_file() else None


def _kinds(folder: Path) -> str:
    found = _read(folder / BREAKDOWN)
    if found is None:
        return ""
    top = next(name for name in found.columns if name.startswith("top"))
    lines = []
    for facet, part in found.groupby("facet", sort=False):
        rows = []
        for row in part.to_dict("records"):
            interval = f" ({number(row['low'])} to {number(row['high'])})" if row["low"] == row["low"] else ""
            shown = [number(row["accuracy"]) + interval, number(row[top]), number(row["macro_recall"])]
            rows.append([row["kind"], row["n"], *shown])
        lines.append(table([str(facet), "n", "accuracy", plots.metric_label(top), "mean recall of classes"], rows))
    return "\n\n".join(lines)


def _levels(folder: Path) -> str:
    found, answers = _read(folder / LEVELS), _read(folder / BACK_OFF)
    if found is None or answers is None:
        return ""
    rows = [
        [r["level"], r["classes"], number(r["accuracy"]), "" if r["level"] == "class" else number(r["of_errors"], 2)]
        for r in found.to_dict("records")
    ]
    names = list(answers.columns[3:])
    backed = [
        [f"{r['threshold']:g}", f"{r['answered']:.1%}", number(r["accuracy"]), *(f"{r[name]:.1%}" for name in names)]
        for r in answers.to_dict("records")
    ]
    return "\n\n".join(
        [
            "Coarser classes (probabilities added up), and how many of the wrong answers are right at that level:",
            table(["level", "classes", "accuracy", "share of the errors"], rows),
            "Answering at the finest level that is probable enough, and not at all where none is:",
            table(["least probability", "answered", "accuracy of the answers", *(f"as {n}" for n in names)], backed),
            "A threshold for a wanted accuracy is fitted by `decide`, on the calibration part.",
        ]
    )


def _needs(folder: Path) -> str:
    lines = []
    for path in sorted(folder.glob("needs_*.csv")):
        found = _read(path)
        assert found is not None
        worst = found[found["n"] >= LEAST].head(SHOWN)
        rows = [[r["name"], r["classes"], r["train"], f"{r['train_per_class']:.1f}", r["n"], number(r["recall"])]
                for r in worst.to_dict("records")]  # fmt: skip
        level = path.stem.removeprefix("needs_")
        unjudged = int((found["n"] == 0).sum())
        lines.append(f"Needs data first, by {level}" + (f" ({unjudged} more were never judged)" * bool(unjudged)) + ":")
        lines.append(table([level, "classes", "training samples", "each class", "n", "found"], rows))
    return "\n\n".join(lines)


def _pictures(folder: Path, stage: str) -> str:
    names = [name for name in ("examples", "errors") if (folder / f"{name}.png").is_file()]
    return "\n\n".join(f"![{name}]({stage}/{name}.png)" for name in names)
