"""The formats of the verb `export`: how each is written, and how its file is run."""

import contextlib
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

from modules.exporting import Axes, Exported, ExportedByName

if TYPE_CHECKING:
    from modules.base import System

Answers = dict[str, np.ndarray]
Run = Callable[[dict[str, Tensor]], Answers]
ONE_FILE = 1_800_000_000  # bytes of weights; above, ONNX keeps them in a second file
WARM_UP, TIMED = 5, 30


@dataclass(frozen=True)
class Format:
    """A format: the ending of its file, and the function that writes the file and returns what runs it.

    The function takes the system, batches of inputs (the first is traced), the axes that may have any size, and a path.
    """

    ending: str
    write: Callable[["System", Sequence[dict[str, Tensor]], Axes, Path], Run]


def write_torch(model: "System", batches: Sequence[dict[str, Tensor]], axes: Axes, path: Path) -> Run:
    """Write a program of torch.export; it takes the inputs as one dict."""
    example = batches[0]
    free = {name: dict.fromkeys(axes.get(name, {}), Dim.DYNAMIC) for name in example}
    with silent(), torch.no_grad():
        program = torch.export.export(Exported(model), (example,), dynamic_shapes=(free,), strict=False)
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()

    def run(inputs: dict[str, Tensor]) -> Answers:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in loaded(inputs).items()}

    return run


def write_onnx(model: "System", batches: Sequence[dict[str, Tensor]], axes: Axes, path: Path) -> Run:
    """Write an ONNX graph with named inputs, outputs and free axes."""
    _need("onnx", "onnxscript", "onnxruntime")
    example = batches[0]
    free: dict[str, Any] = {name: dict(axes.get(name, {})) for name in example}
    with silent(), torch.no_grad():
        network = ExportedByName(model).eval()
        outputs = list(network(**example))
        program = torch.onnx.export(
            network,
            (),
            kwargs=example,
            dynamo=True,
            dynamic_shapes={"inputs": free},
            input_names=list(example),
            output_names=outputs,
            verbose=False,
        )
        assert program is not None
        large = sum(value.nbytes for value in network.state_dict().values()) > ONE_FILE
        program.save(str(path), external_data=large)
    return run_onnx(path)


def write_int8(model: "System", batches: Sequence[dict[str, Tensor]], axes: Axes, path: Path) -> Run:
    """Write the ONNX graph with weights in int8.

    Activations are quantised as they come, but for networks of convolutions, which ONNX Runtime would then compute more
    slowly than in float: the range of their activations is measured on the batches (static quantisation).
    """
    _need("onnx", "onnxscript", "onnxruntime")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    with tempfile.TemporaryDirectory() as folder, silent():
        full = Path(folder) / "model.onnx"
        write_onnx(model, batches, axes, full)
        graph = onnx.load(full, load_external_data=False).graph
        if _convolutional(graph):
            quantize_static(
                full,
                path,
                _Batches(batches, {each.name for each in graph.input}),
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,  # 7 bits: products of 8 overflow on processors without VNNI
            )
        else:
            quantize_dynamic(full, path, weight_type=QuantType.QInt8)
    return run_onnx(path)


def _convolutional(graph: Any) -> bool:  # noqa: ANN401  # of a library that is asked for only here
    """Tell whether most weights of an ONNX graph are those of convolutions (of a ViT only the first layer is)."""
    sizes = {each.name: math.prod(each.dims) for each in graph.initializer}
    inside = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    return 2 * sum(sizes.get(name, 0) for name in inside) > sum(sizes.values())


class _Batches:
    """Batches in the form that static quantisation reads: one after the other, then ``None``."""

    def __init__(self, batches: Sequence[dict[str, Tensor]], names: set[str]) -> None:
        self.left, self.names = iter(batches), names

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs that the graph has, as arrays."""
        batch = next(self.left, None)
        return None if batch is None else {name: x.numpy() for name, x in batch.items() if name in self.names}


def run_onnx(path: Path) -> Run:
    """Return what runs an ONNX file, on one core."""
    run = run_arrays(path)
    return lambda inputs: run({name: value.numpy() for name, value in inputs.items()})


def run_arrays(path: Path) -> Callable[[Mapping[str, np.ndarray]], Answers]:
    """Return what runs an ONNX file on arrays, on one core; inputs that it does not have are left alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}  # an input that nothing depends on is left out of a graph
    outputs = [each.name for each in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> Answers:
        given = {name: value for name, value in inputs.items() if name in names}
        return dict(zip(outputs, session.run(None, given), strict=True))

    return run


FORMATS = {
    "onnx": Format(".onnx", write_onnx),
    "torch": Format(".pt2", write_torch),
    "int8": Format(".int8.onnx", write_int8),
}


def time_of(run: Run, inputs: dict[str, Tensor]) -> float:
    """Return the median time of an answer in milliseconds, on one core, after a warm-up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(WARM_UP):
            run(inputs)
        times = []
        for _ in range(TIMED):
            start = time.perf_counter()
            run(inputs)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(times)


def reason(error: BaseException) -> str:
    """Return the heart of what a converter says, in one line: converters wrap the cause in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0] if lines else type(error).__name__}"[:300]


def _need(*packages: str) -> None:
    for name in packages:
        try:
            __import__(name)
        except ImportError:
            raise ImportError(f"{name} is missing: from the checkout, pip install -e '.[export]'") from None


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep converters from speaking about themselves; what they raise is told."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
