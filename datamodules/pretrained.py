"""What pretrained models on disk have in common: the identity of their weights, and a lock for what is made once."""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import cached_file

from datamodules.errors import DataError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def weights_hash(source: str) -> str:
    """SHA-256 of the files of weights and of the configuration of a local folder or of a hub id.

    Raises:
        DataError: They cannot be read.
    """
    total = hashlib.sha256()
    for path in [*_weight_files(source), _file(source, "config.json")]:
        with open(str(path), "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock; it ends with the process, so none is left behind by a kill."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _file(source: str, name: str) -> str | None:
    found: str | None = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    return found


def _weight_files(source: str) -> list[str]:
    """Find the file of weights, or the shards that an index lists."""
    try:
        name, path = next(((n, p) for n in _WEIGHTS if (p := _file(source, n)) is not None), ("", None))
        if path is None:
            raise OSError(f"none of {', '.join(_WEIGHTS)} is there")
        if not name.endswith(".index.json"):
            return [path]
        shards = sorted(set(json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"].values()))
        found = [_file(source, shard) for shard in shards]
        return [path, *(str(shard) for shard in found if shard is not None)]
    except (OSError, ValueError) as error:
        raise DataError(unreadable(source, error)) from error


def unreadable(source: str, error: Exception) -> str:
    """Say in one line that a model cannot be read, and what to do."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"the model {source!r} cannot be read ({first}); name a local folder, or a hub id while online"
