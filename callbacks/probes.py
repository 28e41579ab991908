"""Probes of a network at the start of a fit: defects that train on quietly and show as a number that is merely worse.

They look and touch nothing: weights, buffers, training flags, optimizer and every random stream are as before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import Optimizer

Inputs = dict[str, Any]

INITIAL_LOSS_TOLERANCE = 0.4
_FORWARD = ("padding", "batch_order", "batch_size", "causality", "initial_loss")
# Largest difference that is only rounding, as a share of the largest logit; other kernels run at other shapes.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TENSOR_CORE_TOLERANCE = 5e-3  # float32 on a device may use shorter products (TF32)
_MEND = {
    "padding": "mask attention, pooling, convolutions and position counts with the mask, or switch off probes.padding",
    "batch_order": "no layer may use its row number in the batch, or switch off probes.batch_order",
    "batch_size": "no layer may use statistics of the batch in eval mode (BatchNorm without running statistics, a "
    "softmax or mean over the batch dimension), or switch off probes.batch_size",
    "causality": "mask attention to later positions, take no statistics over time (such as a mean), write a "
    "memory only from what lies before all that reads it, or switch off probes.causality",
    "gradients": "use the parameter in forward, remove it or a detach() before it, freeze it (requires_grad=False), or "
    "name it in probes.allow_dead",
}


class ProbeError(RuntimeError):
    """A probe found a defect of the network; the message names it and how to mend it."""


class Probed(Protocol):
    """What a system must have to be probed."""

    net: nn.Module
    loss: nn.Module

    def net_inputs(self, batch: dict[str, Tensor]) -> Inputs:
        """Return the named arguments of the network."""

    def expected_initial_loss(self) -> float | None:
        """Return the loss of even probabilities, or ``None`` when there is no such value."""


class Probes(Callback):
    """Check the network once at the start of a fit; a resumed fit is not checked again.

    The probes of the forward pass run in eval mode on ``trainer.datamodule.probe_batch``, in the precision of the
    weights and without autocast, on every rank by itself. The gradient probe watches the first real optimizer steps.

    Args:
        padding: More padded frames holding any values leave the logits as they are.
        gradients: Each trainable parameter has a gradient at the first step and a non-zero one within
            ``gradient_steps``.
        batch_order: Permuted samples give permuted logits.
        batch_size: Samples one at a time give the logits of the whole batch.
        causality: Of a network that takes ``tokens`` and gives logits for each of them: later tokens leave earlier
            logits as they are.
        initial_loss: The loss is within 40 % of ``pl_module.expected_initial_loss()``; only reported, for a pre-trained
            network may start elsewhere.
        n_samples: Samples of the probe batch, at least 2.
        gradient_steps: Optimizer steps in which each gradient must have been non-zero once.
        allow_dead: Names of parameters that may have no gradient, with ``*`` for any part of a name.

    Attributes:
        results: One dict per probe: name, passed (None = not run), detail.

    Raises:
        ValueError: For fewer than 2 samples or fewer than 1 step.
    """

    def __init__(
        self,
        padding: bool = True,
        gradients: bool = True,
        batch_order: bool = True,
        batch_size: bool = True,
        causality: bool = True,
        initial_loss: bool = True,
        n_samples: int = 8,
        gradient_steps: int = 5,
        allow_dead: list[str] | None = None,
    ) -> None:
        if n_samples < 2 or gradient_steps < 1:
            raise ValueError(
                f"probes need n_samples >= 2 and gradient_steps >= 1, got {n_samples} and {gradient_steps}"
            )
        self.padding = padding
        self.gradients = gradients
        self.batch_order = batch_order
        self.batch_size = batch_size
        self.causality = causality
        self.initial_loss = initial_loss
        self.n_samples = n_samples
        self.gradient_steps = gradient_steps
        self.allow_dead = allow_dead
        self.results: list[dict[str, Any]] = []
        self._watched: dict[str, nn.Parameter] = {}  # without a non-zero gradient so far
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the probes of the forward pass and arm the gradient probe.

        Raises:
            ProbeError: When a probe fails.
            ValueError: When ``allow_dead`` names no parameter.
        """
        self.results, self._watched, self._steps = [], {}, 0
        if trainer.ckpt_path is not None:
            self._add("all", None, "not run: the fit was resumed")
            return
        if self.gradients:
            self._watched = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
            for pattern in self.allow_dead or []:
                if not any(fnmatchcase(name, pattern) for name in self._watched):
                    raise ValueError(f"probes.allow_dead: no trainable parameter is called {pattern!r}")
        if any(getattr(self, name) for name in _FORWARD):
            with isolate_rng(), torch.no_grad(), _as_found(cast(nn.Module, pl_module.net)):
                self._probe_forward(trainer, pl_module)
        if not self.gradients:
            self._show(trainer)
        self._raise_failures()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Watch the gradients of the first steps, as long as some were zero.

        Raises:
            ProbeError: At the first step for a missing gradient, at the last one for a gradient that was always zero.
        """
        if not self._watched:
            return
        self._steps += 1
        gradients = {name: p.grad for name, p in self._watched.items() if p.grad is not None}
        missing = [name for name in self._watched if name not in gradients and not self._may_be_dead(name)]
        if self._steps == 1 and missing:
            return self._finish(trainer, False, f"no gradient at the first step: {', '.join(missing)}")
        if gradients:  # one read for all of them
            alive = torch.stack([gradient.any() for gradient in gradients.values()]).tolist()
            for name in (name for name, is_alive in zip(gradients, alive, strict=True) if is_alive):
                del self._watched[name]
        dead = [name for name in self._watched if not self._may_be_dead(name)]
        if dead and self._steps < self.gradient_steps:
            return None
        if dead:
            return self._finish(trainer, False, f"zero gradient in the first {self._steps} steps: {', '.join(dead)}")
        allowed = f"; dead and allowed to be: {', '.join(self._watched)}" if self._watched else ""
        return self._finish(trainer, True, f"every parameter had a non-zero gradient by step {self._steps}{allowed}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a gradient probe that the run was too short for."""
        if self._watched:
            zero = ", ".join(self._watched)
            self._finish(trainer, None, f"the run ended after {self._steps} steps; gradient zero so far: {zero}")

    def _finish(self, trainer: Trainer, passed: bool | None, detail: str) -> None:
        self._watched = {}
        self._add("gradients", passed, detail)
        self._show(trainer)
        self._raise_failures()

    def _may_be_dead(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.allow_dead or [])

    def _probe_forward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, system = getattr(trainer, "datamodule", None), cast(Probed, pl_module)
        wanted = [name for name in _FORWARD if getattr(self, name)]
        if data is None or not hasattr(data, "probe_batch"):
            for name in wanted:
                if name != "causality":  # not every network has something to probe there
                    self._add(name, None, "not run: the data has no probe_batch")
            return
        batch = data.probe_batch(min(self.n_samples, len(data.indices("train"))))
        batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
        batch = trainer.precision_plugin.convert_input(batch)
        inputs = system.net_inputs(batch)
        probes = {
            "padding": _padding,
            "batch_order": _batch_order,
            "batch_size": _batch_size,
            "causality": _causality,
        }
        with torch.autocast(pl_module.device.type, enabled=False):
            logits = _logits(system.net, inputs)
            for name in wanted:
                if name == "causality" and not _scores_tokens(inputs, logits):
                    continue
                if name == "initial_loss":
                    self._add(name, *_initial_loss(system, logits, batch["y"]))
                    continue
                try:
                    self._add(name, *probes[name](system.net, inputs, logits))
                except (RuntimeError, ValueError, IndexError) as error:
                    self._add(name, False, f"the network failed on the changed batch: {error}")

    def _add(self, name: str, passed: bool | None, detail: str) -> None:
        self.results.append({"name": name, "passed": passed, "detail": detail})

    def _show(self, trainer: Trainer) -> None:
        words = {True: "passed", False: "FAILED", None: "-"}
        lines = [f"  {row['name']:<13} {words[row['passed']]:<7} {row['detail']}" for row in self.results]
        trainer.print("\n".join(["Probes:", *lines]))

    def _raise_failures(self) -> None:
        failed = [row for row in self.results if row["passed"] is False and row["name"] in _MEND]
        if failed:
            raise ProbeError("\n".join(f"probe {r['name']}: {r['detail']}. Mend: {_MEND[r['name']]}." for r in failed))


@contextmanager
def _as_found(net: nn.Module) -> Iterator[None]:
    """Put a network in eval mode and give back each training flag and buffer afterwards."""
    flags = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in net.buffers()]
    net.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        for buffer, value in buffers:
            buffer.copy_(value)


def _logits(net: nn.Module, inputs: Inputs) -> Tensor:
    # A compiled network would compile anew for each odd shape tried here.
    compiled = getattr(net, "_compiled_call_impl", None) is not None
    output = net.forward(**inputs) if compiled else net(**inputs)
    if isinstance(output, dict):
        output = output["logits"]
    return output[0] if isinstance(output, tuple) else output


def _batch_order(net: nn.Module, inputs: Inputs, logits: Tensor) -> tuple[bool | None, str]:
    flipped = {name: x.flip(0) if _has_rows(x, len(logits)) else x for name, x in inputs.items()}
    return _compare(_logits(net, flipped).flip(0), logits, "with the samples in reverse order")


def _batch_size(net: nn.Module, inputs: Inputs, logits: Tensor) -> tuple[bool | None, str]:
    rows = []
    for row in range(len(logits)):
        one = {name: x[row : row + 1] if _has_rows(x, len(logits)) else x for name, x in inputs.items()}
        rows.append(_logits(net, one))
    return _compare(torch.cat(rows), logits, "one sample at a time")


def _scores_tokens(inputs: Inputs, logits: Tensor) -> bool:
    tokens = inputs.get("tokens")
    return tokens is not None and logits.ndim == 3 and logits.shape[:2] == tokens.shape and tokens.shape[1] > 1


def _causality(net: nn.Module, inputs: Inputs, logits: Tensor) -> tuple[bool | None, str]:
    tokens = inputs["tokens"]
    middle = tokens.shape[1] // 2
    other = tokens.clone()
    other[:, middle:] = _garbage(tokens, tokens.shape[1] - middle)
    found = _logits(net, {**inputs, "tokens": other})
    return _compare(found[:, :middle], logits[:, :middle], "before the tokens that were changed")


def _padding(net: nn.Module, inputs: Inputs, logits: Tensor) -> tuple[bool | None, str]:
    """Compare a batch without its last frames with one where garbage under a False mask stands in their place.

    Frames are replaced and not added, for a network may have a largest length.
    """
    size = len(logits)
    lengths = {x.shape[1] for x in inputs.values() if _has_rows(x, size) and x.ndim == 2 and x.dtype == torch.bool}
    if not lengths:
        return None, "not run: the network takes no mask"
    short, long, named = dict(inputs), dict(inputs), []
    for name, x in inputs.items():
        if not _has_rows(x, size) or x.ndim < 2 or x.shape[1] not in lengths:
            continue
        extra = max(1, min(8, x.shape[1] // 4)) if x.shape[1] > 1 else 0
        short[name] = x[:, : x.shape[1] - extra]
        tail = _garbage(x, max(extra, 1))
        long[name] = torch.cat([short[name], tail], dim=1)
        named.append(name)
        if name.endswith("_links"):  # between all pairs of positions: the second side is cut, too
            short[name] = short[name][:, :, : x.shape[2] - extra]
            tall = torch.cat([short[name], tail[:, :, : x.shape[2] - extra]], dim=1)
            long[name] = torch.cat([tall, _garbage(tall.mT, max(extra, 1)).mT], dim=2)
        if x.ndim == 2 and x.dtype == torch.bool:
            # Every sample needs a real frame; the frames cut off may have been all that it had.
            short[name] = short[name].clone()
            short[name][:, 0] |= ~short[name].any(dim=1)
            long[name] = torch.cat([short[name], torch.zeros_like(tail)], dim=1)
    expected, found = _logits(net, short), _logits(net, long)
    what = f"with padded frames behind {', '.join(named)}"
    if found.ndim > 2 and found.shape[1] != expected.shape[1]:  # one output per frame: the real ones count
        found = found[:, : expected.shape[1]]
    return _compare(found, expected, what)


def _garbage(x: Tensor, extra: int) -> Tensor:
    """Return frames (B, extra, ...): large values, or for integers any that occur, so that indices stay legal."""
    if x.dtype == torch.bool:
        return torch.zeros_like(x[:, :1]).expand(-1, extra, *x.shape[2:])
    if x.is_floating_point():
        shape = (len(x), extra, *x.shape[2:])
        return 10 * x.abs().max().clamp_min(1) * torch.randn(shape, device=x.device).to(x.dtype)
    pick = torch.randint(x.numel(), (len(x), extra, *x.shape[2:]), device=x.device)
    return x.flatten()[pick]


def _initial_loss(system: Probed, logits: Tensor, y: Tensor) -> tuple[bool | None, str]:
    expected, real = system.expected_initial_loss(), y >= 0
    if expected is not None and logits.ndim == 3 and logits.shape[:2] == y.shape and bool(real.any()):  # of tokens
        loss = F.cross_entropy(logits[real].float(), y[real]).item()
        return _near(loss, expected)
    if expected is None or logits.ndim != 2 or not bool(real.any()):
        return None, "not run: no expected value, no class logits or no labels"
    logits, y = logits[real], y[real]
    loss = system.loss(logits, y).mean().item()
    uniform = system.loss(torch.zeros_like(logits), y).mean().item()
    if uniform > 0:
        loss *= expected / uniform  # takes out the class weights of these few samples
    return _near(loss, expected)


def _near(loss: float, expected: float) -> tuple[bool, str]:
    passed = abs(loss - expected) <= INITIAL_LOSS_TOLERANCE * expected
    return passed, f"loss {loss:.3f}, expected {expected:.3f} before training" + ("" if passed else " (a warning)")


def _has_rows(x: object, size: int) -> bool:
    return isinstance(x, Tensor) and x.ndim > 0 and len(x) == size


def _compare(found: Tensor, expected: Tensor, what: str) -> tuple[bool | None, str]:
    if found.shape != expected.shape:
        return False, f"logits have shape {tuple(found.shape)} instead of {tuple(expected.shape)} {what}"
    share = _TOLERANCE.get(expected.dtype, 1e-4)
    if expected.dtype == torch.float32 and expected.device.type != "cpu":
        share = _TENSOR_CORE_TOLERANCE
    # In float32 on any device: some have no float64.
    wide = torch.promote_types(expected.dtype, torch.float32)
    gap = (found.to(wide) - expected.to(wide)).abs().max().item()
    limit = share * max(1.0, expected.abs().max().item())
    passed = gap <= limit  # false for NaN
    return passed, f"logits differ by {gap:.1e} {what}" + ("" if passed else f" (at most {limit:.1e} is rounding)")
