"""What the house costs, and what length buckets save: ``python -m benchmarks.loop --system signs [--data FILE]``.

Two ratios, each with both sides interleaved in one process:

* time per step of a real ``fit`` (shipped callbacks and loggers on) over a bare PyTorch loop that does the same maths;
* real frames (or tokens) per second with length buckets over padding every sequence to the maximum.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import epochs, measure, ratio, read_words, verdict

# What --data needs beside the path: sequences at their own lengths, for a recipe that resamples has nothing to pad.
REAL = {
    "signs": [
        *("--data.max_len=171", "--model.max_len=171", "--split.train=0.9", "--split.val=0.1", "--split.test=0.0"),
        "--data.features=[{class_path: datamodules.sequences.HandFeatures}]",
    ],
    "papers": [],
}
UNITS = {"signs": "frames", "papers": "tokens"}
FASTER = {"signs": 1.8, "papers": None}  # of the second ratio, at least; texts are cut, so that they differ less
TARGETS = {"step": 1.05, "predictions": 1e-5}


def describe(system: str, step: dict, padding: dict) -> str:
    """The figures in a few lines, with the targets beside them."""
    difference, unit = padding["largest_difference_of_predictions"], UNITS[system]
    lines = [
        f"time per step: fit {step['fit_ms_per_step']:.1f} ms, bare loop {step['bare_ms_per_step']:.1f} ms",
        f"  {ratio(step)}; {verdict(step['ratio'], at_most=TARGETS['step'])}",
        f"  after training, parameters of the two differ by at most {step['parameter_distance']:.1e}",
        f"real {unit} per second: buckets {padding['bucketed_per_second']:.0f}, "
        f"padded {padding['padded_per_second']:.0f} "
        f"(lengths: {padding['mean_len']:.0f} on average, {padding['max_len']} at most)",
        f"  {ratio(padding)}; {verdict(padding['ratio'], at_least=FASTER[system])}",
        f"  largest difference of a predicted probability {difference:.1e}; "
        f"{verdict(difference, at_most=TARGETS['predictions'])}",
    ]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and leave a record when asked."""
    given = read_words("benchmarks.loop", __doc__, REAL, 6, args)
    options = [f"--data.path={given.data.resolve()}", *REAL[given.system]] if given.data else []
    turns = [f"--trainer.callbacks.rounds={given.rounds}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = measure(given.configs, "benchmarks.rounds.Interleave", epochs(given.rounds + 1) + given.options, folder)
        padding = measure(given.configs, "benchmarks.rounds.Padding", turns + options + given.options, folder)
    print(describe(given.system, step, padding))
    targets = TARGETS | {"padding": FASTER[given.system]}
    figures = {"step": step, "padding": padding, "unit": UNITS[given.system], "targets": targets}
    given.keep("benchmarks.loop", [], figures)


if __name__ == "__main__":
    main()
