"""The report of a run: what was trained, how it went, and numbers that come from one stored prediction file."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks import report_files as files
from callbacks import report_metrics, report_settings, report_stage, report_tables, report_text, report_wandb
from callbacks.report_baselines import simple_models
from callbacks.report_breakdown import write_breakdown
from callbacks.report_environment import environment
from callbacks.report_gcode import GcodeJudgement
from callbacks.report_language import LanguageJudgement
from callbacks.report_targets import Target, judge
from datamodules.errors import DataError

JUDGES: dict[str, type[LanguageJudgement | GcodeJudgement]] = {"text": LanguageJudgement, "tokens": GcodeJudgement}


class RunReport(pl.Callback):
    """Collect the outputs of validation and test, write the run folder and tell the terminal and W&B.

    The step methods return ``{"id": (B,), "prob": (B, C), "y": (B,)}``; rows with ``id < 0`` are padding. Outputs are
    gathered from all processes and sorted by record, so the files do not depend on batch size, order or processes.

    Args:
        targets: Numbers to reach; each comes out as reached or not.
        bootstrap: Resamples for the intervals; 0 leaves the intervals out.
        baselines: Fit the data's simple models on the training part and print them beside the network.
        top_k: Guesses allowed in the top-k accuracy.
        stage_folder: Sub-folder for the next validation or test; by default ``validate`` or ``test``.
    """

    def __init__(
        self,
        targets: list[Target] | None = None,
        bootstrap: int = 1000,
        baselines: bool = True,
        top_k: int = 3,
        stage_folder: str | None = None,
    ) -> None:
        if bootstrap < 0 or top_k < 1:
            raise ValueError(f"bootstrap must be >= 0 and top_k >= 1, got {bootstrap} and {top_k}")
        self.targets, self.bootstrap, self.baselines, self.top_k = targets or [], bootstrap, baselines, top_k
        self.stage_folder = stage_folder
        self.keep_calib = False  # the next test is of the calibration part: its predictions are kept, not judged
        self.rows: list[dict[str, float]] = []
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._predictions: files.Predictions | None = None
        self._values: dict[str, float] = {}
        self._validated, self._loaded, self._started, self._lr = False, False, 0.0, float("nan")
        self._judged: dict[str, Tensor] = {}
        self._text: LanguageJudgement | GcodeJudgement | None = None  # judges in place of this class, see JUDGES

    # -- training: one row per epoch ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Keep the rows of the training log, so that a resumed run continues them."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of a checkpoint, unless this process has seen more (the best weights after a fit)."""
        self._loaded = True
        if len(state_dict["rows"]) > len(self.rows):
            self.rows = [dict(row) for row in state_dict["rows"]]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is known before the first step."""
        if trainer.is_global_zero:
            files.write_json(Path(trainer.default_root_dir) / "environment.json", environment())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of an epoch that is resumed in its middle."""
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the epoch."""
        self._started, self._validated = time.perf_counter(), False

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Remember the learning rate of the step, before the schedule moves it."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row; an epoch that is run again after a resume replaces its old row."""
        metrics = {name: value for name, value in trainer.callback_metrics.items() if not name.endswith("_step")}
        metrics = {n: v for n, v in metrics.items() if n != "lr" and (self._validated or not n.startswith("val/"))}
        numbers = torch.stack([value.detach().cpu().double() for value in metrics.values()]).tolist() if metrics else []
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "lr": float(self._lr),
            "seconds": round(time.perf_counter() - self._started, 3),
            **dict(zip(metrics, numbers, strict=True)),
        }
        self.rows = [*(old for old in self.rows if old["epoch"] < row["epoch"]), row]
        if trainer.is_global_zero:
            files.write_csv(Path(trainer.default_root_dir) / "training_log.csv", log_frame(self.rows))
        for logger in trainer.loggers:
            logger.log_metrics({"lr": row["lr"]}, step=trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``run.json`` from the live objects."""
        if trainer.is_global_zero and self.rows:
            report_settings.write_run(trainer, pl_module, self._fit_facts(trainer, pl_module))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave a ``run.json`` that says why a fit broke off."""
        if trainer.is_global_zero and self.rows and trainer.state.fn == TrainerFn.FITTING:
            with suppress(Exception):  # what broke the fit off must stay the error that is seen
                facts = self._fit_facts(trainer, pl_module)
                facts["stop_reason"] = f"broken off: {type(exception).__name__}: {exception}"
                report_settings.write_run(trainer, pl_module, facts)

    def _fit_facts(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        return {**report_settings.live_settings(trainer, pl_module), **report_settings.course(trainer, self.rows)}

    # -- validation and test: collect, gather, compute -------------------------------------------------------------

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._outputs, self._text = [], None
        if judge := JUDGES.get(getattr(pl_module, "PREDICTS", "classes")):
            self._text = next(c for c in trainer.callbacks if isinstance(c, judge))  # type: ignore[attr-defined]
            self._text.start()
        if not (self.rows or self._loaded or trainer.ckpt_path):
            raise RuntimeError("no report on untrained weights: give --ckpt_path best (or a file), or run `fit` first")

    def _collect(self, outputs: Any) -> None:  # noqa: ANN401
        if self._text is not None:
            self._text.collect(outputs)
            return
        if not isinstance(outputs, Mapping) or not {"id", "prob", "y"} <= set(outputs):
            raise TypeError("the report needs steps that return a dict with id (B,), prob (B, C) and y (B,)")
        self._outputs.append((outputs["id"].detach(), outputs["prob"].detach(), outputs["y"].detach()))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse untrained weights; inside a fit nothing is collected."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._check(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that close a fit as they are judged; averaged ones are put back before the end."""
        if trainer.state.fn == TrainerFn.VALIDATING and self._stage(trainer) == "fit":
            state = trainer.strategy.lightning_module_state_dict()  # on all processes: gathers sharded weights
            if trainer.is_global_zero:
                net = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
                self._judged = {name: value.detach().cpu().clone() for name, value in net.items()}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse untrained weights."""
        self._check(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the outputs where they are (no transfer in a step)."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._collect(outputs)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the outputs where they are."""
        self._collect(outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the predictions (``validate``), or note that this epoch has validation metrics (``fit``)."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._finish_part(trainer, pl_module, "val")
        elif not trainer.sanity_checking:
            self._validated = True

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the predictions, store them, and log the metrics computed from them on every process."""
        if self.keep_calib and self._text is not None:
            self._text.finish(trainer, "calib", Path(trainer.default_root_dir) / "fit")
            return
        if self.keep_calib:
            found = self._gather(trainer, pl_module)
            if trainer.is_global_zero:
                found.save(Path(trainer.default_root_dir) / "fit" / "predictions_calib.npz")
            return
        self._finish_part(trainer, pl_module, "test")
        # equal on all processes; the reduction of equal numbers keeps Lightning from warning about it
        pl_module.log_dict({f"test/{name}": value for name, value in self._values.items()}, sync_dist=True)

    def _finish_part(self, trainer: pl.Trainer, pl_module: pl.LightningModule, part: str) -> None:
        if self._text is not None:
            self._values = self._text.finish(trainer, part, Path(trainer.default_root_dir) / self._stage(trainer))
            return
        found = self._gather(trainer, pl_module)
        self._predictions = found
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / self._stage(trainer)
            found.save(folder / f"predictions_{part}.npz")
        real = found.labelled()
        if not len(real.y):
            raise DataError(f"the {part} part has no labelled sample; use `predict` for data without labels")
        self._values = report_metrics.measure(real, getattr(pl_module, "loss", None), pl_module.device, self.top_k)

    def _gather(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> files.Predictions:
        mine: list[tuple[np.ndarray, ...]] = []
        if self._outputs:
            ids, prob, y = (torch.cat(column) for column in zip(*self._outputs, strict=True))
            mine = [(ids.cpu().numpy(), prob.float().cpu().numpy(), y.cpu().numpy())]
        self._outputs = []
        everyone: list[Any] = [mine]
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        parts = [arrays for rank in everyone for arrays in rank]
        if not parts:
            raise DataError("nothing to report: no batch was evaluated")
        ids, prob, y = (np.concatenate(column) for column in zip(*parts, strict=True))
        kept, first = np.unique(ids, return_index=True)  # sorted by record, each once
        first = first[kept >= 0]
        records = _data(trainer).records.iloc[ids[first]]
        return files.Predictions(
            records["id"].to_numpy(str),
            records["group"].to_numpy(str),
            y[first].astype(np.int64),
            prob[first],
            np.asarray(pl_module.class_names, dtype=str),
        )

    # -- files of a stage ------------------------------------------------------------------------------------------

    def _stage(self, trainer: pl.Trainer) -> str:
        return self.stage_folder or str(trainer.state.fn.value if trainer.state.fn else "validate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files of ``validate``, and the weights when it closes a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            if self._judged:
                files.write_weights(Path(trainer.default_root_dir) / "weights.safetensors", self._judged)
            self._write_stage(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files of ``test``."""
        if not self.keep_calib:
            self._write_stage(trainer, pl_module, "test")

    def _write_stage(self, trainer: pl.Trainer, pl_module: pl.LightningModule, part: str) -> None:
        if not trainer.is_global_zero or (self._predictions is None and self._text is None):
            return
        root, stage = Path(trainer.default_root_dir), self._stage(trainer)
        run = files.read_json(root / "run.json")
        stored = root / "training_log.csv"
        log = pd.read_csv(stored) if stored.is_file() else log_frame(self.rows)
        facts: dict[str, Any] = {"targets": judge(self.targets, root, part, self._values, log, run.get("best_epoch"))}
        if self._text is not None:
            metrics = self._text.evaluate(trainer, pl_module, part, self._values, self.bootstrap, self.baselines)
            run = self._write_facts(trainer, pl_module, facts)
            self._text.write(root, stage, metrics, run, log)
            files.write_text(root / "REPORT.md", self._text.page(root, _shown(root)))
            self._tell(trainer, root, stage, self._text.terminal(metrics, run, stage))
            return
        assert self._predictions is not None
        real = self._predictions.labelled()
        baselines, notes = simple_models(_data(trainer), part, real, self.baselines)
        metrics = report_metrics.evaluate(real, self._values, baselines, notes, self.bootstrap, self.top_k)
        metrics |= {"part": part, "evaluated": len(self._predictions.id), "expected": len(_data(trainer).indices(part))}
        metrics["generalisation_gap"] = report_metrics.generalisation_gap(root, part, self._values, run)
        if part == "test":
            top = f"top{self.top_k}"
            keys = {"accuracy": "accuracy", "macro_f1": "macro_f1", f"{top}_accuracy": top, "loss": "loss"}
            facts |= {f"test_{key}": self._values.get(metric) for key, metric in keys.items()}
        run = self._write_facts(trainer, pl_module, facts)
        report_stage.write_stage(root, stage, real, metrics, run, log)
        report_stage.write_samples(root / stage, part, real, baselines, _data(trainer).records)
        write_breakdown(root, stage, real, _data(trainer), self.top_k, self.bootstrap)
        files.write_text(root / "REPORT.md", report_text.report(root, _shown(root)))
        self._tell(trainer, root, stage, report_tables.terminal(metrics, run, stage))

    def _write_facts(self, trainer: pl.Trainer, pl_module: pl.LightningModule, facts: dict[str, Any]) -> dict[str, Any]:
        """Add to ``run.json`` what a stage found; return all of it."""
        root = Path(trainer.default_root_dir)
        facts |= report_settings.checks(trainer)
        if "architecture" not in files.read_json(root / "run.json"):
            facts = {**report_settings.live_settings(trainer, pl_module), **facts}
        if not (root / "environment.json").is_file():
            files.write_json(root / "environment.json", environment())
        return report_settings.write_run(trainer, pl_module, facts)

    def _tell(self, trainer: pl.Trainer, root: Path, stage: str, table: str) -> None:
        """Send the files of a stage to W&B, and print its table and what was written."""
        report_wandb.send(trainer.loggers, root, stage)
        print(table)
        print("written:\n" + "\n".join(f"  {_shown(path)}" for path in report_text.run_files(root)))


def log_frame(rows: list[dict[str, float]]) -> pd.DataFrame:
    """Order the columns of the training log: the course first, then training, then validation."""
    frame = pd.DataFrame(rows)
    first = ["epoch", "step", "lr", "seconds"]
    rest = sorted(
        (name for name in frame if name not in first), key=lambda name: (not str(name).startswith("train/"), name)
    )
    return frame.reindex(columns=first + rest)


def _data(trainer: pl.Trainer) -> Any:  # noqa: ANN401  # a SplitDataModule, known by its attributes only
    return getattr(trainer, "datamodule", None)


def _shown(path: Path) -> str:
    """Show a path relative to the current folder where it lies inside it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
