"""Comparison of language models: intervals, unknown words, continuations of one length, and what can be had."""

import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from callbacks.report_language_files import TextPredictions
from datamodules.language_tokenizer import Tokenizer, read_tokenizer
from datamodules.synthetic.language import make_articles
from lightning_project import compare_continued as continuations
from lightning_project.compare_language import _add_perplexities, _boundary
from lightning_project.compare_language_runs import TextRun, unknown_words
from lightning_project.writer import Writer
from tests.running import code, data_of_run, run

FOLDERS = ("runs/language/pieces", "runs/language/words")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tested runs on the same text: one of pieces, one of few words; and files to compare them on."""
    base = tmp_path_factory.mktemp("compared")
    with contextlib.chdir(base):
        for name, own in (("pieces", ["300"]), ("words", ["60", "--data.tokenizer", "words"])):
            words = ["--model.memory", "null", "--trainer.max_epochs", "1", "--data.vocab_size", *own]
            run(["fit", "--name", name, *words], system="language")
            run(["test", "--name", name, "--ckpt_path", "best", *words], system="language")
        lines = make_articles(1500, seed=1)[0].text.replace("=", "").split()
        plain = "\n".join(" ".join(lines[i : i + 30]) for i in range(0, 240, 30)) + "\n"
        Path("plain.txt").write_text(plain, encoding="utf-8")
        Path("prompts.txt").write_text("The town of\nIt was built\n", encoding="utf-8")
        pairs = [{"prompt": "The town of", "target": " the old mill ."}, {"prompt": "It", "target": " was built ."}]
        Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return base


def compared(base: Path, *words: str) -> tuple[list[dict], str]:
    """Compare the two runs; return the rows and the page."""
    with contextlib.chdir(base):
        run(["compare", *FOLDERS, "--out", "out", "--bootstrap", "30", *words], config=False)
        page = Path("out/comparison.md").read_text(encoding="utf-8")
        return json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))["rows"], page


def refused(base: Path, capsys, *words: str) -> str:
    """Compare the two runs in vain; return what was said."""
    with contextlib.chdir(base):
        assert code(["compare", *FOLDERS, "--out", "refused", *words], config=False) == 3
        assert not Path("refused").exists()
    return capsys.readouterr().err


def test_one_document_has_no_interval_and_no_verdict(runs):
    rows, page = compared(runs, "--text", "plain.txt", "--metrics", "perplexity")
    for row in rows:
        assert row["perplexity"] > 1
        assert row["perplexity_low"] is row["perplexity_high"] is row["word_perplexity_low"] is None
    assert rows[1]["perplexity_difference"] is not None and rows[1]["perplexity_difference_low"] is None
    assert "no intervals: one document" in page and "resamples" not in page
    assert "*clear*" not in page and "nan" not in page


def test_the_boundary_gives_documents_and_so_intervals(runs):
    rows, page = compared(runs, "--text", "plain.txt", "--metrics", "perplexity", "--boundary", "line")
    assert "The same 8 documents of plain.txt" in page
    assert all(row["word_perplexity_low"] < row["word_perplexity"] < row["word_perplexity_high"] for row in rows)


@pytest.mark.parametrize(
    ("given", "expected"), [(["line", "line"], "line"), (["line", "blank"], "heading"), ([None, None], "heading")]
)
def test_a_text_is_cut_as_the_runs_were_where_they_agree(given, expected):
    some = [TextRun(Path("a"), {}, {"data.init_args.boundary": one} if one else {}, None) for one in given]
    assert _boundary(some) == expected


def test_the_setting_of_a_run_is_found_where_its_config_keeps_it(runs):
    assert TextRun.read(runs / FOLDERS[0], False, False).settings["data.init_args.boundary"] == "heading"


def test_a_boundary_without_a_text_is_refused(runs, capsys):
    assert "give --text FILE" in refused(runs, capsys, "--boundary", "line")


def test_unknown_words_of_a_text_leave_the_difference_per_word_blank(runs):
    text = runs / "unknown.txt"
    text.write_text((runs / "plain.txt").read_text(encoding="utf-8") + "<unk> zyx <unk>\nthe <unk>\n", encoding="utf-8")
    known = set(json.loads(read_tokenizer(str(runs / FOLDERS[1])).spec)) | {"<unk>"}
    lines = text.read_text(encoding="utf-8").splitlines()
    unknown = sum(word not in known for line in lines for word in line.split())
    labels = sum(len(line.split()) + 1 for line in lines)
    assert 0 < unknown < labels - 5
    rows, page = compared(runs, "--text", "unknown.txt", "--metrics", "perplexity", "--boundary", "line")
    assert rows[0]["unknown_share"] == 0 and rows[1]["unknown_share"] == pytest.approx(unknown / labels)
    for name in ("word_perplexity", "bits_per_byte"):
        assert all(rows[1][f"{name}_difference{end}"] is None for end in ("", "_low", "_high"))
    assert rows[1]["perplexity_difference"] is not None
    assert f"{unknown / labels:.2%} of the judged words are unknown" in page and "not set against the first" in page
    assert "*clear*" not in page.split("The same")[0]


def test_unknown_words_of_the_test_part_are_counted_in_the_text_of_the_run(runs):
    folder = runs / FOLDERS[1]
    data = data_of_run(folder, torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True))
    labels = np.asarray(data.tokens("test"))
    rows, page = compared(runs)
    assert rows[1]["unknown_share"] == pytest.approx((labels == data.tokenizer.unk_id).mean()) and labels.size > 100
    assert rows[1]["unknown_share"] > 0.01 and rows[1]["word_perplexity_difference"] is None
    assert "not set against the first" in page


def test_a_text_that_is_gone_leaves_the_share_unknown_and_says_so(runs):
    config = runs / FOLDERS[1] / "config.yaml"
    kept = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"(\n    path:) null", r"\1 gone.txt", kept), encoding="utf-8")
    try:
        rows, page = compared(runs)
    finally:
        config.write_text(kept, encoding="utf-8")
    assert rows[1]["unknown_share"] is None and rows[1]["word_perplexity_difference"] is None
    assert "could not be found out (give --text FILE)" in page


def judged(nll: float, vocabulary: str, unknown: float) -> list[TextRun]:
    found = TextPredictions(
        np.array(["a", "b"]), np.array(["a", "b"]), np.array([nll, 2 * nll]), *(np.array([10, 11]),) * 3
    )
    return [TextRun(Path(vocabulary), {}, {}, found, unknown, vocabulary)]


@pytest.mark.parametrize(
    ("first", "second", "compares"),
    [
        (("a", 0.0), ("b", 0.0), True),
        (("a", 0.1), ("a", 0.1), True),  # the same words are unknown to both
        (("a", 0.1), ("b", 0.0), False),
        (("a", 0.0), ("b", 0.1), False),
        (("", float("nan")), ("", float("nan")), False),
    ],
)
def test_runs_compare_per_word_where_the_same_words_are_known(first, second, compares):
    lines = [{}, {}]
    _add_perplexities(lines, {"one": judged(20.0, *first), "two": judged(30.0, *second)}, 20)
    assert np.isnan(lines[1]["word_perplexity_difference"]) != compares
    assert lines[1]["perplexity_difference"] > 0


def test_the_unknown_word_of_a_text_itself_is_a_word_like_others():
    tokenizer = Tokenizer.train("words", ["the town the river"], 3)  # `the` alone
    assert unknown_words(tokenizer, ["the <unk> the\n", "town <unk>"]) == (1, 6)
    assert unknown_words(Tokenizer("bytes"), ["zyx"]) == (0, 3)


class Knowing(torch.nn.Module):
    """Network that knows a text: the next token is the one that follows there what was read last."""

    def __init__(self, tokens: list[int], size: int) -> None:
        super().__init__()
        self.known, self.size = " ".join(map(str, tokens)) + " ", size
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def new_state(self, rows: int, window: int) -> None:
        return None

    def forward(self, tokens: torch.Tensor, state: None = None) -> dict:
        logits = torch.full((*tokens.shape, self.size), -1e4)
        for row, read in enumerate(tokens.tolist()):
            last = " " + " ".join(map(str, read[-16:])) + " "
            if (at := self.known.find(last)) >= 0:
                logits[row, -1, int(self.known[at + len(last) :].split(" ", 1)[0])] = 0.0
        return {"logits": logits, "state": None}


@pytest.mark.parametrize("kind", ["bytes", "bpe", "words"])
def test_who_writes_the_truth_has_a_bleu_of_one_in_every_vocabulary(tmp_path, kind):
    text = " ".join(f"w{i * 7919 % 1000:03d}" for i in range(400))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    tokenizer = Tokenizer.train(kind, [text], {"bpe": 400}.get(kind))
    net = Knowing(tokenizer.encode(text).tolist(), tokenizer.vocab_size).eval()
    writer = Writer(tmp_path, tmp_path, SimpleNamespace(net=net), tokenizer, 64)
    starts = continuations.plan(None, str(tmp_path / "text.txt"), "heading", None)["bleu"]
    texts = continuations.continued(writer, starts)
    assert [one.strip() for one in texts] == [one.strip() for one in starts.true]
    value, drawn = continuations.measured("bleu", texts, starts)["bleu_4"]
    assert value == 1 and (drawn == 1).all()


def test_repetition_counts_words_and_prompts_without_a_truth_get_as_many(tmp_path):
    starts = continuations.Starts(("the old town", "a river runs"), None, "prompts")
    values = continuations.measured("repetition", ["the town the town", "one two three four"], starts)
    assert values["repetition_1"][0] == pytest.approx(1 - 6 / 8)
    assert values["repetition_2"][0] == pytest.approx(1 - 5 / 6)
    writer = Writer(tmp_path, tmp_path, None, Tokenizer("bytes"), 64)
    assert continuations._limits(writer, starts) == [64 * 24 // 6] * 2
    assert continuations._limits(writer, continuations.Starts(("a",), (" old",), "pairs")) == [4]


def test_one_continuation_has_no_interval():
    values = continuations.measured("bleu", ["a b c"], continuations.Starts(("x",), ("a b d",), "one"))
    assert 0 < values["bleu_1"][0] < 1 and np.isnan(values["bleu_1"][1]).all()


def test_by_default_all_that_can_be_had_is_compared(runs, capsys):
    rows, page = compared(runs, "--prompts", "prompts.txt")
    assert rows[0]["repetition_2"] is not None and rows[0]["word_perplexity"] > 1 and "bleu_1" not in rows[0]
    assert "bleu: not compared (prompts alone have no true continuation" in capsys.readouterr().out
    assert "repetition: of 2 continuations (prompts.txt)" in page
    rows, page = compared(runs, "--text", "plain.txt")
    assert {"word_perplexity", "bleu_4", "repetition_4"} <= set(rows[0])
    rows, _ = compared(runs)
    assert "word_perplexity" in rows[0] and "repetition_1" not in rows[0]


def test_without_test_losses_prompts_are_continued_all_the_same(runs, capsys):
    path = runs / FOLDERS[0] / "test" / "predictions_test.npz"
    path.rename(path.with_suffix(".away"))
    try:
        rows, page = compared(runs, "--prompts", "prompts.txt")
        assert "no test losses" in refused(runs, capsys, "--prompts", "prompts.txt", "--metrics", "perplexity")
    finally:
        path.with_suffix(".away").rename(path)
    assert "repetition_1" in rows[0] and "word_perplexity" not in rows[0]
    assert "| run | seeds | repetition 1 |" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompts", "prompts.txt", "--metrics", "bleu"], "give --text FILE, or lines"),
        (["--metrics", "bleu,repetition"], "nothing to continue"),
        (["--text", "prompts.txt", "--metrics", "perplexity,bleu"], "no document has 112 words"),
        (["--prompts", "none.txt"], "cannot be read"),
        (["--prompts", "prompts.txt", "--metrics", "perplexity"], "--prompts is not used"),
        (["--text", "plain.txt", "--prompts", "pairs.jsonl", "--metrics", "bleu"], "--prompts is not used"),
        (["--text", "plain.txt", "--prompts", "prompts.txt", "--metrics", "repetition"], "--text is not used"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_written(runs, capsys, words, said):
    assert said in refused(runs, capsys, *words)


def test_bleu_is_of_the_text_and_repetition_of_the_prompts_where_both_are_given(runs):
    words = ["--text", "plain.txt", "--prompts", "prompts.txt", "--metrics", "perplexity,bleu,repetition"]
    rows, page = compared(runs, *words)
    assert {"word_perplexity", "bleu_4", "repetition_4"} <= set(rows[1])
    assert "bleu: of 2 continuations (plain.txt)" in page and "repetition: of 2 continuations (prompts.txt)" in page


def test_pairs_give_the_bleu_only_where_the_text_is_too_short(tmp_path):
    for name, words in (("long.txt", 120), ("short.txt", 20)):
        (tmp_path / name).write_text(" ".join(f"w{i}" for i in range(words)), encoding="utf-8")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "two and two", "target": " are four"}\n', encoding="utf-8")
    for name, source in (("long.txt", "long.txt"), ("short.txt", "pairs.jsonl")):
        plan = continuations.plan(None, str(tmp_path / name), "heading", str(pairs))
        assert (plan["bleu"].source, plan["repetition"].source) == (source, "pairs.jsonl")


def test_pairs_are_prompts_with_a_truth(runs):
    rows, page = compared(runs, "--prompts", "pairs.jsonl", "--metrics", "bleu,repetition")
    assert {"bleu_4", "repetition_1"} <= set(rows[0]) and rows[0]["bleu_1"] is not None
    assert "bleu: of 2 continuations (pairs.jsonl)" in page
    assert pd.read_csv(runs / "out" / "comparison.csv")["bleu_1"].between(0, 1).all()
