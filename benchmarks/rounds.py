"""The measuring callbacks of ``benchmarks.loop``: they ride along in a real ``fit`` and write what they saw as JSON."""

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from callbacks.gradient_clipping import GradientClipping
from callbacks.report_files import write_json
from datamodules.samplers import Batch, IndexBatch, plan_batches
from modules.classifier import Classifier, logits_of


def copied(system: Classifier) -> tuple[nn.Module, nn.Module, list[dict[str, Any]]]:
    """Copy the network and the loss of a system; return them, and the system's own parameter groups of that network."""
    own = system.net
    assert own is not None
    net, loss = copy.deepcopy(own).train(), copy.deepcopy(system.loss)
    try:
        system.net = net  # a system makes the groups of the network that it holds
        return net, loss, system.parameter_groups()
    finally:
        system.net = own


def stepping(system: Classifier, trainer: Trainer, groups: list[dict[str, Any]]) -> tuple[Optimizer, Any]:
    """Build the system's optimizer over some groups, and its schedule (or ``None``) for the steps of this fit."""
    optimizer = system.optimizer(groups)
    schedule: Any = system.schedule(optimizer) if system.schedule else None
    if getattr(schedule, "total_steps", 0) is None:
        schedule.total_steps = int(trainer.estimated_stepping_batches)
    return optimizer, schedule


def max_norm(trainer: Trainer) -> float | None:
    """Return the largest norm of the gradient, as it is clipped."""
    return next(c for c in trainer.callbacks if isinstance(c, GradientClipping)).max_norm  # type: ignore[attr-defined]


class BareLoop:
    """The same training in a plain PyTorch loop, on copies: network, loss, optimizer, schedule, clipping, batches.

    Args:
        system: What ``fit`` trains, before its first step.
        trainer: Its Trainer.
    """

    def __init__(self, system: Classifier, trainer: Trainer) -> None:
        self.system, self.data = system, trainer.datamodule  # type: ignore[attr-defined]
        self.net, self.loss, groups = copied(system)
        self.optimizer, self.schedule = stepping(system, trainer, groups)
        self.max_norm = max_norm(trainer)

    def step(self, cpu_batch: Batch) -> None:
        """Train on one batch."""
        batch = {name: value.to(self.system.device, non_blocking=True) for name, value in cpu_batch.items()}
        self.optimizer.zero_grad()
        outputs = self.net(**self.system.net_inputs(batch))
        (self.loss(logits_of(outputs), self.system.target(batch)) * batch["weight"]).sum().backward()
        if self.max_norm is not None:
            clip_grad_norm_(self.net.parameters(), self.max_norm)
        self.optimizer.step()
        if self.schedule is not None and self.system.schedule_interval == "step":
            self.schedule.step()

    def epoch(self, number: int) -> list[float]:
        """Train one epoch on the batches that ``fit`` has in it; return the clock after each step, in seconds."""
        loader = self.data.train_dataloader()
        loader.sampler.set_epoch(number)
        clock = []
        for batch in loader:
            self.step(batch)
            clock.append(now(self.system.device))
        if self.schedule is not None and self.system.schedule_interval == "epoch":
            self.schedule.step()
        return clock

    def distance(self) -> float:
        """Largest absolute difference between its parameters and those of ``fit``."""
        assert self.system.net is not None
        pairs = zip(self.net.parameters(), self.system.net.parameters(), strict=True)
        return max(float((a - b).detach().abs().max()) for a, b in pairs)


class Interleave(Callback):
    """After each epoch of ``fit``, train the same epoch in the bare loop; compare time per step and parameters.

    The random state of the epoch is given to both, so both compute the same numbers: ``distance`` proves it.

    Args:
        out: JSON file for the figures.
    """

    def __init__(self, out: str) -> None:
        self.out, self.fit, self.bare = Path(out), list[list[float]](), list[list[float]]()
        self.clock: list[float] = []
        self.distance = 0.0
        self.loop: BareLoop | None = None
        self.state = torch.get_rng_state()

    def on_train_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Copy what will be trained."""
        self.loop = BareLoop(pl_module, trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Classifier, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """Remember the random state that the epoch starts with."""
        if batch_idx == 0:
            self.state, self.clock = torch.get_rng_state(), []

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Classifier, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Read the clock."""
        self.clock.append(now(pl_module.device))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Run the bare loop's turn and write the figures so far; the first epoch warms both up and is left out."""
        assert self.loop is not None
        after = torch.get_rng_state()
        torch.set_rng_state(self.state)
        bare = self.loop.epoch(trainer.current_epoch)
        torch.set_rng_state(after)
        self.distance = max(self.distance, self.loop.distance())
        if trainer.current_epoch > 0:
            self.fit.append(np.diff(self.clock).tolist())
            self.bare.append(np.diff(bare).tolist())
            write_json(self.out, {**ratio_of_steps(self.fit, self.bare), "parameter_distance": self.distance})


def ratio_of_steps(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    """Compare two lists of rounds of step times, in seconds.

    A step's time is its median over the rounds, as another process on the machine lengthens single steps; what recurs
    (a log line every ten steps) stays in. The batches of a round differ in length, those at one place do not differ
    between the two. The spread is the middle half of the rounds' own ratios.
    """
    ours_step, theirs_step = np.median(ours, axis=0), np.median(theirs, axis=0)
    rounds = np.median(np.array(ours) / np.array(theirs), axis=1)
    return {
        "rounds": len(ours),
        "steps": len(ours_step),
        "fit_ms_per_step": 1000 * float(np.median(ours_step)),
        "bare_ms_per_step": 1000 * float(np.median(theirs_step)),
        "ratio": float(ours_step.sum() / theirs_step.sum()),
        "ratio_spread": [float(np.quantile(rounds, q)) for q in (0.25, 0.75)],
    }


class Padding(Callback):
    """Before the first step: real frames or tokens a second with length buckets, and padded to the maximum; then stop.

    Both train the same network; the bucketed side takes batches of similar length as training plans them, the padded
    side random batches of which each sequence has the maximal length. Predictions of both are compared.

    Args:
        out: JSON file for the figures.
        batches: Batches a round.
        rounds: Rounds of each, interleaved.
    """

    def __init__(self, out: str, batches: int = 12, rounds: int = 5) -> None:
        self.out, self.batches, self.rounds = Path(out), batches, rounds

    def on_train_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Measure."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        rows, lengths, longest = data.indices("train"), data.lengths(), limits(data)
        plain, bucketed, everything = (
            BareLoop(pl_module, trainer),
            BareLoop(pl_module, trainer),
            data.dataset(rows, True),
        )
        plans = {
            name: plan_batches(rows, batch_size=data.batch_size, lengths=by, shuffle=True, seed=data.seed)
            for name, by in (("bucketed", lengths[rows]), ("padded", None))
        }
        figures: dict[str, list[float]] = {"bucketed": [], "padded": []}
        for turn in range(self.rounds + 1):
            for name, loop in (("bucketed", bucketed), ("padded", plain)):
                chosen = _spread_out(plans[name], self.batches, turn)
                made = [everything.__getitems__(IndexBatch(r.tolist(), len(r), 1 / len(r), 0, 0)) for r in chosen]
                made = made if name == "bucketed" else [pad(batch, longest) for batch in made]
                real = sum(int(batch[mask].sum()) for batch in made for mask in longest)
                start = now(pl_module.device)
                for batch in made:
                    loop.step(batch)
                if turn:  # the first turn warms up
                    figures[name].append(real / (now(pl_module.device) - start))
        rates = [a / b for a, b in zip(figures["bucketed"], figures["padded"], strict=True)]
        result = {
            "rounds": self.rounds,
            "batch_size": data.batch_size,
            "max_len": sum(longest.values()),
            "mean_len": float(np.minimum(lengths[rows], sum(longest.values())).mean()),
            "bucketed_per_second": median(figures["bucketed"]),
            "padded_per_second": median(figures["padded"]),
            "ratio": median(rates),
            "ratio_spread": [float(np.quantile(rates, q)) for q in (0.25, 0.75)],
            "largest_difference_of_predictions": self.difference(pl_module, data, rows, longest),
        }
        write_json(self.out, result)
        trainer.should_stop = True

    def difference(self, system: Classifier, data: Any, rows: np.ndarray, longest: Mapping[str, int]) -> float:  # noqa: ANN401
        """Largest difference of a probability between batches of similar length and padding to the maximum."""
        judged, worst = data.dataset(rows, train=False), 0.0
        plan = plan_batches(rows, batch_size=data.batch_size, lengths=data.lengths()[rows])
        system.eval()
        with torch.no_grad():
            for chosen in _spread_out(plan, self.batches, 0):
                batch = judged.__getitems__(IndexBatch(chosen.tolist(), len(chosen), 1 / len(chosen), 0, 0))
                a, b = (self._prob(system, one) for one in (batch, pad(batch, longest)))
                worst = max(worst, float((a - b).abs().max()))
        system.train()
        return worst

    def _prob(self, system: Classifier, batch: Batch) -> Tensor:
        return system({name: value.to(system.device) for name, value in batch.items()}).float().softmax(1)


def limits(data: Any) -> dict[str, int]:  # noqa: ANN401  # a SplitDataModule with sequences
    """Return the largest length of what each mask of a batch is about."""
    if hasattr(data, "max_len"):
        return {"mask": int(data.max_len)}
    return {f"{field}_mask": int(most) for field, most in data.limits.items()}


def pad(batch: Batch, longest: Mapping[str, int]) -> Batch:
    """Lengthen each mask (B, T) that is named, and the sequences (B, T, ...) that it is about."""
    made = dict(batch)
    for mask, length in longest.items():
        field = mask.removesuffix("mask")
        for name in (f"{field}x", f"{field}ids", f"{field}states", mask):
            if name in batch:
                x = batch[name]
                made[name] = F.pad(x, (0, 0) * (x.ndim - 2) + (0, length - x.shape[1]))
    return made


def _spread_out(plan: list[np.ndarray], count: int, turn: int) -> list[np.ndarray]:
    """Every k-th batch, another beginning each turn, so that all lengths take part."""
    stride = max(1, len(plan) // count)
    return plan[turn % stride :: stride][:count]


def now(device: torch.device) -> float:
    """Return the clock in seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
