"""The benchmark of a language model: the bare loop computes what `fit` does, and the work of a step is counted."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

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
    assert found["device"] == "cpu" and found["dtype"] == "float32"
    assert found["tokens"] == 24 * 24 and found["operations"] > 6 * found["tokens"] * 300 * 16


def test_operations_of_a_token_are_counted_by_hand():
    from benchmarks.language import describe, operations, peak

    net = LanguageTransformer(50, Shape(16, 2, 2, 32, 64, "pre", "rotary", True, False, True), Dropouts())
    weights = 2 * (3 * 16 * 16 + 16 * 16 + 2 * 32 * 16 + 32 * 16)
    assert operations(net, 24) == 6 * (weights + 50 * 16) + 6 * 2 * 16 * 24
    assert peak("cpu", "float32", 64, 2) > 0
    step = {"fit_ms_per_step": 10.0, "bare_ms_per_step": 8.0, "ratio": 1.25, "ratio_spread": [1.2, 1.3], "rounds": 3}
    step |= {"parameter_distance": 0.0, "tokens": 100, "operations": 5e6, "device": "cpu", "dtype": "float32"}
    text = describe(step, 1e9, {"all": {"mebibytes": 10.0, "seconds": 1.0}})
    assert "10000 tokens a second; 50 % of the peak" in text and "NOT reached" in text


def test_the_distance_is_that_of_the_first_epoch(tmp_path):
    """Later ones would grow by rounding alone, whatever the two loops do."""
    from benchmarks.language import InterleaveStreams

    rider = InterleaveStreams(str(tmp_path / "figures.json"))
    rider.loop, net = SimpleNamespace(), LanguageTransformer(50, Shape(16, 2, 2, 32, 64))
    distances = iter([1e-6, 0.5, 0.7])
    rider.loop.epoch = lambda number: [1.0, 2.0]
    rider.loop.distance = lambda: next(distances)
    system = SimpleNamespace(net=net, parameters=net.parameters)
    for epoch in range(3):
        rider.clock = [1.0, 3.0]
        data = SimpleNamespace(batch_size=2, window=8)
        rider.on_train_epoch_end(SimpleNamespace(current_epoch=epoch, datamodule=data), system)
    found = json.loads(rider.out.read_text(encoding="utf-8"))
    assert found["parameter_distance"] == 1e-6 and found["rounds"] == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_loss_is_measured_in_a_process_of_its_own():
    from benchmarks.language import CHUNK, loss_costs

    assert CHUNK == 256
    vocabulary, positions = 4000, 2048
    found = loss_costs(vocabulary, positions, 1)  # whatever this process has held
    scores = vocabulary * positions * 4 / 2**20
    assert 2 * scores < found["all"]["mebibytes"] < 6 * scores
    assert 0 < 3 * found["chunks"]["mebibytes"] < found["all"]["mebibytes"]
    assert all(cost["seconds"] > 0 for cost in found.values())
