"""What needs no network: tables and trees are right where they must be, and see training windows alone."""

import numpy as np
import pytest

from datamodules import gcode_baselines as baselines
from datamodules.gcode_baselines import Task
from lightning_project.audit_gcode import overlapping
from modules import gcode_tokens

PROGRAMS = {0: ["G0 X1", "X2", "X3 Y1"], 1: ["G1 Z0.5", "X2", "M30"]}


@pytest.fixture(scope="module")
def task():
    """Four recordings of each of two operations, three windows each; the line follows from operation and place."""
    rows = [(operation, recording, place) for operation in (0, 1) for recording in range(4) for place in range(3)]
    operation, _, place = np.array(rows).T
    lines = [PROGRAMS[o][p] for o, _, p in rows]
    rng = np.random.default_rng(0)
    tokens = baselines.spelt(lines)
    features = {
        "all columns": np.stack([operation + 0.01 * rng.normal(size=24), place], 1),
        "noise": rng.normal(size=(24, 2)),
    }
    ids = [  # of a vocabulary that knows no number
        tuple(
            3 if token.type == gcode_tokens.NUMBER else 10 + i
            for i, token in zip(one, gcode_tokens.tokens(line), strict=True)
        )
        for one, line in zip(tokens, lines, strict=True)
    ]
    return Task(lines, tokens, ids, operation, 2, place, features)


def parts(task):
    last = np.arange(24) % 12 >= 9  # the fourth recording of each operation
    return np.flatnonzero(~last), np.flatnonzero(last)


def share(rows):
    return np.mean([hit for row in rows for hit in row])


def test_tables_know_what_their_context_tells(task):
    train, asked = parts(task)
    answers = baselines.token_tables(task, train, asked)
    true = [task.lines[record] for record in asked]
    assert list(answers["table: operation + prefix + window number"].free) == true
    assert share(answers["table: operation + prefix + window number"].forced) == 1
    scores = [share(answer.forced) for answer in answers.values()]
    assert scores == sorted(scores) and scores[0] < scores[2] < 1
    # again, by counting: the most frequent token is the end, which each line has once
    tokens = sum(len(task.tokens[record]) + 1 for record in asked)
    assert scores[0] == pytest.approx(len(asked) / tokens)
    assert answers["table: most frequent token"].free is None


def test_a_place_that_training_lacks_falls_back_to_the_operation(task):
    train, asked = parts(task)
    late = task.place + np.where(np.isin(np.arange(24), asked), 100, 0)
    answers = baselines.token_tables(Task(**{**vars(task), "place": late}), train, asked)
    with_number, without = (answers[f"table: operation + prefix{more}"] for more in (" + window number", ""))
    assert with_number.forced == without.forced and with_number.free == without.free


def test_ids_in_which_unknown_tokens_are_the_same_are_judged_apart(task):
    train, asked = parts(task)
    answer = baselines.token_tables(task, train, asked)["table: prefix"]
    place = [task.lines[record] for record in asked].index("X3 Y1")  # behind X, training says 2 more often than 3
    assert answer.forced[place][1] is False and answer.forced_by_id[place][1] is True


def test_what_is_asked_has_no_part_in_the_tables_and_trees(task):
    train, asked = parts(task)
    before = baselines.line_answers(task, train, asked, trees=10)
    lines, operation = list(task.lines), task.operation.copy()
    for record in asked:
        operation[record] = 1 - operation[record]
    other = Task(**{**vars(task), "operation": operation, "lines": lines})
    after = baselines.line_answers(other, train, asked, trees=10)
    assert (before["trees: all columns"].prob == after["trees: all columns"].prob).all()
    assert list(before["trees: all columns"].free) == list(after["trees: all columns"].free)
    assert before["table: prefix"].forced == after["table: prefix"].forced


def test_trees_read_the_columns_that_they_are_given(task):
    train, asked = parts(task)
    answers = baselines.tree_answers(task, train, asked, trees=30)
    right = {name: np.mean([one == task.lines[r] for one, r in zip(answer.free, asked, strict=True)])
             for name, answer in answers.items()}  # fmt: skip
    assert right["trees: all columns"] == 1 > right["trees: noise"]
    assert (answers["trees: all columns"].prob.argmax(1) == task.operation[asked]).all()
    only = baselines.tree_answers(task, train, asked, trees=5, operations_only=True)
    assert all(answer.free is None for answer in only.values())


def test_windows_without_a_line_or_an_operation_teach_nothing(task):
    train, asked = parts(task)
    lines, operation = list(task.lines), task.operation.copy()
    lines[train[0]], operation[train[1]] = "", -2
    holed = Task(**{**vars(task), "lines": lines, "tokens": baselines.spelt(lines), "operation": operation})
    answers = baselines.line_answers(holed, train, asked, trees=5)
    assert "" not in answers["table: operation + prefix"].free
    assert answers["trees: all columns"].prob.shape == (len(asked), 2)


def test_window_statistics_are_those_of_each_column():
    values = np.random.default_rng(0).normal(size=(3, 5, 2))
    found = baselines.window_statistics(values)
    assert found[1, 0, 1] == pytest.approx(sum(values[1, :, 1]) / 5)
    assert found[2, 1, 0] == pytest.approx(np.sqrt(((values[2, :, 0] - values[2, :, 0].mean()) ** 2).mean()))
    assert (found[:, 2] == values[:, 0]).all() and (found[:, 3] == values[:, -1]).all()


def test_overlap_is_counted_row_by_row():
    rng = np.random.default_rng(0)
    recording = np.repeat(["a", "b"], 12)
    row = np.tile(np.arange(12) * 16, 2)
    part = rng.choice(["train", "test", "val"], 24)
    found = overlapping(recording, row, part, 24)
    for name in ("val", "test"):
        rows = [{(r, s + i) for i in range(24)} for r, s, p in zip(recording, row, part, strict=True) if p == name]
        seen = {(r, s + i) for r, s, p in zip(recording, row, part, strict=True) if p == "train" for i in range(24)}
        assert found[name] == pytest.approx(np.mean([bool(own & seen) for own in rows]))
    assert overlapping(recording, row, np.where(recording == "a", "train", "test"), 24) == {"test": 0.0}
