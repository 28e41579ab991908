"""The synthetic flora: same bytes, a long tail, planted copies, and species that can be told apart."""

import numpy as np
import pytest

from datamodules.plants_baselines import fit_logistic, fit_nearest
from datamodules.synthetic.plants import COPIES, FAMILIES, SPECIES_PER_GENUS, long_tail, make_plants


@pytest.fixture(scope="module")
def made():
    return make_plants(600, 12, 40)


def test_the_same_arguments_give_the_same_bytes(made):
    again = make_plants(600, 12, 40)
    assert np.array_equal(made.pixels, again.pixels) and made.records.equals(again.records)
    assert not np.array_equal(make_plants(600, 12, 40, seed=1).pixels, made.pixels)


def test_the_tail_is_long():
    counts = long_tail(2332, 60)
    assert counts.sum() == 2332 and (np.diff(counts) <= 0).all()
    assert counts[0] >= 100 * counts[-1] and (counts <= 2).sum() >= 2


def test_every_record_has_a_genus_a_family_a_region_and_a_licence(made):
    records = made.records
    assert len(records) == 600 and records["id"].is_unique and records["label"].nunique() == 12
    assert (records["label"].str.split().str[0] == records["genus"]).all()
    assert records.groupby("label")["family"].nunique().max() == 1
    assert records.groupby("genus")["label"].nunique().tolist() == [SPECIES_PER_GENUS] * 4
    assert set(records["family"]) <= set(FAMILIES)
    assert records["region"].nunique() == 6 and {"CC-BY", "CC-BY-NC", ""} <= set(records["license"])


def test_many_species_have_names_of_their_own():
    records = make_plants(800, 150, 16).records
    assert records["label"].nunique() == 150 and records["genus"].nunique() == 50


def test_copies_are_where_they_are_said_to_be(made):
    records = made.records.set_index("id")
    for kind, share in COPIES.items():
        copies = records[records["image_source"] == kind]
        assert len(copies) == int(600 * share)
        originals = records.loc[copies["copy_of"]]
        exact = copies["hash"].to_numpy() == originals["hash"].to_numpy()
        same_label = copies["label"].to_numpy() == originals["label"].to_numpy()
        gap = abs(made.pixels[copies["row"]].astype(int) - made.pixels[originals["row"]]).mean()
        assert exact.all() == (kind != "near") and same_label.all() == (kind != "conflict")
        assert gap == 0 or (kind == "near" and gap < 12)


def test_simple_models_learn_something_but_not_all(made):
    y = np.unique(made.records["label"], return_inverse=True)[1]
    train = np.arange(600) % 3 > 0
    largest = np.bincount(y[~train]).max() / (~train).sum()
    for fit, gain in ((fit_nearest, 0.05), (fit_logistic, 0.15)):
        prob = fit(made.pixels[train], y[train], 12)(made.pixels[~train])
        assert prob.shape == (200, 12) and np.allclose(prob.sum(1), 1)
        accuracy = (prob.argmax(1) == y[~train]).mean()
        assert largest + gain < accuracy < 0.97


def test_the_nearest_neighbour_is_the_nearest(made):
    y = np.unique(made.records["label"], return_inverse=True)[1]
    prob = fit_nearest(made.pixels[:300], y[:300], 12)(made.pixels[:50])
    assert (prob.argmax(1) == y[:50]).mean() > 0.97  # itself, but for planted conflicts


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="5 pictures each"):
        make_plants(50, 12)
