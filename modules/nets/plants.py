"""`plants`: any backbone of timm that takes pixels, so that what is exported takes pixels, too."""

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from torch import Tensor, nn

Frozen = Literal["none", "backbone"] | int


class PlantsNet(nn.Module):
    """A timm classifier behind its own normalisation.

    With ``vit_base_patch16_224`` and 5,578 classes it has 90,088,138 parameters, with 5,914 it has 90,346,522;
    ``vit_small_patch16_224`` with 5,914 has 23,942,554.

    Args:
        backbone: Name of a timm model.
        num_classes: Number of classes C.
        image_size: Side of the pictures; a transformer is built for it, a convolutional network takes any.
        head_dropout: Dropout before the last layer.
        drop_path: Stochastic depth.
        channels_last: Keep pictures and weights with the channels last in memory, which some GPUs prefer.
        checkpointing: Compute the inside of blocks anew for the gradient: slower, in far less memory.
        frozen: What keeps its weights and statistics: nothing, all but the head, or so many blocks from the input on.

    Raises:
        ValueError: For a name that timm does not know, or more frozen blocks than there are.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        image_size: int,
        head_dropout: float = 0.0,
        drop_path: float = 0.0,
        channels_last: bool = False,
        checkpointing: bool = False,
        frozen: Frozen = "none",
    ) -> None:
        super().__init__()
        if not timm.is_model(backbone.split(".")[0]):
            raise ValueError(f"backbone={backbone!r} is no model of timm; `timm.list_models()` names them")
        self.settings: dict[str, Any] = {"num_classes": num_classes, "drop_rate": head_dropout}
        if drop_path:
            self.settings["drop_path_rate"] = drop_path
        self.backbone, self.image_size, self.frozen, self.channels_last = backbone, image_size, frozen, channels_last
        self.model: Any = self._create(pretrained=False)
        config = resolve_model_data_config(self.model)
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        if checkpointing:
            self.model.set_grad_checkpointing()
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._still = self._freeze()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, C).

        Args:
            image: Pictures (B, 3, S, S) with values in 0..255, of any number type.
        """
        image = (image.to(self.mean.dtype) - self.mean) / self.std
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model(image)
        return logits

    def train(self, mode: bool = True) -> "PlantsNet":
        """Switch between training and judging; what is frozen always judges, or its statistics would move."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    @property
    def head_names(self) -> set[str]:
        """Names of the last layer's tensors in ``model``."""
        found = self.model.pretrained_cfg.get("classifier") or ()
        prefixes = (found,) if isinstance(found, str) else tuple(found)
        return {name for name in self.model.state_dict() if name.startswith(tuple(f"{one}." for one in prefixes))}

    def depths(self) -> tuple[dict[int, int], int]:
        """Return the depth of each parameter, counted from the input, by its id, and the depth of the head."""
        place = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        depth = {id(parameter): int(place[name]) for name, parameter in self.model.named_parameters()}
        top = max(depth.values())
        for name, parameter in self.model.named_parameters():
            if name in self.head_names:
                depth[id(parameter)] = top
        return depth, top

    def load_pretrained(self) -> None:
        """Take timm's weights for everything but the head; a download, unless they are in the cache."""
        self.model.load_state_dict(
            {name: value for name, value in self._create(pretrained=True).state_dict().items()}, strict=True
        )

    def load(self, state: Mapping[str, Tensor]) -> list[str]:
        """Take the weights of another network, except for a head of another shape.

        Args:
            state: Weights by their names in ``model``.

        Returns:
            Names of the head's tensors that were left out.

        Raises:
            ValueError: Anything but the head differs, naming the tensors.
        """
        own = self.model.state_dict()
        wrong = [name for name in sorted(own.keys() | state.keys())
                 if name not in own or name not in state or own[name].shape != state[name].shape]  # fmt: skip
        foreign = [name for name in wrong if name not in self.head_names]
        if foreign:
            raise ValueError(f"{len(foreign)} tensors do not fit {self.backbone} at {self.image_size} pixels, such as "
                             f"{', '.join(foreign[:5])}: give weights of the same backbone and image size")  # fmt: skip
        self.model.load_state_dict({name: state.get(name, value) if name not in wrong else value
                                    for name, value in own.items()})  # fmt: skip
        return wrong

    def reset_head(self) -> None:
        """Start the head anew."""
        for name, module in self.model.named_modules():
            if f"{name}.weight" in self.head_names and isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _create(self, pretrained: bool) -> Any:  # noqa: ANN401  # timm's models share no type
        settings = dict(self.settings)
        config = timm.models.get_pretrained_cfg(self.backbone)
        if config is not None and config.fixed_input_size and config.input_size[-1] != self.image_size:
            settings["img_size"] = self.image_size
        return timm.create_model(self.backbone, pretrained=pretrained, **settings)

    def _freeze(self) -> list[nn.Module]:
        """Freeze parameters; return the modules that are to stay in judging mode."""
        if self.frozen == "none" or self.frozen == 0:
            return []
        depth, top = self.depths()
        highest = max((place for place in depth.values() if place < top), default=0)
        limit = highest if self.frozen == "backbone" else int(self.frozen)
        if limit > highest:
            raise ValueError(f"frozen={self.frozen}: {self.backbone} has {highest} blocks below its head")
        for name, parameter in self.model.named_parameters():
            below = self.frozen == "backbone" or depth[id(parameter)] <= limit  # a norm of the head is no head
            if below and name not in self.head_names:
                parameter.requires_grad_(False)
        inside = [module for module in self.model.modules() if any(True for _ in module.parameters())]
        still = [module for module in inside if not any(p.requires_grad for p in module.parameters())]
        if self.frozen == "backbone":  # what has no parameters of its own, too: stochastic depth, dropout of blocks
            heads = {name.rsplit(".", 1)[0] for name in self.head_names}
            still += [
                module
                for name, module in self.model.named_modules()
                if name
                and not name.startswith(("head_drop", "head.drop"))
                and not any(f"{head}.".startswith(f"{name}.") for head in heads)
            ]
        return still
