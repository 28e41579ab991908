"""`PlantsData`: from files to batches, and what is said about pictures that cannot be used."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.errors import DataError
from datamodules.plants import PlantsData
from datamodules.plants_augmentation import Augment, augment, centre, uniforms
from datamodules.samplers import IndexBatch
from datamodules.splits import make_split
from tests.fake_data.plants import picture, write_plants

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def data_of(path=None, **more) -> PlantsData:
    data = PlantsData(**{"path": str(path) if path else None, "image_size": 16, "near_distance": 0} | more)
    data.setup("fit")
    return data


def split(data: PlantsData) -> PlantsData:
    data.apply_split(make_split(data.records, fractions=FRACTIONS, seed=0))
    return data


def batch_of(data: PlantsData, rows, train=True, epoch=0):
    rows = [int(row) for row in rows]
    return data.dataset(np.array(rows), train).__getitems__(IndexBatch(rows, len(rows), 1 / len(rows), epoch, 0))


def kinds(data: PlantsData) -> dict[str, int]:
    return {found.kind: found.count for found in data.findings()}


def test_batches_hold_pixels_and_the_judging_side_the_central_part(tmp_path):
    data = split(data_of(write_plants(tmp_path)))
    batch = batch_of(data, data.indices("val"), train=False)
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape[1:] == (3, 16, 16)
    stored = torch.from_numpy(data.pixels[data.records["row"].to_numpy()[data.indices("val")]])
    assert stored.shape[-1] == 18 and torch.equal(batch["image"], centre(stored, 16))
    assert torch.equal(data.on_after_batch_transfer(batch, 0)["image"], batch["image"])
    assert [data.class_names[y] for y in batch["y"]] == data.records["label"].iloc[batch["id"].tolist()].tolist()


def test_training_batches_are_augmented_after_the_transfer_keyed_by_picture_and_epoch(tmp_path):
    data = split(data_of(write_plants(tmp_path), augment=Augment(degrees=30.0)))
    rows = data.indices("train")[:6]
    first = data.on_after_batch_transfer(batch_of(data, rows), 0)
    assert set(first) == {"image", "y", "id", "weight"} and first["image"].shape == (6, 3, 16, 16)
    again = data.on_after_batch_transfer(batch_of(data, rows[::-1]), 0)
    assert torch.allclose(first["image"], again["image"].flip(0), atol=1e-3)
    later = data.on_after_batch_transfer(batch_of(data, rows, epoch=1), 0)
    assert not torch.allclose(first["image"], later["image"])
    stored = torch.from_numpy(data.pixels[data.records["row"].to_numpy()[rows]])
    u = torch.from_numpy(uniforms(0, 0, rows, data.augment.draws))
    assert torch.equal(first["image"], augment(stored, u, data.augment, 16))


def test_a_second_run_reads_no_picture(tmp_path, monkeypatch):
    path = write_plants(tmp_path)
    first = data_of(path)
    monkeypatch.setattr("datamodules.plants_decoded.decode", lambda *_: pytest.fail("decoded again"))
    second = data_of(path)
    assert np.array_equal(first.pixels, second.pixels) and first.records.equals(second.records)


def test_pictures_that_cannot_be_used_are_counted_and_named_or_refused(tmp_path):
    path = write_plants(tmp_path)
    images = tmp_path / "images"
    (images / "000.jpg").write_bytes(b"")
    (images / "001.jpg").write_bytes((images / "001.jpg").read_bytes()[:200])
    picture(1, 3, 3).save(images / "002.jpg")
    (images / "003.jpg").unlink()
    data = data_of(path)
    assert len(data.records) == 20 and kinds(data)["unusable_picture"] == 4
    lines = next(found for found in data.findings() if found.kind == "unusable_picture").examples
    assert lines[0] == "plants.jsonl, line 1: images/000.jpg: the file is empty"
    assert "cut short" in lines[1] and "3 x 3 pixels" in lines[2] and "does not exist" in lines[3]
    assert data.pixels[data.records["row"]].max(axis=(1, 2, 3)).min() > 0  # no black picture anywhere
    with pytest.raises(DataError, match=r"4 of 24 pictures cannot be used, such as plants.jsonl, line 1"):
        data_of(path, bad_pictures="refuse")
    shutil.rmtree(images)
    with pytest.raises(DataError, match="24 of 24 pictures cannot be used"):
        data_of(path)


def test_one_class_map_over_files_that_count_differently(tmp_path):
    for part, shift in (("train", 0), ("val", 3)):
        path = write_plants(tmp_path, name=f"{part}.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [line | {"class_idx": shift + i % 4} for i, line in enumerate(lines)]
        path.write_text("\n".join(json.dumps(line | {"path": f"images/{i:03d}.jpg"}) for i, line in enumerate(lines)))
    val = [json.loads(line) for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    for i, line in enumerate(val):  # other pictures of the same species
        picture(100 + i).save(tmp_path / "images" / f"{100 + i}.jpg")
        line["path"] = f"images/{100 + i}.jpg"
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, val)))
    data = data_of(tmp_path / "train.jsonl", val_path=str(tmp_path / "val.jsonl"))
    data.apply_split(make_split(data.records, fractions={"train": 0.8, "val": 0.2}, seed=0))
    assert data.num_classes == 4 and set(data.records["given"]) == {"train", "val"}
    for part in ("train", "val"):
        rows = data.indices(part)
        assert [data.class_names[y] for y in data.y[rows]] == data.records["label"].to_numpy()[rows].tolist()


def test_a_class_that_only_validation_has_is_refused_with_its_name(tmp_path):
    path = write_plants(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["split"] = "val" if line["latin_name"] == "Genus0 species1" else "train"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="'Genus0 species1' is given for val only"):
        split(data_of(path))


def test_small_classes_are_left_out_and_counted():
    data = data_of(synthetic_samples=240, synthetic_species=8, min_images_per_class=5)
    left = data_of(synthetic_samples=240, synthetic_species=8)
    small = left.records.groupby("label")["hash"].nunique()
    assert kinds(data)["small_classes_left_out"] == (small < 5).sum() > 0
    assert sorted(set(data.records["label"])) == sorted(small.index[small >= 5])


def test_a_record_twice_is_one_and_copies_of_a_picture_are_one_group(tmp_path):
    path = write_plants(tmp_path)
    lines = path.read_text().splitlines()
    copied = json.loads(lines[0]) | {"path": "images/copy.jpg"}
    shutil.copy(tmp_path / "images/000.jpg", tmp_path / "images/copy.jpg")
    path.write_text("\n".join([*lines, lines[3], json.dumps(copied)]))
    data = data_of(path)
    assert len(data.records) == 25 and kinds(data)["repeated_record"] == 1
    groups = data.records.set_index("id")["group"]
    assert groups["images/copy.jpg"] == groups["images/000.jpg"] and groups.nunique() == 24


def test_pictures_to_predict_need_no_class(tmp_path):
    data = PlantsData(predict_path=str(write_plants(tmp_path, latin_name=None)), image_size=16)
    data.setup("predict")
    assert len(data.records) == 24 and set(data.records["label"]) == {""}
    with pytest.raises(DataError, match="predict_path"):
        PlantsData().setup("predict")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"path": "a", "hub": "b"}, "exclude each other"),
        ({"val_path": "a"}, "need path"),
        ({"crop": 1.5}, "crop in"),
        ({"interpolation": "lanczos"}, "known interpolation"),
    ],
)
def test_arguments_that_contradict_each_other(wrong, message):
    with pytest.raises(ValueError, match=message):
        PlantsData(**wrong)


@pytest.mark.parametrize(
    "knob", [{"framing": "pad"}, {"framing": "smart"}, {"crop": 1.0}, {"interpolation": "nearest"}]
)
def test_each_way_to_make_pixels_changes_them(tmp_path, knob):
    path = write_plants(tmp_path)
    plain, other = (batch_of(split(data_of(path, **more)), range(8), train=False)["image"] for more in ({}, knob))
    assert plain.shape == other.shape and not torch.equal(plain, other)


def test_simple_models_are_fitted_on_train_alone_and_told_apart(tmp_path):
    data = split(data_of(synthetic_samples=240, synthetic_species=8, image_size=32))
    found = data.baselines("val")
    assert set(found) == {"nearest_pixels", "hog_logistic"}
    assert all(prob.shape == (len(data.indices("val")), data.num_classes) for prob in found.values())
    data.simple_models = False
    assert data.baselines("val") == {}
    assert isinstance(data.describe()["images_per_species"]["max"], int)


def test_the_split_of_the_tail_is_the_brief_s():
    """1 picture trains; 2 train and validate; 3 and more reach every part."""
    data = split(data_of(synthetic_samples=600, synthetic_species=40))
    table = data.table.drop_duplicates("group")
    parts = pd.crosstab(table["label"], table["part"])
    total = parts.sum(axis=1)
    assert (parts["train"] > 0).all()
    assert (parts.loc[total == 1, "train"] == 1).all() and (total == 1).any()
    assert (parts.loc[total == 2, ["train", "val"]] == 1).all(axis=None) and (total == 2).any()
    assert (parts.loc[total >= 3] > 0).all(axis=None)


def test_one_picture_under_two_species_is_kept_twice_where_that_is_wanted(tmp_path):
    path = write_plants(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    other = json.loads(lines[0]) | {"latin_name": json.loads(lines[1])["latin_name"]}
    path.write_text("\n".join([*lines, json.dumps(other)]) + "\n", encoding="utf-8")
    data = split(data_of(path, conflicts="keep"))
    both = data.records[data.records["file"] == data.records["file"].iloc[0]]
    assert len(data.records) == len(lines) + 1 and both["label"].nunique() == 2
    assert both["id"].tolist() == [f"images/000.jpg ({name})" for name in both["label"]]
    assert both["group"].nunique() == 1
    assert data_of(path, conflicts="drop").records["id"].is_unique


def test_a_class_that_only_validation_shows_is_named_with_its_line(tmp_path):
    path = write_plants(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:16]) + "\n", encoding="utf-8")
    strange = json.loads(lines[20]) | {"latin_name": "Rara avis"}
    (tmp_path / "val.jsonl").write_text("\n".join([*lines[16:20], json.dumps(strange)]) + "\n", encoding="utf-8")
    path.unlink()
    data = data_of(tmp_path)
    found = next(one for one in data.findings() if one.kind == "class_only_in_val")
    assert found.count == 1 and found.examples == ["val.jsonl, line 5: Rara avis"]
    with pytest.raises(DataError, match="'Rara avis' is given for val only"):
        split(data)


def test_a_record_given_for_two_parts_is_left_to_the_first_and_said(tmp_path):
    path = write_plants(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:16], lines[0]]) + "\n", encoding="utf-8")
    (tmp_path / "val.jsonl").write_text("\n".join([*lines[16:], lines[3]]) + "\n", encoding="utf-8")
    path.unlink()
    data = data_of(tmp_path)
    found = {one.kind: one for one in data.findings()}
    said = found["given_for_several_parts"]
    assert said.severity == "warning" and said.examples == ["val.jsonl, line 9: images/003.jpg"]
    assert found["repeated_record"].count == 2  # train repeats one of its own, which is no leak
    assert data.records.set_index("id")["given"]["images/003.jpg"] == "train"
