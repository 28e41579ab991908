"""Cleaned recordings kept on disk as arrays that are memory-mapped: files are read and cleaned once.

An entry is named by the content of its file and by the version of the cleaning, so that a changed file is read anew and
a renamed one is not. It is written whole or not at all; what is there already is not made again, and so a preparation
that was stopped goes on where it was.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.gcode_recordings import Recording, read_recording, recording_name, split_name

VERSION = 1  # of the cleaning; a higher one makes all entries anew
_ARRAYS = ("codes", "seconds", "line", "text")


@dataclass
class Counts:
    """What a preparation did.

    Attributes:
        made: Entries that were made.
        found: Entries that were there.
        rows: Rows of all.
    """

    made: int = 0
    found: int = 0
    rows: int = 0


def read_prepared(
    files: Sequence[Path], folder: str | Path, labelled: bool = True, counts: Counts | None = None
) -> list[Recording]:
    """Return the recordings of some files, their readings memory-mapped from a folder; what is missing there is made.

    Args:
        files: CSV or Parquet.
        folder: Where the arrays lie; made when missing.
        labelled: Whether names have to say the operation and texts have to be there.
        counts: Is told what was done.

    Raises:
        DataError: A file cannot be used, or the folder cannot be written to.
    """
    counts = counts if counts is not None else Counts()
    with _kept_in(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return list(_entries(files, Path(folder), labelled, counts))


@contextmanager
def _kept_in(folder: str | Path) -> Iterator[None]:
    """Say what is wrong with a folder that cannot be written to."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot keep prepared arrays ({error.strerror}); name another folder") from error


def _entries(files: Sequence[Path], folder: Path, labelled: bool, counts: Counts) -> Iterator[Recording]:
    for file in tqdm(files, "recordings", disable=None, leave=False):
        base = folder / key_of(file, labelled)
        found = load(base)
        if found is None:
            recording = read_recording(file, labelled)
            with _kept_in(folder):
                save(recording, base)
            found = load(base)
            assert found is not None
            counts.made += 1
        else:
            counts.found += 1
        counts.rows += len(found)
        name, operation = split_name(file) if labelled else (recording_name(file), "")
        yield replace(found, name=name, operation=operation)


def key_of(file: Path, labelled: bool) -> str:
    """Return the name of the entry of a file."""
    total = hashlib.sha256(f"{VERSION} {labelled} {file.suffix}\n".encode())
    with open(file, "rb") as raw:
        while piece := raw.read(1 << 20):
            total.update(piece)
    return total.hexdigest()[:32]


def save(recording: Recording, base: Path) -> None:
    """Write an entry; its second file is the last to appear, and says that it is complete."""
    facts = {"columns": recording.columns, "texts": recording.texts, "hash": recording.hash, "notes": recording.notes}
    arrays = {name: getattr(recording, name) for name in _ARRAYS}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    for path, write in (
        (base.with_suffix(".npy"), lambda file: np.save(file, recording.values)),
        (base.with_suffix(".npz"), lambda file: np.savez(file, facts=text, **arrays)),
    ):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(temporary, "wb") as file:
                write(file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def load(base: Path) -> Recording | None:
    """Return an entry, or None where there is none; a damaged one counts as none and is made again."""
    try:
        with open(base.with_suffix(".npz"), "rb") as raw, np.load(raw, allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            arrays = {name: file[name] for name in _ARRAYS}
        values = np.load(base.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if values.shape != (len(arrays["seconds"]), len(facts["columns"])):
        return None
    return Recording("", "", tuple(facts["columns"]), values, **arrays, texts=tuple(facts["texts"]),
                     hash=facts["hash"], notes=facts["notes"])  # fmt: skip
