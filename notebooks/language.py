# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One run of `language`, looked at closely
#
# Reads a run folder made by `fit` and `test`, and defines nothing of its own. Change `run` to look at another one.
# Perplexity is exp(sum of nats / count); per word (one end of line a line) it does not depend on the vocabulary.

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

from callbacks import report_language_plots as plots
from callbacks.report_language_files import TextPredictions
from modules import perplexity

run = Path(os.environ.get("RUN", "runs/language/latest"))
metrics = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
log = pd.read_csv(run / "training_log.csv")
found = TextPredictions.load(run / "test" / "predictions_test.npz")

# %% [markdown]
# ## What was trained, on what

# %%
keys = ["total_params", "epochs_run", "best_epoch", "monitor", "best_value", "stop_reason", "split", "data"]
pd.Series({key: facts.get(key) for key in keys}, name=run.resolve().name).to_frame()

# %% [markdown]
# ## The number, its interval, and what stands beside it
#
# The interval comes from resampling documents, since the words of a document depend on each other. "minus it" is
# paired, on the same documents: below zero, this model is better. A model not above a 5-gram has learnt little.

# %%
entries = {"this model": metrics}
entries |= {f"memory {mode}": entry for mode, entry in metrics.get("memory", {}).items()}
entries |= {name: entry for name, entry in metrics["baselines"].items() if "values" in entry}
shown = ["word_perplexity", "perplexity", "bits_per_byte"]
table = pd.DataFrame({name: {key: entry["values"][key] for key in shown} for name, entry in entries.items()}).T
bounds = {name: entry.get("intervals", {}).get("word_perplexity", [None, None]) for name, entry in entries.items()}
table["per word, from"] = [bounds[name][0] for name in table.index]
table["per word, to"] = [bounds[name][1] for name in table.index]
differences = [entry.get("difference", {}).get("word_perplexity", [np.nan])[0] for entry in entries.values()]
table["minus it, per word"] = differences
display(table.round(3))
counts, protocol = metrics["counts"], metrics["protocol"]
judged = f"{metrics['n']} documents in {metrics['n_groups']} groups, {counts['words']:,} words"
flags = " ".join(f"**{flag}**" for flag in metrics["flags"])
display(Markdown(f"{judged}; window {protocol['window']}, stride {protocol['stride']} tokens. {flags}"))

# %% [markdown]
# ## The course of training

# %%
plots.curves(log, metrics["values"]["word_perplexity"], facts.get("best_epoch"), "course")

# %% [markdown]
# ## What the memory is worth, by the distance of a token's last mention
#
# Beyond the window only a memory can know a token that was said before. Where the lines do not part, it is worth
# nothing.

# %%
plots.distances(metrics["by_distance"], protocol["window"], "test")

# %%
pd.DataFrame(metrics["by_position"]).round(2)

# %% [markdown]
# ## Hardest documents
#
# Worth reading: they are often lists, tables, or another language.

# %%
each = pd.DataFrame({"id": found.id, "words": found.n_words, "word_perplexity": np.exp(found.nll / found.n_words)})
display(each.sort_values("word_perplexity", ascending=False).head(10).round(2))
total = perplexity.measured(found.sums())["word_perplexity"]
display(Markdown(f"All documents together: {total:.2f} per word."))

# %% [markdown]
# ## The brief's hopes

# %%
pd.DataFrame(metrics["panel"])

# %% [markdown]
# ## Samples, and where it looks
#
# Only after `test --judgement.metrics all`. Self-BLEU is high where samples are alike; nobody has judged these texts.

# %%
samples = run / "test" / "samples.csv"
if samples.is_file():
    display(pd.Series(metrics["generation"], name="generation").to_frame().round(3))
    display(pd.read_csv(samples, keep_default_na=False).head(8))
else:
    display(Markdown(f"No samples at `{samples}`."))

# %%
for name in ("attention", "slots"):
    if (run / "test" / f"{name}.png").is_file():
        display(Image(filename=str(run / "test" / f"{name}.png")))
