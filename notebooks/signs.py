# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One run of `signs`, looked at closely
#
# Reads a run folder made by `fit` and `test`, and defines nothing of its own. Change `run` to look at another one.
# The numbers are those of the stored predictions of the test part; what is chosen (epoch, threshold) was chosen on the
# validation part.

# %%
# %matplotlib inline
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

if Path.cwd().name == "notebooks":
    os.chdir("..")  # imports and paths are those of the project's folder

from callbacks import report_plots as plots
from callbacks.report_files import Predictions
from modules import statistics

run = Path(os.environ.get("RUN", "runs/signs/latest"))
metrics = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
log = pd.read_csv(run / "training_log.csv")
found = Predictions.load(run / "test" / "predictions_test.npz").labelled()
names = [str(name) for name in found.class_names]

# %% [markdown]
# ## What was trained, on what

# %%
keys = ["total_params", "epochs_run", "best_epoch", "monitor", "best_value", "stop_reason", "split", "data"]
pd.Series({key: facts.get(key) for key in keys}, name=run.resolve().name).to_frame()

# %% [markdown]
# ## The number, its interval, and what simple models reach
#
# The interval comes from resampling groups (recordings, persons), since two takes of one recording are not two
# independent samples. A network that does not clearly beat the simple models has not learnt much.

# %%
entries = {"this model": metrics} | {name: entry for name, entry in metrics["baselines"].items() if "values" in entry}
shown = ["accuracy", "macro_f1", "nll"]
table = pd.DataFrame(
    {name: {metric: entry["values"].get(metric) for metric in shown} for name, entry in entries.items()}
).T
bounds = {name: entry.get("intervals", {}).get("accuracy", [None, None]) for name, entry in entries.items()}
table["accuracy from"] = [bounds[name][0] for name in table.index]
table["accuracy to"] = [bounds[name][1] for name in table.index]
display(table.round(3))
display(Markdown(f"{metrics['n']} samples in {metrics['n_groups']} groups."))

# %% [markdown]
# ## The course of training

# %%
plots.curves(log, metrics["values"], metrics["intervals"], facts.get("best_epoch"), part="test")

# %% [markdown]
# ## Which signs are taken for which

# %%
matrix = statistics.confusion(found.prob, found.y, len(names))
display(statistics.top_confusions(matrix, names, 10))
plots.confusion(matrix, names)

# %% [markdown]
# ## Hardest classes
#
# A class with one or two test samples says nothing about itself: look at `support` first.

# %%
classes = statistics.per_class(found.prob, found.y, names)
classes[classes["support"] > 0].sort_values("f1-score").head(8).round(3)

# %% [markdown]
# ## Does the model know when it does not know?
#
# Below: of the predictions above a confidence, how many are right, and how many samples are left. A reject option reads
# its threshold from the validation part, not from here.

# %%
confidence, right = found.prob.max(axis=1), found.prob.argmax(axis=1) == found.y
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
#
# Worth a look at the recordings themselves: they are often wrong labels.

# %%
wrong = pd.DataFrame(
    {
        "id": found.id,
        "truth": np.where(found.y >= 0, found.class_names[found.y], "(not in training)"),
        "taken for": found.class_names[found.prob.argmax(axis=1)],
        "confidence": confidence,
    }
)[~right]
wrong.sort_values("confidence", ascending=False).head(10).round(3)
