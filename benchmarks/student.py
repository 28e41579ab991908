"""What a small network has kept of a large one: parameters, accuracy on the same test samples, time of one picture.

Command: python -m benchmarks.student runs/plants/TEACHER runs/plants_student/STUDENT [...] [--record NAME]
Each run has been tested. The time is that of the network alone, for a picture at a time, on one core.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.record import ROOT, write_record
from callbacks.report_files import Predictions, read_json
from datamodules.errors import DataError
from lightning_project.parser import class_at
from modules import statistics

ROUNDS, WARM = 100, 10
SOURCES = (
    *("benchmarks/student.py", "modules/plants.py", "modules/plants_student.py", "modules/losses_distillation.py"),
    *("datamodules/plants_teachers.py", "configs/plants.yaml", "configs/plants_student.yaml"),
    "configs/variants/plants_student_distilled.yaml",
)


def latency(net: torch.nn.Module, size: int) -> float:
    """Return the median seconds of one picture on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
        taken = []
        with torch.inference_mode():
            for _ in range(WARM + ROUNDS):
                start = time.perf_counter()
                net(image=image)
                taken.append(time.perf_counter() - start)
        return float(np.median(taken[WARM:]))
    finally:
        torch.set_num_threads(threads)


def figures_of(folder: Path) -> dict[str, Any]:
    """Return the parameters and the time of a run's best network."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    system = class_at(config["model"]["class_path"])  # Lightning loads only what is imported
    model = system.load_from_checkpoint(folder / "checkpoints" / "best.ckpt", map_location="cpu").eval()
    net: Any = model.net
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return {"backbone": net.backbone, "parameters": parameters, "milliseconds": 1000 * latency(net, net.image_size)}


def kept(teacher: Predictions, student: Predictions, bootstrap: int) -> dict[str, Any]:
    """Return the accuracies of a student and its difference from the teacher, paired, with an interval by group.

    Raises:
        DataError: They were not tested on the same samples.
    """
    if list(teacher.id) != list(student.id) or list(teacher.class_names) != list(student.class_names):
        raise DataError("teacher and student were tested on other samples or classes: give both runs one split")
    names = ["accuracy", "macro_f1"]
    found = statistics.measured(student.prob, student.y, names)
    paired = statistics.paired_bootstrap(student.prob, teacher.prob, teacher.y, teacher.group, names, bootstrap)
    return {name: {"value": found[name], "difference": list(paired[name])} for name in names}


def main(words: Sequence[str] | None = None) -> None:
    """Print the table, and leave a record when one is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, help="run folder of the teacher, then of students")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples of the intervals")
    parser.add_argument("--record", help="name of the record to leave in benchmarks/records")
    given = parser.parse_args(words)
    tested = [Predictions.load(run / "test" / "predictions_test.npz").labelled() for run in given.runs]
    rows = {str(run): figures_of(run) | kept(tested[0], found, given.bootstrap)
            for run, found in zip(given.runs, tested, strict=True)}  # fmt: skip
    first = next(iter(rows.values()))
    print(f"{'run':<40} {'parameters':>12} {'ms':>7} {'accuracy':>9} {'kept':>7}  minus the first (95 %)")
    for name, row in rows.items():
        accuracy = row["accuracy"]
        difference, low, high = accuracy["difference"]
        share = accuracy["value"] / first["accuracy"]["value"]
        print(
            f"{name:<40} {row['parameters']:>12,} {row['milliseconds']:>7.2f} {accuracy['value']:>9.3f} {share:>7.1%}  "
            f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"
        )
    if given.record:
        sources = [ROOT / name for name in SOURCES]
        seeds = [int(read_json(run / "run.json")["seed"]) for run in given.runs]
        command = "python -m benchmarks.student " + " ".join(map(str, given.runs))
        print(f"written: {write_record(given.record, command, sources, {'synthetic': 0}, seeds, {'runs': rows})}")


if __name__ == "__main__":
    main()
