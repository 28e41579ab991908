"""A record of what runs of language models reached: ``python -m benchmarks.perplexity RUN RUN ... --config FILE ...``.

A folder with ``seed-S/`` inside is one row: its seeds. Every figure comes from the runs' stored losses by document and
their ``metrics.json``; the others are compared with the first, paired by document.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.accuracy import sources
from benchmarks.record import ROOT, sha256, write_record
from callbacks.report_files import read_json
from callbacks.report_language_files import TextPredictions
from lightning_project.members import inside
from modules import perplexity

SHOWN = ("word_perplexity", "perplexity", "bits_per_byte")
STAGES = {"test": "test", "val": "fit"}  # folder of a run that holds what it said of a part


def summarise(groups: Sequence[Sequence[Path]], bootstrap: int = 1000, part: str = "test") -> dict[str, Any]:
    """Return for each group of seeds: mean, spread and interval, difference to the first group, and its parts.

    Args:
        groups: Run folders of each row, the seeds of one config.
        bootstrap: Resamples of the documents.
        part: Part that was judged: test or val.

    Raises:
        ValueError: The runs were judged on different documents.
    """
    rows: dict[str, Any] = {}
    base: dict[str, np.ndarray] = {}
    documents: list[str] = []
    for folders in groups:
        found = [TextPredictions.load(folder / STAGES[part] / f"predictions_{part}.npz") for folder in folders]
        documents = documents or found[0].id.tolist()
        if any(one.id.tolist() != documents for one in found):
            raise ValueError(f"{folders[0]} was judged on other documents than the first run")
        points = [perplexity.measured(one.sums()) for one in found]
        draws = [perplexity.resampled(one.sums(), one.group, bootstrap) for one in found]
        drawn = {name: np.mean([draw[name] for draw in draws], axis=0) for name in SHOWN}
        row: dict[str, Any] = {name: _spread([point[name] for point in points], drawn[name]) for name in SHOWN}
        if base:
            row["difference"] = {
                name: [row[name]["mean"] - rows[next(iter(rows))][name]["mean"], *_ends(drawn[name] - base[name])]
                for name in SHOWN
            }
        base = base or drawn
        rows[_name(folders[0])] = row | _parts(folders, STAGES[part])
    return {"part": part, "documents": len(documents), "rows": rows}


def _parts(folders: Sequence[Path], stage: str) -> dict[str, Any]:
    """What the stages of the seeds say beside: validation, memory, exploration, cache, questions, protocol."""
    facts = [read_json(folder / "run.json") for folder in folders]
    judged = [read_json(folder / stage / "metrics.json") for folder in folders]
    other = [read_json(folder / beside / "metrics.json") for folder in folders for beside in ("validate", "fit")]
    machine = read_json(folders[0] / "environment.json")
    validation = [one["values"]["word_perplexity"] for one in other if one.get("part") == "val"]
    row: dict[str, Any] = {
        "seeds": [fact.get("seed") for fact in facts],
        "parameters": facts[0].get("total_params"),
        "epochs": [fact.get("epochs_run") for fact in facts],
        "fit_seconds": [fact.get("fit_seconds") for fact in facts],
        "machine": {name: machine.get(name) for name in ("cpu", "cpu_count", "threads", "gpus")}
        | {"torch": machine.get("packages", {}).get("torch")},
        "protocol": judged[0]["protocol"],
        "validation_word_perplexity": validation,
    }
    simple = judged[0].get("baselines", {}).items()
    counted = {name: one.get("values", {}).get("word_perplexity") for name, one in simple}
    row["baselines"] = {name: value for name, value in counted.items() if value is not None}
    if judged[0].get("entropy_per_word") is not None:  # of made text: what a perfect model would reach
        row["least_word_perplexity"] = math.exp(judged[0]["entropy_per_word"])
    for mode in ("off", "shuffled"):
        found = [one["memory"][mode] for one in judged if mode in one.get("memory", {})]
        if found:
            row[f"memory_{mode}"] = {
                "word_perplexity": [entry["values"]["word_perplexity"] for entry in found],
                "difference": [entry.get("difference", {}).get("word_perplexity") for entry in found],
            }
    chosen = [one["generation"]["off_likeliest"] for one in judged if "off_likeliest" in one.get("generation", {})]
    also = {"noise": [noise for folder in folders if (noise := _noise(folder))], "off_likeliest": chosen}
    also |= {key: [one[key] for one in judged if key in one] for key in ("cache", "recall")}
    return row | {key: found for key, found in also.items() if found}


def _noise(folder: Path) -> dict[str, float]:
    """Return the first and the last scale of the noise of training with exploration, empty without."""
    path = folder / "training_log.csv"
    log = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    scales = log["train/noise"].dropna().tolist() if "train/noise" in log else []
    return {"first": scales[0], "last": scales[-1]} if scales else {}


def _name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name.startswith("seed-") else folder.name


def _spread(values: Sequence[float], drawn: np.ndarray) -> dict[str, Any]:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": spread, "interval": _ends(drawn), "seeds": list(values)}


def _ends(drawn: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(drawn, [0.025, 0.975])]


def main(args: Sequence[str] | None = None) -> None:
    """Print the summary, and leave a record when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perplexity", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="tested runs; one with seed-S/ inside stands for its seeds")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="the configs that were given to fit")
    parser.add_argument("--data", type=Path, help="the text: a file, or a folder of files")
    parser.add_argument("--command", default="", help="further words of the fits, without paths of this machine")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples for the intervals, by document")
    parser.add_argument("--part", choices=tuple(STAGES), default="test", help="part on which the runs were judged")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    groups = [inside(run, "seed") or [run] for run in given.runs]
    figures = summarise(groups, given.bootstrap, given.part)
    print(json.dumps(figures, indent=1))
    if not given.record:
        return
    config = yaml.safe_load((groups[0][0] / "config.yaml").read_text(encoding="utf-8"))
    texts = (
        [given.data] if given.data and given.data.is_file() else sorted(given.data.glob("*.txt")) if given.data else []
    )
    words = " ".join(f"--config {path}" for path in given.config) + f" {given.command}"
    written = write_record(
        given.record,
        f"python -m lightning_project fit {words.strip()}",
        [*given.config, *sources(config), ROOT / "modules" / "perplexity.py"],
        {path.name: sha256(path) for path in texts} or {"synthetic": 0},
        [seed for row in figures["rows"].values() for seed in row["seeds"]],
        figures,
    )
    print(f"written: {written.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
