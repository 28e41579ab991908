"""Pictures decoded once, at the size that training needs, in one file that every process maps into its memory.

A folder holds `pixels.bin`, the pictures one behind the other, and `index.csv`, which says for each file when and how
large it was and which picture it is. Files with the same content share a picture. Pixels are written first and the
index is replaced last, under a lock, so that a killed process leaves nothing wrong and several may share a folder.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.plants_images import BadPicture, Box, Framing, Interpolation, decode, framed
from datamodules.pretrained import locked

CHUNK = 256  # pictures in memory at a time
_INDEX = ("key", "stamp", "hash", "row")


@dataclass(frozen=True)
class Decoded:
    """What became of some pictures.

    Attributes:
        rows: (n,) row of ``pixels``; -1 for one that could not be used.
        hashes: SHA-256 of the bytes; "" for one that could not be read.
        problems: Why one could not be used; "" for the others.
        pixels: (M, 3, S, S) uint8, mapped from the file.
        read: How many had to be decoded now.
    """

    rows: np.ndarray
    hashes: list[str]
    problems: list[str]
    pixels: np.ndarray
    read: int


class DecodedImages:
    """A folder of decoded pictures of one size and framing.

    Args:
        folder: Where; a folder inside of it is made for each size, framing, interpolation and limits of the sides.
        size: Side S of a picture in pixels.
        framing: See :func:`datamodules.plants_images.framed`.
        interpolation: How pictures are scaled.
        min_side: Least pixels of the shorter side.
        max_side: Most pixels of the longer side.
        smart_box: See :func:`datamodules.plants_images.framed`.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        framing: Framing,
        interpolation: Interpolation,
        min_side: int,
        max_side: int,
        smart_box: Callable[[np.ndarray], Box] | None = None,
    ) -> None:
        self.size, self.framing, self.interpolation = size, framing, interpolation
        self.min_side, self.max_side, self.smart_box = min_side, max_side, smart_box
        # all that decides what a picture becomes, or whether it is refused
        self.folder = Path(folder) / f"{framing}-{size}-{interpolation}-{min_side}-{max_side}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot hold decoded pictures ({error.strerror}); name another folder with "
                            "--data.decoded") from error  # fmt: skip

    def take(self, keys: Sequence[str], stamps: Sequence[str], read: Callable[[int], bytes]) -> Decoded:
        """Return pictures, decoding those that are not here yet.

        Args:
            keys: n names of files.
            stamps: What changes when a file does, such as its size and time; "" for one that does not exist.
            read: From a position to the bytes of a file.
        """
        with locked(self.folder / ".lock"):
            index = self._index()
            known = {(key, stamp): (file_hash, row) for key, stamp, file_hash, row in index.itertuples(index=False)}
            row_of = dict(zip(index["hash"], index["row"], strict=True))
            rows, hashes, problems = np.full(len(keys), -1, np.int64), [""] * len(keys), [""] * len(keys)
            fresh: list[int] = []
            for i, (key, stamp) in enumerate(zip(keys, stamps, strict=True)):
                if (key, stamp) in known:
                    hashes[i], rows[i] = known[key, stamp]
                elif stamp:
                    fresh.append(i)
                else:
                    problems[i] = "the file does not exist"
            if fresh:
                self._decode(fresh, read, rows, hashes, problems, row_of)
                added = [(keys[i], stamps[i], hashes[i], int(rows[i])) for i in fresh if rows[i] >= 0]
                self._store(pd.concat([index, pd.DataFrame(added, columns=list(_INDEX))], ignore_index=True))
        return Decoded(rows, hashes, problems, self._pixels(len(row_of)), len(fresh))

    def _decode(
        self,
        fresh: list[int],
        read: Callable[[int], bytes],
        rows: np.ndarray,
        hashes: list[str],
        problems: list[str],
        row_of: dict[str, int],
    ) -> None:
        """Decode into the file, behind what the index knows; fills ``rows``, ``hashes``, ``problems``, ``row_of``."""
        each = 3 * self.size * self.size

        def one(i: int) -> tuple[str, np.ndarray | None, str]:
            try:
                content = read(i)
            except OSError as error:
                return "", None, f"cannot be read ({error.strerror or error})"
            name = hashlib.sha256(content).hexdigest()
            if name in row_of:
                return name, None, ""
            try:
                picture = decode(content, self.min_side, self.max_side, self.size)
                return name, framed(picture, self.size, self.framing, self.interpolation, self.smart_box), ""
            except BadPicture as error:
                return name, None, str(error)

        try:
            mode = "r+b" if (self.folder / "pixels.bin").exists() else "w+b"
            with (
                open(self.folder / "pixels.bin", mode) as file,
                ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool,
                tqdm(total=len(fresh), desc="decoding", unit="picture", disable=None) as bar,
            ):
                file.seek(len(row_of) * each)
                for start in range(0, len(fresh), CHUNK):
                    chunk = fresh[start : start + CHUNK]
                    for i, (name, pixels, problem) in zip(chunk, pool.map(one, chunk), strict=True):
                        hashes[i], problems[i] = name, problem
                        if pixels is not None and name not in row_of:
                            row_of[name] = len(row_of)
                            file.write(pixels.tobytes())
                        if not problem:
                            rows[i] = row_of[name]
                    bar.update(len(chunk))
        except OSError as error:
            raise DataError(f"{self.folder}: the decoded pictures cannot be written ({error.strerror}); make room, or "
                            "name another folder with --data.decoded") from error  # fmt: skip

    def _index(self) -> pd.DataFrame:
        path = self.folder / "index.csv"
        if not path.exists():
            return pd.DataFrame(columns=list(_INDEX))
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if list(table.columns) != list(_INDEX):
            raise DataError(f"{path}: not an index of decoded pictures; remove the folder, it is made anew")
        return table.assign(row=table["row"].astype("int64"))

    def _store(self, index: pd.DataFrame) -> None:
        temporary = self.folder / f".index.{os.getpid()}.tmp"
        try:
            index.to_csv(temporary, index=False, lineterminator="\n")
            os.replace(temporary, self.folder / "index.csv")
        finally:
            temporary.unlink(missing_ok=True)

    def _pixels(self, count: int) -> np.ndarray:
        shape = (count, 3, self.size, self.size)
        if not count:
            return np.zeros(shape, np.uint8)
        return np.memmap(self.folder / "pixels.bin", dtype=np.uint8, mode="r", shape=shape)


def stamp_of(path: str) -> str:
    """Return what changes when a file does; "" for one that does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}"
