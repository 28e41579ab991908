"""What joins the two fields of a paper: cross-attention between them, and a graph of keywords beside them."""

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """One field asks the other: attention over its real tokens, residual, norm.

    Args:
        width: Size of a state.
        heads: Attention heads; divide the width.
        dropout: Dropout of the attention weights.
    """

    def __init__(self, width: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, asking: Tensor, asked: Tensor, mask: Tensor) -> Tensor:
        """Return the asking states (B, T, H) after a look at the asked ones (B, S, H), mask (B, S), True = real."""
        # softmax over nothing is NaN: a field without a real token is looked at evenly, and its states are zero
        hidden = ~mask & mask.any(1, keepdim=True)
        asked = asked.masked_fill(~mask.unsqueeze(-1), 0.0)
        seen, _ = self.attend(asking, asked, asked, key_padding_mask=hidden, need_weights=False)
        return self.norm(asking + seen)


class KeywordGraph(nn.Module):
    """One graph convolution over the keywords of a paper (Kipf and Welling 2017), dense, then their mean.

    Args:
        num_keywords: Keywords of the vocabulary.
        width: Size of the vectors.
    """

    def __init__(self, num_keywords: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_keywords, width)
        self.convolve = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.convolve.weight)
        nn.init.zeros_(self.convolve.bias)

    def forward(self, ids: Tensor, weights: Tensor, mask: Tensor, links: Tensor) -> Tensor:
        """Return one vector per paper (B, H); zeros without a keyword.

        Args:
            ids: (B, K) int64 keywords.
            weights: (B, K) their TF-IDF.
            mask: (B, K) bool, True = real keyword.
            links: (B, K, K) 0/1, which keywords occur together; symmetric, zero diagonal.
        """
        nodes = self.embed(ids) * weights.masked_fill(~mask, 0.0).unsqueeze(-1)
        out = self.convolve(_spread(mask, links) @ nodes)
        real = mask.unsqueeze(-1).to(out.dtype)
        return (out * real).sum(1) / real.sum(1).clamp(min=1.0)

    def attention(self, weights: Tensor, mask: Tensor, links: Tensor) -> Tensor:
        """Return the share (B, K) of each keyword's vector in the mean: exact, for the graph is linear."""
        share = _spread(mask, links).sum(1) * weights.masked_fill(~mask, 0.0)
        return share / share.sum(1, keepdim=True).clamp(min=1e-12)


def _spread(mask: Tensor, links: Tensor) -> Tensor:
    """Return D^-1/2 (A + I) D^-1/2 (B, K, K) over the real keywords."""
    both = mask.unsqueeze(1) & mask.unsqueeze(2)
    linked = links.masked_fill(~both, 0.0) + torch.diag_embed(mask.to(links.dtype))
    scale = linked.sum(2).clamp(min=1.0).rsqrt()
    return scale.unsqueeze(2) * linked * scale.unsqueeze(1)


class Terms(nn.Module):
    """The wide part: a weighted sum of one vector per known term gives class scores (Cheng et al. 2016, wide and deep).

    Args:
        num_terms: Known terms.
        width: Size of a term's vector; 0 gives each term one score a class, as logistic regression on TF-IDF does.
        num_classes: Classes.
        dropout: Dropout of the sum; none without width.
    """

    def __init__(self, num_terms: int, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(num_terms, width or num_classes, mode="sum")
        deep = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, num_classes)) if width else nn.Identity()
        self.scores: nn.Module = deep
        # Not normalised: a sum that starts near zero lets rare terms stay small, one of unit size learns them by heart.
        nn.init.normal_(self.bag.weight, 0.0, 0.02)

    def forward(self, ids: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        """Return the sum (B, width) of ids (B, K) int64, weights (B, K) float, mask (B, K) bool, True = real term."""
        return self.bag(ids, per_sample_weights=weights.masked_fill(~mask, 0.0).to(self.bag.weight.dtype))
