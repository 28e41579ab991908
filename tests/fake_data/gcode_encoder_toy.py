"""What the shared tests need of `gcode_encoder`: the recordings of a user, and what each variant needs offline."""

from pathlib import Path

import yaml

from callbacks.stratified_split import StratifiedSplit

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, WINDOW, STRIDE = 240, 16, 8  # those of the tiny config


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
    """Return what a variant needs besides the tiny config: sizes of the toy data, and a window that is not theirs."""
    if variant.stem.endswith("_recordings"):
        from datamodules.gcode import GcodeData

        data = GcodeData(columns="common", window=WINDOW, stride=STRIDE, synthetic_samples=SAMPLES)
        data.setup("fit")
        data.apply_split(StratifiedSplit(**_split()).draw(data))
        return ["--model.input_dim", str(data.input_dim), "--model.categories", str(data.categories)]
    return ["--data.window", "8", "--data.stride", "4"] if variant.stem.endswith("_short") else []


def _split() -> dict:
    return yaml.safe_load((ROOT / "configs" / "gcode_encoder.yaml").read_text(encoding="utf-8"))["split"]
