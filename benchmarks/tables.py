"""A record of the table that a verb wrote: ``python -m benchmarks.tables FOLDER --config FILE ... --record NAME``.

FOLDER is that of an ensemble (``ensemble.csv``), of an ablation (``ablation.csv``), of a run that was judged with its
sensors spoilt (``test/sensors.csv``), or of one that was made smaller (``compress/compress.json``). The record holds
the table, the hashes of the configs and of all code that the runs behind it lead to, and the seeds of these runs.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.accuracy import data_of, sources
from benchmarks.record import ROOT, write_record
from callbacks.report_files import read_json
from datamodules.errors import DataError
from lightning_project.members import folds_of

COMPRESSED = "compress/compress.json"
COMPRESSING = tuple(  # no config of a fit names them
    ROOT / name
    for name in (
        "lightning_project/compress.py",
        "modules/compression.py",
        "modules/decoding.py",
        "modules/perplexity.py",
    )
)


def runs_of(folder: Path) -> list[Path]:
    """Return the runs behind a table, each with its config.

    Raises:
        DataError: There is neither an ensemble nor an ablation, or no run behind it.
    """
    if (folder / "ensemble.json").is_file():
        members = read_json(folder / "ensemble.json")["members"]
        found = [path for member in members for path in folds_of(Path(member)).values()]
    elif (folder / "ablation.csv").is_file():
        found = sorted(path.parent for path in folder.rglob("config.yaml") if (path.parent / "run.json").is_file())
    elif (folder / "test" / "sensors.csv").is_file() or (folder / COMPRESSED).is_file():
        found = [folder]
    else:
        raise DataError(f"{folder}: holds neither ensemble.json, ablation.csv, test/sensors.csv nor {COMPRESSED}")
    found = [path for path in found if (path / "config.yaml").is_file()]
    if not found:
        raise DataError(f"{folder}: no run with a config is behind its table")
    return found


def figures_of(folder: Path) -> dict[str, Any]:
    """Return the rows of the table, without empty cells, and for an ensemble what was fitted and the simple models."""
    if (folder / COMPRESSED).is_file():
        return {name: value for name, value in read_json(folder / COMPRESSED).items() if name in ("part", "rows")}
    kind = "ensemble" if (folder / "ensemble.json").is_file() else "ablation"
    path = folder / f"{kind}.csv"
    if not path.is_file():
        path = folder / "test" / "sensors.csv"  # runs_of has seen that it is there
    rows = json.loads(pd.read_csv(path).to_json(orient="records"))
    found: dict[str, Any] = {"rows": [{k: v for k, v in row.items() if v is not None} for row in rows]}
    if kind == "ensemble":
        facts = read_json(folder / "ensemble.json")
        names = ("method", "part", "by", "strength", "given_weights", "folds", "fitted", "simple_models")
        found |= {name: facts[name] for name in names}
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Print the figures, and leave a record when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="folder of an ensemble, an ablation or a run")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="configs of the runs, and the ablation's")
    parser.add_argument("--command", required=True, help="the command that made the table, without paths of a machine")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    runs = runs_of(given.folder)
    figures = figures_of(given.folder)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    if not given.record:
        return
    configs = [yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in runs]
    data = data_of(configs)
    seeds = sorted({int(read_json(run / "run.json")["seed"]) for run in runs})
    files = [*given.config, *sorted({path for config in configs for path in sources(config)})]
    if (given.folder / COMPRESSED).is_file():
        files += COMPRESSING
    path = write_record(given.record, given.command, files, data, seeds, figures)
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
