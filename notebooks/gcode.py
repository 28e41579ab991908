# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One pair of `gcode`, looked at closely
#
# Reads the run folders of `gcode_encoder` and `gcode_decoder`, made by `fit` and `test`, and defines nothing of its
# own. Change `run` to look at another decoder; its encoder is found by its config. All is judged by recording: windows
# of one recording overlap and hold the same program, so they are never on two sides of the split.

# %%
# %matplotlib inline
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from IPython.display import Markdown, display

if Path.cwd().name == "notebooks":
    os.chdir("..")  # imports and paths are those of the project's folder

from callbacks import report_gcode_plots as plots
from callbacks import report_gcode_tables as tables
from callbacks.report_gcode_files import LinePredictions
from callbacks.report_plots import confusion
from modules import statistics

run = Path(os.environ.get("RUN", "runs/gcode_decoder/latest"))
config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
encoder = Path(os.environ.get("ENCODER", config["model"]["init_args"]["encoder"] or "runs/gcode_encoder/latest"))
metrics = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
found = LinePredictions.load(run / "test" / "predictions_test.npz").labelled()
names = [str(name) for name in found.class_names]

# %% [markdown]
# ## What was trained, on what

# %%
keys = ["total_params", "epochs_run", "best_epoch", "monitor", "best_value", "stop_reason", "split", "data"]
stages = {"encoder": encoder, "decoder": run}
read = {name: json.loads((path / "run.json").read_text(encoding="utf-8")) for name, path in stages.items()}
pd.DataFrame({name: {key: each.get(key) for key in keys} for name, each in read.items()})

# %% [markdown]
# ## Lines that are right, and what needs no network
#
# *Forced*: each token is asked with the true ones before it, as the brief counted. *Free*: the line is written without
# help, which is what a user gets. The tables see no sensor at all; a network that is not above them has read the
# program's clock, and nothing of the machine.

# %%
shown = ["operation_accuracy", "token_accuracy", "token_accuracy_free", "line_accuracy"]
entries = {"this model": metrics} | {name: entry for name, entry in metrics["baselines"].items() if "values" in entry}
table = pd.DataFrame({name: {key: entry["values"].get(key) for key in shown} for name, entry in entries.items()}).T
bounds = {name: entry.get("intervals", {}).get("line_accuracy", [None, None]) for name, entry in entries.items()}
table["whole line from"] = [bounds[name][0] for name in table.index]
table["whole line to"] = [bounds[name][1] for name in table.index]
display(table.round(3))
display(Markdown(f"{metrics['n']} windows of {metrics['n_groups']} recordings; intervals resample recordings."))

# %% [markdown]
# ## The course of training

# %%
for name, path in stages.items():
    display(plots.curves(pd.read_csv(path / "training_log.csv"), read[name].get("best_epoch"), name))

# %% [markdown]
# ## Which operations are taken for which

# %%
confusion(statistics.confusion(found.prob, found.y, len(names)), names, "operations")

# %% [markdown]
# ## Where a line goes wrong
#
# Each head on the positions where it has a target; then each kind of token, forced and free.

# %%
display(tables.heads(found).round(3))
display(tables.kinds(found).round(3))

# %% [markdown]
# How far numbers are off where both lines have the word, in millimetres:

# %%
tables.lengths(found).round(2)

# %% [markdown]
# ## Recordings
#
# The interval is wide because recordings differ. The worst ones are worth a look.

# %%
plots.by_recording(found)

# %% [markdown]
# ## Lines as written
#
# The surest wrong lines of the part: `confidence` is the probability that the decoder gave the line.

# %%
lines = pd.DataFrame({"id": found.id, "true": found.line, "written": found.free, "confidence": found.confidence})
wrong = lines[found.line != found.free]
wrong.sort_values("confidence", ascending=False).head(10).round(3)

# %% [markdown]
# Of the lines above a confidence, how many are right? A threshold is read from the validation part, not from here.

# %%
right = (lines["true"] == lines["written"]).to_numpy()
pd.DataFrame(
    [
        {"confidence above": t, "right": right[found.confidence >= t].mean(), "kept": (found.confidence >= t).mean()}
        for t in (0.0, 0.3, 0.5, 0.7, 0.9)
        if (found.confidence >= t).any()
    ]
).round(3)

# %% [markdown]
# ## Anomalies
#
# The error with which the encoder makes a window again. The threshold is a high quantile of the validation
# windows; what lies far above it does not look like anything the encoder was trained on.

# %%
threshold = encoder / "fit" / "anomaly.json"
if threshold.is_file() and np.isfinite(found.anomaly).all():  # an encoder that does not reconstruct has no score
    rule = json.loads(threshold.read_text(encoding="utf-8"))
    share = float((found.anomaly > rule["threshold"]).mean())
    said = f"{rule['quantile']:.1%} of {rule['windows']} validation windows are below {rule['threshold']:.3f}"
    display(Markdown(f"{said}; {share:.1%} of the test windows are above."))
    errors = pd.DataFrame({"operation": tables.operations(found), "error": found.anomaly})
    display(errors.groupby("operation")["error"].describe()[["count", "mean", "50%", "max"]].round(3))
