"""Word-level Kneser-Ney perplexities of a text: ``python -m benchmarks.ngram --train T --valid V --test W``.

One end of line is a word, as papers on WikiText-2 count; the vocabulary is that of the training text, and held-out text
may hold no other word (WikiText-2 spells rare words ``<unk>`` for this). Contexts end at articles (`` = Title = ``).
Nothing is chosen on held-out text: the discounts come from the counts of the training text.
"""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.record import ROOT, sha256, write_record
from datamodules.ngram import KneserNey, unigram_log_prob
from modules import perplexity

END = "<eos>"
TITLE = re.compile(r"\s*= [^=](.*[^=])? =\s*")
PARTS = ("train", "valid", "test")


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the words of a text with an end after each line, and where its articles begin (D,)."""
    lines = path.read_text(encoding="utf-8").splitlines()
    blank = [not line.strip() for line in lines] + [True]  # a title stands between blank lines; formulas may look alike
    words: list[str] = []
    starts = [0]
    for place, line in enumerate(lines):
        if TITLE.fullmatch(line) and blank[place - 1] and blank[place + 1] and len(words) > 1:
            starts.append(len(words))
        words += [*line.split(), END]
    return words, np.array(starts)


def measure(paths: dict[str, Path], order: int, bootstrap: int = 1000) -> dict[str, object]:
    """Return vocabulary, counts, seconds, and for each held-out part the perplexities with intervals by article.

    Raises:
        ValueError: Held-out text holds words that the training text does not have.
    """
    text = {part: read(paths[part]) for part in PARTS}
    index = {word: i for i, word in enumerate(sorted(set(text["train"][0])))}
    unknown = {part: sum(word not in index for word in text[part][0]) for part in PARTS}
    if any(unknown.values()):
        raise ValueError(f"words that the training text does not have would have no probability: {unknown}")
    ids = {part: np.array([index[word] for word in words]) for part, (words, _) in text.items()}
    begun = time.perf_counter()
    model = KneserNey(len(index), order).fit(ids["train"], text["train"][1])
    figures: dict[str, object] = {"order": order, "vocabulary": len(index), "unit": "words with one end of line a line"}
    for part in PARTS[1:]:
        starts, tokens = text[part][1], ids[part]
        logs = {f"kneser-ney-{order}": model.log_prob(tokens, starts)}
        logs["unigram"] = unigram_log_prob(ids["train"], tokens, len(index))
        size = np.diff(np.append(starts, len(tokens)))
        found: dict[str, object] = {"words": len(tokens), "articles": len(starts)}
        for name, log in logs.items():
            sums = {"nll": -np.add.reduceat(log, starts), **dict.fromkeys(("tokens", "words", "bytes"), size)}
            drawn = perplexity.resampled(sums, np.arange(len(starts)), bootstrap)
            low, high = perplexity.intervals(drawn)["word_perplexity"]
            found[name] = {"word_perplexity": perplexity.measured(sums)["word_perplexity"], "interval": [low, high]}
        figures[part] = found
    figures["seconds"] = round(time.perf_counter() - begun, 1)
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and write a record where one is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ngram", description=__doc__, allow_abbrev=False)
    for part in PARTS:
        parser.add_argument(f"--{part}", type=Path, required=True)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    paths: dict[str, Path] = {part: getattr(given, part) for part in PARTS}
    for part, path in paths.items():
        if not path.is_file():
            parser.error(f"--{part} {path}: no such file")
    figures = measure(paths, given.order)
    for key, value in figures.items():
        print(f"{key}: {value}")
    if given.record:
        command = " ".join(f"--{part} {path.name}" for part, path in paths.items())
        written = write_record(
            given.record,
            f"python -m benchmarks.ngram {command} --order {given.order}",
            [ROOT / "benchmarks" / "ngram.py", ROOT / "datamodules" / "ngram.py", ROOT / "modules" / "perplexity.py"],
            {path.name: sha256(path) for path in paths.values()},
            [0],
            figures,
        )
        print(f"written: {written.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
