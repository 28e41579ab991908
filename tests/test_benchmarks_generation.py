"""The benchmark of kept keys and values: both ways write the same, and the figures are of what was written."""

from pathlib import Path

import pytest
import yaml

from benchmarks import generation
from tests.running import ROOT, fitted_run


def test_both_ways_write_the_same_texts_and_are_timed(capsys):
    generation.main("--width 16 --depth 1 --vocabulary 20 --window 8 --tokens 12 --batches 1 2 --rounds 2".split())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("times as fast (middle half of 2 rounds" in line for line in lines)
    net = generation.untrained(16, 1, 20, 8)
    spent, kept = generation.seconds(net, 8, 3, 12, cached=True)
    assert spent > 0 and kept == generation.seconds(net, 8, 3, 12, cached=False)[1]
    assert [len(tokens) for tokens in kept] == [12] * 3


def test_ways_that_differ_are_no_benchmark(monkeypatch):
    monkeypatch.setattr(generation, "seconds", lambda net, window, batch, tokens, cached: (1.0, [[int(cached)]]))
    with pytest.raises(RuntimeError, match="different texts"):
        generation.measure(generation.untrained(16, 1, 20, 8), 8, 1, 12, 1)


def test_the_ratio_is_that_of_rounds_after_the_first(monkeypatch):
    times = iter([9.0, 1.0, 1.0, 2.0, 1.0, 4.0, 1.0, 3.0])  # with and without, round by round
    monkeypatch.setattr(generation, "seconds", lambda *more: (next(times), [[0]]))
    found = generation.measure(generation.untrained(16, 1, 20, 8), 8, 2, 5, 3)
    assert found["ratio"] == 3.0 and found["cached_tokens_per_second"] == 10.0


def test_the_network_of_a_config_is_measured_with_its_memory_and_copying_head():
    config = yaml.safe_load((ROOT / "configs/language.yaml").read_text(encoding="utf-8"))
    net, window = generation.of_config(["configs/language.yaml"])
    model = config["model"]["init_args"]
    assert net.memory is not None and vars(net.memory.sizes) == model["memory"]
    assert net.copy is not None and vars(net.shape) == model["shape"] and not net.training
    assert net.vocab_size == config["data"]["init_args"]["vocab_size"] and window == 64
    plain, _ = generation.of_config(["configs/language.yaml", "configs/variants/language_no_pointer.yaml"])
    assert plain.copy is None and plain.memory is not None
    with pytest.raises(ValueError, match="keeps no keys"):
        generation.of_config(["configs/language.yaml", "configs/variants/language_lstm.yaml"])


TINY = ["configs/language.yaml", "tests/fake_data/language_tiny.yaml"]


def test_what_was_measured_is_what_is_recorded(monkeypatch, tmp_path_factory, capsys):
    kept = []

    def write_record(name, command, files, data, seeds, figures):
        kept.append((command, [str(path.relative_to(ROOT)) for path in files], data, figures["batch_1"]))
        return ROOT / "nowhere.json"

    monkeypatch.setattr(generation, "write_record", write_record)
    few = ["--tokens", "30", "--batches", "1", "--rounds", "1", "--record", "x"]
    generation.main(["--config", *TINY, *few])
    run = fitted_run(tmp_path_factory, "language")
    generation.main(["--run", str(run), *few])
    generation.main(["--width", "16", "--vocabulary", "20", *few])
    of_config, of_run, plain = kept
    assert f"--config {' '.join(TINY)} --tokens" in of_config[0] and set(TINY) <= set(of_config[1])
    assert of_config[2] == plain[2] == {"untrained": 0} and "--width 16 --depth 3" in plain[0]
    assert of_config[3]["memory"] and of_config[3]["copy"] and not plain[3]["memory"]
    weights = Path(run) / "checkpoints" / "best.ckpt"
    assert of_run[2] == {f"weights of {run.name}": generation.sha256(weights)}
    assert "(with memory, with copying head)" in capsys.readouterr().out


def test_sizes_beside_a_config_are_refused(capsys):
    with pytest.raises(SystemExit):
        generation.main(["--config", *TINY, "--width", "16"])
    assert "--width is that of the run or config" in capsys.readouterr().err
