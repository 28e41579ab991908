"""Random changes of a text for training: the operations of EDA.

Source: Wei and Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks",
EMNLP 2019. Each augmentation is called with a text and a numpy generator and returns a text that is never empty; the
same generator state gives the same text.
"""

from typing import Protocol

import numpy as np

# The hand list of the brief's notebook had seven words; these are words whose class they do not give away.
SYNONYMS = {
    "propose": ("present", "introduce", "suggest"), "present": ("propose", "introduce"),
    "introduce": ("present", "propose"), "method": ("approach", "technique"), "approach": ("method", "technique"),
    "novel": ("new", "original"), "new": ("novel", "fresh"), "show": ("demonstrate", "reveal"),
    "demonstrate": ("show", "reveal"), "improve": ("enhance", "increase"), "improves": ("enhances", "increases"),
    "performance": ("quality", "effectiveness"), "results": ("findings", "outcomes"), "achieve": ("reach", "attain"),
    "achieves": ("reaches", "attains"), "existing": ("current", "previous"), "recent": ("latest", "modern"),
    "problem": ("challenge", "issue"), "challenge": ("problem", "difficulty"), "large": ("big", "sizable"),
    "significant": ("considerable", "notable"), "significantly": ("considerably", "notably"),
    "framework": ("system", "scheme"), "study": ("investigate", "examine"), "work": ("study", "paper"),
    "effective": ("efficient", "successful"), "different": ("various", "diverse"), "various": ("different", "several"),
    "important": ("essential", "key"), "provide": ("offer", "give"), "experiments": ("trials", "evaluations"),
    "use": ("employ", "apply"), "using": ("employing", "applying"), "based": ("built", "founded"),
}  # fmt: skip


class TextAugmentation(Protocol):
    """What a random change of a text looks like."""

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """Return the changed text."""
        ...


class _Words:
    """Changes a share of the words of some texts.

    Args:
        p: Probability that a text is changed at all.
        alpha: Share of its words that the change is about; at least one word.
    """

    def __init__(self, p: float = 0.3, alpha: float = 0.1) -> None:
        for name, value in (("p", p), ("alpha", alpha)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must lie between 0 and 1")
        self.p, self.alpha = p, alpha

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """Return the changed text."""
        if rng.random() >= self.p:
            return text
        words = text.split()
        if not words:
            return text
        return " ".join(self.change(words, max(1, round(self.alpha * len(words))), rng))

    def change(self, words: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Return the words after `count` changes."""
        raise TypeError(f"{type(self).__name__} must define change")


class SynonymReplacement(_Words):
    """Replaces words by synonyms from a short list of words that papers of every field use."""

    def change(self, words: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Replace up to `count` words; punctuation and a capital stay."""
        known = [place for place, word in enumerate(words) if word.strip(".,;:()").lower() in SYNONYMS]
        for place in rng.permutation(known)[:count].tolist():
            word = words[place].strip(".,;:()")
            choices = SYNONYMS[word.lower()]
            chosen = choices[rng.integers(len(choices))]
            words[place] = words[place].replace(word, chosen.capitalize() if word[0].isupper() else chosen)
        return words


class RandomSwap(_Words):
    """Exchanges pairs of words, wherever they stand."""

    def change(self, words: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Exchange `count` pairs."""
        for _ in range(count if len(words) > 1 else 0):
            a, b = rng.choice(len(words), size=2, replace=False)
            words[a], words[b] = words[b], words[a]
        return words


class RandomDeletion(_Words):
    """Leaves words out."""

    def change(self, words: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Leave `count` words out; one always stays."""
        count = min(count, len(words) - 1)
        gone = set(rng.choice(len(words), size=count, replace=False).tolist())
        return [word for place, word in enumerate(words) if place not in gone]


class RandomInsertion(_Words):
    """Puts synonyms of words of the text anywhere into it."""

    def change(self, words: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Insert up to `count` synonyms."""
        known = [key for word in words if (key := word.strip(".,;:()").lower()) in SYNONYMS]
        for _ in range(count if known else 0):
            choices = SYNONYMS[known[rng.integers(len(known))]]
            words.insert(int(rng.integers(len(words) + 1)), choices[rng.integers(len(choices))])
        return words


class EDA(_Words):
    """One of the four operations, drawn anew for each text.

    Args:
        p: Probability that a text is changed at all (0.3 in the brief's notebook).
        alpha: Share of its words that the operation is about.
    """

    def __init__(self, p: float = 0.3, alpha: float = 0.1) -> None:
        super().__init__(p, alpha)
        self.operations: tuple[_Words, ...] = (
            SynonymReplacement(1.0, alpha),
            RandomInsertion(1.0, alpha),
            RandomSwap(1.0, alpha),
            RandomDeletion(1.0, alpha),
        )

    def change(self, words: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Apply one operation."""
        return self.operations[rng.integers(len(self.operations))].change(words, count, rng)
