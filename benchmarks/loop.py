"""What the house costs, and what length buckets save: ``python -m benchmarks.loop --system signs [--data FILE]``.

Two ratios, each with both sides interleaved in one process:

* time per step of a real ``fit`` (shipped callbacks and loggers on) over a bare PyTorch loop that does the same maths;
* real frames per second with length buckets over padding every sequence to the maximum.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import ROOT, sha256, write_record

TARGETS = {"step": 1.05, "frames": 1.8, "predictions": 1e-5}
# What --data needs beside the path: sequences at their own lengths, for a recipe that resamples has nothing to pad.
REAL = {
    "signs": [
        *("--data.max_len=171", "--model.max_len=171", "--split.train=0.9", "--split.val=0.1", "--split.test=0.0"),
        "--data.features=[{class_path: datamodules.sequences.HandFeatures}]",
    ]
}
SOURCES = (
    "benchmarks/loop.py",
    "benchmarks/rounds.py",
    "modules/base.py",
    "modules/classifier.py",
    "datamodules/samplers.py",
)


def measure(config: Sequence[str], callback: str, options: Sequence[str], folder: Path) -> dict:
    """Run one ``fit`` with a measuring callback and return its figures."""
    from lightning_project.cli import main

    out = folder / f"{callback}.json"
    words = [word for path in config for word in ("--config", str(ROOT / path))]
    main(
        [
            *("fit", *words, "--runs", str(folder / "runs"), "--name", callback.lower()),
            *(f"--trainer.callbacks+=benchmarks.rounds.{callback}", f"--trainer.callbacks.out={out}"),
            *("--report.bootstrap=0", "--report.baselines=false", *options),
        ]
    )
    found: dict = json.loads(out.read_text(encoding="utf-8"))
    return found


def describe(step: dict, frames: dict) -> str:
    """The figures in a few lines, with the targets beside them."""

    def verdict(good: bool) -> str:
        return "reached" if good else "NOT reached"

    def spread(figures: dict) -> str:
        low, high = figures["ratio_spread"]
        return f"{figures['ratio']:.3f} (middle half of {figures['rounds']} rounds: {low:.3f} to {high:.3f})"

    difference = frames["largest_difference_of_predictions"]
    lines = [
        f"time per step: fit {step['fit_ms_per_step']:.1f} ms, bare loop {step['bare_ms_per_step']:.1f} ms",
        f"  ratio {spread(step)}; target at most {TARGETS['step']}: {verdict(step['ratio'] <= TARGETS['step'])}",
        f"  after training, parameters of the two differ by at most {step['parameter_distance']:.1e}",
        f"real frames per second: buckets {frames['bucketed_frames_per_second']:.0f}, "
        f"padded {frames['padded_frames_per_second']:.0f} "
        f"(lengths: {frames['mean_len']:.0f} on average, {frames['max_len']} at most)",
        f"  ratio {spread(frames)}; target at least {TARGETS['frames']}: "
        f"{verdict(frames['ratio'] >= TARGETS['frames'])}",
        f"  largest difference of a predicted probability {difference:.1e}; "
        f"target {TARGETS['predictions']:.0e}: {verdict(difference <= TARGETS['predictions'])}",
    ]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and leave a record when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__, allow_abbrev=False)
    parser.add_argument("--system", required=True, choices=sorted(REAL))
    parser.add_argument("--data", type=Path, help="real data for the second ratio; without it, the synthetic data")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each side")
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: as PyTorch chooses")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    if given.data and not given.data.is_file():
        parser.error(f"--data {given.data}: no such file")
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    base = f"configs/{given.system}.yaml"
    options = [f"--data.path={given.data.resolve()}", *REAL[given.system]] if given.data else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        epochs = [f"--trainer.max_epochs={given.rounds + 1}", f"--early_stopping.patience={given.rounds + 1}"]
        step = measure([base], "Interleave", epochs, folder)
        frames = measure([base], "Padding", [f"--trainer.callbacks.rounds={given.rounds}", *options], folder)
    print(describe(step, frames))
    if given.record:
        data = {given.data.name: sha256(given.data)} if given.data else {"synthetic": 0}
        command = f"python -m benchmarks.loop --system {given.system}" + (
            f" --data {given.data.name}" if given.data else ""
        )
        figures = {"step": step, "frames": frames, "targets": TARGETS}
        path = write_record(given.record, command, [ROOT / f for f in (base, *SOURCES)], data, [0], figures)
        print(f"written: {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
