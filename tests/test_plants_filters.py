"""Licences read as a whole, regions of countries, filters that say what they left out, and the file of attributions."""

import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.licences import licence_table, parse_licence
from datamodules.plants_filters import keep_rows, write_attributions
from datamodules.plants_regions import region_of


@pytest.mark.parametrize(
    ("text", "code", "permissive"),
    [
        ("CC-BY", "CC-BY", True),
        ("cc by 4.0", "CC-BY", True),
        ("cc_by_sa_3.0", "CC-BY-SA", True),
        ("https://creativecommons.org/licenses/by/4.0/legalcode", "CC-BY", True),
        ("Creative Commons Attribution-ShareAlike 3.0 Unported", "CC-BY-SA", True),
        ("CC0", "CC0", True),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0", True),
        ("Public Domain Mark 1.0", "PUBLIC-DOMAIN", True),
        ("CC-BY-NC", "CC-BY-NC", False),
        ("cc-by-nc/4.0", "CC-BY-NC", False),
        ("CC BY-NC-SA 4.0", "CC-BY-NC-SA", False),
        ("CC BY-NoDerivs 2.0", "CC-BY-ND", False),
        ("https://creativecommons.org/licenses/by-nc-nd/4.0/", "CC-BY-NC-ND", False),
        ("Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)", "CC-BY-NC", False),
        ("all rights reserved", "OTHER", False),
        ("not in the public domain", "OTHER", False),
        ("attribution required", "OTHER", False),
        ("CC-BY-XX", "OTHER", False),
        ("CC-NC", "OTHER", False),
        ("", "OTHER", False),
    ],
)
def test_a_licence_is_read_as_a_whole(text, code, permissive):
    found = parse_licence(text)
    assert (found.code, found.permissive) == (code, permissive)
    assert found.share_alike == ("SA" in code)
    assert found.derivatives == (permissive or code in ("CC-BY-NC", "CC-BY-NC-SA"))
    assert found.attribution == (code not in ("CC0", "PUBLIC-DOMAIN"))


def test_the_mistake_of_the_brief_is_counted():
    """A search for the substring "CC-BY" calls all of these permissive."""
    licences = pd.Series(["CC-BY-NC"] * 7 + ["CC-BY"] * 2 + ["CC0"])
    table = licence_table(licences)
    assert licences.str.contains("CC-BY").sum() == 9
    assert table.loc[table["permissive"], "images"].sum() == 3
    assert table["images"].to_dict() == {"CC-BY-NC": 7, "CC-BY": 2, "CC0": 1}


@pytest.mark.parametrize(
    ("country", "region"),
    [("ES", "EU_SW"), ("uk", "EU_NORTH"), ("GB", "EU_NORTH"), ("UA", "EU_EAST"), ("GR", "EU_OTHER"),
     ("US", "AMERICAS_NORTH"), ("BR", "AMERICAS_SOUTH"), ("JP", "ASIA"), ("KE", "AFRICA"), ("NZ", "OCEANIA"),
     ("", "UNKNOWN"), ("XX", "UNKNOWN")],
)  # fmt: skip
def test_regions_of_countries(country, region):
    assert region_of(country) == region


def records():
    rows = [
        ("a", "Rosa", "EU_SW", "", "CC-BY", "Ana"),
        ("b", "Rosa", "", "DE", "CC-BY-NC", "Bo"),
        ("c", "Malva", "EUROPE", "FR", "CC0", ""),
        ("d", "Viola", "", "", "CC-BY-SA 3.0", ""),
    ]
    frame = pd.DataFrame(rows, columns=["id", "label", "region", "country", "license", "attribution"], dtype=str)
    return frame.assign(url="u", image_source="", source_file="p.jsonl", line=range(1, 5))


def test_nothing_asked_keeps_all_and_settles_regions():
    kept, found = keep_rows(records(), None, "any")
    assert kept["region"].tolist() == ["EU_SW", "EU_NORTH", "EU_SW", "UNKNOWN"]
    strange = next(f for f in found if f.kind == "unknown_region")
    assert strange.count == 1 and strange.examples == ["p.jsonl, line 3: region EUROPE"]
    listed = next(f for f in found if f.kind == "licences")
    assert "3 of 4 records" in listed.message
    counted = next(f for f in found if f.kind == "regions")
    assert counted.count == 3 and counted.examples == ["EU_SW: 2", "EU_NORTH: 1", "UNKNOWN: 1"]
    assert not [f for f in found if f.kind == "image_sources"]
    _, found = keep_rows(records().assign(image_source=["web", "", "web", "own"]), None, "any")
    assert next(f for f in found if f.kind == "image_sources").examples == ["web: 2", "UNKNOWN: 1", "own: 1"]


def test_filters_say_what_they_left_out():
    kept, found = keep_rows(records(), ["eu_sw"], "any")
    assert kept["id"].tolist() == ["a", "c"]
    left = next(f for f in found if f.kind == "region_filter")
    assert left.message.startswith("2 of 4 records lie outside")
    assert left.examples == ["p.jsonl, line 2: b", "p.jsonl, line 4: d"] and "[; ...]" not in str(left)
    kept, found = keep_rows(records(), None, "permissive")
    assert kept["id"].tolist() == ["a", "c", "d"]
    left = next(f for f in found if f.kind == "licence_filter")
    assert left.rows == ["b"] and "0 classes altogether" in left.message


def test_an_unknown_region_is_refused_with_a_guess():
    with pytest.raises(DataError, match="'EU_SWW' is no region; did you mean EU_SW"):
        keep_rows(records(), ["EU_SWW"], "any")
    with pytest.raises(DataError, match="leave no record"):
        keep_rows(records(), ["AFRICA"], "any")


def test_attributions_name_whom_a_licence_obliges_to_name(tmp_path):
    assert write_attributions(records(), tmp_path / "a" / "ATTRIBUTION.csv") == 3
    table = pd.read_csv(tmp_path / "a" / "ATTRIBUTION.csv", keep_default_na=False)
    assert table["id"].tolist() == ["a", "b", "d"]
    assert table["attribution"].tolist() == ["Ana", "Bo", "(not stated)"]
    assert table["licence"].tolist() == ["CC-BY", "CC-BY-NC", "CC-BY-SA 3.0"]
