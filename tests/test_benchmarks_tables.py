"""The record of an ensemble's or an ablation's table: its rows, the configs and code behind it, data and seeds."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import record, tables
from callbacks.report_files import Predictions, write_json
from datamodules.errors import DataError
from lightning_project.ensemble import ensemble
from tests.running import ROOT
from tests.test_benchmarks_accuracy import fake_run

CONFIG = str(ROOT / "configs" / "papers.yaml")


@pytest.fixture
def runs(tmp_path):
    """Two members of one fold each, on the same file of papers."""
    data = tmp_path / "papers.csv"
    data.write_text("id,title\n", encoding="utf-8")
    found = []
    for seed, name in enumerate(("one", "two")):
        folder = fake_run(tmp_path / name / "fold-0", seed)
        test = Predictions.load(folder / "test" / "predictions_test.npz")
        val = Predictions(np.char.add("v", test.id), test.group, test.y, test.prob, test.class_names)
        val.save(folder / "fit" / "predictions_val.npz")
        config = f"model: {{class_path: modules.papers.PapersClassifier}}\ndata: {{init_args: {{path: '{data}'}}}}\n"
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        found.append(str(tmp_path / name))
    return found


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "write_record", lambda *given: record.write_record(*given, folder=tmp_path / "records"))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path / "records"


def test_an_ensemble_is_recorded_with_its_rows_and_the_code_of_its_members(tmp_path, runs, records):
    ensemble(runs, str(tmp_path / "both"), bootstrap=20)
    words = [str(tmp_path / "both"), "--config", CONFIG, "--command", "python -m lightning_project ensemble one two"]
    tables.main([*words, "--record", "both"])
    found = json.loads((records / "both.json").read_text(encoding="utf-8"))
    assert not record.problems(found) and found["seeds"] == [0, 1] and set(found["data"]) == {"papers.csv"}
    assert {"configs/papers.yaml", "modules/papers.py", "modules/nets/papers.py"} <= set(found["files"])
    frame = pd.read_csv(tmp_path / "both" / "ensemble.csv")
    assert [row["macro_f1"] for row in found["figures"]["rows"]] == pytest.approx(frame["macro_f1"].tolist())
    assert found["figures"]["fitted"]["fold-0"]["weights"] == [0.5, 0.5]
    assert set(found["figures"]["simple_models"]) == {"majority", "tfidf"}


def test_an_ablation_is_recorded_without_its_empty_cells(tmp_path, runs, records):
    pd.DataFrame({"cell": ["base", "wide"], "macro_f1": [0.5, np.nan]}).to_csv(tmp_path / "ablation.csv", index=False)
    tables.main([str(tmp_path), "--config", CONFIG, "--command", "python -m lightning_project ablate", "--record", "a"])
    found = json.loads((records / "a.json").read_text(encoding="utf-8"))
    assert found["figures"]["rows"] == [{"cell": "base", "macro_f1": 0.5}, {"cell": "wide"}]
    assert found["seeds"] == [0, 1]


def test_a_run_with_its_sensors_spoilt_is_recorded(tmp_path, runs, records):
    folder = tmp_path / "one" / "fold-0"
    rows = pd.DataFrame({"sensor": ["current"], "mode": ["zeroed"], "lost": [0.25]})
    rows.to_csv(folder / "test" / "sensors.csv", index=False)
    (new := tmp_path / "new.csv").write_text("id,title\n", encoding="utf-8")
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(config.replace("}}", f", test_path: '{new}'}}}}"), encoding="utf-8")
    tables.main([str(folder), "--config", CONFIG, "--command", "fit", "--record", "spoilt"])
    found = json.loads((records / "spoilt.json").read_text(encoding="utf-8"))
    assert found["figures"]["rows"] == [{"sensor": "current", "mode": "zeroed", "lost": 0.25}]
    assert set(found["data"]) == {"papers.csv", "new.csv"}


def test_a_run_that_was_made_smaller_is_recorded(tmp_path, runs, records):
    folder = tmp_path / "one" / "fold-0"
    write_json(folder / "compress" / "compress.json", {"part": "val", "rows": [{"model": "int8", "ratio": 1.01}]})
    tables.main([str(folder), "--config", CONFIG, "--command", "compress", "--record", "small"])
    found = json.loads((records / "small.json").read_text(encoding="utf-8"))
    assert found["figures"] == {"part": "val", "rows": [{"model": "int8", "ratio": 1.01}]}
    assert "compress.py" in " ".join(found["files"]) and "compression.py" in " ".join(found["files"])


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds neither"):
        tables.runs_of(tmp_path)
    (tmp_path / "ablation.csv").write_text("cell\n", encoding="utf-8")
    with pytest.raises(DataError, match="no run with a config"):
        tables.runs_of(tmp_path)
