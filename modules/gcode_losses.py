"""Losses of G-code tokens: one for each head, over the positions where the head has a target."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.keyed import keyed_normal
from modules.losses import CrossEntropy, Focal
from modules.nets.gcode_heads import SIGN

PAD, MINUS = 0, 1  # as in modules.gcode_tokens
_SAMPLED = 2  # tells these random numbers from others that belong to a window
# Factors of sign, digits and value in the phases of a curriculum: structure; sign and first digits; everything.
PHASES = ((0.0, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 1.0, 0.5))


@dataclass(frozen=True)
class Losses:
    """What is learned, and how; a weight of 0 leaves a head untrained.

    Args:
        flat: Weight of the flat head.
        type: Weight of the type.
        command: Weight of the command.
        param: Weight of the letter.
        sign: Weight of the sign.
        digits: Weight of the digits (their mean).
        value: Weight of the value of a number (Huber); 0 leaves its head out of the network.
        operation: Weight of the operation, where the encoder is trained, too.
        gamma: Focal exponent of the type; the command has one more, and 0 is cross-entropy for both.
        label_smoothing: Of every head.
        class_weight: ``balanced`` weighs types, commands and letters by the inverse of their training counts.
        phase_epochs: Epochs of each of the first two phases of the curriculum (see ``PHASES``); 0 = none.
        teacher_forcing: Share of true tokens among the inputs at the end of training; it falls from 1 as half a cosine.

    Raises:
        ValueError: For a negative weight, or a share outside [0, 1].
    """

    flat: float = 1.0
    type: float = 1.0
    command: float = 2.5
    param: float = 1.5
    sign: float = 1.0
    digits: float = 1.0
    value: float = 0.1
    operation: float = 1.0
    gamma: float = 3.0
    label_smoothing: float = 0.1
    class_weight: Literal["none", "balanced"] = "none"
    phase_epochs: int = 0
    teacher_forcing: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.flat, self.type, self.command, self.param, self.sign, self.digits, self.value, self.operation)
        if min(*weights, self.gamma, self.phase_epochs) < 0:
            raise ValueError("weights, gamma and phase_epochs of the losses are at least 0")
        if not 0 <= self.teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing={self.teacher_forcing} must lie in [0, 1]")

    def phase(self, epoch: int) -> int:
        """Return the phase of an epoch, 0 to 2."""
        return min(epoch // self.phase_epochs, 2) if self.phase_epochs else 2

    def weights(self, epoch: int | None) -> dict[str, float]:
        """Return the weight of each head in an epoch; ``None``: without curriculum."""
        sign, digits, value = PHASES[self.phase(epoch)] if epoch is not None and self.phase_epochs else (1.0, 1.0, 1.0)
        return {
            "flat": self.flat,
            "type": self.type,
            "command": self.command,
            "param": self.param,
            "sign": self.sign * sign,
            "digits": self.digits * digits,
            "value": self.value * value,
        }

    def true_share(self, progress: float) -> float:
        """Return the share of true tokens among the inputs, at a share of the training."""
        return self.teacher_forcing + (1 - self.teacher_forcing) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class TokenLoss(nn.Module):
    """The loss of each head for each window of a batch: the mean over the positions where the head has a target.

    The constant 0.25 of the brief's focal loss is left out: it only scales.

    Args:
        settings: Weights and forms.
        digits: Digits of a number.
    """

    def __init__(self, settings: Losses, digits: int) -> None:
        super().__init__()
        self.settings, self.digits = settings, digits
        smoothing, weighed = settings.label_smoothing, settings.class_weight
        gammas = {"type": settings.gamma, "command": settings.gamma + 1 if settings.gamma else 0.0, "param": 0.0}
        # without a focus the plain loss is the same, and spares a copy of all logits over the vocabulary
        made = {n: Focal(g, weighed, smoothing) if g else CrossEntropy(smoothing, weighed) for n, g in gammas.items()}
        made |= {name: CrossEntropy(smoothing) for name in ("flat", "sign", "digits")}
        self.heads = nn.ModuleDict({f"of_{name}": loss for name, loss in made.items()})  # `type` is a module's own name
        self.scale = 10.0 ** (4 if digits == 6 else 3)  # so that a coordinate is in its own unit

    def use_counts(self, counts: dict[str, Tensor]) -> None:
        """Take the training counts of types, commands and letters; a class without any counts as an average one."""
        for name, found in counts.items():
            found = torch.as_tensor(found, dtype=torch.float32)
            filled = torch.where(found > 0, found, found.sum() / len(found))
            self.heads[f"of_{name}"].use_counts(filled)  # type: ignore[operator]

    def forward(
        self, outputs: dict[str, Tensor], tokens: Tensor, fields: Tensor, epoch: int | None
    ) -> dict[str, Tensor]:
        """Return the loss of each head that the network has (B,), not weighted.

        Args:
            outputs: Logits by head, see ``Heads``.
            tokens: (B, L) true ids, PAD after the end.
            fields: (B, L, F) true fields, -1 where there is none.
            epoch: In the second phase of a curriculum only the first half of the digits counts.
        """
        targets = {"flat": tokens.masked_fill(tokens == PAD, -1), "type": fields[..., 0], "command": fields[..., 1]}
        targets |= {"param": fields[..., 2], "sign": fields[..., SIGN], "digits": fields[..., SIGN + 1 :]}
        first = self.settings.phase_epochs and epoch is not None and self.settings.phase(epoch) == 1
        if first:
            targets["digits"] = targets["digits"].clone()
            targets["digits"][..., self.digits // 2 :] = -1
        found = {name: self._head(name, outputs[name], y) for name, y in targets.items() if name in outputs}
        if "value" in outputs:
            found["value"] = self._value(outputs["value"], fields)
        return found

    def total(self, parts: dict[str, Tensor], epoch: int | None) -> Tensor:
        """Return the weighted sum (B,) of the heads."""
        weights = self.settings.weights(epoch)
        return torch.stack([weights[name] * part for name, part in parts.items()]).sum(0)

    def _head(self, name: str, logits: Tensor, target: Tensor) -> Tensor:
        each = self.heads[f"of_{name}"](logits.flatten(0, -2), target.flatten()).view(target.shape)
        return _mean(each, target >= 0)

    def _value(self, told: Tensor, fields: Tensor) -> Tensor:
        digits = fields[..., SIGN + 1 :]
        powers = 10.0 ** torch.arange(self.digits - 1, -1, -1, device=digits.device)
        size = (digits * powers).sum(-1) / self.scale
        value = torch.where(fields[..., SIGN] == MINUS, -size, size)
        real = fields[..., SIGN] >= 0
        told, value = (x.float().masked_fill(~real, 0.0) for x in (told, value))
        return _mean(F.huber_loss(told, value, reduction="none"), real)


def _mean(each: Tensor, real: Tensor) -> Tensor:
    """Mean (B,) over the real positions of each window; 0 where there is none."""
    each, real = each.flatten(1), real.flatten(1)
    return each.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)


def sampled_inputs(true: Tensor, guess: Tensor, chosen: Tensor) -> Tensor:
    """Put a network's own guesses in place of true inputs (scheduled sampling, Bengio et al. 2015).

    Args:
        true: Inputs (B, L) or (B, L, F), BOS first.
        guess: What the network said at each position, (B, L) or (B, L, F).
        chosen: (B, L) bool, where the guess of the position before is the input.
    """
    before = torch.cat([true[:, :1], guess[:, :-1]], 1)
    mask = chosen.clone()
    mask[:, 0] = False
    return torch.where(mask if true.dim() == 2 else mask[..., None], before, true)


def chosen_positions(keys: Tensor, length: int, true_share: float, *seed: int) -> Tensor:
    """Return where a guess is read in place of the true token (B, L) bool, as the keys of the windows say."""
    if true_share >= 1:
        return torch.zeros(len(keys), length, dtype=torch.bool, device=keys.device)
    limit = NormalDist().inv_cdf(true_share) if true_share > 0 else -math.inf
    return keyed_normal(keys, (length,), *seed, _SAMPLED) > limit
