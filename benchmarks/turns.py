"""Two training loops of one process in turns of a few steps: a busy machine slows both alike."""

import threading
from collections.abc import Callable

import torch

from benchmarks.rounds import now


class Turns:
    """Two threads of which only one runs, and the time that each had in each of its epochs.

    Args:
        first: Side that begins, and on whose thread this is made.
        second: Side that runs in a thread of its own.
        steps: Steps of an epoch; the same for both.
        length: Steps of a turn.
        device: Where both train.
    """

    def __init__(self, first: str, second: str, steps: int, length: int, device: torch.device) -> None:
        self.other, self.steps, self.length, self.device = {first: second, second: first}, steps, length, device
        self.seconds: dict[str, list[float]] = {first: [], second: []}
        self._turn = {side: threading.Semaphore(0) for side in self.other}
        self._done, self._start, self._first, self._second = dict.fromkeys(self.other, 0), 0.0, first, second
        self._error: BaseException | None = None
        self._over = False

    def run(self, work: Callable[[], None]) -> None:
        """Start the second side; it waits for its first turn."""

        def guarded() -> None:
            try:
                self._wait(self._second)
                work()
            except BaseException as error:  # raised on the first side, which would wait for ever
                self._error = error
            self._over = True
            self._turn[self._first].release()

        self.thread = threading.Thread(target=guarded, daemon=True)
        self.thread.start()

    def begin(self, side: str) -> None:
        """Begin an epoch."""
        self.seconds[side].append(0.0)
        self._done[side], self._start = 0, now(self.device)

    def step(self, side: str) -> None:
        """Count a step, and let the other side go on at the end of a turn."""
        self._done[side] += 1
        if self._done[side] % self.length == 0 and self._done[side] < self.steps:
            self.end(side)
            self._start = now(self.device)

    def end(self, side: str) -> None:
        """End a turn, or an epoch; returns when the other side's turn has ended."""
        self.seconds[side][-1] += now(self.device) - self._start
        self._turn[self.other[side]].release()
        self._wait(side)

    def finish(self) -> None:
        """Wait on the first side for the end of the second.

        Raises:
            RuntimeError: The second side failed.
        """
        self._turn[self._second].release()
        self.thread.join()
        self._check()

    def stop(self) -> None:
        """Let the second side stop, after an error on the first."""
        self._over = True
        self._turn[self._second].release()

    def _wait(self, side: str) -> None:
        self._turn[side].acquire()
        if self._over:
            if side == self._second:
                raise RuntimeError("the other side has stopped")
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"the {self._second} failed") from self._error
