"""Files of a run folder: atomic writers, the stored predictions, and the facts that go into the JSON files.

Every writer makes a temporary file in the target's folder and moves it over the target, so that a reader (or a
killed run) sees the old file or the new one and never a half-written one.
"""

import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from safetensors.torch import save as safetensors_bytes

from datamodules.errors import DataError

if TYPE_CHECKING:  # reading a run folder must not cost the import of lightning
    import lightning.pytorch as pl

PACKAGES = (
    "torch",
    "lightning",
    "torchmetrics",
    "numpy",
    "pandas",
    "scikit-learn",
    "matplotlib",
    "safetensors",
    "wandb",
)
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


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file atomically and durably; folders are made as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)  # mkstemp makes private files; a report is as readable as any other file
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text."""
    return write_bytes(path, text.encode("utf-8"))


def plain(value: object) -> object:
    """Turn numpy and torch scalars, paths and tuples into plain JSON values; NaN and infinity become ``None``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def write_json(path: str | Path, value: object) -> Path:
    """Write indented JSON without NaN (which JSON does not know)."""
    return write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object, or an empty one when the file does not exist."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_csv(path: str | Path, frame: pd.DataFrame, header: bool = True, index: bool = False) -> Path:
    """Write comma-separated UTF-8 with floats in full precision."""
    return write_text(path, frame.to_csv(header=header, index=index, lineterminator="\n"))


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a compressed npz of plain arrays; object arrays are refused because reading them runs code."""
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"array {key!r} for {Path(path).name} holds Python objects; convert it to str or numbers")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    return write_bytes(path, buffer.getvalue())


def write_figure(path: str | Path, figure: Figure, dpi: int = 150) -> Path:
    """Write a figure as PNG without the software's name in it, so that equal pictures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.2, metadata={"Software": None})
    return write_bytes(path, buffer.getvalue())


def write_weights(path: str | Path, state: Mapping[str, torch.Tensor]) -> Path:
    """Write a state dict as safetensors; tensors that share memory are written once each."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return write_bytes(path, safetensors_bytes(copies))


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of one part of the data, in the order of the records.

    Attributes:
        id: (N,) record names. group: (N,) resampling units. y: (N,) int64 class index, -1 = unlabelled.
        prob: (N, C) float32. class_names: (C,).
    """

    id: np.ndarray
    group: np.ndarray
    y: np.ndarray
    prob: np.ndarray
    class_names: np.ndarray

    def labelled(self) -> "Predictions":
        """Leave out the rows without a label (-1); a class that training never saw (-2) stays, as an error."""
        keep = self.y != -1
        return Predictions(self.id[keep], self.group[keep], self.y[keep], self.prob[keep], self.class_names)

    def save(self, path: str | Path) -> Path:
        """Write the npz of the run folder."""
        text = {name: np.asarray(getattr(self, name), dtype=str) for name in ("id", "group", "class_names")}
        return write_npz(path, {**text, "y": self.y.astype(np.int64), "prob": self.prob.astype(np.float32)})

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read an npz written by ``save``.

        Raises:
            DataError: The file is missing, is not such an npz, or its arrays do not fit together.
        """
        try:
            # through open(): a broken archive would otherwise keep numpy's own handle
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = cls(**{name: file[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a predictions file ({error}); run `test` again to write it") from error
        if found.prob.shape != (len(found.id), len(found.class_names)) or len(found.y) != len(found.id):
            raise DataError(f"{path}: prob {found.prob.shape} does not fit {len(found.id)} ids; run `test` again")
        return found


def comparable_config(config: object) -> object:
    """Drop from a resolved config what may differ between two seeds of one configuration."""
    if isinstance(config, dict):
        dropped = {key for key in config if key in SEED_KEYS or (key.endswith(PATH_KEYS) and key != "class_path")}
        return {key: comparable_config(config[key]) for key in sorted(config) if key not in dropped}
    return [comparable_config(item) for item in config] if isinstance(config, list) else config


def config_hash(run_dir: Path) -> str | None:
    """Hash ``config.yaml`` without seed, run name and paths to data; ``None`` when there is no such file."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return None
    config = comparable_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    return hashlib.sha256(json.dumps(config, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]


def git_commit() -> str | None:
    """Return the commit of this source tree (with ``-dirty`` when it has changes), if it is a repository."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def environment() -> dict[str, object]:
    """Collect versions and hardware; no host name, no user name and no path."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
    clip = next(
        (getattr(clipping, n) for n in ("max_norm", "clip_norm", "norm") if hasattr(clipping, n)),
        trainer.gradient_clip_val,
    )
    settings: dict[str, Any] = {
        **_optimizer_settings(trainer),
        "loss": type(loss).__name__,
        "loss_settings": _scalars(loss),
        "label_smoothing": getattr(loss, "label_smoothing", 0.0),
        "use_class_weights": getattr(loss, "class_weight", "none") != "none",
        "batch_size": batch_size,
        "batch_size_per_device": batch_size // trainer.world_size if batch_size else None,
        "max_epochs": trainer.max_epochs,
        "early_stopping_patience": getattr(stopping, "patience", None),
        "early_stopping_monitor": getattr(stopping, "monitor", None),
        "gradient_clip": clip,
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
    return {**settings, **_describe(pl_module)}


def _describe(pl_module: Any) -> dict[str, Any]:  # noqa: ANN401  # a System, known by its attributes only
    return pl_module.describe()


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


def checks(trainer: "pl.Trainer") -> dict[str, Any]:
    """What the probes and the audit of the split found, when they ran in this process."""
    probes, split = by_name(trainer, "Probes"), by_name(trainer, "StratifiedSplit")
    results, findings = getattr(probes, "results", None), getattr(split, "findings", None)
    found: dict[str, Any] = {"probes": results} if results else {}
    if findings is not None:
        shown = ("severity", "kind", "message", "count")  # without the lists of records: those are in audit/
        found["audit"] = [{name: getattr(f, name) for name in shown if hasattr(f, name)} for f in findings]
    return found
