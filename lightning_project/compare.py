"""Compare finished runs of one system on the same test samples: a table (CSV, Markdown) and a chart.

Several seeds of one configuration are one row: mean and spread over the seeds, and intervals of the mean. A run with
``fold-K/`` inside is judged out of fold: the test predictions of its folds are joined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from callbacks import report_files as files
from callbacks import report_plots as plots
from callbacks.report_files import Predictions
from callbacks.report_settings import comparable_config
from datamodules.errors import DataError
from lightning_project import figures
from lightning_project.members import folds_of, inside, pooled, stored

FACTS = ("best_epoch", "best_val_acc", "epochs_run", "total_params", "dropout", "label_smoothing", "use_class_weights")
LEVEL = 0.95


@dataclass(frozen=True)
class Run:
    """One run folder, or that of all folds of one run: its facts, settings and test predictions."""

    folder: Path
    facts: dict[str, Any]
    settings: dict[str, Any]
    found: Predictions

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run folder.

        Raises:
            DataError: It, or one of its folds, has no ``run.json`` or no test predictions.
        """
        folders = list(folds_of(folder).values())
        each = [files.read_json(path / "run.json") for path in folders]
        facts = {name: _common([fact.get(name) for fact in each]) for name in ("system", "seed", *FACTS)}
        for name in ("config_hash", "split_hash"):  # of each fold another
            found = [str(fact.get(name)) for fact in each if fact.get(name) is not None]
            facts[name] = " ".join(found) or None
        config = folders[0] / "config.yaml"
        settings = (
            flat(comparable_config(yaml.safe_load(config.read_text(encoding="utf-8")))) if config.is_file() else {}
        )
        if len(folders) > 1:
            settings.pop("split.fold", None)
        return cls(folder, facts, settings, pooled([stored(path, "test").labelled() for path in folders], True))

    def check_against(self, first: "Run") -> None:
        """Refuse a run whose numbers do not lie on the same samples.

        Raises:
            DataError: Another system, class list, split or set of test samples.
        """
        ours, theirs = self.facts.get("system"), first.facts.get("system")
        if ours != theirs:
            raise DataError(
                f"{self.folder} is a run of {ours} and {first.folder} of {theirs}; compare runs of one system"
            )
        if list(self.found.class_names) != list(first.found.class_names):
            raise DataError(f"{self.folder} and {first.folder} have different class names")
        hashes = self.facts.get("split_hash"), first.facts.get("split_hash")
        a, b = self.found, first.found
        same = len(a.id) == len(b.id) and all((x == y).all() for x, y in ((a.id, b.id), (a.y, b.y), (a.group, b.group)))
        if hashes[0] != hashes[1] or not same:
            only = len(set(a.id) ^ set(b.id))
            raise DataError(
                f"{self.folder} and {first.folder} were split differently (split hash {hashes[0]} and "
                f"{hashes[1]}, {only} test ids in only one of them); give both runs one split.csv"
            )


def compare(
    runs: list[str],
    out: str = "runs/compare",
    metric: str | None = None,
    bootstrap: int = 1000,
    text: str | None = None,
    prompts: str | None = None,
    metrics: list[str] | None = None,
    boundary: Literal["heading", "blank", "line"] | None = None,
) -> None:
    """Compare two or more run folders of one system on the same test samples.

    Args:
        runs: Run folders; one with ``seed-S/`` inside stands for its seeds, one with ``fold-K/`` inside is judged out
            of fold. The others are compared with the first.
        out: Folder for ``comparison.csv``, ``comparison.md`` and ``comparison.png``.
        metric: Metric of the chart: accuracy, macro_f1, top3, nll or ece; of language models word_perplexity,
            perplexity or bits_per_byte; of decoders of lines line_accuracy, token_accuracy and others.
        bootstrap: Resamples for the intervals, by group.
        text: Language models: text file or folder on which every run is scored again.
        prompts: Language models: file of prompts to continue, one a line, or of lines
            ``{"prompt": "...", "target": "..."}``.
        metrics: Language models: some of perplexity, bleu and repetition; by default all that can be had.
        boundary: Language models: where a document of ``text`` begins; by default as in the runs where they agree, else
            at headings.

    Raises:
        DataError: Fewer than two configurations or seeds, or runs that cannot be compared.
    """
    folders = [folder for name in runs for folder in (inside(Path(name), "seed") or [Path(name)])]
    if bootstrap < 1:
        raise DataError(f"bootstrap must be at least 1, got {bootstrap}")
    if _of_language(folders):
        from lightning_project.compare_language import compare_texts

        chosen = [name for words in metrics for name in words.split(",")] if metrics is not None else None
        compare_texts(folders, Path(out), metric or "word_perplexity", bootstrap, text, prompts, chosen, boundary)
        return
    if text or prompts or metrics or boundary:
        raise DataError("--text, --prompts, --metrics and --boundary are for runs of language models")
    found = [Run.read(folder) for folder in folders]
    shown = figures.shown(found[0].found) if found else figures.OF_CLASSES
    metric = metric or ("macro_f1" if "macro_f1" in shown else shown[0])
    if metric not in shown:
        raise DataError(f"unknown metric {metric!r}; choose one of {', '.join(shown)}")
    if len(found) < 2:
        raise DataError("give two or more run folders (or one with several seed-S/ inside)")
    for run in found[1:]:
        run.check_against(found[0])
    rows = rows_of(found)
    table = _table(rows, bootstrap)
    target = Path(out)
    written = [
        files.write_csv(target / "comparison.csv", table),
        files.write_text(target / "comparison.md", _markdown(table, rows, metric, bootstrap)),
        files.write_figure(target / "comparison.png", plots.comparison(table, metric)),
    ]
    print(
        table[["run", "seeds", metric, f"{metric}_low", f"{metric}_high", f"{metric}_difference"]].to_string(
            index=False
        )
    )
    print("written:\n" + "\n".join(f"  {path}" for path in written))


def _of_language(folders: list[Path]) -> bool:
    return (
        bool(folders)
        and files.read_json(next(iter(folds_of(folders[0]).values())) / "run.json").get("system") == "language"
    )


def rows_of(found: list[Any]) -> dict[str, list[Any]]:
    """Group the runs by configuration, in the order given, each under a name of its own."""
    groups: dict[str, list[Any]] = {}
    for run in found:
        if all(run.folder.resolve() != other.folder.resolve() for runs in groups.values() for other in runs):
            groups.setdefault(run.facts.get("config_hash") or str(run.folder), []).append(run)
    rows: dict[str, list[Any]] = {}
    for runs in groups.values():
        seeds = [run.facts.get("seed") for run in runs]
        if len(set(seeds)) < len(seeds):
            listed = ", ".join(f"{run.folder} (seed {run.facts.get('seed')})" for run in runs)
            raise DataError(f"the same config and seed twice would count as two seeds: {listed}; leave one out")
        folder = runs[0].folder.resolve()
        name = folder.parent.name if folder.name.startswith("seed-") else folder.name
        rows[name if name not in rows else f"{name} ({len(rows) + 1})"] = runs
    return rows


def _table(rows: dict[str, list[Run]], bootstrap: int) -> pd.DataFrame:
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    lines: list[dict[str, Any]] = []
    first: dict[str, tuple[float, np.ndarray]] = {}
    for name, runs in rows.items():
        shown = figures.shown(runs[0].found)
        points = [figures.measured(run.found, shown) for run in runs]
        # one seed gives every run the same resamples of the same groups
        draws = [figures.resampled(run.found, shown, bootstrap) for run in runs]
        line: dict[str, Any] = {"run": name, "seeds": len(runs)}
        for metric in shown:
            values, drawn = (
                np.array([point[metric] for point in points]),
                np.mean([draw[metric] for draw in draws], axis=0),
            )
            line[metric] = values.mean()
            line[f"{metric}_std"] = values.std(ddof=1) if len(values) > 1 else np.nan
            line[f"{metric}_low"], line[f"{metric}_high"] = np.quantile(drawn, ends)
            base, base_drawn = first.setdefault(metric, (float(values.mean()), drawn))
            if lines:
                line[f"{metric}_difference"] = values.mean() - base
                line[f"{metric}_difference_low"], line[f"{metric}_difference_high"] = np.quantile(
                    drawn - base_drawn, ends
                )
            else:
                line |= {f"{metric}_difference{end}": np.nan for end in ("", "_low", "_high")}
        line |= {fact: _common([run.facts.get(fact) for run in runs]) for fact in FACTS}
        lines.append(line)
    return pd.DataFrame(lines)


def _common(values: list[Any]) -> Any:  # noqa: ANN401  # a plain JSON value
    """Return the value that all seeds share, the mean of numbers that differ, or nothing."""
    if all(value == values[0] for value in values):
        return values[0]
    return float(np.mean(values)) if all(isinstance(value, int | float) for value in values) else None


def flat(config: object, prefix: str = "") -> dict[str, Any]:
    """Return the settings of a config by their names, joined by dots."""
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        key: value for name, item in config.items() for key, value in flat(item, f"{prefix}.{name}".strip(".")).items()
    }


def _markdown(table: pd.DataFrame, rows: dict[str, list[Run]], metric: str, bootstrap: int) -> str:
    first = next(iter(rows.values()))[0]
    shown = [metric, *(name for name in figures.shown(first.found) if name != metric)]
    header = [
        "run",
        "seeds",
        *(plots.metric_label(name) for name in shown),
        f"{plots.metric_label(metric)} minus the first's",
    ]
    body = []
    for line in table.to_dict("records"):
        cells = [f"{line[m]:.3f} ({line[f'{m}_low']:.3f} to {line[f'{m}_high']:.3f})" for m in shown]
        if line["seeds"] > 1:
            cells = [f"{cell} ± {line[f'{m}_std']:.3f}" for cell, m in zip(cells, shown, strict=True)]
        low, high = line[f"{metric}_difference_low"], line[f"{metric}_difference_high"]
        difference = f"{line[f'{metric}_difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        verdict = "" if low <= 0 <= high else " *clear*"
        body.append([line["run"], line["seeds"], *cells, "" if np.isnan(low) else difference + verdict])
    text = [
        f"# Comparison: {first.facts.get('system')}",
        "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in [header, ["---"] * len(header), *body]),
        f"The same {len(first.found.y)} test samples in {len(np.unique(first.found.group))} groups "
        f"(split `{first.facts.get('split_hash')}`). In brackets: {LEVEL:.0%} intervals from {bootstrap} resamples "
        "of the groups, of the mean over seeds; differences are paired. ± is the standard deviation over seeds. "
        "*clear*: the interval leaves out zero. Intervals cover the choice of samples, not the choice of seed.",
        "![comparison](comparison.png)",
        "## What differs in the settings",
        differences(rows),
    ]
    return "\n\n".join(text) + "\n"


def differences(rows: Mapping[str, Sequence[Any]]) -> str:
    """Return a table of the settings in which runs differ."""
    settings = {name: runs[0].settings for name, runs in rows.items()}
    keys = sorted({key for one in settings.values() for key in one})
    rest = [key for key in keys if len({str(one.get(key, "–")) for one in settings.values()}) > 1]
    if not rest:
        return "Nothing (or no config.yaml in the folders)."
    lines = [["setting", *settings], ["---"] * (len(settings) + 1)]
    lines += [[f"`{key}`", *(str(one.get(key, "–")) for one in settings.values())] for key in rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
