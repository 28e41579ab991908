"""The report sent to Weights & Biases: pictures, tables, and the page itself."""

import html
import warnings
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import Logger, WandbLogger

# what a stage may have written; those of classes, of pictures, of text, of G-code
PICTURES = (
    *("confusion", "per_class", "calibration", "examples", "errors", "distance", "attention", "slots"),
    "recordings",
)
TABLES = (
    *("per_class", "mistakes", "results", "breakdown", "levels", "back_off", "needs_*"),
    *("by_distance", "by_position", "panel", "samples"),
    *("heads", "kinds", "lengths", "operations", "recordings", "examples", "sensors", "anomaly"),
)


def send(loggers: Iterable[Logger], root: Path, stage: str) -> None:
    """Send the files of a stage to those loggers that are W&B; a failure is a warning.

    Args:
        loggers: All loggers of the run.
        root: Run folder.
        stage: Sub-folder of the stage.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        try:
            import wandb

            pictures = {
                f"{stage}/{path.stem}": wandb.Image(str(path))
                for path in (root / stage / f"{n}.png" for n in PICTURES)
                if path.is_file()
            }
            tables = {
                f"{stage}/{path.stem}_table": wandb.Table(dataframe=_read(path))
                for name in TABLES
                for path in sorted((root / stage).glob(f"{name}.csv"))
            }
            page = html.escape((root / "REPORT.md").read_text(encoding="utf-8"))
            run = logger.experiment
            run.log(
                {
                    **pictures,
                    **tables,
                    "report": wandb.Html(f"<pre>{page}</pre>"),
                }
            )
            for path in (root / "REPORT.md", root / "config.yaml"):
                if path.is_file():
                    run.save(str(path.resolve()), base_path=str(root.resolve()), policy="now")
        except Exception as error:  # a dead server must not cost the files that are already on disk
            warnings.warn(f"the report was not sent to W&B ({type(error).__name__}: {error})", stacklevel=2)


def _read(path: Path) -> pd.DataFrame:
    # only an empty cell is missing, and no text of a mistake is: a class may be called NA or None
    empty = [] if path.stem == "mistakes" else [""]
    table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False, na_values=empty)
    return table.rename(columns={table.columns[0]: "class"}) if path.stem == "per_class" else table
