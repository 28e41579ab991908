from collections import Counter

import numpy as np
import pytest

from datamodules.text_augmentation import (
    EDA,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
)

TEXT = "We propose a novel method. Experiments show large gains on various problems, using new data of the field."
ALL = [SynonymReplacement, RandomSwap, RandomDeletion, RandomInsertion, EDA]


def many(augmentation, count=200):
    return [augmentation(TEXT, np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("kind", ALL)
def test_the_same_generator_gives_the_same_text_and_both_knobs_act(kind):
    assert many(kind(1.0, 0.3), 20) == many(kind(1.0, 0.3), 20)
    assert len(set(many(kind(1.0, 0.3)))) > 10
    assert many(kind(0.0)) == [TEXT] * 200
    changed = np.mean([text != TEXT for text in many(kind(0.3))])
    assert 0.15 < changed < 0.45, "about three in ten"
    for wrong in ({"p": 1.5}, {"alpha": -0.1}):
        with pytest.raises(ValueError, match="must lie between"):
            kind(**wrong)
    assert kind(1.0)("", np.random.default_rng(0)) == "" and kind(1.0)("word", np.random.default_rng(0))


def distance(one, two):
    a, b = Counter(one.split()), Counter(two.split())
    return sum(((a - b) + (b - a)).values())


def test_each_operation_does_what_its_name_says():
    words = TEXT.split()
    for text in many(RandomSwap(1.0, 0.2)):
        assert sorted(text.split()) == sorted(words)
    for text in many(RandomDeletion(1.0, 0.2)):
        assert len(text.split()) == len(words) - round(0.2 * len(words))
    for text in many(RandomInsertion(1.0, 0.2)):
        assert len(text.split()) == len(words) + round(0.2 * len(words))
    for text in many(SynonymReplacement(1.0, 0.1)):
        assert len(text.split()) == len(words) and 1 <= distance(text, TEXT) / 2 <= round(0.1 * len(words))
    assert any("method." not in text and "approach." in text for text in many(SynonymReplacement(1.0, 1.0)))
    assert RandomDeletion(1.0, 1.0)("one two three", np.random.default_rng(0)).split(), "one word always stays"


def test_strength_is_a_share_of_the_words():
    weak, strong = (np.mean([distance(t, TEXT) for t in many(SynonymReplacement(1.0, a))]) for a in (0.05, 0.5))
    assert strong > 3 * weak


def test_eda_draws_one_of_the_four():
    lengths = Counter(len(text.split()) - len(TEXT.split()) for text in many(EDA(1.0, 0.2)))
    assert set(lengths) == {-4, 0, 4} and lengths[0] > lengths[4] > 20
