"""How long a window takes on one core: a pair of `gcode` in ONNX Runtime, from sensors to the written line.

Command: python -m benchmarks.gcode_latency [RUN] [--architecture trained] [--record NAME]
RUN is a folder of `gcode_decoder`. Without one the networks have the brief's sizes and random weights, and write eight
tokens, the end included, which is the brief's longest line. The decoder keeps keys and values; the grammar is part of
it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from benchmarks.common import verdict
from benchmarks.record import ROOT, write_record
from lightning_project.export_gcode import loaded, write_onnx_pair
from modules.gcode_decoder import GcodeDecoder
from modules.gcode_shipping import NEXT, Arrays, Run
from modules.gcode_tokens import Vocabulary

ROUNDS, WARM, TOKENS = 200, 20, 8
ENTRIES = 668  # of the brief's vocabulary
SIZES = {"num_classes": 9, "input_dim": 155, "categories": [6, 3, 3, 4]}
AIMS = {"BriefEncoder": 10.0, "TrainedEncoder": 30.0}  # milliseconds
SOURCES = (
    *("benchmarks/gcode_latency.py", "lightning_project/export_gcode.py", "modules/gcode_shipping.py"),
    *("modules/gcode_decoder.py", "modules/gcode_decoding.py", "modules/gcode_tables.py", "modules/nets/gcode_pair.py"),
    *("modules/nets/gcode_encoder.py", "modules/nets/gcode_decoder.py", "modules/nets/gcode_heads.py"),
)


def brief_pair(architecture: str) -> GcodeDecoder:
    """Return a pair of the brief's sizes with random weights.

    Args:
        architecture: Of the encoder, ``brief`` or ``trained``.
    """
    commands, letters = ("G0", "G1", "G2", "G3", "G53", "M30"), ("F10", "R0.1", "Z-0.1", "Y1", "X1")
    lines = [*commands, *(f"G1 {word}" for word in letters)]
    while len(words := Vocabulary.build(lines)) < ENTRIES:
        lines += [f"G1 X{(len(words) + i) / 1000:.3f}" for i in range(ENTRIES - len(words))]
    settings = {"architecture": architecture, **SIZES, "missing": "zeros", "reconstruction": True, "width": None,
                "layers": 2, "dropout": 0.0, "input_dropout": 0.0, "head_width": 0}  # fmt: skip
    torch.manual_seed(0)
    return GcodeDecoder(
        optimizer=lambda groups: torch.optim.AdamW(groups),
        encoder_config=json.dumps(settings),
        vocabulary=json.dumps(words.state()),
        **SIZES,  # type: ignore[arg-type]
        vocab_size=len(words),
        num_commands=6,
        num_params=10,
        max_tokens=32,
        digits=6,
    ).eval()


def windows_of(model: GcodeDecoder, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Return windows of noise (rows, length) that fit a pair."""
    made = torch.Generator().manual_seed(0)
    sizes = model.hparams["categories"]
    codes = [torch.randint(size, (rows, length), generator=made) for size in sizes]
    channels = model.hparams["input_dim"]
    return {
        "continuous": torch.randn(rows, length, channels, generator=made),
        "present": torch.ones(rows, channels, dtype=torch.bool),
        "categorical": torch.stack(codes, 2),
    }


def one_line(files: tuple[Run, Run], first: Arrays, window: Arrays) -> None:
    """Encode a window and write a line of so many tokens, whatever they are."""
    encode, step = files
    context, state = encode(window), first
    for place in range(TOKENS):
        found = step({**context, **state, "place": np.array(place)})
        state = {name.removeprefix(NEXT): x for name, x in found.items() if name != "log_prob"}


def measure(model: GcodeDecoder, length: int) -> dict[str, Any]:
    """Return the milliseconds of a window: median and 95th percentile of 200, and of the encoder alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, _ = write_onnx_pair(model, windows_of(model, 2, length), folder)
        files = loaded(folder, ".onnx")
        window = {key: x.numpy() for key, x in windows_of(model, 1, length).items()}
        whole = timed(lambda: one_line(files, first, window))
        encoder = timed(lambda: files[0](window))
    parts = {"encoder": model.pair.encoder, "decoder": model.pair.decoder}
    return {
        "encoder": type(model.pair.encoder).__name__,
        "decoder": type(model.pair.decoder).__name__,
        "parameters": {key: sum(p.numel() for p in part.parameters()) for key, part in parts.items()},
        "window": length,
        "tokens": TOKENS,
        "rounds": ROUNDS,
        "ms": {"median": float(np.median(whole)), "p95": float(np.quantile(whole, 0.95))},
        "encoder_ms": float(np.median(encoder)),
    }


def timed(run: Callable[[], object]) -> np.ndarray:
    """Return the milliseconds of each of so many calls, after a warm-up."""
    taken = []
    for _ in range(WARM + ROUNDS):
        start = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start))
    return np.array(taken[WARM:])


def describe(found: dict[str, Any]) -> str:
    """The figures in two lines, with the aim beside them."""
    count, ms = found["parameters"], found["ms"]
    aim = AIMS.get(found["encoder"])
    return (
        f"{found['encoder']} ({count['encoder']:,} parameters) and {found['decoder']} ({count['decoder']:,}): "
        f"{found['window']} rows, {found['tokens']} tokens\n  {ms['median']:.2f} ms a window (95 % below "
        f"{ms['p95']:.2f}), of which the encoder {found['encoder_ms']:.2f}; median of {found['rounds']} on one core; "
        f"{verdict(ms['median'], at_most=aim)}"
    )


def main(args: Sequence[str] | None = None) -> None:
    """Measure a pair and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gcode_latency", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a gcode_decoder run")
    parser.add_argument("--architecture", choices=("brief", "trained"), help="of the encoder; default: both")
    parser.add_argument("--window", type=int, default=64, help="rows of a window")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    if given.run and given.architecture:
        parser.error("--architecture is for random weights: a run has its own")
    if given.run:
        path = given.run / "checkpoints" / "best.ckpt"
        if not path.is_file():
            parser.error(f"{path}: no such file")
        pairs = [LightningModule.load_from_checkpoint(path, map_location="cpu").eval()]
    else:
        pairs = [brief_pair(name) for name in ([given.architecture] if given.architecture else ["brief", "trained"])]
    figures = {}
    for pair in pairs:
        assert isinstance(pair, GcodeDecoder)
        found = measure(pair, given.window)
        print(describe(found), flush=True)
        figures[found["encoder"]] = found
    if given.record:
        command = f"python -m benchmarks.gcode_latency{f' {given.run}' if given.run else ''}"
        path = write_record(given.record, command, [ROOT / name for name in SOURCES], {"noise": 0}, [0], figures)
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
