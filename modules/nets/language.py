"""Causal Transformer language model with an external memory, a copying head and bounded exploration; plain torch."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modules.nets.language_parts import Block, Cache, Copy, Exploration, Found, Noise, TokenLoss, locked_dropout
from modules.nets.memory import Memory, Slots, State, build_memory

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Dropouts:
    """Probabilities of everything that is dropped in training.

    Args:
        dropout: Hidden units of the feed-forward part, and both residual branches.
        attention_dropout: Attention weights.
        word_dropout: Whole words: all places of a token type in a batch.
        embedding_dropout: Features of the embeddings, the same for all positions of a row.
        output_dropout: Features before the head, the same for all positions of a row.

    Raises:
        ValueError: For a probability outside [0, 1).
    """

    dropout: float = 0.1
    attention_dropout: float = 0.0
    word_dropout: float = 0.0
    embedding_dropout: float = 0.0
    output_dropout: float = 0.0

    def __post_init__(self) -> None:
        wrong = [name for name, value in vars(self).items() if not 0 <= value < 1]
        if wrong:
            raise ValueError(f"{wrong[0]} must lie in [0, 1)")


@dataclass(frozen=True)
class Shape:
    """Sizes and form of the Transformer; the defaults are those of the brief.

    Args:
        width: Width of the stream.
        depth: Blocks.
        heads: Attention heads.
        ffn: Hidden width of the feed-forward part.
        max_len: Positions; a longer input is refused.
        norm: Norm before each branch (and one at the end), or after it as in the brief.
        positions: Learned table, or rotated queries and keys.
        gated: Feed-forward part with a gate (SwiGLU) in place of GELU.
        bias: Biases in the linear layers of the blocks, and of the head.
        tied: The head is the embedding.
        copy: Width of the copying head: the next word may be one of the window (or of the memory); 0 leaves it out.
    """

    width: int = 512
    depth: int = 6
    heads: int = 8
    ffn: int = 2048
    max_len: int = 1000
    norm: Literal["pre", "post"] = "post"
    positions: Literal["learned", "rotary"] = "learned"
    gated: bool = False
    bias: bool = True
    tied: bool = False
    copy: int = 0


class LanguageTransformer(nn.Module):
    """Tokens to what comes next, causally.

    With vocabulary 50,257, the default shape and the brief's memory and exploration: 71,433,171 parameters.

    Args:
        vocab_size: Tokens of the vocabulary.
        shape: Sizes and form.
        dropouts: Probabilities of dropout.
        memory: Sizes of the external memory; ``None`` leaves it out.
        exploration: Noise on the hidden states in training; ``None`` leaves it out.
        loss_chunk: Positions whose scores over the vocabulary exist at once; 0 = all.
    """

    def __init__(
        self,
        vocab_size: int,
        shape: Shape = Shape(),  # frozen
        dropouts: Dropouts = Dropouts(),
        memory: Slots | None = None,
        exploration: Exploration | None = None,
        loss_chunk: int = 0,
    ) -> None:
        super().__init__()
        self.vocab_size, self.shape, self.dropouts = vocab_size, shape, dropouts
        self.embedding = nn.Embedding(vocab_size, shape.width)
        learned = shape.positions == "learned"
        self.positions = nn.Parameter(torch.empty(1, shape.max_len, shape.width)) if learned else None
        self.blocks = nn.ModuleList(
            Block(
                width=shape.width,
                heads=shape.heads,
                ffn=shape.ffn,
                dropout=dropouts.dropout,
                attention_dropout=dropouts.attention_dropout,
                pre_norm=shape.norm == "pre",
                rotary=0 if learned else shape.max_len,
                gated=shape.gated,
                bias=shape.bias,
            )
            for _ in range(shape.depth)
        )
        self.norm = nn.LayerNorm(shape.width, bias=shape.bias) if shape.norm == "pre" else nn.Identity()
        self.memory: Memory | None = build_memory(shape.width, memory) if memory is not None else None
        # the brief asks its memory last; a block behind it can use what was found
        self.memory_at = shape.depth if memory is None or memory.kind == "brief" else max(1, shape.depth - 1)
        self.noise = Noise(exploration) if exploration is not None else None
        self.copy = Copy(shape.width, shape.copy, memory is not None) if shape.copy else None
        self.head = nn.Linear(shape.width, vocab_size, bias=shape.bias)
        self.loss = TokenLoss(loss_chunk)
        self._initialise()

    def _initialise(self) -> None:
        shape = self.shape
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)
        if shape.norm == "pre":
            for block in self.blocks:
                block.initialise(0.02 / math.sqrt(2 * shape.depth))  # type: ignore[operator]
            nn.init.normal_(self.embedding.weight, std=0.02)
            nn.init.normal_(self.head.weight, std=0.02)
            if self.head.bias is not None:
                nn.init.zeros_(self.head.bias)
        if shape.tied:
            self.head.weight = self.embedding.weight

    def new_state(self, batch: int, length: int) -> State | None:
        """Return the memory of streams that begin, or ``None`` without a memory.

        Args:
            batch: Streams.
            length: Tokens of a segment.
        """
        if self.memory is None:
            return None
        return self.memory.empty(batch, length, self.embedding.weight.device)

    def new_cache(self, batch: int, length: int) -> Cache:
        """Return room for the keys and values of up to ``length`` tokens, for decoding one after another."""
        if length > self.shape.max_len:
            raise ValueError(f"a cache of {length} tokens is longer than max_len={self.shape.max_len}")
        return Cache(batch, length)

    def forward(
        self,
        tokens: Tensor,
        starts: Tensor | None = None,
        write: Tensor | None = None,
        state: State | None = None,
        targets: Tensor | None = None,
        cache: Cache | None = None,
        look: bool = False,
        last: bool = False,
    ) -> Outputs | dict[str, Tensor | State]:
        """Score what follows each token.

        Args:
            tokens: (B, T) input tokens.
            starts: (B, T) bool, True where a document begins (its first input token); ``None`` = nowhere.
            write: (B, T) bool, positions that the memory may take once this segment is over; ``None`` = all.
            state: Memory of the streams, of :meth:`new_state` or of the segment before; ``None`` = empty. The same
                state all along a segment that is decoded in pieces with a cache.
            targets: (B, T) next tokens, -1 = none; asks for ``nll`` in place of ``logits``.
            cache: Keys and values of the tokens before these; grows by T. The result is that without a cache.
            look: Also return ``attention`` (L, B, H, T, T), and with a memory ``slots`` (B, T, S) read weights.

            last: Score the last position only: ``logits`` (B, 1, V).

        Returns:
            ``hidden`` (B, T, W) before the head; ``logits`` (B, T, V), with a copying head log-probabilities, or
            ``nll`` (B, T) float32, 0 without a target; ``state`` for the next segment, with a memory.

        Raises:
            ValueError: For more tokens than positions.
        """
        past = cache.length if cache is not None else 0
        if past + tokens.shape[1] > self.shape.max_len:
            raise ValueError(
                f"{past + tokens.shape[1]} tokens are more than max_len={self.shape.max_len}: use a shorter window"
            )
        if starts is None:
            starts = torch.zeros_like(tokens, dtype=torch.bool)
        maps: list[Tensor] | None = [] if look else None
        x = self._embed(tokens, past)
        after: State | None = None
        found: Found | None = None
        for index, block in enumerate(self.blocks):
            if index == self.memory_at:
                x, after, found = self._recall(x, tokens, starts, write, state, cache)
            x = block(x, cache.layer(index) if cache is not None else None, past, maps)
            if self.noise is not None and self.training:
                x = self.noise(x)
        if self.memory_at == len(self.blocks):
            x, after, found = self._recall(x, tokens, starts, write, state, cache)
        hidden = self.norm(x)
        out: dict[str, Tensor | State] = {"hidden": hidden}
        out |= self._answer(hidden, tokens, targets, cache, found, last)
        if after is not None:
            out["state"] = after
        if maps is not None:
            out["attention"] = torch.stack(maps)
            if found is not None:
                out["slots"] = found.weight
        if cache is not None:
            cache.length += tokens.shape[1]
        return out

    def _embed(self, tokens: Tensor, past: int) -> Tensor:
        x, p = self.embedding(tokens), self.dropouts
        if self.training and p.word_dropout:
            kept = torch.empty(self.vocab_size, device=tokens.device).bernoulli_(1 - p.word_dropout)
            x = x * (kept / (1 - p.word_dropout))[tokens].unsqueeze(2).to(x.dtype)
        if self.positions is not None:
            x = x + self.positions[:, past : past + tokens.shape[1]].to(x.dtype)
        return locked_dropout(x, p.embedding_dropout, self.training)

    def _recall(
        self,
        x: Tensor,
        tokens: Tensor,
        starts: Tensor,
        write: Tensor | None,
        state: State | None,
        cache: Cache | None,
    ) -> tuple[Tensor, State | None, Found | None]:
        """Write what was held, read, and hold this segment."""
        if self.memory is None:
            return x, None, None
        if state is None:
            state = self.memory.empty(tokens.shape[0], tokens.shape[1], x.device)
        slots = cache.slots if cache is not None and cache.slots else self.memory.write(state)
        if cache is not None:
            cache.slots = slots
        store = cache.layer(len(self.blocks)) if cache is not None else None  # behind those of the blocks
        read, weight, nothing = self.memory.read(x, slots, starts.cumsum(1) == 0, store)
        write = torch.ones_like(starts) if write is None else write
        after = self.memory.hold(slots, x, tokens, starts, write, weight.mean(1))
        return read, after, Found(weight, nothing, slots["token"])

    def _answer(
        self,
        hidden: Tensor,
        tokens: Tensor,
        targets: Tensor | None,
        cache: Cache | None,
        found: Found | None,
        last: bool,
    ) -> Outputs:
        x = locked_dropout(hidden, self.dropouts.output_dropout, self.training)
        if self.copy is not None:
            copied = self.copy(hidden, tokens, cache.copies if cache is not None else None, found)
        if targets is None:
            logits = self.head(x[:, -1:] if last else x)
            if self.copy is None:
                return {"logits": logits}
            return {"logits": self.copy.mix_all(logits, copied.last() if last else copied)}
        nll = self.loss(x, self.head.weight, self.head.bias, targets)
        if self.copy is not None:
            nll = self.copy.mix_targets(nll, copied, targets)
        return {"nll": nll}
