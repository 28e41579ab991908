import numpy as np
import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.gcode_prepared import Counts, key_of, read_prepared
from datamodules.gcode_recordings import (
    OPERATIONS,
    board_of,
    clean,
    files_of,
    group_of,
    operations_in_order,
    read_recording,
    split_name,
)
from datamodules.gcode_windows import segments, target_of, window_starts
from tests.fake_data.gcode import clock, folder, frame, write


def cleaned(table, **settings):
    return clean(table, "file.csv", "adaptive_001", "adaptive", **settings)


def test_a_recording_holds_what_the_names_say():
    table = frame(12)
    recording = cleaned(table)
    assert len(recording) == 12 and recording.values.dtype == np.float32
    assert set(recording.columns) == {name for name in table if group_of(name)}
    for name in ("mpox", "spindle", "x_motor_A", "frame_r1.Ax", "spindle2.RMS"):
        np.testing.assert_array_equal(recording.values[:, recording.columns.index(name)], table[name])
    for name in ("posx", "feed", "momo", "line", "gcode_line", "stat", "raw_json", "t_console", "vel"):
        assert name not in recording.columns, f"{name} spells the answer, or is no reading"
    assert recording.codes[0].tolist() == [5, 0, 0, 2] and recording.line[0] == 16
    lines = ["G0 X1 Y2", "G1 Z-0.1254 F40", "X3.275", "G2 X1.5 Y0.5 R0.375", "G1 X-0.1254", "M30"]
    assert [recording.texts[i] for i in recording.text][::2] == lines
    np.testing.assert_allclose(np.diff(recording.seconds), 0.257, atol=1e-3)


def test_the_order_of_the_columns_says_nothing_about_the_readings():
    table = frame(12)
    turned = cleaned(table[table.columns[::-1]])
    recording = cleaned(table)
    assert turned.columns == recording.columns[::-1]
    np.testing.assert_array_equal(turned.values, recording.values[:, ::-1])
    np.testing.assert_array_equal(turned.text, recording.text)


def test_modalities_and_boards_come_from_names():
    assert group_of("y_bed__3.Gz") == "gyroscope_z" and board_of("y_bed__3.Gz") == "y_bed__3"
    assert group_of("frame_r2.ColorA") == "colour" and group_of("z_motor_A") == "motor_current"
    assert group_of("mpoz") == "machine_position" and board_of("mpoz") == "controller"
    assert group_of("Ax") is None and group_of("frame_r2.Humidity") is None and group_of("posx") is None


def test_both_clocks_are_read_and_the_short_one_is_noted():
    table = frame(12)
    long = cleaned(table)
    short = cleaned(table.assign(t_console=[text[3:-2] for text in table["t_console"]]))
    np.testing.assert_allclose(np.diff(short.seconds), np.diff(long.seconds), atol=0.1001)
    assert short.notes == {"rows with a clock without hours": 12} and long.notes == {}


def test_missing_values_are_marked():
    table = frame(12)
    table.loc[3, "frame_r1.Ax"] = np.nan
    table.loc[4, "frame_r1.Ax"] = np.inf
    table.loc[5, ["coor", "gcode_line", "gcode_string"]] = None
    recording = cleaned(table)
    column = recording.values[:, recording.columns.index("frame_r1.Ax")]
    assert np.flatnonzero(np.isnan(column)).tolist() == [3, 4]
    assert recording.codes[5].tolist() == [5, 0, 0, -1] and recording.text[5] == -1
    assert recording.line[5] == table["line"][5], "the number of the line is in another column, too"
    assert recording.notes == {"infinite readings": 1, "rows without coor": 1}


def test_words_with_a_bare_point_are_numbers():
    recording = cleaned(frame(12).assign(gcode_string=["G53 G0 Z0.", "F40."] * 6))
    assert recording.texts == ("G53 G0 Z0", "F40")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="t_console"), "column t_console is missing"),
        (lambda t: t.drop(columns="gcode_string"), "column gcode_string is missing"),
        (lambda t: t.assign(t_console="noon"), "file.csv, row 0: t_console is 'noon', and not a time"),
        (lambda t: t.assign(**{"frame_r1.Ax": ["0.1"] * 7 + ["high"] + ["0.2"] * 4}), "row 7: frame_r1.Ax is 'high'"),
        (lambda t: t.assign(stat=5.5), "row 0: stat is '5.5', and not a whole number"),
        (lambda t: t.assign(unit="mm"), "row 0: unit is 'mm', and not a whole number"),
        (lambda t: t.assign(gcode_string=["G1 X1"] * 9 + ["X=3"] * 3), "row 9: gcode_string is no G-code: 'X=3'"),
        (lambda t: t[["t_console", "stat", "unit", "dist", "coor", "mpox", "gcode_string"]], "no sensor column"),
        (lambda t: pd.concat([t, t[["spindle"]]], axis=1), "column spindle is there twice"),
    ],
)
def test_bad_tables_get_one_clear_error(change, message):
    with pytest.raises(DataError, match=message):
        cleaned(change(frame(12)))


def test_names_of_files_say_the_operation():
    assert split_name("data/adaptive150025_001_aligned.csv") == ("adaptive150025_001", "adaptive150025")
    assert split_name("damageface_004.parquet") == ("damageface_004", "damageface")
    with pytest.raises(DataError, match="has to say the operation and a number"):
        split_name("run one.csv")


def test_the_classes_have_one_fixed_order():
    assert OPERATIONS == ("adaptive", "adaptive150025", "face", "face150025", "pocket", "pocket150025",
                          "damageadaptive", "damageface", "damagepocket")  # fmt: skip
    assert operations_in_order(["zeta", "damageface", "pocket", "alpha", "face"]) == [
        *("face", "pocket", "damageface"),
        *("alpha", "zeta"),
    ]


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        files_of(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no \.csv or \.parquet"):
        files_of(tmp_path)
    folder(tmp_path / "inner", each=1)
    with pytest.raises(DataError, match=r"did you mean .*inner"):
        files_of(tmp_path)
    write(frame(12), tmp_path / "inner" / "face_001.parquet")
    with pytest.raises(DataError, match="face_001 lies there twice"):
        files_of(tmp_path / "inner")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "face_001.parquet"
    path.write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match=r"face_001\.parquet: cannot be read"):
        read_recording(path)


def test_csv_and_parquet_give_the_same_recording(tmp_path):
    table = frame(12)
    one = read_recording(write(table, tmp_path / "a" / "face_001.csv"))
    other = read_recording(write(table, tmp_path / "b" / "face_001.parquet"))
    assert one.hash == other.hash and one.columns == other.columns and one.name == other.name == "face_001"


# windows


def broken(rows=60):
    """Two gaps, a clock that jumps back, and rows without sensors."""
    table = frame(rows)
    seconds = 45_000 + np.arange(rows) * 0.257
    seconds[20:] += 30  # a gap
    seconds[40:] -= 40  # and back
    table["t_console"] = [clock(t) for t in seconds]
    sensors = [name for name in table if "." in name or "motor" in name or name.startswith("spindle")]
    table.loc[50:53, sensors] = np.nan
    return cleaned(table)


def test_no_window_crosses_a_gap_or_holds_an_empty_row():
    recording = broken()
    assert segments(recording) == [(0, 20), (20, 40), (40, 50), (54, 60)]
    assert window_starts(recording, 6, 4) == [0, 4, 8, 12, 20, 24, 28, 32, 40, 44, 54]
    for start in window_starts(recording, 6, 1):
        rows = slice(start, start + 6)
        assert recording.usable()[rows].all()
        assert (np.diff(recording.seconds[rows]) > 0).all() and np.diff(recording.seconds[rows]).max() < 5


def test_a_position_alone_is_no_sensor():
    table = frame(12)
    sensors = [name for name in table if "." in name or "motor" in name or name.startswith("spindle")]
    table.loc[:, sensors] = np.nan
    assert segments(cleaned(table)) == []


def test_a_whole_recording_is_one_stretch_and_only_whole_windows_count():
    recording = cleaned(frame(40))
    assert segments(recording) == [(0, 40)] and window_starts(recording, 16, 8) == [0, 8, 16, 24]
    assert window_starts(recording, 41, 1) == []


def test_the_target_of_a_window():
    text = np.array([2, 0, 0, 1, 1, -1, 3])
    assert target_of(text, "mode", None) == ([0], True)  # 0 and 1 come twice, 0 first
    assert target_of(text[3:], "mode", None) == ([1], False)
    assert target_of(text, "last", None) == ([3], False)
    assert target_of(text[:6], "last", None) == ([1], False)  # the last row has none
    assert target_of(np.array([2, 0, 0, 2]), "all", None) == ([2, 0, 2], False)
    assert target_of(np.array([2, 0, 0, 2]), "all", 2) == ([0, 2], False)
    assert target_of(np.full(4, -1), "mode", None) == ([], False)


def test_a_tie_goes_to_the_line_that_comes_first_whatever_its_text():
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        assert target_of(np.array(order), "mode", None) == ([order[0]], True)


# prepared arrays


def test_prepared_arrays_are_the_recordings_mapped_from_disk(tmp_path):
    files, counts = files_of(folder(tmp_path / "in")), Counts()
    found = read_prepared(files, tmp_path / "kept", counts=counts)
    assert (counts.made, counts.found, counts.rows) == (12, 0, 12 * 40)
    for file, recording in zip(files, found, strict=True):
        plain = read_recording(file)
        assert isinstance(recording.values, np.memmap)
        np.testing.assert_array_equal(recording.values, plain.values)
        for name in ("name", "operation", "columns", "texts", "hash", "notes"):
            assert getattr(recording, name) == getattr(plain, name), name
        for name in ("codes", "seconds", "line", "text"):
            np.testing.assert_array_equal(getattr(recording, name), getattr(plain, name))


def test_a_preparation_goes_on_where_it_stopped(tmp_path):
    files = files_of(folder(tmp_path / "in", ("face",)))
    write(frame(12).assign(stat=0.5), files[2])
    with pytest.raises(DataError, match=r"face_003_aligned\.csv, row 0: stat"):
        read_prepared(files, tmp_path / "kept")
    write(frame(12, seed=9), files[2])
    counts = Counts()
    assert len(read_prepared(files, tmp_path / "kept", counts=counts)[2]) == 12
    assert (counts.made, counts.found) == (2, 2)


def test_a_changed_file_and_a_damaged_entry_are_made_anew(tmp_path):
    files = files_of(folder(tmp_path / "in", ("face",), each=2))
    kept = tmp_path / "kept"
    read_prepared(files, kept)
    write(frame(20, seed=5), files[0])
    (kept / key_of(files[1], True)).with_suffix(".npz").write_bytes(b"half")
    counts = Counts()
    found = read_prepared(files, kept, counts=counts)
    assert counts.made == 2 and len(found[0]) == 20 and found[1].hash == read_recording(files[1]).hash
    assert not list(kept.glob(".*")), "nothing half-written stays"


def test_the_verb_prepare_says_what_it_did(tmp_path, capsys):
    from lightning_project.words import run_words

    folder(tmp_path / "in")
    words = [str(tmp_path / "in"), "--folder", str(tmp_path / "kept"), "--window", "16", "--stride", "8"]
    run_words("prepare", words)
    assert "12 recordings, 480 rows: 12 prepared now, 0 were there" in capsys.readouterr().out
    run_words("prepare", words)
    out = capsys.readouterr().out
    assert "0 prepared now, 12 were there" in out and "damageface          4 recordings     16 windows" in out
    with pytest.raises(DataError, match="no recording has 64 rows"):
        run_words("prepare", words[:3])


# the real recordings, where they are


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory):
    return read_prepared(files_of(real_data / "gcode" / "recordings"), tmp_path_factory.mktemp("kept"))


@pytest.mark.real
def test_real_recordings_are_those_of_the_facts(real):
    from datamodules.gcode_columns import Columns
    from datamodules.gcode_fitted import line_maps

    assert len(real) == 120 and sum(map(len, real)) == 66_784
    counts = {name: sum(recording.operation == name for recording in real) for name in OPERATIONS}
    assert counts == {name: 4 if name.startswith("damage") else 18 for name in OPERATIONS}
    named = {recording.name: recording for recording in real}
    assert segments(named["face150025_001"]) == [(0, 559), (559, 731)]  # 2,773 rows without sensors follow
    assert named["face150025_001"].notes == {"rows with a clock without hours": 3504, "rows without coor": 2773}
    assert len(segments(named["face150025_009"])) == len(segments(named["pocket150025_006"])) == 2
    assert all(len(segments(recording)) == 1 for recording in real if recording.name not in
               ("face150025_001", "face150025_009", "pocket150025_006"))  # fmt: skip
    assert sum(len(window_starts(recording, 64, 16)) for recording in real) == 3569
    by_the_brief = [len(range(0, len(recording) - 63, 16)) for recording in real]
    assert sum(by_the_brief) == 3754  # these cross gaps
    assert line_maps(real)[1] == {}, "a line number means one text within a class"
    assert Columns.fit(real, "all").sizes == [6, 3, 3, 4]


@pytest.mark.real
def test_real_channels_by_the_three_rules(real):
    from datamodules.gcode_columns import Columns

    assert len(Columns.fit(real, "common").names) == 41
    assert len(Columns.fit(real, "all").names) == 274
    brief = Columns.fit(real, "brief")
    sizes = {name: len(channels) for name, channels in brief.groups().items()}
    # The brief has 155: twelve pressures. Eight of them differ only in the 14th digit, which float32 files lack.
    assert len(brief.names) == 147 and sizes.pop("pressure") == 4
    twelve = {f"{name}_{axis}": 12 for name in ("accelerometer", "gyroscope") for axis in "xyz"}
    fields = {"magnetometer_x": 11, "magnetometer_y": 11, "magnetometer_z": 12}
    rest = {"machine_position": 3, "motor_current": 4, "proximity": 9, "temperature": 3, "rms": 5, "colour": 13}
    assert sizes == {**twelve, **fields, **rest}


@pytest.mark.real
def test_real_targets_tie_as_often_as_the_facts_say(real):
    ties = []
    for recording in real:
        for start in range(0, len(recording) - 63, 16):
            ties.append(target_of(recording.text[start : start + 64], "mode", None)[1])
    assert np.mean(ties) == pytest.approx(0.298, abs=0.003)
