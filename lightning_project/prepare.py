"""The verb `prepare`: read and clean recordings once, into arrays that a fit maps into memory."""

from pathlib import Path

from datamodules.errors import DataError
from datamodules.gcode_prepared import Counts, read_prepared
from datamodules.gcode_recordings import files_of, operations_in_order
from datamodules.gcode_windows import segments, window_starts
from lightning_project.exits import UsageError


def prepare(path: str, folder: str = "cache/gcode", window: int = 64, stride: int = 16, labelled: bool = True) -> None:
    """Read and clean machine recordings into a folder, for `--data.prepared`; run it again to go on where it stopped.

    Args:
        path: A recording (CSV or Parquet), or a folder of them.
        folder: Where the arrays go: the `data.prepared` of a fit.
        window: Rows of a window, to count them.
        stride: Rows from one window to the next.
        labelled: Whether names say the operation, and texts are there; false for recordings to predict.

    Raises:
        UsageError: A number that makes no sense.
        DataError: A recording cannot be used, or the folder cannot be written to.
    """
    if window < 2 or stride < 1:
        raise UsageError(f"window must be at least 2 and stride at least 1, got {window} and {stride}")
    counts = Counts()
    recordings = read_prepared(files_of(path), folder, labelled, counts)
    windows = [window_starts(recording, window, stride) for recording in recordings]
    left_out = sum(int((~recording.usable()).sum()) for recording in recordings)
    gaps = sum(max(0, len(segments(recording)) - 1) for recording in recordings)
    print(f"{len(recordings)} recordings, {counts.rows} rows: {counts.made} prepared now, {counts.found} were there")
    for operation in operations_in_order({recording.operation for recording in recordings}):
        mine = [found for found, one in zip(windows, recordings, strict=True) if one.operation == operation]
        print(f"  {operation or 'without a class':<16} {len(mine):>4} recordings {sum(map(len, mine)):>6} windows")
    print(f"  {'rows without any sensor reading, left out':<42} {left_out}")
    print(f"  {'gaps that no window crosses':<42} {gaps}")
    if not any(windows):
        raise DataError(f"{path}: no recording has {window} rows without a gap: take a shorter window")
    print(f"written: {Path(folder)}")
