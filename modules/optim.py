"""What the optimizers of all systems share: decay groups by module and a warm-up + cosine schedule in steps."""

import math
import re
import time
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_UNDECAYED = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase, nn.Embedding, nn.EmbeddingBag)
_POSITION_PATH = re.compile(r"(^|[._])pos(ition|itions|itional)?($|[._])")
_POSITION_CLASS = re.compile(r"Position(s|al)?(?![a-z])")


def parameter_groups(net: nn.Module, decay_all: bool) -> list[dict[str, Any]]:
    """Split the trainable parameters of a network into those with and without weight decay.

    Without decay: parameters of norms and embeddings (by module type, tied weights included), all vectors and scalars
    (biases, scales), positional tables (a bare parameter whose path or whose module's class has position as a word),
    and what a module names in timm's ``no_weight_decay()``.

    Args:
        net: Network; frozen parameters are left out.
        decay_all: Decay everything, one group (for recipes that do).

    Returns:
        Parameter groups for an optimizer, each with a ``name``; empty groups are left out.
    """
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if decay_all:
        return [{"params": trainable, "name": "decay"}]
    spared: set[int] = set()
    for path, module in net.named_modules():
        named = module.no_weight_decay() if callable(getattr(module, "no_weight_decay", None)) else set()
        spared.update(id(parameter) for name, parameter in module.named_parameters() if name in named)
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, _UNDECAYED) or parameter.ndim < 2 or _is_position(module, f"{path}.{name}"):
                spared.add(id(parameter))
    decay = [parameter for parameter in trainable if id(parameter) not in spared]
    no_decay = [parameter for parameter in trainable if id(parameter) in spared]
    groups: list[dict[str, Any]] = []
    if decay:
        groups.append({"params": decay, "name": "decay"})
    if no_decay:
        groups.append({"params": no_decay, "weight_decay": 0.0, "name": "no_decay"})
    return groups


def _is_position(module: nn.Module, path: str) -> bool:
    # A linear layer beside a positional table does decay: only bare parameters of a class of one's own are tables.
    bare = not type(module).__module__.startswith("torch.nn")
    return bare and bool(_POSITION_PATH.search(path) or _POSITION_CLASS.search(type(module).__name__))


class Warmup(LRScheduler):
    """Linear warm-up, then a fall to ``min_ratio`` of the learning rate; stepped once per optimizer step.

    At step t of a warm-up of W steps the factor is (t + 1) / (W + 1), so the first step already learns; past
    ``total_steps`` it stays at ``min_ratio``. A run no longer than its warm-up only warms up.
    Settings are not part of the state: a resumed run follows its own config.
    """

    min_ratio: float

    def fall(self, progress: float) -> float:
        """Return what is left of the way down, 1 to 0, at a share of the steps after the warm-up."""
        raise TypeError(f"{type(self).__name__} must define fall")

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        raise TypeError(f"{type(self).__name__} must define warmup")

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; ``None`` until the system knows them."""
        return self._total_steps

    @total_steps.setter
    def total_steps(self, steps: int | None) -> None:
        self._total_steps = steps
        if hasattr(self, "last_epoch"):  # set after construction: the warm-up may be a share of it
            self.last_epoch -= 1
            self._update_lr()

    def ratio(self, step: int) -> float:
        """Return the factor of the learning rate at an optimizer step, counted from 0.

        Raises:
            RuntimeError: Past the first step, when ``total_steps`` is unknown.
        """
        if step and self.total_steps is None:
            name = type(self).__name__
            raise RuntimeError(f"{name} was stepped before its total_steps was set: give it or set the attribute")
        warmup = self.warmup
        if warmup > step:
            return (step + 1) / (warmup + 1)
        length = max(1, (self.total_steps or 0) - warmup)
        progress = min(1.0, (step - warmup) / length)
        return self.min_ratio + (1 - self.min_ratio) * self.fall(progress)

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each group at the current step."""
        return [base * self.ratio(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the position only, plain numbers."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved position and set the learning rates that this schedule has there."""
        super().load_state_dict(state_dict)
        if self.total_steps is not None or not self.last_epoch:
            self.last_epoch -= 1
            self._update_lr()


class WarmupCosine(Warmup):
    """Linear warm-up, then half a cosine.

    Args:
        optimizer: Optimizer whose groups are scheduled.
        warmup_steps: Steps of the warm-up.
        total_steps: Steps of the whole run; ``None`` is filled in by the system before training.
        min_ratio: Factor at the end, in [0, 1].

    Raises:
        ValueError: For a negative warm-up or a ``min_ratio`` outside [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, total_steps: int | None = None, min_ratio: float = 0.0
    ) -> None:
        if warmup_steps < 0 or not 0 <= min_ratio <= 1:
            raise ValueError(f"need warmup_steps >= 0 and 0 <= min_ratio <= 1, got {warmup_steps} and {min_ratio}")
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.min_ratio = min_ratio
        super().__init__(optimizer)

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        return self.warmup_steps

    def fall(self, progress: float) -> float:
        """Return half a cosine."""
        return 0.5 * (1 + math.cos(math.pi * progress))


class WarmupSeconds(Warmup):
    """Linear warm-up in steps, then half a cosine over time on the clock, for a run that is given minutes, not epochs.

    Give the Trainer ``max_time`` a little above. Not for runs that are to be repeated exactly; one that is resumed gets
    all of its seconds again.

    Args:
        optimizer: Optimizer whose groups are scheduled.
        warmup_steps: Steps of the warm-up.
        seconds: Seconds from the first step to the end.
        min_ratio: Factor at the end and after it, in [0, 1].

    Raises:
        ValueError: For a negative warm-up, no time, or a ``min_ratio`` outside [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, seconds: float = 60.0, min_ratio: float = 0.0
    ) -> None:
        if warmup_steps < 0 or seconds <= 0 or not 0 <= min_ratio <= 1:
            raise ValueError(
                "need warmup_steps >= 0, seconds > 0 and 0 <= min_ratio <= 1, got "
                f"{warmup_steps}, {seconds} and {min_ratio}"
            )
        self.warmup_steps, self.seconds, self.min_ratio = warmup_steps, seconds, min_ratio
        self.total_steps = None
        self._began: float | None = None
        super().__init__(optimizer)

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        return self.warmup_steps

    def ratio(self, step: int) -> float:
        """Return the factor of the learning rate at a step, now."""
        if step and self._began is None:
            self._began = time.monotonic()
        if self.warmup > step:
            return (step + 1) / (self.warmup + 1)
        passed = time.monotonic() - self._began if self._began is not None else 0.0
        return self.min_ratio + (1 - self.min_ratio) * self.fall(min(1.0, passed / self.seconds))

    def fall(self, progress: float) -> float:
        """Return half a cosine."""
        return 0.5 * (1 + math.cos(math.pi * progress))


class WarmupLinear(Warmup):
    """Linear warm-up, then a straight line, as encoders of text are usually fine-tuned.

    Args:
        optimizer: Optimizer whose groups are scheduled.
        warmup_share: Share of all steps that the warm-up takes, in [0, 1).
        total_steps: Steps of the whole run; ``None`` is filled in by the system before training.
        min_ratio: Factor at the end, in [0, 1].

    Raises:
        ValueError: For a share outside [0, 1) or a ``min_ratio`` outside [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_share: float = 0.1,
        total_steps: int | None = None,
        min_ratio: float = 0.0,
    ) -> None:
        if not 0 <= warmup_share < 1 or not 0 <= min_ratio <= 1:
            raise ValueError(f"need 0 <= warmup_share < 1 and 0 <= min_ratio <= 1, got {warmup_share} and {min_ratio}")
        self.warmup_share = warmup_share
        self.total_steps = total_steps
        self.min_ratio = min_ratio
        super().__init__(optimizer)

    @property
    def warmup(self) -> int:
        """Steps of the warm-up; unknown, and 0, until the steps of the run are known."""
        return round(self.warmup_share * (self.total_steps or 0))

    def fall(self, progress: float) -> float:
        """Return a straight line."""
        return 1 - progress
