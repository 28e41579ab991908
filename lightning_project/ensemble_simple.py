"""The simple models that the members' tests kept, beside the ensemble: paired differences on the same samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from callbacks import report_plots as plots
from callbacks.report_files import Baselines, Predictions
from callbacks.report_tables import table as markdown_table
from lightning_project.members import pooled, stored
from modules import statistics

Beside = dict[str, dict[str, list[float]]]


def simple_models(members: Sequence[Mapping[str, Path]]) -> dict[str, Predictions]:
    """Return what each simple model said about the test samples of all folds.

    Args:
        members: Run folders by fold, of each member; those of a model come from the first member that has it whole.
    """
    found: dict[str, Predictions] = {}
    for folds in members:
        paths = [folder / "test" / "baselines_test.npz" for folder in folds.values()]
        if not all(path.is_file() for path in paths):
            continue
        said = [Baselines.load(path) for path in paths]
        parts = [stored(folder, "test").labelled() for folder in folds.values()]
        for name in said[0].names.tolist():
            if name not in found and all(name in each.names for each in said):
                answers = [each.of_model(name, part) for each, part in zip(said, parts, strict=True)]
                found[name] = pooled(answers, once=True)
    return found


def beside(test: Predictions, simple: Mapping[str, Predictions], metrics: Sequence[str], bootstrap: int) -> Beside:
    """Return by model and metric: its value, the ensemble's minus it, and the interval of this difference.

    Args:
        test: The ensemble's predictions.
        simple: Those of the simple models on the same samples, in any order.
        metrics: Names as in the table.
        bootstrap: Resamples of the groups.
    """
    own = test.labelled()
    rows, names = np.argsort(own.id, kind="stable"), own.class_names.tolist()
    named = {metric: statistics.by_index(metric, names) for metric in metrics}
    result: Beside = {}
    for model, found in simple.items():
        order = np.argsort(found.id, kind="stable")
        pair = own.prob[rows], found.prob[order], own.y[rows], own.group[rows]
        differences = statistics.paired_bootstrap(*pair, list(named.values()), bootstrap)
        values = statistics.measured(found.prob, found.y, list(named.values()))
        result[model] = {metric: [values[key], *differences[key]] for metric, key in named.items()}
    return result


def section(found: Beside) -> str:
    """Return the part of the page; empty without a simple model."""
    if not found:
        return "No member kept what simple models say (tested with `report.baselines: false`)."
    metrics = list(next(iter(found.values())))
    rows = []
    for model, values in found.items():
        cells = [f"{v:.3f}; {d:+.3f} ({low:+.3f} to {high:+.3f})" for v, d, low, high in values.values()]
        rows.append([model, *cells])
    return (
        "Value on test, and the ensemble minus it, paired on the same samples.\n\n"
        + markdown_table(["model", *(plots.metric_label(metric) for metric in metrics)], rows)
    )  # fmt: skip
