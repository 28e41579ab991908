"""Compare language models on the same documents: stored losses, or every run scored again on one given text.

Runs of other vocabularies compare per word and per byte, which count the same string, unless a vocabulary of words has
one easy token for all that it does not know. Continuations are measured beside, see ``compare_continued``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks import report_files as files
from callbacks.report_language_files import TextPredictions
from datamodules.errors import DataError
from datamodules.language_text import Boundary
from datamodules.language_tokenizer import UNKNOWN
from lightning_project import compare_continued as continuations
from lightning_project.compare_continued import Starts
from lightning_project.compare_language_page import LEVEL, chart, markdown
from lightning_project.compare_language_runs import TextRun, on_text, stored_losses
from lightning_project.writer import Writer
from modules import perplexity

SHOWN = ("word_perplexity", "perplexity", "bits_per_byte")
METRICS = ("perplexity", *continuations.METRICS)


def compare_texts(
    folders: Sequence[Path],
    target: Path,
    metric: str,
    bootstrap: int,
    text: str | None,
    prompts: str | None,
    metrics: Sequence[str] | None,
    boundary: Boundary | None = None,
) -> None:
    """Compare runs of language models; write ``comparison.csv``, ``.json``, ``.md`` and ``.png``.

    Args:
        folders: Run folders; the others are compared with the first.
        target: Folder of the files.
        metric: Metric of the chart: word_perplexity, perplexity or bits_per_byte.
        bootstrap: Resamples for the intervals, by group.
        text: Text file or folder on which every run is scored again.
        prompts: File of prompts to continue, or of pairs of a prompt and what truly follows.
        metrics: Some of perplexity, bleu and repetition; ``None`` is all that can be had.
        boundary: Where a document of the text begins; ``None`` as the runs do where they agree, else at headings.

    Raises:
        DataError: Runs that cannot be compared, or something asked for that cannot be had; nothing is written then.
    """
    from lightning_project.compare import rows_of

    _check_words(metric, metrics, text, boundary)
    judges = _judges(folders, text, prompts, metrics)
    writes = text is not None or prompts is not None or any(name in continuations.METRICS for name in metrics or ())
    runs = [TextRun.read(folder, text is None and judges, writes) for folder in folders]
    cut = boundary or _boundary(runs)
    plan = continuations.plan(metrics, text, cut, prompts)
    writers = [Writer.of_run(str(run.folder)) for run in runs] if writes else []
    if text is not None and judges:
        runs = [on_text(run, one, text, cut) for run, one in zip(runs, writers, strict=True)]
    for run in runs[1:]:
        _check(run, runs[0])
    rows: dict[str, list[TextRun]] = rows_of(runs)
    lines: list[dict[str, Any]] = [{"run": name, "seeds": len(some)} for name, some in rows.items()]
    if judges:
        _add_perplexities(lines, rows, bootstrap)
    if plan:
        _add_generation(lines, rows, {run.folder: one for run, one in zip(runs, writers, strict=True)}, plan)
    base = next(iter(rows.values()))
    for line, some in zip(lines, rows.values(), strict=True):
        line["total_params"] = some[0].facts.get("total_params")
        line["flags"] = "; ".join([*_flags(some[0]), *_unknown_notes(some, base)])
    table = pd.DataFrame(lines)
    out = [
        files.write_csv(target / "comparison.csv", table),
        files.write_json(target / "comparison.json", {"rows": lines, "text": text and Path(text).name}),
        files.write_text(target / "comparison.md", markdown(table, rows, text, bootstrap, plan)),
    ]
    if judges:
        out.append(files.write_figure(target / "comparison.png", chart(table, metric)))
    shown = [name for name in table if not str(name).endswith(("_low", "_high", "_std"))]
    print(table[shown].to_string(index=False))
    print("written:\n" + "\n".join(f"  {path}" for path in out))


def _check_words(metric: str, metrics: Sequence[str] | None, text: str | None, boundary: str | None) -> None:
    wrong = [name for name in metrics or () if name not in METRICS]
    if wrong or (metrics is not None and not metrics):
        raise DataError(f"unknown metric {', '.join(wrong) or '(none)'}; choose some of {', '.join(METRICS)}")
    if metric not in SHOWN:
        raise DataError(f"unknown metric {metric!r} of the chart; choose one of {', '.join(SHOWN)}")
    if boundary is not None and text is None:
        raise DataError("--boundary says where a document of --text begins: give --text FILE too")


def _judges(folders: Sequence[Path], text: str | None, prompts: str | None, metrics: Sequence[str] | None) -> bool:
    """Tell whether perplexities are compared: if asked for, and by default unless only prompts can be had."""
    if metrics is not None:
        return "perplexity" in metrics
    missing = [path for folder in folders for path in stored_losses(folder) if not path.is_file()]
    if text is None and prompts is not None and missing:
        print(f"perplexity: not compared ({missing[0].parents[1]}: no test losses; run `test --ckpt_path best` on it "
              "first, or give --text FILE)")  # fmt: skip
        return False
    return True


def _boundary(runs: Sequence[TextRun]) -> Boundary:
    """Return where the documents of the runs begin, or a heading where they do not agree or do not say."""
    found: set[Boundary | None] = {run.settings.get("data.init_args.boundary") for run in runs}
    return (found.pop() if len(found) == 1 else None) or "heading"


def _check(run: TextRun, first: TextRun) -> None:
    a, b = run.found, first.found
    if a is None or b is None:
        return
    if list(a.id) != list(b.id) or (a.n_words != b.n_words).any() or (a.n_bytes != b.n_bytes).any():
        raise DataError(
            f"{run.folder} and {first.folder} were judged on different documents; give --text FILE to score both again"
        )


def _add_perplexities(lines: list[dict[str, Any]], rows: Mapping[str, Sequence[TextRun]], bootstrap: int) -> None:
    first: dict[str, tuple[float, np.ndarray]] = {}
    base = next(iter(rows.values()))
    for line, runs in zip(lines, rows.values(), strict=True):
        founds = [run.found for run in runs if run.found is not None]
        points = [perplexity.measured(found.sums()) for found in founds]
        draws = [_resampled(found, bootstrap) for found in founds]
        line["unknown_share"] = _unknown(runs)
        for name in SHOWN:
            values = np.array([point[name] for point in points])
            _add(line, name, values, np.mean([draw[name] for draw in draws], axis=0), first)
            if name != "perplexity" and not _fair(runs, base):
                line |= dict.fromkeys((f"{name}_difference{end}" for end in ("", "_low", "_high")), float("nan"))


def _resampled(found: TextPredictions, bootstrap: int) -> dict[str, np.ndarray]:
    """Resample the groups of documents; NaN where there is one group, which says nothing of others."""
    if len(np.unique(found.group)) < 2:
        return {name: np.full(bootstrap, np.nan) for name in SHOWN}
    return perplexity.resampled(found.sums(), found.group, bootstrap)


def _unknown(runs: Sequence[TextRun]) -> float:
    """Return the largest share of unknown words over seeds; NaN = not known of one."""
    return float(np.max([run.unknown for run in runs]))


def _fair(runs: Sequence[TextRun], base: Sequence[TextRun]) -> bool:
    """Tell whether runs compare per word: no word is unknown, or to all of them the same ones are."""
    names = {run.vocabulary for run in (*runs, *base)}
    return _unknown(runs) == _unknown(base) == 0 or (len(names) == 1 and "" not in names)


def _unknown_notes(runs: Sequence[TextRun], base: Sequence[TextRun]) -> list[str]:
    if runs[0].found is None:
        return []
    share, found = _unknown(runs), []
    if np.isnan(share):
        found.append("how many judged words its vocabulary does not know could not be found out (give --text FILE)")
    elif share > 0:
        found.append(f"{share:.2%} of the judged words are unknown to its vocabulary, and one {UNKNOWN} for them all "
                     "is easier than each word")  # fmt: skip
    if runs is not base and not _fair(runs, base):
        found.append("per word and per byte not set against the first, for words are unknown to one of the two")
    return found


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    """Return the ends of the interval of resamples; NaN where there are none."""
    if np.isnan(drawn).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _add(
    line: dict[str, Any],
    name: str,
    values: np.ndarray,
    drawn: np.ndarray,
    first: dict[str, tuple[float, np.ndarray]],
) -> None:
    """Add a metric: mean over seeds, spread, interval, and the difference to the first row with its interval."""
    new = name not in first
    base, base_drawn = first.setdefault(name, (float(values.mean()), drawn))
    line[name] = float(values.mean())
    line[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    line[f"{name}_low"], line[f"{name}_high"] = _interval(drawn)
    difference = [float("nan")] * 3
    if not new:
        difference = [line[name] - base, *_interval(drawn - base_drawn)]
    line |= dict(zip((f"{name}_difference{end}" for end in ("", "_low", "_high")), difference, strict=True))


def _add_generation(
    lines: list[dict[str, Any]],
    rows: Mapping[str, Sequence[TextRun]],
    writers: Mapping[Path, Writer],
    plan: Mapping[str, Starts],
) -> None:
    first: dict[str, tuple[float, np.ndarray]] = {}
    written = {
        (folder, starts): continuations.continued(writer, starts)
        for folder, writer in writers.items()
        for starts in set(plan.values())
    }
    for line, runs in zip(lines, rows.values(), strict=True):
        for metric, starts in plan.items():
            found = [continuations.measured(metric, written[run.folder, starts], starts) for run in runs]
            for name in found[0]:
                values = np.array([one[name][0] for one in found])
                _add(line, name, values, np.mean([one[name][1] for one in found], axis=0), first)


def _flags(run: TextRun) -> list[str]:
    size = run.facts.get("vocab_size")
    if run.found is None or not size:
        return []
    synthetic = "synthetic" in str((run.facts.get("data") or {}).get("source", ""))
    floor = 1.0 if synthetic else None  # embedded text is predictable, and says so itself
    values = perplexity.measured(run.found.sums())
    return perplexity.flags(values["perplexity"], int(size), floor, values["word_perplexity"])
