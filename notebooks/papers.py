# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One run of `papers`, looked at closely
#
# Reads a run folder made by `fit` and `test`, and defines nothing of its own. Change `run` to look at another one.
# The numbers are those of the stored predictions of the test part; what is chosen (epoch, threshold) was chosen on the
# validation part. Where `explain` or `ablate` have written something, it is shown at the end.

# %%
# %matplotlib inline
import json
import os
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

if Path.cwd().name == "notebooks":
    os.chdir("..")  # imports and paths are those of the project's folder

from callbacks import report_plots as plots
from callbacks.report_files import Baselines, Predictions
from modules import statistics

run = Path(os.environ.get("RUN", "runs/papers/latest"))
ablation = Path(os.environ.get("ABLATION", "runs/papers/ablation"))
metrics = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
log = pd.read_csv(run / "training_log.csv")
found = Predictions.load(run / "test" / "predictions_test.npz").labelled()
names = [str(name) for name in found.class_names]

# %% [markdown]
# ## What was trained, on what

# %%
keys = ["encoder", "encoder_source", "encoding", "pooling", "cross", "loss", "total_params", "trainable_parameters"]
keys += ["epochs_run", "best_epoch", "monitor", "best_value", "stop_reason", "split", "data"]
pd.Series({key: facts.get(key) for key in keys}, name=run.resolve().name).to_frame()

# %% [markdown]
# ## The number, its interval, and what simple models reach
#
# The interval comes from resampling papers (copies of one paper together). TF-IDF with a logistic regression is a
# strong simple model for texts of this length: a network that does not clearly beat it has not learnt much.

# %%
entries = {"this model": metrics} | {name: entry for name, entry in metrics["baselines"].items() if "values" in entry}
shown = ["accuracy", "macro_f1", "nll"]
table = pd.DataFrame(
    {name: {metric: entry["values"].get(metric) for metric in shown} for name, entry in entries.items()}
).T
bounds = {name: entry.get("intervals", {}).get("macro_f1", [None, None]) for name, entry in entries.items()}
table["macro-F1 from"] = [bounds[name][0] for name in table.index]
table["macro-F1 to"] = [bounds[name][1] for name in table.index]
display(table.round(3))
display(Markdown(f"{metrics['n']} papers in {metrics['n_groups']} groups."))

# %% [markdown]
# ## The course of training

# %%
plots.curves(log, metrics["values"], metrics["intervals"], facts.get("best_epoch"), part="test")

# %% [markdown]
# ## Classes, beside those of the simple models
#
# F1 of each class. A rare class is where models differ, and where a few papers more or less move the number: look at
# `support` first.

# %%
classes = statistics.per_class(found.prob, found.y, names).set_index("class")
simple = Baselines.load(run / "test" / "baselines_test.npz")
for name in simple.names:
    answers = simple.of_model(str(name), found)
    classes[f"f1 of {name}"] = statistics.per_class(answers.prob, answers.y, names)["f1-score"].to_numpy()
classes.round(3)

# %% [markdown]
# ## Which class is taken for which
#
# A paper may belong to two of these classes and carries the label of one: some of these are no mistakes.

# %%
matrix = statistics.confusion(found.prob, found.y, len(names))
display(statistics.top_confusions(matrix, names, 10))
plots.confusion(matrix, names)

# %% [markdown]
# ## Does the model know when it does not know?
#
# Below: of the predictions above a confidence, how many are right, and how many papers are left. A threshold is read
# from the calibration part by `decide`, not from here.

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
# Worth reading: often the other categories of the paper (`all_categories`) name the class that it was taken for.

# %%
mistakes = pd.read_csv(run / "test" / "mistakes.csv", dtype={"id": str}, keep_default_na=False)
with pd.option_context("display.max_colwidth", 400):
    display(mistakes.head(10).round(3))

# %% [markdown]
# ## What the network looked at
#
# Attention says what the network looked at, and not why it decided. Written by
# `explain --ckpt_path best --data.predict_part val`; the words of the first papers, the heaviest first.

# %%
explained = run / "explain" / "explanations.json"
papers = json.loads(explained.read_text(encoding="utf-8"))["papers"] if explained.is_file() else []
for paper in papers[:3]:
    given = ", ".join(f"{answer['class']} {answer['probability']:.2f}" for answer in paper["answers"])
    display(Markdown(f"**{paper['title'] or paper['id']}**: {given}"))
    columns = {
        field: [f"{w['word']} ({w['weight']:.3f})" for w in part["top"]] for field, part in paper["fields"].items()
    }
    columns["keywords"] = [f"{w['word']} ({w['weight']:.3f})" for w in paper.get("keywords", [])]
    display(pd.DataFrame({name: pd.Series(words, dtype=str) for name, words in columns.items() if words}).fillna(""))
if not papers:
    display(Markdown("No explanations in this run."))

# %% [markdown]
# ## Which techniques helped
#
# The table of `ablate`: each cell against the base on the same test papers, with a paired interval.

# %%
if (ablation / "ablation.csv").is_file():
    cells = pd.read_csv(ablation / "ablation.csv", keep_default_na=False)
    display(cells.loc[:, [c for c in cells.columns if not c.endswith("_std")]])
else:
    display(Markdown(f"No ablation at {ablation}."))
