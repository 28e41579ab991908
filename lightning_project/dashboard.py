"""The W&B workspace of a system as code: ``python -m lightning_project.dashboard --system signs --project NAME``.

Needs the extra ``dashboard`` (wandb-workspaces), and a W&B key for saving; ``--print`` shows the model without either a
key or a network. What the panels show is logged by ``RunReport`` and the systems under the names below.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

MISSING = "wandb-workspaces is not installed: from the checkout, pip install -e '.[dashboard]'"
# Section -> curves over epochs; a metric that a run did not log leaves its panel empty.
CURVES = {
    "Training": ["train/loss", "train/accuracy", "lr", "grad/norm", "grad/clipped_share"],
    "Validation": ["val/loss", "val/nll", "val/accuracy", "val/macro_f1", "val/top3", "val/ece"],
}
PICTURES = ["test/confusion", "test/calibration", "test/per_class", "fit/confusion", "fit/calibration", "report"]
TABLES = ["test/per_class_table", "test/mistakes_table", "fit/per_class_table", "fit/mistakes_table"]
LINE_TABLES = ("results", "heads", "kinds", "lengths", "operations", "recordings", "examples", "sensors", "anomaly")


@dataclass(frozen=True)
class Shown:
    """What the workspace of a system shows beyond what all have.

    Attributes:
        judged: Metrics that are pinned in the table; runs are sorted by the first.
        top: Guesses of the top-k accuracy on test.
        curves: Further sections of curves, or others of the same name.
        tested: Test metrics that have a bar each; ``None``: those of classes.
        pictures: Pictures of the report.
        tables: Tables of the report.
        ascending: Whether less of the first metric is better.
    """

    judged: tuple[str, ...]
    top: int = 3
    curves: dict[str, list[str]] | None = None
    tested: tuple[str, ...] | None = None
    pictures: tuple[str, ...] = tuple(PICTURES)
    tables: tuple[str, ...] = tuple(TABLES)
    ascending: bool = False


SYSTEMS = {
    "plants": Shown(("val/macro_f1", "test/macro_f1", "test/accuracy"), top=5),
    "plants_student": Shown(("val/macro_f1", "test/macro_f1", "test/accuracy"), top=5),
    "signs": Shown(("val/macro_f1", "test/macro_f1", "test/accuracy")),
    "papers": Shown(
        ("val/macro_f1", "test/macro_f1", "test/accuracy"),
        top=2,
        curves={"Further tasks": ["train/aux_crosslist", "train/aux_learning", "train/aux_length"]},
    ),
    "gcode_encoder": Shown(
        ("val/macro_f1", "test/macro_f1", "test/accuracy"),
        curves={"Reconstruction": ["train/aux_reconstruction"]},
        tables=(*TABLES, "test/anomaly_table"),
    ),
    "gcode_decoder": Shown(
        ("val/token_accuracy", "test/line_accuracy", "test/token_accuracy"),
        curves={
            "Training": ["train/loss", "lr", "grad/norm", "grad/clipped_share"],
            "Heads": [f"train/loss_{name}" for name in ("type", "command", "param", "sign", "digits", "value", "flat")],
            "Validation": ["val/loss", "val/token_accuracy", "val/line_accuracy", "val/operation_accuracy"],
        },
        tested=("line_accuracy", "token_accuracy", "token_accuracy_free", "operation_accuracy", "validity"),
        pictures=("test/confusion", "test/recordings", "fit/confusion", "fit/recordings", "report"),
        tables=tuple(f"test/{name}_table" for name in LINE_TABLES),
    ),
    "language": Shown(
        ("val/word_ppl", "test/word_perplexity", "test/bits_per_byte"),
        curves={
            "Training": ["train/loss", "train/ppl", "train/noise", "lr", "grad/norm", "grad/clipped_share"],
            "Validation": ["val/nll", "val/ppl", "val/word_ppl", "val/bpb"],
        },
        tested=("word_perplexity", "perplexity", "bits_per_byte", "nll"),
        pictures=("test/distance", "test/attention", "test/slots", "fit/distance", "report"),
        tables=tuple(f"test/{name}_table" for name in ("results", "by_distance", "by_position", "panel", "samples")),
        ascending=True,
    ),
}


def test_metrics(system: str) -> list[str]:
    """Return the metrics of the test part that have a bar each."""
    shown = SYSTEMS[system]
    return [f"test/{name}" for name in shown.tested or ("accuracy", "macro_f1", f"top{shown.top}", "nll", "ece")]


def build(system: str, project: str, entity: str) -> "Workspace":
    """Build the workspace without contacting W&B.

    Args:
        system: One of ``SYSTEMS``.
        project: W&B project that the runs are in.
        entity: W&B user or team.

    Returns:
        The workspace; its ``save()`` sends it.

    Raises:
        ValueError: Unknown system.
        ImportError: The extra is not installed.
    """
    if system not in SYSTEMS:
        raise ValueError(f"system {system!r} has no dashboard; there are {', '.join(sorted(SYSTEMS))}")
    try:
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2 as wr
    except ImportError as error:
        raise ImportError(MISSING) from error
    shown = SYSTEMS[system]
    curves = [
        ws.Section(
            name=name,
            panels=[wr.LinePlot(title=metric, x="epoch", y=[metric], log_y=metric == "lr") for metric in metrics],
            is_open=True,
        )
        for name, metrics in (CURVES | (shown.curves or {})).items()
    ]
    test = ws.Section(
        name="Test",
        panels=[
            *(wr.BarPlot(title=metric, metrics=[wr.SummaryMetric(metric)]) for metric in test_metrics(system)),
            *(wr.MediaBrowser(title=name, media_keys=[name]) for name in shown.pictures),
            *(wr.WeavePanelSummaryTable(table_name=name) for name in shown.tables),
        ],
        is_open=True,
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{system}: training and test",
        sections=[*curves, test],
        settings=ws.WorkspaceSettings(x_axis="epoch", sort_panels_alphabetically=False),
        runset_settings=ws.RunsetSettings(
            order=[ws.Ordering(ws.Summary(shown.judged[0]), ascending=shown.ascending)],
            pinned_columns=[f"summary:{metric}" for metric in shown.judged],
        ),
    )


def model(system: str, project: str, entity: str) -> dict[str, Any]:
    """The workspace as the plain JSON that W&B stores, made offline."""
    dumped: dict[str, Any] = build(system, project, entity)._to_model().model_dump(mode="json", by_alias=True)
    return dumped


def main(args: Sequence[str] | None = None) -> None:
    """Save a system's workspace to W&B, or print its model."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_project.dashboard", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("--system", required=True, choices=sorted(SYSTEMS))
    parser.add_argument("--project", required=True, help="W&B project that the runs are in")
    parser.add_argument("--entity", default="", help="W&B user or team; needed for saving")
    parser.add_argument("--print", action="store_true", help="print the model and contact nobody")
    given = parser.parse_args(args)
    if given.print:
        print(json.dumps(model(given.system, given.project, given.entity or "entity"), indent=2))
        return
    if not given.entity:
        parser.error("--entity is needed for saving (or use --print)")
    print(build(given.system, given.project, given.entity).save().url)


if __name__ == "__main__":
    main()
