"""What the house costs for ``language``, how near it comes to the machine's peak, and what the loss in chunks saves.

``python -m benchmarks.language --system language [--config FILE ...]``: time per step of ``fit`` over a bare loop
that does the same maths on the same streams; tokens a second and the share of the matrix-multiply peak measured here,
on the device and in the numbers of the fit; on the CPU (Linux), peak memory and time of the loss over 50,257 words, all
at once and in chunks.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.common import epochs, measure, ratio, read_words, verdict
from benchmarks.rounds import BareLoop, Interleave, now
from callbacks.report_files import read_json, write_json
from datamodules.samplers import Batch
from modules.language import LanguageModel
from modules.nets.language import LanguageTransformer
from modules.nets.language_parts import TokenLoss

VOCABULARY, WIDTH, POSITIONS, CHUNK, ROUNDS = 50_257, 512, 2048, 256, 3


class StreamLoop(BareLoop):
    """The same training of a language model in a plain loop: the memory is carried along the streams."""

    state: dict[str, Tensor] | None = None

    def step(self, cpu_batch: Batch) -> None:
        """Train on one batch."""
        batch = {name: value.to(self.system.device, non_blocking=True) for name, value in cpu_batch.items()}
        net: Any = self.net
        if self.state is None:
            self.state = net.new_state(*batch["tokens"].shape)
        self.optimizer.zero_grad()
        out = net(**self.system.net_inputs(batch), state=self.state, targets=batch["y"])
        self.state = out.get("state")
        (out["nll"].sum(1) * batch["weight"]).sum().backward()
        if self.max_norm is not None:
            clip_grad_norm_(self.net.parameters(), self.max_norm)
        self.optimizer.step()
        if self.schedule is not None and self.system.schedule_interval == "step":
            self.schedule.step()

    def epoch(self, number: int) -> list[float]:
        """Train one epoch; the streams begin anew."""
        self.state = None
        return super().epoch(number)


class InterleaveStreams(Interleave):
    """Compare ``fit`` with the bare loop of a language model; also note the work of a step.

    The distance of the parameters is that after the first epoch: rounding grows with every step that follows.

    Args:
        out: JSON file for the figures.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModel) -> None:  # type: ignore[override]
        """Copy what will be trained.

        Raises:
            ValueError: The fit is in mixed precision, which the bare loop is not.
        """
        if str(trainer.precision) != "32-true":
            raise ValueError(f"benchmarks.language compares in float32: the config has precision {trainer.precision}")
        self.loop = StreamLoop(pl_module, trainer)  # type: ignore[arg-type]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LanguageModel) -> None:  # type: ignore[override]
        """Run the bare loop's turn; add tokens and operations of a step to the figures."""
        super().on_train_epoch_end(trainer, pl_module)  # type: ignore[arg-type]
        if trainer.current_epoch == 0:
            self.first_distance = self.distance
        if self.out.is_file():
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            tokens = data.batch_size * data.window
            work = {"tokens": tokens, "operations": tokens * operations(pl_module.net, data.window)}
            weight = next(pl_module.parameters())
            where = {"device": weight.device.type, "dtype": str(weight.dtype).removeprefix("torch.")}
            distance = {"parameter_distance": self.first_distance}
            write_json(self.out, {**read_json(self.out), **distance, **work, **where})


def operations(net: Any, window: int) -> float:  # noqa: ANN401
    """Floating-point operations of training on one token: six for each weight that multiplies, and of attention."""
    assert isinstance(net, LanguageTransformer)
    weights = sum(p.numel() for block in net.blocks for p in block.parameters() if p.ndim > 1)
    return 6.0 * (weights + net.head.weight.numel()) + 6.0 * len(net.blocks) * net.shape.width * window


def peak(device: str = "cpu", dtype: str = "float32", size: int = 0, rounds: int = 20) -> float:
    """Return the best rate of a square matrix product, in operations a second.

    Args:
        device: Where.
        dtype: Numbers.
        size: Of the matrices; 0 = 1024 on the CPU, 4096 elsewhere.
        rounds: Products.
    """
    place, size = torch.device(device), size or (1024 if device == "cpu" else 4096)
    a, b = torch.randn(2, size, size, device=place, dtype=getattr(torch, dtype)).unbind()
    best = 0.0
    for _ in range(rounds):
        began = now(place)
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (now(place) - began))
    return best


def resident(most: bool = False) -> float:
    """Return the memory of this process in MiB: now, or the most since :func:`forget_most`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:" if most else "VmRSS:"))
    return int(kibibytes) / 1024


def forget_most() -> None:
    """Begin the most memory anew: a process starts with that of the one which started it."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def loss_cost(
    chunk: int, vocabulary: int = VOCABULARY, positions: int = POSITIONS, rounds: int = ROUNDS
) -> dict[str, float]:
    """Run the loss forwards and backwards in this process; return its peak memory above the start, and its time."""
    hidden = torch.randn(1, positions, WIDTH, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocabulary, WIDTH) * 0.02)
    targets = torch.randint(vocabulary, (1, positions))
    # filled, not made of zeros: memory that was never written to is none, and would be counted as the loss's
    weight.grad, hidden.grad = torch.empty_like(weight).fill_(0.0), torch.empty_like(hidden).fill_(0.0)
    mebibytes, seconds = [], []
    for _ in range(rounds):
        forget_most()
        before, began = resident(), time.perf_counter()
        TokenLoss(chunk)(hidden, weight, None, targets).mean().backward()
        seconds.append(time.perf_counter() - began)
        mebibytes.append(resident(most=True) - before)
    return {"mebibytes": median(mebibytes), "seconds": median(seconds), "rounds": rounds}


def loss_costs(*sizes: int) -> dict[str, dict[str, float]]:
    """Return the cost of the loss all at once and in chunks, each in a process of its own.

    Args:
        sizes: Vocabulary, positions and rounds, where they are to be others.
    """
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(loss_cost, (chunk, *sizes)) for name, chunk in (("all", 0), ("chunks", CHUNK))}


def describe(step: dict[str, Any], rate: float, loss: dict[str, dict[str, float]]) -> str:
    """The figures in a few lines, with the target beside them."""
    share = step["operations"] / (step["fit_ms_per_step"] / 1000) / rate
    lines = [
        f"time per step: fit {step['fit_ms_per_step']:.1f} ms, bare loop {step['bare_ms_per_step']:.1f} ms",
        f"  {ratio(step)}; {verdict(step['ratio'], at_most=1.05)}",
        f"  after the first epoch, parameters of the two differ by at most {step['parameter_distance']:.1e}",
        f"{1000 * step['tokens'] / step['fit_ms_per_step']:.0f} tokens a second; {100 * share:.0f} % of the peak of "
        f"{rate / 1e9:.0f} billion operations a second ({step['device']}, {step['dtype']})",
        *(f"loss over {VOCABULARY} words, {POSITIONS} positions, on the CPU, {name}: {cost['mebibytes']:.0f} MiB, "
          f"{cost['seconds']:.2f} s" for name, cost in loss.items()),
    ]  # fmt: skip
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and leave a record when asked."""
    given = read_words("benchmarks.language", __doc__, ["language"], 4, args)
    options = [*epochs(given.rounds + 1), "--judgement.train_documents=0", *given.options]
    with tempfile.TemporaryDirectory() as name:
        step = measure(given.configs, "benchmarks.language.InterleaveStreams", options, Path(name))
    rate, loss = peak(step["device"], step["dtype"]), loss_costs()
    print(describe(step, rate, loss))
    sources = ["modules/nets/memory.py", "modules/optim.py"]
    given.keep("benchmarks.language", sources, {"step": step, "peak": rate, "loss": loss})


if __name__ == "__main__":
    main()
