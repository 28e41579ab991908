"""Windows of a recording, and the line of the program that each of them stands for (pure)."""

from typing import Literal

import numpy as np

from datamodules.gcode_recordings import NO_TEXT, Recording

Target = Literal["mode", "last", "all"]
TARGETS = ("mode", "last", "all")
MAX_GAP = 5.0  # seconds; reports come about four a second, and the longest wait within a run is 3.5 s


def segments(recording: Recording, max_gap: float = MAX_GAP) -> list[tuple[int, int]]:
    """Return the stretches (first row, row after the last) without a gap in time, all of whose rows have a sensor.

    A clock that jumps back, or changes its form, is a gap as well.
    """
    usable = recording.usable()
    step = np.diff(recording.seconds, prepend=recording.seconds[:1])
    begins = usable & ((step < 0) | (step > max_gap) | ~np.concatenate([[False], usable[:-1]]))
    starts = np.flatnonzero(begins)
    if len(usable) and usable[0] and (not len(starts) or starts[0] != 0):
        starts = np.concatenate([[0], starts])
    stops = [
        int(min([*(starts[starts > start][:1]), *(start + np.flatnonzero(~usable[start:])[:1]), len(usable)]))
        for start in starts
    ]
    return [(int(start), stop) for start, stop in zip(starts, stops, strict=True)]


def window_starts(recording: Recording, window: int, stride: int, max_gap: float = MAX_GAP) -> list[int]:
    """Return the first rows of the whole windows; each stretch without a gap begins anew."""
    found: list[int] = []
    for start, stop in segments(recording, max_gap):
        found += range(start, stop - window + 1, stride)
    return found


def target_of(text: np.ndarray, target: Target, max_lines: int | None) -> tuple[list[int], bool]:
    """Return the lines that a window stands for, and whether several were equally frequent.

    Args:
        text: (window,) index of the line of each row; -1 where there is none.
        target: `mode`: the most frequent line, of equally frequent ones that which comes first; `last`: the last one;
            `all`: each line once for each time that it comes, in order.
        max_lines: With `all`, how many of the last lines are kept; None keeps all.
    """
    known = text[text != NO_TEXT]
    if not len(known):
        return [], False
    if target == "last":
        return [int(known[-1])], False
    if target == "all":
        changes = np.concatenate([[True], known[1:] != known[:-1]])
        lines = known[changes].tolist()
        return lines if max_lines is None else lines[-max_lines:], False
    found, first, counts = np.unique(known, return_index=True, return_counts=True)
    most = np.flatnonzero(counts == counts.max())
    return [int(found[most[np.argmin(first[most])]])], len(most) > 1
