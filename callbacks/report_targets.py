"""Numbers to reach, stated before a run and judged after it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from callbacks.report_files import read_json

REACHED = {True: "reached", False: "not reached", None: "not measured yet"}


@dataclass
class Target:
    """A number to reach, stated before the run.

    Attributes:
        metric: Logged name, such as ``test/accuracy`` or ``val/macro_f1``.
        threshold: Value to reach.
        epoch: By which epoch (counted from 0); ``None`` means by the end.
        mode: Whether larger or smaller is better.
    """

    metric: str
    threshold: float
    epoch: int | None = None
    mode: Literal["max", "min"] = "max"

    def judge(self, log: pd.DataFrame, measured: Mapping[str, float], best_epoch: int | None) -> dict[str, Any]:
        """Look the metric up; ``reached`` is ``None`` when it was not measured (yet).

        Args:
            log: ``training_log.csv``.
            measured: metric -> value on the best weights.
            best_epoch: Epoch of those weights; what is measured on them was reached by then.
        """
        value = measured.get(self.metric)
        if value is not None and self.epoch is not None and (best_epoch is None or best_epoch > self.epoch):
            value = None
        if self.metric in log and (value is None or self.epoch is not None):
            seen = log if self.epoch is None else log[log["epoch"] <= self.epoch]
            best = seen[self.metric].max() if self.mode == "max" else seen[self.metric].min()
            value = float(best) if pd.notna(best) else value
        late = value is None and self.metric in measured
        reached = None if value is None else value >= self.threshold if self.mode == "max" else value <= self.threshold
        return {**asdict(self), "value": value, "reached": False if late else reached}


def judge(
    targets: Iterable[Target],
    root: Path,
    part: str,
    values: Mapping[str, float],
    log: pd.DataFrame,
    best_epoch: int | None,
) -> list[dict[str, Any]]:
    """Judge all targets by this stage, the one before it and the training log.

    Args:
        targets: What was to be reached.
        root: Run folder.
        part: Part that was just judged, ``val`` or ``test``.
        values: metric -> value on that part.
        log: ``training_log.csv``.
        best_epoch: Epoch of the weights that were judged.
    """
    other, stage = ("val", "fit") if part == "test" else ("test", "test")
    earlier = read_json(root / stage / "metrics.json").get("values", {})
    measured = {f"{part}/{name}": value for name, value in values.items()}
    measured |= {f"{other}/{name}": value for name, value in earlier.items()}
    return [target.judge(log, measured, best_epoch) for target in targets]


def aim(target: Mapping[str, Any]) -> str:
    """Say a judged target as ``≥ 0.9 by epoch 5``; without an epoch it is ``≥ 0.9``."""
    sign = "≥" if target["mode"] == "max" else "≤"
    return f"{sign} {target['threshold']:g}" + ("" if target["epoch"] is None else f" by epoch {target['epoch']}")
