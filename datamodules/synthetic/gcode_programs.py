"""Programs of the synthetic machine: lines of modal G-code in inches, and where the tool is at any time (numpy only).

Six programs, of the shapes that the real recordings have: adaptive clearing (a helix of short lines), facing (long
passes with arcs between them) and pockets (rectangles that grow), each in a slow and in a fast variant.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

SAFE, CLOSE = 0.6, 0.2  # inches above the piece
RAPID = 60.0  # inches a minute
SHORTEST = 0.05  # seconds that any line takes
FIRST_LINE = 16
Move = tuple[str, dict[str, float], float]  # command, words, feed in inches a minute


@dataclass
class Program:
    """Lines with their end points and the times at which they end.

    Attributes:
        numbers: Line numbers, rising.
        texts: Lines as a file has them.
        ends: End points (x, y, z) in inches, that of the start first.
        times: Seconds at which they are reached, 0 first.
        feeds: Inches a minute of each line.
    """

    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ends: list[tuple[float, float, float]] = field(default_factory=list)
    times: list[float] = field(default_factory=lambda: [0.0])
    feeds: list[float] = field(default_factory=list)

    @dataclass(frozen=True)
    class State:
        """What the machine does at some times.

        Attributes:
            move: (T,) index of the line that is reported.
            position: (T, 3) inches.
            velocity: (T, 3) inches a second.
            feed: (T,) inches a minute of the line under way.
            cutting: (T,) 1 where the tool is in the piece and moves, else 0.
        """

        move: np.ndarray
        position: np.ndarray
        velocity: np.ndarray
        feed: np.ndarray
        cutting: np.ndarray

    def at(self, time: np.ndarray, look_ahead: float) -> "Program.State":
        """Return the state at times in seconds; after the end, the machine stands."""
        times, ends = np.array(self.times), np.array(self.ends)
        place = np.column_stack([np.interp(time, times, ends[:, axis]) for axis in range(3)])
        under_way = np.searchsorted(times[1:], time, side="right").clip(max=len(self.texts) - 1)
        reported = np.searchsorted(times[1:], time + look_ahead, side="right").clip(max=len(self.texts) - 1)
        speeds = np.diff(ends, axis=0) / np.diff(times)[:, None]
        velocity = np.where((time < times[-1])[:, None], speeds[under_way], 0.0)
        feed = np.array(self.feeds)[under_way]
        cutting = (place[:, 2] < 0.12) & (np.abs(velocity).sum(axis=1) > 0) & (feed < RAPID)
        return Program.State(reported, place, velocity, feed, cutting.astype(float))


def make_program(operation: str, seconds: float) -> Program:
    """Return the program of a healthy operation, about so many seconds long.

    Raises:
        KeyError: An operation without a program.
    """
    path, start = PATHS[operation]
    program = Program(ends=[(*start, 1.0)])
    mode = ""

    def add(command: str, words: dict[str, float], feed: float) -> None:
        nonlocal mode
        before = program.ends[-1]
        end = (words.get("X", before[0]), words.get("Y", before[1]), words.get("Z", before[2]))
        length = float(np.linalg.norm(np.subtract(end, before))) * (1.1 if command in ("G2", "G3") else 1.0)
        text = " ".join(f"{letter}{_number(value)}" for letter, value in words.items())
        program.texts.append(text if command == mode else f"{command} {text}")
        program.numbers.append((program.numbers[-1] if program.numbers else FIRST_LINE - 1) + 1)
        program.ends.append(end)
        program.times.append(program.times[-1] + max(SHORTEST, length / feed * 60))
        program.feeds.append(feed)
        mode = command

    add("G0", {"X": start[0], "Y": start[1]}, RAPID)
    add("G0", {"Z": SAFE}, RAPID)
    add("G0", {"Z": CLOSE}, RAPID)
    mode = ""
    for command, words, feed in path():
        add(command, words, feed)
        if program.times[-1] > seconds - 4.0:
            break
    mode = ""
    add("G0", {"Z": SAFE}, RAPID)
    for text in ("G53 G0 Z0.", "M30"):
        program.texts.append(text)
        program.numbers.append(program.numbers[-1] + 1)
        program.ends.append((*program.ends[-1][:2], 1.0))
        program.times.append(program.times[-1] + 1.0)
        program.feeds.append(RAPID)
    return program


def _number(value: float) -> str:
    """A number as these programs write it: `0.`, `3.275`, `F40.`."""
    return f"{round(value, 4) + 0.0:.4f}".rstrip("0")


def _spiral(feed: float, radius: float, growth: float, depth: float) -> Callable[[], Iterator[Move]]:
    """Adaptive clearing: short lines round a circle that grows and sinks."""

    def path() -> Iterator[Move]:
        yield "G1", {"Z": 0.1, "F": feed}, feed
        for turn in range(1, 100_000):
            angle, size = turn * 0.55, radius + growth * turn
            sizes = 0.6 * size % 1.2 + radius
            x, y = 1.575 + sizes * np.cos(angle), 1.575 + sizes * np.sin(angle)
            words = {"X": float(x), "Y": float(y)} | ({"Z": 0.1 - depth * turn} if turn % 9 else {})
            yield ("G3", words | {"R": round(sizes, 4)}, feed) if turn % 23 == 0 else ("G1", words, feed)

    return path


def _passes(feed: float, plunge: float, right: float, radius: float) -> Callable[[], Iterator[Move]]:
    """Facing: passes from side to side, joined by two arcs at each end."""

    def path() -> Iterator[Move]:
        yield "G1", {"Z": 0.025, "F": plunge}, plunge
        yield "G1", {"Z": 0.0, "F": feed}, feed
        y = 0.05
        for row in range(10_000):
            leftwards = row % 2 == 0
            yield "G1", {"X": -0.1254 if leftwards else right}, feed
            edge, outer = (-0.1254, -0.1254 - radius) if leftwards else (right, right + radius)
            turn = "G2" if leftwards else "G3"
            yield turn, {"X": outer, "Y": round(y + radius, 4), "R": radius}, feed
            yield turn, {"X": edge, "Y": round(y + 2 * radius, 4), "R": radius}, feed
            y = round(y + 2 * radius, 4) if y < 3.0 else 0.05

    return path


def _rectangles(feed: float, plunge: float, step: float, widest: float) -> Callable[[], Iterator[Move]]:
    """A pocket: rectangles around the middle that grow, each a little deeper once the widest is reached."""

    def path() -> Iterator[Move]:
        yield "G1", {"Z": 0.0394, "F": plunge}, plunge
        depth, size = 0.0, step
        for _ in range(10_000):
            low, high = round(1.705 - size, 4), round(1.705 + size, 4)
            yield "G1", {"X": low, "Y": low, "Z": round(depth, 4), "F": feed}, feed
            for words in ({"Y": high}, {"X": high}, {"Y": low}, {"X": round(low + 0.05, 4)}):
                yield "G1", words, feed
            yield "G2", {"X": low, "Y": round(low + 0.05, 4), "R": 0.05}, feed
            size = size + step if size < widest else step
            depth = depth if size > step else depth - 0.025

    return path


PATHS: dict[str, tuple[Callable[[], Iterator[Move]], tuple[float, float]]] = {
    "adaptive": (_spiral(22.0, 0.12, 0.004, 0.0004), (1.4919, 1.4848)),
    "adaptive150025": (_spiral(40.0, 0.3, 0.012, 0.0002), (1.9, 1.5848)),
    "face": (_passes(22.0, 7.3, 3.275, 0.083), (3.3121, 0.0427)),
    "face150025": (_passes(40.0, 13.3, 3.5354, 0.0742), (3.5725, 0.0249)),
    "pocket": (_rectangles(22.0, 7.3, 0.075, 0.4), (1.4724, 1.6783)),
    "pocket150025": (_rectangles(40.0, 13.3, 0.213, 1.6), (1.8603, -0.1375)),
}
