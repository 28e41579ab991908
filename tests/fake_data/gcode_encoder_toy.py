"""What the shared tests need of `gcode_encoder`: the recordings of a user, and what each variant needs offline."""

from pathlib import Path

SAMPLES, WINDOW, STRIDE = 240, 16, 8  # those of the tiny config
PREDICTED = 230  # windows of these recordings


def write(folder: Path, labels: bool = True, rename: dict[str, str] | None = None) -> Path:
    """Write the simulated recordings of the tiny config as a user's folder.

    Args:
        folder: Where.
        labels: Whether the recordings name the lines of the program.
        rename: New names of operations.
    """
    from datamodules.synthetic.gcode import write_recordings

    made = folder / ("grabaciones" if labels else "new recordings")
    for path in write_recordings(made, SAMPLES, window=WINDOW, stride=STRIDE, text=labels):
        operation, _, rest = path.name.partition("_")
        if operation in (rename or {}):
            path.rename(path.with_name(f"{rename[operation]}_{rest}"))
    return made


def words(variant: Path, folder: Path) -> list[str]:
    """Return what a variant needs besides the tiny config: a window that is not the tiny one."""
    return ["--data.window", "8", "--data.stride", "4"] if variant.stem.endswith("_short") else []
