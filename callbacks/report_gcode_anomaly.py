"""Anomaly scores of windows: stored by part, with the threshold that validation gives, and who lies above it."""

from pathlib import Path

import numpy as np
import pandas as pd

from callbacks import report_files as files
from callbacks.report_tables import number, table

THRESHOLD = "anomaly.json"  # in the folder of the fit: what `predict` flags windows by


def write(root: Path, stage: str, part: str, records: pd.DataFrame, scores: np.ndarray, quantile: float) -> None:
    """Write the scores of a part; those of validation give the threshold, others are compared with it.

    Args:
        root: Run folder.
        stage: Sub-folder.
        part: Part of the data.
        records: Its records (N).
        scores: (N,) reconstruction errors.
        quantile: Share of validation windows below the threshold.
    """
    folder, label = root / stage, records["label"].to_numpy(str)
    text = {"id": records["id"].to_numpy(str), "group": records["group"].to_numpy(str), "label": label}
    files.write_npz(folder / f"anomaly_{part}.npz", {**text, "anomaly": scores})
    if part == "val":
        threshold = float(np.quantile(scores, quantile))
        facts = {"threshold": threshold, "quantile": quantile, "part": part, "windows": len(scores)}
        files.write_json(folder / THRESHOLD, facts)
    else:
        known = files.read_json(root / "fit" / THRESHOLD)
        if known.get("threshold") is None:
            return
        threshold, quantile = float(known["threshold"]), float(known["quantile"])
    rows = by_label(label, scores, threshold)
    files.write_csv(folder / "anomaly.csv", rows)
    shown = [[r["label"], r["windows"], number(r["mean"]), number(r["above"])] for r in rows.to_dict("records")]
    files.write_text(
        folder / "section_anomaly.md",
        "## Anomaly scores\n\n"
        + table(["operation", "windows", "mean error of the reconstruction", "share above the threshold"], shown)
        + f"\n\nThreshold {threshold:.4g}: {quantile:.1%} of the validation windows lie below it.",
    )


def by_label(label: np.ndarray, scores: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return windows, mean score and share above the threshold of each label, and of all."""
    frame = pd.DataFrame({"label": label, "score": scores, "above": scores > threshold})
    rows = [("all", frame), *frame.groupby("label", sort=True)]
    return pd.DataFrame(
        [{"label": n, "windows": len(f), "mean": f["score"].mean(), "above": f["above"].mean()} for n, f in rows]
    )
