"""The judgement of a decoder of G-code: lines and tokens, forced and free, by recording, beside simple models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks import report_files as files
from callbacks import report_gcode_anomaly as anomalies
from callbacks import report_gcode_page as pages
from callbacks import report_gcode_plots, report_gcode_tables
from callbacks.report_files import Predictions
from callbacks.report_gcode_files import LinePredictions, field_ids, joined, line_ids, texts
from callbacks.report_gcode_score import LEVEL, beside, measured, simple_lines, spoilt, to_numpy
from datamodules.errors import DataError
from modules import line_metrics

COVERAGE = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)  # shares of the surest lines that are looked at
SPOILT = ("operation_accuracy", "line_accuracy", "token_accuracy", "token_accuracy_brief")


class GcodeJudgement(pl.Callback):
    """Everything a report says about the lines that a decoder writes; of other systems it keeps anomaly scores alone.

    ``RunReport`` calls it where a system predicts tokens. Where the steps of a system return ``anomaly`` (B,), the
    scores of the validation part give the threshold that ``predict`` flags windows by.

    Args:
        sensors: Judge again with each kind of sensor set to zero, and swapped between windows of a recording. Works
            for every system whose data name their ``channel_groups``; one more pass over the part for each.
        anomaly_quantile: Share of the validation windows that lie below the threshold of an anomaly.
        examples: Lines in the table of examples.
        smoothing: Neighbouring windows of a recording (odd) over which ``predict`` takes the majority operation.
    """

    def __init__(
        self, sensors: bool = False, anomaly_quantile: float = 0.99, examples: int = 200, smoothing: int = 5
    ) -> None:
        if not 0 < anomaly_quantile < 1 or examples < 1:
            raise ValueError(
                f"anomaly_quantile={anomaly_quantile} must lie in 0 ... 1, and examples={examples} above 0"
            )
        if smoothing < 1 or smoothing % 2 == 0:
            raise ValueError(f"smoothing={smoothing} must be an odd number of windows, 1 = none")
        self.sensors, self.anomaly_quantile, self.examples = sensors, anomaly_quantile, examples
        self.smoothing = smoothing
        self._outputs: list[Mapping[str, Tensor]] = []
        self._scores: list[tuple[Tensor, Tensor]] = []
        self._found: LinePredictions | None = None

    # -- the Trainer's own loop -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Forget the outputs of an earlier loop."""
        self._outputs = []

    def collect(self, outputs: Mapping[str, Tensor]) -> None:
        """Keep the outputs of a batch where they are."""
        self._outputs.append({name: value.detach() for name, value in outputs.items()})

    def finish(self, trainer: pl.Trainer, part: str, folder: Path) -> dict[str, float]:
        """Gather the outputs of all processes, store them, and return the figures of the part."""
        mine, self._outputs = [to_numpy(outputs) for outputs in self._outputs], []
        everyone: list[Any] = [mine]
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        outputs = joined([outputs for rank in everyone for outputs in rank])
        found = predictions(_data(trainer), outputs, trainer.lightning_module)
        if trainer.is_global_zero:
            found.save(folder / f"predictions_{part}.npz")
        self._found = found.labelled()
        if not len(self._found.id):
            raise DataError(f"the {part} part has no window with a line; use `predict` for recordings without G-code")
        return measured(self._found.sums)

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
            module: The decoder, with the weights that were judged.
            part: Part of the data.
            values: What :meth:`finish` returned.
            bootstrap: Resamples, 0 = no intervals.
            baselines: Whether to fit the simple models.
        """
        assert self._found is not None
        data, found = _data(trainer), self._found
        drawn = line_metrics.resampled(found.sums, found.group, bootstrap) if bootstrap else {}
        others, notes = simple_lines(data, part, found.id, baselines)
        right = found.sums["line_accuracy"][:, 0]
        expected = sum(data.lines[row] != "" for row in data.indices(part))
        fit = files.read_json(Path(trainer.default_root_dir) / "fit" / "metrics.json")
        limits = [row["threshold"] for row in fit.get("confidence", {}).get("coverage", [])]
        spoil = self.sensors and len(found.id) == expected  # all of the part, not what limits left of it
        return {
            "kind": "lines",
            "part": part,
            "told": module.hparams.get("conditioning") == "label",
            "n": len(found.id),
            "n_groups": len(np.unique(found.group)),
            "evaluated": len(found.id),
            "expected": expected,
            "num_classes": len(found.class_names),
            "vocabulary": len(data.vocabulary),
            "window": data.window,
            "layout": "flat" if found.by_id else "heads",
            "values": dict(values),
            "intervals": line_metrics.intervals(drawn, LEVEL),
            "level": LEVEL,
            "bootstrap": bootstrap,
            "baselines": {name: beside(sums, found.sums, found.group, bootstrap) for name, sums in others.items()}
            | {name: {"not_run": note} for name, note in notes.items()},
            "confidence": {
                "error": line_metrics.calibration_error(found.confidence, right),
                "coverage": line_metrics.at_coverage(found.confidence, right, COVERAGE),
                "by_validation": line_metrics.above(found.confidence, right, limits) if part == "test" else [],
            },
            "sensors": self._spoilt(trainer, module, part, found.sums, found.group, bootstrap) if spoil else [],
        }

    def _spoilt(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        part: str,
        ours: line_metrics.Sums,
        group: np.ndarray,
        bootstrap: int,
    ) -> list[dict[str, Any]]:
        data = _data(trainer)
        names = [name for name in SPOILT if name in ours]

        def judge(outputs: list[dict[str, np.ndarray]]) -> dict[str, Any]:
            sums = sums_of(data, joined(outputs), module)
            return beside({name: sums[name] for name in names}, ours, group, bootstrap)

        return [
            {"sensor": kind, "mode": mode, "columns": columns, **entry}
            for kind, mode, columns, entry in spoilt(trainer, module, data, part, judge)
        ]

    # -- files --------------------------------------------------------------------------------------------------------

    def write(self, root: Path, stage: str, metrics: dict[str, Any], run: Mapping[str, Any], log: Any) -> None:  # noqa: ANN401
        """Write the files of a stage: metrics, tables, pictures."""
        assert self._found is not None
        files.write_json(root / stage / "metrics.json", metrics)
        report_gcode_tables.write(root / stage, self._found, metrics, self.examples)
        report_gcode_plots.write(root, stage, self._found, metrics, run, log)

    def page(self, root: Path, shown: str) -> str:
        """Compose ``REPORT.md`` from the files of the run folder."""
        return pages.report(root, shown)

    def terminal(self, metrics: Mapping[str, Any], run: Mapping[str, Any], stage: str) -> str:
        """Return what is printed at the end of a stage."""
        return pages.terminal(metrics, run, stage)

    # -- of every system: anomaly scores, and what each kind of sensor is worth to a classifier ------------------------

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget earlier scores."""
        self._scores = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget earlier scores."""
        self._scores = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Keep the scores of a judged part, where there are any."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Keep the scores of a batch."""
        if isinstance(outputs, Mapping) and "anomaly" in outputs:
            self._scores.append((outputs["id"].detach(), outputs["anomaly"].detach().float()))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the scores and fit the threshold."""
        if trainer.state.fn == TrainerFn.VALIDATING and self._scores:
            self._scored(trainer, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the scores and compare them with the threshold."""
        if self._scores and not _report(trainer).keep_calib:
            self._scored(trainer, "test")

    def _scored(self, trainer: pl.Trainer, part: str) -> None:
        mine: list[Any] = [(ids.cpu().numpy(), scores.cpu().numpy()) for ids, scores in self._scores]
        self._scores = []
        everyone: list[Any] = [mine]
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        if trainer.is_global_zero:
            pairs = [pair for rank in everyone for pair in rank]
            ids, scores = (np.concatenate(column) for column in zip(*pairs, strict=True))
            kept, first = np.unique(ids, return_index=True)
            records = _data(trainer).records.iloc[kept[kept >= 0]]
            root, stage = Path(trainer.default_root_dir), _stage(trainer)
            anomalies.write(root, stage, part, records, scores[first[kept >= 0]], self.anomaly_quantile)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what each kind of sensor is worth to a classifier; a decoder's report has it in its own page."""
        of_windows = hasattr(_data(trainer), "channel_groups") and getattr(pl_module, "PREDICTS", "") == "classes"
        report = _report(trainer)
        if not self.sensors or not of_windows or report.keep_calib or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / _stage(trainer)
        found = Predictions.load(folder / "predictions_test.npz")  # those of all windows, in the order of the records
        if len(found.id) < len(_data(trainer).indices("test")):
            return  # limits cut the part short
        ours = {"operation_accuracy": np.stack([found.prob.argmax(1) == found.y, found.y != -1], 1).astype(float)}
        rows = self._spoilt(trainer, pl_module, "test", ours, found.group, report.bootstrap)
        report_gcode_tables.write_sensors(folder, rows)
        files.write_text(folder / "section_sensors.md", pages.sensors(rows))


def predictions(data: Any, outputs: Mapping[str, np.ndarray], module: Any) -> LinePredictions:  # noqa: ANN401
    """Make stored predictions of joined outputs.

    Args:
        data: The datamodule, known by its attributes only.
        outputs: ``id`` (rows of the records), ``y``, ``prob``; ``tokens`` and ``fields`` of the true line; what was
            said with the true tokens (``forced_tokens``, ``forced_fields``, ``log_prob``) and without (``free_tokens``,
            ``free_fields``, ``free_log_prob``); ``anomaly`` where the encoder reconstructs.
        module: The decoder, for which of its layers writes.
    """
    rows, vocabulary = outputs["id"], data.vocabulary
    records = data.records.iloc[rows]
    tokens, fields = outputs["tokens"], outputs["fields"]
    by_id = module.hparams["layout"] == "flat"
    free, flat = texts(vocabulary, outputs, by_id), outputs["forced_tokens"]
    return LinePredictions(
        id=records["id"].to_numpy(str),
        group=np.asarray(data.recording_names(), dtype=str)[rows],  # under any protocol: what is resampled
        y=outputs["y"].astype(np.int64),
        prob=outputs["prob"].astype(np.float32),
        class_names=np.asarray(data.class_names, dtype=str),
        row=np.asarray(data.rows)[rows].astype(np.int64),
        line=np.array([data.lines[row] for row in rows], dtype=str),
        free=np.array(free, dtype=str),
        tokens=tokens.astype(np.int32),
        fields=fields.astype(np.int16),
        forced_fields=outputs["forced_fields"].astype(np.int16),
        forced_ids=(flat if by_id else field_ids(vocabulary, fields, outputs["forced_fields"])).astype(np.int32),
        flat_ids=flat.astype(np.int32),
        forced_logp=outputs["log_prob"].astype(np.float32),
        free_ids=outputs["free_tokens"].astype(np.int32) if by_id else line_ids(vocabulary, free, tokens.shape[1]),
        free_logp=outputs["free_log_prob"].astype(np.float32),
        anomaly=outputs.get("anomaly", np.full(len(rows), np.nan)).astype(np.float32),
        by_id=np.array(by_id),
    )


def sums_of(data: Any, outputs: Mapping[str, np.ndarray], module: Any) -> line_metrics.Sums:  # noqa: ANN401
    """Return the figures by record of joined outputs, of a decoder or of a classifier."""
    if getattr(module, "PREDICTS", "classes") == "tokens":
        return predictions(data, outputs, module).labelled().sums
    right, known = outputs["prob"].argmax(1) == outputs["y"], outputs["y"] != -1
    return {"operation_accuracy": np.stack([right & known, known], 1).astype(float)}


def _data(trainer: pl.Trainer) -> Any:  # noqa: ANN401  # a datamodule, known by its attributes only
    return getattr(trainer, "datamodule", None)


def _report(trainer: pl.Trainer) -> Any:  # noqa: ANN401  # the RunReport, which imports this file
    return next(callback for callback in trainer.callbacks if hasattr(callback, "stage_folder"))  # type: ignore[attr-defined]


def _stage(trainer: pl.Trainer) -> str:
    return _report(trainer).stage_folder or str(trainer.state.fn.value)  # type: ignore[union-attr]
