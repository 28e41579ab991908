"""What a student learns from a teacher's probabilities (Hinton, Vinyals and Dean, 2015)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def soften(prob: Tensor, temperature: float) -> Tensor:
    """Return probabilities (B, C) at a temperature: softmax(log p / T).

    They are logits up to a constant, so that nothing but the temperature is applied: a softmax of probabilities, the
    mistake of the plants brief's student, makes any teacher say that all classes are equal. A row of zeros stays.
    """
    known = prob.sum(dim=1, keepdim=True) > 0
    logits = prob.float().clamp_min(torch.finfo(torch.float32).tiny).log() / temperature
    return torch.where(known, logits.softmax(dim=1), 0.0)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student), both at temperature T, of each sample (B,), in nats.

    T^2 keeps the gradient as large as that of the labels, whatever the temperature.

    Args:
        logits: The student's (B, C).
        teacher: Probabilities of the teacher at temperature 1 (B, C); a row of zeros, of a sample that it does not
            know, gives exactly 0.
        temperature: Of both.
    """
    known = teacher.sum(dim=1, keepdim=True) > 0
    logits = logits.float().masked_fill(~known, 0.0)  # a padding row may hold NaN
    target = soften(teacher, temperature)
    ours = F.log_softmax(logits / temperature, dim=1)
    return temperature**2 * (torch.xlogy(target, target) - target * ours).sum(dim=1)
