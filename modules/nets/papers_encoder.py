"""Encoders of `papers`: what a config names by class_path, and the module that turns tokens or states into states.

A spec holds settings only. It reads the shape of an encoder as a plain dict (:meth:`Encoder.shape`), which a checkpoint
keeps, so that the network is built again without the encoder's folder.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

Form = Literal["tokens", "states", "vectors"]
Shape = dict[str, Any]


class Encoder:
    """Base of the specs: which form of input is read, and how the encoder's network is made."""

    form: Form = "tokens"
    source: str | None = None  # folder or hub id that the shape is read from

    def shape(self, vocab_size: int) -> Shape:
        """Return the configuration of the encoder as a plain dict; empty where there is no encoder.

        Args:
            vocab_size: Tokens of the data's vocabulary; 0 when the data hold no tokens.
        """
        return {}

    def build(self, shape: Shape, width: int, with_weights: bool) -> nn.Module | None:
        """Build the encoder; ``None`` where there is none.

        Args:
            shape: What :meth:`shape` returned, now or in an earlier run.
            width: Width of the states that the data give; 0 for tokens.
            with_weights: Read pre-trained weights; False where a checkpoint brings them.
        """
        raise TypeError(f"{type(self).__name__} must define build")


class SmallEncoder(Encoder):
    """A small BERT with random weights over the data's own vocabulary; for trying things out, on a CPU.

    Args:
        width: Width of the states.
        depth: Layers.
        heads: Attention heads; divide the width.
        ffn: Width inside the feed-forward part.
        dropout: Dropout in the encoder.
        positions: Longest text in tokens.

    Raises:
        ValueError: When the heads do not divide the width.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        ffn: int = 512,
        dropout: float = 0.1,
        positions: int = 512,
    ) -> None:
        if width % heads:
            raise ValueError(f"heads={heads} does not divide width={width}")
        self.width, self.depth, self.heads, self.ffn = width, depth, heads, ffn
        self.dropout, self.positions = dropout, positions

    def shape(self, vocab_size: int) -> Shape:
        """Return a BERT configuration."""
        if not vocab_size:
            raise ValueError("this encoder reads tokens, but the data give cached states: set data.states: null")
        return {
            "model_type": "bert",
            "vocab_size": vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "intermediate_size": self.ffn,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "max_position_embeddings": self.positions,
        }

    def build(self, shape: Shape, width: int, with_weights: bool) -> nn.Module:
        """Build the encoder with random weights."""
        return TokenEncoder(random_model(shape))


class PretrainedEncoder(Encoder):
    """An encoder of `transformers`, by local folder or hub id (SciBERT, RoBERTa, DeBERTa-v3, MiniLM, ALBERT, ...).

    Args:
        source: Folder or hub id.
        random_weights: Take the shape only and start from random weights.
    """

    def __init__(self, source: str, random_weights: bool = False) -> None:
        self.source, self.random_weights = source, random_weights

    def shape(self, vocab_size: int) -> Shape:
        """Return the configuration of the source.

        Raises:
            ValueError: When the data have no tokens, or more than the encoder has embeddings.
        """
        if not vocab_size:
            raise ValueError("this encoder reads tokens, but the data give cached states: set data.states: null")
        shape = read_shape(self.source or "")
        if vocab_size > shape["vocab_size"]:
            raise ValueError(
                f"the tokenizer has {vocab_size} tokens, the encoder {self.source} embeddings for "
                f"{shape['vocab_size']}: set data.tokenizer to the encoder's own ({self.source})"
            )
        return shape

    def build(self, shape: Shape, width: int, with_weights: bool) -> nn.Module:
        """Build the encoder, with the weights of the source unless a checkpoint brings them."""
        if self.random_weights or not with_weights:
            return TokenEncoder(random_model(shape))
        return TokenEncoder(pretrained_model(self.source or ""))


class UpperLayers(Encoder):
    """The layers of a BERT-like encoder above those that the cached states have gone through.

    Args:
        source: Folder or hub id, the one the states were made with.
        layer: Layers that the states have gone through; the depth of the encoder leaves none to train.
        random_weights: Take the shape only and start from random weights.

    Raises:
        ValueError: For a negative layer.
    """

    form: Form = "states"

    def __init__(self, source: str, layer: int, random_weights: bool = False) -> None:
        if layer < 0:
            raise ValueError(f"layer counts the layers below the states, at least 0, got {layer}")
        self.source, self.layer, self.random_weights = source, layer, random_weights

    def shape(self, vocab_size: int) -> Shape:
        """Return the configuration of the source.

        Raises:
            ValueError: When the source has fewer layers.
        """
        shape = read_shape(self.source or "")
        if self.layer > shape["num_hidden_layers"]:
            raise ValueError(f"{self.source} has {shape['num_hidden_layers']} layers, layer is {self.layer}")
        return shape

    def build(self, shape: Shape, width: int, with_weights: bool) -> nn.Module:
        """Build the layers above.

        Raises:
            ValueError: When the states have another width than the encoder.
        """
        if width != shape["hidden_size"]:
            raise ValueError(f"the states are {width} wide, {self.source} is {shape['hidden_size']} wide")
        if self.layer == shape["num_hidden_layers"]:
            return StateEncoder(nn.ModuleList(), width)
        fresh = self.random_weights or not with_weights
        model = random_model(shape) if fresh else pretrained_model(self.source or "")
        return StateEncoder(model_layers(model)[self.layer :], width)


class CachedStates(Encoder):
    """Cached states as they are: nothing of the encoder is trained."""

    form: Form = "states"

    def build(self, shape: Shape, width: int, with_weights: bool) -> nn.Module:
        """Build an encoder without layers."""
        return StateEncoder(nn.ModuleList(), width)


class Vectors(Encoder):
    """Cached vectors of title and abstract: there is no encoder."""

    form: Form = "vectors"

    def build(self, shape: Shape, width: int, with_weights: bool) -> None:
        """Build nothing."""
        return None


class TokenEncoder(nn.Module):
    """Tokens to states, by a model of `transformers`.

    Args:
        model: The model, without a pooler.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config: Any = model.config
        self.width = int(config.hidden_size)
        # Given whole, such a mask is taken as it is; made by the model, it costs a read of the device in each step.
        encoder = getattr(model, "encoder", None)
        self._whole_mask = config._attn_implementation == "sdpa" and hasattr(encoder, "layer")
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in _NEVER_READ:
                parameter.requires_grad_(False)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, from the lowest."""
        return model_layers(self.model)

    @property
    def embeddings(self) -> nn.Module | None:
        """What comes before the layers."""
        return getattr(self.model, "embeddings", None) or self.model.get_input_embeddings()  # type: ignore[operator]

    @property
    def places(self) -> int | None:
        """Most tokens of a text; ``None`` where positions have no table."""
        table = getattr(self.embeddings, "position_embeddings", None)
        if not isinstance(table, nn.Embedding):
            return None
        # RoBERTa-like tables begin behind the padding index
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map ids (B, T) int64 and mask (B, T) bool, True = real token, to states (B, T, H)."""
        attend = _attend(mask)
        attend = attend[:, None, None, :] if self._whole_mask else attend.long()
        return self.model(input_ids=ids, attention_mask=attend).last_hidden_state


class StateEncoder(nn.Module):
    """States to states, by the upper layers of a BERT-like model; without layers, the states themselves.

    Args:
        layers: Layers, from the lowest.
        width: Width of the states.
    """

    embeddings: nn.Module | None = None

    def __init__(self, layers: nn.ModuleList, width: int) -> None:
        super().__init__()
        self.layers, self.width = layers, width

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map states (B, T, H) and mask (B, T) bool, True = real token, to states (B, T, H)."""
        # padded states may hold anything, and a value that is not finite would go through a zero weight
        states = states.masked_fill(~mask.unsqueeze(-1), 0.0)
        attend = _attend(mask)[:, None, None, :]
        for layer in self.layers:
            out: Any = layer(states, attend)
            states = out[0] if isinstance(out, tuple) else out
        return states


def _attend(mask: Tensor) -> Tensor:
    # softmax over nothing is NaN: a row without a real token attends everywhere
    return mask | ~mask.any(1, keepdim=True)


def read_shape(source: str) -> Shape:
    """Return the configuration of an encoder as a plain dict.

    Raises:
        ValueError: When there is none at the source.
    """
    from transformers import AutoConfig  # takes seconds: not paid by those who need no encoder

    try:
        shape: Shape = AutoConfig.from_pretrained(source).to_dict()
    except (OSError, ValueError) as error:  # no folder or no network; a folder without a configuration
        raise ValueError(f"no encoder at {source!r} (a folder, or a hub id with a network): {error}") from error
    return shape


def random_model(shape: Shape) -> nn.Module:
    """Build a model of a configuration with random weights, without a pooler."""
    from transformers import AutoConfig, AutoModel

    rest = {key: value for key, value in shape.items() if key != "model_type"}
    config = AutoConfig.for_model(shape["model_type"], **rest)
    try:
        return AutoModel.from_config(config, add_pooling_layer=False, dtype=torch.float32)
    except TypeError:  # a model that has no pooler to leave out
        return AutoModel.from_config(config, dtype=torch.float32)


def pretrained_model(source: str) -> nn.Module:
    """Load a model with its weights in float32, without a pooler."""
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(source, add_pooling_layer=False, dtype=torch.float32)
    except TypeError:
        model = AutoModel.from_pretrained(source, dtype=torch.float32)
    return model.train()  # it comes in eval mode, and would be tuned without its dropout


# Where families of encoders have their layers; ALBERT has groups of layers that are run again and again.
_LAYERS = ("encoder.layer", "transformer.layer", "encoder.albert_layer_groups", "encoder.layers", "layers", "layer")
# XLNet's for pre-training, and for telling two segments apart: no input here reaches them.
_NEVER_READ = ("mask_emb", "seg_embed", "r_s_bias")


def model_layers(model: nn.Module) -> nn.ModuleList:
    """Return the layers of a model, from the lowest.

    Raises:
        ValueError: For a model whose layers are not where BERT-like models have them.
    """
    for path in _LAYERS:
        owner, _, name = path.rpartition(".")
        layers = getattr(getattr(model, owner, None) if owner else model, name, None)
        if isinstance(layers, nn.ModuleList):
            return layers
    raise ValueError(f"the layers of {type(model).__name__} are not known: no freezing, LoRA or upper layers with it")
