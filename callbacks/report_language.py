"""The judgement of a language model: perplexities with intervals and baselines, and what its memory is worth."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from callbacks import report_files as files
from callbacks import report_language_page, report_language_plots
from callbacks.report_language_baselines import counting_models
from callbacks.report_language_files import TextPredictions
from callbacks.report_language_score import Looked, Scored, judged, look, recall, score
from callbacks.report_language_targets import panel
from callbacks.report_published import PUBLISHED
from datamodules.errors import DataError
from modules import continuing, neural_cache, perplexity
from modules.generation import Sampling

LEVEL = 0.95
PROMPT, LENGTH, PLACES = 32, 104, 64  # tokens given, tokens continued, and places of the text, for generation


class LanguageJudgement(pl.Callback):
    """Everything a report says about a language model; does nothing for systems of another kind.

    ``RunReport`` calls it. The first figures come from the Trainer's own loop, gathered over all processes; what needs
    the network once more (memory off and shuffled, cache, training part) is computed by the first process.

    Args:
        metrics: ``perplexity``, or ``all``: also generation, slots, attention, and the panel of the brief's targets.
        order: Longest n-gram of the counting baseline.
        train_documents: Documents of the training part to judge for the gap to validation; 0 leaves it out.
        cache_size: States of the neural cache, judged apart on test with settings from validation; 0 = no cache.
        causal_models: Folders or hub ids of other causal models, scored on the same text by the same windows.
        beside: Tested run folders whose stored figures stand beside this run's.
        published: Name of a table of published figures to print as they are.
        maps: Draw heat maps of attention and of the memory's reads.
    """

    def __init__(
        self,
        metrics: Literal["perplexity", "all"] = "perplexity",
        order: int = 5,
        train_documents: int = 50,
        cache_size: int = 0,
        causal_models: list[str] | None = None,
        beside: list[str] | None = None,
        published: str | None = None,
        maps: bool = False,
    ) -> None:
        if metrics not in ("perplexity", "all"):
            raise ValueError(f"judgement.metrics={metrics!r} must be perplexity or all")
        if order < 1 or train_documents < 0 or cache_size < 0:
            raise ValueError("judgement needs order >= 1, train_documents >= 0 and cache_size >= 0")
        if published is not None and published not in PUBLISHED:
            raise ValueError(f"no table of published figures {published!r}; there are: {', '.join(PUBLISHED)}")
        self.metrics, self.order, self.train_documents, self.cache_size = metrics, order, train_documents, cache_size
        self.causal_models, self.beside = causal_models or [], beside or []
        self.published, self.maps = published, maps
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._scored: Scored | None = None
        self._found: TextPredictions | None = None
        self._looked: Looked | None = None
        self._samples: pd.DataFrame | None = None

    # -- the Trainer's own loop -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Forget the outputs of an earlier loop."""
        self._outputs = []

    def collect(self, outputs: Mapping[str, Tensor]) -> None:
        """Keep the outputs of a batch where they are."""
        self._outputs.append(tuple(outputs[name].detach() for name in ("place", "nll", "position")))  # type: ignore[arg-type]

    def finish(self, trainer: pl.Trainer, part: str, folder: Path) -> dict[str, float]:
        """Gather the losses of all processes, store them by document, and return the figures of the part."""
        data, mine = _data(trainer), [tuple(x.cpu() for x in columns) for columns in self._outputs]
        self._outputs = []
        everyone: list[Any] = [mine]
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        parts = [columns for rank in everyone for columns in rank]
        if not parts:
            raise DataError("nothing to report: no batch was evaluated")
        self._scored = Scored.of(parts)
        self._found, _ = predictions(data, part, self._scored)
        if not len(self._found.id):
            raise DataError(f"no document of the {part} part was evaluated to its end: give the loop more batches")
        if trainer.is_global_zero:
            self._found.save(folder / f"predictions_{part}.npz")
        return perplexity.measured(self._found.sums())

    # -- what the first process adds --------------------------------------------------------------------------------

    def evaluate(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        part: str,
        values: Mapping[str, float],
        bootstrap: int,
        baselines: bool,
    ) -> dict[str, Any]:
        """Build ``metrics.json``.

        Args:
            trainer: The trainer.
            module: The language system, with the weights that were judged.
            part: Part of the data.
            values: What :meth:`finish` returned.
            bootstrap: Resamples, 0 = no intervals.
            baselines: Whether to fit the counting models.
        """
        assert self._found is not None and self._scored is not None
        data, found = _data(trainer), self._found
        drawn = perplexity.resampled(found.sums(), found.group, bootstrap) if bootstrap else None
        entropy = data.entropy(part)
        floor = None if entropy is None else math.exp(entropy * found.n_words.sum() / found.n_tokens.sum())
        result: dict[str, Any] = {
            "kind": "text",
            "part": part,
            "n": len(found.id),
            "n_groups": len(np.unique(found.group)),
            "expected": len(data.documents(part)),
            "evaluated": len(found.id),
            "values": dict(values),
            "intervals": perplexity.intervals(drawn, LEVEL) if drawn else {},
            "level": LEVEL,
            "bootstrap": bootstrap,
            "counts": {name: int(getattr(found, f"n_{name}").sum()) for name in ("tokens", "words", "bytes")},
            "protocol": {"window": data.window, "stride": data.stride, "vocabulary": data.vocab_size},
            "entropy_per_word": entropy,
            "explored": getattr(module.net, "noise", None) is not None,
            "flags": perplexity.flags(values["perplexity"], data.vocab_size, floor, values["word_perplexity"]),
            "baselines": {},
        }
        others, notes = self._others(trainer, module, part, baselines)
        for name, other in others.items():
            result["baselines"][name] = beside(found, other, drawn, bootstrap)
        result["baselines"] |= {name: {"not_run": note} for name, note in notes.items()}
        result |= self._where(trainer, module, part, drawn, bootstrap)
        if data.question is not None:
            modes = ("on", "off", "shuffled") if getattr(module.net, "memory", None) is not None else ("on",)
            loader = data.part_dataloader(part)
            result["recall"] = {mode: recall(trainer, module, loader, data.question, mode) for mode in modes}
        if part == "val":
            result["by_epoch"] = by_epoch(Path(trainer.default_root_dir) / "training_log.csv")
            if self.train_documents:
                result["train"] = self._train(trainer, module)
        if part == "test" and self.cache_size:
            result["cache"] = self._with_cache(trainer, module, drawn, bootstrap)
        attends = hasattr(module.net, "new_cache")  # a recurrent network has no weights to look at
        if attends and (self.metrics == "all" or self.maps):
            self._looked = look(trainer, module, data.part_dataloader(part))
            result |= {"attention": self._looked.attention, "slots": self._looked.slots}
        if self.metrics == "all":
            result |= self._continue(trainer, module, part)
        if self.published:
            result["published"] = [vars(entry) for entry in PUBLISHED[self.published]]
        return result

    def _others(
        self, trainer: pl.Trainer, module: pl.LightningModule, part: str, baselines: bool
    ) -> tuple[dict[str, TextPredictions], dict[str, str]]:
        assert self._found is not None
        data, found = _data(trainer), self._found
        result, notes = counting_models(data, part, found, self.order) if baselines else ({}, {})
        if not baselines:
            notes["counting models"] = "not run (report.baselines is off)"
        rows = {name: row for row, name in enumerate(data.records["id"].astype(str))}
        for source in self.causal_models:
            from callbacks import causal_lm  # transformers takes seconds to import

            texts = [data.text(rows[name]) for name in found.id]
            closes = data.tokenizer.closes
            other = causal_lm.score(source, texts, data.window, data.stride, module.device, closes)
            result[causal_name(source, other, closes)] = found.with_losses(other.nll, other.tokens)
        for folder in self.beside:
            other_run = TextPredictions.load(
                Path(folder) / ("test" if part == "test" else "fit") / f"predictions_{part}.npz"
            )
            if list(other_run.id) != list(found.id) or (other_run.n_words != found.n_words).any():
                raise DataError(
                    f"{folder} was judged on other documents than this run: both need the same text and split"
                )
            result[f"run {Path(folder).name}"] = other_run
        return result, notes

    def _where(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        part: str,
        drawn: Mapping[str, np.ndarray] | None,
        bootstrap: int,
    ) -> dict[str, Any]:
        """Where the loss lies, and what it becomes with the memory off or another's."""
        assert self._scored is not None and self._found is not None
        data, scored = _data(trainer), self._scored
        distance = perplexity.last_mention(np.asarray(data.tokens(part)), np.asarray(data.starts(part)))[scored.place]
        edges = [1, *(edge for edge in (2, 5, 9, 17, 33, 65, 129, 257, 513, 1025) if edge <= data.window)]
        rows = {"on": perplexity.by_distance(scored.nll, distance, data.window)}
        result: dict[str, Any] = {"by_position": perplexity.by_position(scored.nll, scored.position, edges)}
        if getattr(module.net, "memory", None) is not None:
            result["memory"] = {}
            for mode in ("off", "shuffled"):
                other = score(trainer, module, data.part_dataloader(part), f"memory {mode}", memory=mode)
                if len(other.place) != len(scored.place):
                    continue  # the loop was cut short: there is nothing to compare
                rows[mode] = perplexity.by_distance(other.nll, distance, data.window)
                result["memory"][mode] = beside(self._found, predictions(data, part, other)[0], drawn, bootstrap)
        return result | {"by_distance": rows}

    def _train(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        """The figures of the best weights on a part of the training text, judged like the others."""
        data = _data(trainer)
        loader = data.part_dataloader("train", self.train_documents)
        found, _ = predictions(data, "train", score(trainer, module, loader, "training part"))
        return {"values": perplexity.measured(found.sums()), "documents": len(found.id)}

    def _continue(self, trainer: pl.Trainer, module: pl.LightningModule, part: str) -> dict[str, Any]:
        """Continue places of the text, and measure the continuations beside the true ones."""
        data = _data(trainer)
        tokenizer, tokens, starts = data.tokenizer, np.asarray(data.tokens(part)), np.asarray(data.starts(part))
        chosen = list(continuing.places(tokens, starts, PROMPT, LENGTH, PLACES, tokenizer.eos_id))
        if not chosen:
            return {"generation_note": f"not run: no document has {PROMPT + LENGTH} tokens"}
        words = continuing.Vocabulary(tokenizer.decode, tokenizer.vocab_size, tokenizer.eos_id, tokenizer.unk_id)
        with judged(trainer, module):
            found, texts = continuing.judge_continuations(module.net, chosen, words, data.window, Sampling())
        self._samples = pd.DataFrame(
            {
                "prompt": [tokenizer.decode(prompt) for prompt, _ in chosen],
                "generated": [text.written.text for text in texts],
                "true": [tokenizer.decode(true) for _, true in chosen],
            }
        )
        return {"generation": found}

    def _with_cache(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        drawn: Mapping[str, np.ndarray] | None,
        bootstrap: int,
    ) -> dict[str, Any]:
        """The neural cache on test, with the setting that is best on validation."""
        assert self._found is not None
        data, size = _data(trainer), self.cache_size

        def said(part: str, factors: Sequence[float]) -> tuple[Scored, Tensor, Tensor]:
            scored = score(trainer, module, data.part_dataloader(part), f"cache on {part}", hidden=True)
            assert scored.hidden is not None
            labels = torch.as_tensor(np.asarray(data.tokens(part), np.int64)[scored.place], device=scored.hidden.device)
            cached = neural_cache.cache_probabilities(scored.hidden, labels, size, factors).cpu()
            return scored, torch.from_numpy(scored.nll), cached

        _, nll, cached = said("val", neural_cache.SHARPNESS)
        setting = neural_cache.choose(nll, cached, size, neural_cache.SHARPNESS)
        scored, nll, cached = said("test", (setting.sharpness,))
        mixed = Scored(scored.place, neural_cache.mix(nll, cached[0], setting.share).double().numpy(), scored.position)
        result = beside(self._found, predictions(data, "test", mixed)[0], drawn, bootstrap)
        return result | {"setting": vars(setting), "chosen_on": "val"}

    # -- files --------------------------------------------------------------------------------------------------------

    def write(self, root: Path, stage: str, metrics: dict[str, Any], run: Mapping[str, Any], log: Any) -> None:  # noqa: ANN401
        """Write the files of a stage: metrics, results, panel, pictures."""
        metrics["panel"] = panel(metrics, files.read_json(root / "fit" / "metrics.json"))
        report_language_page.write_tables(root / stage, metrics)
        files.write_json(root / stage / "metrics.json", metrics)
        if self._samples is not None:
            text = self._samples.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)  # any character at all
            files.write_text(root / stage / "samples.csv", text)
        report_language_plots.write(root, stage, metrics, run, log, self._looked)

    def page(self, root: Path, shown: str) -> str:
        """Compose ``REPORT.md`` from the files of the run folder."""
        return report_language_page.report(root, shown)

    def terminal(self, metrics: Mapping[str, Any], run: Mapping[str, Any], stage: str) -> str:
        """Return what is printed at the end of a stage."""
        return report_language_page.terminal(metrics, run, stage)


def predictions(data: Any, part: str, scored: Scored) -> tuple[TextPredictions, np.ndarray]:  # noqa: ANN401
    """Return the losses of those documents of a part that were scored to their end, and which these are (D,)."""
    starts, counts = np.asarray(data.starts(part)), data.counts(part)
    nll, whole = scored.by_document(starts, counts["n_tokens"].to_numpy(np.int64))
    records = data.records.iloc[np.asarray(data.documents(part))[whole]]
    columns = {name: counts[name].to_numpy(np.int64)[whole] for name in ("n_tokens", "n_words", "n_bytes")}
    ids, group = records["id"].to_numpy(str), records["group"].to_numpy(str)
    return TextPredictions(ids, group, nll[whole], **columns), whole


def causal_name(source: str, other: Any, closes: bool) -> str:  # noqa: ANN401  # causal_lm.Scored; see the import there
    """Name another causal model, with what makes its figures differ in kind from those of a model that closes texts."""
    short = ", without the end of each document" if closes and not other.closed else ""
    size = f"{other.parameters / 1e6:.0f}M"
    return f"{Path(source).name} ({size}, window {other.window}, stride {other.stride}{short})"


def beside(
    found: TextPredictions, other: TextPredictions, drawn: Mapping[str, np.ndarray] | None, bootstrap: int
) -> dict[str, Any]:
    """Return another model's figures on the same documents, and ``found`` minus it, with intervals by group."""
    ours, theirs = perplexity.measured(found.sums()), perplexity.measured(other.sums())
    entry: dict[str, Any] = {"values": theirs}
    if drawn is None:
        return entry
    again = perplexity.resampled(other.sums(), other.group, bootstrap)
    entry["intervals"] = perplexity.intervals(again, LEVEL)
    ends = perplexity.intervals({name: drawn[name] - again[name] for name in drawn}, LEVEL)
    entry["difference"] = {name: [ours[name] - theirs[name], *ends[name]] for name in ours}
    return entry


def by_epoch(log: Path) -> dict[str, float]:
    """Return the validation perplexity per token after each epoch that had one, by its number from 1.

    Args:
        log: ``training_log.csv`` of the run; it may be missing.
    """
    table = pd.read_csv(log) if log.is_file() else pd.DataFrame()
    if "val/ppl" not in table:
        return {}
    seen = table.dropna(subset="val/ppl")
    return {str(int(epoch) + 1): float(value) for epoch, value in zip(seen["epoch"], seen["val/ppl"], strict=True)}


def _data(trainer: pl.Trainer) -> Any:  # noqa: ANN401  # a language datamodule, known by its attributes only
    return getattr(trainer, "datamodule", None)
