"""Easy samples first: the share of each class grows to all of it, and an epoch keeps its number of batches."""

import numpy as np
import pandas as pd
import pytest

from datamodules.curriculum import Curriculum, class_ranks, entropies, length_and_terms, technical_terms
from datamodules.errors import DataError
from datamodules.samplers import BatchSampler, plan_batches
from datamodules.signs import SignsData
from datamodules.splits import make_split


def test_the_share_reaches_one_at_the_end_epoch_and_stays():
    found = [Curriculum(start=0.5, end_epoch=4).share(epoch) for epoch in range(7)]
    assert found == [0.5, 0.625, 0.75, 0.875, 1.0, 1.0, 1.0]
    assert Curriculum(start=1 / 3, end_epoch=7).share(7) == 1.0  # no rounding keeps the hardest sample out


def test_ranks_are_counted_in_each_class():
    scores, y = np.array([5.0, 1, 9, 100, 300, 200, 400]), np.array([0, 0, 0, 1, 1, 1, 1])
    ranks = class_ranks(scores, y)
    assert ranks[:3].tolist() == pytest.approx([1 / 3, 0, 2 / 3])
    assert ranks[3:].tolist() == [0, 0.5, 0.25, 0.75]
    assert (ranks < 0.5).tolist() == [True, True, False, True, False, True, False]  # half of each, though 1 is longer
    assert np.bincount(y[ranks < 0.01]).tolist() == [1, 1]
    with pytest.raises(DataError, match="1 training samples have no difficulty"):
        class_ranks(np.array([1, np.nan]), np.array([0, 0]))


def drawn(epoch, n=103, **more):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, size=n)
    curriculum, ranks = Curriculum(start=0.4, end_epoch=3), class_ranks(rng.random(n), y)
    sampler = BatchSampler(np.arange(n) + 50, 10, shuffle=True, curriculum=curriculum, ranks=ranks, **more)
    sampler.set_epoch(epoch)
    batches = [batch.indices[: batch.real] for batch in sampler]
    assert [len(batch) for batch in batches] == [10] * 10 + [3] and len(sampler) == 11
    return np.concatenate(batches) - 50, ranks, y


@pytest.mark.parametrize("epoch", range(5))
@pytest.mark.parametrize("bucket", [False, True])
def test_an_epoch_draws_the_easy_share_evenly_and_keeps_its_number_of_batches(epoch, bucket):
    rows, ranks, y = drawn(epoch, lengths=np.arange(103) if bucket else None)
    easy = np.flatnonzero(ranks < Curriculum(start=0.4, end_epoch=3).share(epoch))
    assert set(rows) == set(easy)  # a whole permutation comes before the next
    counts = np.bincount(rows, minlength=103)[easy]
    assert counts.max() - counts.min() <= 1
    assert set(y[rows]) == {0, 1, 2}
    if epoch >= 3:
        assert sorted(rows) == list(range(103))


def test_balanced_draws_stay_among_the_easy_ones():
    easy = np.arange(100) < 30
    rows = np.concatenate(plan_batches(np.arange(100), batch_size=10, weights=np.ones(100), shuffle=True, easy=easy))
    assert rows.max() < 30 and len(rows) == 100


def test_no_curriculum_changes_no_order():
    masks = (None, np.ones(40))
    plain, all_easy = (plan_batches(np.arange(40), batch_size=8, shuffle=True, easy=easy) for easy in masks)
    assert [batch.tolist() for batch in plain] == [batch.tolist() for batch in all_easy]


def test_technical_terms_come_from_train_alone():
    texts = ["the cat saw the cat", "the dog saw bayes", "the dog ran bayes", "the quark the", "the quark", "the the"]
    assert technical_terms(texts) == {"saw", "dog", "bayes", "quark"}  # "the" is everywhere, "cat" is in one text
    found = length_and_terms(texts, np.array([0, 1, 2]))
    words, terms = [5, 4, 4, 3, 2, 2], [1, 3, 2, 0, 0, 0]
    assert found.tolist() == pytest.approx([0.5 * w / 500 + 0.5 * t / 20 for w, t in zip(words, terms, strict=True)])


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_entropies_are_found_by_id_and_inherited(kind, tmp_path):
    path, prob = str(tmp_path / f"p.{kind}"), np.array([[0.5, 0.5], [1, 0]])
    if kind == "npz":
        np.savez(path, id=np.array(["0042", "b"]), class_names=np.array(["x", "y"]), prob=prob)
    else:
        pd.DataFrame({"id": ["0042", "b"], "p(x)": prob[:, 0], "p(y)": prob[:, 1]}).to_csv(path, index=False)
    found = entropies(path, ["b", "new", "0042", "copy"], ["", "", "", "0042"])
    np.testing.assert_allclose(found, [0, np.nan, np.log(2), np.log(2)], atol=1e-9)


@pytest.mark.parametrize("content", [None, b"", b"id,other\na,1\n"])
@pytest.mark.parametrize("name", ["p.npz", "p.csv"])
def test_unreadable_predictions_are_named(name, content, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"p\.(npz|csv): not a predictions file"):
        entropies(str(tmp_path / name), ["a"])


def split_signs(**options):
    data = SignsData(synthetic_samples=240, minirocket=False, **options)
    data.setup("fit")
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    data.apply_split(make_split(data.records, fractions=fractions, seed=0))
    return data


def ids_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [i for batch in loader for i in batch["id"].tolist()]


def test_a_datamodule_trains_on_its_short_samples_first():
    data, plain = split_signs(curriculum=Curriculum(start=0.3, end_epoch=2)), split_signs()
    loader = data.train_dataloader()
    first, last = ids_of(loader, 0), ids_of(loader, 2)
    assert len(first) == len(last) and len(set(first)) < 0.6 * len(set(last))
    assert data.lengths()[first].mean() < data.lengths()[last].mean()
    assert last == ids_of(plain.train_dataloader(), 2)
    assert ids_of(data.val_dataloader(), 0) == ids_of(plain.val_dataloader(), 0)  # judging has no curriculum


def test_entropy_of_an_earlier_run_as_difficulty(tmp_path):
    data = split_signs()
    rows = data.indices("train")
    certain = np.linspace(0.4, 1, len(rows))
    prob = np.stack([certain, 1 - certain], axis=1)
    ids, names = data.records["id"].to_numpy(str)[rows], np.array(["x", "y"])
    np.savez(tmp_path / "p.npz", id=ids, class_names=names, prob=prob)
    hard_last = split_signs(curriculum=Curriculum("entropy", 0.2, 3, str(tmp_path / "p.npz")))
    chosen = ids_of(hard_last.train_dataloader(), 0)
    assert np.mean(np.searchsorted(rows, chosen)) > 0.6 * len(rows)  # the certain ones
    np.savez(tmp_path / "p.npz", id=ids[1:], class_names=names, prob=prob[1:])
    with pytest.raises(DataError, match="1 training samples have no difficulty"):
        hard_last.train_dataloader()


def test_a_datamodule_without_texts_says_so():
    with pytest.raises(DataError, match="SignsData cannot say how hard a sample is by length_and_terms"):
        split_signs(curriculum=Curriculum("length_and_terms")).train_dataloader()


@pytest.mark.parametrize(
    "wrong", [{"start": 0.0}, {"start": 1.1}, {"end_epoch": 0}, {"difficulty": "luck"}, {"difficulty": "entropy"},
              {"predictions": "p.npz"}]
)  # fmt: skip
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Curriculum(**wrong)
