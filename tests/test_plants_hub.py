"""Pictures through the library `datasets`, in its local forms; the network is blocked."""

import shutil

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from datamodules.errors import DataError
from datamodules.plants import PlantsData
from datamodules.plants_hub import HubImages
from datamodules.plants_records import Columns
from tests.fake_data.plants import write_plants

COLUMNS = Columns(label="species", image="image")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def rows(tmp_path):
    """A data set of twelve pictures, the class an index with names, pictures inside of the data set."""
    write_plants(tmp_path)
    files = sorted((tmp_path / "images").glob("*.jpg"))[:12]
    content = {
        "image": [{"bytes": file.read_bytes(), "path": None} for file in files],
        "species": [i % 3 for i in range(12)],
        "genus": ["A", "A", "B"] * 4,
    }
    names = ClassLabel(names=["A alba", "A rubra", "B minor"])
    return Dataset.from_dict(content, Features({"image": Image(), "species": names, "genus": Value("string")}))


def test_a_parquet_file_gives_records_and_pictures(rows, tmp_path):
    rows.to_parquet(tmp_path / "plants.parquet")
    data = PlantsData(hub=str(tmp_path / "plants.parquet"), columns=COLUMNS, image_size=16, near_distance=0)
    data.setup("fit")
    assert data.source_classes == ["A alba", "A rubra", "B minor"]
    assert data.records["genus"].tolist() == ["A", "A", "B"] * 4 and set(data.records["given"]) == {""}
    assert data.pixels.shape == (12, 3, 18, 18)
    again = PlantsData(path=str(tmp_path / "plants.jsonl"), image_size=16, near_distance=0)
    again.setup("fit")
    assert set(data.records["hash"]) <= set(again.records["hash"])  # of the files' own bytes


def test_parts_of_a_saved_data_set_are_given_parts(rows, tmp_path):
    parts = {"train": rows.select(range(8)), "validation": rows.select(range(8, 12))}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    found = HubImages(str(tmp_path / "saved"), COLUMNS)
    assert found.records["given"].tolist() == ["train"] * 8 + ["val"] * 4
    assert len({found.read(i) for i in range(12)}) == 12


def test_an_image_folder_through_the_library(tmp_path):
    write_plants(tmp_path)
    for number in range(8):
        target = tmp_path / "photos" / ("Acer" if number % 2 else "Quercus")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "images" / f"{number:03d}.jpg", target)
    found = HubImages(str(tmp_path / "photos"), Columns(label="label", image="image"))
    assert sorted(found.records["label"]) == ["Acer"] * 4 + ["Quercus"] * 4
    assert np.unique([len(found.read(i)) for i in range(8)]).min() > 100


def test_a_missing_column_and_a_name_that_cannot_be_reached(rows, tmp_path):
    rows.to_parquet(tmp_path / "plants.parquet")
    with pytest.raises(DataError, match=r"column 'latin_name' is missing \(it has image, species, genus\)"):
        HubImages(str(tmp_path / "plants.parquet"), Columns(image="image"))
    with pytest.raises(DataError, match="'someone/plants' cannot be read"):
        HubImages("someone/plants", COLUMNS)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match=r"give a .parquet or .arrow file"):
        HubImages(str(tmp_path / "x.txt"), COLUMNS)


def test_a_row_without_a_picture_is_counted_and_left_out(rows, tmp_path):
    content = rows.cast_column("image", Image(decode=False)).to_dict()
    content["image"][3] = None
    Dataset.from_dict(content, rows.features).to_parquet(tmp_path / "holes.parquet")
    data = PlantsData(hub=str(tmp_path / "holes.parquet"), columns=COLUMNS, image_size=16, near_distance=0)
    data.setup("fit")
    found = next(one for one in data.findings() if one.kind == "unusable_picture")
    assert len(data.records) == 11 and found.count == 1 and "line 4" in found.examples[0]
    assert "the file is empty" in found.examples[0]
