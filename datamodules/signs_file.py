"""Reading and checking `.npz` files of sign or gesture sequences (pure: numpy only).

Layout of a file (N sequences, T frames, F features)::

    X            (N, T, F) numbers           y            (N,) class index
    mask | masks (N, T) bool or 0/1          class_names  (K,) str           [optional]
    groups       (N,) who performed it       split        (N,) str           [optional]
    filenames    (N,) str, used as ids                                       [optional]

Frames that the mask marks as padding are dropped on reading, also in the middle of a sequence (the real frames keep
their order), so that nothing later can depend on what padding contains.
"""

import hashlib
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.errors import DataError

PARTS = ("train", "val", "calib", "test")
CONVERT = (
    'convert it once, in a place where you trust the file: a = dict(np.load(path, allow_pickle=True)); a["{key}"] = '
    'np.array(a["{key}"].tolist()); np.savez(new_path, **a)'
)


@dataclass(frozen=True)
class SignsArrays:
    """Checked sequences without padding.

    Attributes:
        path: Where they come from, for messages.
        frames: (sum of lengths, F) float32, the real frames of all sequences one after the other.
        offsets: (N + 1,) int64; sequence i is `frames[offsets[i]:offsets[i + 1]]`.
        ids: N unique names: the file names, or "row-00012".
        y: (N,) int64 class indices; None when the labels were not asked for.
        class_names: Index to name; None when the labels were not asked for.
        groups: Who performed each sequence; None when unknown.
        split: Part given by the source, one of train, val, calib, test or ""; None when there is none.
    """

    path: str
    frames: np.ndarray
    offsets: np.ndarray
    ids: list[str]
    y: np.ndarray | None = None
    class_names: list[str] | None = None
    groups: list[str] | None = None
    split: list[str] | None = None

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 number of real frames."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1

    def sequence(self, index: int) -> np.ndarray:
        """(T_i, F) float32 view of the real frames of one sequence."""
        return self.frames[self.offsets[index] : self.offsets[index + 1]]

    def hashes(self) -> list[str]:
        """SHA-256 of the bytes of each sequence's real frames; padding does not count."""
        return [hashlib.sha256(self.sequence(i).tobytes()).hexdigest() for i in range(len(self))]


class _Reader:
    """Reads arrays key by key without pickle and collects every problem, so that one error can name them all."""

    def __init__(self, path: Path, archive: np.lib.npyio.NpzFile) -> None:
        self.path, self.archive, self.problems = path, archive, list[str]()

    def problem(self, key: str, text: str) -> None:
        self.problems.append(f"{key}: {text}")

    def read(self, key: str) -> np.ndarray | None:
        """The array, or None after noting why it cannot be had."""
        try:
            return self.archive[key]
        except KeyError:
            self.problem(key, f"missing (the file has {', '.join(self.archive.files) or 'nothing'}); add it")
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            if "Object arrays" in str(error):
                self.problem(key, f"is an object array, refused as reading it can run code; {CONVERT.format(key=key)}")
            else:
                self.problem(key, f"damaged or cut short ({error}); copy or download the file again")
        return None

    def texts(self, key: str, n: int, unit: str) -> list[str] | None:
        """`n` strings (numbers are spelt out), or None when the key is absent or refused."""
        if key not in self.archive.files or (array := self.read(key)) is None:
            return None
        if array.shape != (n,):
            self.problem(key, f"has shape {array.shape}, expected ({n},): one entry per {unit}")
            return None
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8")
        if array.dtype.kind not in "Uiu":
            self.problem(key, f"has type {array.dtype}, expected strings or integers")
            return None
        return [str(value) for value in array.tolist()]


def read_signs(path: str | Path, label_key: str = "y", group_key: str = "groups", labels: bool = True) -> SignsArrays:
    """Read one file, check all of it, and drop the padding.

    Args:
        path: The `.npz` file.
        label_key: Key of the class indices; the names are in `class_names` for "y", else in `<label_key>_names`;
            without names the indices are the names.
        group_key: Key of the performer, or of whatever may not be on two sides of a split.
        labels: False reads neither labels nor class names (prediction on new data).

    Raises:
        DataError: One error that lists everything wrong with the file, with keys, first rows and the mend.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of an .npz file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an .npz file, or cut short; copy it again, or write it with np.savez")
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be opened ({error}); copy or download the file again") from error
    with archive:
        reader = _Reader(path, archive)
        arrays = _read_arrays(reader, label_key, group_key, labels)
    if reader.problems or arrays is None:
        problems = "\n".join(f"  - {text}" for text in reader.problems)
        raise DataError(f"{path}: {len(reader.problems)} problem(s)\n{problems}")
    return arrays


def _read_arrays(reader: _Reader, label_key: str, group_key: str, labels: bool) -> SignsArrays | None:
    x = _read_x(reader)
    mask = _read_mask(reader, x)
    n = len(x) if x is not None else len(mask) if mask is not None else None
    if n is None:
        return None
    y, class_names = _read_labels(reader, label_key, n) if labels else (None, None)
    groups = reader.texts(group_key, n, "sequence")
    if group_key != "groups" and group_key not in reader.archive.files:
        reader.problem(group_key, f"missing, but it was asked for (the file has {', '.join(reader.archive.files)})")
    split = reader.texts("split", n, "sequence")
    if split and (wrong := [i for i, word in enumerate(split) if word not in (*PARTS, "")]):
        reader.problem("split", f"unknown word {split[wrong[0]]!r} in {_rows(wrong)}; use one of {', '.join(PARTS)}")
    ids = reader.texts("filenames", n, "sequence")
    if ids is not None and len(set(ids)) < n:
        twice = sorted(set(range(n)) - set(np.unique(ids, return_index=True)[1].tolist()))
        reader.problem("filenames", f"{ids[twice[0]]!r} repeated in {_rows(twice)}; names are ids and must be unique")
    if x is None or mask is None:
        return None
    frames = _real_frames(reader, x, mask)
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    ids = ids or [f"row-{i:05d}" for i in range(n)]
    return SignsArrays(str(reader.path), frames, offsets, ids, y, class_names, groups, split)


def _read_x(reader: _Reader) -> np.ndarray | None:
    x = reader.read("X")
    if x is None:
        return None
    if x.ndim != 3 or 0 in x.shape:
        reader.problem("X", f"has shape {x.shape}, expected (N, T, F): sequences, frames, features, none of them empty")
    elif x.dtype.kind not in "fiu":
        reader.problem("X", f"has type {x.dtype}, expected numbers; save X.astype(np.float32)")
    else:
        return x
    return None


def _read_mask(reader: _Reader, x: np.ndarray | None) -> np.ndarray | None:
    """(N, T) bool; problems are noted, and None is returned when the mask cannot be used with X."""
    key = "masks" if "masks" in reader.archive.files and "mask" not in reader.archive.files else "mask"
    mask = reader.read(key)
    if mask is None:
        return None
    if mask.ndim != 2 or (x is not None and mask.shape != x.shape[:2]):
        wanted = "(N, T)" if x is None else f"X.shape[:2] = {x.shape[:2]}"
        reader.problem(key, f"has shape {mask.shape}, expected {wanted}: one entry per frame of X")
        return None
    if mask.dtype != bool and (mask.dtype.kind not in "fiu" or not np.isin(mask, (0, 1)).all()):
        reader.problem(key, f"has type {mask.dtype} with values other than 0 and 1; True or 1 marks a real frame")
        return None
    mask = mask.astype(bool, copy=False)
    if len(empty := np.flatnonzero(~mask.any(axis=1))):
        reader.problem(key, f"no real frame in {_rows(empty)}; leave these sequences out, or mend their mask")
    if x is not None:
        _check_meaning(reader, key, x, mask)
    return mask


def _check_meaning(reader: _Reader, key: str, x: np.ndarray, mask: np.ndarray) -> None:
    """An inverted mask, and one mask copied to all sequences: both train without a complaint otherwise."""
    filled = x.any(axis=2)  # NaN counts as filled
    inverted = mask.any(axis=1) & ~(filled & mask).any(axis=1) & (filled & ~mask).any(axis=1)
    if inverted.any():
        where = _rows(np.flatnonzero(inverted))
        reader.problem(key, f"looks inverted in {where}: all real frames are zero, padding is not; save ~mask")
    if len(mask) > 1 and not mask.all() and (mask == mask[0]).all():
        warnings.warn(
            f"{reader.path}: {key} is the same for all {len(mask)} sequences although some frames are padding; "
            "was one mask copied to all of them? Write one row per sequence",
            stacklevel=5,
        )


def _read_labels(reader: _Reader, key: str, n: int) -> tuple[np.ndarray | None, list[str] | None]:
    y = reader.read(key)
    names_key = "class_names" if key == "y" else f"{key}_names"
    names: list[str] | None = None
    if names_key in reader.archive.files and (array := reader.read(names_key)) is not None:
        if array.ndim != 1:
            reader.problem(names_key, f"has shape {array.shape}, expected (K,)")
        else:
            names = reader.texts(names_key, len(array), "class")
    if names is not None and "" in names:
        reader.problem(names_key, f"name {names.index('')} is empty, which means unlabelled; give every class a name")
    if names is not None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        reader.problem(names_key, f"{twice!r} stands for two classes; names must be unique")
    if y is None:
        return None, names
    if y.shape != (n,):
        reader.problem(key, f"has shape {y.shape}, expected ({n},): one label per sequence of X")
        return None, names
    if y.dtype.kind not in "iuf":
        mend = "class_names, y = np.unique(y, return_inverse=True) makes them"
        reader.problem(key, f"has type {y.dtype}, expected class indices; {mend}")
        return None, names
    if len(wrong := np.flatnonzero(y != np.floor(y))) or len(wrong := np.flatnonzero(~np.isfinite(y))):
        reader.problem(key, f"not a whole number in {_rows(wrong)} (first: {y[wrong[0]]}); class indices start at 0")
        return None, names
    limit = len(names) if names is not None else n
    if len(wrong := np.flatnonzero((y < 0) | (y >= limit))):
        few = f"{names_key} has {limit} names" if names is not None else f"{n} sequences and no {names_key}"
        reader.problem(key, f"label {y[wrong[0]]} out of range in {_rows(wrong)}; {few}: expected 0..{limit - 1}")
        return None, names
    return y.astype(np.int64), names or [str(i) for i in range(int(y.max()) + 1)]


def _real_frames(reader: _Reader, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(sum of lengths, F) float32: the only copy of the data that is kept."""
    with np.errstate(over="ignore"):  # a float64 value beyond float32 becomes inf and is reported below
        frames = np.ascontiguousarray(x[mask], dtype=np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(frames).all(axis=1))):
        rows, places = np.nonzero(mask)
        first = f"row {rows[bad[0]]} frame {places[bad[0]]}"
        where = _rows(np.unique(rows[bad]))
        reader.problem("X", f"NaN or infinity in {len(bad)} real frame(s), first {first} ({where}); fill or mask them")
    return frames


def _rows(rows: np.ndarray | list[int], shown: int = 5) -> str:
    """For messages: "rows 3, 8, 11 ... (40 in all)"."""
    first = ", ".join(str(int(row)) for row in rows[:shown])
    return f"row{'s' if len(rows) > 1 else ''} {first}" + (f" ... ({len(rows)} in all)" if len(rows) > shown else "")
