"""Kinds of samples, coarser classes, back-off: each number against one counted by hand."""

import numpy as np
import pytest

from modules.breakdown import BackOff, back_off_table, back_off_threshold, by_kind, by_level, coarse, needs

GENUS = ["A", "A", "B", ""]
FAMILY = ["F", "F", "F", "F"]
PROB = np.array(
    [
        [0.6, 0.3, 0.1, 0.0],  # 0, right
        [0.6, 0.3, 0.1, 0.0],  # 1, wrong, genus right
        [0.3, 0.3, 0.4, 0.0],  # 0, wrong; the genus is right when its species are added up
        [0.1, 0.1, 0.1, 0.7],  # 3, right
        [0.2, 0.2, 0.5, 0.1],  # a class that training never saw
        [0.9, 0.1, 0.0, 0.0],  # no label
    ]
)
Y = np.array([0, 1, 0, 3, -2, -1])


def test_probabilities_of_a_genus_are_added_up():
    names, summed, truth = coarse(PROB, Y, GENUS)
    assert names == ["(class 3)", "A", "B"]
    np.testing.assert_allclose(summed[2], [0, 0.6, 0.4])
    np.testing.assert_allclose(summed.sum(1), 1)
    assert truth.tolist() == [1, 1, 1, 0, -2, -1]


def test_levels_by_hand():
    found = by_level(PROB, Y, {"genus": GENUS, "family": FAMILY}).set_index("level")
    assert found["accuracy"].to_dict() == {"class": 0.4, "genus": 0.8, "family": 0.8}
    assert found["classes"].to_dict() == {"class": 4, "genus": 3, "family": 1}
    assert found.loc["genus", "of_errors"] == pytest.approx(1 / 3)  # row 1; row 2 names genus B, row 4 is unknown
    assert found.loc["family", "of_errors"] == pytest.approx(2 / 3)


def test_kinds_by_hand():
    kinds = np.array(["x", "x", "y", "y", "y", "x"], dtype=object)
    found = by_kind(PROB, Y, np.arange(6), kinds, 2, 50).set_index("kind")
    assert found["n"].to_dict() == {"y": 3, "x": 2}
    assert found["accuracy"].to_dict() == {"y": pytest.approx(1 / 3), "x": 0.5}
    assert found["top2"].to_dict() == {"y": pytest.approx(2 / 3), "x": 1.0}
    assert found["macro_recall"].to_dict() == {"y": 0.5, "x": 0.5}
    assert (found["low"] <= found["accuracy"]).all() and (found["accuracy"] <= found["high"]).all()
    assert by_kind(PROB, Y, np.arange(6), np.array([""] * 6, dtype=object), 2, 0).empty
    assert by_kind(PROB, Y, np.arange(6), kinds, 2, 0)["low"].isna().all()


def test_what_needs_data_by_hand():
    found = needs(PROB, Y, np.array([10, 2, 5, 1]), GENUS).set_index("name")
    assert found["train"].to_dict() == {"A": 12, "(class 3)": 1, "B": 5}
    assert found["n"].to_dict() == {"A": 3, "(class 3)": 1, "B": 0}
    assert found.loc["A", "recall"] == pytest.approx(1 / 3) and np.isnan(found.loc["B", "recall"])
    assert found.index[0] == "A" and found.index[-1] == "B"


def test_back_off_answers_at_the_finest_level_that_is_sure():
    levels = {"genus": GENUS, "family": FAMILY}
    level, right = BackOff(PROB, Y, levels).answers(0.55)
    assert level.tolist() == [0, 0, 1, 0, 2, 0]
    assert right[:5].tolist() == [True, False, True, True, False]
    level, right = BackOff(PROB, Y, {"genus": GENUS}).answers(0.75)
    assert level.tolist() == [1, 1, -1, -1, -1, 0] and right[:5].tolist() == [True, True, False, False, False]


def test_a_table_of_back_off_and_its_threshold():
    levels = {"genus": GENUS, "family": FAMILY}
    table = back_off_table(PROB, Y, levels, [0.55, 1.0])
    assert table.loc[0].to_dict() == {
        "threshold": 0.55, "answered": 1.0, "accuracy": 0.6, "class": 0.6, "genus": 0.2, "family": 0.2
    }  # fmt: skip
    assert back_off_threshold(PROB, Y, levels, 0.4) == 0.01
    found = back_off_threshold(PROB, Y, levels, 0.8)
    assert found == 0.61  # row 1 falls back to its genus, row 2 to its family, and are right
    level, right = BackOff(PROB[:5], Y[:5], levels).answers(found)
    assert right[level >= 0].mean() == 0.8
    assert back_off_threshold(PROB, Y, {"genus": GENUS}, 0.99) == 0.61  # two rows are not answered then
    assert back_off_threshold(PROB[:1], Y[1:2], {}, 0.5) is None
    with pytest.raises(ValueError, match="labelled"):
        back_off_threshold(PROB, np.full(6, -1), levels, 0.5)


def test_thousands_of_classes_leave_a_report_that_can_be_read():
    """A picture shows the classes with the most mistakes; the cells of a large matrix that are zero are not written."""
    from callbacks.report_stage import confusion_pairs, legible

    matrix = np.zeros((1500, 1500), np.int64)
    matrix[np.arange(1500), np.arange(1500)] = 9
    matrix[7, 1400], matrix[300, 7] = 2, 1
    shown, note = legible(matrix)
    assert len(shown) == 120 and {7, 300, 1400} <= set(shown) and "of 1,500 classes" in note
    assert (np.diff(shown) > 0).all()
    assert legible(matrix[:60, :60])[0].tolist() == list(range(60)) and not legible(matrix[:60, :60])[1]
    pairs = confusion_pairs(matrix, [f"c{i}" for i in range(1500)])
    assert len(pairs) == 1502 and pairs["count"].sum() == matrix.sum()
    assert pairs[pairs["truth"] != pairs["prediction"]].to_numpy().tolist() == [["c7", "c1400", 2], ["c300", "c7", 1]]
