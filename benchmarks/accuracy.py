"""A record of what several seeds of one config reached: ``python -m benchmarks.accuracy --record NAME RUN RUN ...``."""

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.record import ROOT, sha256, write_record

METRICS = ("accuracy", "macro_f1", "top3", "nll", "ece")


def read(run: Path) -> dict:
    """Read what a run says about itself and its test part."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    test = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
    with (run / "training_log.csv").open(encoding="utf-8", newline="") as file:
        epochs = sum(1 for _ in csv.DictReader(file))
    return {"facts": facts, "test": test, "epochs": epochs}


def summarise(runs: Sequence[dict]) -> dict:
    """Mean and spread over the seeds, each seed with its interval, and the baselines of the first.

    Raises:
        ValueError: The runs are not seeds of one config on one split.
    """
    for key in ("config_hash", "split_hash", "system"):
        if len({run["facts"][key] for run in runs}) != 1:
            raise ValueError(f"the runs differ in {key}: give seeds of one config on one split")
    seeds = [run["facts"]["seed"] for run in runs]
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"a seed occurs twice: {seeds}")
    mean = {}
    for name in METRICS:
        values = [run["test"]["values"][name] for run in runs]
        mean[name] = {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
    return {
        "system": runs[0]["facts"]["system"],
        "parameters": runs[0]["facts"]["total_params"],
        "n": runs[0]["test"]["n"],
        "n_groups": runs[0]["test"]["n_groups"],
        "mean": mean,
        "seeds": [
            {
                "seed": run["facts"]["seed"],
                "values": {name: run["test"]["values"][name] for name in METRICS},
                "intervals": run["test"]["intervals"],
                "epochs": run["epochs"],
                "best_epoch": run["facts"]["best_epoch"],
                "fit_seconds": run["facts"]["fit_seconds"],
                "commit": run["facts"]["git_commit"],
            }
            for run in runs
        ],
        "baselines": {
            name: found["values"] for name, found in runs[0]["test"]["baselines"].items() if "values" in found
        },
    }


def main(args: Sequence[str] | None = None) -> None:
    """Print the summary, and leave a record when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, tested; seeds of one config")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="the configs that were given to fit")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    runs = [read(run) for run in given.runs]
    figures = summarise(runs)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    if not given.record:
        return
    system = figures["system"]
    config = yaml.safe_load((given.runs[0] / "config.yaml").read_text(encoding="utf-8"))
    source = config["data"]["init_args"].get("path")
    data = {Path(source).name: sha256(Path(source))} if source else {"synthetic": 0}
    code = [
        *ROOT.glob(f"modules/{system}.py"),
        *ROOT.glob(f"modules/nets/{system}*.py"),
        *ROOT.glob("datamodules/s*.py"),
    ]
    shared = ("modules/classifier.py", "modules/optim.py", "modules/losses.py", "callbacks/gradient_clipping.py")
    files = [*given.config, *code, *(ROOT / name for name in shared), ROOT / "callbacks" / "moving_average.py"]
    words = " ".join(f"--config {path}" for path in given.config)
    name = Path(source).name if source else ""
    command = (
        f"python -m lightning_project fit {words}" + (f" --data.path {name}" if name else "") + " --seed_everything S"
    )
    seeds = [run["facts"]["seed"] for run in runs]
    print(f"written: {write_record(given.record, command, files, data, seeds, figures).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
