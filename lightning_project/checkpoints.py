"""The config wins over a checkpoint, and says where they differ."""

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from callbacks.checkpoint import read_checkpoint
from datamodules.errors import DataError


def prefer_config(model: Namespace, path: str) -> None:
    """Fill settings that the config leaves open from a checkpoint; print those on which the two differ.

    Args:
        model: The ``model`` part of the config (class_path, init_args); filled in place.
        path: Checkpoint.

    Raises:
        DataError: When the checkpoint is of another class.
    """
    saved = read_checkpoint(path).get("hyper_parameters", {})
    if saved.get("_class_path", model.class_path) != model.class_path:
        raise DataError(f"{path} is of {saved['_class_path']}, the config asks for {model.class_path}: use its config")
    for key, value in saved.items():
        if key.startswith("_") or key not in model.init_args:
            continue
        given = _plain(model.init_args[key])
        if given is None and value is not None and not isinstance(value, dict):
            model.init_args[key] = value
        elif given != _plain(value):
            rank_zero_info(f"model.{key}: the config's {given} is used; the checkpoint had {_plain(value)}")


def _plain(value: Any) -> Any:  # noqa: ANN401  # whatever a config may hold
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    return value
