"""Downloaded images on disk, one file per address: written whole or not at all, by several processes, up to a size.

A file is named by the MD5 of its address (`md5(url).jpg`, whatever its format), the layout of the plants brief, so that
an old cache can be taken over. Its modification time is when it was last wanted.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from datamodules.errors import DataError

SUFFIX = ".jpg"
KEPT = 0.9  # share of the limit that an eviction leaves
_SIZE, _LOCK = ".size", ".lock"


def file_of(folder: str | os.PathLike[str], url: str) -> Path:
    """Return where the image of an address lies in a cache, whether it is there or not."""
    return Path(folder) / (hashlib.md5(url.encode(), usedforsecurity=False).hexdigest() + SUFFIX)


class ImageCache:
    """A folder of images with a limit of size; the files that nobody has wanted longest give way.

    The size is kept in a small file under a lock, and counted anew whenever a cache is opened, so that several
    processes can fill one folder and a killed one leaves nothing wrong.

    Args:
        folder: Where the images lie; made when missing.
        max_bytes: Limit of all images together.

    Raises:
        DataError: The folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"the limit of a cache is above 0 bytes, got {max_bytes}")
        self.folder, self.max_bytes, self.evicted = Path(folder), max_bytes, 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.locked():
                for part in self.folder.glob(".*.part"):  # of a killed process, unless one is writing right now
                    _unlink_if_stale(part)
                self._store_size(sum(size for _, size, _ in self._files()))
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be used as a cache ({error.strerror}); name another") from error

    def __contains__(self, url: str) -> bool:
        return file_of(self.folder, url).is_file()

    @property
    def size(self) -> int:
        """Bytes of all images."""
        with self.locked():
            return self._stored_size()

    def touch(self, url: str) -> None:
        """Note that an image is wanted now."""
        with contextlib.suppress(FileNotFoundError):  # another process may just have evicted it
            os.utime(file_of(self.folder, url))

    def add(self, url: str, data: bytes, needed: Collection[str] = ()) -> Path:
        """Write an image; where the limit is reached, files outside ``needed`` give way, longest unwanted first.

        Args:
            url: Address of the image.
            data: Content of the file.
            needed: Names of files that must stay (see :func:`file_of`).

        Raises:
            DataError: The cache, or the disk, is full of what is needed.
        """
        path = file_of(self.folder, url)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self.locked():
                before = path.stat().st_size if path.is_file() else 0
                size = self._stored_size() - before + len(data)
                if size > self.max_bytes:
                    size = self._evict(size, {*needed, path.name})
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
                self._store_size(size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(f"{self.folder}: the disk is full; free some space, or name another folder; "
                                "what is there is kept") from error  # fmt: skip
            raise
        finally:
            Path(temporary).unlink(missing_ok=True)
        return path

    def _evict(self, size: int, needed: Collection[str]) -> int:
        """Remove files until the size is well below the limit; return the size that is left."""
        aim = int(self.max_bytes * KEPT)
        for path, length, _ in sorted(self._files(), key=lambda found: found[2]):
            if size <= aim:
                break
            if path.name not in needed:
                path.unlink(missing_ok=True)
                size, self.evicted = size - length, self.evicted + 1
        if size > self.max_bytes:
            self._store_size(sum(length for _, length, _ in self._files()))
            raise DataError(
                f"{self.folder}: the cache is full: its limit of {self.max_bytes / 1e9:.3f} GB is taken by images that "
                "are needed; raise --max_gb, or cache fewer records"
            )
        return size

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Every image with its size in bytes and the time it was last wanted."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat()
                        yield Path(entry.path), found.st_size, found.st_mtime

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder."""
        with open(self.folder / _LOCK, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, and when the process dies
            yield

    def _stored_size(self) -> int:
        return int((self.folder / _SIZE).read_text(encoding="ascii"))

    def _store_size(self, size: int) -> None:
        part = self.folder / f"{_SIZE}.part"
        part.write_text(str(size), encoding="ascii")
        os.replace(part, self.folder / _SIZE)


def _unlink_if_stale(path: Path, seconds: float = 3600) -> None:
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > seconds:
            path.unlink()
