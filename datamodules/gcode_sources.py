"""Where the recordings of `gcode` come from: files, prepared arrays, the brief's arrays, or the synthetic machine."""

from pathlib import Path

from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.gcode_npz import is_npz, read_npz
from datamodules.gcode_prepared import read_prepared
from datamodules.gcode_recordings import Recording, clean, files_of, read_recording
from datamodules.kept import Kept
from datamodules.synthetic.gcode import make_recordings

_READ: Kept[list[Recording]] = Kept()


def generated(samples: int, seed: int, window: int, stride: int, noise: float) -> list[Recording]:
    """Return synthetic recordings, in the order in which their files would be read."""

    def make() -> list[Recording]:
        made = sorted(make_recordings(samples, seed, window, stride, noise), key=lambda one: one.name)
        return [clean(one.frame, one.name, one.name, one.operation) for one in made]

    return _READ.get((samples, seed, window, stride, noise), make)


def recordings_of(path: str, prepared: str | None, labelled: bool) -> list[Recording]:
    """Return the recordings of a folder, or of one file.

    Args:
        path: Folder or file.
        prepared: Folder of prepared arrays, if any.
        labelled: Whether names have to say the operation and texts have to be there.

    Raises:
        DataError: A file cannot be used.
    """
    files = files_of(path)
    if prepared is not None:
        return read_prepared(files, prepared, labelled)
    key = (labelled, *((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    return _READ.get(
        key, lambda: [read_recording(file, labelled) for file in tqdm(files, "recordings", disable=None, leave=False)]
    )


def arrays_of(path: str, window: int, vocabulary: str | None, names_used: bool) -> list[Recording] | None:
    """Return the windows of the brief's arrays, or None where the folder holds none.

    Args:
        path: Folder.
        window: Rows of a window.
        vocabulary: See `gcode_npz`.
        names_used: Whether channels are chosen by name.

    Raises:
        DataError: The arrays cannot be used.
    """
    if not is_npz(Path(path)):
        return None
    if names_used:
        raise DataError(f"{path}: these arrays do not name their channels: leave drop out, and columns: all")
    return read_npz(Path(path), window, vocabulary)
