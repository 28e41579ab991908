# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One run of `plants`, looked at closely
#
# Reads a run folder made by `fit` and `test`, and defines nothing of its own. Change `run` to look at another one.
# With a long tail one number says little: common species carry the accuracy, rare ones the macro accuracy.

# %%
# %matplotlib inline
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display

if Path.cwd().name == "notebooks":
    os.chdir("..")  # imports and paths are those of the project's folder

from callbacks import report_plots as plots
from callbacks.report_files import Predictions
from modules import statistics

run = Path(os.environ.get("RUN", "runs/plants/latest"))
metrics = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
log = pd.read_csv(run / "training_log.csv")
split = pd.read_csv(run / "split.csv", dtype=str, keep_default_na=False)
found = Predictions.load(run / "test" / "predictions_test.npz").labelled()
names = [str(name) for name in found.class_names]

# %% [markdown]
# ## What was trained, on what

# %%
keys = ["architecture", "total_params", "epochs_run", "best_epoch", "monitor", "best_value", "stop_reason", "data"]
pd.Series({key: facts.get(key) for key in keys}, name=run.resolve().name).to_frame()

# %% [markdown]
# ## The long tail
#
# Training pictures of each species, commonest first. Where the curve touches the ground, a species is learnt from one
# or two pictures, and cannot be tested at all.

# %%
counts = split[split["part"] == "train"]["label"].value_counts().reindex(names, fill_value=0)
axes = counts.sort_values(ascending=False).reset_index(drop=True).plot(figsize=(9, 3), drawstyle="steps-mid")
axes.set(xlabel="species, by rank", ylabel="training pictures", ylim=(0, None))
display(axes.figure)
axes.figure.clear()
display(Markdown(f"{len(names)} species; {(counts <= 2).sum()} of them with at most two training pictures."))

# %% [markdown]
# ## The number, its interval, and what simple models reach

# %%
entries = {"this model": metrics} | {name: entry for name, entry in metrics["baselines"].items() if "values" in entry}
shown = ["accuracy", "macro_recall", "macro_f1", "top5", "nll"]
table = pd.DataFrame(
    {name: {metric: entry["values"].get(metric) for metric in shown} for name, entry in entries.items()}
).T
bounds = {name: entry.get("intervals", {}).get("accuracy", [None, None]) for name, entry in entries.items()}
table["accuracy from"] = [bounds[name][0] for name in table.index]
table["accuracy to"] = [bounds[name][1] for name in table.index]
display(table.dropna(axis=1, how="all").round(3))
display(Markdown(f"{metrics['n']} pictures in {metrics['n_groups']} groups."))

# %% [markdown]
# ## Common and rare species

# %%
tested = found.y >= 0
right = found.prob.argmax(axis=1) == found.y
size = counts.to_numpy()[np.maximum(found.y, 0)]
kind = pd.cut(size, [0, 4, 20, np.inf], labels=["tail: fewer than 5", "medium: 5 to 20", "head: more than 20"])
by_class = pd.DataFrame({"right": right, "kind": kind, "species": found.y})[tested]
groups = by_class.groupby("kind", observed=False)
species = by_class.groupby(["kind", "species"], observed=True)["right"].mean()
pd.DataFrame(
    {
        "pictures": groups.size(),
        "species": groups["species"].nunique(),
        "accuracy": groups["right"].mean(),
        "mean over species": species.groupby("kind", observed=False).mean(),
    }
).round(3)

# %% [markdown]
# ## The course of training

# %%
plots.curves(log, metrics["values"], metrics["intervals"], facts.get("best_epoch"), part="test")

# %% [markdown]
# ## Which species are taken for which

# %%
matrix = statistics.confusion(found.prob, found.y, len(names))
statistics.top_confusions(matrix, names, 10)

# %% [markdown]
# ## Pictures, and pictures that were mistaken

# %%
for name in ("examples", "errors"):
    picture = run / "test" / f"{name}.png"
    display(Image(str(picture)) if picture.is_file() else Markdown(f"No {picture.name} in this run."))

# %% [markdown]
# ## Does the model know when it does not know?
#
# Of the answers above a confidence, how many are right, and how many pictures are left. A threshold to use is chosen on
# the calibration part, by the verb `decide`, and not from here.

# %%
confidence = found.prob.max(axis=1)
pd.DataFrame(
    [
        {"confidence above": t, "accuracy": right[confidence >= t].mean(), "share kept": (confidence >= t).mean()}
        for t in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)
        if (confidence >= t).any()
    ]
).round(3)

# %%
bins = statistics.reliability(found.prob, found.y)
plots.calibration(*(bins[c].to_numpy() for c in ("confidence", "accuracy", "count")), metrics["values"]["ece"])

# %% [markdown]
# ## Surest mistakes

# %%
pd.read_csv(run / "test" / "mistakes.csv").head(10).round(3)
