"""The records of language models: seeds joined, differences paired by document, words counted as papers do."""

import math
from pathlib import Path

import numpy as np
import pytest

from callbacks.report_files import write_json
from callbacks.report_language_files import TextPredictions

WORDS = np.array([100, 50, 80])


def stored(folder: Path, factor: float, seed: int, ids: str = "abc", noise: bool = False) -> Path:
    """A tested run whose documents cost ``factor`` nats a word; one with ``noise`` was trained with exploration."""
    nll = factor * WORDS * np.array([1.0, 1.2, 0.9])
    names = np.array(list(ids))
    TextPredictions(names, names, nll, 2 * WORDS, WORDS, 6 * WORDS).save(folder / "test" / "predictions_test.npz")
    write_json(folder / "run.json", {"seed": seed, "total_params": 7, "epochs_run": 2, "fit_seconds": 1.0})
    TextPredictions(names, names, 2 * nll, 2 * WORDS, WORDS, 6 * WORDS).save(folder / "fit" / "predictions_val.npz")
    judged = {"part": "val", "protocol": {"window": 8}, "values": {"word_perplexity": 40.0 + seed}}
    write_json(folder / "fit" / "metrics.json", judged)
    write_json(folder / "environment.json", {"gpus": ["one"], "packages": {"torch": "2"}})
    off = {"values": {"word_perplexity": 99.0}, "difference": {"word_perplexity": [-1.0, -2.0, 0.5]}}
    counted = {"unigram": {"values": {"word_perplexity": 70.0}}, "counting models": {"not_run": "off"}}
    found = {"part": "test", "protocol": {"window": 8}, "memory": {"off": off}, "baselines": counted}
    if noise:
        found["generation"] = {"off_likeliest": 0.3 + 0.01 * seed}
    write_json(folder / "test" / "metrics.json", found | {"entropy_per_word": math.log(2)})
    columns = ("epoch,train/noise\n", f"0,\n1,0.1\n2,0.08\n3,0.0{seed + 1}\n4,\n") if noise else ("epoch\n", "0\n")
    (folder / "training_log.csv").write_text("".join(columns), encoding="utf-8")
    return folder


def test_seeds_are_one_row_and_differences_are_paired(tmp_path):
    from benchmarks.perplexity import summarise

    on = [stored(tmp_path / "on" / f"seed-{s}", 3.0 + 0.1 * s, s) for s in (0, 1)]
    off = [stored(tmp_path / "off" / "seed-0", 3.5, 0)]
    found = summarise([on, off], bootstrap=200)
    rate = (WORDS * np.array([1.0, 1.2, 0.9])).sum() / WORDS.sum()
    values = [math.exp(factor * rate) for factor in (3.0, 3.1)]
    row = found["rows"]["on"]
    assert row["word_perplexity"]["seeds"] == pytest.approx(values)
    assert row["word_perplexity"]["mean"] == pytest.approx(np.mean(values))
    assert row["word_perplexity"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert row["validation_word_perplexity"] == [40.0, 41.0] and row["memory_off"]["word_perplexity"] == [99.0, 99.0]
    difference = found["rows"]["off"]["difference"]["word_perplexity"]
    assert difference[0] == pytest.approx(math.exp(3.5 * rate) - np.mean(values))
    assert 0 < difference[1] <= difference[0] <= difference[2], "each document costs more, and so does any resample"
    assert row["baselines"] == {"unigram": 70.0} and row["least_word_perplexity"] == pytest.approx(2)
    assert row["machine"]["gpus"] == ["one"] and row["machine"]["torch"] == "2"
    val = summarise([on], bootstrap=20, part="val")
    assert val["part"] == "val" and "memory_off" not in val["rows"]["on"], "what is beside comes from that part, too"
    assert val["rows"]["on"]["word_perplexity"]["seeds"] == pytest.approx([value**2 for value in values])
    other = stored(tmp_path / "other", 3.0, 0, ids="abd")
    with pytest.raises(ValueError, match="other documents"):
        summarise([on, [other]])


def test_exploration_is_recorded_where_there_was_some(tmp_path):
    from benchmarks.perplexity import summarise

    on = [stored(tmp_path / "on" / f"seed-{s}", 3.0, s, noise=True) for s in (0, 1)]
    off = [stored(tmp_path / "off" / "seed-0", 3.0, 0)]
    rows = summarise([on, off], bootstrap=20)["rows"]
    assert rows["on"]["noise"] == [{"first": 0.1, "last": 0.01}, {"first": 0.1, "last": 0.02}]
    assert rows["on"]["off_likeliest"] == [0.3, 0.31]
    assert not {"noise", "off_likeliest"} & set(rows["off"])
    (off[0] / "training_log.csv").unlink()  # a run that was tested elsewhere brings none
    assert "noise" not in summarise([off], bootstrap=20)["rows"]["off"]


def text(folder: Path, name: str, words: str) -> Path:
    path = folder / f"{name}.txt"
    path.write_text(
        f" \n = One = \n \n {words} \n \n = Two = \n \n {words} = x \n = 1 and C = \n more \n", encoding="utf-8"
    )
    return path


def test_the_n_gram_benchmark_counts_words_and_articles(tmp_path, capsys):
    from benchmarks.ngram import END, main, measure, read

    paths = {part: text(tmp_path, part, "the more of x and 1 C") for part in ("train", "valid", "test")}
    words, starts = read(paths["test"])
    assert starts.tolist() == [0, 15], "a formula between lines of text is no title"
    assert words[starts[1] : starts[1] + 4] == ["=", "Two", "=", END]
    lines = paths["test"].read_text().splitlines()
    assert len(words) == sum(len(line.split()) + 1 for line in lines)
    found = measure(paths, 3, bootstrap=20)
    assert found["test"]["words"] == len(words) and found["test"]["articles"] == 2
    assert 1 < found["test"]["kneser-ney-3"]["word_perplexity"] < found["test"]["unigram"]["word_perplexity"]
    with pytest.raises(ValueError, match="no probability"):
        measure({**paths, "test": text(tmp_path, "other", "unheard")}, 3)
    with pytest.raises(SystemExit):
        main(["--train", "nowhere", "--valid", "nowhere", "--test", "nowhere"])
    assert "no such file" in capsys.readouterr().err
