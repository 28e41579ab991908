"""Distillation: a small language model learns from a trained one what could have come next."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.base import Batch, ClassMapError
from modules.nets.language import Dropouts, LanguageTransformer, Shape
from modules.nets.language_parts import Exploration
from modules.nets.memory import Slots, State

_TEACHER = "teacher_"  # before the names of its memory, in what is carried


@dataclass(frozen=True)
class Distillation:
    """What a student is taught.

    Args:
        teacher: Run folder of the teacher (its best checkpoint) or a checkpoint, with the same vocabulary; a fit needs
            one. Name the run and not ``latest``, which is another one when the fit is resumed.
        share: Of the teacher's distribution in the loss; the rest is the text's own next token.
        temperature: Softens both distributions (Hinton et al. 2015).

    Raises:
        ValueError: For a share outside (0, 1], or a temperature that is not positive.
    """

    teacher: str | None = None
    share: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not self.temperature > 0:
            raise ValueError("distillation needs 0 < share <= 1 and a temperature above 0")


class Teaching:
    """A trained network beside one that learns; no module, and so no part of the student's weights.

    Both read the same text; the scores of both over the vocabulary exist for all positions at once.

    Args:
        settings: Whom to read, and how much of it is in the loss.
        class_names: The student's vocabulary.
    """

    def __init__(self, settings: Distillation, class_names: list[str]) -> None:
        self.settings, self.teacher = settings, read_teacher(settings.teacher, class_names)

    def losses(
        self, net: nn.Module, inputs: Batch, y: Tensor, carry: State
    ) -> tuple[Tensor, Tensor, State]:
        """Read a segment.

        Args:
            net: The student.
            inputs: Arguments of both networks.
            y: (B, T) next tokens, -1 = none.
            carry: Memory of both; nothing at the beginning of streams.

        Returns:
            The loss of each token (B, T), the part of it that is the text's own (B, T), and the next memory.
        """
        theirs = {name.removeprefix(_TEACHER): x for name, x in carry.items() if name.startswith(_TEACHER)}
        own = {name: x for name, x in carry.items() if not name.startswith(_TEACHER)}
        with torch.no_grad():
            told = self.teacher.to(y.device)(**inputs, state=theirs or None)
        out = net(**inputs, state=own or None)
        nll = F.cross_entropy(out["logits"].float().mT, y, ignore_index=-1, reduction="none")
        apart = divergence(told["logits"], out["logits"], self.settings.temperature) * (y >= 0)
        mixed = (1 - self.settings.share) * nll + self.settings.share * apart
        return mixed, nll, {**out.get("state", {}), **_named(told.get("state"))}


def _named(state: State | None) -> State:
    return {f"{_TEACHER}{name}": value for name, value in (state or {}).items()}


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of scores (..., V), times the square of the temperature, which keeps its size."""
    told, own = ((x.float() / temperature).log_softmax(-1) for x in (teacher, student))
    return (told.exp() * (told - own)).sum(-1) * temperature**2


def read_teacher(run: str | None, class_names: list[str]) -> LanguageTransformer:
    """Read the network of a trained Transformer, in evaluation mode.

    Args:
        run: Run folder or checkpoint.
        class_names: The student's vocabulary.

    Raises:
        ClassMapError: There is none, it is none, or it has another vocabulary.
    """
    given = Path(run or "")
    path = given / "checkpoints" / "best.ckpt" if given.is_dir() else given
    if run is None or not path.is_file():
        raise ClassMapError(f"no teacher at {run}: set model.distillation.teacher to the run folder of a trained model")
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ClassMapError(f"{path} is no checkpoint of tensors and plain values: use another ({error})") from error
    settings = saved.get("hyper_parameters", {}) if isinstance(saved, dict) else {}
    if settings.get("network", "") != "transformer":
        raise ClassMapError(f"{path} is no Transformer of `language`: name the run of one")
    if list(saved["class_names"]) != class_names:
        raise ClassMapError(f"{path} has another vocabulary than the data: set data.vocabulary_from to the same run")
    memory, exploration = settings["memory"], settings["exploration"]
    net = LanguageTransformer(
        settings["vocab_size"],
        Shape(**settings["shape"]),
        Dropouts(**settings["dropouts"]),
        Slots(**memory) if memory else None,
        Exploration(**exploration) if exploration else None,
    )
    net.load_state_dict({name[4:]: x for name, x in saved["state_dict"].items() if name.startswith("net.")})
    return net.eval().requires_grad_(False)
