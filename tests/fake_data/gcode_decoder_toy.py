"""What the shared tests need of `gcode_decoder`: the recordings of a user, an encoder, and what each variant needs."""

import atexit
import contextlib
import shutil
import tempfile
from functools import cache
from pathlib import Path

import yaml

from tests.fake_data import gcode_encoder_toy

write = gcode_encoder_toy.write
SETTINGS = ("drop", "columns", "protocol", "window", "stride", "pair_damage")  # data that both stages share


def always() -> list[str]:
    """Return what each command needs: the run of a tiny encoder on the same recordings."""
    return ["--model.encoder", str(encoder_run())]


def words(variant: Path, folder: Path) -> list[str]:
    """Return what a variant needs besides the tiny config: an encoder on the same data, and small sizes."""
    config = yaml.safe_load(variant.read_text(encoding="utf-8"))
    data = config.get("data", {}).get("init_args", {})
    shared = tuple(f"--data.{name}={_word(data[name])}" for name in SETTINGS if name in data)
    if config.get("split"):
        shared += tuple(f"--split.{name}={value}" for name, value in config["split"].items())
    return ["--model.encoder", str(encoder_run(*shared))] if shared else []


def _word(value: object) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


@cache
def encoder_run(*more: str) -> Path:
    """Fit a tiny encoder, once in a process for the same words; return its run folder."""
    from tests.running import run

    base = Path(tempfile.mkdtemp(prefix="gcode_encoder"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    probes = [w for name in ("gradients", "batch_order", "batch_size") for w in (f"--probes.{name}", "false")]
    quick = ["--trainer.max_epochs", "1", "--report.baselines", "false", *probes]
    with contextlib.chdir(base):
        run(["fit", "--name", "first", *quick, *more], system="gcode_encoder")
    return base / "runs" / "gcode_encoder" / "first"
