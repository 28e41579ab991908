"""What generated text is like, measured: repetition, diversity, likeness to true text, and how it looks.

Counts over tokens take sequences of anything that can be compared (token ids or words); nothing here counts characters.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

Tokens = Sequence[int] | Sequence[str]
ORDERS = (1, 2, 3, 4)
# A joined word stays one (`twenty-first`, `don't`), a number too (`1,250.5`); a mark is a word of its own.
_WORD = re.compile(r"<unk>|\d+(?:[.,]\d+)+|\w+(?:[-'’]\w+)*|[^\w\s]")
_JOINED = re.compile(r" @([-.,])@ ")
_NUMBER = re.compile(r"\d")
_YEAR = re.compile(r"(?<!\d)(?:1\d\d\d|20\d\d)(?!\d)")
SURFACE = ("final_stops", "commas", "capitals", "digits", "years", "hyphenated")


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text; what WikiText parts (`` @-@ ``, `` @,@ ``, `` @.@ ``) is joined again."""
    return _WORD.findall(_JOINED.sub(r"\1", text))


def _runs(tokens: Tokens, n: int) -> Iterator[tuple]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def repetition(texts: Sequence[Tokens], n: int) -> float:
    """Return the share of runs of ``n`` tokens that occurred before in the same text; NaN where there are none."""
    total = unique = 0
    for tokens in texts:
        found = list(_runs(tokens, n))
        total, unique = total + len(found), unique + len(set(found))
    return 1 - unique / total if total else float("nan")


def distinct(texts: Sequence[Tokens], n: int) -> float:
    """Return distinct-n (Li et al. 2016): different runs of ``n`` tokens over all texts, by the number of runs."""
    found = [run for tokens in texts for run in _runs(tokens, n)]
    return len(set(found)) / len(found) if found else float("nan")


def unique_per_100(texts: Sequence[Tokens]) -> float:
    """Return the mean number of different tokens among 100 that follow each other; NaN where no text has 100."""
    pieces = [tokens[i : i + 100] for tokens in texts for i in range(0, len(tokens) - 99, 100)]
    return _mean([len(set(piece)) for piece in pieces])


def type_token_ratio(texts: Sequence[Tokens]) -> float:
    """Return the mean over texts of different tokens by tokens; texts of one length compare, others do not."""
    ratios = [len(set(tokens)) / len(tokens) for tokens in texts if len(tokens)]
    return _mean(ratios)


def vocabulary_use(texts: Sequence[Sequence[int]], size: int) -> float:
    """Return the share of a vocabulary of ``size`` tokens that occurs at all."""
    return len({token for tokens in texts for token in tokens}) / size


def share_of(texts: Sequence[Tokens], token: int | str) -> float:
    """Return the share of one token, such as the unknown one; NaN for no tokens."""
    total = sum(len(tokens) for tokens in texts)
    return sum(1 for tokens in texts for one in tokens if one == token) / total if total else float("nan")


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], n: int, smooth: bool = True) -> float:
    """Return BLEU-n of the corpus, over words: counts are summed over texts before dividing (Papineni et al. 2002).

    Args:
        texts: Generated texts.
        references: The true texts beside each.
        n: Longest run; all up to it count the same.
        smooth: Add one to both counts of the precisions above the first, for short texts share few long runs (Lin and
            Och 2004). Without it the score is 0 where no run of some length is shared.
    """
    matched, made = [0] * n, [0] * n
    length = reference_length = 0
    for text, several in zip(texts, references, strict=True):
        words, true = words_of(text), [words_of(one) for one in several]
        length += len(words)
        reference_length += min((len(one) for one in true), key=lambda size: (abs(size - len(words)), size))
        for i in range(n):
            counts, limits = Counter(_runs(words, i + 1)), Counter[tuple]()
            for one in true:
                limits |= Counter(_runs(one, i + 1))
            matched[i] += (counts & limits).total()
            made[i] += counts.total()
    if not length:
        return float("nan")
    extra = [int(smooth and i > 0) for i in range(n)]
    precisions = [(m + e) / (t + e) if t + e else 0.0 for m, t, e in zip(matched, made, extra, strict=True)]
    brevity = min(1.0, math.exp(1 - reference_length / length))
    return brevity * math.prod(precisions) ** (1 / n)


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Return the mean BLEU-n of each text against all others (Zhu et al. 2018).

    **High means alike, that is less diverse**: 1 where all texts are the same, near 0 where they share nothing.
    NaN for fewer than two texts. The work grows with the square of their number.
    """
    if len(texts) < 2:
        return float("nan")
    scores = [bleu([text], [[*texts[:i], *texts[i + 1 :]]], n) for i, text in enumerate(texts)]
    return _mean([score for score in scores if not math.isnan(score)])


def surface(texts: Sequence[str]) -> dict[str, float]:
    """Return how often the marks of written text occur, all by the number of words (marks are no words).

    Returns:
        ``final_stops`` (. ! ?), ``commas``, words with a ``capitals`` letter first, with ``digits``, ``years`` from
        1000 to 2099, and ``hyphenated`` words; each as a share of the words; NaN where there are no words.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        for word in words_of(text):
            if not (word[0].isalnum() or word == "<unk>"):
                counts["final_stops"] += word in ".!?"
                counts["commas"] += word == ","
                continue
            counts["words"] += 1
            counts["capitals"] += word[0].isupper()
            counts["digits"] += bool(_NUMBER.search(word))
            counts["years"] += bool(_YEAR.fullmatch(word))
            counts["hyphenated"] += "-" in word
    words = counts["words"]
    return {name: counts[name] / words if words else float("nan") for name in SURFACE}


def generation_metrics(
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    true_texts: Sequence[str],
    true_tokens: Sequence[Sequence[int]],
    vocabulary: int,
    unknown: int | None,
) -> dict[str, float]:
    """Return all metrics of continuations, each beside that of the true continuations of the same prompts.

    Args:
        texts: Generated continuations, without their prompts.
        tokens: Their tokens.
        true_texts: How the true text goes on, for about as many tokens.
        true_tokens: Its tokens.
        vocabulary: Number of tokens in the vocabulary.
        unknown: Token that stands for what is not in the vocabulary, or ``None``.

    Returns:
        Metrics by name; those of true text begin with ``true_``.
    """
    found: dict[str, float] = {}
    for prefix, some, ids in (("", texts, tokens), ("true_", true_texts, true_tokens)):
        for n in ORDERS:
            found[f"{prefix}repetition_{n}"] = repetition(ids, n)
            found[f"{prefix}distinct_{n}"] = distinct(ids, n)
        found[f"{prefix}type_token_ratio"] = type_token_ratio(ids)
        found[f"{prefix}unique_per_100"] = unique_per_100(ids)
        found[f"{prefix}vocabulary_use"] = vocabulary_use(ids, vocabulary)
        found[f"{prefix}unknown_share"] = 0.0 if unknown is None else share_of(ids, unknown)
        found[f"{prefix}self_bleu"] = self_bleu(some)
        found |= {f"{prefix}{name}": value for name, value in surface(some).items()}
    return found | {f"bleu_{n}": bleu(texts, [[true] for true in true_texts], n) for n in ORDERS}
