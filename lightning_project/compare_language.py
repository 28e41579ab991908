"""Compare language models on the same documents: stored losses, or every run scored again on one given text.

Runs of other vocabularies compare per word and per byte, which count the same string. Continuations of given prompts
are measured beside: repetition, and BLEU where the true continuation is known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from tqdm import tqdm

from callbacks import report_files as files
from callbacks import report_plots as plots
from callbacks.report_language_files import TextPredictions
from callbacks.report_settings import comparable_config
from datamodules.errors import DataError
from datamodules.language_layout import Corpus, TextBatches
from datamodules.language_text import as_records, documents_of_path
from datamodules.samplers import IndexBatch
from lightning_project.generate import read_prompts
from lightning_project.members import folds_of
from lightning_project.writer import Writer
from modules import perplexity, text_metrics
from modules.continuing import continue_texts, places
from modules.decoding import Text
from modules.generation import Sampling

SHOWN = ("word_perplexity", "perplexity", "bits_per_byte")
METRICS = ("perplexity", "bleu", "repetition")
PROMPT, LENGTH, PLACES = 48, 64, 48  # of the places of a text that are continued
NEW_TOKENS, RESAMPLES = 64, 100  # of a continuation; of its metrics, which are slow
ROWS = 8  # documents side by side while scoring
LEVEL = 0.95


@dataclass(frozen=True)
class TextRun:
    """One run, or all folds of one: its facts, settings and losses by document (test part, or the given text)."""

    folder: Path
    facts: dict[str, Any]
    settings: dict[str, Any]
    found: TextPredictions | None

    @classmethod
    def read(cls, folder: Path, stored: bool, network: bool) -> "TextRun":
        """Read a run folder, or that of its folds; ``stored`` asks for the test losses, ``network`` for one network.

        Raises:
            DataError: It is no run of a language model, has no test losses, or has folds where one network is needed.
        """
        from lightning_project.compare import flat

        folds = [*folds_of(folder).values()]
        facts = files.read_json(folds[0] / "run.json")
        if facts.get("system") != "language":
            raise DataError(f"{folder} is no run of a language model; compare runs of one system")
        if folds != [folder] and network:
            raise DataError(f"{folder} has a network for each fold, and one has to read the text; give {folds[0]}")
        config = folds[0] / "config.yaml"
        settings = flat(
            comparable_config(yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {})
        )
        if len(folds) > 1:
            settings.pop("split.fold", None)
        return cls(folder, facts, settings, _pooled(folds) if stored else None)


def _pooled(folds: Sequence[Path]) -> TextPredictions:
    """Return the test losses of all folds, in the order of the documents' names."""
    paths = [folder / "test" / "predictions_test.npz" for folder in folds]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path.parent.parent}: no test losses; run `test --ckpt_path best` on it first, "
                            "or give --text FILE")  # fmt: skip
    parts = [TextPredictions.load(path) for path in paths]
    names = TextPredictions.__dataclass_fields__
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    if len(np.unique(columns["id"])) < len(columns["id"]):
        raise DataError(f"{paths[0].parents[2]}: a test document occurs in two folds, so they are none of one data set")
    rows = np.argsort(columns["id"], kind="stable")
    return TextPredictions(**{name: column[rows] for name, column in columns.items()})


def compare_texts(
    folders: Sequence[Path],
    target: Path,
    metric: str,
    bootstrap: int,
    text: str | None,
    prompts: str | None,
    metrics: Sequence[str],
) -> None:
    """Compare runs of language models; write ``comparison.csv``, ``.json``, ``.md`` and ``.png``.

    Args:
        folders: Run folders; the others are compared with the first.
        target: Folder of the files.
        metric: Metric of the chart: word_perplexity, perplexity or bits_per_byte.
        bootstrap: Resamples for the intervals, by group.
        text: Text file or folder on which every run is scored again.
        prompts: File of prompts to continue.
        metrics: Some of perplexity, bleu and repetition.
    """
    from lightning_project.compare import rows_of

    wrong = [name for name in metrics if name not in METRICS]
    if wrong or not metrics:
        raise DataError(f"unknown metric {', '.join(wrong) or '(none)'}; choose some of {', '.join(METRICS)}")
    if metric not in SHOWN:
        raise DataError(f"unknown metric {metric!r} of the chart; choose one of {', '.join(SHOWN)}")
    writes = text is not None or "bleu" in metrics or "repetition" in metrics
    runs = [TextRun.read(folder, text is None and "perplexity" in metrics, writes) for folder in folders]
    if ("bleu" in metrics or "repetition" in metrics) and text is None and prompts is None:
        raise DataError("nothing to continue: give --prompts FILE, or --text FILE whose places are continued")
    writers = [Writer.of_run(str(run.folder)) for run in runs] if writes else []
    if text is not None and "perplexity" in metrics:
        runs = [replace(run, found=rescore(one, text)) for run, one in zip(runs, writers, strict=True)]
    for run in runs[1:]:
        _check(run, runs[0])
    rows: dict[str, list[TextRun]] = rows_of(runs)
    lines: list[dict[str, Any]] = [{"run": name, "seeds": len(some)} for name, some in rows.items()]
    if "perplexity" in metrics:
        _add_perplexities(lines, rows, bootstrap)
    if "bleu" in metrics or "repetition" in metrics:
        written = {run.folder: _continued(one, text, prompts) for run, one in zip(runs, writers, strict=True)}
        _add_generation(lines, rows, written, metrics)
    for line, some in zip(lines, rows.values(), strict=True):
        line["total_params"], line["flags"] = some[0].facts.get("total_params"), "; ".join(_flags(some[0]))
    table = pd.DataFrame(lines)
    out = [
        files.write_csv(target / "comparison.csv", table),
        files.write_json(target / "comparison.json", {"rows": lines, "text": text and Path(text).name}),
        files.write_text(target / "comparison.md", _markdown(table, rows, text, bootstrap)),
    ]
    if "perplexity" in metrics:
        title = f"{metric.replace('_', ' ')} on the same documents (line = 95 % interval)"
        out.append(files.write_figure(target / "comparison.png", plots.comparison(table, metric, title)))
    shown = [name for name in table if not str(name).endswith(("_low", "_high", "_std"))]
    print(table[shown].to_string(index=False))
    print("written:\n" + "\n".join(f"  {path}" for path in out))


def _check(run: TextRun, first: TextRun) -> None:
    a, b = run.found, first.found
    if a is None or b is None:
        return
    if list(a.id) != list(b.id) or (a.n_words != b.n_words).any() or (a.n_bytes != b.n_bytes).any():
        raise DataError(
            f"{run.folder} and {first.folder} were judged on different documents; give --text FILE to score both again"
        )


@torch.inference_mode()
def rescore(writer: Writer, text: str) -> TextPredictions:
    """Return the losses of a run on the documents of a text, by the run's own window, without overlap.

    Args:
        writer: The trained model.
        text: Text file or folder.
    """
    records, texts = as_records(documents_of_path(text, "heading"))
    tokenizer = writer.tokenizer
    end = [tokenizer.eos_id] if tokenizer.closes else []
    pieces = [np.array([*tokenizer.encode(one), *end], np.int64) for one in texts]
    if any(not len(piece) for piece in pieces):
        raise DataError(f"{text}: a document has no token for the vocabulary of {writer.folder}")
    starts = np.cumsum([0, *map(len, pieces[:-1])])
    corpus = Corpus(np.concatenate(pieces), starts, np.arange(len(texts)), tokenizer.eos_id)
    batches = TextBatches(corpus, writer.window, writer.window, ROWS, None, 0)
    nll, state = np.zeros(len(texts)), writer.net.new_state(ROWS, writer.window)
    steps = tqdm(range(len(batches.layout(0).first)), desc=f"scoring {writer.folder.name}", disable=None, leave=False)
    for step in steps:
        batch = batches.__getitems__(IndexBatch(list(range(ROWS)), ROWS, 1.0, 0, step))
        batch = {name: value.to(writer.device) for name, value in batch.items()}
        inputs = {name: batch[name] for name in ("tokens", "starts", "write")}
        out = writer.net(**inputs, state=state, targets=batch["y"])
        state = out.get("state")
        real = batch["y_document"] >= 0
        losses = out["nll"][real].double().cpu().numpy()
        nll += np.bincount(batch["y_document"][real].cpu().numpy(), losses, len(texts))
    words, size = (records[name].to_numpy(np.int64) for name in ("n_words", "n_bytes"))
    ids = records["id"].to_numpy(str)
    return TextPredictions(ids, records["group"].to_numpy(str), nll, np.array([*map(len, pieces)]), words, size)


def _add_perplexities(lines: list[dict[str, Any]], rows: Mapping[str, Sequence[TextRun]], bootstrap: int) -> None:
    first: dict[str, tuple[float, np.ndarray]] = {}
    for line, runs in zip(lines, rows.values(), strict=True):
        founds = [run.found for run in runs if run.found is not None]
        points = [perplexity.measured(found.sums()) for found in founds]
        draws = [perplexity.resampled(found.sums(), found.group, bootstrap) for found in founds]
        for name in SHOWN:
            values = np.array([point[name] for point in points])
            _add(line, name, values, np.mean([draw[name] for draw in draws], axis=0), first)


def _add(
    line: dict[str, Any],
    name: str,
    values: np.ndarray,
    drawn: np.ndarray,
    first: dict[str, tuple[float, np.ndarray]],
) -> None:
    """Add a metric: mean over seeds, spread, interval, and the difference to the first row with its interval."""
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    new = name not in first
    base, base_drawn = first.setdefault(name, (float(values.mean()), drawn))
    line[name] = float(values.mean())
    line[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    line[f"{name}_low"], line[f"{name}_high"] = (float(end) for end in np.nanquantile(drawn, ends))
    difference = [float("nan")] * 3
    if not new:
        difference = [line[name] - base, *(float(end) for end in np.nanquantile(drawn - base_drawn, ends))]
    line |= dict(zip((f"{name}_difference{end}" for end in ("", "_low", "_high")), difference, strict=True))


@dataclass(frozen=True)
class Continued:
    """Continuations of the same prompts: texts, tokens, and how the true text goes on, where that is known."""

    texts: list[str]
    tokens: list[list[int]]
    true: list[str] | None


def _continued(writer: Writer, text: str | None, prompts: str | None) -> Continued:
    """Let a run continue the prompts of a file, or places of the text."""
    decode, true = writer.vocabulary.decode, None
    if prompts is not None:
        started = [writer.prompt(prompt) for prompt in read_prompts(prompts)]
    else:
        assert text is not None
        words = [one.split(" ") for _, _, one, _ in documents_of_path(text, "heading")]
        numbers = np.arange(sum(map(len, words)))  # places are words: the same for every vocabulary
        flat = [word for one in words for word in one]
        starts = np.cumsum([0, *map(len, words[:-1])])
        chosen = [
            (" ".join(flat[i] for i in before if i >= 0), " " + " ".join(flat[i] for i in after))
            for before, after in places(numbers, starts, PROMPT, LENGTH, PLACES, -1)
        ]
        if not chosen:
            raise DataError(f"{text}: no document has {PROMPT + LENGTH} words to be continued; give --prompts FILE")
        started, true = [writer.prompt(prompt) for prompt, _ in chosen], [after for _, after in chosen]
    texts = [Text.make(i, prompt, Sampling(), NEW_TOKENS, 0, decode) for i, prompt in enumerate(started)]
    with torch.inference_mode():
        continue_texts(writer.net, texts, writer.window, None)
    return Continued([one.written.text for one in texts], [one.tokens for one in texts], true)


def _repetition(of: Continued, rows: np.ndarray, n: int) -> float:
    return text_metrics.repetition([of.tokens[i] for i in rows], n)


def _bleu(of: Continued, rows: np.ndarray, n: int) -> float:
    assert of.true is not None
    return text_metrics.bleu([of.texts[i] for i in rows], [[of.true[i]] for i in rows], n)


def _add_generation(
    lines: list[dict[str, Any]],
    rows: Mapping[str, Sequence[TextRun]],
    written: Mapping[Path, Continued],
    metrics: Sequence[str],
) -> None:
    first: dict[str, tuple[float, np.ndarray]] = {}
    measures: dict[str, Callable[[Continued, np.ndarray], float]] = {}
    for n in text_metrics.ORDERS:
        if "repetition" in metrics:
            measures[f"repetition_{n}"] = partial(_repetition, n=n)
        if "bleu" in metrics and all(one.true is not None for one in written.values()):
            measures[f"bleu_{n}"] = partial(_bleu, n=n)
    if "bleu" in metrics and "bleu_1" not in measures:
        print("BLEU: not run, for prompts of a file have no true continuation; give --text FILE without --prompts")
    rng = np.random.default_rng(0)
    count = len(next(iter(written.values())).texts)
    draws = rng.integers(count, size=(RESAMPLES, count))
    for line, runs in zip(lines, rows.values(), strict=True):
        for name, measure in measures.items():
            values = np.array([measure(written[run.folder], np.arange(count)) for run in runs])
            drawn = np.mean([[measure(written[run.folder], rows) for rows in draws] for run in runs], axis=0)
            _add(line, name, values, drawn, first)


def _flags(run: TextRun) -> list[str]:
    size = run.facts.get("vocab_size")
    if run.found is None or not size:
        return []
    synthetic = "synthetic" in str((run.facts.get("data") or {}).get("source", ""))
    floor = 1.0 if synthetic else None  # embedded text is predictable, and says so itself
    return perplexity.flags(perplexity.measured(run.found.sums())["perplexity"], int(size), floor)


def _markdown(table: pd.DataFrame, rows: Mapping[str, Sequence[TextRun]], text: str | None, bootstrap: int) -> str:
    from lightning_project.compare import differences

    names = [str(n) for n in table if f"{n}_low" in table and not str(n).endswith("_difference")]
    body = []
    for line in table.to_dict("records"):
        cells = [f"{line[n]:.3f} ({line[f'{n}_low']:.3f} to {line[f'{n}_high']:.3f})" for n in names]
        if line["seeds"] > 1:
            cells = [f"{cell} ± {line[f'{n}_std']:.3f}" for cell, n in zip(cells, names, strict=True)]
        body.append([line["run"], line["seeds"], *cells])
        low = line.get(f"{names[0]}_difference_low", float("nan")) if names else float("nan")
        if not np.isnan(low):
            difference, high = line[f"{names[0]}_difference"], line[f"{names[0]}_difference_high"]
            clear = "" if low <= 0 <= high else " *clear*"
            body[-1].append(f"{difference:+.3f} ({low:+.3f} to {high:+.3f}){clear}")
        else:
            body[-1].append("")
    header = [
        "run",
        "seeds",
        *(n.replace("_", " ") for n in names),
        f"{names[0].replace('_', ' ')} minus the first's",
    ]
    first = next(iter(rows.values()))[0].found
    where = "test documents" if text is None else f"documents of {Path(text).name}"
    parts = [
        "# Comparison: language",
        "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in [header, ["---"] * len(header), *body]),
        ""
        if first is None
        else f"The same {len(first.id)} {where} in {len(np.unique(first.group))} groups, "
        f"{int(first.n_words.sum()):,} words (one end of line a line). In brackets: {LEVEL:.0%} intervals from "
        f"{bootstrap} resamples of the groups, of the mean over seeds; differences are paired. ± is the standard "
        "deviation over seeds. *clear*: the interval leaves out zero. Per token only runs of one vocabulary compare.",
        *(f"**Flag, {line['run']}: {line['flags']}.**" for line in table.to_dict("records") if line["flags"]),
        "## What differs in the settings",
        differences(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
