"""The encoder network of a `gcode_encoder` run, for the second stage: plain settings and weights, never code."""

import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from modules.base import ClassMapError
from modules.nets.gcode_encoder import Encoder, build_encoder

_SETTINGS = (
    *("architecture", "input_dim", "num_classes", "categories", "missing", "width", "layers"),
    *("dropout", "input_dropout", "head_width"),
)


@dataclass(frozen=True)
class EncoderRun:
    """What a trained first stage left.

    Attributes:
        path: Its checkpoint.
        settings: Of its network, as JSON.
        weights: Of its network.
        class_names: Its operations, in the order of their ids.
        split: Hash of the split it was trained on, or "".
        channels: Names of its channels, in their order; empty where the checkpoint has none.
    """

    path: Path
    settings: str
    weights: dict[str, Tensor]
    class_names: list[str]
    split: str
    channels: list[str]


def read_encoder_run(run: str | None) -> EncoderRun:
    """Read a run folder (its best checkpoint) or a checkpoint.

    Raises:
        ClassMapError: There is none, or it is of another system.
    """
    if run is None:
        raise ClassMapError("no encoder: set model.encoder to the run folder of a trained gcode_encoder")
    given = Path(run)
    path = given / "checkpoints" / "best.ckpt" if given.is_dir() else given
    if not path.is_file():
        raise ClassMapError(f"no encoder at {path}: set model.encoder to the run folder of a trained gcode_encoder")
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ClassMapError(f"{path} is no checkpoint of tensors and plain values: use another ({error})") from error
    settings = saved.get("hyper_parameters", {}) if isinstance(saved, dict) else {}
    if any(name not in settings for name in _SETTINGS) or "reconstruction" not in settings:
        raise ClassMapError(f"{path} is no checkpoint of gcode_encoder: name the run folder of one")
    chosen = {name: settings[name] for name in _SETTINGS} | {"reconstruction": settings["reconstruction"] > 0}
    hashes = [state["split_hash"] for state in saved.get("callbacks", {}).values() if "split_hash" in state]
    columns = saved.get("GcodeData", {}).get("columns", {})
    return EncoderRun(
        path=path,
        settings=json.dumps(chosen | {"categories": list(chosen["categories"])}),
        weights={name[4:]: x for name, x in saved["state_dict"].items() if name.startswith("net.")},
        class_names=list(saved["class_names"]),
        split=hashes[0] if hashes else "",
        channels=list(columns.get("names", [])),
    )


def build_from(settings: str, reconstruction: bool) -> Encoder:
    """Build the network of :class:`EncoderRun`'s settings; without the reconstruction where nothing trains it."""
    chosen = json.loads(settings)
    return build_encoder(**chosen | {"reconstruction": chosen["reconstruction"] and reconstruction})
