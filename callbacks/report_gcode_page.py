"""The page of a decoder of G-code and what is printed at the end of a stage; made from files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from callbacks import report_files as files
from callbacks import report_gcode_brief as brief
from callbacks import report_text
from callbacks.report_tables import number, table
from callbacks.report_targets import REACHED, aim

LABELS = {
    "operation_accuracy": "operation",
    "token_accuracy": "tokens, forced",
    "token_accuracy_free": "tokens, free",
    "line_accuracy": "whole line, free",
}
FURTHER = {
    "token_accuracy_no_eos": "tokens forced, without the end and unknown ones",
    "token_accuracy_free_no_eos": "tokens free, without the end",
    "token_accuracy_brief": "tokens as the brief counted (forced, end and unknown ones counted)",
    "token_accuracy_flat_layer": "the same, of the flat layer",
    "line_accuracy_brief": "whole line as ids of the hybrid vocabulary",
    "edit_distance": "edits a line",
    "edit_share": "edits a true token",
    "validity": "lines that are valid G-code",
    "nll": "nats a token, forced",
}
EXAMPLES, WORST = 12, 8


def cell(entry: Mapping[str, Any], metric: str, digits: int = 3) -> str:
    """A figure with its interval."""
    interval = entry.get("intervals", {}).get(metric)
    text = number(entry["values"].get(metric), digits)
    return text + (f" ({number(interval[0], digits)} to {number(interval[1], digits)})" if interval else "")


def _difference(entry: Mapping[str, Any], metric: str) -> str:
    found = entry.get("difference", {}).get(metric)
    if not found:
        return ""
    return f"{found[0]:+.3f}" + (f" ({found[1]:+.3f} to {found[2]:+.3f})" if len(found) == 3 else "")


def _entries(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    simple = [(name, entry) for name, entry in metrics["baselines"].items() if "values" in entry]
    return [("**this model**", metrics), *simple]


def _rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, *(cell(entry, metric) for metric in LABELS), _difference(entry, "line_accuracy")]
        for name, entry in _entries(metrics)
    ]


def best_simple(metrics: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the simple model with the most lines right, or ``None``."""
    lines = [(name, entry) for name, entry in _entries(metrics)[1:] if "line_accuracy" in entry["values"]]
    return max(lines, key=lambda one: one[1]["values"]["line_accuracy"], default=None)


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say whether the lines are better than those of the best simple model, by the paired interval."""
    best = best_simple(metrics)
    if best is None:
        return ""
    gain = best[1]["difference"]["line_accuracy"]
    word = "above" if gain[0] > 0 else "**not above**"
    if len(gain) == 3:
        word = "above" if gain[1] > 0 else "**below**" if gain[2] < 0 else "**not distinguishable from**"
    gained = _difference(best[1], "line_accuracy")
    return f"In whole lines this model is {word} the best simple model ({best[0]}): {gained}."


def _numbers(metrics: Mapping[str, Any], stage: str) -> str:
    where = {"val": "validation"}.get(metrics["part"], metrics["part"])
    further = [[label, cell(metrics, name)] for name, label in FURTHER.items() if name in metrics["values"]]
    lines = [
        f"## Numbers on {where}",
        "",
        table(["", *LABELS.values(), "this model's whole lines minus its"], _rows(metrics)),
        "",
        "*Forced*: each token is asked with the true ones before it. *Free*: the line is written without help"
        + (", but for the true operation, which `conditioning: label` gives it." if metrics.get("told") else "."),
        f"In brackets: {metrics['level']:.0%} intervals from {metrics['bootstrap']} resamples of {metrics['n_groups']} "
        f"recordings ({metrics['n']} windows); differences are paired, on the same windows."
        if metrics["bootstrap"]
        else "No intervals: `report.bootstrap` is 0.",
        "",
        verdict(metrics),
        *(f"- {name}: {entry['not_run']}" for name, entry in metrics["baselines"].items() if "not_run" in entry),
        "",
        table(["", ""], further),
        "",
        "The tables see no sensor. Those with *operation* are told the true one, and the *window number* is the time "
        "since the recording began. Trees see mean, standard deviation, first and last value of each column.",
    ]
    if metrics["evaluated"] < metrics["expected"]:
        lines.append(f"\n**Only {metrics['evaluated']} of {metrics['expected']} windows were judged.**")
    return "\n".join([*lines, "", f"Files: `{stage}/`."])


def _frame(root: Path, stage: str, name: str) -> pd.DataFrame:
    return pd.read_csv(root / stage / f"{name}.csv", keep_default_na=name not in ("examples",), dtype={"id": str})


def _parts(root: Path, stage: str, metrics: Mapping[str, Any]) -> str:
    heads = [[r["head"], number(r["accuracy"]), f"{r['positions']:,}"] for r in _records(root, stage, "heads")]
    kinds = [
        [r["kind"], number(r["forced"]), number(r["free"]), f"{r['tokens']:,}"] for r in _records(root, stage, "kinds")
    ]
    axes = [
        [r["axis"], r["words"], number(r["found"]), *(number(r[name], 2) for name in ("mean", "median", "p95"))]
        for r in _records(root, stage, "lengths")
    ]
    return "\n\n".join(
        [
            "## Where it is right",
            f"The line is written by the {'flat layer' if metrics['layout'] == 'flat' else 'heads'}. By kind of token:",
            table(["kind", "forced", "free", "tokens"], kinds),
            "Each head on the positions where it has a target, forced:",
            table(["head", "accuracy", "positions"], heads),
            "Numbers in free-running lines, where both lines have the word (the program's numbers are taken as inches, "
            "25.4 mm, which is what recorded machine positions show; the column `unit` is not asked):",
            table(["axis", "words", "found", "mean mm", "median mm", "95 % below, mm"], axes),
        ]
    )


def _records(root: Path, stage: str, name: str) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in _frame(root, stage, name).to_dict("records")]


def _groups(root: Path, stage: str) -> str:
    shown = ("operation_accuracy", "token_accuracy", "token_accuracy_free", "line_accuracy")
    operations, recordings = (_records(root, stage, name) for name in ("operations", "recordings"))
    first = [[r["operation"], r["windows"], r["recordings"], *(number(r[m]) for m in shown)] for r in operations]
    worst = [[r["recording"], r["windows"], *(number(r[m]) for m in shown)] for r in recordings[:WORST]]
    return "\n\n".join(
        [
            "## Operations and recordings",
            table(["operation", "windows", "recordings", *LABELS.values()], first),
            f"The worst of {len(recordings)} recordings:",
            table(["recording", "windows", *LABELS.values()], worst),
            f"![confusion of operations]({stage}/confusion.png)",
            f"![by recording]({stage}/recordings.png)",
        ]
    )


def _examples(root: Path, stage: str) -> str:
    rows = _records(root, stage, "examples")
    chosen = rows[:: max(1, len(rows) // EXAMPLES)][:EXAMPLES]
    cells = [[r["id"], f"`{r['true']}`", f"`{r['written']}`", number(float(r["confidence"])),
              "yes" if int(r["right"]) else "no"] for r in chosen]  # fmt: skip
    return "## Lines\n\n" + table(["window", "true", "written", "confidence", "right"], cells)


def _confidence(metrics: Mapping[str, Any]) -> str:
    found = metrics["confidence"]
    rows = [[f"{r['share']:.0%}", r["lines"], number(r["threshold"]), number(r["accuracy"])] for r in found["coverage"]]
    return (
        "## Confidence\n\nThe probability of the written line, as given by the decoder. Calibration error "
        f"{number(found['error'])}. Keeping only the surest lines:\n\n"
        + table(["kept", "lines", "least confidence", "whole line right"], rows)
        + _by_validation(found["by_validation"])
    )


def _by_validation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Judge thresholds that were fitted on validation; without them say where one comes from."""
    if not rows:
        return "\n\nA threshold for use is one of the validation part, and is judged on test."
    cells = [[number(r["threshold"]), f"{r['share']:.0%}", number(r["accuracy"])] for r in rows]
    text = "\n\nThe thresholds that keep these shares on validation, judged here:\n\n"
    return text + table(["least confidence", "kept here", "whole line right"], cells)


def sensors(rows: Sequence[Mapping[str, Any]]) -> str:
    """Compose the section on spoilt sensors."""
    if not rows:
        return ""
    metrics = list(rows[0]["values"])
    words = {"line_accuracy": "whole line", "operation_accuracy": "operation", "token_accuracy": "tokens, forced",
             "token_accuracy_brief": "tokens as the brief counted"}  # fmt: skip
    cells = [
        [
            row["sensor"],
            row["mode"],
            row["columns"],
            *(number(row["values"][m]) + f", lost {_difference(row, m)}" for m in metrics),
            f"{brief.LOST[row['sensor']]:.3f}" if row["mode"] == "zeroed" and row["sensor"] in brief.LOST else "",
        ]
        for row in rows
    ]
    return "\n\n".join(
        [
            "## Sensors spoilt while judging",
            table(["sensor", "how", "columns", *(words[m] for m in metrics), "the brief's tokens lost"], cells),
            "*Zeroed*: the columns hold the middle of the training values. The brief did the same on random windows; "
            "its drops, printed as relative ones, stand here in points. *Permuted*: they hold those of another window "
            "of the same recording: what is lost is what they say about the moment, and what tells the recording apart "
            "stays. Lost: this model as it is minus the spoilt one, in points, with intervals by recording. Dropping a "
            "sensor and training anew is another question: `ablate configs/ablations/gcode_modalities.yaml`.",
        ]
    )


def report(root: Path, shown: str) -> str:
    """Compose ``REPORT.md`` from the files of the run folder.

    Args:
        root: Run folder.
        shown: The folder as a user types it.
    """
    stages = [name for name in report_text.STAGE_ORDER if (root / name / "metrics.json").is_file()]
    stage, run = stages[0], files.read_json(root / "run.json")
    metrics = {name: files.read_json(root / name / "metrics.json") for name in stages}
    first = metrics[stage]
    sizes = f"{first['num_classes']} operations, {first['vocabulary']} tokens in the hybrid vocabulary"
    parts = [
        f"# {run['system']}: {root.name}",
        report_text.what(run, sizes),
        *(_numbers(metrics[name], name) for name in stages),
        "" if "test" in metrics else "The test part has not been opened; `test` does that.",
        report_text.targets(run) if run.get("targets") else "",
        _parts(root, stage, first),
        _groups(root, stage),
        _examples(root, stage),
        _confidence(first),
        sensors(first["sensors"]),
        report_text.further(root, stage),
        brief.section(first["values"]),
        "## Course\n\n![curves](curves.png)" if (root / "curves.png").is_file() else "",
        report_text.found(run),
        report_text.settings(run),
        report_text.reproduce(root, run, shown),
        "## Files\n\n" + ", ".join(f"`{path.relative_to(root)}`" for path in report_text.run_files(root)) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def terminal(metrics: Mapping[str, Any], run: Mapping[str, Any], stage: str) -> str:
    """A plain table: the model and what stands beside it, then targets."""
    rows = [["", *LABELS.values()], *(row[:-1] for row in _rows(metrics))]
    rows = [[text.strip("*") for text in row] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [f"{run['system']} · {stage} · {metrics['n']} windows, {metrics['n_groups']} recordings"]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {entry['not_run']}" for name, entry in metrics["baselines"].items() if "not_run" in entry]
    lines += [verdict(metrics).replace("*", "")] if best_simple(metrics) else []
    lines += [
        f"target {t['metric']} {aim(t)}: {REACHED[t['reached']]} ({number(t['value'], 4)})"
        for t in run.get("targets") or []
    ]
    return "\n".join(lines)
