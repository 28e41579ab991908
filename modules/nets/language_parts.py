"""Parts of the language model: blocks with a cache, the copying head, exploration noise, and a loss in chunks."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TINY = 1e-20  # the smallest probability that is told from nothing


def locked_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop features (B, T, W) with one mask a row, the same at all positions (variational dropout)."""
    if not training or not p:
        return x
    mask = torch.empty(len(x), 1, x.shape[2], device=x.device, dtype=x.dtype).bernoulli_(1 - p)
    return x * mask / (1 - p)


class Cache:
    """Keys and values of the tokens so far, for decoding.

    Args:
        batch: Rows.
        size: Tokens that it can hold.

    Attributes:
        length: Tokens that it holds.
        slots: The memory as this segment reads it: it is written once, before the segment's first token.
    """

    def __init__(self, batch: int, size: int) -> None:
        self.batch, self.size, self.length = batch, size, 0
        self.layers: dict[int, dict[str, Tensor]] = {}
        self.copies: dict[str, Tensor] = {}
        self.slots: dict[str, Tensor] = {}

    def layer(self, index: int) -> dict[str, Tensor]:
        """Return the store of a layer."""
        return self.layers.setdefault(index, {})

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order (of a beam, or of prompts that go on)."""
        for store in (*self.layers.values(), self.copies, self.slots):
            for name, value in store.items():
                store[name] = value[rows]
        self.batch = len(rows)


def extend(store: dict[str, Tensor], name: str, new: Tensor, axis: int) -> Tensor:
    """Append to what a cache holds under a name; return all of it."""
    store[name] = torch.cat([store[name], new], axis) if name in store else new
    return store[name]


def rotations(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine (length, size / 2) of rotary positions (Su et al. 2021)."""
    rate = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angle = torch.arange(length, dtype=torch.float32).unsqueeze(1) * rate
    return angle.cos(), angle.sin()


class Block(nn.Module):
    """Causal self-attention and feed-forward part.

    Args:
        width: Size of a state.
        heads: Attention heads; divides ``width``.
        ffn: Hidden size of the feed-forward part.
        dropout: Of hidden units and both branches.
        attention_dropout: Of attention weights.
        pre_norm: Norm before a branch, or after its sum.
        rotary: Positions of the rotary table; 0 = no rotation.
        gated: SwiGLU in place of GELU.
        bias: Biases in the linear layers and norms.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        dropout: float,
        attention_dropout: float,
        pre_norm: bool,
        rotary: int,
        gated: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads} does not divide width={width}")
        self.heads, self.attention_dropout, self.pre_norm, self.gated = heads, attention_dropout, pre_norm, gated
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.up = nn.Linear(width, 2 * ffn if gated else ffn, bias=bias)
        self.down = nn.Linear(ffn, width, bias=bias)
        self.drop = nn.Dropout(dropout)
        self.rotary = rotary > 0
        if rotary:
            if width // heads % 2:
                raise ValueError(f"rotary positions need an even size of a head, not {width // heads}")
            cosine, sine = rotations(rotary, width // heads)
            self.register_buffer("cosine", cosine, persistent=False)
            self.register_buffer("sine", sine, persistent=False)

    def initialise(self, residual: float) -> None:
        """Draw the weights as GPT-2 does.

        Args:
            residual: Standard deviation of what is added to the stream.
        """
        for linear, std in ((self.qkv, 0.02), (self.up, 0.02), (self.out, residual), (self.down, residual)):
            nn.init.normal_(linear.weight, std=std)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, store: dict[str, Tensor] | None, past: int, maps: list[Tensor] | None = None
    ) -> Tensor:
        """Map (B, T, W) to (B, T, W).

        Args:
            x: States.
            store: The layer's part of a cache.
            past: Tokens before these.
            maps: Takes the attention weights (B, H, T, past + T), when asked for.
        """
        y = self.attend(self.norm1(x) if self.pre_norm else x, store, past, maps)
        x = x + self.drop(y) if self.pre_norm else self.norm1(x + self.drop(y))
        y = self.up(self.norm2(x) if self.pre_norm else x)
        if self.gated:
            gate, y = y.chunk(2, -1)
            y = F.silu(gate) * y
        else:
            y = F.gelu(y)
        y = self.drop(self.down(self.drop(y)))
        return x + y if self.pre_norm else self.norm2(x + y)

    def attend(self, x: Tensor, store: dict[str, Tensor] | None, past: int, maps: list[Tensor] | None) -> Tensor:
        """Return causal self-attention of (B, T, W)."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary:
            q, k = self._rotate(q, past), self._rotate(k, past)
        if store is not None:
            k, v = extend(store, "key", k, 2), extend(store, "value", v, 2)
        mask = None
        if past and length > 1:  # after a past, causal means up to one's own place in the whole
            mask = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)
        if maps is not None:
            maps.append(_weights(q, k, past))
        dropout = self.attention_dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=not past)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))

    def _rotate(self, x: Tensor, past: int) -> Tensor:
        cosine, sine = (table[past : past + x.shape[2]].to(x.dtype) for table in (self.cosine, self.sine))
        a, b = x.chunk(2, -1)
        return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


def _weights(q: Tensor, k: Tensor, past: int) -> Tensor:
    """Return the attention weights that the fused kernel keeps to itself."""
    score = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
    later = torch.ones(score.shape[-2:], dtype=torch.bool, device=q.device).triu(past + 1)
    return score.masked_fill(later, -torch.inf).softmax(-1)


@dataclass(frozen=True)
class Found:
    """What the reads of a memory found.

    Attributes:
        weight: (B, T, S) weight of each slot.
        nothing: (B, T) weight of no slot: what is missing of 1.
        token: (B, S) what each slot stands for.
    """

    weight: Tensor
    nothing: Tensor
    token: Tensor


@dataclass(frozen=True)
class Copied:
    """What the copying head found.

    Attributes:
        window: (B, T, N) weight of each token of the window; a row adds up to at most 1.
        window_tokens: (B, N).
        slots: (B, T, S) weight of each memory slot, or ``None``.
        slot_tokens: (B, S), or ``None``.
        log_rest: (B, T) logarithm of the probability left to the vocabulary, a sum of what is not copied: one minus
            what is copied would be rounding alone where nearly all of it is.
    """

    window: Tensor
    window_tokens: Tensor
    slots: Tensor | None
    slot_tokens: Tensor | None
    log_rest: Tensor

    def last(self) -> "Copied":
        """Return what was found for the last position."""
        slots = self.slots[:, -1:] if self.slots is not None else None
        return Copied(self.window[:, -1:], self.window_tokens, slots, self.slot_tokens, self.log_rest[:, -1:])


class Copy(nn.Module):
    """Mixes into the vocabulary's probabilities those of saying again a token of the window or of the memory.

    A token is found by the state *before* it (Merity et al. 2016, pointer sentinel; here with its own key projection).
    The shares of the window and of the memory start near zero, at about 4.5 % each.

    Args:
        width: Size of a state.
        size: Size of keys and queries.
        memory: Whether there are slots to copy from.
    """

    def __init__(self, width: int, size: int, memory: bool) -> None:
        super().__init__()
        self.key = nn.Linear(width, size, bias=False)
        self.query = nn.Linear(width, size, bias=False)
        self.share = nn.Linear(width, 2 if memory else 1)
        with torch.no_grad():
            self.query.weight.copy_(self.key.weight)  # at the start, equal contexts find each other
            self.share.weight.zero_()
            self.share.bias.fill_(-3.0)

    def forward(self, hidden: Tensor, tokens: Tensor, store: dict[str, Tensor] | None, found: Found | None) -> Copied:
        """Find what may be copied.

        Args:
            hidden: (B, T, W) states before the head.
            tokens: (B, T) input tokens.
            store: The head's part of a cache.
            found: What the memory found.
        """
        key, past = self.key(hidden), 0
        if store is not None:
            past = store["token"].shape[1] if "token" in store else 0
            key, tokens = extend(store, "key", key, 1), extend(store, "token", tokens, 1)
        # the key of token j is the state before it: token 0 has none and cannot be copied
        score = (self.query(hidden) @ key[:, :-1].mT).float() / math.sqrt(key.shape[-1])
        place = torch.arange(past, past + hidden.shape[1], device=hidden.device).unsqueeze(1)
        may = torch.arange(1, key.shape[1], device=hidden.device) <= place
        score = score.masked_fill(~may, -1e9)
        window = torch.cat([score.new_zeros(*score.shape[:2], 1), score], 2).softmax(2)
        share = self.share(hidden).float()
        share = torch.cat([torch.zeros_like(share[..., :1]), share], 2).softmax(2)  # vocabulary, window, memory
        rest = share[..., 0] + share[..., 1] * window[..., 0]
        window = window[..., 1:] * share[..., 1:2]
        if found is None:
            return Copied(window, tokens[:, 1:], None, None, rest.clamp_min(TINY).log())
        rest = rest + share[..., 2] * found.nothing
        slots = found.weight.float() * share[..., 2:]
        return Copied(window, tokens[:, 1:], slots, found.token, rest.clamp_min(TINY).log())

    def mix_targets(self, nll: Tensor, copied: Copied, targets: Tensor) -> Tensor:
        """Return the mixture's negative log-likelihood (B, T) of targets from the vocabulary's; 0 without a target."""
        hit = (copied.window * (copied.window_tokens.unsqueeze(1) == targets.unsqueeze(2))).sum(2)
        if copied.slots is not None and copied.slot_tokens is not None:
            hit = hit + (copied.slots * (copied.slot_tokens.unsqueeze(1) == targets.unsqueeze(2))).sum(2)
        mixed = -torch.logaddexp(copied.log_rest - nll, hit.clamp_min(TINY).log())
        return torch.where(targets >= 0, mixed, 0.0)

    def mix_all(self, logits: Tensor, copied: Copied) -> Tensor:
        """Return the mixture's log-probabilities (B, T, V) from the vocabulary's scores."""
        prob = (logits.float().log_softmax(2) + copied.log_rest.unsqueeze(2)).exp()

        def add(weight: Tensor, tokens: Tensor) -> Tensor:
            return prob.scatter_add(2, tokens.unsqueeze(1).expand(-1, weight.shape[1], -1), weight)

        prob = add(copied.window, copied.window_tokens)
        if copied.slots is not None and copied.slot_tokens is not None:
            prob = add(copied.slots, copied.slot_tokens)
        return prob.clamp_min(TINY).log()


@dataclass(frozen=True)
class Exploration:
    """Noise on the hidden states in training.

    Args:
        initial: Standard deviation at the start; learned from there.
        maximum: It never gets larger.
        kind: Distribution of the noise.
        end: Factor of the noise at the end of the schedule, in [0, 1].
        steps: Optimizer steps of the schedule, half a cosine from 1 to ``end``; 0 keeps the factor at 1.

    Raises:
        ValueError: For an initial value outside (0, maximum), or an ``end`` outside [0, 1].
    """

    initial: float = 0.1
    maximum: float = 0.5
    kind: Literal["gaussian", "uniform"] = "gaussian"
    end: float = 1.0
    steps: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.initial < self.maximum or not 0 <= self.end <= 1 or self.steps < 0:
            raise ValueError("exploration needs 0 < initial < maximum, 0 <= end <= 1 and steps >= 0")

    def factor(self, step: int) -> float:
        """Return the factor of the noise at an optimizer step."""
        progress = min(1.0, step / self.steps) if self.steps else 0.0
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * progress))


class Noise(nn.Module):
    """Adds noise of a learned scale, one parameter; the same for all layers, as in the brief.

    Args:
        settings: Distribution, bounds and schedule.
    """

    factor: Tensor

    def __init__(self, settings: Exploration) -> None:
        super().__init__()
        self.settings = settings
        share = settings.initial / settings.maximum
        self.raw = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        self.register_buffer("factor", torch.ones(()), persistent=False)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the noise, in (0, maximum)."""
        return self.settings.maximum * self.raw.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Add noise to states of any shape."""
        draw = torch.randn_like(x) if self.settings.kind == "gaussian" else (torch.rand_like(x) - 0.5) * math.sqrt(12)
        return x + draw * (self.scale * self.factor).to(x.dtype)


def _scores_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), targets, ignore_index=-1, reduction="none")


def _torch_chunked(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)  # torch >= 2.15
    return F.linear_cross_entropy(
        hidden, weight, targets, linear_bias=bias, reduction="none", ignore_index=-1, options=options
    )


class TokenLoss(nn.Module):
    """Cross-entropy of a linear head, without the scores of all positions at once.

    A chunk's scores are made, used, thrown away, and made again for its gradient: by torch's own operation where there
    is one (2.15) that takes the call: it knows no autocast and is no part of a compiled graph.

    Args:
        chunk: Positions at once; 0 = all.
    """

    def __init__(self, chunk: int = 0) -> None:
        super().__init__()
        if chunk < 0:
            raise ValueError(f"loss_chunk={chunk} must be at least 0")
        self.chunk = chunk

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood (B, T) float32 of targets (B, T), 0 where they are -1."""
        flat, wanted = hidden.flatten(0, 1), targets.flatten()
        if not self.chunk or len(flat) <= self.chunk:
            return _scores_loss(flat, weight, bias, wanted).view(targets.shape)
        autocast = torch.is_autocast_enabled(flat.device.type)
        if hasattr(F, "linear_cross_entropy") and not autocast and not torch.compiler.is_compiling():
            return _torch_chunked(flat, weight, bias, wanted, self.chunk).view(targets.shape)
        parts = []
        for x, y in zip(flat.split(self.chunk), wanted.split(self.chunk), strict=True):
            if torch.is_grad_enabled():
                parts.append(
                    checkpoint(_scores_loss, x, weight, bias, y, use_reentrant=False, preserve_rng_state=False)
                )
            else:
                parts.append(_scores_loss(x, weight, bias, y))
        return torch.cat(parts).view(targets.shape)
