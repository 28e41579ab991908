"""The settings of a run: hash of its configuration, hyperparameters of the live objects, course and checks."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from callbacks import report_files as files
from callbacks.report_environment import git_commit
from datamodules.splits import split_hash

if TYPE_CHECKING:  # comparing run folders must not cost the import of lightning
    import lightning.pytorch as pl

EXAMPLES = 5  # of each finding of the audit
SCALARS = (str, int, float, bool, type(None))
# What may differ between two seeds of one configuration: the seed, where the run is written, where the data lies.
SEED_KEYS = {
    "seed_everything",
    "name",
    "run_name",
    "run",
    "default_root_dir",
    "save_dir",
    "logger",
    "wandb",
    "path",
    "dirpath",
}
PATH_KEYS = ("_path", "_paths", "_dir", "_file")


def comparable_config(config: object) -> object:
    """Drop from a resolved config what may differ between two seeds of one configuration."""
    if isinstance(config, dict):
        dropped = {key for key in config if key in SEED_KEYS or (key.endswith(PATH_KEYS) and key != "class_path")}
        return {key: comparable_config(config[key]) for key in sorted(config) if key not in dropped}
    if isinstance(config, str):  # a run of an earlier stage that was started from
        return re.sub(r"\b(seed|fold)-\d+\b", r"\1-N", config)
    return [comparable_config(item) for item in config] if isinstance(config, list) else config


def config_hash(run_dir: Path) -> str | None:
    """Hash ``config.yaml`` without seed, run name and paths to data; ``None`` when there is no such file."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return None
    config = comparable_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    return hashlib.sha256(json.dumps(config, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]


def by_name(trainer: "pl.Trainer", name: str) -> "pl.Callback | None":
    """Find a callback by the name of its class or a base class (importing them all would tie the report to each)."""
    return next((c for c in _callbacks(trainer) if any(kind.__name__ == name for kind in type(c).__mro__)), None)


def _callbacks(trainer: "pl.Trainer") -> "list[pl.Callback]":
    return getattr(trainer, "callbacks", [])  # set by a connector, so unknown to a type checker


def live_settings(trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> dict[str, Any]:
    """Read the hyperparameters from the objects that were used, with the flat keys of the signs brief."""
    data, loss, seed = (
        getattr(trainer, "datamodule", None),
        getattr(pl_module, "loss", None),
        os.environ.get("PL_GLOBAL_SEED"),
    )
    clipping, stopping = by_name(trainer, "GradientClipping"), by_name(trainer, "EarlyStopping")
    batch_size = getattr(data, "batch_size", None)
    patience = getattr(stopping, "patience", None)
    settings: dict[str, Any] = {
        **_optimizer_settings(trainer),
        "loss": type(loss).__name__,
        "loss_settings": _scalars(loss),
        "label_smoothing": getattr(loss, "label_smoothing", 0.0),
        "use_class_weights": getattr(loss, "class_weight", "none") != "none",
        "batch_size": batch_size,
        "batch_size_per_device": -(-batch_size // trainer.world_size) if batch_size else None,
        "max_epochs": trainer.max_epochs,
        "early_stopping_patience": None if patience == sys.maxsize else patience,  # null: it only keeps count
        "early_stopping_monitor": getattr(stopping, "monitor", None),
        "gradient_clip": getattr(clipping, "max_norm", trainer.gradient_clip_val),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": str(trainer.precision),
        "dataset_type": type(data).__name__,
        "device": pl_module.device.type,
        "devices": trainer.num_devices,
        "nodes": trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
        "seed": int(seed) if seed and seed.isdigit() else None,
        "git_commit": git_commit(),
    }
    return {**settings, **pl_module.describe()}  # type: ignore[operator]  # a System


def _optimizer_settings(trainer: "pl.Trainer") -> dict[str, Any]:
    if not trainer.optimizers:
        return {}
    optimizer = trainer.optimizers[0]
    groups = [
        {
            "name": group.get("name"),
            "lr": float(group.get("initial_lr", group["lr"])),
            "weight_decay": group.get("weight_decay"),
            "betas": group.get("betas"),
            "momentum": group.get("momentum"),
            "parameters": sum(parameter.numel() for parameter in group["params"]),
        }
        for group in optimizer.param_groups
    ]
    schedules = [
        {"class": type(config.scheduler).__name__, "interval": config.interval, **_scalars(config.scheduler)}
        for config in trainer.lr_scheduler_configs
    ]
    return {
        "optimizer": type(optimizer).__name__,
        "lr": groups[0]["lr"],
        "weight_decay": groups[0]["weight_decay"],
        "betas": groups[0]["betas"],
        "optimizer_groups": groups,
        "schedule": schedules[0] if schedules else None,
    }


def _scalars(thing: object) -> dict[str, Any]:
    public = (
        {name: value for name, value in vars(thing).items() if not name.startswith("_")} if thing is not None else {}
    )
    return {
        n: v for n, v in public.items() if isinstance(v, SCALARS) and n not in ("training", "last_epoch", "verbose")
    }


def course(trainer: "pl.Trainer", rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Say how the fit went: the best epoch, why it stopped, how long it took.

    Args:
        trainer: The trainer of the fit.
        rows: Rows of the training log, at least one.
    """
    checkpoint, stopping = by_name(trainer, "Checkpoint"), by_name(trainer, "EarlyStopping")
    seconds = [row["seconds"] for row in rows]
    best = getattr(checkpoint, "best_epoch", None)
    at_best = next((row for row in rows if row["epoch"] == best), {})
    reason = getattr(stopping, "reason", "") or (
        "max_epochs reached"
        if trainer.max_epochs and trainer.current_epoch >= trainer.max_epochs
        else "max_steps reached"
        if 0 < trainer.max_steps <= trainer.global_step
        else "stopped"
    )
    return {
        "best_epoch": best,
        "best_value": getattr(checkpoint, "best_model_score", None),
        "monitor": getattr(checkpoint, "monitor", None),
        "best_val_acc": at_best.get("val/accuracy"),
        "best_train_acc": at_best.get("train/accuracy"),
        "epochs_run": len(rows),
        "steps_run": trainer.global_step,
        "stop_reason": reason,
        "fit_seconds": round(sum(seconds), 3),
        "seconds_per_epoch": round(float(np.median(seconds)), 3),
        "training_timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def checks(trainer: "pl.Trainer") -> dict[str, Any]:
    """What the probes and the audit of the split found, when they ran in this process."""
    probes, split = by_name(trainer, "Probes"), by_name(trainer, "StratifiedSplit")
    results, findings = getattr(probes, "results", None), getattr(split, "findings", None)
    found: dict[str, Any] = {"probes": results} if results else {}
    added = getattr(by_name(trainer, "Augmentation"), "counts", None)
    if added:
        found["augmentation"] = added
    if findings is not None:
        shown = ("severity", "kind", "message", "count")
        found["audit"] = [  # some examples only: audit/ has them all
            {name: getattr(f, name) for name in shown if hasattr(f, name)}
            | {"examples": list(getattr(f, "examples", ()))[:EXAMPLES]}
            for f in findings
        ]
    return found


def write_run(trainer: "pl.Trainer", pl_module: "pl.LightningModule", facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``run.json``: what it held before, the model's size, the given facts, and hashes of config and split."""
    folder, data = Path(trainer.default_root_dir), getattr(trainer, "datamodule", None)
    table, describe = getattr(data, "table", None), getattr(data, "describe", None)
    if table is not None:
        table = table.iloc[: getattr(data, "originals", None)]  # rows that an augmentation added are in no split
    run = {
        **files.read_json(folder / "run.json"),
        "system": type(pl_module).__module__.rsplit(".", 1)[-1],
        "total_params": sum(parameter.numel() for parameter in pl_module.parameters()),
        "trainable_params": sum(p.numel() for p in pl_module.parameters() if p.requires_grad),
        **facts,
        "config_hash": config_hash(folder),
        "split_hash": None if table is None else split_hash(table),
        "split": None if table is None else table["part"].value_counts().to_dict(),
        "data": describe() if describe else None,
    }
    files.write_json(folder / "run.json", run)
    return run
