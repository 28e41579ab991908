"""What a decoder of G-code says at each position: heads for type, command, letter, sign and digits, and a flat head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

TYPES, SIGNS = 4, 3  # special, command, letter, number; plus, minus, zero
FIELDS = 4  # type, command, param, sign; the digits follow
COMMAND, PARAM, SIGN = 1, 2, 3  # places of the fields


@dataclass(frozen=True)
class Sizes:
    """Sizes that the data give.

    Args:
        num_classes: Operations.
        vocab_size: Entries of the flat vocabulary.
        num_commands: Commands.
        num_params: Letters.
        digits: Digits of a number.
        max_tokens: Positions.
    """

    num_classes: int
    vocab_size: int
    num_commands: int
    num_params: int
    digits: int
    max_tokens: int


def head(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return a head: linear, norm, GELU, dropout, linear."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


class NumberHead(nn.Module):
    """Sign and digits of a number, and its value, from a state, the operation and the letter.

    Args:
        sizes: Sizes of the data.
        width: Width of a state; embeddings have a quarter of it.
        dropout: In all parts.
        conditioned: Whether the operation is given.
        chain: Whether a digit knows the sign and the digits before it; the brief's digits know nothing of each other.
        regression: Whether the value is told, too, as an auxiliary task.
    """

    def __init__(
        self, sizes: Sizes, width: int, dropout: float, conditioned: bool, chain: bool, regression: bool
    ) -> None:
        super().__init__()
        small, half = width // 4, width // 2
        self.operation = nn.Embedding(sizes.num_classes, small) if conditioned else None
        self.param = nn.Embedding(sizes.num_params, small)
        inputs = width + small * (2 if conditioned else 1)
        self.context = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
        self.sign = head(width, half, SIGNS, dropout)
        self.places = nn.Embedding(sizes.digits, small)
        self.digits = nn.ModuleList(head(width + small, half, 10, dropout) for _ in range(sizes.digits))
        self.sign_before = nn.Embedding(SIGNS, small) if chain else None
        self.digits_before = nn.ModuleList(nn.Embedding(10, small) for _ in range(sizes.digits - 1 if chain else 0))
        self.value = (
            nn.Sequential(nn.Linear(width, half), nn.GELU(), nn.Dropout(dropout), nn.Linear(half, 1))
            if regression
            else None
        )

    def read(self, hidden: Tensor, operation: Tensor, param: Tensor) -> Tensor:
        """Return what sign and digits are read from (B, L, W): states (B, L, W), operation (B,), letter (B, L)."""
        parts = [hidden, self.param(param)]
        if self.operation is not None:
            parts.insert(1, self.operation(operation)[:, None].expand(-1, hidden.shape[1], -1))
        return self.context(torch.cat(parts, -1))

    def place(self, index: int, read: Tensor, before: Tensor | None) -> Tensor:
        """Return logits (..., 10) of one digit; ``before`` from :meth:`after`, ``None`` without a chain."""
        place = self.places.weight[index].expand(*read.shape[:-1], -1)
        return self.digits[index](torch.cat([read, place if before is None else place + before], -1))

    def after(self, index: int, chosen: Tensor, before: Tensor | None) -> Tensor | None:
        """Return what the next digit knows, once the sign (``index`` -1) or a digit was chosen (...,)."""
        if self.sign_before is None:
            return None
        if index < 0:
            return self.sign_before(chosen)
        assert before is not None
        return before + self.digits_before[index](chosen) if index < len(self.digits_before) else before

    def forward(self, hidden: Tensor, operation: Tensor, param: Tensor, given: Tensor | None) -> dict[str, Tensor]:
        """Return ``sign`` (B, L, 3), ``digits`` (B, L, D, 10) and ``value`` (B, L).

        Args:
            hidden: (B, L, W).
            operation: (B,).
            param: (B, L), the letter of each number.
            given: (B, L, 1 + D), true sign and digits, which a chain reads; ``None``: the most probable ones.
        """
        read = self.read(hidden, operation, param)
        sign = self.sign(read)
        before = self.after(-1, sign.argmax(-1) if given is None else given[..., 0].clamp(min=0), None)
        places = []
        for i in range(len(self.digits)):
            logits = self.place(i, read, before)
            places.append(logits)
            before = self.after(i, logits.argmax(-1) if given is None else given[..., 1 + i].clamp(min=0), before)
        outputs = {"sign": sign, "digits": torch.stack(places, -2)}
        return outputs | ({"value": self.value(read).squeeze(-1)} if self.value is not None else {})


class Heads(nn.Module):
    """All heads of a decoder.

    Args:
        sizes: Sizes of the data.
        width: Width of a state.
        dropout: In the heads.
        conditioned: Whether numbers know the operation.
        flat: Whether there is one layer over the whole vocabulary.
        fields: Whether there are heads for type, command, letter, sign and digits.
        chain: See :class:`NumberHead`.
        regression: See :class:`NumberHead`.

    Raises:
        ValueError: For no head at all.
    """

    def __init__(
        self,
        sizes: Sizes,
        width: int,
        dropout: float,
        conditioned: bool = True,
        flat: bool = True,
        fields: bool = True,
        chain: bool = False,
        regression: bool = True,
    ) -> None:
        super().__init__()
        if not (flat or fields):
            raise ValueError("a decoder needs the flat head, the heads of the fields, or both")
        half = width // 2
        self.flat = nn.Linear(width, sizes.vocab_size) if flat else None
        self.kind = self.command = self.param = self.number = None
        if fields:
            self.kind = head(width, half, TYPES, dropout)
            self.command = head(width, half, sizes.num_commands, dropout)
            self.param = head(width, half, sizes.num_params, dropout)
            self.number = NumberHead(sizes, width, dropout, conditioned, chain, regression)

    def forward(
        self, hidden: Tensor, operation: Tensor, given: Tensor | None = None, true_param: bool = False
    ) -> dict[str, Tensor]:
        """Return the logits of each head that there is.

        Args:
            hidden: States (B, L, W).
            operation: (B,).
            given: (B, L, F) fields of the true tokens, for a chain of digits.
            true_param: Numbers know their true letter of ``given``; otherwise the most probable one, as in the brief.

        Returns:
            ``flat`` (B, L, V), ``type`` (B, L, 4), ``command`` (B, L, C), ``param`` (B, L, P), ``sign`` (B, L, 3),
            ``digits`` (B, L, D, 10), ``value`` (B, L).
        """
        outputs = {} if self.flat is None else {"flat": self.flat(hidden)}
        if self.number is None or self.kind is None or self.command is None or self.param is None:
            return outputs
        param = self.param(hidden)
        outputs |= {"type": self.kind(hidden), "command": self.command(hidden), "param": param}
        letter = param.argmax(-1)
        if true_param and given is not None:
            letter = torch.where(given[..., PARAM] >= 0, given[..., PARAM], letter)
        return outputs | self.number(hidden, operation, letter, None if given is None else given[..., SIGN:])
