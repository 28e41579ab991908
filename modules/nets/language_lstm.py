"""The recurrent baseline: an LSTM language model with tied embeddings and the same inputs and outputs as the others."""

import torch
from torch import Tensor, nn

from modules.nets.language import Dropouts, Shape
from modules.nets.language_parts import TokenLoss, locked_dropout
from modules.nets.memory import State


class LanguageLSTM(nn.Module):
    """Tokens to what comes next, by layers of LSTM (Zaremba et al. 2014; tied as in Press & Wolf 2017).

    What it carries from segment to segment is its own state; at the beginning of a document inside a segment it reads
    on, as such models do in the literature, and only a beginning at a segment's first token empties it.

    Args:
        vocab_size: Tokens of the vocabulary.
        shape: Its ``width`` is that of the embeddings and of every layer, its ``depth`` the number of layers.
        dropouts: Probabilities of dropout; ``dropout`` is that between layers, ``attention_dropout`` has no place.
        loss_chunk: Positions whose scores over the vocabulary exist at once; 0 = all.
    """

    def __init__(
        self,
        vocab_size: int,
        shape: Shape = Shape(),  # noqa: B008  # frozen
        dropouts: Dropouts = Dropouts(),  # noqa: B008  # frozen
        loss_chunk: int = 0,
    ) -> None:
        super().__init__()
        if shape.depth < 1:
            raise ValueError(f"shape.depth must be at least 1, got {shape.depth}")
        width = shape.width
        self.vocab_size, self.shape, self.dropouts = vocab_size, shape, dropouts
        self.memory = self.noise = None  # what only the Transformer has
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(shape.depth))
        self.head = nn.Linear(width, vocab_size)
        self.loss = TokenLoss(loss_chunk)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)
        self.head.weight = self.embedding.weight

    def new_state(self, batch: int, length: int) -> State:
        """Return the state of streams that begin.

        Args:
            batch: Streams.
            length: Tokens of a segment; the state of this model does not depend on it.
        """
        zeros = torch.zeros(batch, len(self.layers), self.shape.width, device=self.embedding.weight.device)
        return {"hidden": zeros, "cell": zeros.clone()}

    def forward(
        self,
        tokens: Tensor,
        starts: Tensor | None = None,
        write: Tensor | None = None,
        state: State | None = None,
        targets: Tensor | None = None,
    ) -> dict[str, Tensor | State]:
        """Score what follows each token.

        Args:
            tokens: (B, T) input tokens.
            starts: (B, T) bool, True where a document begins; one at the first token empties the state.
            write: Of no use here: all that is read changes the state.
            state: Of :meth:`new_state` or of the segment before; ``None`` = empty.
            targets: (B, T) next tokens, -1 = none; asks for ``nll`` in place of ``logits``.

        Returns:
            ``hidden`` (B, T, W); ``logits`` (B, T, V) or ``nll`` (B, T) float32, 0 without a target; ``state``.
        """
        p = self.dropouts
        if state is None:
            state = self.new_state(len(tokens), tokens.shape[1])
        keep = torch.ones_like(tokens[:, 0]) if starts is None else (~starts[:, 0]).long()
        x = self.embedding(tokens)
        if self.training and p.word_dropout:
            kept = torch.empty(self.vocab_size, device=tokens.device).bernoulli_(1 - p.word_dropout)
            x = x * (kept / (1 - p.word_dropout))[tokens].unsqueeze(2).to(x.dtype)
        x = locked_dropout(x, p.embedding_dropout, self.training)
        hidden, cell = [], []
        for index, layer in enumerate(self.layers):
            before = [
                (state[name][:, index] * keep.unsqueeze(1)).to(x.dtype).unsqueeze(0) for name in ("hidden", "cell")
            ]
            x, (last, inner) = layer(x, tuple(part.contiguous() for part in before))
            hidden.append(last[0])
            cell.append(inner[0])
            if index + 1 < len(self.layers):
                x = locked_dropout(x, p.dropout, self.training)
        after = {"hidden": torch.stack(hidden, 1).detach(), "cell": torch.stack(cell, 1).detach()}
        y = locked_dropout(x, p.output_dropout, self.training)
        if targets is None:
            return {"hidden": x, "logits": self.head(y), "state": after}
        return {"hidden": x, "nll": self.loss(y, self.head.weight, self.head.bias, targets), "state": after}
