"""What a report of plants looks at closely, on a fitted run: each table recomputed from the stored predictions."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from callbacks.report_files import Predictions, read_json
from tests.running import code, data_of, fitted_run


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A copy of the fitted run with its test part opened; the folder, and the records by id."""
    from datamodules.synthetic.plants import make_plants

    fitted = fitted_run(tmp_path_factory, "plants")
    base = tmp_path_factory.mktemp("judged")
    folder = base / "runs" / "plants" / "seen"
    shutil.copytree(fitted, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        words = ["test", "--name", "seen", "--ckpt_path", "best", "--report.bootstrap", "20"]
        assert code([*words, *data_of(fitted)], system="plants") == 0
    return folder, make_plants(240, 8, 37).records.set_index("id")


def test_head_and_tail_and_regions_are_judged_apart(judged):
    folder, records = judged
    found = Predictions.load(folder / "test" / "predictions_test.npz")
    split = pd.read_csv(folder / "split.csv", dtype=str)
    train = split.loc[split["part"] == "train", "label"].value_counts()
    table = pd.read_csv(folder / "test" / "breakdown.csv")
    right, top = found.prob.argmax(1) == found.y, np.argsort(-found.prob, axis=1, kind="stable")[:, :5]
    own = np.array([train.get(found.class_names[y], 0) for y in found.y])
    rare = table[table["facet"] == "training pictures of the species"].set_index("kind")
    kinds = {"head: more than 20": own > 20, "medium: 5 to 20": (own >= 5) & (own <= 20), "tail: fewer than 5": own < 5}
    for kind, rows in kinds.items():
        assert (kind in rare.index) == rows.any()
        if rows.any():
            assert rare.loc[kind, "n"] == rows.sum()
            assert rare.loc[kind, "accuracy"] == pytest.approx(right[rows].mean())
            in_top = (top[rows] == found.y[rows, None]).any(1).mean()
            assert rare.loc[kind, "top5"] == pytest.approx(in_top)
            each = [right[rows & (found.y == y)].mean() for y in set(found.y[rows])]
            assert rare.loc[kind, "macro_recall"] == pytest.approx(np.mean(each))
    region = records.loc[found.id, "region"].to_numpy()
    by_region = table[table["facet"] == "region"].set_index("kind")
    assert set(by_region.index) == set(region) and by_region["n"].sum() == len(found.y)
    for name in set(region):
        assert by_region.loc[name, "accuracy"] == pytest.approx(right[region == name].mean())
        assert by_region.loc[name, "low"] <= by_region.loc[name, "accuracy"] <= by_region.loc[name, "high"]


def test_genera_and_families_are_those_of_the_records(judged):
    folder, records = judged
    found = Predictions.load(folder / "test" / "predictions_test.npz")
    genus = [records.loc[records["label"] == name, "genus"].iat[0] for name in found.class_names]
    known = pd.read_csv(folder / "classes.csv")
    assert known["class"].tolist() == found.class_names.tolist() and known["genus"].tolist() == genus
    names = sorted(set(genus))
    summed = np.stack([found.prob[:, [g == name for g in genus]].sum(1) for name in names], axis=1)
    truth = np.array([names.index(genus[y]) for y in found.y])
    levels = pd.read_csv(folder / "test" / "levels.csv").set_index("level")
    assert list(levels.index) == ["class", "genus", "family"]
    assert levels.loc["genus", "accuracy"] == pytest.approx((summed.argmax(1) == truth).mean())
    assert levels["accuracy"].is_monotonic_increasing
    needs = pd.read_csv(folder / "test" / "needs_genus.csv").set_index("name")
    right = found.prob.argmax(1) == found.y
    for i, name in enumerate(names):
        if (truth == i).any():
            assert needs.loc[name, "recall"] == pytest.approx(right[truth == i].mean())
    assert needs["train"].sum() == known["train"].sum()


def test_the_page_shows_it_with_pictures(judged):
    folder, _ = judged
    page = (folder / "REPORT.md").read_text(encoding="utf-8")
    for words in ("## A closer look", "training pictures of the species", "Needs data first, by family",
                  "![examples](test/examples.png)", "![errors](test/errors.png)"):  # fmt: skip
        assert words in page
    for name in ("examples", "errors"):
        with Image.open(folder / "test" / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 500


def test_temperature_abstention_and_back_off_come_from_the_calibration_part(judged):
    folder, _ = judged
    assert code(["decide", str(folder), "--rules", "a", "--answers", "0.6", "--bootstrap", "10"], config=False) == 0
    facts = read_json(folder / "decide" / "decisions.json")
    assert facts["calibrated_on"] == "calib" and facts["fitted"]["run"]["temperature"]["samples"] > 0
    assert set(facts["back_off"]["run"]["levels"]) == {"class", "genus", "family"}
