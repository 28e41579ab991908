"""What `papers` learns from the training part besides the network: vocabularies and a few numbers.

It travels in the checkpoint as plain values, so that new papers can be predicted without the training data.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from datamodules.keywords import Keywords
from datamodules.papers_text import PapersTokenizer
from datamodules.terms import Terms

CROSSLISTS = 8  # most categories that the auxiliary task tells apart


@dataclass(frozen=True)
class Fitted:
    """Fitted on training rows alone.

    Attributes:
        tokenizer: Makes token ids.
        keywords: Chooses keywords; None where they are off.
        crosslists: Categories of the auxiliary task, the most frequent first; none where it is off.
        length: Mean and standard deviation of the natural logarithm of the words of an abstract.
        terms: Weighs all words and pairs of words; None where they are off.
    """

    tokenizer: PapersTokenizer
    keywords: Keywords | None
    crosslists: tuple[str, ...]
    length: tuple[float, float]
    terms: Terms | None = None

    @classmethod
    def fit(
        cls,
        rows: pd.DataFrame,
        *,
        source: str | None,
        vocab_size: int,
        keywords: int,
        keyword_vocab: int,
        terms: int,
        auxiliary: bool,
    ) -> "Fitted":
        """Learn from records.

        Args:
            rows: Training records; nothing else may be in them.
            source: Folder or hub id of a tokenizer; None trains one.
            vocab_size: Vocabulary of a trained tokenizer.
            keywords: Most keywords of a paper; 0 is off.
            keyword_vocab: Most known keywords.
            terms: Most known words and pairs of words; 0 is off.
            auxiliary: Whether targets of auxiliary tasks are wanted.

        Raises:
            DataError: The texts have nothing to learn from.
        """
        texts = joined(rows)
        tokenizer = PapersTokenizer.train(texts, vocab_size) if source is None else PapersTokenizer.load(source)
        found = Keywords.fit(texts, keywords, keyword_vocab) if keywords else None
        if found is not None and not len(found):
            raise DataError("no word occurs in two training papers, so there is no keyword: set --data.keywords 0")
        counts = Counter(name for text in rows["all_categories"] for name in set(text.split()))
        if auxiliary and not counts:
            raise DataError("the data have no all_categories, which the auxiliary tasks need: name the column with "
                            "--data.columns.all_categories, or set --data.auxiliary false")  # fmt: skip
        listed = sorted(counts, key=lambda name: (-counts[name], name))[:CROSSLISTS] if auxiliary else []
        logs = _log_words(rows["abstract"])
        length = (float(logs.mean()), float(logs.std()) or 1.0)
        return cls(tokenizer, found, tuple(listed), length, Terms.fit(texts, terms) if terms else None)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            **self.tokenizer.state_dict(),
            "keywords": self.keywords.state_dict() if self.keywords is not None else None,
            "crosslists": list(self.crosslists),
            "length": list(self.length),
            "terms": self.terms.state_dict() if self.terms is not None else None,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Fitted":
        """Make it again from what `state_dict` gave."""
        keywords = None if state["keywords"] is None else Keywords.from_state(state["keywords"])
        mean, std = state["length"]
        tokenizer = PapersTokenizer.from_state({key: state[key] for key in ("tokenizer", "pad_id", "source")})
        terms = None if state["terms"] is None else Terms.from_state(state["terms"])
        return cls(tokenizer, keywords, tuple(state["crosslists"]), (float(mean), float(std)), terms)

    def auxiliary_tables(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return targets of the auxiliary tasks, float32, one row a record.

        `y_crosslist` (N, M): 1 for each of the M categories that the paper lists; `y_learning` (N,): 1 where "learn"
        occurs in the abstract; `y_length` (N,): standardised logarithm of the words of the abstract.
        """
        mean, std = self.length
        return {
            "y_crosslist": multi_hot(rows["all_categories"], self.crosslists),
            "y_learning": np.array(["learn" in text.lower() for text in rows["abstract"]], dtype=np.float32),
            "y_length": ((_log_words(rows["abstract"]) - mean) / std).astype(np.float32),
        }


def joined(rows: pd.DataFrame) -> list[str]:
    """Title and abstract of each record as one text."""
    return [f"{title}. {abstract}" for title, abstract in zip(rows["title"], rows["abstract"], strict=True)]


def multi_hot(texts: Sequence[str] | pd.Series, names: Sequence[str]) -> np.ndarray:
    """(N, M) float32: 1 where a text, names separated by blanks, has the name."""
    index = {name: place for place, name in enumerate(names)}
    out = np.zeros((len(texts), len(names)), np.float32)
    for row, text in enumerate(texts):
        out[row, [index[name] for name in text.split() if name in index]] = 1
    return out


def _log_words(texts: pd.Series) -> np.ndarray:
    return np.log(np.array([max(1, len(text.split())) for text in texts], dtype=float))
