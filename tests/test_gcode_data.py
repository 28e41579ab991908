import numpy as np
import pandas as pd
import pytest
import torch

from callbacks.stratified_split import StratifiedSplit
from datamodules.audit import audit
from datamodules.base import IGNORE, UNSEEN
from datamodules.errors import DataError
from datamodules.gcode import GcodeData
from datamodules.gcode_columns import Columns, filled
from datamodules.gcode_fitted import Fitted
from datamodules.gcode_recordings import OPERATIONS, PARENTS, clean, files_of, read_recording
from datamodules.gcode_stream import read_rows, stream_windows
from datamodules.samplers import IndexBatch
from datamodules.splits import make_split
from datamodules.synthetic.gcode import write_recordings
from modules.gcode_tokens import EOS, NO_TARGET, PAD
from tests.fake_data.gcode import folder, frame, write

SMALL = {"window": 16, "stride": 8, "synthetic_samples": 240, "batch_size": 16}
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def ready(seed=0, fractions=FRACTIONS, **settings):
    data = GcodeData(**{**SMALL, **settings})
    data.setup("fit")
    data.apply_split(make_split(data.records, fractions=fractions, seed=seed))
    return data


def whole(data, part="train", train=False, epoch=0):
    rows = data.indices(part).tolist()
    return data.dataset(data.indices(part), train).__getitems__(IndexBatch(rows, len(rows), 1 / len(rows), epoch, 0))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture(scope="module")
def data():
    return ready()


# records and batches


def test_records_are_windows_grouped_by_recording(data):
    records = data.records
    assert list(records.columns) == ["id", "group", "hash", "label", "given"] and records["id"].is_unique
    assert records["id"][1] == "adaptive150025_001/00008" and records["group"][1] == "adaptive150025_001"
    assert (
        records["hash"].is_unique and set(records["label"]) == set(OPERATIONS) and data.class_names == list(OPERATIONS)
    )
    assert 0.85 * 240 <= len(records) <= 1.15 * 240
    parts = data.table.groupby("group")["part"].nunique()
    assert (parts == 1).all(), "all windows of a recording are in one part"


def test_a_batch_has_what_the_networks_take(data):
    batch = whole(data)
    n, width, digits = len(data.indices("train")), data.input_dim, 6
    assert batch["continuous"].shape == (n, 16, width) and batch["continuous"].dtype == torch.float32
    assert batch["present"].shape == (n, width) and batch["present"].dtype == torch.bool
    assert batch["categorical"].shape == (n, 16, 4) and batch["categorical"].dtype == torch.int64
    longest = batch["y_tokens"].shape[1]
    assert batch["y_fields"].shape == (n, longest, 4 + digits) and longest <= data.max_tokens
    assert (batch["categorical"] < torch.tensor(data.categories)).all() and batch["categorical"].min() >= 0
    assert batch["y_tokens"].max() < data.vocab_size
    assert batch["y_fields"][..., 1].max() < data.num_commands and batch["y_fields"][..., 2].max() < data.num_params
    assert batch["y_row"].tolist() == data.rows[data.indices("train")].tolist()
    np.testing.assert_array_equal([OPERATIONS[i] for i in batch["y"]], data.records["label"][data.indices("train")])
    assert torch.isfinite(batch["continuous"]).all() and batch["continuous"].abs().max() < 30


def test_padding_rows_count_nowhere(data):
    rows = data.indices("train")[:3].tolist()
    batch = data.dataset(data.indices("train"), False).__getitems__(IndexBatch(rows, 2, 0.5, 0, 0))
    assert (
        batch["id"].tolist() == [*rows[:2], -1]
        and batch["y"][2] == IGNORE
        and batch["weight"].tolist() == [0.5, 0.5, 0]
    )
    assert (batch["y_tokens"][2] == PAD).all() and (batch["y_fields"][2] == NO_TARGET).all()


def test_readings_are_clipped_and_scaled_as_training_says(data):
    """Computed again from the tables, one channel at a time."""
    train = np.unique(data.where[data.indices("train"), 0])
    values, present = data.window_values(np.arange(len(data.records)))
    for channel, name in list(enumerate(data.fitted_columns.names))[::17]:
        parts = [rec.values[rec.usable(), rec.columns.index(name)] for rec in (data.recordings[i] for i in train)
                 if name in rec.columns]  # fmt: skip
        low, middle, high = np.quantile(np.concatenate(parts).astype(float), (0.25, 0.5, 0.75))
        reach = 3 * (high - low)
        for row in range(0, len(data.records), 31):
            i, start = data.where[row]
            recording = data.recordings[i]
            assert present[row, channel] == (name in recording.columns)
            if name not in recording.columns:
                assert not values[row, :, channel].any(), "what is missing is 0"
                continue
            raw = recording.values[start : start + 16, recording.columns.index(name)]
            wanted = (np.clip(raw, low - reach, high + reach) - middle) / (high - low)
            np.testing.assert_allclose(values[row, :, channel], wanted, rtol=1e-3, atol=1e-3)


def test_some_boards_are_missing_and_marked(data):
    names, has = data.boards()
    assert has[:, names.index("spindle2")].all() and not has[:, names.index("z_gant_2")].all()
    present = data.window_values(np.arange(len(data.records)))[1]
    channels = data.fitted_columns.boards()["z_gant_2"]
    np.testing.assert_array_equal(present[:, channels], np.repeat(has[:, [names.index("z_gant_2")]], len(channels), 1))


def test_tokens_and_fields_say_the_line(data):
    batch, rows = whole(data), data.indices("train")
    for ids, fields, row in zip(batch["y_tokens"].tolist(), batch["y_fields"].numpy(), rows, strict=True):
        assert data.vocabulary.decode(ids) == data.lines[row] == data.vocabulary.from_fields(fields)
        end = ids.index(EOS)
        assert set(ids[end + 1 :]) <= {PAD} and (fields[end + 1 :] == NO_TARGET).all() and fields[end, 0] == 0
        assert (fields[end, 1:] == NO_TARGET).all()


def test_the_line_is_the_most_frequent_one_of_the_window(data):
    for row in range(0, len(data.records), 7):
        i, start = data.where[row]
        recording = data.recordings[i]
        texts = [recording.texts[t] for t in recording.text[start : start + 16] if t >= 0]
        if texts:
            assert texts.count(data.lines[row]) == max(map(texts.count, texts))
            most = [text for text in texts if texts.count(text) == texts.count(data.lines[row])]
            assert data.lines[row] == most[0] and data._lines.ties[row] == (len(set(most)) > 1)
    assert data.tie_rate() == data._lines.ties.mean() > 0


@pytest.mark.parametrize("digits", [4, 6])
def test_digits_are_those_that_were_asked_for(digits):
    made = ready(digits=digits)
    assert whole(made)["y_fields"].shape[2] == 4 + digits and made.vocabulary.digits == digits


def test_targets_last_and_all():
    last, every = ready(target="last"), ready(target="all", max_tokens=64)
    two = ready(target="all", max_lines=2)
    for row in range(0, len(last.records), 5):
        i, start = last.where[row]
        recording = last.recordings[i]
        texts = [recording.texts[t] for t in recording.text[start : start + 16] if t >= 0]
        runs = [text for place, text in enumerate(texts) if place == 0 or text != texts[place - 1]]
        if texts and recording.name != "adaptive_002":
            assert last.lines[row] == texts[-1]
            assert "\n".join(runs).endswith(every.lines[row]) and every.lines[row].endswith(last.lines[row])
            assert two.lines[row] == "\n".join(runs[-2:])
    longest = max((len(every.vocabulary.encode(line)) for line in every.lines), default=0)
    assert 20 < longest < 64 and every._lines.cut_short > 0
    ids = whole(every)["y_tokens"]
    assert every.vocabulary.decode(ids[0].tolist()) == every.lines[every.indices("train")[0]]


def test_a_target_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"has [0-9]+ tokens with its end: set max_tokens"):
        whole(ready(max_tokens=7))


# fitted on training recordings alone


def test_what_is_fitted_does_not_see_the_test_recordings(tmp_path):
    path = folder(tmp_path / "in")
    settings = {"path": str(path), "window": 16, "stride": 8}
    data = ready(**settings)
    held = sorted(set(data.records["group"][data.indices("test")]))
    assert held
    for name in held:  # other readings, another board, other lines, other codes
        table = frame(40, ("frame_r1", "new_board"), seed=99)
        table = table.assign(stat=9, gcode_string="G1 X9.999", **{"frame_r1.Ax": table["frame_r1.Ax"] * 1000 + 7})
        write(table, path / f"{name}_aligned.csv")
    changed = GcodeData(**{**SMALL, **settings})
    changed.setup("fit")
    table = data.table.assign(hash=changed.records["hash"])
    changed.apply_split(table)
    assert changed.state_dict() == data.state_dict()
    test = whole(changed, "test")
    assert (test["categorical"][..., 0] == 0).all(), "an unknown code has the unknown slot"
    assert (test["y_tokens"] == 3).any(), "a number that training did not see is UNK"
    assert not any("new_board" in name for name in changed.fitted_columns.names)


def test_a_changed_training_recording_changes_what_is_fitted(tmp_path):
    path = folder(tmp_path / "in")
    settings = {"path": str(path), "window": 16, "stride": 8}
    data = ready(**settings)
    name = data.records["group"][data.indices("train")[0]]
    table = frame(40, ("frame_r1", "spindle2", "y_bed__3"), seed=98)
    write(table.assign(**{"frame_r1.Ax": table["frame_r1.Ax"] * 1000}), path / f"{name}_aligned.csv")
    changed = GcodeData(**{**SMALL, **settings})
    changed.setup("fit")
    changed.apply_split(data.table)
    one, other = data.fitted_columns, changed.fitted_columns
    place = one.names.index("frame_r1.Ax")
    assert one.names == other.names and one.high[place] < other.high[place]


def test_what_was_fitted_travels_as_plain_values(data, tmp_path):
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert Fitted.from_state(state).state_dict() == data.state_dict()
    other = ready(seed=3)
    assert other.state_dict() != data.state_dict()
    other.load_state_dict(state)
    assert other.state_dict() == data.state_dict() and other.input_dim == data.input_dim
    other.apply_split(other.table)  # the same split again: what was loaded stays
    assert other.state_dict() == data.state_dict()


def test_a_channel_without_a_spread_stays_finite():
    table = frame(30).assign(**{"frame_r1.Pressure": 99.6})
    table.loc[3, "frame_r1.Pressure"] = 99.7
    recording = clean(table, "x", "face_001", "face")
    columns = Columns.fit([recording], "all")
    values = columns.transform(recording)[0]
    assert np.isfinite(values).all() and abs(values).max() < 10
    flat = Columns.fit([clean(frame(30).assign(**{"frame_r1.Pressure": 99.6}), "x", "face_001", "face")], "all")
    assert "frame_r1.Pressure" in columns.names and "frame_r1.Pressure" not in flat.names


def test_readings_that_are_missing_in_between_are_filled_from_before():
    values = np.array([[np.nan, np.nan], [1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(filled(values), [[1, 0], [1, 0], [1, 0], [3, 0]])


# which channels


def test_the_three_choices_of_channels():
    recordings = ready().recordings
    shared = set.intersection(*(set(recording.columns) for recording in recordings))
    common, every, brief = (Columns.fit(recordings, choice) for choice in ("common", "all", "brief"))
    assert set(common.names) == {name for name in shared if not name.endswith("_A")}
    assert set(every.names) > set(common.names) and len(every.names) == 8 * 17 + 3 + 4
    first = min(recordings, key=lambda recording: recording.name)
    assert set(brief.names) <= set(first.columns) and 0 < len(brief.names) < len(first.columns)
    rows = np.concatenate([rec.values[:, [rec.columns.index(name) for name in brief.names if name in rec.columns]]
                           for rec in sorted(recordings, key=lambda rec: rec.name)[:1]])  # fmt: skip
    assert rows.shape[1] == len(brief.names)


def test_channels_that_move_together_are_left_out_by_the_brief_rule():
    rng = np.random.default_rng(0)
    table = frame(60)
    x = rng.normal(size=60)
    table["frame_r1.Ax"], table["frame_r1.Gx"] = x, 3 * x + 0.01 * rng.normal(size=60)
    table["frame_r1.RMS"] = 1.0
    names = Columns.fit([clean(table, "x", "face_001", "face")], "brief").names
    assert "frame_r1.Gx" in names and "frame_r1.Ax" not in names, "the one with the larger variance stays"
    assert "frame_r1.RMS" not in names and ("spindle" in names) != ("spindle_A" in names)


def test_dropped_modalities_are_gone(data):
    without = ready(drop=["machine_position", "accelerometer", "frame_r2"])
    groups = without.channel_groups()
    assert "machine_position" not in groups and not any(name.startswith("accelerometer") for name in groups)
    assert not any(name.startswith(("mpo", "frame_r2.")) or name.endswith((".Ax", ".Ay", ".Az"))
                   for name in without.fitted_columns.names)  # fmt: skip
    places = sorted(place for channels in groups.values() for place in channels)
    assert places == list(range(without.input_dim)) and without.input_dim < data.input_dim
    with pytest.raises(ValueError, match="'pressur' is no modality and no board"):
        ready(drop=["pressur"])


# protocols


def test_the_leaky_protocol_is_called_a_leak():
    leaky = ready(protocol="leaky_random_windows")
    assert (leaky.records["group"] == leaky.records["id"]).all()
    report = audit(leaky.records, leaky.table, None, None, leaky.findings())
    assert [finding.kind for finding in report.leaks] == ["overlapping_windows"]
    finding = report.leaks[0]
    near = [sum(i == j and abs(a - b) < 16 for j, b in leaky.where.tolist()) - 1 for i, a in leaky.where.tolist()]
    assert finding.count == sum(count > 0 for count in near) > 0 and "by_recording" in finding.message
    assert not audit(ready().records, ready().table, None, None, ready().findings()).leaks


def test_damaged_tools_can_be_what_is_tested():
    paired = ready(pair_damage=True, fractions={"train": 0.8, "val": 0.2, "test": 0.0})
    test = paired.indices("test")
    operations = [paired.recordings[i].operation for i in paired.where[:, 0]]
    assert {operations[row] for row in test} == set(PARENTS)
    assert not set(PARENTS) & {operations[row] for row in [*paired.indices("train"), *paired.indices("val")]}
    assert all(paired.records["label"][row] == PARENTS[operations[row]] for row in test)
    assert paired.num_classes == 6 and UNSEEN not in whole(paired, "test")["y"]
    assert set(paired.facets()["tool"][test]) == {"damaged"}


# lost text


def test_lost_text_is_refilled_from_training_recordings_of_the_class():
    data, plain = ready(), ready(fill_text=False)
    lost = [
        row
        for row, (i, start) in enumerate(data.where.tolist())
        if data.recordings[i].name == "adaptive_002" and (data.recordings[i].text[start : start + 16] < 0).any()
    ]
    assert lost and data.refused["rows with sensors and without text"] == 8
    other = next(rec for rec in data.recordings if rec.name == "adaptive_001")
    by_number = {int(number): other.texts[text] for number, text in zip(other.line, other.text, strict=True)}
    text, texts = data.fitted.texts_of(next(rec for rec in data.recordings if rec.name == "adaptive_002"))
    recording = next(rec for rec in data.recordings if rec.name == "adaptive_002")
    gaps = np.flatnonzero(recording.text < 0)
    known = [row for row in gaps if int(recording.line[row]) in by_number]
    assert known and all(texts[text[row]] == by_number[int(recording.line[row])] for row in known)
    assert (data.fitted.texts_of(other)[0] == other.text).all()
    assert [data.lines[row] for row in lost] != [plain.lines[row] for row in lost]


def test_a_window_without_a_line_teaches_no_tokens(tmp_path):
    path = folder(tmp_path / "in")
    write(frame(40).assign(gcode_string=None, gcode_line=np.nan, line=np.nan), path / "face_001_aligned.csv")
    data = ready(path=str(path))
    rows = [row for row, name in enumerate(data.records["id"]) if name.startswith("face_001")]
    assert rows and all(data.lines[row] == "" for row in rows)
    batch = data.dataset(np.array(rows), False).__getitems__(IndexBatch(rows, len(rows), 1.0, 0, 0))
    assert (batch["y_tokens"] == PAD).all() and (batch["y_fields"] == NO_TARGET).all() and batch["y"].min() >= 0


# augmentation


@pytest.mark.parametrize("knob", [{"noise": 0.1}, {"offset": 0.1}, {"scale": 0.1}, {"board_dropout": 0.4}])
def test_each_augmentation_changes_training_batches_only(knob, data):
    changed = ready(**knob)
    assert same(whole(data), whole(changed)) and same(whole(data, "val"), whole(changed, "val"))
    one, two, other = (whole(changed, train=True, epoch=epoch) for epoch in (0, 0, 1))
    assert same(one, two) and not same(one, other) and not same(one, whole(data, train=True))
    alone = changed.indices("train")[[3]]
    row = changed.dataset(alone, True).__getitems__(IndexBatch(alone.tolist(), 1, 1.0, 0, 0))
    assert torch.equal(row["continuous"][0], one["continuous"][3]), "keyed by the window, whatever is beside it"
    gone = ~one["present"]
    assert not one["continuous"].transpose(1, 2)[gone].any(), "what is missing stays 0"
    if "board_dropout" in knob:
        boards = changed.fitted_columns.boards().values()
        before = whole(data)["present"]
        lost = [(before[:, channels] & gone[:, channels]).any(1).float().mean() for channels in boards]
        assert 0.2 < np.mean(lost) < 0.6
        for channels in boards:
            assert (one["present"][:, channels] == (before[:, channels] & one["present"][:, channels[:1]])).all()
    else:
        assert torch.equal(one["present"], whole(data)["present"])
    if "offset" in knob:
        shift = one["continuous"] - whole(data)["continuous"]
        assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-5), "the same over the window"
        shifted = shift[:, 0][one["present"]]
        assert shifted.std().item() == pytest.approx(0.1, rel=0.05) and abs(shifted.mean().item()) < 0.01


# predicting


def test_predicting_sees_what_training_saw(data, tmp_path):
    write_recordings(tmp_path / "in", 240, window=16, stride=8, text=False)
    other = GcodeData(predict_path=str(tmp_path / "in"), **SMALL)
    other.setup("predict")
    other.load_state_dict(data.state_dict())
    assert list(other.records["id"]) == list(data.records["id"]) and set(other.records["label"]) == {""}
    rows = np.arange(len(data.records))
    for one, two in zip(data.window_values(rows), other.window_values(rows), strict=True):
        np.testing.assert_array_equal(one, two)
    batch = next(iter(other.predict_dataloader()))
    assert set(batch["y"].tolist()) == {IGNORE} and (batch["y_tokens"] == PAD).all()
    one = GcodeData(predict_path=str(files_of(tmp_path / "in")[0]), **SMALL)
    one.setup("predict")
    assert one.records["group"].nunique() == 1


def test_a_stream_gives_the_windows_of_the_file(data, tmp_path):
    write_recordings(tmp_path / "in", 240, window=16, stride=8)
    for name in ("pocket150025_002", "face150025_001", "face_001"):  # a gap; empty rows; a plain one
        path = tmp_path / "in" / f"{name}_aligned.csv"
        recording = read_recording(path)
        wanted = [int(start) for i, start in data.where if data.recordings[i].name == name]
        values, present, codes = data.fitted_columns.transform(recording)
        with open(path, encoding="utf-8", newline="") as file:
            found = list(stream_windows(read_rows(file), data.fitted_columns, 16, 8))
        assert [one.start for one in found] == wanted
        for one in found:
            rows = slice(one.start, one.start + 16)
            np.testing.assert_allclose(one.batch["continuous"][0], values[rows], atol=1e-6)
            np.testing.assert_array_equal(one.batch["present"][0], present)
            np.testing.assert_array_equal(one.batch["categorical"][0], codes[rows])


def test_a_stream_says_which_report_is_wrong(data):
    rows = frame(20).to_dict("records")
    rows[7]["t_console"] = "later"
    with pytest.raises(DataError, match="stream, report 7: t_console is 'later'"):
        list(stream_windows(rows, data.fitted_columns, 4, 4))
    rows[7] = rows[8] | {"spindle": "high"}
    with pytest.raises(DataError, match="stream, report 7: spindle is 'high', and not a number"):
        list(stream_windows(rows, data.fitted_columns, 4, 4))


# the brief's arrays


@pytest.fixture(scope="module")
def arrays(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays")
    assert data.write_parts(path, data.table) == {part: len(data.indices(part)) for part in ("train", "val", "test")}
    return path


def test_arrays_have_the_keys_of_the_brief(arrays, data):
    with np.load(arrays / "train_sequences.npz", allow_pickle=False) as file:
        shapes = {key: file[key].shape for key in file.files}
        n, longest = len(data.indices("train")), file["tokens"].shape[1]
        assert shapes == {"continuous": (n, 16, data.input_dim), "categorical": (n, 16, 4), "tokens": (n, longest),
                          "lengths": (n,), "gcode_texts": (n,), "operation_type": (n,),
                          "operation_type_names": (9,)}  # fmt: skip
        assert file["operation_type_names"].tolist() == list(OPERATIONS)
        np.testing.assert_array_equal(file["continuous"], whole(data)["continuous"])


def test_arrays_are_read_as_the_split_they_give(arrays, data):
    for vocabulary in (None, str(arrays / "vocabulary.json")):
        read = GcodeData(**{**SMALL, "path": str(arrays), "vocabulary": vocabulary})
        read.setup("fit")
        table = make_split(read.records, fractions=FRACTIONS | {"train": 0.8, "test": 0.0}, seed=0)
        read.apply_split(table)
        for part in ("train", "val", "test"):
            assert [read.lines[row] for row in read.indices(part)] == [data.lines[row] for row in data.indices(part)]
            assert list(read.records["label"][read.indices(part)]) == list(data.records["label"][data.indices(part)])
        assert not audit(read.records, table, None, None, read.findings()).leaks
        order = [row for part in ("train", "val", "test") for row in data.indices(part)]
        joined = pd.DataFrame({"group": read.records["group"], "recording": data.records["group"].to_numpy()[order]})
        assert (joined.groupby("group")["recording"].nunique() == 1).all(), "windows that overlap are one recording"
        assert joined["group"].nunique() == joined["recording"].nunique() + 1  # one recording has a gap


def test_arrays_that_were_dealt_out_at_random_are_found(tmp_path):
    leaky = ready(protocol="leaky_random_windows")
    leaky.write_parts(tmp_path, leaky.table)
    read = GcodeData(**{**SMALL, "path": str(tmp_path)})
    read.setup("fit")
    table = read.records.assign(part=read.records["given"])
    report = audit(read.records, table, None, None, read.findings())
    assert [finding.kind for finding in report.leaks] == ["group_crosses_parts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"continuous": None}, r"train_sequences\.npz: key continuous is missing \(categorical, tokens"),
        ({"operation_type": np.array(["face"], dtype=object)}, r"train_sequences\.npz: cannot be read .*object arrays"),
        ({"operation_type": np.array([9] * 500)}, "operation_type has shape|operation_type 9 in row 0 is none of"),
        ({"continuous": np.zeros((3, 16))}, "continuous has shape"),
        ({"categorical": np.zeros((3, 16, 4))}, "categorical has shape .* integer values"),
        ({"gcode_texts": np.array(["G1"], dtype=object)}, r"gcode_texts cannot be read .*--data\.vocabulary"),
    ],
)
def test_arrays_with_wrong_keys_get_one_clear_error(arrays, tmp_path, change, message):
    for part in ("train", "val", "test"):
        with np.load(arrays / f"{part}_sequences.npz") as file:
            content = {**file, **(change if part == "train" else {})}
        np.savez(tmp_path / f"{part}_sequences.npz", **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(DataError, match=message):
        GcodeData(**{**SMALL, "path": str(tmp_path)}).setup("fit")


def test_arrays_of_other_windows_or_without_names_are_refused(arrays, tmp_path):
    with pytest.raises(DataError, match=r"windows have 16 rows.*set --data\.window"):
        GcodeData(**{**SMALL, "path": str(arrays), "window": 8}).setup("fit")
    with pytest.raises(DataError, match="do not name their channels"):
        GcodeData(**{**SMALL, "path": str(arrays), "drop": ["pressure"]}).setup("fit")
    (tmp_path / "train_sequences.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"val_sequences\.npz is missing"):
        GcodeData(**{**SMALL, "path": str(tmp_path)}).setup("fit")


# settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": "best"}, "columns='best' must be one of common, brief, all"),
        ({"target": "first"}, "target='first' must be one of"),
        ({"digits": 5}, "digits=5 must be one of 4, 6"),
        ({"protocol": "random"}, "protocol='random' must be one of"),
        ({"window": 1}, "window=1 must be at least 2"),
        ({"max_lines": 3}, "needs target: all"),
        ({"board_dropout": 1.0}, "board_dropout < 1"),
        ({"pair_damage": True, "protocol": "leaky_random_windows"}, "needs protocol: by_recording"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GcodeData(**settings)


def test_a_vocabulary_of_a_file_is_used(arrays, data, tmp_path):
    given = ready(vocabulary=str(arrays / "vocabulary.json"), seed=1)
    assert given.vocabulary.entries == data.vocabulary.entries
    with pytest.raises(DataError, match=r"has no entry NEWLINE"):
        ready(vocabulary=str(arrays / "vocabulary.json"), target="all")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json: not a vocabulary"):
        ready(vocabulary=str(tmp_path / "bad.json"))


def test_windows_longer_than_any_recording_are_refused():
    with pytest.raises(DataError, match="no recording has 500 rows without a gap"):
        data = GcodeData(**SMALL)
        data.window = 500
        data.setup("fit")


def test_facts_for_the_report(data):
    facts = data.describe()
    assert facts["recordings"] == 33 and facts["tie_rate"] == round(data.tie_rate(), 4)
    assert facts["refused"] == data.refused
    counts = data.field_counts()
    fields = whole(data)["y_fields"]
    assert counts["type"].tolist() == [int((fields[..., 0] == kind).sum()) for kind in range(4)]
    assert len(counts["command"]) == data.num_commands and len(counts["param"]) == data.num_params
    kinds = {finding.kind for finding in data.findings()}
    assert kinds == {"empty_rows", "gaps", "lost_text", "odd_clock", "missing_boards"}
    levels = data.class_levels()
    assert levels["program"][-3:] == ["adaptive150025", "face150025", "pocket150025"]
    assert set(levels["kind"]) == {"adaptive", "face", "pocket"}


def test_batches_of_similar_targets_pad_less(data):
    def padding(made):
        return sum((batch["y_tokens"] == PAD).sum().item() for batch in made.train_dataloader())

    assert padding(ready(bucket=True)) < padding(data)
    np.testing.assert_array_equal(data.lengths()[data.indices("train")], (whole(data)["y_tokens"] != PAD).sum(1))


def test_workers_change_nothing(data):
    settings = {"noise": 0.1, "board_dropout": 0.2}
    own, workers = ready(**settings).train_dataloader(), ready(num_workers=2, **settings).train_dataloader()
    assert all(same(one, two) for one, two in zip(own, workers, strict=True))


def test_tokens_of_arrays_are_read_where_texts_are_objects(arrays, data, tmp_path):
    for part in ("train", "val", "test"):
        with np.load(arrays / f"{part}_sequences.npz") as file:
            content = {**file, "gcode_texts": file["gcode_texts"].astype(object)}
        content["tokens"][0, :2] = [3, 3]  # unknown words of a foreign vocabulary
        np.savez(tmp_path / f"{part}_sequences.npz", **content)
    read = GcodeData(**{**SMALL, "path": str(tmp_path), "vocabulary": str(arrays / "vocabulary.json")})
    read.setup("fit")
    read.apply_split(read.records.assign(part=read.records["given"]))
    first, *rest = read.indices("train")
    assert read.lines[first] == "", "what an unknown word was, nobody can say"
    assert [read.lines[row] for row in rest] == [data.lines[row] for row in data.indices("train")[1:]]


def test_a_channel_that_one_recording_only_names_is_not_common():
    """Files of one schema have an empty column for a board that a recording lacks."""
    whole = frame(40)
    lacking = frame(40, seed=1).assign(**{name: np.nan for name in whole if name.startswith("spindle2.")})
    recordings = [clean(table, name, name, "face") for name, table in (("face_001", whole), ("face_002", lacking))]
    names = Columns.fit(recordings, "common").names
    assert "frame_r1.Ax" in names and not [name for name in names if name.startswith("spindle2.")]


def test_a_line_without_tokens_is_named_with_its_recording(tmp_path):
    tables = folder(tmp_path / "cnc")
    path = sorted(tables.glob("*.csv"))[0]
    table = pd.read_csv(path)
    table.loc[3, "gcode_string"] = "G43 H1"
    table.to_csv(path, index=False)
    data = GcodeData(path=str(tables), window=8, stride=4)
    data.setup("fit")
    with pytest.raises(DataError, match="letter H is not known") as error:
        data.apply_split(StratifiedSplit(train=1.0, val=0.0, test=0.0).draw(data))
    assert path.stem.removesuffix("_aligned") in str(error.value) and "G43 H1" in str(error.value)
