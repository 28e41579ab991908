"""External memory of a language model: slots of one text stream, written from its earlier segments only.

A stream is read segment by segment. What a segment leaves is *held*, and written at the start of the next one: so the
write belongs to the next segment's graph (every parameter of it gets a gradient), and no position ever reads its own
segment. The state is a dict of tensors with one row a stream, no buffer of the network: it is in no state dict, and the
rows of a batch never meet.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]
_CLOSED = -1e9  # a score that softmax turns into nothing; finite, for a row may have no slot at all


@dataclass(frozen=True)
class Slots:
    """Sizes of the memory.

    Args:
        slots: Slots of a stream.
        width: Size of a slot in the brief's memory; otherwise of the keys and values that are made of its states.
        writes: Positions of a whole segment that are written, at most: those of the largest importance.
        heads: Reading heads; the brief's memory has one.
        decay: What is left of a slot's importance after each segment, when it comes to eviction.
        kind: ``keyed``: slots are found by content; ``brief``: also by number, with the brief's controllers.

    Raises:
        ValueError: For sizes below 1, heads that do not divide the width, or a decay outside (0, 1].
    """

    slots: int = 256
    width: int = 64
    writes: int = 64
    heads: int = 1
    decay: float = 0.95
    kind: Literal["keyed", "brief"] = "keyed"

    def __post_init__(self) -> None:
        if min(self.slots, self.width, self.writes, self.heads) < 1 or not 0 < self.decay <= 1:
            raise ValueError("memory needs slots, width, writes and heads >= 1 and 0 < decay <= 1")
        if self.width % self.heads:
            raise ValueError(f"memory.heads={self.heads} does not divide memory.width={self.width}")
        if self.writes > self.slots:
            raise ValueError(f"memory.writes={self.writes} must not be more than memory.slots={self.slots}")


def unit(x: Tensor) -> Tensor:
    """Scale to length one, in float32."""
    return F.normalize(x.float(), dim=-1)


def coarse(x: Tensor) -> Tensor:
    """Round (B, N) to steps of 1/1024, equals in the order of their places: a rank does not hang on rounding noise.

    Matrix products of other shapes (another batch size, more processes) differ in their last bits.
    """
    place = torch.arange(x.shape[1], device=x.device, dtype=torch.float32) / (4096 * x.shape[1])
    return (x.detach().float() * 1024).round() / 1024 - place


class Memory(nn.Module):
    """What both kinds share: an empty state, what is held, eviction, and the gate that starts at zero.

    The gate is that of what a read adds to the states. A copying head, which takes words out of the memory, has a share
    of its own that starts at a few percent (see ``Copy``): from zero it would not learn.

    State: ``key`` (B, S, K) and ``value`` (B, S, V), ``token`` (B, S), ``importance`` (B, S) with 0 = empty, ``age``
    (B, S) in segments, ``usage`` (B, S) read mass; and what is held: ``hidden`` (B, T, W), ``held`` (B, T) token ids,
    ``write`` (B, T) bool, ``reset`` (B,) bool.
    """

    def __init__(self, width: int, sizes: Slots) -> None:
        super().__init__()
        self.width, self.sizes = width, sizes

    def empty(self, batch: int, length: int, device: torch.device | None = None) -> State:
        """Return the state of streams that begin.

        Args:
            batch: Streams.
            length: Tokens of a segment.
            device: Where.
        """
        s = self.sizes
        zeros = torch.zeros(batch, s.slots, device=device)
        sizes = (
            {"key": s.width, "value": s.width} if s.kind == "brief" else {"key": 2 * self.width, "value": self.width}
        )
        slots = {name: torch.zeros(batch, s.slots, size, device=device) for name, size in sizes.items()}
        flags = torch.zeros(batch, length, dtype=torch.bool, device=device)
        return {
            **slots,
            "token": zeros.long(),
            "importance": zeros,
            "age": zeros.clone(),
            "usage": zeros.clone(),
            "hidden": torch.zeros(batch, length, self.width, device=device),
            "held": flags.long(),
            "write": flags,
            "reset": flags[:, 0].clone(),
        }

    def hold(self, state: State, hidden: Tensor, tokens: Tensor, starts: Tensor, write: Tensor, usage: Tensor) -> State:
        """Return the state with a segment held for the next one, cut off from this one's graph.

        Args:
            state: After this segment's write.
            hidden: (B, T, W) what the memory was asked with.
            tokens: (B, T) input tokens.
            starts: (B, T) bool, where a document begins: only the last document of the segment is kept.
            write: (B, T) bool, which positions may be written.
            usage: (B, S) read mass of this segment, in segments.
        """
        document = starts.cumsum(1)
        last = document == document[:, -1:]
        kept = {name: state[name].detach() for name in ("key", "value", "token", "importance", "age")}
        part = write.float().mean(1, keepdim=True)  # of a window that moves on by less than itself
        return {
            **kept,
            "usage": (0.9**part * state["usage"] + part * usage).detach(),
            "hidden": hidden.detach().float(),
            "held": tokens.clone(),  # not the input itself: a compiled network would look at who shares it
            "write": write & last,
            "reset": document[:, -1] > 0,
        }

    def forgotten(self, state: State) -> State:
        """Return the slots, empty where a new document has begun, older by the share of a segment that is held."""
        keep, older = (~state["reset"]).unsqueeze(1), self.held_share(state)
        return {
            "key": state["key"] * keep.unsqueeze(2),
            "value": state["value"] * keep.unsqueeze(2),
            "token": state["token"] * keep,
            "importance": state["importance"] * keep,
            "age": (state["age"] + older) * keep,
            "usage": state["usage"] * keep,
        }

    @staticmethod
    def held_share(state: State) -> Tensor:
        """Return which share of a segment may be written (B, 1): less where a window moves on by less than itself."""
        return state["write"].float().mean(1, keepdim=True)

    def priority(self, slots: State) -> Tensor:
        """Return what keeps a slot from eviction (B, S): its fading importance and how much it is read; 0 = empty."""
        return (slots["importance"] * self.sizes.decay ** slots["age"] + slots["usage"]).detach()

    def write(self, state: State) -> State:
        """Return the slots after what is held was written."""
        raise TypeError(f"{type(self).__name__} must define write")

    def read(
        self, hidden: Tensor, slots: State, open_to: Tensor, store: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read for each position.

        Args:
            hidden: (B, T, W).
            slots: From :meth:`write`.
            open_to: (B, T) bool, positions that may read: those of the document that the slots are about.
            store: The memory's part of a cache, where a segment is read in pieces.

        Returns:
            (B, T, W) the states with what was read added; (B, T, S) read weights; (B, T) the weight of reading nothing,
            which is what a row of the others is short of 1.
        """
        raise TypeError(f"{type(self).__name__} must define read")


class KeyedMemory(Memory):
    """Slots of a key and a value: the key is the context *before* a token, the value the state *at* it.

    A position that is about to say what was said before so finds what came next then. A context is a state and the one
    before it: two words in a row say far better than one which place is meant. Keys and queries share one projection:
    at the start, equal contexts find each other. The most important positions of a segment replace the
    slots that are worth less. Slots hold the states as they were; keys, values and importance are made of them anew
    when they are read, and so learn from every read, however long ago the slot was written.

    Args:
        width: Size of a state.
        sizes: Sizes of the memory.
    """

    def __init__(self, width: int, sizes: Slots) -> None:
        super().__init__(width, sizes)
        self.norm = nn.LayerNorm(width)
        self.back = nn.Parameter(torch.ones(width))  # how much of the state before belongs to a context
        self.key = nn.Linear(width, sizes.width, bias=False)
        self.value = nn.Linear(width, sizes.width, bias=False)
        self.score = nn.Linear(width, 1)  # importance of a position
        self.sharpness = nn.Parameter(torch.full((sizes.heads,), 12.0))
        self.nothing = nn.Parameter(torch.full((sizes.heads,), 4.0))  # score of reading no slot
        self.out = nn.Linear(sizes.width, width, bias=False)
        self.gate = nn.Linear(width, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.sizes.heads, -1)).transpose(1, 2)  # (B, H, N, K / H)

    def worth(self, hidden: Tensor) -> Tensor:
        """Return the importance of states (B, N, W) before its sigmoid (B, N), float32."""
        return self.score(self.norm(hidden.to(self.norm.weight.dtype))).squeeze(2).float()

    def write(self, state: State) -> State:
        """Return the slots after what is held was written."""
        slots, hidden = self.forgotten(state), state["hidden"]
        none = torch.zeros_like(hidden[:, :1])
        before = torch.cat([none, none, hidden], 1)
        before = torch.cat([before[:, 1:-1], before[:, :-2]], 2)  # the state before, and the one before that
        may = state["write"].clone()
        may[:, 0] = False  # the state before it lies in another segment
        score = self.worth(hidden).masked_fill(~may, _CLOSED)
        count = min(self.sizes.writes, score.shape[1])
        at = coarse(score.clamp_min(-100)).topk(count, 1).indices
        best = score.gather(1, at)
        real = best > _CLOSED / 2
        importance = best.sigmoid() * real
        priority = self.priority(slots)
        into = coarse(priority).topk(count, 1, largest=False).indices
        # the best position against the worst slot, and so on
        better = coarse(importance) - coarse(priority.gather(1, into)) > -1 / 2048
        allowed = (self.sizes.writes * self.held_share(state)).ceil()
        wins = better & real & (torch.arange(count, device=real.device) < allowed)

        def put(name: str, new: Tensor) -> Tensor:
            index, won = into, wins
            if new.ndim == 3:
                index, won = into.unsqueeze(2).expand_as(new), wins.unsqueeze(2)
            old = slots[name]
            return old.scatter(1, index, torch.where(won, new.to(old.dtype), old.gather(1, index)))

        def chosen(y: Tensor) -> Tensor:
            return y.gather(1, at.unsqueeze(2).expand(-1, -1, y.shape[2]))

        zero = torch.zeros_like(importance)
        return {
            "key": put("key", chosen(before)),
            "value": put("value", chosen(hidden)),
            "token": put("token", state["held"].gather(1, at)),
            "importance": put("importance", importance),
            "age": put("age", zero),
            "usage": put("usage", zero),
        }

    def _context(self, x: Tensor, store: dict[str, Tensor] | None) -> Tensor:
        """Return each state (B, T, W) with the one before it; a segment's first has none."""
        first = torch.zeros_like(x[:, :1]) if store is None else store.get("last", torch.zeros_like(x[:, :1]))
        if store is not None:
            store["last"] = x[:, -1:]
        return x + self.back * torch.cat([first, x[:, :-1]], 1)

    def read(
        self, hidden: Tensor, slots: State, open_to: Tensor, store: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read for each position; see :meth:`Memory.read`."""
        x = self.norm(hidden)
        before, earlier = self.norm(slots["key"].unflatten(2, (2, -1)).to(self.norm.weight.dtype)).unbind(2)
        query = unit(self._heads(self.key(self._context(x, store))))
        key = unit(self._heads(self.key(before + self.back * earlier)))
        score = (query @ key.mT).float() * self.sharpness.view(1, -1, 1, 1)
        worth = F.logsigmoid(self.worth(slots["value"])).masked_fill(slots["importance"] <= 0, _CLOSED)
        score = score + worth[:, None, None, :]
        nothing = self.nothing.view(1, -1, 1, 1).expand(score.shape[0], -1, score.shape[2], 1)
        weight = torch.cat([nothing.float(), score], 3).softmax(3)
        nothing = torch.where(open_to.unsqueeze(1), weight[..., 0], 1.0).mean(1)
        weight = weight[..., 1:] * open_to[:, None, :, None]
        value = self._heads(self.value(self.norm(slots["value"].to(self.norm.weight.dtype))))
        found = (weight.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return hidden + torch.tanh(self.gate(x)) * self.out(found), weight.mean(1), nothing


class BriefMemory(Memory):
    """The brief's memory with its very parameters, connected: 329,281 of them at width 512, 256 slots of 64.

    The read controller scores the slots by number, and their content beside it; the write controller divides the
    positions of a segment among the slots that are worth least. Both see the integration level beside the state. The
    scalar that the brief kept as a tracker is the gate.

    Args:
        width: Size of a state.
        sizes: Sizes of the memory.
    """

    def __init__(self, width: int, sizes: Slots) -> None:
        super().__init__(width, sizes)
        self.reads = nn.Linear(width + 1, sizes.slots)
        self.writes = nn.Linear(width + 1, sizes.slots)
        self.content = nn.Linear(width, sizes.width)
        self.enhance = nn.Linear(sizes.width, width)
        self.gate = nn.Parameter(torch.zeros(()))
        self.integration = Integration(width)

    def write(self, state: State) -> State:
        """Return the slots after what is held was written: a slot takes a weighted mean of positions."""
        slots, x = self.forgotten(state), state["hidden"].to(self.gate.dtype)
        level = self.integration(x)
        content = self.content(x).float()
        score = self.writes(torch.cat([x, level.to(x.dtype)], 2)).float()
        count = min(self.sizes.writes, self.sizes.slots)
        into = coarse(self.priority(slots)).topk(count, 1, largest=False).indices
        allowed = torch.arange(count, device=into.device) < (count * self.held_share(state)).ceil().clamp_min(1)
        eligible = torch.zeros_like(slots["importance"], dtype=torch.bool).scatter(1, into, allowed)
        share = score.masked_fill(~eligible.unsqueeze(1), _CLOSED).softmax(2) * state["write"].unsqueeze(2)  # (B, T, S)
        mass = share.sum(1)
        new = (share.mT.float() @ content) / mass.clamp_min(1e-6).unsqueeze(2)
        importance = (share.mT @ level.float()).squeeze(2) / mass.clamp_min(1e-6)
        wins = eligible & state["write"].any(1, keepdim=True)
        value = torch.where(wins.unsqueeze(2), new, slots["value"])
        held = state["held"].gather(1, share.argmax(1))  # the token with the largest part in the slot
        return {
            "key": value,
            "value": value,
            "token": torch.where(wins, held, slots["token"]),
            "importance": torch.where(wins, importance.clamp_min(1e-3), slots["importance"]),
            "age": torch.where(wins, 0.0, slots["age"]),
            "usage": torch.where(wins, 0.0, slots["usage"]),
        }

    def read(
        self, hidden: Tensor, slots: State, open_to: Tensor, store: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read for each position; see :meth:`Memory.read`."""
        level = self.integration(hidden)
        score = self.reads(torch.cat([hidden, level.to(hidden.dtype)], 2)).float()
        score = score + self.content(hidden).float() @ slots["key"].mT / self.sizes.width**0.5
        worth = slots["importance"].clamp_min(1e-6).log().masked_fill(slots["importance"] <= 0, _CLOSED)
        full = (slots["importance"] > 0).any(1, keepdim=True)
        open_to = open_to & full
        weight = (score + worth.unsqueeze(1)).softmax(2) * open_to.unsqueeze(2)
        found = self.enhance((weight @ slots["value"]).to(hidden.dtype))
        return hidden + torch.tanh(self.gate) * found * open_to.unsqueeze(2), weight, (~open_to).float()


class Integration(nn.Module):
    """The brief's two metric projections as one level in [0, 1] for each position, from that position alone.

    The wide projection (256 at width 512) is cut into four quarters, each as wide as the narrow one (64); the level is
    the mean absolute cosine between the narrow projection and the quarters.

    Args:
        width: Size of a state; divisible by 8.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 8:
            raise ValueError(f"the brief's integration level needs a width that 8 divides, not {width}")
        self.wide, self.narrow = nn.Linear(width, width // 2), nn.Linear(width, width // 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, W) to levels (B, T, 1)."""
        quarters = unit(self.wide(x).unflatten(-1, (4, -1)))
        return (quarters * unit(self.narrow(x)).unsqueeze(-2)).sum(-1).abs().mean(-1, keepdim=True)


def build_memory(width: int, sizes: Slots) -> Memory:
    """Return the memory of a kind."""
    return BriefMemory(width, sizes) if sizes.kind == "brief" else KeyedMemory(width, sizes)
