import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesClassifier

from datamodules.gcode_recordings import CHANNELS, OPERATIONS, PARENTS, clean, files_of, group_of, read_recording
from datamodules.gcode_windows import segments, window_starts
from datamodules.synthetic.gcode import BOARDS, make_recordings, plan, write_recordings
from datamodules.synthetic.gcode_programs import PATHS, make_program
from modules.gcode_tokens import canonical, valid


@pytest.fixture(scope="module")
def made():
    return list(make_recordings(400))


@pytest.fixture(scope="module")
def recordings(made):
    return [clean(one.frame, one.name, one.name, one.operation) for one in made]


def test_the_same_seed_gives_the_same_tables(made):
    for one, other in zip(made, make_recordings(400), strict=True):
        assert one.name == other.name
        pd.testing.assert_frame_equal(one.frame, other.frame)
    changed = next(make_recordings(400, seed=1)).frame
    assert not changed["frame_r2.Ax"].equals(made[0].frame["frame_r2.Ax"])


def test_there_are_about_as_many_windows_as_were_asked_for():
    for samples, window, stride in ((240, 16, 8), (600, 32, 16)):
        found = [clean(one.frame, one.name, one.name, one.operation)
                 for one in make_recordings(samples, window=window, stride=stride)]  # fmt: skip
        count = sum(len(window_starts(recording, window, stride)) for recording in found)
        assert 0.85 * samples <= count <= 1.15 * samples
    counts, rows = plan(1000, 64, 16)
    assert set(counts) == set(OPERATIONS) and min(counts.values()) >= 3 and rows == 64 + 16 * 16
    with pytest.raises(ValueError, match="synthetic_samples=20 must be at least 27"):
        next(make_recordings(20))


def test_tables_have_the_form_of_the_real_ones(made):
    table = next(one.frame for one in made if one.name == "face_001")
    first = ["t_console", "stat", "line", "posx", "posy", "posz", "mpox", "mpoy", "mpoz", "vel", "feed", "unit", "dist",
             "plane", "coor", "momo", "raw_json", "spindle", "x_motor", "y_motor", "z_motor", "spindle_A"]  # fmt: skip
    assert table.columns[:22].tolist() == first and table.columns[-2:].tolist() == ["gcode_line", "gcode_string"]
    boards = {name.partition(".")[0] for name in table if "." in name}
    assert boards < set(BOARDS) and all(f"{board}.{kind}" in table for board in boards for kind in CHANNELS)
    assert len({tuple(one.frame.columns) for one in made}) > 3, "order and boards differ"
    assert table["t_console"].str.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d").all()
    assert all(table[name].dtype == np.float32 for name in table if group_of(name))


def test_files_give_back_the_recordings(tmp_path):
    sizes = {"samples": 60, "window": 16, "stride": 8}
    hashes = {one.name: clean(one.frame, one.name, one.name, one.operation).hash for one in make_recordings(**sizes)}
    for parquet in (False, True):
        write_recordings(tmp_path / str(parquet), **sizes, parquet=parquet)
        read = map(read_recording, files_of(tmp_path / str(parquet)))
        assert {one.name: one.hash for one in read} == hashes
    bare = write_recordings(tmp_path / "bare", **sizes, text=False)[0]
    assert not {"gcode_string", "gcode_line", "line", "raw_json"} & set(pd.read_csv(bare, nrows=1).columns)


def test_programs_are_valid_modal_gcode():
    for operation in PATHS:
        program = make_program(operation, 120.0)
        assert all(valid(canonical(text)) for text in program.texts), operation
        assert program.texts[-1] == "M30" and (np.diff(program.times) > 0).all()
        assert len(program.texts) == len(program.feeds) == len(program.ends) - 1 == len(program.times) - 1
        modal = [text for text in program.texts if text[0] in "XYZ"]
        assert modal, "some lines begin with a letter"
    assert any("Z0. " in f"{text} " for text in make_program("face", 60.0).texts), "numbers with a bare point"


def test_all_recordings_of_a_class_run_one_program(recordings):
    for operation in OPERATIONS:
        known: dict[int, str] = {}
        for recording in recordings:
            if PARENTS.get(recording.operation, recording.operation) == PARENTS.get(operation, operation):
                for number, text in zip(recording.line.tolist(), recording.text.tolist(), strict=True):
                    if text >= 0:
                        assert known.setdefault(number, recording.texts[text]) == recording.texts[text]


def test_some_recordings_are_damaged_as_the_real_ones_are():
    named = {one.name: clean(one.frame, one.name, one.name, one.operation) for one in make_recordings(400)}
    damaged = named["face150025_001"]
    assert (~damaged.usable()).sum() >= 8 and damaged.notes["rows with a clock without hours"] >= 8
    assert len(segments(named["pocket150025_002"])) == 2
    assert not any(name.endswith("_A") for name in named["pocket_002"].columns)
    lost = named["adaptive_002"]
    assert (lost.text < 0).sum() >= 4 and (lost.line[lost.text < 0] > 0).all() and lost.usable().all()


def test_the_position_follows_the_program(made):
    table = next(one.frame for one in made if one.name == "face_001")
    place, machine = table["posx"].to_numpy(float), table["mpox"].to_numpy(float)
    slope = np.polyfit(place, machine, 1)[0]
    assert slope == pytest.approx(25.4, abs=0.01), "inches and millimetres"
    cutting = table[table["gcode_string"].str.contains("X-0.1254", regex=False)]
    assert np.diff(cutting["posx"]).mean() < 0, "the pass to X-0.1254 moves left"


def statistics(recordings, keep, length=64):
    """Mean and deviation of each shared channel in each window, as (rows, labels, groups)."""
    shared = sorted(set.intersection(*(set(one.columns) for one in recordings)))
    names = [name for name in shared if keep(group_of(name))]
    rows, labels, groups = [], [], []
    for recording in recordings:
        places = [recording.columns.index(name) for name in names]
        for start in window_starts(recording, length, 16):
            part = recording.values[start : start + length][:, places]
            rows.append(np.concatenate([part.mean(axis=0), part.std(axis=0)]))
            labels.append(recording.operation)
            groups.append(recording.name)
    return np.array(rows), np.array(labels), np.array(groups)


def test_the_operation_can_be_seen_in_sensors_and_not_in_the_session(recordings):
    def accuracy(keep):
        rows, labels, groups = statistics(recordings, keep)
        held = np.array([name.endswith("_003") for name in groups])
        trees = ExtraTreesClassifier(100, random_state=0).fit(rows[~held], labels[~held])
        return (trees.predict(rows[held]) == labels[held]).mean()

    assert accuracy(lambda group: group in ("motor_current", "rms") or group.startswith("accelerometer")) > 0.9
    assert accuracy(lambda group: group in ("pressure", "temperature")) < 0.5
