"""A record of what several seeds of one config reached: ``python -m benchmarks.accuracy --config FILE RUN RUN ...``.

A run folder with ``fold-K/`` inside is one seed, judged out of fold: the test predictions of its folds are joined, and
every number comes from them. Differences from the simple models are paired, on the same samples.
"""

import argparse
import ast
import csv
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.record import ROOT, sha256, write_record
from callbacks.report_files import Baselines, Predictions, read_json
from callbacks.report_settings import comparable_config
from lightning_project.members import folds_of, inside, pooled, stored
from modules import statistics as measures

LEVEL = 0.95
OURS = ("modules", "datamodules", "callbacks")
# what every fit passes through, beside the classes that its config names
SHARED = ("callbacks.stratified_split", "callbacks.early_stopping", "callbacks.gradient_clipping")


@dataclass(frozen=True)
class Seed:
    """A run, or the runs of all folds with one seed.

    Attributes:
        folders: Its run folders. facts: What each says about itself. config: Its config without fold and paths.
        found: Its labelled test predictions, of all folds. simple: Those of the simple models, by name.
        epochs: Epochs of each fit.
    """

    folders: list[Path]
    facts: list[dict[str, Any]]
    config: object
    found: Predictions
    simple: dict[str, Predictions]
    epochs: list[int]

    @property
    def number(self) -> int:
        """The seed."""
        return int(self.facts[0]["seed"])


def read(folder: Path) -> Seed:
    """Read a run, or its folds.

    Raises:
        ValueError: The folds are not one config with one seed.
        DataError: No tested run is there, or its folds do not fit together.
    """
    folders = list(folds_of(folder).values())
    facts = [read_json(path / "run.json") for path in folders]
    configs = [_config(path) for path in folders]
    if any(config != configs[0] for config in configs) or len({fact["seed"] for fact in facts}) > 1:
        raise ValueError(f"{folder}: its folds differ in config or seed")
    parts = [stored(path, "test").labelled() for path in folders]
    said = [Baselines.load(path / "test" / "baselines_test.npz") for path in folders]
    names = [name for name in said[0].names.tolist() if all(name in each.names for each in said)]
    simple = {
        name: pooled([each.of_model(name, part) for each, part in zip(said, parts, strict=True)], once=True)
        for name in names
    }
    return Seed(folders, facts, configs[0], pooled(parts, once=True), simple, [_epochs(path) for path in folders])


def metrics_of(seeds: Sequence[Seed], positive: Sequence[str], also: Sequence[str] = ()) -> dict[str, str]:
    """Return the metrics by the name that is shown: the usual ones, those asked for, those of classes that matter."""
    names = [str(name) for name in seeds[0].found.class_names]
    top = 3 if len(names) > 4 else 2
    usual = [*dict.fromkeys(["accuracy", "macro_f1", f"top{top}", "nll", "ece", *also])]
    of_class = [f"{kind}:{name}" for name in positive for kind in ("f1", "recall", "precision")]
    return {name: measures.by_index(name, names) for name in [*usual, *of_class]}


def summarise(
    seeds: Sequence[Seed], positive: Sequence[str] = (), bootstrap: int = 1000, also: Sequence[str] = ()
) -> dict:
    """Mean and spread over the seeds, intervals by group, classes, and paired differences from the simple models.

    Raises:
        ValueError: These are not seeds of one config on the same test samples, or a class is unknown.
    """
    first = seeds[0]
    for seed in seeds[1:]:
        if seed.config != first.config or seed.facts[0]["system"] != first.facts[0]["system"]:
            raise ValueError("the runs differ in their configs: give seeds of one config")
        if [f["split_hash"] for f in seed.facts] != [f["split_hash"] for f in first.facts]:
            raise ValueError("the runs differ in split_hash: give seeds of one config on one split")
    numbers = [seed.number for seed in seeds]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"a seed occurs twice: {numbers}")
    chosen = metrics_of(seeds, positive, also)
    y, group, names = first.found.y, first.found.group, [str(name) for name in first.found.class_names]

    def values(found: Predictions) -> dict[str, float]:
        got = measures.measured(found.prob, found.y, list(chosen.values()))
        return {name: got[key] for name, key in chosen.items()}

    def drawn(found: Predictions) -> dict[str, np.ndarray]:
        # equal seeds of the bootstrap give equal resamples of equal groups, so that values can be subtracted
        got = measures.resampled(found.prob, found.y, found.group, list(chosen.values()), bootstrap)
        return {name: got[key] for name, key in chosen.items()}

    points, draws = [values(seed.found) for seed in seeds], [drawn(seed.found) for seed in seeds]
    mean_draws = {name: np.mean([draw[name] for draw in draws], axis=0) for name in chosen}
    mean = {name: _mean([point[name] for point in points]) | {"interval": _ends(mean_draws[name])} for name in chosen}
    baselines = {}
    for name, simple in first.simple.items():
        own, apart = values(simple), drawn(simple)
        baselines[name] = {
            "values": own,
            "difference": {m: [mean[m]["mean"] - own[m], *_ends(mean_draws[m] - apart[m])] for m in chosen},
        }
    tables = [measures.per_class(seed.found.prob, seed.found.y, names) for seed in seeds]
    return {
        "system": first.facts[0]["system"],
        "parameters": first.facts[0]["total_params"],
        "folds": len(first.folders),
        "n": len(y),
        "n_groups": len(np.unique(group)),
        "mean": mean,
        "classes": {
            name: {
                **{kind: float(np.mean([table[column][i] for table in tables]))
                   for kind, column in (("f1", "f1-score"), ("recall", "recall"), ("precision", "precision"))},
                "support": int(tables[0]["support"][i]),
            }
            for i, name in enumerate(names)
        },
        "seeds": [
            {
                "seed": seed.number,
                "values": point,
                "intervals": {name: _ends(draw[name]) for name in chosen},
                "epochs": seed.epochs,
                "best_epoch": [fact["best_epoch"] for fact in seed.facts],
                "fit_seconds": [fact["fit_seconds"] for fact in seed.facts],
                "commit": seed.facts[0]["git_commit"],
            }
            for seed, point, draw in zip(seeds, points, draws, strict=True)
        ],
        "baselines": baselines,
    }  # fmt: skip


def data_of(configs: Sequence[Any]) -> dict[str, str | int]:
    """Return the hashes of the files of data of resolved configs, by name; without a file the data are synthetic."""
    found = [config["data"]["init_args"] for config in configs]
    paths = {str(path) for one in found for part in ("", "val_", "test_") if (path := one.get(f"{part}path"))}
    return {Path(path).name: sha256(Path(path)) for path in sorted(paths)} or {"synthetic": 0}


def sources(config: object) -> list[Path]:
    """Return the files of this project that a resolved config leads to: its classes, and what they import."""
    text = json.dumps(config)
    named = re.findall(rf'"((?:{"|".join(OURS)})\.[\w.]+)"', text)
    waiting = [*SHARED, *(name.rpartition(".")[0] for name in named)]
    found: set[Path] = set()
    while waiting:
        path = ROOT / f"{waiting.pop().replace('.', '/')}.py"
        if path.is_file() and path not in found:
            found.add(path)
            waiting += _imports(path)
    return sorted(found)


def main(args: Sequence[str] | None = None) -> None:
    """Print the summary, and leave a record when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="tested runs: seeds of one config, or folders of folds")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="the configs that were given to fit")
    parser.add_argument("--positive", nargs="+", default=[], metavar="CLASS", help="classes that matter most")
    parser.add_argument("--also", nargs="+", default=[], metavar="METRIC", help="further metrics: macro_recall, top5")
    parser.add_argument("--options", default="", help="further options that fit was given, for the record's command")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples for the intervals, by group")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    seeds = [read(path) for run in given.runs for path in inside(run, "seed") or [run]]
    figures = summarise(seeds, given.positive, given.bootstrap, given.also)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    if not given.record:
        return
    config = yaml.safe_load((seeds[0].folders[0] / "config.yaml").read_text(encoding="utf-8"))
    source, data = config["data"]["init_args"].get("path"), data_of([config])
    words = " ".join(f"--config {path}" for path in given.config)
    words += f" --data.path {Path(source).name}" if source else ""
    folds = f" --split.folds {figures['folds']} --split.fold K" if figures["folds"] > 1 else ""
    options = f" {given.options}" if given.options else ""
    command = f"python -m lightning_project fit {words}{folds}{options} --seed_everything S"
    files = [*given.config, *sources(config)]
    path = write_record(given.record, command, files, data, [seed.number for seed in seeds], figures)
    print(f"written: {path.relative_to(ROOT)}")


def _config(folder: Path) -> object:
    path = folder / "config.yaml"
    config: Any = comparable_config(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    config.get("split", {}).pop("fold", None)
    return config


def _epochs(folder: Path) -> int:
    with (folder / "training_log.csv").open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _mean(values: list[float]) -> dict[str, Any]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def _ends(values: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def _imports(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in OURS)


if __name__ == "__main__":
    main()
