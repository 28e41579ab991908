"""Fill a cache of images from their addresses, ahead of training: politely, resumable, with everything counted."""

import contextlib
import io
import json
import os
import threading
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from struct import error as StructError
from typing import Literal

import httpx
from PIL import Image
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.image_cache import ImageCache, file_of
from datamodules.image_pace import Host, Manners, retry_after

FAILED = "failed.jsonl"
MAX_BYTES = 50_000_000  # of one file; a longer one is no photo
Outcome = Literal["downloaded", "failed", "invalid", "rate_limited_skips"]


@dataclass
class Counts:
    """What became of the images; ``wanted`` is the sum of the five below it.

    Attributes:
        wanted: Different addresses.
        cached: Were there already.
        downloaded: Were fetched, whole and readable.
        failed: Could not be had: no such file, no answer, or a fault of the host.
        invalid: Came, but are no readable image of a sensible size.
        rate_limited_skips: Were given up, because the host kept answering 429.
        rate_limited: Answers 429, each followed by a silence.
        requests: Requests made.
        evicted: Files that gave way to the limit of the cache.
        bytes: Bytes written.
    """

    wanted: int = 0
    cached: int = 0
    downloaded: int = 0
    failed: int = 0
    invalid: int = 0
    rate_limited_skips: int = 0
    rate_limited: int = 0
    requests: int = 0
    evicted: int = 0
    bytes: int = 0


@dataclass
class _Answer:
    """What became of one image."""

    outcome: Outcome
    reason: str = ""
    final: bool = False  # a later run need not ask
    again: bool = False  # this run may ask again
    data: bytes = b""


@dataclass
class Download:
    """One filling of a cache.

    Args:
        cache: Where the images go.
        wanted: Where each address stands ("plants.jsonl, line 7"), by address.
        manners: See :class:`Manners`.
        size: Least and most pixels of a side.
        retry_failed: Ask again for what an earlier run found to be missing or unreadable.
    """

    cache: ImageCache
    wanted: Mapping[str, str]
    manners: Manners = field(default_factory=Manners)
    size: tuple[int, int] = (50, 5000)
    retry_failed: bool = False

    def __post_init__(self) -> None:
        self.counts = Counts(wanted=len(self.wanted))
        self._hosts: dict[str, Host] = defaultdict(lambda: Host(self.manners))
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._needed = {file_of(self.cache.folder, url).name for url in self.wanted}

    def missing(self) -> list[str]:
        """Return the addresses that are neither in the cache nor known to have nothing; counts the others."""
        known: dict[str, str] = {}
        if not self.retry_failed:
            failed = read_failed(self.cache.folder)
            known = {str(entry["url"]): str(entry["outcome"]) for entry in failed if entry["final"]}
        left = []
        for url in self.wanted:
            if url in self.cache:
                self.cache.touch(url)
                self.counts.cached += 1
            elif url in known:
                self._count(known[url])
            else:
                left.append(url)
        return left

    def run(self) -> Counts:
        """Fetch what is missing.

        Raises:
            DataError: The cache or the disk is full.
        """
        left = self.missing()
        failures: list[dict[str, object]] = []
        pending: dict[Future[_Answer], str] = {}
        limits = httpx.Limits(max_connections=self.manners.workers)
        with (
            _bombs_are_errors(),
            httpx.Client(follow_redirects=True, timeout=self.manners.timeout, limits=limits) as client,
            ThreadPoolExecutor(self.manners.workers) as pool,
            tqdm(total=len(left), desc="images", unit="image", disable=None) as bar,
        ):
            try:
                pending = {pool.submit(self._one, client, url): url for url in left}
                for done in as_completed(pending):
                    answer, url = done.result(), pending[done]
                    self._count(answer.outcome)
                    if answer.outcome != "downloaded":
                        facts = {"outcome": answer.outcome, "reason": answer.reason, "final": answer.final}
                        failures.append({"url": url, "record": self.wanted[url], **facts})
                    bar.update()
            finally:  # after an error, or Ctrl-C, nothing further is asked for
                self._stop.set()
                for future in pending:
                    future.cancel()
                write_failed(self.cache, failures)
        self.counts.evicted = self.cache.evicted
        return self.counts

    def _count(self, outcome: str, by: int = 1) -> None:
        with self._lock:
            setattr(self.counts, outcome, getattr(self.counts, outcome) + by)

    def _one(self, client: httpx.Client, url: str) -> _Answer:
        """Fetch one image, check it and write it."""
        try:
            host = self._host(url)
        except (httpx.InvalidURL, ValueError) as error:
            return _Answer("failed", f"not an address: {error}", final=True)
        answer, attempt = _Answer("failed", "stopped"), 0
        while attempt < self.manners.tries:
            if not self._wait_for(host):
                return _Answer("failed", "stopped")
            if host.left_alone:
                return _Answer("rate_limited_skips", "the host kept answering 429")
            found = self._ask(client, host, url)
            if found is None:  # 429, which is no attempt: the silence is the host's
                continue
            answer, attempt = found, attempt + 1
            if answer.outcome == "downloaded":
                with self._lock:  # one at a time: an eviction is not for several threads
                    if self._stop.is_set():
                        return _Answer("failed", "stopped")
                    self.cache.add(url, answer.data, self._needed)
                self._count("bytes", len(answer.data))
                return _Answer("downloaded")
            if not answer.again:
                break
            if attempt < self.manners.tries and self._stop.wait(self.manners.pause * 2 ** (attempt - 1)):
                break
        return answer

    def _host(self, url: str) -> Host:
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError(f"{url!r} is no http address")
        with self._lock:
            return self._hosts[address.netloc.decode()]

    def _wait_for(self, host: Host) -> bool:
        """Wait for a turn and for the end of a silence; False where the download was stopped."""
        wait = host.turn()
        while wait > 0:
            if self._stop.wait(wait):
                return False
            wait = host.silence()
        return not self._stop.is_set()

    def _ask(self, client: httpx.Client, host: Host, url: str) -> _Answer | None:
        """Make one request; ``None`` for a 429."""
        asked_at = host.clock()
        self._count("requests")
        try:
            with client.stream("GET", url) as response:
                if response.status_code == 429:
                    self._count("rate_limited")
                    host.refused(asked_at, retry_after(response.headers.get("Retry-After")))
                    return None
                host.answered()
                if response.status_code >= 400:
                    gone = response.status_code < 500 and response.status_code != 408
                    return _Answer("failed", f"HTTP {response.status_code}", gone, not gone)
                data = bytearray()
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > MAX_BYTES:
                        return _Answer("invalid", f"more than {MAX_BYTES // 10**6} MB", final=True)
        except httpx.HTTPError as error:  # no connection, no answer in time, an answer cut short
            return _Answer("failed", f"{type(error).__name__}: {error}", again=True)
        if reason := unreadable(bytes(data)):  # it may have been spoilt on its way
            return _Answer("invalid", reason, final=True, again=True)
        if reason := wrong_size(bytes(data), self.size):
            return _Answer("invalid", reason, final=True)
        return _Answer("downloaded", data=bytes(data))


def wrong_size(data: bytes, size: tuple[int, int]) -> str:
    """Say that an image has a side below or above what is wanted, or nothing; sides in pixels."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            fits = min(image.size) >= size[0] and max(image.size) <= size[1]
            return "" if fits else f"{image.size[0]} x {image.size[1]} pixels, outside {size[0]} to {size[1]}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return f"far too many pixels ({error})"


def unreadable(data: bytes) -> str:
    """Say why a file is not read as an image, or nothing."""
    if not data:
        return "an empty file"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return ""  # a matter of its size
    except (OSError, SyntaxError, ValueError, StructError, zlib.error, IndexError) as error:  # what broken files raise
        return f"not a readable image ({error})"
    return ""


@contextlib.contextmanager
def _bombs_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():  # in the one thread that starts the others
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_failed(folder: str | os.PathLike[str]) -> list[dict[str, object]]:
    """Read what earlier runs could not get: url, record, outcome, reason, and whether that is final.

    Raises:
        DataError: The file was changed by hand into something else.
    """
    path, found = Path(folder) / FAILED, []
    if not path.is_file():
        return []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            found.append({key: entry[key] for key in ("url", "record", "outcome", "reason", "final")})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not an entry of a download ({error}); remove the line") from error
    return found


def write_failed(cache: ImageCache, failures: list[dict[str, object]]) -> None:
    """Add failures to those of earlier runs; the newest of an address counts, and what is there now is none."""
    with cache.locked():
        entries = {str(entry["url"]): entry for entry in [*read_failed(cache.folder), *failures]}
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for url, entry in entries.items() if url not in cache]
        part = cache.folder / f".{FAILED}"
        part.write_text("".join(lines), encoding="utf-8")
        os.replace(part, cache.folder / FAILED)
