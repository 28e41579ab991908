"""The page ``REPORT.md``, made from the files of the run folder alone: it says nothing that is not on disk."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from callbacks import report_files as files
from callbacks import report_tables as tables
from callbacks.report_breakdown import section
from callbacks.report_tables import number, table
from callbacks.report_targets import REACHED, aim

BEGAN_WITH = "began_with.json"  # in the folder of a run that began with another one's weights
STAGE_ORDER = ("test", "fit", "validate")
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


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_words(item) for item in value) or "none"
    if isinstance(value, str) and any(kind(value).is_absolute() for kind in (PurePosixPath, PureWindowsPath)):
        return PureWindowsPath(value).name or value  # where a file lies is this machine's business; config.yaml has it
    return f"{value:g}" if isinstance(value, float) else str(value)


def what(run: Mapping[str, Any], sizes: str) -> str:
    """Say what was trained on what, for how long; ``sizes`` is a phrase such as ``30 classes``."""
    data, split = run.get("data") or {}, run.get("split") or {}
    parts = ", ".join(f"{count} {part}" for part, count in split.items())
    facts = ", ".join(f"{key.replace('_', ' ')}: {_words(value)}" for key, value in data.items())
    frozen = run["total_params"] - run["trainable_params"]
    lines = [
        f"{run.get('architecture', run['system'])} with {run['total_params']:,} parameters"
        + (f" ({frozen:,} of them frozen)" if frozen else "")
        + f", {sizes}.",
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


def found(run: Mapping[str, Any]) -> str:
    """Compose the section of the probes and the audit."""
    words = {True: "passed", False: "**failed**", None: "not run"}
    lines = ["## What the checks found", ""]
    probes = run.get("probes")
    lines.append(
        table(["probe", "result", "detail"], [[p["name"], words[p["passed"]], p["detail"]] for p in probes])
        if probes
        else "Probes: not run in this folder."
    )
    audit = run.get("audit")
    said = [line for finding in audit or [] for line in _finding(finding)]
    lines += [
        "",
        *(
            ["Audit of the split: not run in this folder."]
            if audit is None
            else ["Audit of the split:", "", *said]
            if said
            else ["Audit of the split: nothing found."]
        ),
    ]
    return "\n".join(lines)


def _finding(finding: Mapping[str, Any]) -> list[str]:
    """One item of a list, with some of its cases below it."""
    examples = finding.get("examples", [])
    more = finding.get("count", 0) - len(examples) if examples else 0
    return [
        f"- {finding.get('severity', '')} {finding.get('kind', '')}: {finding.get('message', '')}",
        *(f"    - {example}" for example in examples),
        *([f"    - ... and {more} more"] if more > 0 else []),
    ]


def targets(run: Mapping[str, Any]) -> str:
    """Compose the table of targets."""
    words = {**REACHED, False: f"**{REACHED[False]}**"}
    rows = [[t["metric"], aim(t), number(t["value"], 4), words[t["reached"]]] for t in run["targets"]]
    return "## Targets\n\n" + table(["metric", "target", "value", ""], rows)


def settings(run: Mapping[str, Any]) -> str:
    """Compose the table of settings."""
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
    return "## Settings, read from the live objects\n\n" + table(["", ""], rows)


def reproduce(root: Path, run: Mapping[str, Any], shown: str) -> str:
    """Compose the section of the commands, the seed and the versions."""
    verb, python = (
        f"python -m lightning_project {{}} --config {shown}/config.yaml",
        files.read_json(root / "environment.json"),
    )
    found, began = files.read_json(root / BEGAN_WITH), ""
    if start := found.get("checkpoint"):
        began = f"It began with the weights of `{start}` (SHA-256 {found['sha256']}). "
    versions = ", ".join(f"{name} {version}" for name, version in python.get("packages", {}).items())
    return (
        f"## How to reproduce\n\n```\n{verb.format('fit')}{f' --init_from {start}' if start else ''} --name again\n"
        f"{verb.format('test')} --name again --ckpt_path best\n```\n\n"
        f"{began}Seed {run.get('seed')}, commit {run.get('git_commit') or 'unknown'}, "
        f"Python {python.get('python')}, {versions}; {python.get('cpu')}."
    )


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
    artifacts = [[brief, f"`{here.format(stage=stage)}`", what] for brief, here, what in BRIEF_FILES]
    missing = [here for _, here, _ in BRIEF_FILES if not (root / here.format(stage=stage)).is_file()]
    parts = [
        f"# {run['system']}: {root.name}",
        what(run, f"{metrics[stage]['num_classes']} classes"),
        *(tables.results(metrics[name], name) for name in stages),
    ]
    if stage != "test":
        parts.append("The test part has not been opened; `test` does that.")
    if run.get("targets"):
        parts.append(targets(run))
    parts.append(tables.classes(root, stage, metrics[stage]))
    parts += [text for text in (section(root, stage), further(root, stage)) if text]
    if (root / "curves.png").is_file():
        parts.append("## Course\n\n![curves](curves.png)")
    parts += [
        found(run),
        settings(run),
        reproduce(root, run, shown),
        "## Files\n\n"
        + table(["in the signs brief", "here", "content"], artifacts)
        + (f"\n\nNot there (yet): {', '.join(missing)}." if missing else "")
        + "\n\nAlso: "
        + ", ".join(f"`{path.relative_to(root)}`" for path in run_files(root))
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def further(root: Path, stage: str) -> str:
    """Return the sections that other callbacks left in the folder of a stage."""
    return "\n\n".join(path.read_text(encoding="utf-8") for path in sorted((root / stage).glob("section_*.md")))


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
