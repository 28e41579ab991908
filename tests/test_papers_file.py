import gzip
import json

import pytest

from datamodules.errors import DataError
from datamodules.papers_file import Columns, Source, read_hub, read_papers
from tests.fake_data.papers import paper_rows, write_papers

ROWS = paper_rows()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.ndjson"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = write_papers(tmp_path / name.replace("ndjson", "jsonl"))
    if name == "a.ndjson":
        path = path.rename(tmp_path / name)
    source = read_papers(path, Columns())
    assert isinstance(source, Source) and source.name == str(path)
    for key in ("id", "title", "category", "all_categories", "published"):
        assert source.rows[key].tolist() == [row[key] for row in ROWS], key
    assert source.rows["id"][0] == "2601.00000", "a number would lose the zeros"
    assert source.rows["line"][0] == (2 if ".csv" in name else 1) and (source.rows["given"] == "").all()
    assert source.has == {"category", "all_categories", "published"}


def test_breaks_commas_quotes_and_a_byte_order_mark_are_read(tmp_path):
    rows = [{**ROWS[0], "abstract": 'one,\n two "three"\tfour', "all_categories": "cs.AI,cs.LG , stat.ML"}, ROWS[1]]
    path = write_papers(tmp_path / "a.csv", rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = read_papers(path, Columns()).rows
    assert found["abstract"][0] == 'one, two "three" four' and found["all_categories"][0] == "cs.AI cs.LG stat.ML"
    assert found["line"].tolist() == [3, 4], "lines of the file, not numbers of rows"


def test_json_may_hold_a_list_of_categories_and_null(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {**ROWS[0], "all_categories": ["cs.AI", "cs.CL"], "published": None}
    path.write_text(json.dumps(row) + "\n\n", encoding="utf-8")
    found = read_papers(path, Columns()).rows
    assert found["all_categories"][0] == "cs.AI cs.CL" and found["published"][0] == ""


def test_columns_can_have_other_names_and_rows_can_be_numbered(tmp_path):
    rows = [{"name": row["title"], "text": row["abstract"], "field": row["category"]} for row in ROWS]
    path = write_papers(tmp_path / "a.csv", rows)
    found = read_papers(path, Columns(id=None, title="name", abstract="text", category="field"))
    ids = found.rows["id"].tolist()
    assert ids[11].startswith("row-000011-") and found.rows["title"][3] == ROWS[3]["title"]
    assert found.has == {"category"} and (found.rows["all_categories"] == "").all()
    plain = {"id": None, "title": "name", "abstract": "text"}
    assert read_papers(path, Columns(**plain), labels=False).rows["id"].tolist() == ids  # the same rows
    other = write_papers(tmp_path / "b.csv", [{"name": f"New {row['name']}", "text": row["text"]} for row in rows])
    assert not set(ids) & set(read_papers(other, Columns(**plain), labels=False).rows["id"])  # as pseudo-labels need
    with pytest.raises(ValueError, match="different"):
        Columns(title="text", abstract="text")


def text_file(path, text):
    path.write_text(text, encoding="utf-8")
    return path


HEADER = "id,title,abstract,category\n"
GOOD = '{"id": "a", "title": "t", "abstract": "x", "category": "c"}\n'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "empty; the first line"),
        ("a.csv", HEADER, "no paper in it"),
        ("a.csv", HEADER + "1,a,b\n", r"a\.csv, line 2: 3 fields, but the header has 4"),
        ("a.csv", HEADER + '1,a,"b,c\n2,d\n', r"a\.csv, line 3: not valid CSV"),
        ("a.csv", "id,title,title\n1,a,b\n", "column 'title' occurs twice"),
        ("a.csv", "id,title,abstract\n1,a,b\n", r"column \['category'\] is missing \(there are abstract, id, title\)"),
        ("a.jsonl", GOOD + '{"id": "b", "title": ', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", GOOD + "[1]\n", "line 2: a list, not an object"),
        ("a.jsonl", GOOD.replace('"a"', "2601.0895"), r"line 1: the id 2601\.0895 is a number and has lost its zeros"),
        ("a.jsonl", GOOD.replace('"t"', '["t"]'), "line 1: title is a list, not text"),
        ("a.txt", GOOD, r"unknown ending '\.txt'"),
    ],
)
def test_files_that_cannot_be_right_are_refused_with_the_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_papers(text_file(tmp_path / name, text), Columns())


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_papers(tmp_path / "none.csv", Columns())
    whole = write_papers(tmp_path / "a.csv.gz").read_bytes()
    (tmp_path / "a.csv.gz").write_bytes(whole[:-30])
    with pytest.raises(DataError, match="damaged or cut short"):
        read_papers(tmp_path / "a.csv.gz", Columns())
    (tmp_path / "b.csv").write_bytes(HEADER.encode() + "1,é,b,c\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_papers(tmp_path / "b.csv", Columns())
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"x")[:4] + b"????")
    with pytest.raises(DataError, match="damaged"):
        read_papers(tmp_path / "c.csv.gz", Columns())


def test_papers_to_predict_need_no_label(tmp_path):
    rows = [{"id": "1", "title": "a", "abstract": "b"}]
    assert read_papers(write_papers(tmp_path / "a.csv", rows), Columns(), labels=False).rows["category"].tolist() == [
        ""
    ]


def test_a_hub_data_set_gives_its_splits_as_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "papers"
    folder.mkdir()
    write_papers(folder / "train.jsonl", ROWS[:20])
    write_papers(folder / "test.jsonl", ROWS[20:])
    source = read_hub(str(folder), Columns())
    assert dict(source.rows["given"].value_counts()) == {"train": 20, "test": 12}
    assert sorted(source.rows["id"]) == sorted(row["id"] for row in ROWS) and source.unit == "row"
    assert source.rows["line"].tolist() == list(range(1, 33))
    with pytest.raises(DataError, match="cannot be read"):
        read_hub(str(tmp_path / "nothing"), Columns())
