"""What simple models say about the samples of a report."""

import traceback
import warnings
from typing import Any

import numpy as np

from callbacks.report_files import Predictions


def simple_models(
    data: Any,  # noqa: ANN401  # a SplitDataModule, known by its attributes only
    part: str,
    found: Predictions,
    fit: bool,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Ask the data's simple models, and the majority class, about the samples that the network was judged on.

    Args:
        data: The datamodule.
        part: Part of the data.
        found: Labelled predictions of the network on this part.
        fit: Whether to fit the simple models at all.

    Returns:
        name -> prob (N, C) in the rows of ``found``, and name -> why there is none.
    """
    counts = np.asarray(data.class_counts("train"), dtype=float)
    result = {"majority": np.tile((counts / counts.sum()).astype(np.float32), (len(found.y), 1))}
    if not fit:
        return result, {"strong baseline": "not run (report.baselines is off)"}
    try:
        simple = data.baselines(part)
    except Exception as error:  # a simple model must not cost the report of a long run, which says so, as this does
        warnings.warn(f"the simple models failed:\n{traceback.format_exc()}", stacklevel=2)
        return result, {"strong baseline": f"not run ({type(error).__name__}: {error})"}
    notes = {} if simple else {"strong baseline": "not run (this data has none)"}
    notes |= {name: "not run (install the extra `baselines`)" for name, prob in simple.items() if prob is None}
    place = {name: row for row, name in enumerate(data.records["id"].to_numpy(str)[data.indices(part)])}
    order = [place[name] for name in found.id]
    return result | {name: np.asarray(prob)[order] for name, prob in simple.items() if prob is not None}, notes
