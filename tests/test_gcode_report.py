"""The judgement of a decoder of G-code end to end: files, page, what stands beside it, and what `predict` writes."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from callbacks.report_gcode import GcodeJudgement
from callbacks.report_gcode_anomaly import by_label
from callbacks.report_gcode_files import LinePredictions
from callbacks.report_gcode_score import other_window
from datamodules.errors import DataError
from lightning_project import figures
from lightning_project.ablation_plan import Plan
from lightning_project.members import ordered, pooled, stored
from lightning_project.predictions_gcode import majority, program
from modules import gcode_tokens
from tests.fake_data import gcode_decoder_toy, gcode_encoder_toy
from tests.running import ROOT, code, run

QUICK = [w for name in ("gradients", "batch_order", "batch_size") for w in (f"--probes.{name}", "false")]
LEARN = ["--model.optimizer.lr", "0.02", "--model.shape.dropout", "0.0", "--trainer.max_epochs", "6"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("gcode report")


@pytest.fixture(scope="module")
def folder(base):
    """The run folder of a decoder that was fitted, tested with its sensors spoilt, and asked about new recordings."""
    with contextlib.chdir(base):
        run(["fit", "--name", "a", *LEARN, *QUICK, "--report.baselines", "false"], system="gcode_decoder")
        tested = ["--ckpt_path", "best", "--line_judgement.sensors", "true"]
        tested += ["--report.bootstrap", "50", "--report.baselines", "true"]
        run(["test", "--name", "a", *tested], system="gcode_decoder")
        new = gcode_encoder_toy.write(Path(), labels=False)
        run(["predict", "--name", "a", "--ckpt_path", "best", "--data.predict_path", str(new)], system="gcode_decoder")
    return base / "runs" / "gcode_decoder" / "a"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_figures_come_from_the_one_stored_file(folder):
    found = LinePredictions.load(folder / "test" / "predictions_test.npz")
    metrics = read(folder / "test" / "metrics.json")
    values = metrics["values"]
    assert metrics["n"] == len(found.id) == 63 and metrics["n_groups"] == len(set(found.group)) == 9
    assert values["line_accuracy"] == pytest.approx((found.line == found.free).mean())
    assert values["operation_accuracy"] == pytest.approx((found.prob.argmax(1) == found.y).mean())
    hits, letters = [], []
    for tokens, true, said in zip(found.tokens, found.fields, found.forced_fields, strict=True):
        for token, wanted, got in zip(tokens, true, said, strict=True):
            if token:
                hits.append(all(w in (-1, g) for w, g in zip(wanted, got, strict=True)))
                letters += [got[2] == wanted[2]] if wanted[2] >= 0 else []
    assert values["token_accuracy"] == pytest.approx(np.mean(hits))
    assert values["head_param"] == pytest.approx(np.mean(letters))
    assert values["validity"] == pytest.approx(np.mean([gcode_tokens.valid(line) for line in found.free.tolist()]))


def test_the_closing_validation_says_what_training_saw(folder):
    log, values = pd.read_csv(folder / "training_log.csv"), read(folder / "fit" / "metrics.json")["values"]
    best = log.loc[log["epoch"] == read(folder / "run.json")["best_epoch"]].iloc[0]
    for name in ("token_accuracy", "line_accuracy", "operation_accuracy"):
        assert values[name] == pytest.approx(best[f"val/{name}"], abs=1e-6)


def test_simple_models_stand_beside_with_paired_intervals(folder):
    metrics = read(folder / "test" / "metrics.json")
    ours, others = metrics["values"], metrics["baselines"]
    assert {"table: operation + prefix + window number", "trees: machine position only"} <= set(others)
    for entry in others.values():
        for name, (difference, *ends) in entry["difference"].items():
            assert difference == pytest.approx(ours[name] - entry["values"][name])
            assert len(ends) in (0, 2), "an interval, or none where a resample has nothing to ask for"
    low, high = others["trees: all columns"]["difference"]["line_accuracy"][1:]
    assert low < high < 0
    best = max(e["values"].get("line_accuracy", 0) for e in others.values())
    assert best > ours["line_accuracy"], "a network of two epochs cannot beat trees here: look for a leak"


def test_the_page_and_the_tables(folder):
    page = (folder / "REPORT.md").read_text(encoding="utf-8")
    for heading in ("Numbers on test", "Numbers on validation", "Where it is right", "Operations and recordings",
                    "Lines", "Confidence", "Sensors spoilt while judging", "Anomaly scores", "The brief's figures",
                    "Course"):  # fmt: skip
        assert f"\n## {heading}\n" in page
    assert "best simple model" in page and "0.9023" in page and "resamples of 9 recordings" in page
    heads = pd.read_csv(folder / "test" / "heads.csv")
    assert heads["head"].tolist() == ["type", "command", "param", "sign", *(f"digit{i}" for i in range(1, 7))]
    found = LinePredictions.load(folder / "test" / "predictions_test.npz")
    operations = pd.read_csv(folder / "test" / "operations.csv")
    weighted = (operations["line_accuracy"] * operations["windows"]).sum() / operations["windows"].sum()
    assert weighted == pytest.approx((found.line == found.free).mean())
    assert np.loadtxt(folder / "test" / "confusion.csv", delimiter=",").sum() == 63


def test_thresholds_of_confidence_come_from_validation(folder):
    fit, test = (read(folder / part / "metrics.json")["confidence"] for part in ("fit", "test"))
    found = LinePredictions.load(folder / "test" / "predictions_test.npz")
    assert [row["threshold"] for row in test["by_validation"]] == [row["threshold"] for row in fit["coverage"]]
    for row in test["by_validation"]:
        assert row["share"] == pytest.approx((found.confidence >= row["threshold"]).mean())


def test_spoilt_sensors_are_judged_on_the_same_windows(folder):
    rows = pd.read_csv(folder / "test" / "sensors.csv")
    values = read(folder / "test" / "metrics.json")["values"]
    assert set(rows["mode"]) == {"zeroed", "permuted"} and {"pressure", "machine_position"} <= set(rows["sensor"])
    for row in rows.to_dict("records"):
        assert row["lost"] == pytest.approx(values[row["metric"]] - row["value"])
    tokens = rows[rows["metric"] == "token_accuracy"]
    assert tokens["value"].nunique() > 1, "nothing that was spoilt changed anything"


@pytest.mark.parametrize("wrong", [{"smoothing": 4}, {"smoothing": 0}, {"anomaly_quantile": 1.0}, {"examples": 0}])
def test_settings_of_the_judgement_that_mean_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GcodeJudgement(**wrong)


def test_another_window_of_the_same_recording():
    group = np.array(["a", "b", "a", "c", "a", "b"])
    found = other_window(group)
    assert sorted(found) == list(range(6)) and (group[found] == group).all()
    assert (found != np.arange(6)).tolist() == [True, True, True, False, True, True]


def test_anomalies_are_flagged_by_a_threshold_from_validation(folder):
    facts = read(folder / "fit" / "anomaly.json")
    with np.load(folder / "fit" / "anomaly_val.npz") as file:
        assert facts["threshold"] == pytest.approx(np.quantile(file["anomaly"], 0.99)) and facts["part"] == "val"
    with np.load(folder / "test" / "anomaly_test.npz") as file:
        share = (file["anomaly"] > facts["threshold"]).mean()
    table = pd.read_csv(folder / "test" / "anomaly.csv")
    assert table.loc[table["label"] == "all", "above"].item() == pytest.approx(share)
    assert by_label(np.array(["x", "y"]), np.array([1.0, 3.0]), 2.0)["above"].tolist() == [0.5, 0.0, 1.0]


def test_predict_writes_rows_and_programs(folder):
    table = pd.read_csv(folder / "predict" / "predictions.csv", keep_default_na=False)
    assert len(table) == 230 and (table["last_row"] - table["first_row"] == 15).all()
    threshold = read(folder / "fit" / "anomaly.json")["threshold"]
    assert (table["flagged"] == (table["anomaly"] > threshold)).all()
    assert table["confidence"].between(0, 1).all()
    assert table["line"].map(gcode_tokens.valid).astype(int).tolist() == table["valid"].tolist()
    trained = LinePredictions.load(folder / "test" / "predictions_test.npz")  # the same recordings, without their text
    said = table.set_index("id")["line"]
    assert said[trained.id].tolist() == trained.free.tolist()
    for name, own in table.groupby("recording"):
        text = (folder / "predict" / f"{name}.gcode").read_text(encoding="utf-8")
        lines = own["line"][(own["line"] != own["line"].shift()) & (own["valid"] == 1)].tolist()
        assert [line for line in map(gcode_tokens.canonical, text.splitlines()) if line] == lines


def test_predict_answers_while_rows_are_coming(folder, base, monkeypatch, capsys):
    path = sorted((base / "new recordings").glob("face_*.csv"))[0]
    text = path.read_text(encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    words = ["predict", "--name", "a", "--ckpt_path", "best", "--data.predict_path", "-"]
    with contextlib.chdir(base):
        run([*words, *LEARN[:4]], system="gcode_decoder")
    of_file = pd.read_csv(folder / "predict" / "predictions.csv", keep_default_na=False)
    of_file = of_file[of_file["recording"] == path.stem.removesuffix("_aligned")].reset_index(drop=True)
    stream = pd.read_csv(folder / "predict" / "stream.csv", keep_default_na=False)
    shown = ["first_row", "last_row", "operation", "smoothed", "line", "valid", "flagged"]
    pd.testing.assert_frame_equal(stream[shown], of_file[shown])
    assert np.allclose(stream["confidence"], of_file["confidence"], atol=1e-4)
    assert f"rows 0 to 15: {stream['operation'][0]}" in capsys.readouterr().out
    assert (folder / "predict" / "stream.gcode").is_file()
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(text.splitlines()[:5])))
    with contextlib.chdir(base), pytest.raises(DataError, match="ended before 16 rows"):
        run(words, system="gcode_decoder")


def test_neighbours_vote_within_their_recording():
    guess = np.array([1, 0, 1, 1, 2, 2, 2])
    recording = np.array(["a"] * 4 + ["b"] * 3)
    assert majority(guess, recording, 3).tolist() == [1, 1, 1, 1, 2, 2, 2]
    assert majority(guess, recording, 1).tolist() == guess.tolist()
    assert majority(np.array([0, 1]), np.array(["a", "a"]), 3).tolist() == [0, 1]  # of ties the own one


def test_a_line_that_is_no_gcode_is_a_comment_in_the_program():
    rows = pd.DataFrame({"first_row": [0, 8, 16], "last_row": [15, 23, 31], "line": ["X Y", "G1 X1", "G1 X1"],
                         "valid": [0, 1, 1], "confidence": [0.5, 0.25, 0.75], "flagged": [0, 0, 1]})  # fmt: skip
    text = program(rows, "a", "r").splitlines()
    assert text[1].startswith("; not valid: X Y") and gcode_tokens.canonical(text[1]) == ""
    assert text[2] == "G1 X1 ; rows 8 to 31, confidence 0.500, 1 of 2 windows unusual"


def test_runs_are_compared_by_their_lines(folder, base, capsys):
    other = base / "runs" / "gcode_decoder" / "b"
    shutil.copytree(folder, other)
    facts = read(other / "run.json") | {"config_hash": "another"}
    (other / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    found = LinePredictions.load(folder / "test" / "predictions_test.npz")
    LinePredictions(**{**vars(found), "free": found.line}).save(other / "test" / "predictions_test.npz")
    out = base / "compared"
    run(["compare", str(folder), str(other), "--out", str(out), "--bootstrap", "50"], config=False)
    table = pd.read_csv(out / "comparison.csv")
    gain = 1 - (found.line == found.free).mean()
    assert table["line_accuracy_difference"].iloc[1] == pytest.approx(gain) and "validity" in table
    with pytest.raises(DataError, match="unknown metric 'macro_f1'; choose one of line_accuracy"):
        run(["compare", str(folder), str(other), "--metric", "macro_f1"], config=False)


def test_counts_of_windows_are_joined_and_put_in_order(folder):
    found = stored(folder, "test")
    half = len(found.id) // 2
    parts = [ordered(type(found)(**{n: getattr(found, n)[rows] if n not in ("class_names", "figures") else
                                    getattr(found, n) for n in vars(found)}))
             for rows in (np.arange(half, len(found.id)), np.arange(half))]  # fmt: skip
    again = ordered(pooled(parts, True))
    names = ["line_accuracy", "token_accuracy"]
    assert figures.measured(again, names) == pytest.approx(figures.measured(found, names))
    with pytest.raises(ValueError, match="unknown metrics \\['top3'\\]"):
        figures.measured(found, ["top3"])


def test_an_ablation_of_decoders(base, folder):
    plan = base / "small.yaml"
    configs = [ROOT / "configs" / "gcode_decoder.yaml", ROOT / "tests" / "fake_data" / "gcode_decoder_tiny.yaml"]
    given = {"base": [str(path) for path in configs], "seeds": [0], "metrics": ["line_accuracy", "token_accuracy"],
             "set": {"report.baselines": False, "trainer.accelerator": "cpu", "trainer.max_epochs": 1},
             "cells": {"cross_entropy": {"set": {"model.losses.gamma": 0.0}}}}  # fmt: skip
    plan.write_text(yaml.safe_dump(given), encoding="utf-8")
    with contextlib.chdir(base):
        run(["ablate", str(plan), "--bootstrap", "20", *gcode_decoder_toy.always(), *QUICK], config=False)
    table = pd.read_csv(base / "runs" / "gcode_decoder" / "small" / "ablation.csv")
    assert table["cell"].tolist() == ["base", "cross_entropy"]
    assert table["token_accuracy"].between(0, 1).all() and table["line_accuracy_difference"].notna().tolist()[1]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs" / "ablations").glob("gcode_*.yaml")))
def test_the_ablations_that_are_shipped_can_be_read(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(Plan.read(ROOT / "configs" / "ablations" / name).cells) > 3


def test_a_classifier_of_windows_has_anomalies_smoothing_and_spoilt_sensors(base):
    encoder = gcode_decoder_toy.encoder_run()
    copy = base / "runs" / "gcode_encoder" / "first"
    shutil.copytree(encoder, copy)
    with contextlib.chdir(base):
        run(["test", "--ckpt_path", str(copy), "--line_judgement.sensors", "true"], system="gcode_encoder")
        new = gcode_encoder_toy.write(Path(), labels=False)
        words = ["predict", "--ckpt_path", str(copy), "--data.predict_path", str(new)]
        run([*words, "--line_judgement.smoothing", "3"], system="gcode_encoder")
    page = (copy / "REPORT.md").read_text(encoding="utf-8")
    assert "\n## Anomaly scores\n" in page and "\n## Sensors spoilt while judging\n" in page
    rows = pd.read_csv(copy / "test" / "sensors.csv")
    accuracy = read(copy / "test" / "metrics.json")["values"]["accuracy"]
    assert (rows["value"] + rows["lost"]).round(9).unique().tolist() == [round(accuracy, 9)]
    table = pd.read_csv(copy / "predict" / "windows.csv")
    names = {name: i for i, name in enumerate(sorted(set(table["operation"])))}
    voted = majority(table["operation"].map(names).to_numpy(), table["recording"].to_numpy(), 3)
    assert table["smoothed"].map(names).tolist() == voted.tolist()


def test_the_audit_refuses_the_leaky_protocol_and_says_why(base, capsys):
    with contextlib.chdir(base):
        words = ["audit", "--name", "leaky", "--data.protocol", "leaky_random_windows"]
        assert code(words, system="gcode_encoder") == 3
    text = capsys.readouterr()
    assert "must not be used" in text.out and "share rows with a training window" in text.out
    assert "| by recording | 0.000 | 0.000 |" in text.out and "leak" in text.err


def test_the_audit_does_not_take_a_split_for_one_by_recording(base, capsys):
    with contextlib.chdir(base):
        assert code(["audit", "--name", "rows", "--split.group_aware", "false"], system="gcode_encoder") == 3
        found = capsys.readouterr().out
        assert "must not be used" in found and "In this split" in found and "No window is judged" not in found
        code(["audit", "--name", "whole"], system="gcode_encoder")
        assert "No window is judged that shares rows" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["decide", "{run}"], ["ensemble", "{run}", "{other}"]])
def test_verbs_about_classes_refuse_a_decoder_of_lines(folder, tmp_path, capsys, words):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    out = ["--out", str(tmp_path / "out")]
    assert code([word.format(run=folder, other=other) for word in words] + out, config=False) == 3
    assert "writes lines, and this verb is about classes" in capsys.readouterr().err
