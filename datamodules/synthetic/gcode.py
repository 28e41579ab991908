"""A small CNC machine: the embedded default data of `gcode` (numpy and pandas only).

Not recorded from any machine. The real data's form is copied (names, clock, boards, programs of nine operations, what
is wrong with them); the content is planted:

* All recordings of a class run one program (`gcode_programs`), each a little faster or slower. The line that a report
  names is the one under way a moment later, as a controller's look-ahead makes it.
* Position, speed and load of the tool follow from the program. A sensor channel is a fixed random mix of them beside
  noise that grows with the vibration; each operation cuts with its own vibration and rhythm, a damaged tool with more.
* A session adds its own air pressure, temperature and light, has its own order of the boards, and lacks one or two of
  them. The sessions take turns within each operation: what tells the session says nothing about the program.
* Some recordings are damaged as the real ones are: two runs in one file, rows without sensors or text under another
  clock, lost text, missing columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.gcode_recordings import CHANNELS, CURRENTS, OPERATIONS, PARENTS
from datamodules.synthetic.gcode_programs import Program, make_program

BOARDS = ("frame_r2", "y_bed__3", "frame_l2", "spindle2", "y_bed__4", "frame_b2", "xa_motor", "z_gant_2")
MISSING = (("frame_b2",), ("xa_motor", "y_bed__4"), ("z_gant_2",))  # boards that each session lacks
SESSIONS = len(MISSING)
STEP = 0.257  # seconds between two reports
LEAST = 27  # windows: three recordings of nine operations with one each
LOOK_AHEAD = 0.15  # seconds
INCH = 25.4  # mm
# How strongly, and in which rhythm (radians a second), the tool shakes while it cuts.
SHAKES = {
    "adaptive": (0.3, 1.3),
    "adaptive150025": (0.6, 2.6),
    "face": (0.9, 3.9),
    "face150025": (1.3, 5.2),
    "pocket": (0.75, 6.5),
    "pocket150025": (1.1, 7.8),
}
FEATURES = 9  # position 3, velocity 3, speed, load, vibration


@dataclass(frozen=True)
class Made:
    """One generated recording in the real format.

    Attributes:
        name: Such as "adaptive_001".
        operation: Its class.
        frame: The table.
    """

    name: str
    operation: str
    frame: pd.DataFrame


def make_recordings(
    samples: int = 1000, seed: int = 0, window: int = 64, stride: int = 16, noise: float = 1.0
) -> Iterator[Made]:
    """Generate recordings; the same arguments give the same tables.

    Args:
        samples: Windows aimed at, met as nearly as whole recordings allow; at least 27.
        seed: Seed of everything.
        window: Rows of a window.
        stride: Rows from one window to the next.
        noise: Strength of the noise (1 = default).

    Raises:
        ValueError: Fewer than 27 windows.
    """
    counts, rows = plan(samples, window, stride)
    machine = _Machine(np.random.default_rng([seed, 30]), noise)
    programs = {name: make_program(name, rows * STEP) for name in OPERATIONS if name not in PARENTS}
    for operation, count in counts.items():
        program = programs[PARENTS.get(operation, operation)]
        for number in range(1, count + 1):
            rng = np.random.default_rng([seed, 31, OPERATIONS.index(operation), number])
            frame = machine.run(program, operation, number % SESSIONS, rows, rng)
            name = f"{operation}_{number:03d}"
            yield Made(name, operation, _damage(name, frame, rows, window))


def plan(samples: int, window: int, stride: int) -> tuple[dict[str, int], int]:
    """Return how many recordings each operation has, and the rows of a recording."""
    if samples < LEAST:
        raise ValueError(f"synthetic_samples={samples} must be at least {LEAST}: three recordings of nine operations")
    wanted = max(LEAST, round(samples / 16))
    counts = {name: max(3, round(wanted * (1 if name in PARENTS else 2) / 15)) for name in OPERATIONS}
    each = max(1, round(samples / sum(counts.values())))
    return counts, window + stride * (each - 1)


def write_recordings(
    folder: str | Path,
    samples: int = 1000,
    seed: int = 0,
    window: int = 64,
    stride: int = 16,
    noise: float = 1.0,
    text: bool = True,
    parquet: bool = False,
) -> list[Path]:
    """Write the recordings as files; read again they are what :func:`make_recordings` gives.

    Args:
        folder: Where.
        samples: See :func:`make_recordings`.
        seed: See :func:`make_recordings`.
        window: See :func:`make_recordings`.
        stride: See :func:`make_recordings`.
        noise: See :func:`make_recordings`.
        text: Whether the files name lines and their text; data to predict have neither.
        parquet: Parquet in place of CSV.
    """
    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for made in make_recordings(samples, seed, window, stride, noise):
        frame = made.frame if text else made.frame.drop(columns=["line", "gcode_line", "gcode_string", "raw_json"])
        written.append(folder / f"{made.name}{'.parquet' if parquet else '_aligned.csv'}")
        if parquet:
            frame.to_parquet(written[-1], index=False)
        else:
            frame.to_csv(written[-1], index=False, float_format="%.9g")  # enough digits for a float32
    return written


class _Machine:
    """What is fixed for one data set: where the boards sit, what they feel, and the sessions."""

    def __init__(self, rng: np.random.Generator, noise: float) -> None:
        self.noise = noise
        self.columns = [f"{board}.{channel}" for board in BOARDS for channel in CHANNELS]
        kinds = [column.rpartition(".")[2] for column in self.columns]
        base, spread, gain, hiss, session = np.array([_kind(kind) for kind in kinds]).T
        count = len(kinds)
        self.base = base + spread * rng.normal(size=count)
        self.gain = gain[:, None] * rng.normal(size=(count, FEATURES))
        self.gain[:, 8] = np.abs(self.gain[:, 8])  # more vibration never means less of it
        self.hiss, self.session = hiss, session * rng.normal(size=(SESSIONS, count))
        pressure = np.array([kind == "Pressure" for kind in kinds])
        self.session[:, pressure] = 0.5 * rng.normal(size=(SESSIONS, 1))  # one air for all boards
        self.shakes = np.array([kind in ("Ax", "Ay", "Az", "RMS") for kind in kinds])
        self.orders = [rng.permutation(len(BOARDS)) for _ in range(SESSIONS)]

    def run(self, program: Program, operation: str, session: int, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Return the table of one run."""
        seconds = np.cumsum(STEP * (1 + 0.02 * rng.normal(size=rows).clip(-3, 3)))
        time = (seconds - seconds[0]) * (1 + 0.01 * rng.normal())  # this run's own speed
        state = program.at(time, LOOK_AHEAD)
        strength, rhythm = SHAKES[PARENTS.get(operation, operation)]
        worn = operation in PARENTS
        load = state.cutting * (1 + 0.3 * worn)
        vibration = 0.1 + load * strength * (1 + 0.5 * np.sin(rhythm * time)) + worn * 0.6 * (np.sin(4.3 * time) > 0.3)
        features = np.column_stack(
            [(state.position - 1.5) / 1.5, state.velocity, np.linalg.norm(state.velocity, axis=1), load, vibration]
        )
        shaken = np.where(self.shakes, 0.3 + vibration[:, None], 1.0)
        drift = np.linspace(0, 0.2, rows)[:, None] * np.array([name.endswith("Temperature") for name in self.columns])
        boards = self.base + self.session[session] + features @ self.gain.T + drift
        boards += self.noise * self.hiss * shaken * rng.normal(size=boards.shape)
        currents = np.column_stack([5.2 + 0.6 * load + 0.2 * vibration, *(0.2 + 0.12 * np.abs(state.velocity)).T])
        currents += self.noise * np.array([0.1, 0.01, 0.01, 0.01]) * rng.normal(size=currents.shape)
        machine = INCH * state.position + [50.0, 15.0, -26.0] + rng.normal(size=3)  # where the piece was clamped
        order = [BOARDS[i] for i in self.orders[session] if BOARDS[i] not in MISSING[session]]
        return _table(seconds + 36000 + 600 * session, state, machine, currents, dict(zip(
            self.columns, boards.T, strict=True)), order, program)  # fmt: skip


def _kind(channel: str) -> tuple[float, float, float, float, float]:
    """Mean, spread over boards, gain of the features, noise and spread over sessions of a channel."""
    return {
        "A": (0.0, 0.05, 0.01, 0.012, 0.002), "G": (1.0, 2.5, 0.05, 0.08, 0.02), "M": (5.0, 30.0, 3.0, 0.8, 1.0),
        "P": (99.6, 0.0, 0.0, 0.01, 0.5), "T": (31.0, 1.5, 0.0, 0.02, 0.8), "X": (95.0, 10.0, 12.0, 12.0, 3.0),
        "C": (60.0, 30.0, 6.0, 8.0, 3.0), "R": (1200.0, 150.0, 150.0, 120.0, 20.0),
    }[{"Proximity": "X", "RMS": "R"}.get(channel, channel[0])]  # fmt: skip


def _table(
    clock: np.ndarray,
    state: "Program.State",
    machine: np.ndarray,
    currents: np.ndarray,
    boards: dict[str, np.ndarray],
    order: list[str],
    program: Program,
) -> pd.DataFrame:
    """Columns as the real files have them."""
    number = np.array(program.numbers)[state.move]
    texts = np.array(program.texts, dtype=object)[state.move]
    ended = state.move == len(program.texts) - 1
    columns: dict[str, object] = {
        "t_console": [_clock(t) for t in clock],
        "stat": np.where(ended, 3, 5), "line": number,
        **{f"pos{axis}": state.position[:, i].astype(np.float32) for i, axis in enumerate("xyz")},
        **{f"mpo{axis}": machine[:, i].astype(np.float32) for i, axis in enumerate("xyz")},
        "vel": np.full(len(clock), np.nan, np.float32), "feed": state.feed.astype(np.float32),
        "unit": np.where(ended, 1, 0), "dist": np.zeros(len(clock), int),
        "plane": np.full(len(clock), np.nan, np.float32), "coor": np.where(ended, 1, 2),
        "momo": np.where(ended, 4, np.where(state.cutting > 0, 1, 0)),
        "raw_json": [f'{{"sr":{{"line":{n}}}}}' for n in number],
    }  # fmt: skip
    for suffix in ("", "_A"):
        columns |= {f"{name}{suffix}": currents[:, i].astype(np.float32) for i, name in enumerate(CURRENTS)}
    for board in order:
        columns |= {f"{board}.{kind}": boards[f"{board}.{kind}"].astype(np.float32) for kind in CHANNELS}
    return pd.DataFrame({**columns, "gcode_line": number, "gcode_string": texts})


def _clock(seconds: float) -> str:
    """A time of day as the console writes it: 12:40:01.926."""
    thousandths = round(seconds * 1000)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _damage(name: str, frame: pd.DataFrame, rows: int, window: int) -> pd.DataFrame:
    """Damage a few recordings as the real ones are."""
    if name == "face150025_001":  # the end of a file without sensors or text, under another clock
        empty = frame.iloc[-max(8, rows // 4) :].copy()
        sensors = [c for c in frame.columns if "." in c or c.removesuffix("_A") in CURRENTS]
        empty[[*sensors, "coor", "gcode_line", "gcode_string"]] = None
        empty[sensors] = empty[sensors].astype(np.float32)
        empty["t_console"] = [text[3:-2] for text in empty["t_console"]]
        return pd.concat([frame, empty], ignore_index=True)
    if name == "pocket150025_002" and rows >= 2 * window:  # two runs in one file
        late = frame.index >= rows // 2
        clock = pd.to_timedelta(frame["t_console"]).dt.total_seconds() + 85 * late
        return frame.assign(t_console=[_clock(t) for t in clock])
    if name == "pocket_002":
        return frame.drop(columns=[column for column in frame.columns if column.endswith("_A")])
    if name == "adaptive_002":  # the text was lost for a while, its number was not
        lost = (frame.index >= rows // 3) & (frame.index < rows // 3 + max(4, window // 2))
        return frame.assign(gcode_string=frame["gcode_string"].where(~lost, None))
    return frame
