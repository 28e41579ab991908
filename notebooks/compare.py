# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Several runs side by side
#
# Reads the run folders of one system and defines nothing of its own. `python -m lightning_project compare RUN RUN ...`
# makes the table and the chart as files; here is the same comparison, open to questions. All runs must have been tested
# on the same samples: a difference between two test sets is not a difference between two models.

# %%
# %matplotlib inline
import json
import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

if Path.cwd().name == "notebooks":
    os.chdir("..")  # imports and paths are those of the project's folder

from callbacks import report_plots as plots
from callbacks.report_files import Predictions
from modules import statistics

folders = [Path(name) for name in os.environ.get("RUNS", "").split(os.pathsep) if name]
folders = folders or sorted(path.parent.parent for path in Path("runs/signs").glob("*/test/predictions_test.npz"))
folders = list({path.resolve(): path for path in folders}.values())  # `latest` points to one of the others
runs = {path.name: Predictions.load(path / "test" / "predictions_test.npz").labelled() for path in folders}
first = next(iter(runs.values()))
for name, found in runs.items():
    assert list(found.id) == list(first.id), f"{name} was tested on other samples than {next(iter(runs))}"
    assert list(found.class_names) == list(first.class_names), f"{name} knows other classes than {next(iter(runs))}"

# %% [markdown]
# ## Numbers with intervals

# %%
rows = []
for path, name in zip(folders, runs, strict=True):
    metrics = json.loads((path / "test" / "metrics.json").read_text(encoding="utf-8"))
    facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    for metric, (low, high) in metrics["intervals"].items():
        rows.append({"run": name, "metric": metric, "value": metrics["values"][metric], "low": low, "high": high})
    rows.append({"run": name, "metric": "parameters", "value": facts["total_params"]})
table = pd.DataFrame(rows)
table.pivot(index="run", columns="metric", values="value").round(4)

# %%
accuracy = table[table["metric"] == "accuracy"]
plots.comparison(
    accuracy.assign(seeds=1, accuracy=accuracy["value"], accuracy_low=accuracy["low"], accuracy_high=accuracy["high"]),
    "accuracy",
)

# %% [markdown]
# ## Is the difference real?
#
# Paired intervals: the same samples are resampled for both runs, so what is hard for both cancels. An interval that
# contains zero says that these samples cannot tell the two apart. Several pairs were tried: expect one in twenty to
# miss zero by chance.

# %%
pairs = []
for a, b in combinations(runs, 2):
    found = statistics.paired_bootstrap(runs[a].prob, runs[b].prob, first.y, first.group, ["accuracy", "macro_f1"])
    for metric, (difference, low, high) in found.items():
        pairs.append({"a": a, "b": b, "metric": metric, "a minus b": difference, "low": low, "high": high})
pd.DataFrame(pairs).round(4)

# %% [markdown]
# ## Where they disagree

# %%
guess = pd.DataFrame(
    {name: found.class_names[found.prob.argmax(axis=1)] for name, found in runs.items()}, index=first.id
)
guess.insert(0, "truth", np.where(first.y >= 0, first.class_names[first.y], "(not in training)"))
guess[guess[list(runs)].nunique(axis=1) > 1].head(20)
