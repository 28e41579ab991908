"""The verb `export` for a pair of `gcode`: a window and a token as ONNX, and the lines that both write together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from callbacks.report_files import write_json, write_npz
from lightning_project.export_formats import run_arrays, silent, time_of, write_onnx
from modules.exporting import Axes
from modules.gcode_decoder import GcodeDecoder
from modules.gcode_shipping import ANSWERS, CACHE, NEXT, WINDOW, Arrays, Encode, Run, Step, write_lines

Inputs = dict[str, Tensor]


def write_pair(model: GcodeDecoder, batches: Sequence[Inputs], folder: Path, int8: bool) -> list[Path]:
    """Write `encode.onnx` and `step.onnx`, and compare the lines that they write with the system's own.

    Args:
        model: A trained pair.
        batches: Inputs of the network for validation windows.
        folder: Where.
        int8: Whether to write both with weights in int8, too.

    Returns:
        The files, `pair.json` (names, vocabulary, what was printed) and `start.npz` (what the first step is given) too.
    """
    windows = [{name: batch[name] for name in WINDOW} for batch in batches]
    first, written = write_onnx_pair(model, windows[0], folder)
    limit = int(model.hparams["max_tokens"])
    eager = eager_run(Encode(model)), eager_run(Step(model))
    found = {"onnx": compare(eager, loaded(folder, ".onnx"), first, windows, limit)}
    if int8:
        written += [_int8(path) for path in list(written)]
        found["int8"] = compare(eager, loaded(folder, ".int8.onnx"), first, windows, limit)
    for name, each in found.items():
        print(f"lines by encode and step, {name:<5} same line {each['same_line']:.2%} of {each['windows']}, operation "
              f"differs by {each['prob_difference']:.2g}, {each['ms']:.2f} ms a window on one core")  # fmt: skip
    facts = {
        "class_names": model.class_names,
        "layout": model.layout,
        "digits": model.hparams["digits"],
        "limit": limit,
        "vocabulary": json.loads(model.hparams["vocabulary"]),
        "compared": found,
    }
    return [*written, write_npz(folder / "start.npz", first), write_json(folder / "pair.json", facts)]


def write_onnx_pair(model: GcodeDecoder, window: Inputs, folder: Path) -> tuple[Arrays, list[Path]]:
    """Write both graphs; return what the first step is given for one window, and the files.

    Args:
        model: A trained pair.
        window: At least two windows, to trace.
        folder: Where.
    """
    encode, step = Encode(model), Step(model)
    batch = {0: "batch"}
    write_onnx(encode, [window], dict.fromkeys(window, batch), folder / "encode.onnx")  # type: ignore[arg-type]
    with torch.no_grad():
        context = {name: x for name, x in encode(**window).items() if name not in ANSWERS}
        given = step.start(context)
        first = {name: x[:1].numpy() if x.ndim else x.numpy() for name, x in given.items()}
        for place in range(2):  # tracing takes a cache of none or one token for a fixed one
            told = step(**context, **given)
            state = {name.removeprefix(NEXT): x for name, x in told.items() if name.startswith(NEXT)}
            given = state | {"place": torch.tensor(place + 1)}
    example = context | given
    axes: Axes = {name: dict(batch) if x.ndim else {} for name, x in example.items()}
    for name, x in given.items():
        if name.startswith(CACHE) and x.ndim == 5:  # keys and values grow by a token a step
            axes[name][3] = "past"
    write_onnx(step, [example], axes, folder / "step.onnx")  # type: ignore[arg-type]
    return first, [folder / "encode.onnx", folder / "step.onnx"]


def loaded(folder: Path, ending: str) -> tuple[Run, Run]:
    """Return what runs a pair of files, on one core."""
    return run_arrays(folder / f"encode{ending}"), run_arrays(folder / f"step{ending}")


def eager_run(module: torch.nn.Module) -> Run:
    """Return what asks a module in place of a file."""

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        with torch.no_grad():
            return {name: x.numpy() for name, x in module(**{k: torch.as_tensor(v) for k, v in inputs.items()}).items()}

    return run


def compare(
    eager: tuple[Run, Run], files: tuple[Run, Run], first: Arrays, windows: Sequence[Inputs], limit: int
) -> dict[str, float]:
    """Return how often both write the same line, how far operations differ, and the time of one window."""
    same, gap = [], 0.0
    for window in windows:
        arrays = {name: x.numpy() for name, x in window.items()}
        expected, got = (write_lines(*pair, first, arrays, limit) for pair in (eager, files))
        gap = max(gap, float(np.abs(expected["prob"] - got["prob"]).max()))
        width = max(expected["fields"].shape[1], got["fields"].shape[1])
        same += (_wide(expected["fields"], width) == _wide(got["fields"], width)).all((1, 2)).tolist()
    one = {name: x[:1].numpy() for name, x in windows[0].items()}
    ms = time_of(lambda _: write_lines(*files, first, one, limit), {})
    return {"same_line": float(np.mean(same)), "windows": len(same), "prob_difference": gap, "ms": ms}


def _wide(fields: np.ndarray, width: int) -> np.ndarray:
    return np.pad(fields, [(0, 0), (0, width - fields.shape[1]), (0, 0)], constant_values=-1)


def _int8(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_suffix(".int8.onnx")
    with silent():
        quantize_dynamic(path, out, weight_type=QuantType.QInt8)
    return out
