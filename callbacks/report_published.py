"""Figures of others as they were published; they stand in a report's table as they are, and nothing is made of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One figure: who, how many parameters, perplexity on validation and test, in which unit, and where it stands."""

    model: str
    parameters: str
    valid: float | None
    test: float | None
    unit: str
    source: str


_PROGRESS = "NLP-progress, language modelling"
PUBLISHED: dict[str, list[Published]] = {
    "wikitext-2": [
        Published("LSTM 650 x 2, tied", "–", 98.96, 93.90, "word", "GluonNLP, word language model scripts"),
        Published("AWD-LSTM", "33M", 68.6, 65.8, "word", f"Merity et al. 2017 (arXiv 1708.02182), {_PROGRESS}"),
        Published("AWD-LSTM-MoS", "35M", 63.88, 61.45, "word", f"Yang et al. 2017 (arXiv 1711.03953), {_PROGRESS}"),
        Published("Mogrifier LSTM", "35M", 57.3, 55.1, "word", f"Melis et al. 2019 (arXiv 1909.01792), {_PROGRESS}"),
        Published("Mogrifier RLSTM", "24M", 56.7, 55.0, "word", f"arXiv 2211.01848, {_PROGRESS}"),
        Published("AWD-LSTM + neural cache", "33M", 53.8, 52.0, "word", f"arXiv 1708.02182, {_PROGRESS}"),
        Published("Mogrifier RLSTM + dynamic evaluation", "24M", 39.3, 38.0, "word", f"arXiv 2211.01848, {_PROGRESS}"),
        Published("GPT-2 small, other training text", "117M", None, 29.41, "as published", "Radford et al. 2019"),
    ]
}
