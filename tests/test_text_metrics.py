"""Metrics of generated text, on strings whose values are known by hand or from the literature."""

import math

import pytest
from torchmetrics.functional.text import bleu_score

from modules import text_metrics as metrics


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, 1 - 3 / 6),  # a b a b a c: a, b, c
        (2, 1 - 3 / 5),  # ab ba ab ba ac: ab, ba, ac
        (3, 1 - 3 / 4),  # aba bab aba bac: aba, bab, bac
        (4, 1 - 3 / 3),  # abab baba abac
    ],
)
def test_repetition_counts_runs_of_tokens_that_occurred_before(n, expected):
    assert metrics.repetition([list("ababac")], n) == pytest.approx(expected)


def test_repetition_is_of_tokens_and_not_of_characters():
    assert metrics.repetition([["aaaa", "bbbb"]], 1) == 0


def test_repetition_weighs_texts_by_their_runs_and_not_across_them():
    assert metrics.repetition([["a"] * 9, ["a"]], 1) == pytest.approx(8 / 10)
    assert metrics.repetition([["a", "b"], ["a", "b"]], 2) == 0
    assert math.isnan(metrics.repetition([["a", "b"]], 3))


def test_distinct_counts_over_all_texts():
    texts = [list("abab"), list("abcd")]
    assert metrics.distinct(texts, 1) == pytest.approx(4 / 8)
    assert metrics.distinct(texts, 2) == pytest.approx(4 / 6)  # ab ba | ab bc cd
    assert metrics.distinct([["a", "b"], ["a", "b"]], 2) == pytest.approx(1 / 2)


def test_unique_tokens_among_100_leaves_out_what_is_shorter():
    assert metrics.unique_per_100([[1, 2] * 50 + list(range(100)) + [1] * 99]) == pytest.approx((2 + 100) / 2)
    assert math.isnan(metrics.unique_per_100([[1] * 99]))


def test_types_vocabulary_and_unknown():
    assert metrics.type_token_ratio([[1, 1], [1, 2, 3]]) == pytest.approx((1 / 2 + 1) / 2)
    assert metrics.vocabulary_use([[1, 1], [1, 2, 3]], 10) == pytest.approx(0.3)
    assert metrics.share_of([[0, 1], [1, 0, 0]], 0) == pytest.approx(3 / 5)


def test_bleu_of_the_literature():
    """Papineni et al. 2002: seven times "the" has a clipped precision of 2/7."""
    references = [["The cat is on the mat".lower(), "There is a cat on the mat".lower()]]
    assert metrics.bleu(["the " * 7], references, 1) == pytest.approx(2 / 7)


def test_bleu_by_hand():
    """a b c d against a b c e: precisions 3/4, (2 + 1)/(3 + 1), (1 + 1)/(2 + 1), (0 + 1)/(1 + 1)."""
    precisions = [3 / 4, 3 / 4, 2 / 3, 1 / 2]
    for n in range(1, 5):
        expected = math.prod(precisions[:n]) ** (1 / n)
        assert metrics.bleu(["a b c d"], [["a b c e"]], n) == pytest.approx(expected)


def test_bleu_is_of_the_corpus_and_punishes_what_is_short():
    assert metrics.bleu(["a b c d", "x"], [["a b c d"], ["y"]], 1) == pytest.approx(4 / 5)  # the mean would be 1/2
    assert metrics.bleu(["a b"], [["a b c d"]], 1) == pytest.approx(math.exp(1 - 4 / 2))
    assert metrics.bleu(["a b c d e"], [["a b c d e"]], 4) == pytest.approx(1)


def test_bleu_without_smoothing_is_that_of_torchmetrics():
    made = ["the cat is on the mat", "a king of the north lived there and ruled for years"]
    true = [["there is a cat on the mat", "a cat is on the mat"], ["a king of the north lived here and ruled the land"]]
    for n in range(1, 5):
        expected = float(bleu_score(made, true, n_gram=n))
        assert metrics.bleu(made, true, n, smooth=False) == pytest.approx(expected, abs=1e-6)
    # the value that the library's documentation publishes for this pair
    assert metrics.bleu(made[:1], true[:1], 4, smooth=False) == pytest.approx(0.7598, abs=1e-4)


def test_self_bleu_is_high_where_texts_are_alike():
    alike = metrics.self_bleu(["the king lived in the north of the land"] * 3)
    other = metrics.self_bleu(["the king lived in the north", "a ship sank near two rocks", "birds fly over my house"])
    assert alike == pytest.approx(1)
    assert other < 0.2
    assert math.isnan(metrics.self_bleu(["alone"]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("In 1985, he won 1,250.5 points.", ["In", "1985", ",", "he", "won", "1,250.5", "points", "."]),
        ("3 @,@ 000 men , 2 @.@ 5 m", ["3,000", "men", ",", "2.5", "m"]),
        ("state @-@ of @-@ the @-@ art twenty-first don't", ["state-of-the-art", "twenty-first", "don't"]),
        ("the <unk> said \" no \"", ["the", "<unk>", "said", '"', "no", '"']),
    ],
)
def test_words(text, words):
    assert metrics.words_of(text) == words


def test_surface_rates():
    text = "In 1985 , Ann Lee won 12 @,@ 500 well @-@ known games . Was it 2150 ?"  # 11 words
    assert metrics.surface([text]) == pytest.approx(
        {
            "final_stops": 2 / 11,
            "commas": 1 / 11,
            "capitals": 4 / 11,
            "digits": 3 / 11,
            "years": 1 / 11,
            "hyphenated": 1 / 11,
        }
    )
    assert metrics.surface([text[: len(text) // 2], text[len(text) // 2 :]]) != metrics.surface([text])
    assert all(math.isnan(value) for value in metrics.surface([" . "]).values())


def test_all_metrics_stand_beside_those_of_true_text():
    made, true = ["a b a b", "c d ."], ["a b c d .", "e f g h ."]
    ids, true_ids = [[1, 2, 1, 2], [3, 4, 5]], [[1, 2, 3, 4, 5], [6, 7, 8, 9, 5]]
    found = metrics.generation_metrics(made, ids, true, true_ids, vocabulary=20, unknown=5)
    assert found["repetition_1"] == pytest.approx(2 / 7)
    assert found["true_repetition_1"] == 0
    assert found["vocabulary_use"] == pytest.approx(5 / 20)
    assert found["true_unknown_share"] == pytest.approx(2 / 10)
    assert found["bleu_1"] == pytest.approx(metrics.bleu(made, [[text] for text in true], 1))
    assert {name for name in found if not name.startswith(("true_", "bleu"))} == {
        name.removeprefix("true_") for name in found if name.startswith("true_")
    }
