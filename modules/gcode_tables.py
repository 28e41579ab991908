"""A vocabulary as tensors: fields of ids and back, and the grammar of many lines at once, all on the device."""

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.gcode_tokens import (
    BOS,
    COMMAND,
    EOS,
    LETTER,
    MASK,
    MINUS,
    NUMBER,
    PAD,
    SPECIAL,
    UNK,
    UNSIGNED,
    ZERO,
    Vocabulary,
    step,
)
from modules.line_grammar import Grammar

Lines = dict[str, Tensor]  # what was written of B lines: ``commands`` (B, C), ``letters`` (B, P), ``open`` (B,)


class TokenTables(nn.Module):
    """Tables of a vocabulary; they hold nothing to save.

    Args:
        vocabulary: Its commands and letters are the first of the network's.
        digits: Digits of the fields.
        num_commands: Commands of the network, at least those of the vocabulary.
        num_params: Letters of the network, at least those of the vocabulary.
    """

    fields: Tensor  # (V, F) fields of each id
    command_ids: Tensor  # (C,) id of each command
    param_ids: Tensor  # (P,) id of each letter
    keys: Tensor  # (N,) numbers of the vocabulary, sorted
    number_ids: Tensor  # (N,) their ids
    ratio: Tensor  # (P, 2) steps of the fields in steps of the vocabulary, as a fraction
    conflicts: Tensor
    forbids: Tensor
    clashes: Tensor
    needs: Tensor
    needy: Tensor  # (C,) commands that need a letter
    possible: Tensor
    known: Tensor  # (P,) letters that exist
    unsigned: Tensor  # (P,)
    numbered: Tensor  # (P,) letters that have numbers in the vocabulary
    other: Tensor  # (V,) entries without fields that may be written without a grammar: UNK and unused ones
    newline: Tensor  # (C,)

    def __init__(self, vocabulary: Vocabulary, digits: int, num_commands: int, num_params: int) -> None:
        super().__init__()
        if len(vocabulary.commands) > num_commands or len(vocabulary.params) > num_params:
            raise ValueError(
                f"the vocabulary has {len(vocabulary.commands)} commands and {len(vocabulary.params)} letters, "
                f"the network {num_commands} and {num_params}"
            )
        self.vocabulary, self.digits = vocabulary, digits
        table = vocabulary.field_table(digits)  # type: ignore[arg-type]
        names, params = vocabulary.commands, vocabulary.params
        grammar = Grammar(names, params)
        more, further = num_commands - len(names), num_params - len(params)
        fractions = [Fraction(step(letter, digits)) / Fraction(step(letter, vocabulary.digits)) for letter in params]
        ids, keys = _number_keys(vocabulary)
        tables = {
            "fields": table,
            "command_ids": np.array([vocabulary.ids[name] for name in names] + [UNK] * more),
            "param_ids": np.array([vocabulary.ids[name] for name in params] + [UNK] * further),
            "keys": keys,
            "number_ids": ids,
            "ratio": np.array([[f.numerator, f.denominator] for f in fractions] + [[1, 1]] * further),
            "conflicts": np.pad(grammar.conflicts, (0, more)),
            "forbids": np.pad(grammar.forbids, ((0, more), (0, further))),
            "clashes": np.pad(grammar.clashes, (0, further)),
            "needs": np.pad(grammar.needs, ((0, more), (0, further))),
            "needy": np.pad(grammar.needs.any(1), (0, more)),
            "possible": np.pad(grammar.possible, (0, more)),
            "known": np.pad(np.ones(len(params), bool), (0, further)),
            "unsigned": np.pad(np.array([letter in UNSIGNED for letter in params], bool), (0, further)),
            "numbered": np.isin(np.arange(num_params), table[table[:, 0] == NUMBER, 2]),
            "other": (table[:, 0] < 0) & ~np.isin(np.arange(len(table)), (PAD, BOS, MASK)),
            "newline": np.arange(num_commands) == (-1 if grammar.newline is None else grammar.newline),
        }
        for name, value in tables.items():
            self.register_buffer(name, torch.as_tensor(np.ascontiguousarray(value)), persistent=False)

    def ids(self, fields: Tensor) -> Tensor:
        """Return the ids (...) of fields (..., F): UNK for what the vocabulary has not, PAD for -1 everywhere."""
        kind, param = fields[..., 0], fields[..., 2]
        command = torch.where(fields[..., 1] >= 0, self.command_ids[fields[..., 1].clamp(min=0)], UNK)
        letter = torch.where(param >= 0, self.param_ids[param.clamp(min=0)], UNK)
        number = torch.where(param >= 0, self._number(fields), UNK)
        found = torch.full_like(kind, PAD)
        for value, of in ((COMMAND, command), (LETTER, letter), (NUMBER, number)):
            found = torch.where(kind == value, of, found)
        return torch.where(kind == SPECIAL, EOS, found)

    def _number(self, fields: Tensor) -> Tensor:
        """Ids of numbers; their steps become the vocabulary's, rounded half to even, and cut as the brief cuts."""
        param = fields[..., 2].clamp(min=0)
        powers = 10 ** torch.arange(self.digits - 1, -1, -1, device=fields.device)
        top, under = self.ratio[param].unbind(-1)
        scaled = (fields[..., 4:].clamp(min=0) * powers).sum(-1) * top
        size, rest = scaled // under, 2 * (scaled % under)
        size = size + ((rest > under) | ((rest == under) & (size % 2 == 1))).long()
        negative = fields[..., 3] == MINUS
        if self.vocabulary.digits == 4:
            for _ in range(2):
                size = torch.where(size >= 10_000, size // 10, size)
            size = torch.where(negative & (size >= 1000), size // 10, size)
        key = _key(param, torch.where(negative, -size, size))
        if not len(self.keys):
            return torch.full_like(key, UNK)
        if torch.compiler.is_exporting():  # ONNX has no search
            place = (self.keys < key[..., None]).sum(-1)
        else:
            place = torch.searchsorted(self.keys, key)
        place = place.clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == key, self.number_ids[place], UNK)

    def tidy(self, fields: Tensor) -> Tensor:
        """Return fields (..., F) of a guess in each field as those of one token: -1 where its type has none."""
        kind, sign = fields[..., 0], fields[..., 3]
        digits = torch.where((sign == ZERO)[..., None], 0, fields[..., 4:])
        sign = torch.where((digits == 0).all(-1), ZERO, sign)
        parts = [
            kind,
            torch.where(kind == COMMAND, fields[..., 1], -1),
            torch.where((kind == LETTER) | (kind == NUMBER), fields[..., 2], -1),
            torch.where(kind == NUMBER, sign, -1),
        ]
        return torch.cat([torch.stack(parts, -1), torch.where((kind == NUMBER)[..., None], digits, -1)], -1)

    def start(self, rows: int) -> Lines:
        """Return lines in which nothing is written."""
        device = self.fields.device
        return {
            "commands": torch.zeros(rows, len(self.possible), dtype=torch.bool, device=device),
            "letters": torch.zeros(rows, len(self.known), dtype=torch.bool, device=device),
            "open": torch.full((rows,), -1, device=device),
        }

    def allowed(self, lines: Lines) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what may come next: commands (B, C), letters (B, P), a number (B,), the end (B,)."""
        used, letters = lines["commands"], lines["letters"]
        waits = lines["open"] >= 0
        met = (letters.float() @ self.needs.float().T) > 0  # (B, C)
        written = used.any(1) | letters.any(1)
        end = written & ~(used & self.needy & ~met).any(1) & ~waits
        commands = ~_any(used, self.conflicts) & self.possible & ~letters.any(1, keepdim=True) & ~waits[:, None]
        commands = (self.newline & end[:, None]) | (~self.newline & commands)
        free = self.known & ~_any(used, self.forbids) & ~_any(letters, self.clashes) & ~waits[:, None]
        return commands, free, waits, end

    def advance(self, lines: Lines, fields: Tensor) -> Lines:
        """Return the lines with one more token (B, F) each; ``NEWLINE`` begins a new one."""
        kind, command, param = fields[:, 0], fields[:, 1], fields[:, 2]
        is_command, is_letter = kind == COMMAND, kind == LETTER
        new = is_command & self.newline[command.clamp(min=0)]
        commands = lines["commands"] | (_hot(command, len(self.possible)) & is_command[:, None])
        letters = lines["letters"] | (_hot(param, len(self.known)) & is_letter[:, None])
        return {
            "commands": commands & ~new[:, None],
            "letters": letters & ~new[:, None],
            "open": torch.where(is_letter, param, -1),
        }


def _number_keys(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Ids and sorted keys of the numbers."""
    found = []
    for i, entry in enumerate(vocabulary.entries):
        letter, _, steps = entry.removeprefix("NUM_").partition("_")
        if entry.startswith("NUM_") and letter in vocabulary.params:
            found.append((_key(vocabulary.params.index(letter), int(steps)), i))
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    return pairs[:, 1], pairs[:, 0]


def _key(param: Any, steps: Any) -> Any:  # noqa: ANN401  # of one number or of many
    return param * 10**8 + steps


def _any(used: Tensor, table: Tensor) -> Tensor:
    """Whether any used row of a table (N, M) marks a column: (B, M) of (B, N)."""
    return (used.float() @ table.float()) > 0


def _hot(index: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=index.device) == index[:, None]
