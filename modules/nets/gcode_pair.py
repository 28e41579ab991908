"""Both stages of `gcode` as one network: an encoder, frozen or not, and a decoder that reads its memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.nets.gcode_decoder import LSTMDecoder, SensorMultiHeadDecoder, State


class EncoderDecoder(nn.Module):
    """Sensor windows and the tokens before to what comes next.

    Args:
        encoder: Gives ``encode(continuous, present, categorical) -> (memory (B, S, M), logits (B, classes))``.
        decoder: Reads the memory.
        trained: Whether the encoder is trained, too; a frozen one stays in evaluation mode.
        told_as: For each operation, the one that the decoder is told in its place; ``None``: itself.
    """

    told_as: Tensor | None

    def __init__(
        self,
        encoder: nn.Module,
        decoder: SensorMultiHeadDecoder | LSTMDecoder,
        trained: bool = False,
        told_as: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("told_as", None if told_as is None else torch.tensor(told_as), persistent=False)
        self.encoder, self.decoder, self.trained = encoder, decoder, trained
        encoder.requires_grad_(trained)
        self.train(self.training)

    def train(self, mode: bool = True) -> "EncoderDecoder":
        """Set the mode; a frozen encoder is always in evaluation mode."""
        super().train(mode)
        if not self.trained:
            self.encoder.eval()
        return self

    def encode(
        self,
        continuous: Tensor,
        present: Tensor,
        categorical: Tensor,
        operation: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[State, Tensor]:
        """Encode windows.

        Args:
            continuous: (B, T, C).
            present: (B, C) bool.
            categorical: (B, T, K) int64.
            operation: (B,) the operation that the decoder is told; negative or left out: the most probable one.
            noise: (B, S, M), added to the memory in units of the window's own deviation.

        Returns:
            What the decoder reads (see ``TokenDecoder.prepare``), and the logits of the operation (B, classes).
        """
        encoder: Any = self.encoder
        memory, logits = encoder.encode(continuous, present, categorical)
        if noise is not None:
            memory = memory + noise.to(memory.dtype) * memory.std((1, 2), keepdim=True)
        return self.prepare(memory, logits, continuous, present, operation), logits

    def prepare(
        self, memory: Tensor, logits: Tensor, continuous: Tensor, present: Tensor, operation: Tensor | None = None
    ) -> State:
        """Return what the decoder reads of an encoded window; see :meth:`encode`."""
        told = logits.argmax(1)
        if operation is not None:
            told = torch.where(operation >= 0, operation, told)
        if self.told_as is not None:
            told = self.told_as[told]
        summary = self.decoder.shape.summary
        if summary == "none":
            return self.decoder.prepare(memory, told)
        window = continuous.masked_fill(~present[:, None], 0.0)
        return self.decoder.prepare(memory, told, memory if summary == "memory" else window)

    def forward(
        self,
        continuous: Tensor,
        present: Tensor,
        categorical: Tensor,
        tokens: Tensor,
        fields: Tensor | None = None,
        given: Tensor | None = None,
        operation: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Tell what comes after each token, all at once.

        Args:
            continuous: See :meth:`encode`, as for ``present``, ``categorical``, ``operation`` and ``noise``.
            present: (B, C).
            categorical: (B, T, K).
            tokens: (B, L) ids, BOS first.
            fields: (B, L, F) of the same tokens; -1 for BOS.
            given: (B, L, F) fields of the tokens that are to be told, for chained digits and true letters.
            operation: (B,).
            noise: (B, S, M).

        Returns:
            The heads (see ``Heads``), ``operation`` (B, classes), and ``logits``: the flat head's, or the type's.
        """
        context, logits = self.encode(continuous, present, categorical, operation, noise)
        hidden, _ = self.decoder.hidden(context, tokens, fields)
        outputs = self.decoder.heads(hidden, context["operation"], given, self.decoder.shape.true_param)
        return outputs | {"operation": logits, "logits": outputs["flat" if "flat" in outputs else "type"]}
