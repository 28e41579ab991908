"""The embedded text: little encyclopedia articles from a grammar whose entropy is known exactly (pure).

Synthetic, and says so. Every article is about one person. Its lead states facts (year and place of birth, teacher,
rival, work, prize); later paragraphs come back to them, most often farther away than a window reaches, and
then the facts are certain: who remembers them pays nothing, who does not pays their full surprise again. Between them
stand sentences with agreement over a distance, a vocabulary that depends on the person's field, and pronouns that
depend on the first name.

Every choice is drawn with a known probability, and a text can be made by one series of choices only (every fact is
stated, and no word has two parts to play): its surprise is the sum over its choices, and the mean over
many texts the entropy.
"""

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np


def _syllables(*groups: str) -> list[str]:
    """Every combination of one part from each group."""
    words = [""]
    for group in groups:
        words = [word + part for word in words for part in group.split()]
    return words


MEN = "Adrian Anselm Basil Conrad Dorian Edmund Felix Gregor Hugo Ivo Jasper Konrad Lucian Magnus Nestor Otto".split()
WOMEN = "Agnes Beata Clara Dora Edith Flora Greta Helena Irma Judith Klara Livia Martha Nora Olga Paula".split()
FAMILIES = [word.capitalize() for word in _syllables("bar dor fen gal hol kar lin mor", "be da ro vi", "k n s")]
PLACES = [word.capitalize() for word in _syllables("ash elm brook stone wolf gray", "ford ham ton wick mere dale well")]
YEARS = [str(year) for year in range(1700, 1980, 2)]
COLOURS = (
    "amber black blue bronze copper crimson golden green ivory pale purple red scarlet silver violet white".split()
)
THINGS = "arch bell bridge candle clock crown garden harbour key lamp lantern mirror orchard ship tower wheel".split()
PRIZES = [f"{place} Medal" for place in PLACES[::3]] + [f"{family} Prize" for family in FAMILIES[::7]]
FIELDS = {
    "painter": "canvas brush portrait colour sketch fresco palette studio frame gallery landscape shadow figure line",
    "physicist": "theory particle field wave force measurement equation vacuum energy spectrum mirror lens orbit",
    "botanist": "seed thorn root flower grass herb forest meadow spore stem garden petal moss fern",
    "composer": "melody chord sonata symphony rhythm choir overture opera string score voice quartet hymn march",
    "historian": "archive letter treaty dynasty chronicle empire battle document coin court reform council border",
    "engineer": "engine bridge valve canal turbine girder tunnel railway pump boiler cable furnace dam gear",
    "philosopher": "argument concept virtue doubt reason mind axiom paradox freedom duty essence dialogue truth cause",
    "astronomer": "comet star planet telescope eclipse catalogue orbit nebula moon meridian parallax cluster dome",
}
GENERAL = (
    "answer audience book chapter city critic custom example friend habit idea journal journey law "
    "market method minute model museum neighbour nation number opinion pattern picture plan "
    "problem pupil question report result school season story teaching text tool view village word world"
).split()
ADJECTIVES = (
    "early late large small famous obscure careful bold simple complex modern ancient quiet bright dark gentle rough "
    "narrow broad strange common rare formal hidden perfect broken patient sudden steady brief"
).split()
VERBS = (
    "explain describe change resemble support contradict precede follow reveal suggest replace complete inspire "
    "confirm improve illustrate oppose recall surpass imitate"
).split()
ADVERBS = "clearly rarely often slowly finally gladly partly quickly".split()
PLACE_PHRASES = "at home|abroad|in the winter|in the summer|by candle light|on long journeys|in public|in secret".split(
    "|"
)


def zipf(count: int, power: float = 0.8) -> list[float]:
    """Probabilities that fall with the rank."""
    weights = [(rank + 1) ** -power for rank in range(count)]
    total = sum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True)
class Text:
    """A document with its surprise.

    Attributes:
        name: Its title.
        text: The text; every line ends with a line feed.
        nats: Minus the natural logarithm of its probability.
    """

    name: str
    text: str
    nats: float


class Writer:
    """Draws choices and keeps count of their surprise.

    Args:
        seed: Of the draws.

    Attributes:
        nats: Surprise of the choices since the last :meth:`take`.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._draws: list[float] = []
        self._cuts: dict[tuple[int, float], list[float]] = {}
        self.nats = 0.0

    def _draw(self) -> float:
        if not self._draws:
            self._draws = self._rng.random(4096).tolist()
        return self._draws.pop()

    def pick(self, options: Sequence[str], power: float = 0.0) -> str:
        """Choose one; with ``power`` the first are the likelier ones."""
        key = (len(options), power)
        if key not in self._cuts:
            self._cuts[key] = list(accumulate(zipf(*key)))
            self._cuts[key][-1] = 1.0
        cuts = self._cuts[key]
        at = bisect(cuts, self._draw())
        self.nats -= math.log(cuts[at] - (cuts[at - 1] if at else 0.0))
        return options[at]

    def chance(self, p: float) -> bool:
        """Say yes with probability p."""
        yes = self._draw() < p
        self.nats -= math.log(p if yes else 1 - p)
        return yes

    def take(self) -> float:
        """Return the surprise so far, and begin anew."""
        nats, self.nats = self.nats, 0.0
        return nats


def make_articles(words: int = 1_000_000, seed: int = 0) -> list[Text]:
    """Write articles until they have so many words (ends of lines are words, too).

    Args:
        words: At least so many.
        seed: Of all choices.
    """
    writer, count = Writer(seed), 0
    made: list[Text] = []
    while count < words:
        made.append(article(writer, len(made)))
        count += count_words(made[-1].text)
    return made


def count_words(text: str) -> int:
    """Words between white space, and one for each end of a line: the count of the field's word-level figures."""
    return len(text.split()) + text.count("\n")


def article(writer: Writer, number: int) -> Text:
    """Write one article.

    Args:
        writer: Draws the choices.
        number: Makes the unique; not part of the text.
    """
    man = writer.chance(0.5)
    first, family = writer.pick(MEN if man else WOMEN), writer.pick(FAMILIES)
    facts = {
        "year": writer.pick(YEARS),
        "place": writer.pick(PLACES),
        "field": writer.pick(list(FIELDS)),
        "teacher": f"{writer.pick(MEN + WOMEN)} {writer.pick(FAMILIES)}",
        "rival": f"{writer.pick(MEN + WOMEN)} {writer.pick(FAMILIES)}",
        "town": writer.pick(PLACES),
        "work": f"{writer.pick(COLOURS)} {writer.pick(THINGS)}",
        "prize": writer.pick(PRIZES),
    }
    he, his = ("he", "his") if man else ("she", "her")
    facts |= {"name": f"{first} {family}", "family": family, "he": he, "He": he.capitalize(), "his": his}
    facts |= {"His": his.capitalize(), "a": "an" if facts["field"][0] in "aeiou" else "a"}
    lead = (
        "{name} was {a} {field} , born in {year} in {place} . {His} teacher was {teacher} , and {his} rival was "
        "{rival} . In {town} {he} made The {work} , which won the {prize} ."
    )
    lines = [f"= {facts['name']} =", "", lead.format(**facts)]
    nouns, paragraphs = FIELDS[facts["field"]].split(), 0
    while True:
        sentences = [_sentence(writer, facts, nouns) for _ in range(3)]
        while len(sentences) < 8 and not writer.chance(0.3):
            sentences.append(_sentence(writer, facts, nouns))
        lines += ["", " ".join(sentences)]
        paragraphs += 1
        if paragraphs == 9 or (paragraphs >= 4 and writer.chance(0.3)):
            break
    return Text(f"{facts['name']} #{number}", "\n".join(lines) + "\n", writer.take())


_RECALLED = (
    "{He} never forgot {place} .",
    "As a child of {year} {he} grew up without books .",
    "The lessons of {teacher} stayed with {his} friends .",
    "Letters to {rival} show another side .",
    "Visitors of {town} asked for {name} .",
    "Many know only The {work} .",
    "A speech about the {prize} was lost .",
    "Born in {place} in {year} , {family} had little money .",
    "Without {teacher} there would be no {work} .",
    "Both {rival} and {teacher} wrote about The {work} .",
)


def _sentence(writer: Writer, facts: dict[str, str], nouns: list[str]) -> str:
    """Write one sentence: of the facts, or of the field."""
    if writer.chance(0.4):
        return writer.pick(_RECALLED).format(**facts)
    kind = writer.pick(("The", "Every", "Some", "{He} said"), 0.5)
    if kind == "Every":
        subject, plural = f"Every {_noun(writer, nouns, False)}", False
    elif kind == "Some":
        subject, plural = f"Some {_noun(writer, nouns, True)}", True
    else:
        plural = writer.chance(0.5)
        head = "The" if kind == "The" else f"{facts['He']} said that the"
        subject = f"{head} {_noun(writer, nouns, plural)}"
        if writer.chance(0.4):  # agreement reaches over another noun
            subject += f" of the {_noun(writer, nouns, writer.chance(0.5))}"
    verb = writer.pick(VERBS, 0.5)
    parts = [subject]
    if writer.chance(0.3):
        parts.append(writer.pick(ADVERBS, 0.5))
    parts += [verb if plural else f"{verb}s", f"the {_noun(writer, nouns, writer.chance(0.5))}"]
    if writer.chance(0.25):
        parts.append(writer.pick(PLACE_PHRASES, 0.5))
    return " ".join(parts) + " ."


def _noun(writer: Writer, nouns: list[str], plural: bool) -> str:
    """A noun of the field or a general one, with an adjective before it in some cases."""
    adjective = f"{writer.pick(ADJECTIVES, 0.5)} " if writer.chance(0.4) else ""
    noun = writer.pick(GENERAL, 0.5) if writer.chance(0.3) else writer.pick(nouns, 0.4)
    return adjective + (_plural(noun) if plural else noun)


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def make_recall(documents: int = 400, seed: int = 0, pairs: int = 4, fillers: int = 60, values: int = 16) -> list[Text]:
    """Write documents that need a memory: pairs of a key and a value, words without meaning, then a question for each.

    An answer is the word after ``?``. The distance from a pair to its question is more than ``fillers`` words.

    Args:
        documents: How many.
        seed: Of all choices.
        pairs: Keys of a document.
        fillers: Words between the pairs and the questions.
        values: Different values; guessing is right once in so many.
    """
    writer = Writer(seed)
    made: list[Text] = []
    keys = [f"key{i}" for i in range(16)]
    names = [f"value{i}" for i in range(values)]
    for number in range(documents):
        left, known = list(keys), []
        for _ in range(pairs):
            key = writer.pick(left)
            left.remove(key)
            known.append((key, writer.pick(names)))
        lines = [" ".join(f"{key} is {value} ." for key, value in known)]
        lines.append(" ".join(writer.pick(("so", "and", "then", "but")) for _ in range(fillers)))
        asked = list(known)
        while asked:
            key = writer.pick([key for key, _ in asked])
            value = dict(asked)[key]
            asked.remove((key, value))
            lines.append(f"{key} ? {value}")
        made.append(Text(f"recall #{number}", "\n".join(lines) + "\n", writer.take()))
    return made


def make_random(words: int = 20_000, seed: int = 0, vocabulary: int = 50) -> list[Text]:
    """Write words that are drawn evenly and say nothing about each other; lines of 20, documents of 100.

    Args:
        words: How many.
        seed: Of the draws.
        vocabulary: Different words.
    """
    writer = Writer(seed)
    made: list[Text] = []
    names = [f"w{i}" for i in range(vocabulary)]
    for number in range(-(-words // 100)):
        lines = [" ".join(writer.pick(names) for _ in range(20)) for _ in range(5)]
        made.append(Text(f"random #{number}", "\n".join(lines) + "\n", writer.take()))
    return made
