"""The report sent to Weights & Biases: pictures, the tables of classes and of mistakes, and the page itself."""

import html
import warnings
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import Logger, WandbLogger


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

            table = pd.read_csv(root / stage / "per_class.csv", index_col=0).rename_axis("class").reset_index()
            wrong = pd.read_csv(root / stage / "mistakes.csv", dtype={"id": str}, keep_default_na=False)
            pictures = {
                f"{stage}/{name}": wandb.Image(str(root / stage / f"{name}.png"))
                for name in ("confusion", "per_class", "calibration", "examples", "errors")
                if (root / stage / f"{name}.png").is_file()
            }
            closer = {
                f"{stage}/{path.stem}_table": wandb.Table(dataframe=pd.read_csv(path, keep_default_na=False))
                for path in sorted((root / stage).glob("*.csv"))
                if path.stem in ("breakdown", "levels", "back_off") or path.stem.startswith("needs_")
            }
            page = html.escape((root / "REPORT.md").read_text(encoding="utf-8"))
            run = logger.experiment
            run.log(
                {
                    **pictures,
                    **closer,
                    f"{stage}/per_class_table": wandb.Table(dataframe=table),
                    f"{stage}/mistakes_table": wandb.Table(dataframe=wrong),
                    "report": wandb.Html(f"<pre>{page}</pre>"),
                }
            )
            for path in (root / "REPORT.md", root / "config.yaml"):
                if path.is_file():
                    run.save(str(path.resolve()), base_path=str(root.resolve()), policy="now")
        except Exception as error:  # a dead server must not cost the files that are already on disk
            warnings.warn(f"the report was not sent to W&B ({type(error).__name__}: {error})", stacklevel=2)
