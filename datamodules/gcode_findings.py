"""What is wrong with recordings, or with the way they are split, as the audit prints it (pure)."""

from collections.abc import Sequence

import numpy as np

from datamodules.audit import STORED, Finding
from datamodules.gcode_fitted import line_maps
from datamodules.gcode_recordings import NO_TEXT, Recording, board_of
from datamodules.gcode_windows import segments


def refused(recordings: Sequence[Recording]) -> dict[str, int]:
    """Count what no window holds, or was mended: rows without sensors, gaps, rows without text, notes of the reader."""
    found = {
        "rows without any sensor reading": sum(map(_empty, recordings)),
        "gaps": sum(map(_gaps, recordings)),
        "rows with sensors and without text": sum(len(_lost(recording)) for recording in recordings),
    }
    for recording in recordings:
        for note, count in recording.notes.items():
            found[note] = found.get(note, 0) + count
    return {name: count for name, count in found.items() if count}


def findings(
    recordings: Sequence[Recording], where: np.ndarray, window: int, stride: int, leaky: bool
) -> list[Finding]:
    """Return what was found.

    Args:
        recordings: All recordings.
        where: (N, 2) recording and first row of each window.
        window: Rows of a window.
        stride: Rows from one window to the next.
        leaky: Whether windows are split at random.
    """
    found = _overlap(recordings, where, window, stride) if leaky else []
    conflicts = {name: count for name, count in line_maps(recordings)[1].items() if count}
    if conflicts:
        examples = [f"{name}: {count} line numbers" for name, count in conflicts.items()]
        message = (f"{sum(conflicts.values())} line numbers have several texts within a class, so its recordings do "
                   "not run one program. Give another program another class.")  # fmt: skip
        found.append(Finding("program_conflict", "warning", message, sum(conflicts.values()), [], examples))
    for kind, (of_one, message) in MENDED.items():
        counts = {one.name: of_one(one) for one in recordings}
        named = [f"{name}: {count}" for name, count in counts.items() if count]
        if named:
            found.append(Finding(kind, "info", f"{len(named)} recordings {message}", len(named), [], named[:STORED]))
    return found + _missing_boards(recordings)


def _empty(recording: Recording) -> int:
    return int((~recording.usable()).sum())


def _gaps(recording: Recording) -> int:
    return max(0, len(segments(recording)) - 1)


def _short_clock(recording: Recording) -> int:
    return recording.notes.get("rows with a clock without hours", 0)


def _lost(recording: Recording) -> np.ndarray:
    """Rows with a sensor and without text, where the recording has text at all."""
    if not len(recording.texts):
        return np.empty(0, np.int64)
    return np.flatnonzero((recording.text == NO_TEXT) & recording.usable())


MENDED = {
    "empty_rows": (_empty, "have rows without any sensor reading. No window holds them."),
    "gaps": (_gaps, "have gaps in time. No window crosses them."),
    "lost_text": (
        lambda recording: len(_lost(recording)),
        "have rows with sensors and without text. fill_text refills it where training recordings know the line number.",
    ),
    "odd_clock": (_short_clock, "have a clock without hours."),
}


def _overlap(recordings: Sequence[Recording], where: np.ndarray, window: int, stride: int) -> list[Finding]:
    """The brief's protocol: windows that share rows are dealt out one by one."""
    names = [recordings[i].group or recordings[i].name for i in where[:, 0]]
    overlapping = np.zeros(len(where), bool)
    for i in np.unique(where[:, 0]):
        mine = np.flatnonzero(where[:, 0] == i)
        starts = where[mine, 1]
        near = np.abs(starts[:, None] - starts[None, :]) < window
        overlapping[mine] = near.sum(axis=1) > 1
    share = max(0.0, 1 - stride / window)
    message = (
        f"protocol leaky_random_windows deals out windows one by one: {int(overlapping.sum())} of {len(where)} share "
        f"rows with another window of their recording (neighbours {share:.0%}), and all windows of a recording share "
        "its session. The model is judged on what it was trained on. Set --data.protocol by_recording."
    )
    examples = [f"{name}: {names.count(name)} windows" for name in dict.fromkeys(names)][:STORED]
    return [Finding("overlapping_windows", "leak", message, int(overlapping.sum()), [], examples)]


def _missing_boards(recordings: Sequence[Recording]) -> list[Finding]:
    boards = [{board_of(name) for name in recording.columns} for recording in recordings]
    known = sorted(set.union(*boards))
    missing = {name: sum(name not in found for found in boards) for name in known}
    named = [f"{name}: missing in {count} of {len(boards)}" for name, count in missing.items() if count]
    if not named:
        return []
    patterns = len({frozenset(found) for found in boards})
    message = (f"{len(named)} of {len(known)} boards are missing in some recordings ({patterns} patterns). Missing is "
               "marked, not 0; the pattern alone may tell the class, see the baselines.")  # fmt: skip
    return [Finding("missing_boards", "info", message, len(named), [], named[:STORED])]
