"""Numbers and words of a report: metrics with intervals and baselines, the files of a stage, and ``REPORT.md``.

``REPORT.md`` is made from the files of the run folder alone, so it says nothing that is not on disk.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks import report_files as files
from callbacks import report_plots as plots
from modules import statistics

STAGE_ORDER = ("test", "fit", "validate")
LEVEL, FEW = 0.95, 3  # level of the intervals; fewer samples of a class than this say little about it
RESULT_NAMES = {
    "weighted_f1": "Weighted-F1",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "macro_precision": "Macro-Precision",
    "macro_recall": "Macro-Recall",
    "loss": "Loss",
    "nll": "NLL",
    "ece": "ECE",
}
BRIEF_FILES = (  # the ten artifacts of the signs brief, and what they are called here
    ("best_model.pt", "checkpoints/best.ckpt", "checkpoint of the best epoch"),
    ("model_weights.pt", "weights.safetensors", "weights of the best epoch, plain tensors"),
    ("model_config.json", "run.json", "settings read from the live objects, course and result"),
    ("results.csv", "{stage}/results.csv", "metric, value"),
    ("per_class.csv", "{stage}/per_class.csv", "precision, recall, F1, support of each class"),
    ("confusion.csv", "{stage}/confusion.csv", "counts, rows = truth"),
    ("training_log.csv", "training_log.csv", "every epoch metric"),
    ("training_curves.png", "curves.png", "loss, scores, learning rate, final metrics"),
    ("confusion_matrix.png", "{stage}/confusion.png", "heat map with names"),
    ("per_class_analysis.png", "{stage}/per_class.png", "bars for each class"),
)


def result_name(metric: str) -> str:
    """Name a metric as the signs brief does: ``top3`` -> ``Top-3 Accuracy``."""
    return f"Top-{metric[3:]} Accuracy" if metric.startswith("top") else RESULT_NAMES.get(metric, metric)


def chance(y: np.ndarray, num_classes: int, top_k: int) -> dict[str, float]:
    """Return what guessing evenly gives on average; macro-F1 is its large-sample value.

    A sample of a class that training never saw (-2) is an error for every guess.
    """
    share = np.bincount(y[y >= 0], minlength=num_classes) / len(y)
    known = float((y >= 0).mean())
    f1 = 2 * share / (num_classes * share + 1)  # precision = share, recall = 1 / classes
    return {
        "accuracy": known / num_classes,
        "macro_f1": float(f1.mean()),
        f"top{top_k}": known * min(top_k, num_classes) / num_classes,
        "nll": math.log(num_classes),
    }


def evaluate(
    found: files.Predictions,
    values: Mapping[str, float],
    baselines: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    bootstrap: int,
    top_k: int,
) -> dict[str, Any]:
    """Build ``metrics.json``: values, intervals by group, baselines with paired differences, what was not run.

    Args:
        found: Labelled predictions.
        values: Metrics of the model.
        baselines: name -> prob (N, C) for the same rows.
        notes: Baseline -> why it is not there.
        bootstrap: Resamples, 0 = no intervals.
        top_k: Guesses of the top-k.
    """
    names, y, group = [str(name) for name in found.class_names], found.y, found.group
    metrics = ["accuracy", "macro_f1", f"top{top_k}", "nll"]
    result: dict[str, Any] = {
        "n": len(y),
        "n_groups": len(np.unique(group)),
        "num_classes": len(names),
        "values": dict(values),
        "intervals": {},
        "level": LEVEL,
        "bootstrap": bootstrap,
    }
    if bootstrap:
        intervals, result["n_groups"] = statistics.bootstrap(found.prob, y, group, metrics, n=bootstrap, level=LEVEL)
        result["intervals"] = intervals
    guess = chance(y, len(names), top_k)
    table: dict[str, Any] = {
        "chance": {
            "values": guess,
            "difference": {
                m: [values[m] - v, *(end - v for end in result["intervals"].get(m, ()))] for m, v in guess.items()
            },
        }
    }
    for name, prob in baselines.items():
        entry: dict[str, Any] = {"values": statistics.classification_metrics(prob, y, names, top_k)}
        if bootstrap:
            entry["intervals"] = statistics.bootstrap(prob, y, group, metrics, n=bootstrap, level=LEVEL)[0]
            entry["difference"] = statistics.paired_bootstrap(
                found.prob, prob, y, group, metrics, n=bootstrap, level=LEVEL
            )
        table[name] = entry
    result["baselines"] = table | {name: {"not_run": note} for name, note in notes.items()}
    matrix = statistics.confusion(found.prob, y, len(names))
    result["confusions"] = statistics.top_confusions(matrix, names, 10).to_dict("records")
    support = matrix.sum(axis=1)
    result["support_warnings"] = [
        f"{name}: {int(n)} sample{'' if n == 1 else 's'}" for name, n in zip(names, support, strict=True) if n < FEW
    ]
    return result


def generalisation_gap(
    root: Path, part: str, values: Mapping[str, float], run: Mapping[str, Any]
) -> dict[str, float] | None:
    """Compare accuracies: training against validation after a fit, validation against test after a test."""
    if part == "val":
        earlier, name = run.get("best_train_acc"), "train"
    else:
        earlier, name = files.read_json(root / "fit" / "metrics.json").get("values", {}).get("accuracy"), "val"
    if earlier is None:
        return None
    return {f"{name}_accuracy": earlier, f"{part}_accuracy": values["accuracy"], "gap": earlier - values["accuracy"]}


def per_class_table(found: files.Predictions) -> pd.DataFrame:
    """One row per class, then accuracy, macro avg (classes with truth or prediction, as in macro-F1), weighted avg."""
    names = [str(name) for name in found.class_names]
    frame = statistics.per_class(found.prob, found.y, names).set_index("class").rename_axis(None)
    matrix = statistics.confusion(found.prob, found.y, len(names))
    counted = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    scores, support = frame[["precision", "recall", "f1-score"]], frame["support"].astype(int)
    macro = scores[counted].mean()
    weighted = scores.mul(support, axis=0).sum() / support.sum()
    accuracy = pd.Series({"f1-score": matrix.trace() / matrix.sum()})
    extra = pd.DataFrame([accuracy, macro, weighted], index=["accuracy", "macro avg", "weighted avg"])
    return pd.concat([scores, extra]).assign(support=[*support, *[support.sum()] * 3])[[*scores.columns, "support"]]


def write_stage(
    root: Path,
    stage: str,
    found: files.Predictions,
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    log: pd.DataFrame,
) -> None:
    """Write the tables and pictures of one stage, and the curves."""
    folder, names = root / stage, [str(name) for name in found.class_names]
    values, where = metrics["values"], {"val": "validation"}.get(metrics["part"], metrics["part"])
    files.write_json(folder / "metrics.json", metrics)
    results = pd.DataFrame({"Metric": [result_name(name) for name in values], "Value": list(values.values())})
    files.write_csv(folder / "results.csv", results)
    table = per_class_table(found)
    files.write_csv(folder / "per_class.csv", table, index=True)
    matrix = statistics.confusion(found.prob, found.y, len(names))
    files.write_csv(folder / "confusion.csv", pd.DataFrame(matrix.astype(int)), header=False)
    files.write_figure(
        folder / "confusion.png", plots.confusion(matrix, names, f"Confusion matrix, {where} ({metrics['n']} samples)")
    )
    classes = table.iloc[: len(names)].rename_axis("class").reset_index()
    files.write_figure(folder / "per_class.png", plots.per_class(classes, f"Classes on {where}"))
    bins = statistics.reliability(found.prob, found.y)
    confidence, accuracy, count = (bins[name].to_numpy() for name in ("confidence", "accuracy", "count"))
    picture = plots.calibration(confidence, accuracy, count, values["ece"], f"Calibration on {where}")
    files.write_figure(folder / "calibration.png", picture)
    if len(log):
        title = f"{run.get('system', '')} · {root.name}"
        files.write_figure(
            root / "curves.png", plots.curves(log, values, metrics["intervals"], run.get("best_epoch"), title, where)
        )


def number(value: float | None, digits: int = 3) -> str:
    """Format a number; a missing one is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _cell(entry: Mapping[str, Any], metric: str) -> str:
    interval = entry.get("intervals", {}).get(metric)
    return number(entry["values"].get(metric)) + (
        f" ({number(interval[0])} to {number(interval[1])})" if interval else ""
    )


def _table(header: list[str], rows: list[list[Any]]) -> str:
    cells = [
        [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
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


def _results(metrics: Mapping[str, Any], stage: str) -> str:
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
        _table(["", *(plots.metric_label(m) for m in columns), "this model's accuracy minus its"], rows),
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


def _classes(root: Path, stage: str, metrics: Mapping[str, Any]) -> str:
    table = pd.read_csv(root / stage / "per_class.csv", index_col=0, keep_default_na=False, na_values=[""]).iloc[:-3]
    ranked = table[table["support"] > 0].sort_values(["f1-score", "support"], ascending=False, kind="stable")
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
    lines = ["## Classes", "", _table(["best", "F1", "n", "worst", "F1", "n"], rows), ""]
    lines += (
        ["Most confused:", "", _table(["truth", "taken for", "times", "of its samples"], pairs)]
        if pairs
        else ["No sample was confused."]
    )
    if metrics["support_warnings"]:
        lines += [
            "",
            f"**Too few samples to say anything** (fewer than {FEW} in this part): "
            + "; ".join(metrics["support_warnings"])
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


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_words(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _what(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    data, split = run.get("data") or {}, run.get("split") or {}
    parts = ", ".join(f"{count} {part}" for part, count in split.items())
    facts = ", ".join(f"{key.replace('_', ' ')}: {_words(value)}" for key, value in data.items())
    frozen = run["total_params"] - run["trainable_params"]
    lines = [
        f"{run.get('architecture', run['system'])} with {run['total_params']:,} parameters"
        + (f" ({frozen:,} of them frozen)" if frozen else "")
        + f", {metrics['num_classes']} classes.",
        f"Data: {facts or 'not described'}." + (f" Split: {parts} (hash `{run.get('split_hash')}`)." if parts else ""),
    ]
    if run.get("epochs_run"):
        best = (
            f"; best epoch {run['best_epoch']} with {run['monitor']} {number(run['best_value'], 4)}"
            if run.get("best_epoch") is not None
            else ""
        )
        lines.append(
            f"Trained {run['epochs_run']} epochs in {run['fit_seconds'] / 60:.1f} min on {run.get('device')} "
            f"({run['seconds_per_epoch']:.1f} s an epoch){best} (epochs count from 0). Stopped: {run['stop_reason']}."
        )
    else:
        lines.append("No training in this folder: the weights come from a given checkpoint.")
    return "\n".join(lines)


def _found(run: Mapping[str, Any]) -> str:
    words = {True: "passed", False: "**failed**", None: "not run"}
    lines = ["## What the checks found", ""]
    probes = run.get("probes")
    lines.append(
        _table(["probe", "result", "detail"], [[p["name"], words[p["passed"]], p["detail"]] for p in probes])
        if probes
        else "Probes: not run in this folder."
    )
    audit = run.get("audit")
    said = [f"{f.get('severity', '')} {f.get('kind', '')}: {f.get('message', '')}".strip() for f in audit or []]
    lines += [
        "",
        *(
            ["Audit of the split: not run in this folder."]
            if audit is None
            else ["Audit of the split:", "", *(f"- {line}" for line in said)]
            if said
            else ["Audit of the split: nothing found."]
        ),
    ]
    return "\n".join(lines)


def _targets(run: Mapping[str, Any]) -> str:
    words = {True: "reached", False: "**not reached**", None: "not measured yet"}
    rows = [
        [
            t["metric"],
            f"{'≥' if t['mode'] == 'max' else '≤'} {t['threshold']:g}",
            "end" if t["epoch"] is None else f"epoch {t['epoch']}",
            number(t["value"], 4),
            words[t["reached"]],
        ]
        for t in run["targets"]
    ]
    return "## Targets\n\n" + _table(["metric", "target", "by", "value", ""], rows)


def _settings(run: Mapping[str, Any]) -> str:
    course = {
        "system",
        "data",
        "split",
        "probes",
        "audit",
        "targets",
        "optimizer_groups",
        "stop_reason",
        "best_value",
        "class_names",
    }
    rows = [
        [key, value]
        for key, value in run.items()
        if key not in course and value is not None and not key.startswith("test_")
    ]
    return "## Settings, read from the live objects\n\n" + _table(["", ""], rows)


def report(root: Path, shown: str) -> str:
    """Compose ``REPORT.md`` from the files of a run folder.

    Args:
        root: Run folder.
        shown: The folder as a user types it.
    """
    stage = next(name for name in STAGE_ORDER if (root / name / "metrics.json").is_file())
    stages = [name for name in STAGE_ORDER if (root / name / "metrics.json").is_file()]
    run, metrics = (
        files.read_json(root / "run.json"),
        {name: files.read_json(root / name / "metrics.json") for name in stages},
    )
    python = files.read_json(root / "environment.json")
    artifacts = [[brief, f"`{here.format(stage=stage)}`", what] for brief, here, what in BRIEF_FILES]
    missing = [here for _, here, _ in BRIEF_FILES if not (root / here.format(stage=stage)).is_file()]
    parts = [
        f"# {run['system']}: {root.name}",
        _what(run, metrics[stage]),
        *(_results(metrics[name], name) for name in stages),
    ]
    if stage != "test":
        parts.append("The test part has not been opened; `test` does that.")
    if run.get("targets"):
        parts.append(_targets(run))
    parts.append(_classes(root, stage, metrics[stage]))
    if (root / "curves.png").is_file():
        parts.append("## Course\n\n![curves](curves.png)")
    verb = f"python -m lightning_project {{}} --config {shown}/config.yaml"
    versions = ", ".join(f"{name} {version}" for name, version in python.get("packages", {}).items())
    parts += [
        _found(run),
        _settings(run),
        f"## How to reproduce\n\n```\n{verb.format('fit')} --name again\n"
        f"{verb.format('test')} --name again --ckpt_path best\n```\n\n"
        f"Seed {run.get('seed')}, commit {run.get('git_commit') or 'unknown'}, "
        f"Python {python.get('python')}, {versions}; {python.get('cpu')}.",
        "## Files\n\n"
        + _table(["in the signs brief", "here", "content"], artifacts)
        + (f"\n\nNot there (yet): {', '.join(missing)}." if missing else "")
        + "\n\nAlso: "
        + ", ".join(f"`{path.relative_to(root)}`" for path in run_files(root))
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def run_files(root: Path) -> list[Path]:
    """List the files of a report, without checkpoints' and loggers' own."""
    top = [path for path in sorted(root.iterdir()) if path.is_file() and not path.name.startswith(".")]
    folders = [root / name for name in ("checkpoints", "fit", "validate", "test", "predict", "audit")]
    return top + [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]


def terminal(metrics: Mapping[str, Any], run: Mapping[str, Any], stage: str) -> str:
    """A plain table: the model and its baselines, then the targets."""
    columns = [m for m in metrics["values"] if m in ("accuracy", "macro_f1", "nll") or m.startswith("top")]
    rows = [["", *(plots.metric_label(m) for m in columns)]]
    rows += [[name.strip("*"), *(_cell(entry, m) for m in columns)] for name, entry in _entries(metrics)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [f"{run['system']} · {stage} · {metrics['n']} samples, {metrics['n_groups']} groups"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {entry['not_run']}" for name, entry in metrics["baselines"].items() if "not_run" in entry]
    words = {True: "reached", False: "not reached", None: "not measured yet"}
    lines += [
        f"target {t['metric']} {t['threshold']:g}: {words[t['reached']]} ({number(t['value'], 4)})"
        for t in run.get("targets") or []
    ]
    return "\n".join(lines)
