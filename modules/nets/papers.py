"""The network of `papers`: title and abstract to class scores; plain torch."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.nets.papers_encoder import Form
from modules.nets.papers_fusion import CrossAttention, KeywordGraph, Terms
from modules.nets.papers_pooling import Pooling, build_pool

Encoding = Literal["shared", "separate", "single"]
Cross = Literal["none", "one_way", "two_way"]
Outputs = dict[str, Tensor]
FIELDS = ("title", "abstract")


class Head(nn.Sequential):
    """Hidden blocks of Linear, LayerNorm, activation and dropout, then the scores.

    Args:
        inputs: Size of the vector that is read.
        hidden: Widths of the hidden blocks; none is a linear head.
        outputs: Number of scores.
        activation: ``gelu`` or ``relu``.
        dropout: Dropout of the first two blocks; later ones have 0.8 of it, as in the brief.
    """

    def __init__(
        self, inputs: int, hidden: list[int], outputs: int, activation: Literal["gelu", "relu"], dropout: float
    ) -> None:
        layers: list[nn.Module] = []
        for i, width in enumerate(hidden):
            act = nn.GELU() if activation == "gelu" else nn.ReLU()
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width), act, nn.Dropout(dropout * (1 if i < 2 else 0.8))]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, outputs))


class PapersNet(nn.Module):
    """Encoder, pooling per field, fusion, head.

    Input is one of: tokens (``title_ids``, ``abstract_ids``, or ``text_ids`` for one field), states (``title_states``,
    ``abstract_states``), or ``vector``. With SciBERT's shape and the defaults there are 110,282,886 parameters.

    Args:
        encoders: One encoder, or one per field; empty for vectors.
        width: Width H of the states of a field.
        num_classes: Classes.
        form: Kind of input.
        encoding: One encoder for both fields, one each, or one text.
        num_keywords: Keywords of the vocabulary; 0 leaves the graph out.
        num_terms: Terms of the vocabulary; 0 leaves the wide part out.
        term_width: Size of a term's vector in the wide part; 0 gives a term one score a class.
        vector_length: Length that the cached vectors of title and abstract are scaled to; ``None`` leaves them.
        auxiliary: Outputs of each auxiliary head, by name.
        pooling: How token states become one vector.
        block: Tokens of a block of the hierarchical pooling.
        cross: Cross-attention before the pooling: none, the title asks the abstract, or both ask.
        cross_heads: Its heads.
        head: Widths of the head's hidden blocks.
        activation: Activation of the head.
        dropout: Dropout of the head.
        encoder_dropout: Dropout of the states, or of the vector.

    Raises:
        ValueError: When the settings do not fit each other.
    """

    def __init__(
        self,
        encoders: list[nn.Module],
        width: int,
        num_classes: int,
        form: Form = "tokens",
        encoding: Encoding = "shared",
        num_keywords: int = 0,
        num_terms: int = 0,
        term_width: int = 32,
        vector_length: float | None = None,
        auxiliary: dict[str, int] | None = None,
        pooling: Pooling = "attention",
        block: int = 10,
        cross: Cross = "none",
        cross_heads: int = 8,
        head: list[int] | None = None,
        activation: Literal["gelu", "relu"] = "gelu",
        dropout: float = 0.35,
        encoder_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.fields = ("text",) if encoding == "single" else FIELDS
        self.form, self.width = form, width
        if len(encoders) != (0 if form == "vectors" else 2 if encoding == "separate" else 1):
            raise ValueError(f"{len(encoders)} encoders do not fit form={form!r} with encoding={encoding!r}")
        if form != "tokens" and encoding == "single":
            raise ValueError("cached states have two fields: encoding is shared or separate")
        if cross != "none" and (form == "vectors" or encoding == "single"):
            raise ValueError("cross-attention needs the token states of two fields: set cross: none")
        if form == "vectors" and pooling != "mean":
            raise ValueError("cached vectors are means of the states already: set pooling: mean")
        if vector_length is not None and (form != "vectors" or vector_length <= 0):
            raise ValueError("vector_length is above 0, and for cached vectors only")
        self.vector_length = vector_length
        self.encoders = nn.ModuleList(encoders)
        self.drop = nn.Dropout(encoder_dropout)
        pools = {} if form == "vectors" else {field: build_pool(pooling, width, block) for field in self.fields}
        self.pools = nn.ModuleDict(pools)
        asking = {"none": (), "one_way": FIELDS[:1], "two_way": FIELDS}[cross]
        self.cross = nn.ModuleDict({field: CrossAttention(width, cross_heads) for field in asking})
        self.graph = KeywordGraph(num_keywords, width) if num_keywords else None
        self.terms = Terms(num_terms, term_width, num_classes, dropout) if num_terms else None
        fused = width * (len(self.fields) + bool(num_keywords))
        self.head = Head(fused, head if head is not None else [512, 256, 128], num_classes, activation, dropout)
        self.auxiliary = nn.ModuleDict({name: nn.Linear(fused, size) for name, size in (auxiliary or {}).items()})
        for part in (self.pools, self.head, self.auxiliary):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, 0.0, 0.02)
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        *,
        title_ids: Tensor | None = None,
        title_mask: Tensor | None = None,
        abstract_ids: Tensor | None = None,
        abstract_mask: Tensor | None = None,
        text_ids: Tensor | None = None,
        text_mask: Tensor | None = None,
        title_states: Tensor | None = None,
        abstract_states: Tensor | None = None,
        vector: Tensor | None = None,
        keyword_ids: Tensor | None = None,
        keyword_weights: Tensor | None = None,
        keyword_mask: Tensor | None = None,
        keyword_links: Tensor | None = None,
        term_ids: Tensor | None = None,
        term_weights: Tensor | None = None,
        term_mask: Tensor | None = None,
        mix_pairs: Tensor | None = None,
        mix_share: Tensor | None = None,
    ) -> Tensor | Outputs:
        """Class scores, and those of the auxiliary heads where there are some.

        Args:
            title_ids: (B, Tt) int64; padded tokens may be any.
            title_mask: (B, Tt) bool, True = real token.
            abstract_ids: (B, Ta).
            abstract_mask: (B, Ta).
            text_ids: (B, T), title and abstract in one.
            text_mask: (B, T).
            title_states: (B, Tt, H) float.
            abstract_states: (B, Ta, H) float.
            vector: (B, 2 H) float.
            keyword_ids: (B, K) int64.
            keyword_weights: (B, K) float.
            keyword_mask: (B, K) bool.
            keyword_links: (B, K, K) float, 0 or 1.
            term_ids: (B, K') int64.
            term_weights: (B, K') float.
            term_mask: (B, K') bool.
            mix_pairs: (B,) int64, the sample that each is mixed with.
            mix_share: (B,) float, what each keeps of itself.

        Returns:
            Logits (B, C), or a dict of ``logits`` and the auxiliary outputs (B, size), which are never mixed.

        Raises:
            ValueError: When the batch lacks what this network reads.
        """
        if self.form == "vectors":
            given_vector = _needed(vector, "vector")
            if self.vector_length is not None:
                parts = functional.normalize(given_vector.unflatten(1, (2, -1)), dim=2)
                given_vector = self.vector_length * parts.flatten(1)
            fused = self.drop(given_vector)
        else:
            given = {
                "title": (title_ids, title_states, title_mask),
                "abstract": (abstract_ids, abstract_states, abstract_mask),
                "text": (text_ids, None, text_mask),
            }
            states, masks = self._states(given)
            fused = torch.cat([pool(states[field], masks[field]) for field, pool in self.pools.items()], dim=1)
        if self.graph is not None:
            words = _needed(keyword_ids, "keyword_ids"), _needed(keyword_weights, "keyword_weights")
            real, links = _needed(keyword_mask, "keyword_mask"), _needed(keyword_links, "keyword_links")
            fused = torch.cat([fused, self.graph(*words, real, links)], dim=1)
        logits = self.head(_mixed(fused, mix_pairs, mix_share))
        if self.terms is not None:
            terms, weights = _needed(term_ids, "term_ids"), _needed(term_weights, "term_weights")
            wide = self.terms(terms, weights, _needed(term_mask, "term_mask"))
            logits = logits + self.terms.scores(_mixed(wide, mix_pairs, mix_share))
        if not self.auxiliary:
            return logits
        return {"logits": logits} | {name: layer(fused) for name, layer in self.auxiliary.items()}

    def attention(self, **inputs: Tensor) -> Outputs:
        """Return the weight of each token (B, T) by field, and of each keyword (B, K) under ``keywords``."""
        found: Outputs = {}
        if self.form != "vectors":
            given = {
                field: (inputs.get(f"{field}_ids"), inputs.get(f"{field}_states"), inputs.get(f"{field}_mask"))
                for field in (*FIELDS, "text")
            }
            states, masks = self._states(given)
            for field, pool in self.pools.items():
                real = states[field].masked_fill(~masks[field].unsqueeze(-1), 0.0)
                found[field] = pool.weights(real, masks[field])  # type: ignore[operator]
        if self.graph is not None:
            found["keywords"] = self.graph.attention(
                inputs["keyword_weights"], inputs["keyword_mask"], inputs["keyword_links"]
            )
        return found

    def _states(
        self, given: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the states (B, T, H) and the mask (B, T) of each field."""
        what = "ids" if self.form == "tokens" else "states"
        states, masks = {}, {}
        for i, field in enumerate(self.fields):
            ids, cached, mask = given[field]
            masks[field] = _needed(mask, f"{field}_mask")
            x = _needed(ids if self.form == "tokens" else cached, f"{field}_{what}")
            states[field] = self.drop(self.encoders[i if len(self.encoders) > 1 else 0](x, masks[field]))
        asked = dict(states)
        for field, layer in self.cross.items():
            other = FIELDS[field == FIELDS[0]]
            states[field] = layer(asked[field], asked[other], masks[other])
        return states, masks


def _mixed(vectors: Tensor, pairs: Tensor | None, share: Tensor | None) -> Tensor:
    if pairs is None or share is None:
        return vectors
    share = share.to(vectors.dtype).unsqueeze(1)
    return share * vectors + (1 - share) * vectors[pairs]


def _needed(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(
            f"the batch has no {name}: the model's encoder and encoding must fit data.states, data.single, "
            "data.keywords and data.terms"
        )
    return value
