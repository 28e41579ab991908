"""The embedded text: its entropy is that of its choices, facts come back beyond a window, recall needs a memory."""

import math
import re
from collections import Counter

import pytest

from datamodules.synthetic import language
from datamodules.synthetic.language import Writer, count_words, make_articles, make_random, make_recall


@pytest.fixture(scope="module")
def articles():
    return make_articles(60_000)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(articles):
    assert make_articles(3000) == articles[: len(make_articles(3000))]
    assert make_articles(3000, seed=1)[0].text != articles[0].text
    assert count_words("= a =\n\nb c .\n") == 9
    assert sum(count_words(text.text) for text in articles) >= 60_000


def test_the_surprise_is_that_of_the_choices():
    """One choice after another, counted by hand."""
    writer = Writer(0)
    chosen = [writer.pick("abcd") for _ in range(4000)]
    assert writer.take() == pytest.approx(4000 * math.log(4)) and writer.nats == 0
    assert {letter: pytest.approx(1000, abs=120) for letter in "abcd"} == Counter(chosen)
    yes = sum(writer.chance(0.2) for _ in range(2000))
    assert writer.take() == pytest.approx(-yes * math.log(0.2) - (2000 - yes) * math.log(0.8))
    first = sum(writer.pick("xy", 1.0) == "x" for _ in range(2000))
    expected = -first * math.log(2 / 3) - (2000 - first) * math.log(1 / 3)
    assert writer.take() == pytest.approx(expected)


def test_no_word_has_two_parts_to_play():
    """So that a text can be made by one series of choices only, and its surprise is their sum."""
    fields = [noun for nouns in language.FIELDS.values() for noun in nouns.split()]
    general, verbs = language.GENERAL, language.VERBS
    nouns = set(fields) | set(general)
    every = nouns | {language._plural(noun) for noun in nouns}
    forms = set(verbs) | {f"{verb}s" for verb in verbs}
    assert not set(fields) & set(general)
    assert not every & set(language.ADJECTIVES) and not every & forms and not every & set(language.ADVERBS)
    assert not forms & set(language.ADVERBS) and not set(language.MEN) & set(language.WOMEN)
    for listed in language.FIELDS.values():
        known = listed.split() + general
        plurals = [language._plural(noun) for noun in known]
        assert len({*known, *plurals}) == 2 * len(known)
    for names in (language.FAMILIES, language.PLACES, language.YEARS, language.PRIZES, language.ADJECTIVES, verbs):
        assert len(set(names)) == len(names)


def test_facts_come_back_and_say_what_the_lead_says(articles):
    returned, matches = 0, Counter()
    for text in articles[:40]:
        lead = text.text.split("\n")[2]
        facts = re.search(r"born in (\d+) in (\w+) \. \w+ teacher was (\w+ \w+) , and \w+ rival was (\w+ \w+) \.", lead)
        year, place, teacher, _ = facts.groups()
        rest = text.text.split("\n", 3)[3]
        for pattern, fact in (
            (r"never forgot (\w+) \.", place),
            (r"As a child of (\d+) ", year),
            (r"lessons of (\w+ \w+) s", teacher),
        ):
            for found in re.finditer(pattern, rest):
                assert found.group(1) == fact
                matches[pattern] += 1
                returned += len(rest[: found.start()].split()) > 64
    assert returned > 60 and len(matches) == 3  # each of the patterns was found


def test_agreement_reaches_over_a_noun(articles):
    text = "\n".join(text.text for text in articles)
    singular = set(re.findall(r"Every (?:\w+ )?(\w+) (?:\w+ly )?\w+s the", text))
    assert len(singular) > 50
    assert "specieses" not in text and "leafs" not in text and " a engineer" not in text and "an engineer" in text


def test_recall_asks_beyond_the_fillers_and_answers_with_the_value():
    texts = make_recall(documents=20, pairs=3, fillers=50, values=8)
    for text in texts:
        pairs = dict(re.findall(r"(key\d+) is (value\d+) \.", text.text))
        asked = re.findall(r"(key\d+) \? (value\d+)", text.text)
        assert dict(asked) == pairs and len(asked) == 3
        assert len(text.text.split("\n")[1].split()) == 50
        keys = sum(math.log(16 - i) for i in range(3)) + 3 * math.log(8)
        assert text.nats == pytest.approx(keys + 50 * math.log(4) + math.log(6))


def test_words_without_structure_are_as_surprising_as_their_number():
    texts = make_random(2000, vocabulary=50)
    assert sum(text.nats for text in texts) == pytest.approx(2000 * math.log(50))
    counts = Counter(word for text in texts for word in text.text.split())
    assert len(counts) == 50 and sum(counts.values()) == 2000
