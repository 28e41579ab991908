from collections import Counter, defaultdict

import numpy as np
import pytest

from datamodules.papers_records import normal_title
from datamodules.synthetic.papers import CLASS_NAMES, TERMS, SyntheticPapers, make_papers
from datamodules.text_baselines import fit_tfidf


@pytest.fixture(scope="module")
def data():
    return make_papers()


def primary(data):
    return [text.split()[0] for text in data.categories]


def test_sizes_classes_and_the_rare_class(data):
    assert isinstance(data, SyntheticPapers)
    assert len(data.ids) == len(set(data.ids)) == 1200 and data.published == sorted(data.published)
    shares = Counter(primary(data))
    assert sorted(shares) == CLASS_NAMES and 0.04 < shares["cs.AI"] / 1200 < 0.06
    words = [len(text.split()) for text in data.abstracts]
    assert min(words) > 40 and max(words) < 200 and all(data.titles)
    crossed = [len(set(text.split()) & set(CLASS_NAMES)) > 1 for text in data.categories]
    assert 0.4 < np.mean(crossed) < 0.8


def test_copies_share_a_normalised_title_and_little_else(data):
    of = dict(zip(data.ids, range(1200), strict=True))
    copies = [i for i, origin in enumerate(data.copies_of) if origin]
    assert len(copies) == 72  # 4 % copies and 2 % conflicts
    for row in copies:
        first = of[data.copies_of[row]]
        assert normal_title(data.titles[row]) == normal_title(data.titles[first])
        assert data.abstracts[row] != data.abstracts[first]
    titles = defaultdict(set)
    for row, title in enumerate(data.titles):
        titles[normal_title(title)].add(data.copies_of[row] or data.ids[row])
    assert all(len(papers) == 1 for papers in titles.values()), "different papers have different titles"
    assert sum(data.titles[row] != data.titles[of[data.copies_of[row]]] for row in copies) > 50


def test_conflicts_are_labels_that_are_not_the_primary_category(data):
    wrong = [i for i in range(1200) if data.labels[i] != primary(data)[i]]
    assert len(wrong) == 24 and all(data.labels[i] in data.categories[i].split() for i in wrong)


def test_the_same_arguments_give_the_same_papers_and_every_knob_acts():
    small = make_papers(samples=100)
    assert make_papers(samples=100) == small
    changes = ({"seed": 1}, {"overlap": 0.2}, {"duplicates": 0.2}, {"conflicts": 0.1}, {"samples": 101})
    for change in changes:
        assert make_papers(**{"samples": 100, **change}) != small, change


def accuracy(data):
    texts = [f"{a} {b}" for a, b in zip(data.titles, data.abstracts, strict=True)]
    y = np.array([CLASS_NAMES.index(name) for name in primary(data)])
    half = len(y) // 2
    return (fit_tfidf(texts[:half], y[:half], 4)(texts[half:]).argmax(1) == y[half:]).mean()


def test_overlap_decides_how_hard_it_is():
    easy, usual, hard = (accuracy(make_papers(400, overlap=share, duplicates=0)) for share in (0.2, 0.65, 0.9))
    assert easy > 0.95 > usual > 0.7 > hard


def test_the_aim_is_of_the_class_and_the_means_are_not(data):
    """With an overlap of 1 a reader of the order of words knows what a count of words can hardly tell."""
    made = make_papers(400, overlap=1.0, duplicates=0, conflicts=0)
    owner = {term: name for name, terms in TERMS.items() for term in terms}
    right = []
    for text, label in zip(made.abstracts, made.labels, strict=True):
        for sentence in text.split(". "):
            if "aim" in sentence and "means" in sentence:
                places = {term: sentence.lower().find(term) for term in owner if term in sentence.lower()}
                first = sentence.lower().startswith(("our aim", "with"))
                order = sorted(places, key=places.get)
                right.append(owner[order[0] if first else order[-1]] == label)
    assert len(right) > 500 and np.mean(right) > 0.95


@pytest.mark.parametrize(
    "change",
    [{"samples": 39}, {"overlap": 1.1}, {"duplicates": -0.1}, {"conflicts": 2}, {"duplicates": 0.4, "conflicts": 0.2}],
)
def test_settings_that_mean_nothing_are_refused(change):
    with pytest.raises(ValueError, match="synthetic_"):
        make_papers(**change)
