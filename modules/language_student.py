"""`language`: a small model that learns from a trained one what could have come next (distillation)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from modules.base import Batch, ClassMapError
from modules.language import LanguageModel
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


class LanguageStudent(LanguageModel):
    """A language model whose loss is part its teacher's surprise at it (Kullback-Leibler divergence for each token).

    Logged and judged as any language model: the loss that is logged is the text's. The teacher is read for a fit alone;
    it is no part of the checkpoint. Its scores over the vocabulary exist for all positions at once.

    Args:
        optimizer: As for :class:`modules.language.LanguageModel`, and so are all further ones but the last.
        schedule: See there.
        schedule_interval: See there.
        vocab_size: See there.
        network: See there.
        shape: See there.
        dropouts: See there.
        memory: See there.
        exploration: See there.
        loss_chunk: See there; for judging, and not for training.
        decay_all: See there.
        compile_net: See there.
        distillation: The teacher, and how much of it.
    """

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        distillation: Distillation,
        schedule: LRSchedulerCallable | None = None,
        schedule_interval: Literal["step", "epoch"] = "step",
        vocab_size: int | None = None,
        network: Literal["transformer", "lstm"] = "transformer",
        shape: Shape = Shape(),  # noqa: B008  # frozen
        dropouts: Dropouts = Dropouts(),  # noqa: B008
        memory: Slots | None = None,
        exploration: Exploration | None = None,
        loss_chunk: int = 0,
        decay_all: bool = False,
        compile_net: bool = False,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            schedule=schedule,
            schedule_interval=schedule_interval,
            vocab_size=vocab_size,
            network=network,
            shape=shape,
            dropouts=dropouts,
            memory=memory,
            exploration=exploration,
            loss_chunk=loss_chunk,
            decay_all=decay_all,
            compile_net=compile_net,
        )
        self.save_hyperparameters()
        self.distillation = distillation
        self._teachers: list[LanguageTransformer] = []  # in a list, and so no part of this module

    def setup(self, stage: str) -> None:
        """Build the network, and read the teacher for a fit."""
        super().setup(stage)
        if stage == "fit":
            self._teachers = [read_teacher(self.distillation.teacher, self.class_names)]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the exact mean of the mixed loss of the global batch."""
        net, teacher, settings = self._net(), self._teachers[0].to(self.device), self.distillation
        if net.noise is not None:
            net.noise.factor.fill_(net.noise.settings.factor(self.global_step))
        if self.carry is None:
            shape = batch["tokens"].shape
            self.carry = {**(net.new_state(*shape) or {}), **_named(teacher.new_state(*shape))}
        theirs = {name.removeprefix(_TEACHER): x for name, x in self.carry.items() if name.startswith(_TEACHER)}
        own = {name: x for name, x in self.carry.items() if not name.startswith(_TEACHER)}
        with torch.no_grad():
            told = teacher(**self.net_inputs(batch), state=theirs or None)
        out = net(**self.net_inputs(batch), state=own or None)
        self.carry = {**out.get("state", {}), **_named(told.get("state"))}
        real = batch["y"] >= 0
        nll = F.cross_entropy(out["logits"].float().mT, batch["y"], ignore_index=-1, reduction="none")
        apart = divergence(told["logits"], out["logits"], settings.temperature) * real
        self.train_loss.update(nll.detach(), real.float())
        mixed = (1 - settings.share) * nll + settings.share * apart
        return (mixed.sum(1) * batch["weight"]).sum()


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
    saved: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    settings = saved["hyper_parameters"]
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
