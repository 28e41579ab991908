"""The benchmark of kept keys and values: both ways write the same, and the figures are of what was written."""

import pytest

from benchmarks import generation


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
