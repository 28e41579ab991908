"""The brief's arrays of windows: `train_sequences.npz`, `val_sequences.npz`, `test_sequences.npz`, read and written.

    continuous      (N, T, C) float32    readings, scaled by whoever made the file
    categorical     (N, T, 4) int        codes of stat, unit, dist, coor
    tokens          (N, L) int           ids of the target line, padded with 0
    operation_type  (N,) int             class, in the order of `OPERATIONS`
    gcode_texts     (N,) str             the target line; read where it is no object array
    lengths, operation_type_names        written, and not needed

Nothing says which recording a window comes from. Windows that share a row of readings overlap, and so come from one
recording: that is their group, and a split that puts such windows on two sides is found by the audit.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.gcode_recordings import NO_TEXT, OPERATIONS, Recording, make_recording
from modules.gcode_tokens import PAD, TokenError, Vocabulary, canonical

PARTS = ("train", "val", "test")
NUMERIC = ("continuous", "categorical", "tokens", "operation_type")
BOARD = "npz"  # of channels without a name
VOCABULARY = "vocabulary.json"


def is_npz(path: Path) -> bool:
    """Tell whether a folder holds such arrays."""
    return any((path / f"{part}_sequences.npz").is_file() for part in PARTS)


def read_npz(path: Path, window: int, vocabulary: str | None) -> list[Recording]:
    """Read the three files; each window becomes a recording of its own, with the part that its file gives.

    Args:
        path: Folder.
        window: Rows that a window must have.
        vocabulary: JSON file that the tokens were made with; needed where the texts cannot be read.

    Raises:
        DataError: Naming the file, the key and the mend.
    """
    words = None
    if vocabulary is not None:
        try:
            words = Vocabulary.load(vocabulary)
        except (TokenError, OSError) as error:
            raise DataError(f"{vocabulary}: no vocabulary in the brief's form ({error})") from error
    files = {part: path / f"{part}_sequences.npz" for part in PARTS}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise DataError(
            f"{path}: {missing[0]} is missing; the three files are {', '.join(f.name for f in files.values())}"
        )
    parts = {part: _read_part(file, window, words) for part, file in files.items()}
    widths = {part: arrays["continuous"].shape[2] for part, arrays in parts.items()}
    if len(set(widths.values())) > 1:
        raise DataError(f"{path}: the files have different numbers of channels: {widths}; make them in one go")
    groups = overlapping(np.concatenate([arrays["continuous"] for arrays in parts.values()]))
    found: list[Recording] = []
    for part, arrays in parts.items():
        found += _windows(part, arrays, groups[len(found) : len(found) + len(arrays["continuous"])])
    return found


def _read_part(file: Path, window: int, words: Vocabulary | None) -> dict[str, np.ndarray]:
    """Read and check one file; `texts` is added."""
    try:
        with open(file, "rb") as raw, np.load(raw, allow_pickle=False) as archive:
            names = archive.files
            if missing := [key for key in NUMERIC if key not in names]:
                raise DataError(f"{file}: key {missing[0]} is missing ({', '.join(names) or 'nothing'} is there); "
                                f"{', '.join(NUMERIC)} are needed")  # fmt: skip
            arrays = {key: archive[key] for key in NUMERIC}
            texts = _texts(archive, file, arrays["tokens"], words)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        mend = "keep numbers only; object arrays are refused, as reading them can run code"
        raise DataError(f"{file}: cannot be read ({error}); {mend}") from error
    rows = len(arrays["continuous"])
    shapes = {"continuous": 3, "categorical": 3, "tokens": 2, "operation_type": 1}
    for key, rank in shapes.items():
        array = arrays[key]
        if array.ndim != rank or len(array) != rows or array.dtype.kind not in ("f" if key == "continuous" else "iu"):
            raise DataError(f"{file}: {key} has shape {array.shape} and type {array.dtype}; expected {rank} axes, "
                            f"{rows} windows, {'float' if key == 'continuous' else 'integer'} values")  # fmt: skip
    if arrays["continuous"].shape[1] != window or arrays["categorical"].shape[1:] != (window, 4):
        raise DataError(f"{file}: windows have {arrays['continuous'].shape[1]} rows, codes the shape (rows, codes) "
                        f"{arrays['categorical'].shape[1:]}; set --data.window to the rows")  # fmt: skip
    if len(bad := np.flatnonzero((arrays["operation_type"] < 0) | (arrays["operation_type"] >= len(OPERATIONS)))):
        raise DataError(f"{file}: operation_type {arrays['operation_type'][bad[0]]} in row {bad[0]} is none of 0.."
                        f"{len(OPERATIONS) - 1}: {', '.join(OPERATIONS)}")  # fmt: skip
    return {**arrays, "texts": texts}


def _texts(archive: Mapping[str, np.ndarray], file: Path, tokens: np.ndarray, words: Vocabulary | None) -> np.ndarray:
    """(N,) target lines: the texts where they can be read, else from the tokens; "" where a token is unknown."""
    try:
        stored = archive["gcode_texts"]
        if stored.dtype.kind == "U" and len(stored) == len(tokens):
            return np.array([canonical(str(text)) for text in stored], dtype=object)
    except TokenError as error:
        raise DataError(f"{file}: gcode_texts: {error}") from error
    except (KeyError, ValueError):  # not there, or an object array, which is not read
        pass
    if words is None:
        raise DataError(f"{file}: gcode_texts cannot be read (not there, or an object array): give the vocabulary "
                        "that the tokens were made with, --data.vocabulary")  # fmt: skip
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(words):
        raise DataError(f"{file}: tokens lie in {tokens.min()}..{tokens.max()}, but the vocabulary has {len(words)} "
                        "entries: give the one that they were made with")  # fmt: skip
    lines = []
    for row in tokens.tolist():
        text = words.decode(row)
        try:
            lines.append(canonical(text))
        except TokenError:  # an unknown word of the brief's vocabulary: nobody can say what the line was
            lines.append("")
    return np.array(lines, dtype=object)


def _windows(part: str, arrays: Mapping[str, np.ndarray], groups: np.ndarray) -> list[Recording]:
    columns = tuple(f"{BOARD}.c{i:03d}" for i in range(arrays["continuous"].shape[2]))
    window = arrays["continuous"].shape[1]
    seconds, line = np.arange(window) * 0.25, np.full(window, -1, np.int64)
    found = []
    for i, text in enumerate(arrays["texts"]):
        found.append(
            make_recording(
                f"{part}/{i:05d}",
                OPERATIONS[int(arrays["operation_type"][i])],
                columns,
                arrays["continuous"][i].astype(np.float32),
                arrays["categorical"][i].astype(np.int64),
                seconds,
                line,
                np.full(window, 0 if text else NO_TEXT, np.int64),
                (str(text),) if text else (),
                group=f"recording-{groups[i]:04d}",
                given=part,
            )
        )
    return found


def overlapping(windows: np.ndarray) -> np.ndarray:
    """(N,) number of a group: windows (N, T, C) that share a row of readings, directly or through others."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count, rows, width = windows.shape
    flat = np.ascontiguousarray(windows, dtype=np.float32).reshape(count * rows, width)
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 2**63, size=width, dtype=np.uint64) | np.uint64(1)
    with np.errstate(over="ignore"):
        hashes = (flat.view(np.uint32).astype(np.uint64) * keys).sum(axis=1, dtype=np.uint64)
    told = flat.min(axis=1) < flat.max(axis=1)  # a row of one value, such as zeros, says nothing
    _, row = np.unique(hashes[told], return_inverse=True)
    window = np.repeat(np.arange(count), rows)[told]
    size = count + (int(row.max()) + 1 if len(row) else 0)
    graph = coo_matrix((np.ones(len(row), bool), (window, count + row)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:count]


def write_npz(
    folder: Path,
    part: str,
    *,
    values: np.ndarray,
    codes: np.ndarray,
    tokens: np.ndarray,
    texts: Sequence[str],
    operations: Sequence[str],
) -> Path:
    """Write one file, complete or not at all.

    Args:
        folder: Where.
        part: train, val or test.
        values: (N, T, C) scaled readings.
        codes: (N, T, 4) indices of codes.
        tokens: (N, L) ids without the end, padded with 0.
        texts: N target lines.
        operations: N classes.

    Raises:
        DataError: A class without a number in the brief's order.
    """
    if unknown := sorted(set(operations) - set(OPERATIONS)):
        raise DataError(f"{unknown[0]}: the brief's arrays number the nine operations {', '.join(OPERATIONS)} only")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}_sequences.npz"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                continuous=values,
                categorical=codes,
                tokens=tokens,
                lengths=np.full(len(values), values.shape[1], np.int64),
                gcode_texts=np.array(list(texts), dtype=str),
                operation_type=np.array([OPERATIONS.index(name) for name in operations], dtype=np.int64),
                operation_type_names=np.array(OPERATIONS, dtype=str),
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> Path:
    """Write a vocabulary in the brief's form beside the arrays."""
    content = {"config": {"bucket_digits": vocabulary.digits}, "vocab": vocabulary.ids}
    path = folder / VOCABULARY
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def padded(tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """(N, L) int64: rows of ids, PAD after each."""
    out = np.full((len(tokens), max(map(len, tokens), default=0)), PAD, np.int64)
    for row, ids in zip(out, tokens, strict=True):
        row[: len(ids)] = ids
    return out
