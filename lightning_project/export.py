"""The verb `export`: the network as ONNX, as torch.export and in int8, compared with itself on real samples."""

import itertools
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.report_files import write_json, write_text
from datamodules.base import SplitDataModule
from lightning_project.exits import ExportError, UsageError
from lightning_project.export_formats import FORMATS, Answers, Run, reason, time_of
from lightning_project.predictions import take_sizes
from modules.exporting import Axes, Exported

if TYPE_CHECKING:
    from modules.base import System

Inputs = dict[str, Tensor]
SINGLES = 64  # samples given one by one: they tell which axes vary, and how long an answer takes
EXACT = ("onnx", "torch")  # formats that compute the same numbers
TOLERANCE = 1e-3  # of these formats; a larger difference is another network
TEXT_ANSWERS = (
    "log-probabilities of the next token at each place of a text that begins: there is no memory of earlier text, "
    "neither as an input nor as an output; model.pt2 takes three tokens and more"
)


def export(
    self: Trainer,
    model: "System",
    datamodule: SplitDataModule,
    ckpt_path: str | None = None,
    out: str | None = None,
    formats: str = "onnx,torch,int8",
    rows: int = 256,
) -> None:
    """Write the network as ONNX, torch.export and int8, and compare each file with the network on validation samples.

    Prints the largest difference, how often the answer is the same, size, and time on one core. A format that cannot be
    written is named with its reason; without any the exit code is 1. A decoder of G-code is written as two functions,
    too, of a window and of a token, which together write lines.

    Args:
        self: The Trainer.
        model: The system.
        datamodule: The run's own data.
        ckpt_path: Checkpoint.
        out: Folder of the files; by default `export` in the run folder.
        formats: Which of onnx, torch and int8, separated by commas.
        rows: Validation samples to compare on, at most.

    Raises:
        UsageError: An unknown format, fewer than two rows, or several processes.
        ExportError: No format could be written.
    """
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - FORMATS.keys()):
        raise UsageError(f"unknown format {unknown[0]!r}: choose from {', '.join(FORMATS)}")
    if not wanted or rows < 2:
        raise UsageError("name at least one format, and at least two rows")
    if self.world_size > 1:
        raise UsageError("export runs in one process: add --trainer.devices 1")
    samples = Samples.read(self, model, datamodule, ckpt_path, rows)
    folder = Path(out) if out else Path(self.default_root_dir) / "export"
    folder.mkdir(parents=True, exist_ok=True)
    network = Exported(model)
    ms = time_of(lambda inputs: _eager(network, inputs), samples.median)
    found: dict[str, dict[str, Any]] = {"network": {"ms": ms}}
    refused: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        path = folder / f"model{FORMATS[name].ending}"
        try:
            run = FORMATS[name].write(model, samples.batches, samples.axes, path)
            found[name] = compare(run, network, samples) | {"file": path.name, "bytes": path.stat().st_size}
            if name in EXACT and found[name]["max_difference"] > TOLERANCE:
                raise ExportError(f"its answers differ by up to {found.pop(name)['max_difference']:.2g}")
        except Exception as error:  # whatever a converter raises is why this format cannot be had; the others may
            path.unlink(missing_ok=True)
            refused[name] = reason(error)
    print(table(found, samples))
    if model.PREDICTS == "text":
        print(f"answers: {TEXT_ANSWERS}")
    for name, why in refused.items():
        print(f"{name} cannot be exported: {why}")
    if not found.keys() - {"network"}:
        raise ExportError(f"nothing was exported: {'; '.join(f'{name}: {why}' for name, why in refused.items())}")
    written = [folder / each["file"] for name, each in found.items() if name != "network"]
    written.append(write_json(folder / "export.json", facts(model, datamodule, samples, found, refused, ckpt_path)))
    if fitted := datamodule.state_dict():
        text = json.dumps(fitted, indent=1, ensure_ascii=False, default=lambda value: value.tolist())
        written.append(write_text(folder / "preprocessing.json", text))
    if model.PREDICTS == "tokens":
        from lightning_project.export_gcode import write_pair

        written += write_pair(model, samples.batches, folder, "int8" in wanted)  # type: ignore[arg-type]
    print("written:\n" + "\n".join(f"  {path}" for path in written))


@dataclass(frozen=True)
class Samples:
    """Validation samples as inputs of the network.

    Attributes:
        singles: One sample each, of its own length; of a text also beginnings. batches: The same and further ones,
            several at a time.
        axes: Which axes may have any size. example: The batch that is traced.
        median: The sample of median size.
    """

    singles: list[Inputs]
    batches: list[Inputs]
    axes: Axes

    @classmethod
    def read(
        cls, trainer: Trainer, model: "System", data: SplitDataModule, ckpt_path: str | None, rows: int
    ) -> "Samples":
        """Load the checkpoint and the split of its run through the Trainer, and take validation samples."""
        take_sizes(model, data)
        data.predict_part = data.predict_part or "val"
        trainer.limit_predict_batches = 1  # only to load what belongs to the run
        trainer.predict(model, data, ckpt_path=ckpt_path, return_predictions=False)
        model.cpu().eval()
        if model.net is not None:
            model.net._compiled_call_impl = None  # a compiled network is exported as it was written
        data.bucket = False  # in the order of the records: lengths as they come
        size = min(16, max(2, rows // 2))
        found = []
        for per_batch, count in ((1, min(rows, SINGLES)), (size, max(1, rows // size))):
            data.batch_size = per_batch
            found.append(list(itertools.islice(data.predict_dataloader(), count)))
        singles, batches = found
        inputs, alone = [model.net_inputs(b) for b in batches], [model.net_inputs(b) for b in singles]
        axes = model.export_axes([*singles, *batches])
        if model.PREDICTS == "text":  # all windows are of one length, and the network takes any
            axes = {name: {0: "batch", 1: "length"} for name in inputs[0]}
            alone += [beginning(each) for each in alone[:4]]
        # tracing takes an axis of size one for a fixed one
        axes = {
            name: {axis: label for axis, label in named.items() if inputs[0][name].shape[axis] > 1}
            for name, named in axes.items()
        }
        return cls(alone, inputs, axes)

    @property
    def example(self) -> Inputs:
        """The first batch."""
        return self.batches[0]

    @property
    def median(self) -> Inputs:
        """The sample of median size."""
        order = sorted(self.singles, key=lambda inputs: sum(x.numel() for x in inputs.values()))
        return order[len(order) // 2]


def beginning(inputs: Inputs) -> Inputs:
    """Return the first half of texts: each input (B, T) as (B, T // 2)."""
    return {name: x[:, : max(1, x.shape[1] // 2)].contiguous() for name, x in inputs.items()}


def _eager(network: Exported, inputs: Inputs) -> Answers:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in network(inputs).items()}


def compare(run: Run, network: Exported, samples: Samples) -> dict[str, Any]:
    """Compare an exported file with the network, on batches and on single samples of several lengths.

    Returns:
        max_difference over all answers, top1_agreement of the first answer, rows, ms (median time of one sample).
    """
    largest, same, total, rows = 0.0, 0, 0, 0
    for inputs in [*samples.batches, *samples.singles]:
        expected, got = _eager(network, inputs), run(inputs)
        for name, value in expected.items():
            if value.shape != got[name].shape:
                raise ExportError(f"{name} has the shape {got[name].shape}, not {value.shape}")
            largest = max(largest, float(np.abs(value - got[name]).max()))
        first = next(iter(expected))
        equal = expected[first].argmax(-1) == got[first].argmax(-1)
        same, total, rows = same + int(equal.sum()), total + equal.size, rows + len(equal)
    if not np.isfinite(largest):
        raise ExportError("the file answers with values that are not finite")
    ms = time_of(run, samples.median)
    return {"max_difference": largest, "top1_agreement": same / total, "answers_compared": rows, "ms": ms}


def table(found: dict[str, dict[str, Any]], samples: Samples) -> str:
    """Return what is printed: one line a format."""
    lines = [f"{'':<8} {'max difference':>14} {'same answer':>11} {'MB':>8} {'ms, one core':>12}"]
    for name, each in found.items():
        if name == "network":
            lines.append(f"{name:<8} {'':>14} {'':>11} {'':>8} {each['ms']:>12.2f}")
            continue
        same, size = f"{each['top1_agreement']:.2%}", f"{each['bytes'] / 1e6:.2f}"
        lines.append(f"{name:<8} {each['max_difference']:>14.2g} {same:>11} {size:>8} {each['ms']:>12.2f}")
    count = sum(len(next(iter(inputs.values()))) for inputs in samples.batches)
    return "\n".join([*lines, f"({count} validation samples in batches, {len(samples.singles)} one by one)"])


def facts(
    model: "System",
    data: SplitDataModule,
    samples: Samples,
    found: dict[str, dict[str, Any]],
    refused: dict[str, str],
    ckpt_path: str | None,
) -> dict[str, Any]:
    """Return what whoever runs the files has to know."""

    def described(name: str, value: Tensor) -> dict[str, Any]:
        shape = [samples.axes.get(name, {}).get(axis, size) for axis, size in enumerate(value.shape)]
        return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}

    packages = ["torch", *(["onnx", "onnxruntime"] if {*found} & {"onnx", "int8"} else [])]
    return {
        "system": f"{type(model).__module__}.{type(model).__qualname__}",
        "checkpoint": str(ckpt_path),
        "inputs": [described(name, value) for name, value in samples.example.items()],
        "outputs": list(_eager(Exported(model), samples.example)),
        **({"answers": TEXT_ANSWERS} if model.PREDICTS == "text" else {}),
        "class_names": list(model.class_names),
        "data": data.describe(),
        "formats": found,
        "refused": refused,
        "versions": {name: version(name) for name in packages},
    }
