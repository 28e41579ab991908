"""The benchmark of a language model: the bare loop computes what `fit` does, and the work of a step is counted."""

import json
from pathlib import Path

import pytest

from modules.nets.language import Dropouts, LanguageTransformer, Shape
from tests.running import run


def test_the_bare_loop_on_streams_is_the_same_training():
    out = Path("figures.json")
    more = ["--trainer.callbacks+=benchmarks.language.InterleaveStreams", f"--trainer.callbacks.out={out}"]
    quick = ["--report.baselines=false", "--judgement.train_documents=0", "--model.dropouts.dropout=0.2"]
    run(["fit", "--name", "a", *more, *quick, "--trainer.limit_val_batches", "1.0"], system="language")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["parameter_distance"] < 1e-4 and found["ratio"] > 0
    assert found["tokens"] == 24 * 24 and found["operations"] > 6 * found["tokens"] * 300 * 16


def test_operations_of_a_token_are_counted_by_hand():
    from benchmarks.language import describe, operations, peak

    net = LanguageTransformer(50, Shape(16, 2, 2, 32, 64, "pre", "rotary", True, False, True), Dropouts())
    weights = 2 * (3 * 16 * 16 + 16 * 16 + 2 * 32 * 16 + 32 * 16)
    assert operations(net, 24) == 6 * (weights + 50 * 16) + 6 * 2 * 16 * 24
    assert peak(64, 2) > 0
    step = {"fit_ms_per_step": 10.0, "bare_ms_per_step": 8.0, "ratio": 1.25, "ratio_spread": [1.2, 1.3], "rounds": 3}
    step |= {"parameter_distance": 0.0, "tokens": 100, "operations": 5e6}
    text = describe(step, 1e9, {"all": {"mebibytes": 10.0, "seconds": 1.0}})
    assert "10000 tokens a second; 50 % of the peak" in text and "NOT reached" in text


def test_the_loss_is_measured_in_a_process_of_its_own(monkeypatch):
    from benchmarks import language

    monkeypatch.setattr(language, "VOCABULARY", 500)
    monkeypatch.setattr(language, "POSITIONS", 64)
    found = language.loss_cost(16)
    assert found["seconds"] > 0 and found["mebibytes"] >= 0
    assert pytest.approx(language.CHUNK) == 256
