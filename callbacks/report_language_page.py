"""The page of a language run, its tables and what is printed at the end of a stage; made from files alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from callbacks import report_files as files
from callbacks import report_text
from callbacks.report_language_score import LOOK_BATCHES
from callbacks.report_language_targets import gap_to_train
from callbacks.report_tables import number, table
from callbacks.report_targets import REACHED, aim

LABELS = {
    "word_perplexity": "perplexity per word",
    "perplexity": "per token",
    "bits_per_byte": "bits per byte",
    "nll": "nats per token",
}
_DASH = number(None)
OF_HOPE = {True: "reached", False: "not reached", None: _DASH}  # None: it does not compare with the brief's
SAMPLES = 5  # shown on the page; samples.csv has them all
ARTIFACTS = (
    ("checkpoints/best.ckpt", "checkpoint of the best epoch, with its vocabulary"),
    ("weights.safetensors", "weights of the best epoch, plain tensors"),
    ("run.json", "settings read from the live objects, course and result"),
    ("training_log.csv", "every epoch metric"),
    ("curves.png", "loss and perplexity by epoch"),
    ("{stage}/metrics.json", "all figures of the stage"),
    ("{stage}/results.csv", "metric, value"),
    ("{stage}/predictions_{part}.npz", "loss, tokens, words and bytes of every document"),
    ("{stage}/by_distance.csv", "loss by the distance of a token's last mention"),
    ("{stage}/by_position.csv", "loss by the place in the window"),
    ("{stage}/distance.png", "the same as a picture"),
)


def cell(entry: Mapping[str, Any], metric: str) -> str:
    """A figure with its interval."""
    digits = 2 if metric in ("word_perplexity", "perplexity") else 3
    interval = entry.get("intervals", {}).get(metric)
    text = number(entry["values"].get(metric), digits)
    return text + (f" ({number(interval[0], digits)} to {number(interval[1], digits)})" if interval else "")


def _difference(entry: Mapping[str, Any]) -> str:
    found = entry.get("difference", {}).get("word_perplexity")
    return "" if not found else f"{found[0]:+.2f} ({found[1]:+.2f} to {found[2]:+.2f})"


def _entries(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = [("**this model**", metrics)]
    if "cache" in metrics:
        found.append(("this model + neural cache", metrics["cache"]))
    found += [(f"this model, memory {mode}", entry) for mode, entry in metrics.get("memory", {}).items()]
    return found + [(name, entry) for name, entry in metrics["baselines"].items() if "values" in entry]


def _rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [name, *(cell(entry, metric) for metric in LABELS), _difference(entry)] for name, entry in _entries(metrics)
    ]
    if metrics.get("entropy_per_word") is not None:
        entropy = math.exp(metrics["entropy_per_word"])
        rows.append(["the generator itself (entropy)", number(entropy, 2), *[""] * (len(LABELS) - 1), ""])
    return rows


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """Say in words which models this one is better than, by the paired interval per word."""
    lines = []
    for name, entry in _entries(metrics)[1:]:
        found = entry.get("difference", {}).get("word_perplexity")
        if found:
            word = (
                "better than" if found[2] < 0 else "**worse than**" if found[1] > 0 else "**not distinguishable from**"
            )
            lines.append(f"- This model is {word} {name} per word.")
    return lines


def _numbers(metrics: Mapping[str, Any], stage: str) -> str:
    where = {"val": "validation"}.get(metrics["part"], metrics["part"])
    counts, protocol = metrics["counts"], metrics["protocol"]
    lines = [
        f"## Numbers on {where}",
        "",
        table(["", *LABELS.values(), "this model per word minus it"], _rows(metrics)),
        "",
        f"Window {protocol['window']}, stride {protocol['stride']} tokens, vocabulary {protocol['vocabulary']:,}; "
        f"{counts['tokens']:,} tokens, {counts['words']:,} words (one end of line a line), {counts['bytes']:,} bytes. "
        "Perplexity = exp(sum of nats / count); per word it does not depend on the tokenizer.",
        f"In brackets: {metrics['level']:.0%} intervals from {metrics['bootstrap']} resamples of {metrics['n_groups']} "
        f"groups ({metrics['n']} documents); differences are paired, on the same documents."
        if metrics["bootstrap"]
        else "No intervals: `report.bootstrap` is 0.",
        "",
        *verdicts(metrics),
        *(f"- {name}: {entry['not_run']}" for name, entry in metrics["baselines"].items() if "not_run" in entry),
        *(f"- **Flag: {flag}.**" for flag in metrics["flags"]),
    ]
    if "cache" in metrics:
        setting = metrics["cache"]["setting"]
        lines.append(
            f"- The cache ({setting['size']} states, sharpness {setting['sharpness']:g}, share {setting['share']:g}, "
            "chosen on validation) uses the test text as it goes by; it is judged apart from the model."
        )
    if metrics["evaluated"] < metrics["expected"]:
        lines.append(
            f"\n**Only {metrics['evaluated']} of {metrics['expected']} documents were evaluated to their end.**"
        )
    lines += ["", f"Files: `{stage}/`."]
    return "\n".join(lines)


def _gap(root: Path, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    fit = files.read_json(root / "fit" / "metrics.json")
    gap = gap_to_train(fit)
    if gap is None:
        return ""
    parts = [("train", fit["train"]["values"]), ("validation", fit["values"])]
    parts += [("test", metrics["test"]["values"])] if "test" in metrics else []
    rows = [[name, number(v["perplexity"], 2), number(v["word_perplexity"], 2)] for name, v in parts]
    word = "below" if gap < 0.1 else "**not below**"
    return (
        "## Train, validation, test\n\n" + table(["part", "perplexity per token", "per word"], rows) + "\n\n"
        f"Gap of validation to train: {gap:+.1%} per token, {word} 10 %. Train: the best weights on "
        f"{fit['train']['documents']} training documents, judged like the others (no dropout)."
    )


def _bins(metrics: Mapping[str, Any], stage: str) -> str:
    modes = metrics["by_distance"]
    rows = []
    for row in modes["on"]:
        others = [next((r for r in modes[mode] if r["low"] == row["low"]), None) for mode in modes if mode != "on"]
        label = "never before" if row["low"] == 0 else _span(row)
        values = [row["perplexity"], *(r["perplexity"] if r else None for r in others)]
        rows.append([label, f"{row['tokens']:,}", *(number(value, 2) for value in values)])
    names = ["perplexity", *(f"memory {mode}" for mode in modes if mode != "on")]
    places = [[_span(r), f"{r['tokens']:,}", number(r["perplexity"], 2)] for r in metrics["by_position"]]
    return "\n\n".join(
        [
            "## Where the loss lies",
            "By the distance of a token's last mention in its document; beyond the window only a memory knows it:",
            table(["last mention", "tokens", *names], rows),
            "By the number of tokens of context inside the window:",
            table(["context", "tokens", "perplexity"], places),
            f"![by distance]({stage}/distance.png)",
        ]
    )


def _span(row: Mapping[str, Any]) -> str:
    high = row["high"]
    if high is None or math.isinf(high):
        return f"{row['low']:.0f} or more"
    return f"{row['low']:.0f}" if high == row["low"] else f"{row['low']:.0f} to {high:.0f}"


def _recall(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("recall")
    if not found:
        return ""
    modes = {"on": "as it is", "off": "memory off", "shuffled": "another text's memory"}
    rows = [[modes[mode], number(r["accuracy"]), number(r["chance"]), r["asked"]] for mode, r in found.items()]
    return (
        "## Questions that only an earlier segment answers\n\n"
        + table(["", "right answers", "chance", "questions"], rows)
        + "\n\nRight: the likeliest token is the answer. Its pair was said before the window began."
    )


def _uses(root: Path, metrics: Mapping[str, Any], stage: str) -> str:
    found = {**metrics.get("attention", {}), **metrics.get("slots", {})}
    if not found:
        return ""
    text = "## Attention and memory\n\n" + table(["", ""], [[k.replace("_", " "), number(v)] for k, v in found.items()])
    text += f"\n\nAttention and reads: of {LOOK_BATCHES} batches at most, spread evenly over the part."
    if metrics.get("slots"):
        text += " Writes and importance: of every segment that goes on with a document."
    for name in ("attention", "slots"):
        if (root / stage / f"{name}.png").is_file():
            text += f"\n\n![{name}]({stage}/{name}.png)"
    return text


def _generation(root: Path, metrics: Mapping[str, Any], stage: str) -> str:
    found = metrics.get("generation")
    if not found:
        note = metrics.get("generation_note")
        return f"## Generated text\n\nContinuations: {note}." if note else ""
    names = [name for name in found if not name.startswith("true_")]
    rows = [[name.replace("_", " "), number(found[name]), number(found.get(f"true_{name}"))] for name in names]
    text = "## Generated text\n\n" + table(["", "generated", "true text"], rows)
    text += "\n\nSelf-BLEU is high where samples are alike. No person has judged these texts, and no score pretends so."
    samples = root / stage / "samples.csv"
    if samples.is_file():
        chosen = pd.read_csv(samples, keep_default_na=False).iloc[:: max(1, len(pd.read_csv(samples)) // SAMPLES)]
        texts = chosen.head(SAMPLES)[["prompt", "generated", "true"]].to_numpy().tolist()
        shown = [[" ".join(text.split()) for text in row] for row in texts]
        text += "\n\n" + table(["prompt (of this part)", "generated", "true text"], shown)
    return text


def _panel(metrics: Mapping[str, Any]) -> str:
    rows = [
        [r["name"], r["hope"], number(r["value"], 3), {**OF_HOPE, False: "**not reached**"}[r["reached"]], r["note"]]
        for r in metrics["panel"]
    ]
    about = (
        "The brief hoped for this on WikiText-2, in pieces of GPT-2; on made text or with another vocabulary the "
        f"perplexities per token do not compare and are not judged ({_DASH}).\n\n"
    )
    return "## The brief's hopes\n\n" + about + table(["", "hoped", "reached value", "", ""], rows) if rows else ""


def _published(metrics: Mapping[str, Any]) -> str:
    rows = [
        [r["model"], r["parameters"], number(r["valid"], 2), number(r["test"], 2), r["unit"], r["source"]]
        for r in metrics.get("published", [])
    ]
    header = ["model", "parameters", "validation", "test", "per", "source"]
    return "## As published by others\n\n" + table(header, rows) if rows else ""


def _limits(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    lines = [
        "It says what is probable in text like its training text. It knows nothing else, checks nothing, and makes up "
        "names, dates and figures that read like facts.",
        "Perplexity measures prediction, not truth, usefulness or safety.",
        "Figures hold for this text, split, window and stride; another text has others.",
    ]
    if metrics.get("entropy_per_word") is not None:
        lines.append(
            "The text is synthetic: what is reached on it says that the machinery works, nothing about real text."
        )
    if "memory" not in metrics:
        lines.append(f"Nothing beyond the window of {metrics['protocol']['window']} tokens reaches a prediction "
                     "(a recurrent state excepted).")  # fmt: skip
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def report(root: Path, shown: str) -> str:
    """Compose ``REPORT.md`` from the files of a run folder.

    Args:
        root: Run folder.
        shown: The folder as a user types it.
    """
    stages = [name for name in report_text.STAGE_ORDER if (root / name / "metrics.json").is_file()]
    stage, run = stages[0], files.read_json(root / "run.json")
    metrics = {name: files.read_json(root / name / "metrics.json") for name in stages}
    first = metrics[stage]
    parts = [
        f"# {run['system']}: {root.name}",
        report_text.what(run, f"{first['protocol']['vocabulary']:,} tokens in the vocabulary"),
        *(_numbers(metrics[name], name) for name in stages),
        "" if "test" in metrics else "The test part has not been opened; `test` does that.",
        _gap(root, metrics),
        report_text.targets(run) if run.get("targets") else "",
        _panel(first),
        _bins(first, stage),
        _recall(first),
        _uses(root, first, stage),
        _generation(root, first, stage),
        _published(first),
        _limits(run, first),
        "## Course\n\n![curves](curves.png)" if (root / "curves.png").is_file() else "",
        report_text.found(run),
        report_text.settings(run),
        report_text.reproduce(root, run, shown),
        _files(root, stage, first["part"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _files(root: Path, stage: str, part: str) -> str:
    rows = [[f"`{name.format(stage=stage, part=part)}`", what] for name, what in ARTIFACTS]
    also = ", ".join(f"`{path.relative_to(root)}`" for path in report_text.run_files(root))
    return "## Files\n\n" + table(["file", "content"], rows) + f"\n\nAll: {also}."


def terminal(metrics: Mapping[str, Any], run: Mapping[str, Any], stage: str) -> str:
    """A plain table: the model and what stands beside it, then flags, hopes and targets."""
    rows = [["", *LABELS.values()], *(row[:-1] for row in _rows(metrics))]
    rows = [[text.strip("*") for text in row] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [f"{run['system']} · {stage} · {metrics['n']} documents, {metrics['n_groups']} groups"]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {entry['not_run']}" for name, entry in metrics["baselines"].items() if "not_run" in entry]
    lines += [f"flag: {flag}" for flag in metrics["flags"]]
    lines += [
        f"questions, memory {mode}: {number(r['accuracy'])} right of {r['asked']} (chance {number(r['chance'])})"
        for mode, r in metrics.get("recall", {}).items()
    ]
    lines += _panel_lines(metrics["panel"])
    lines += [
        f"target {t['metric']} {aim(t)}: {REACHED[t['reached']]} ({number(t['value'], 4)})"
        for t in run.get("targets") or []
    ]
    return "\n".join(lines)


def _panel_lines(panel: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"brief: {row['name']}, {row['hope']}: {number(row['value'])} {OF_HOPE[row['reached']]}" for row in panel]


def write_tables(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write the figures of a stage as tables."""
    values = {**metrics["values"], **metrics.get("attention", {}), **metrics.get("slots", {})}
    values |= metrics.get("generation", {})
    files.write_csv(folder / "results.csv", pd.DataFrame({"Metric": list(values), "Value": list(values.values())}))
    rows = [{"memory": mode, **row} for mode, found in metrics["by_distance"].items() for row in found]
    files.write_csv(folder / "by_distance.csv", pd.DataFrame(rows))
    files.write_csv(folder / "by_position.csv", pd.DataFrame(metrics["by_position"]))
    if metrics["panel"]:
        rows = [{**row, "reached": _DASH if row["reached"] is None else row["reached"]} for row in metrics["panel"]]
        files.write_csv(folder / "panel.csv", pd.DataFrame(rows))
