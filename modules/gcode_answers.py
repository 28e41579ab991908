"""What a decoder of G-code said, beside what is true: answers, their log-probability, and which are right."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.gcode_decoding import Layout
from modules.gcode_tables import TokenTables
from modules.gcode_tokens import COMMAND, EOS, LETTER, NUMBER, PAD, UNK

HEADS = ("type", "command", "param", "sign")


def forced_answers(
    outputs: dict[str, Tensor], tables: TokenTables, layout: Layout, tidy: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the most probable tokens (B, L) and fields (B, L, F) of each place.

    Args:
        outputs: Of the heads.
        tables: Of the vocabulary.
        layout: Which heads answer for the tokens.
        tidy: Leave out the fields that a token of its type has not; otherwise what each head says.
    """
    if "type" in outputs:
        fields = torch.stack([outputs[name].argmax(-1) for name in HEADS], -1)
        fields = torch.cat([fields, outputs["digits"].argmax(-1)], -1)
        if layout == "heads" or not tidy:
            kept = tables.tidy(fields)
            return tables.ids(kept), kept if tidy else fields
    tokens = outputs["flat"].argmax(-1)
    return tokens, tables.fields[tokens]


def true_log_prob(outputs: dict[str, Tensor], tokens: Tensor, fields: Tensor, layout: Layout) -> Tensor:
    """Return the log-probability (B, L) of the true tokens, 0 at PAD; of fields, the sum over those that there are."""
    if layout == "flat":
        return _of(outputs["flat"], tokens).masked_fill(tokens == PAD, 0.0)
    parts = [_of(outputs[name], fields[..., i]) for i, name in enumerate(HEADS)]
    return torch.stack([*parts, *_of(outputs["digits"], fields[..., len(HEADS) :]).unbind(-1)]).sum(0)


def _of(logits: Tensor, target: Tensor) -> Tensor:
    found = logits.float().log_softmax(-1).gather(-1, target.clamp(min=0)[..., None]).squeeze(-1)
    return found.masked_fill(target < 0, 0.0)


def right_tokens(found: dict[str, Tensor], layout: Layout) -> Tensor:
    """Return which tokens (B, L) are right with the true ones before; one that the vocabulary cannot say never is."""
    if layout == "flat":
        return (found["forced_tokens"] == found["tokens"]) & (found["tokens"] != UNK)
    return _same(found["forced_fields"], found["fields"])


def right_lines(found: dict[str, Tensor], layout: Layout) -> Tensor:
    """Return which lines (B,) were written right as a whole; one that the vocabulary cannot say never is.

    With four digits numbers are compared as they were cut; the report, which has the texts, compares these.
    """
    tokens = found["tokens"]
    length, real = tokens.shape[1], tokens != PAD
    said = _fitted(found["free_tokens"], length, PAD)
    if layout == "flat":
        return ((said == tokens) & (tokens != UNK) | ~real).all(1)
    fields = found["free_fields"]
    fields = F.pad(fields, (0, 0, 0, max(0, length - fields.shape[1])), value=-1)[:, :length]
    ends = (tokens == EOS) <= (said == EOS)
    return ((_same(fields, found["fields"]) & ends) | ~real).all(1)


def _same(said: Tensor, true: Tensor) -> Tensor:
    """Whether all fields of the true token are said; a command or letter outside the vocabulary never is."""
    kind = true[..., 0]
    known = (kind != COMMAND) | (true[..., 1] >= 0)
    known &= ((kind != LETTER) & (kind != NUMBER)) | (true[..., 2] >= 0)
    return ((said == true) | (true < 0)).all(-1) & known


def _fitted(x: Tensor, length: int, fill: int) -> Tensor:
    return F.pad(x, (0, max(0, length - x.shape[1])), value=fill)[:, :length]
