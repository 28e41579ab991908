"""How fast a host is asked for images: evenly, and not at all for a while after it said 429."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Manners:
    """What a download allows itself; times in seconds.

    Args:
        per_second: Requests a second to one host.
        workers: Requests under way at the same time.
        timeout: Longest silence of a host.
        tries: Attempts for one image, besides those that were answered by 429.
        pause: Before the second attempt; doubles with each further one.
        backoff: Silence after a first 429; doubles with each further one in a row.
        backoff_most: Longest such silence. A host whose ``Retry-After`` asks for more is left alone in this run.
        refusals: Number of 429 in a row after which a host is left alone in this run.

    Raises:
        ValueError: A number that makes no sense.
    """

    per_second: float = 5.0
    workers: int = 8
    timeout: float = 10.0
    tries: int = 3
    pause: float = 1.0
    backoff: float = 60.0
    backoff_most: float = 600.0
    refusals: int = 8

    def __post_init__(self) -> None:
        if min(self.per_second, self.timeout, self.backoff) <= 0 or self.pause < 0:
            raise ValueError("per_second, timeout and backoff must be above 0, and pause at least 0")
        if min(self.workers, self.tries, self.refusals) < 1:
            raise ValueError("workers, tries and refusals must be at least 1")
        if self.backoff_most < self.backoff:
            raise ValueError(f"backoff_most={self.backoff_most} must not be below backoff={self.backoff}")


class Host:
    """One host's turn-taking, shared by all workers.

    Args:
        manners: See :class:`Manners`.
        clock: Seconds that only grow.
    """

    def __init__(self, manners: Manners, clock: Callable[[], float] = time.monotonic) -> None:
        self.manners, self.clock, self.left_alone = manners, clock, False
        self._lock = threading.Lock()
        self._next, self._silent_until, self._refused_at, self._in_a_row = 0.0, 0.0, -1.0, 0

    def turn(self) -> float:
        """Take the next turn; return the seconds until it comes."""
        with self._lock:
            now = self.clock()
            if self.left_alone:
                return 0.0
            start = max(now, self._next, self._silent_until)
            self._next = start + 1 / self.manners.per_second
            return start - now

    def silence(self) -> float:
        """Return the seconds that a back-off still lasts: it may have begun while a turn was waited for."""
        with self._lock:
            return 0.0 if self.left_alone else max(0.0, self._silent_until - self.clock())

    def refused(self, asked_at: float, retry_after: float | None) -> None:
        """Take a 429: be silent for as long as the host says, or for a back-off that doubles.

        Args:
            asked_at: Time of the request by ``clock``. Those that were under way when the silence began count once.
            retry_after: What the host asks for, in seconds.
        """
        with self._lock:
            if asked_at <= self._refused_at:
                return
            self._refused_at = self.clock()
            own = min(self.manners.backoff * 2**self._in_a_row, self.manners.backoff_most)
            self._in_a_row += 1
            wait = own if retry_after is None else retry_after
            self.left_alone |= wait > self.manners.backoff_most or self._in_a_row >= self.manners.refusals
            self._silent_until = self._refused_at + wait

    def answered(self) -> None:
        """Take any other answer: the next back-off starts small again."""
        with self._lock:
            self._in_a_row = 0


def retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` (RFC 9110: seconds, or a date), or ``None`` where it says nothing."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())
