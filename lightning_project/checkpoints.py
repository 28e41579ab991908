"""The config wins over a checkpoint, and says where they differ."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoint import read_checkpoint
from datamodules.errors import DataError

_OF_ONE_CALL = ("path", "predict_path", "predict_part", "batch_size", "num_workers")


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
        given, had = _flat(key, model.init_args[key]), _flat(key, value)
        if model.init_args[key] is None and value is not None and not isinstance(value, dict):
            model.init_args[key] = value
            continue
        for name in sorted(given.keys() | had.keys()):
            if given.get(name) != had.get(name):
                _say(f"model.{name}: the config's {given.get(name)} is used; the checkpoint had {had.get(name)}")


def say_changed_data(data: Namespace, kept: Path) -> None:
    """Print where the data settings differ from those of the run that was trained; the config's are used.

    Args:
        data: The ``data`` part of the config.
        kept: Config of the run; nothing is compared where there is none.
    """
    if not kept.is_file():
        return
    trained = yaml.safe_load(kept.read_text(encoding="utf-8")).get("data", {}).get("init_args", {})
    for key in sorted((trained.keys() & set(data.init_args.keys())) - set(_OF_ONE_CALL)):
        given, had = (_flat(key, _plain(value)) for value in (data.init_args[key], trained[key]))
        for name in sorted(given.keys() | had.keys()):
            if given.get(name) != had.get(name):
                _say(f"data.{name}: the config's {given.get(name)} is used; the run was trained with {had.get(name)}")


def _plain(value: Any) -> Any:  # noqa: ANN401  # whatever a config may hold
    """Return mappings and lists in place of namespaces and tuples, and no empty arguments."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None and inner != {}}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _flat(name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401  # whatever a config may hold
    """Return the settings under a key, by their dotted names; a tuple of the config is a list in a checkpoint."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {path: leaf for key, inner in value.items() for path, leaf in _flat(f"{name}.{key}", inner).items()}
    return {name: list(value) if isinstance(value, tuple) else value}


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
