"""Decoders of G-code tokens from a memory of sensor windows: the brief's Transformer, and an LSTM beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.nets.gcode_heads import SIGNS, TYPES, Heads, Sizes
from modules.nets.gcode_summary import Summary

State = dict[str, Tensor]  # rows of a batch first, in each tensor


@dataclass(frozen=True)
class Shape:
    """Form of a decoder; the defaults are the brief's.

    Args:
        network: The Transformer, or an LSTM that reads the mean memory at each step.
        width: Width of a state.
        attention_heads: Heads of each attention; of the Transformer, as ``ffn``.
        layers: Blocks, or layers of the LSTM.
        ffn: Hidden width of the feed-forward part.
        dropout: Dropout everywhere but at the inputs.
        input_dropout: Dropout of the embedded tokens.
        inputs: What a token is to the network: its entry in the vocabulary, or the sum of its embedded fields, which
            needs no vocabulary of values.
        flat_head: One layer over the whole vocabulary.
        field_heads: Heads for type, command, letter, sign and digits.
        chain: A digit knows the sign and the digits before it.
        true_param: Where the true tokens before are given (training, forced figures), numbers are told by their true
            letter, too; otherwise by the most probable one, as in the brief.
        cross_attention: The tokens look at the memory; without it they see the operation alone, in the digits.
        positions: Sinusoidal positions of the tokens.
        summary: Statistics of the memory, or of the window itself, as a vector that is added to each token.
        summary_bins: Bins of each statistic, fitted on training windows; 0 takes it as it is. They need a window.
        summary_blocks: Blocks of rows whose means are among the statistics.
    """

    network: Literal["transformer", "lstm"] = "transformer"
    width: int = 192
    attention_heads: int = 8
    layers: int = 4
    ffn: int = 768
    dropout: float = 0.3
    input_dropout: float = 0.1
    inputs: Literal["tokens", "fields"] = "tokens"
    flat_head: bool = True
    field_heads: bool = True
    chain: bool = False
    true_param: bool = False
    cross_attention: bool = True
    positions: bool = True
    summary: Literal["none", "memory", "window"] = "none"
    summary_bins: int = 0
    summary_blocks: int = 0

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.attention_heads:
            raise ValueError(f"width={self.width} must be divisible by 4 and by {self.attention_heads} heads")
        if not self.field_heads and (self.chain or self.true_param):
            raise ValueError("chain and true_param are about the heads of fields: they need field_heads: true")
        if min(self.summary_bins, self.summary_blocks) < 0 or (self.summary_bins and self.summary != "window"):
            raise ValueError("summary_bins and summary_blocks are at least 0, and bins need summary: window")


class FieldEmbedding(nn.Module):
    """Embeds a token as the sum of its fields.

    Args:
        sizes: Sizes of the data.
        width: Width of an embedding.
    """

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        counts = [TYPES, sizes.num_commands, sizes.num_params, SIGNS, *[10] * sizes.digits]
        self.tables = nn.ModuleList(nn.Embedding(count + 1, width) for count in counts)  # 0 = a field that is not there

    def forward(self, fields: Tensor) -> Tensor:
        """Embed (B, L, F) to (B, L, W)."""
        parts = [table(column + 1) for table, column in zip(self.tables, fields.unbind(-1), strict=True)]
        return torch.stack(parts).sum(0)


class Attention(nn.Module):
    """Attention of tokens to tokens before them, or to a memory; weights as in ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, H, S, D) of (B, S, W)."""
        keys, values = self.key_value(x).chunk(2, -1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
        """Attend from (B, L, W); ``causal``: the keys are those of the same positions."""
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(
            self._split(self.query(x)), keys, values, dropout_p=dropout, is_causal=causal
        )
        return self.out(read.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm block of a decoder: tokens, memory, feed-forward; the sums of ``nn.TransformerDecoderLayer``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, heads, dropout = shape.width, shape.attention_heads, shape.dropout
        self.norm_self, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.own = Attention(width, heads, dropout)
        self.norm_cross = nn.LayerNorm(width) if shape.cross_attention else None
        self.cross = Attention(width, heads, dropout) if shape.cross_attention else None
        self.ffn = nn.Sequential(
            nn.Linear(width, shape.ffn), nn.ReLU(), nn.Dropout(dropout), nn.Linear(shape.ffn, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return states (B, L, W) and all keys and values of the tokens; with a past, L is 1."""
        normed = self.norm_self(x)
        keys, values = self.own.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        x = x + self.drop(self.own(normed, keys, values, causal=past is None))
        if self.cross is not None and self.norm_cross is not None and memory is not None:
            x = x + self.drop(self.cross(self.norm_cross(x), *memory, causal=False))
        return x + self.drop(self.ffn(self.norm_ffn(x))), keys, values


class TokenDecoder(nn.Module):
    """What both decoders share: inputs, the memory beside the operation, and the heads.

    Args:
        sizes: Sizes of the data.
        memory_dim: Width M of the encoder's memory.
        seen: Places of the channels of the memory, or of the window, that are summarised.
        shape: Form of the decoder.
        conditioned: Whether the operation is embedded, beside the memory and for the digits.
        regression: Whether numbers are told as values, too.
    """

    sine: Tensor

    def __init__(
        self,
        sizes: Sizes,
        memory_dim: int,
        seen: Sequence[int],
        shape: Shape,
        conditioned: bool,
        regression: bool,
    ) -> None:
        super().__init__()
        width = shape.width
        self.sizes, self.shape = sizes, shape
        beside = conditioned and shape.cross_attention
        self.operation = nn.Embedding(sizes.num_classes, width // 4) if beside else None
        inputs = memory_dim + (width // 4 if beside else 0)
        self.memory = (
            nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(shape.dropout))
            if shape.cross_attention
            else None
        )
        self.summary = None
        if shape.summary != "none":
            told = sizes.num_classes if conditioned else 0
            form = width, shape.summary_bins, shape.summary_blocks, shape.dropout, shape.input_dropout
            self.summary = Summary(seen, told, *form)
        self.tokens = nn.Embedding(sizes.vocab_size, width) if shape.inputs == "tokens" else None
        self.fields = FieldEmbedding(sizes, width) if shape.inputs == "fields" else None
        self.input_drop, self.drop = nn.Dropout(shape.input_dropout), nn.Dropout(shape.dropout)
        self.register_buffer("sine", sinusoid(sizes.max_tokens, width), persistent=False)
        self.heads = Heads(
            sizes, width, shape.dropout, conditioned, shape.flat_head, shape.field_heads, shape.chain, regression
        )

    def prepare(self, memory: Tensor, operation: Tensor, seen: Tensor | None = None) -> State:
        """Return what all tokens of a window read.

        Args:
            memory: (B, S, M).
            operation: (B,) int64.
            seen: (B, T, K), what is summarised, where the shape asks for a summary.

        Returns:
            Tensors with the rows of the batch first.
        """
        context = {"operation": operation}
        if self.summary is not None:
            assert seen is not None
            context["summary"] = self.summary(seen, operation)
        if self.memory is not None:
            if self.operation is not None:
                beside = self.operation(operation)[:, None].expand(-1, memory.shape[1], -1)
                memory = torch.cat([memory, beside.to(memory.dtype)], -1)
            context |= self.remember(self.memory(memory))
        return context

    def remember(self, memory: Tensor) -> State:
        """Return what the steps read of a projected memory (B, S, W)."""
        raise NotImplementedError

    def new_cache(self, context: State) -> State:
        """Return the cache before the first token."""
        raise NotImplementedError

    def states(self, x: Tensor, context: State, cache: State | None) -> tuple[Tensor, State]:
        """Return states (B, L, W) of embedded tokens, and the cache after them."""
        raise NotImplementedError

    def embed(self, tokens: Tensor, fields: Tensor | None, start: int | Tensor) -> Tensor:
        """Embed tokens (B, L), or their fields (B, L, F), of the positions from ``start`` on."""
        if self.fields is not None:
            assert fields is not None
            x = self.fields(fields)
        else:
            assert self.tokens is not None
            x = self.tokens(tokens)
        x = self.input_drop(x * math.sqrt(self.shape.width))
        if self.shape.positions:
            x = x + self.sine[torch.arange(x.shape[1], device=x.device) + start].to(x.dtype)
        return self.drop(x)

    def hidden(
        self,
        context: State,
        tokens: Tensor,
        fields: Tensor | None = None,
        cache: State | None = None,
        start: int | Tensor = 0,
    ) -> tuple[Tensor, State]:
        """Read tokens.

        Args:
            context: From :meth:`prepare`.
            tokens: (B, L) int64, with BOS before the first.
            fields: (B, L, F), for inputs that are fields; BOS is -1 everywhere.
            cache: From :meth:`new_cache` or the call before; then L is 1. ``None`` reads all tokens at once.
            start: Position of the first of them.

        Returns:
            States (B, L, W) and the cache after them.
        """
        x = self.embed(tokens, fields, start)
        if "summary" in context:
            x = x + context["summary"][:, None].to(x.dtype)
        return self.states(x, context, cache)


class SensorMultiHeadDecoder(TokenDecoder):
    """The brief's Transformer decoder: 2,964,848 parameters with six digits, 2,916,156 with four.

    These are the counts at nine operations, 668 entries, six commands, ten letters, a memory 128 wide.
    """

    def __init__(
        self,
        sizes: Sizes,
        memory_dim: int,
        seen: Sequence[int],
        shape: Shape,
        conditioned: bool,
        regression: bool,
    ) -> None:
        super().__init__(sizes, memory_dim, seen, shape, conditioned, regression)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        initialise(self)

    def remember(self, memory: Tensor) -> State:
        """Return keys and values (B, layers, H, S, D) of the memory, made once."""
        pairs = [block.cross.keys_values(memory) for block in self.blocks]  # type: ignore[union-attr, operator]
        keys, values = zip(*pairs, strict=True)
        return {"memory_keys": torch.stack(keys, 1), "memory_values": torch.stack(values, 1)}

    def new_cache(self, context: State) -> State:
        """Return keys and values (B, layers, H, 0, D) of no token."""
        like = next(self.parameters())
        heads = self.shape.attention_heads
        shape = (len(context["operation"]), len(self.blocks), heads, 0, self.shape.width // heads)
        made = torch.zeros(shape, dtype=like.dtype, device=like.device)
        return {"keys": made, "values": made}

    def states(self, x: Tensor, context: State, cache: State | None) -> tuple[Tensor, State]:
        """Go through the blocks."""
        pairs = []
        for i, block in enumerate(self.blocks):
            memory = None
            if "memory_keys" in context:
                memory = context["memory_keys"][:, i], context["memory_values"][:, i]
            past = None if cache is None else (cache["keys"][:, i], cache["values"][:, i])
            x, keys, values = block(x, memory, past)
            pairs.append((keys, values))
        if cache is not None:
            keys, values = (torch.stack(part, 1) for part in zip(*pairs, strict=True))
            cache = {"keys": keys, "values": values}
        return self.norm(x), cache or {}


class LSTMDecoder(TokenDecoder):
    """An LSTM that reads the mean memory beside each token, as a baseline."""

    def __init__(
        self,
        sizes: Sizes,
        memory_dim: int,
        seen: Sequence[int],
        shape: Shape,
        conditioned: bool,
        regression: bool,
    ) -> None:
        super().__init__(sizes, memory_dim, seen, shape, conditioned, regression)
        width, between = shape.width, shape.dropout if shape.layers > 1 else 0.0
        inputs = 2 * width if shape.cross_attention else width
        self.lstm = nn.LSTM(inputs, width, shape.layers, batch_first=True, dropout=between)
        self.norm = nn.LayerNorm(width)
        initialise(self)

    def remember(self, memory: Tensor) -> State:
        """Return the mean memory (B, W)."""
        return {"memory": memory.mean(1)}

    def new_cache(self, context: State) -> State:
        """Return zero states (B, layers, W)."""
        like = next(self.parameters())
        shape = (len(context["operation"]), self.shape.layers, self.shape.width)
        made = torch.zeros(shape, dtype=like.dtype, device=like.device)
        return {"hidden": made, "cell": made}

    def states(self, x: Tensor, context: State, cache: State | None) -> tuple[Tensor, State]:
        """Go through the layers."""
        if "memory" in context:
            x = torch.cat([x, context["memory"][:, None].expand(-1, x.shape[1], -1).to(x.dtype)], -1)
        before = self.new_cache(context) if cache is None else cache
        first = before["hidden"].transpose(0, 1).contiguous(), before["cell"].transpose(0, 1).contiguous()
        x, (hidden, cell) = self.lstm(x, first)
        return self.norm(x), {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}


def sinusoid(length: int, width: int) -> Tensor:
    """Return sine and cosine (length, width) of positions at falling rates (Vaswani et al. 2017)."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def initialise(net: nn.Module) -> None:
    """Give matrices Xavier-uniform values, embeddings N(0, 0.02), and biases 0, as the brief does."""
    for module in net.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def build_decoder(
    sizes: Sizes,
    memory_dim: int,
    channels: Sequence[int],
    shape: Shape,
    conditioned: bool = True,
    regression: bool = True,
) -> SensorMultiHeadDecoder | LSTMDecoder:
    """Build a decoder.

    Args:
        sizes: Sizes of the data.
        memory_dim: Width of the encoder's memory.
        channels: Places of the channels of a window that a summary reads.
        shape: Form of the decoder.
        conditioned: Whether it is told the operation.
        regression: Whether numbers are told as values, too; only beside the heads of the fields.
    """
    seen = range(memory_dim) if shape.summary == "memory" else channels
    made = LSTMDecoder if shape.network == "lstm" else SensorMultiHeadDecoder
    return made(sizes, memory_dim, seen, shape, conditioned, regression)
