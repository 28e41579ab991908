"""A record of what a decoder of lines reached: ``python -m benchmarks.lines RUN --config FILE ... --record NAME``.

RUN is a tested run, or a folder with ``fold-K/`` inside, which is judged out of fold. Intervals are by recording. The
simple models are those of the runs' own reports, their values the mean over the windows of all folds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.accuracy import data_of, sources
from benchmarks.record import write_record
from callbacks.report_files import read_json
from lightning_project import figures as measures
from lightning_project.members import folds_of, pooled, stored

SHOWN = (*measures.OF_LINES, "token_accuracy_brief", "edit_share")
OF_SIMPLE = ("line_accuracy", "operation_accuracy", "token_accuracy_brief")
LEVEL = 0.95


def summarise(folder: Path, bootstrap: int = 1000) -> dict[str, Any]:
    """Return the figures of a run, out of fold where it has folds, and the simple models beside it."""
    folders = list(folds_of(folder).values())
    facts = [read_json(path / "run.json") for path in folders]
    parts = [stored(path, "test").labelled() for path in folders]
    reports = [read_json(path / "test" / "metrics.json") for path in folders]
    found = pooled(parts, once=True)
    values, drawn = measures.measured(found, SHOWN), measures.resampled(found, SHOWN, bootstrap)
    ends = {name: np.quantile(drawn[name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist() for name in SHOWN}
    sizes = np.array([len(part.id) for part in parts])
    shared = set.intersection(*({name for name, one in each["baselines"].items() if "values" in one}
                                for each in reports))  # fmt: skip
    simple = {
        name: {
            metric: float(np.average([each["baselines"][name]["values"][metric] for each in reports], weights=sizes))
            for metric in OF_SIMPLE
            if all(metric in each["baselines"][name]["values"] for each in reports)
        }
        for name in sorted(shared)
    }
    return {
        "system": facts[0]["system"],
        "parameters": facts[0]["total_params"],
        "folds": len(folders),
        "windows": int(sizes.sum()),
        "recordings": len(np.unique(found.group)),
        "values": {name: [values[name], *ends[name]] for name in SHOWN},
        "of_folds": {name: [measures.measured(part, [name])[name] for part in parts] for name in SHOWN[:4]},
        "fit_seconds": [fact["fit_seconds"] for fact in facts],
        "simple_models": simple,
    }


def main(args: Sequence[str] | None = None) -> None:
    """Print the figures, and leave a record when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lines", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, help="a tested run, or a folder of folds")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="the configs that were given to fit")
    parser.add_argument("--command", required=True, help="the command that made the runs, without paths of a machine")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples for the intervals, by recording")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    figures = summarise(given.run, given.bootstrap)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    if not given.record:
        return
    first = next(iter(folds_of(given.run).values()))
    config = yaml.safe_load((first / "config.yaml").read_text(encoding="utf-8"))
    seed = int(read_json(first / "run.json")["seed"])
    files = [*given.config, *sources(config)]
    path = write_record(given.record, given.command, files, data_of([config]), [seed], figures)
    print(f"written: benchmarks/records/{path.name}")


if __name__ == "__main__":
    main()
