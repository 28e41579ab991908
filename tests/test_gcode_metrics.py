"""What lines of G-code are worth: each figure again, by other means, on lines made by hand."""

import numpy as np
import pytest

from callbacks.report_gcode_files import LinePredictions, field_ids, joined, line_ids
from modules import gcode_tokens, line_metrics
from modules.line_metrics import measured

LINES = ["G1 X1.575 Y-0.1254 F40", "X3.5", "G0 Z0.25", "G2 X1 Y1 R0.375", "M30", "G1 X-0.1254"]
VOCABULARY = gcode_tokens.Vocabulary.build(LINES[:5])  # it does not know the last number


def padded(rows, fill):
    width = max(len(row) for row in rows)
    return np.stack([np.pad(row, [(0, width - len(row)), *[(0, 0)] * (np.ndim(row) - 1)], constant_values=fill)
                     for row in map(np.asarray, rows)])  # fmt: skip


def fields_of(line, digits=6):
    """Fields of a line and of its end."""
    return np.concatenate([VOCABULARY.fields(line, digits), [[0] + [-1] * (3 + digits)]])


def predictions(said=None, free=None, flat=None):
    """A decoder that is right but for what is given."""
    fields = padded([fields_of(line) for line in LINES], -1)
    tokens = line_ids(VOCABULARY, LINES, 1)
    forced = np.maximum(fields, 0) if said is None else said  # every head always says something
    prob = np.eye(3)[[0, 1, 2, 0, 1, 2]].astype(np.float32)
    free = LINES if free is None else free
    ids = field_ids(VOCABULARY, fields, forced) if flat is None else flat
    logp = np.where(tokens > 0, -0.1, 0)
    return LinePredictions(
        id=np.array([f"r{i // 2}/{i}" for i in range(6)]), group=np.array([f"r{i // 2}" for i in range(6)]),
        y=np.array([0, 1, 2, 0, 1, 1]), prob=prob, class_names=np.array(["a", "b", "c"]), row=np.arange(6),
        line=np.array(LINES), free=np.array(free), tokens=tokens, fields=fields, forced_fields=forced, forced_ids=ids,
        flat_ids=np.full_like(tokens, -1) if flat is None else flat, forced_logp=logp,
        free_ids=line_ids(VOCABULARY, free, 1), free_logp=logp, anomaly=np.zeros(6), by_id=np.array(flat is not None),
    )  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_lines_are_split_as_the_parser_splits_them(line):
    parsed = gcode_tokens.tokens(line)
    names = {gcode_tokens.COMMAND: "command", gcode_tokens.LETTER: "letter", gcode_tokens.NUMBER: "number"}
    assert [word.kind for word in line_metrics.split(line)] == [*(names[token.type] for token in parsed), "end"]
    texts = [token.text + ("" if token.value is None else gcode_tokens.plain(token.value)) for token in parsed]
    assert [word.text for word in line_metrics.split(line)[:-1]] == texts


def test_broken_lines_are_split_too():
    assert [word.kind for word in line_metrics.split("X Y1 2 R?")] == [
        *("letter", "letter", "number", "number", "letter", "number", "end")
    ]
    assert line_metrics.lengths_of("X Y1 R?") == {"Y": 25.4}


def test_a_perfect_decoder_is_perfect_in_every_figure():
    found = measured({n: s for n, s in predictions().sums.items() if not n.startswith(("mm_", "edit_", "nll"))})
    wrong = {name: value for name, value in found.items() if value != 1 and not np.isnan(value)}
    assert wrong == {"operation_accuracy": pytest.approx(5 / 6)}
    errors = measured({n: s for n, s in predictions().sums.items() if n.startswith(("mm_", "edit_"))})
    assert {value for value in errors.values() if not np.isnan(value)} == {0.0}
    assert measured(predictions().sums)["nll"] == pytest.approx(0.1)


def test_free_figures_again_by_hand():
    free = ["G1 X1.6 Y-0.1254 F40", "X3.5 Y1", "G0", "G2 X1 Y1 R0.375", "M30 X", "G1 X-0.1"]
    found = measured(predictions(free=free).sums)
    assert found["line_accuracy"] == pytest.approx(1 / 6)
    # tokens with the end: 8, 3, 4, 8, 2, 4; right: all but one number; X 3.5; G0; all; M30; G1 X and the end
    assert found["token_accuracy_free"] == pytest.approx((7 + 2 + 1 + 8 + 1 + 3) / (8 + 3 + 4 + 8 + 2 + 4))
    assert found["token_accuracy_free_no_eos"] == pytest.approx((6 + 2 + 1 + 7 + 1 + 2) / (7 + 2 + 3 + 7 + 1 + 3))
    assert found["free_number"] == pytest.approx((2 + 1 + 0 + 3 + 0) / (3 + 1 + 1 + 3 + 1))
    assert found["free_end"] == pytest.approx(3 / 6)
    assert found["edit_distance"] == pytest.approx((1 + 2 + 2 + 0 + 1 + 1) / 6)
    assert found["edit_share"] == pytest.approx(7 / 23)
    assert found["mm_X"] == pytest.approx(np.mean([0.025 * 25.4, 0, 0, 0.0254 * 25.4]))
    assert found["found_Z"] == 0 and np.isnan(found["mm_Z"])
    assert found["validity"] == pytest.approx(sum(map(gcode_tokens.valid, free)) / 6) and found["validity"] < 1


def test_forced_figures_again_by_hand():
    right = predictions()
    said = right.forced_fields.copy()
    said[0, 2, -1] += 1  # the last digit of X1.575
    said[0, 1, 2] = 3  # the letter X
    said[3, 7, 0] = 1  # the end of G2 ...
    found, total = measured(predictions(said).sums), 8 + 3 + 4 + 8 + 2 + 4
    assert found["token_accuracy"] == pytest.approx((total - 3) / total)
    assert found["forced_number"] == pytest.approx(8 / 9) and found["forced_letter"] == pytest.approx(8 / 9)
    assert found["forced_end"] == pytest.approx(5 / 6)
    assert found["head_type"] == pytest.approx((total - 1) / total) and found["head_command"] == 1
    assert found["head_param"] == pytest.approx(17 / 18) and found["head_digit6"] == pytest.approx(8 / 9)
    assert found["head_sign"] == found["head_digit1"] == 1
    unknown = (right.tokens == line_metrics.UNK).sum()
    assert unknown == 1  # X-0.1254, whose digits are said all the same
    assert found["token_accuracy_no_eos"] == pytest.approx((total - 6 - unknown - 2) / (total - 6 - unknown))


def test_the_brief_s_own_figure_counts_the_end_and_unknown_tokens():
    right = predictions()
    assert (right.forced_ids == right.tokens)[right.tokens > 0].all()
    flat = right.tokens.copy()
    flat[1, 1] = line_metrics.UNK
    found, total = predictions(flat=flat), (right.tokens > 0).sum()
    values = measured(found.sums)
    assert values["token_accuracy_brief"] == pytest.approx((total - 1) / total)
    assert values["token_accuracy"] == pytest.approx((total - 2) / total)  # an unknown token is no answer
    assert values["line_accuracy_brief"] == 1


def test_a_command_that_the_vocabulary_does_not_know_is_never_right():
    tokens, fields = np.array([[line_metrics.UNK, line_metrics.EOS]]), fields_of("M5")[None]
    assert fields[0, 0, 1] == -1
    found = measured(line_metrics.forced_sums(tokens, fields, np.maximum(fields, 0)))
    assert found["token_accuracy"] == 0.5 and found["head_type"] == 1


def test_fields_become_the_ids_that_the_vocabulary_gives_their_text():
    for line in LINES:
        fields = fields_of(line)[None]
        assert field_ids(VOCABULARY, fields, fields)[0].tolist() == [*VOCABULARY.encode(line), line_metrics.EOS]
    no_letter = fields_of("X3.5")[None]
    no_letter[0, 1, 2] = -1
    assert field_ids(VOCABULARY, fields_of("X3.5")[None], no_letter)[0].tolist()[1] == VOCABULARY.encode("X3.5")[1]


def test_intervals_resample_recordings_and_not_windows():
    found = predictions(free=[*LINES[:4], "G0", "G0"])
    drawn = line_metrics.resampled(found.sums, found.group, 2000)["line_accuracy"]
    assert {round(value, 6) for value in drawn} == {round(k / 3, 6) for k in range(4)}
    assert drawn.mean() == pytest.approx(2 / 3, abs=0.03)
    low, high = line_metrics.intervals({"x": drawn})["x"]
    assert (low, high) == (0, 1)
    again = line_metrics.resampled(found.sums, found.group, 2000)["line_accuracy"]
    assert (drawn == again).all()


def test_confidence_and_coverage():
    confidence, right = np.array([0.9, 0.2, 0.8, 0.1]), np.array([1.0, 0, 1, 0])
    rows = line_metrics.at_coverage(confidence, right, (1.0, 0.5))
    assert [row["accuracy"] for row in rows] == [0.5, 1] and rows[1]["threshold"] == 0.8
    (kept,) = line_metrics.above(confidence, right, [0.15])
    assert kept["share"] == 0.75 and kept["accuracy"] == pytest.approx(2 / 3)
    assert np.isnan(line_metrics.above(confidence, right, [0.95])[0]["accuracy"])
    assert line_metrics.calibration_error(confidence, right) == pytest.approx((0.1 + 0.2 + 0.2 + 0.1) / 4)
    assert predictions().confidence[1] == pytest.approx(np.exp(-0.3))


def test_the_file_gives_back_what_was_stored(tmp_path):
    found = predictions(free=["", *LINES[1:]])
    again = LinePredictions.load(found.save(tmp_path / "predictions_test.npz"))
    assert all((again.sums[name] == sums).all() for name, sums in found.sums.items())
    assert len(again.at(np.array([1, 2])).id) == 2


def test_batches_of_other_widths_are_joined_in_the_order_of_the_records():
    one = {"id": np.array([3, 1, -1]), "tokens": np.ones((3, 2), int), "fields": np.ones((3, 2, 5), int)}
    two = {"id": np.array([0, 3]), "tokens": np.full((2, 4), 7), "fields": np.full((2, 4, 5), 7)}
    found = joined([one, two])
    assert found["id"].tolist() == [0, 1, 3]
    assert found["tokens"].tolist() == [[7] * 4, [1, 1, 0, 0], [1, 1, 0, 0]]
    assert found["fields"][1, :, 0].tolist() == [1, 1, -1, -1]
