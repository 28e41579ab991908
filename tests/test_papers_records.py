import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.papers_file import Source
from datamodules.papers_records import (
    Facts,
    TimeSplit,
    content_hash,
    joined_groups,
    make_predict_records,
    make_records,
    normal_title,
    parse_merges,
)

SETTINGS = {"classes": None, "merge": [], "policy": "primary", "time_split": None}


def source(*rows, **columns):
    """Rows of (id, title, label, all_categories, published)."""
    frame = pd.DataFrame(rows, columns=["id", "title", "category", "all_categories", "published"], dtype=str)
    frame = frame.assign(abstract="Some text about " + frame["id"] + ".", given="", line=range(2, len(rows) + 2))
    has = frozenset(columns.get("has", ("category", "all_categories", "published")))
    return Source("papers.csv", frame.assign(**{k: v for k, v in columns.items() if k != "has"}), has)


def made(data, **settings):
    return make_records(data, **{**SETTINGS, **settings})


TWICE = source(
    ("1", "A Tale of Two Losses", "cs.LG", "cs.LG cs.AI", "2025-01"),
    ("2", "Other things", "cs.CV", "cs.CV", "2025-02"),
    ("3", "a tale of TWO losses!", "cs.AI", "cs.LG cs.AI", "2025-09"),
    ("2v2", "Other things, revised", "cs.CV", "cs.CV", "2025-03"),
    ("4", "Something else", "cs.CL", "cs.CL cs.CV", "2025-10"),
)


def test_titles_are_the_same_however_they_are_typed():
    assert normal_title("  Attention Is—All You NEED?") == normal_title("attention is all you need")
    assert normal_title("ﬁne-tuning") == "fine tuning" and normal_title("日本語の 論文") == "日本語の 論文"
    assert normal_title("$$") == "$$", "a title of signs is still a title"
    assert content_hash("A b", "C d.") == content_hash("a  B", "c d") != content_hash("a b c", "d")


def test_one_paper_is_one_group_by_id_version_or_title():
    records, classes, facts = made(TWICE)
    assert records["group"].tolist() == ["1", "2", "1", "2", "4"] and classes == ["cs.AI", "cs.CL", "cs.CV", "cs.LG"]
    assert records["hash"].nunique() == 5 and isinstance(facts, Facts) and facts.duplicates == 2
    chain = source(("1", "x", "c", "", ""), ("2", "y", "c", "", ""), ("1", "y", "c", "", ""))
    records, _, facts = made(chain)
    assert records["group"].tolist() == ["1", "1"], "joined by a row between them"
    assert records["id"].tolist() == ["1", "2"] and facts.repeated == 1, "one row an id"


def test_a_conflict_gets_the_primary_category_or_the_first_label():
    records, _, facts = made(TWICE)
    assert records["label"].tolist() == ["cs.LG", "cs.CV", "cs.LG", "cs.CV", "cs.CL"]
    assert facts.conflicts == ["1 = cs.LG, 3 = cs.AI"] and facts.conflict_ids == ["1", "3"]
    backwards = source(*[tuple(row) for row in TWICE.rows.iloc[::-1][["id", "title", "category", "all_categories",
                                                                      "published"]].to_numpy()])  # fmt: skip
    assert dict(zip(*made(backwards)[0][["id", "label"]].to_numpy().T, strict=True))["3"] == "cs.LG"
    unlisted = source(("1", "t", "cs.AI", "", ""), ("2", "t", "cs.LG", "", ""), has=["category"])
    assert made(unlisted)[0]["label"].tolist() == ["cs.AI", "cs.AI"]
    outside = source(("1", "t", "cs.AI", "math.CO cs.AI", ""), ("2", "t", "cs.LG", "", ""))
    assert made(outside)[0]["label"].tolist() == ["cs.AI", "cs.AI"], (
        "a primary category that is no class decides nothing"
    )


def test_conflicts_can_be_dropped_refused_or_kept_as_several_labels():
    records, _, facts = made(TWICE, policy="drop")
    assert records["id"].tolist() == ["2", "2v2", "4"] and facts.dropped == 2
    with pytest.raises(DataError, match=r"papers\.csv: 1 papers carry several labels \(line 2, 4: 1 = cs\.LG"):
        made(TWICE, policy="refuse")
    records, _, facts = made(TWICE, policy="refuse", multi=True)
    assert records["labels"].tolist() == ["cs.AI cs.LG", "cs.CV", "cs.AI cs.LG", "cs.CV", "cs.CL cs.CV"]
    assert records["label"].tolist() == ["cs.LG", "cs.CV", "cs.LG", "cs.CV", "cs.CL"] and facts.conflicts == []


def test_what_was_found_is_said_and_audited():
    facts = made(TWICE)[2]
    assert facts.counts("primary")["label_conflicts"] == 1 and facts.counts("primary")["duplicates"] == 2
    lines = facts.lines("primary")
    assert "2 of 5 rows repeat a paper" in lines[0] and "1 = cs.LG, 3 = cs.AI" in lines[1]
    conflict, repeated = facts.findings("primary")
    assert (conflict.kind, conflict.severity, conflict.count) == ("label_conflict_in_source", "warning", 1)
    assert conflict.rows == ["1", "3"] and (repeated.kind, repeated.count) == ("repeated_paper", 2)
    assert Facts().lines("primary") == [] == Facts().findings("primary")


def test_labels_are_merged_before_anything_else():
    merge = ["cs.AI=cs.AI-LG", "cs.LG=cs.AI-LG"]
    records, classes, facts = made(TWICE, merge=merge)
    assert classes == ["cs.AI-LG", "cs.CL", "cs.CV"] and not facts.conflicts, "no conflict is left"
    assert records["all_categories"][0] == "cs.AI-LG"
    assert made(TWICE, merge=merge, classes=["cs.CV", "cs.AI-LG", "cs.CL"])[1] == ["cs.CV", "cs.AI-LG", "cs.CL"]
    assert parse_merges(["a = b"]) == {"a": "b"}
    for bad in (["a"], ["a="], ["a=b=c"], ["a=b", "a=c"]):
        with pytest.raises(ValueError, match="merge"):
            parse_merges(bad)
    with pytest.raises(DataError, match=r"no row has the category 'cs\.XX'"):
        made(TWICE, merge=["cs.XX=cs.AI"])


def test_parts_by_time_and_a_paper_stays_in_its_oldest_part():
    records, *_ = made(TWICE, time_split=TimeSplit("2025-09", "2025-02"))
    assert dict(zip(records["id"], records["given"], strict=True)) == {
        "1": "train", "2": "val", "3": "train", "2v2": "val", "4": "test"}  # fmt: skip
    records, *_ = made(TWICE, time_split=TimeSplit("2025-09"))
    assert records["given"].tolist() == ["train", "train", "train", "train", "test"], "validation is drawn later"
    with pytest.raises(ValueError, match="must come before"):
        TimeSplit("2025-01", "2025-02")
    with pytest.raises(DataError, match="date is missing"):
        made(source(("1", "t", "a", "", ""), has=["category"]), time_split=TimeSplit("2025"))


def test_one_error_names_everything_wrong_with_its_lines():
    bad = source(
        ("1", "", "cs.AI", "", "2025"), ("", "t", "cs.XX", "", ""), ("3", "u", "", "", "2025"),
        ("4", "v", "cs.XX", "", "2025"),
    )  # fmt: skip
    with pytest.raises(DataError) as error:
        made(bad, classes=["cs.AI"], merge=["x=y"], time_split=TimeSplit("2025"))
    text = str(error.value)
    assert text.startswith("papers.csv: 6 problem(s)")
    for part in ("line 3: the id is blank", "line 2: the title is blank", "line 4: no category", "no row has the",
                 "line 3, 5: label 'cs.XX' is not in data.classes (2 such rows)", "line 3: no date"):  # fmt: skip
        assert part in text, part
    with pytest.raises(DataError, match="line 2: the abstract is blank"):
        made(source(("1", "t", "a", "", ""), abstract=[""]))


def test_papers_to_predict_need_unique_ids_and_text():
    rows = source(("1", "a", "", "", ""), ("2", "b", "", "", ""))
    records = make_predict_records(rows)
    assert records["id"].tolist() == ["1", "2"] and (records["label"] == "").all()
    with pytest.raises(DataError, match="line 3: the id occurs twice"):
        make_predict_records(source(("1", "a", "", "", ""), ("1", "b", "", "", "")))


def test_papers_that_are_known_already_join_their_group():
    records, *_ = made(TWICE)
    titles = {"1v3": "A new title", "9": "OTHER things", "8": "No one knows", "7": "no one knows."}
    rows = source(*[(name, title, "", "", "") for name, title in titles.items()]).rows
    assert joined_groups(rows, records) == ["1", "2", "8", "8"]


def test_the_sister_of_a_known_paper_joins_its_group():
    opening = " ".join(f"word{i}" for i in range(25))
    known = source(("1", "Batteries", "cs.LG", "cs.LG", ""))
    known.rows["abstract"] = f"{opening} one way."
    records, *_ = made(known)
    rows = source(("7", "Cells", "", "", ""), ("8", "Motors", "", "", "")).rows
    rows["abstract"] = [f"{opening} another way.", "Something else."]
    assert joined_groups(rows, records) == ["1", "8"]


def test_sister_papers_share_a_group_and_keep_their_labels():
    """Different papers of the same authors with the same first sentences: the audit found a pair in real data."""
    opening = " ".join(f"word{i}" for i in range(25))
    data = source(
        ("1", "Batteries", "cs.LG", "cs.LG", ""), ("2", "Other", "cs.CV", "cs.CV", ""), ("3", "Cells", "cs.AI", "", "")
    )
    data.rows["abstract"] = [f"{opening} one way.", f"{opening.rsplit(' ', 1)[0]} another way.", f"{opening} and more."]
    records, _, facts = made(data)
    assert records["group"].tolist() == ["1", "2", "1"] and records["label"].tolist() == ["cs.LG", "cs.CV", "cs.AI"]
    assert facts.twins == 1 and not facts.conflicts and not facts.duplicates
    assert [finding.kind for finding in facts.findings("primary")] == ["sister_paper"]
    made(data, policy="refuse")  # their labels are no conflict
