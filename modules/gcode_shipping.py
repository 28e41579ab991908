"""A pair of `gcode` as two functions of tensors, for files that need no code of this project.

``Encode`` is asked once for a window, ``Step`` once for each token: it reads the last token, keeps what the next call
needs, and writes the next token greedily within the grammar. :func:`write_lines` is the loop around both, in numpy.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.gcode_decoder import GcodeDecoder
from modules.gcode_decoding import Greedy, Writer
from modules.gcode_tokens import BOS, EOS, PAD

Arrays = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], Arrays]
WINDOW = ("continuous", "present", "categorical")
ANSWERS = ("prob", "anomaly")  # of `Encode`, which no step needs
LINE = ("commands", "letters", "open")  # what is known of a line
NEXT = "next_"  # begins the names of what a step answers
CACHE = "cache_"  # begins the names of what a step keeps for the next


class Encode(nn.Module):
    """From a window to the operation, its anomaly, and what each step reads.

    Args:
        system: A trained pair.
    """

    def __init__(self, system: GcodeDecoder) -> None:
        super().__init__()
        self.pair = system.pair.eval()

    def forward(self, continuous: Tensor, present: Tensor, categorical: Tensor) -> dict[str, Tensor]:
        """Return ``prob`` (B, classes), ``anomaly`` (B,) where there is one, and the context of the steps."""
        encoder: Any = self.pair.encoder
        memory, logits = encoder.encode(continuous, present, categorical)
        found = {"prob": logits.float().softmax(1)}
        if encoder.reconstructs:
            found["anomaly"] = encoder.again_with_error(memory, continuous, present)[1]
        return found | self.pair.prepare(memory, logits, continuous, present)

    def export_answers(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the answers of a file, by name."""
        return self(**inputs)


class Step(nn.Module):
    """The next token of each line.

    Args:
        system: A trained pair.
    """

    def __init__(self, system: GcodeDecoder) -> None:
        super().__init__()
        assert system.tables is not None
        self.decoder, self.tables = system.pair.decoder.eval(), system.tables
        settings = replace(system.decoding, method="greedy")
        self.next = Greedy(Writer(self.decoder, self.tables, system.layout, settings))

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        """Return the next token.

        Args:
            given: The context of ``Encode``; ``token`` (B,) and ``fields`` (B, F), those of the last token;
                ``place`` (), where it stands; ``commands``, ``letters`` and ``open``, what the line has;
                ``cache_...``, what the last call said.

        Returns:
            The same without context and place, one token on, as ``next_token`` and so on (in a file, inputs and outputs
            have names of their own), and ``log_prob`` (B,) of the token.
        """
        cache = {name.removeprefix(CACHE): x for name, x in given.items() if name.startswith(CACHE)}
        lines = {name: given[name] for name in LINE}
        own = ("token", "fields", "place", *LINE)
        context = {name: x for name, x in given.items() if name not in own and not name.startswith(CACHE)}
        token, fields, log_prob, lines, cache = self.next(
            context, given["token"], given["fields"], lines, cache, given["place"]
        )
        found = {"token": token, "fields": fields} | lines | {f"{CACHE}{name}": x for name, x in cache.items()}
        return {"log_prob": log_prob} | {f"{NEXT}{name}": x for name, x in found.items()}

    def start(self, context: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the first step is given beside the context: nothing is written."""
        rows, places = len(context["operation"]), self.tables.fields.shape[1]
        found = {"token": torch.full((rows,), BOS), "fields": torch.full((rows, places), -1), "place": torch.tensor(0)}
        cache = self.decoder.new_cache(context)
        return found | self.tables.start(rows) | {f"{CACHE}{name}": x for name, x in cache.items()}

    def export_answers(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the answers of a file, by name."""
        return self(**inputs)


def write_lines(encode: Run, step: Run, first: Arrays, window: Arrays, limit: int) -> Arrays:
    """Write the lines of windows with the two functions.

    Args:
        encode: Of a window.
        step: Of a token.
        first: What ``Step.start`` gives for one window.
        window: ``continuous`` (B, T, C), ``present`` (B, C), ``categorical`` (B, T, K).
        limit: Most tokens of a line.

    Returns:
        ``prob`` (B, classes), ``anomaly`` (B,) where there is one, ``tokens`` (B, L), ``fields`` (B, L, F) and
        ``log_prob`` (B, L); after the end 0, -1 and 0.
    """
    context = encode(window)
    answers = {name: context.pop(name) for name in ANSWERS if name in context}
    rows = len(window["continuous"])
    state = {name: x if x.ndim == 0 else np.repeat(x, rows, 0) for name, x in first.items()}
    ended, written = np.zeros(rows, bool), []
    for place in range(limit):
        found = step({**context, **state, "place": np.array(place)})
        log_prob, state = found.pop("log_prob"), {name.removeprefix(NEXT): x for name, x in found.items()}
        token, fields = np.where(ended, PAD, state["token"]), np.where(ended[:, None], -1, state["fields"])
        written.append((token, fields, np.where(ended, 0.0, log_prob)))
        ended |= token == EOS
        if ended.all():
            break
    tokens, fields, log_prob = (np.stack(column, 1) for column in zip(*written, strict=True))
    return answers | {"tokens": tokens, "fields": fields, "log_prob": log_prob}
