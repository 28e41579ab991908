"""The record of a decoder of lines: its figures are those of the run's own report, and folds are judged together."""

import json
import shutil

import numpy as np
import pytest

from tests.running import data_of, fitted_run, run


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A tiny decoder with its test, in a folder of its own."""
    folder = tmp_path_factory.mktemp("lines") / "runs" / "gcode_decoder" / "one"
    fitted = fitted_run(tmp_path_factory, "gcode_decoder")
    shutil.copytree(fitted, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parents[2])
        words = ["--report.baselines", "true", *data_of(fitted)]
        run(["test", "--name", "one", "--ckpt_path", "best", *words], system="gcode_decoder")
    return folder


def test_figures_are_those_of_the_report(tested, capsys):
    from benchmarks.lines import main, summarise

    found = summarise(tested, bootstrap=50)
    report = json.loads((tested / "test" / "metrics.json").read_text())
    assert found["windows"] == report["n"] and found["recordings"] == report["n_groups"]
    for name, (value, low, high) in found["values"].items():
        assert value == pytest.approx(report["values"][name], abs=1e-6), name
        assert low <= high
    assert found["simple_models"]["trees: machine position only"]["line_accuracy"] == pytest.approx(
        report["baselines"]["trees: machine position only"]["values"]["line_accuracy"]
    )
    main([str(tested), "--config", "configs/gcode_decoder.yaml", "--command", "a command", "--bootstrap", "20"])
    assert json.loads(capsys.readouterr().out)["system"] == "gcode_decoder"


def test_a_folder_has_one_hash_that_follows_its_files(tmp_path):
    from benchmarks.record import sha256

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv").write_text("1")
    one = sha256(tmp_path / "a")
    (tmp_path / "a" / "x.csv").write_text("2")
    two = sha256(tmp_path / "a")
    shutil.move(tmp_path / "a" / "x.csv", tmp_path / "a" / "y.csv")
    assert len({one, two, sha256(tmp_path / "a")}) == 3 and np.char.isalnum(one)
