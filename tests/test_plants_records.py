"""Sources of pictures: what is read, and what a broken one is told."""

import json
import shutil

import pytest

from datamodules.errors import DataError
from datamodules.image_cache import file_of
from datamodules.plants_records import COLUMNS, Columns, largest_classes, read_source
from tests.fake_data.plants import write_plants


def test_every_field_of_the_brief_is_read(tmp_path):
    records = read_source(str(write_plants(tmp_path)), Columns())
    assert list(records.columns) == list(COLUMNS) and len(records) == 24
    first = records.iloc[0].to_dict()
    assert (first["label"], first["genus"], first["family"]) == ("Genus0 species0", "Genus0", "Family0")
    assert (first["license"], first["country"], first["attribution"]) == ("CC0", "ES", "Observer 0")
    assert first["id"] == "images/000.jpg" and first["file"] == str(tmp_path / "images/000.jpg")
    assert (first["line"], first["source_file"], first["given"]) == (1, "plants.jsonl", "")


def test_fields_of_other_names_and_a_part_of_each_line(tmp_path):
    lines = [{"file": "a.jpg", "name": "Acer", "split": part} for part in ("train", "valid", "test", None)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    records = read_source(str(tmp_path / "own.jsonl"), Columns(label="name", image="file"))
    assert records["given"].tolist() == ["train", "val", "test", ""]


def test_addresses_are_looked_for_in_the_cache(tmp_path):
    path = write_plants(tmp_path, path=None)
    with pytest.raises(DataError, match=r"plants.jsonl, line 1: .*verb `cache`"):
        read_source(str(path), Columns())
    records = read_source(str(path), Columns(), image_cache="cached")
    assert records["id"][0] == "https://images.example/0.jpg"
    assert records["file"].tolist() == [str(file_of("cached", url)) for url in records["id"]]


def test_given_parts_in_files_of_their_own_by_option_and_by_name(tmp_path):
    for part, count in (("train", 6), ("val", 2), ("test", 1)):
        write_plants(tmp_path, per_species=count, name=f"{part}.jsonl")
    by_name = read_source(str(tmp_path), Columns())
    parts = {"val": str(tmp_path / "val.jsonl"), "test": str(tmp_path / "test.jsonl")}
    by_option = read_source(str(tmp_path / "train.jsonl"), Columns(), parts)
    for records in (by_name, by_option):
        assert records["given"].value_counts().to_dict() == {"train": 24, "val": 8, "test": 4}
        assert set(records["source_file"]) == {"train.jsonl", "val.jsonl", "test.jsonl"}


@pytest.mark.parametrize("given", [False, True])
def test_a_folder_of_classes_with_and_without_parts(tmp_path, given):
    write_plants(tmp_path / "source")
    for number in range(12):
        part = ("train", "val", "test")[number // 4] if given else "."
        target = tmp_path / "photos" / part / ("Acer" if number % 2 else "Quercus")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "source" / "images" / f"{number:03d}.jpg", target)
    records = read_source(str(tmp_path / "photos"), Columns())
    assert records["label"].value_counts().to_dict() == {"Acer": 6, "Quercus": 6}
    assert set(records["given"]) == ({"train", "val", "test"} if given else {""})
    assert records["id"].is_unique


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a.jpg", "latin_na', "line 3: not a complete JSON object"),
        ("[1, 2]", "line 3: list in place of a JSON object"),
        ('{"path": "a.jpg"}', "line 3: field 'latin_name' is missing or empty"),
        ('{"latin_name": "Acer"}', "line 3: neither 'path' nor 'image_url'"),
        ('{"latin_name": "Acer", "path": "a", "split": "dev2"}', "line 3: the part 'dev2' is unknown"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    good = '{"latin_name": "Acer", "path": "a.jpg"}'
    (tmp_path / "own.jsonl").write_text(f"{good}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as error:
        read_source(str(tmp_path / "own.jsonl"), Columns())
    assert "own.jsonl" in str(error.value)


def test_what_is_not_there_or_empty(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_source(str(tmp_path / "absent.jsonl"), Columns())
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no line holds a record"):
        read_source(str(tmp_path / "empty.jsonl"), Columns())
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_source(str(tmp_path / "bytes.jsonl"), Columns())
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="nor a picture"):
        read_source(str(tmp_path / "folder"), Columns())


def test_small_classes_are_counted_by_different_pictures(tmp_path):
    records = read_source(str(write_plants(tmp_path, species=3, per_species=4)), Columns())
    records["hash"] = [str(i) for i in range(12)]
    records.loc[records["label"] == "Genus0 species1", "hash"] = "same"  # four records of one picture
    kept, classes, rows = largest_classes(records, 2)
    assert (classes, rows, len(kept)) == (1, 4, 8)
    assert set(kept["label"]) == {"Genus0 species0", "Genus1 species2"}
    with pytest.raises(DataError, match="no class has 5 different pictures"):
        largest_classes(records, 5)
