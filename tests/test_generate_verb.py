"""The verb `generate` over a fitted run: texts in files and on the screen, turns, the demonstration, and refusals."""

import io
import json
import sys

import pytest
from torch import nn

from lightning_project import generate_talk
from lightning_project.generate_talk import Settings, room_of, within
from lightning_project.writer import Writer, printable
from modules.compression import Int8Linear
from modules.continuing import continue_texts
from modules.generation import Sampling
from tests.running import ROOT, code, fitted_run, run

PROMPTS = ("The town of", "In the year", "He", "Without letters she wrote a long book about the early history of")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fitted_run(tmp_path_factory, "language")


def written(fitted, *words: str, prompts=PROMPTS) -> list[dict]:
    """Run `generate` and read the file that it writes."""
    run(["generate", "--ckpt_path", str(fitted), "--device", "cpu", "--out", "texts.jsonl", "--prompt", *prompts,
         "--max_new_tokens", "40", *words], config=False)  # fmt: skip
    with open("texts.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def texts(fitted, *words: str, **more) -> list[str]:
    return [row["text"] for row in written(fitted, *words, **more)]


def test_texts_are_those_of_the_seed_whatever_the_batch(fitted):
    base = texts(fitted)
    assert texts(fitted, "--batch_size", "1") == base
    assert texts(fitted, "--batch_size", "3") == base
    assert texts(fitted, "--seed", "1") != base
    assert texts(fitted, prompts=PROMPTS[:2]) == base[:2]


def test_greedy_is_top_k_1_and_the_strategies_differ(fitted):
    greedy = written(fitted, "--strategy", "greedy")
    assert texts(fitted, "--strategy", "top_k", "--top_k", "1") == [row["text"] for row in greedy]
    assert all(row["off_likeliest"] == 0 for row in greedy)
    ways = [
        ["--strategy", "temperature"],
        ["--strategy", "temperature", "--temperature", "0.3"],
        ["--strategy", "top_k", "--top_k", "5"],
        ["--strategy", "top_p", "--top_p", "0.5"],
        ["--strategy", "top_k_top_p", "--top_k", "5", "--top_p", "0.5"],
        ["--strategy", "greedy", "--repetition_penalty", "1.5"],
        ["--strategy", "greedy", "--frequency_penalty", "1"],
        ["--strategy", "greedy", "--no_repeat_ngram", "2"],
    ]
    found = {tuple(texts(fitted, *way)) for way in ways}
    assert len(found | {tuple(row["text"] for row in greedy)}) == len(ways) + 1


def test_rows_say_how_a_text_was_made(fitted):
    rows = written(fitted, "--samples", "2", "--seed", "3", "--max_new_tokens", "7")
    assert [row["prompt"] for row in rows] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [row["sample"] for row in rows] == [0, 1] * len(PROMPTS)
    assert {row["seed"] for row in rows} == {3}
    assert all(row["tokens"] == 7 for row in rows if row["ended"] == "length")
    assert {row["strategy"] for row in rows} == {"top_p"}
    assert any(rows[i]["text"] != rows[i + 1]["text"] for i in range(0, len(rows), 2))


def test_a_stop_string_cuts_the_text(fitted):
    base = written(fitted)
    stop = base[0]["text"][8:10]
    for row, whole in zip(written(fitted, "--stop", stop), base, strict=True):
        assert row["text"] == whole["text"].split(stop)[0]
        assert (row["ended"] == "stop string") == (stop in whole["text"])


def test_one_text_appears_as_it_grows_and_is_the_same(fitted, capsys):
    expected = texts(fitted, prompts=PROMPTS[:1])[0]
    capsys.readouterr()
    written(fitted, prompts=PROMPTS[:1])
    assert capsys.readouterr().out.startswith(PROMPTS[0] + printable(expected))


def test_a_terminal_gets_no_control_characters():
    assert printable("a\x1b[2Jé\n\tb\x07") == "a\ufffd[2Jé\n\tb\ufffd"


def test_a_file_of_prompts_and_the_run_folder(fitted, capsys):
    with open("prompts.txt", "w", encoding="utf-8") as file:
        file.write("# a comment\n\nThe town of\n  He  \n")
    words = ["generate", "--ckpt_path", str(fitted), "--prompts", "prompts.txt", "--max_new_tokens", "3"]
    run([*words, "--device", "cpu"], config=False)
    path = fitted / "generate" / "texts.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["The town of", "He"]
    assert "texts.jsonl (2 texts)" in capsys.readouterr().out
    # the very weights, named in other ways
    assert [row["text"] for row in rows] == texts(fitted / "checkpoints" / "best.ckpt", "--max_new_tokens", "3",
                                                  prompts=["The town of", "He"])  # fmt: skip


def test_text_is_written_in_int8_when_asked(fitted):
    assert texts(fitted, "--int8") == texts(fitted, "--int8", "--batch_size", "1")
    kinds = {type(part) for part in Writer.of_run(str(fitted), int8=True).net.modules()}
    assert nn.Linear not in kinds and Int8Linear in kinds


def test_the_demonstration_shows_each_strategy_and_the_memory(fitted, capsys):
    rows = written(fitted, "--demo", prompts=PROMPTS[:2])
    out = capsys.readouterr().out
    assert len(rows) == 2 * 9
    assert {row["strategy"] for row in rows} == {"greedy", "temperature", "top_k", "top_p", "top_k_top_p"}
    assert sum(row["temperature"] == 1.2 for row in rows) == 6
    assert "[temperature 1.2, sample 3]" in out and "[top_p 0.9, penalty 1.2, no 3-gram twice]" in out
    assert "slots in use: 8 of 8" in out


@pytest.mark.slow
def test_the_demonstration_of_a_network_without_a_memory_is_written(tmp_path, capsys):
    variant = ROOT / "configs" / "variants" / "language_lstm.yaml"
    less = ["--trainer.max_epochs", "1", "--report.bootstrap", "0", "--report.baselines", "false"]
    run(["fit", "--config", str(variant), "--model.shape.width", "16", *less, "--name", "lstm"], system="language")
    capsys.readouterr()
    rows = written(tmp_path / "runs" / "language" / "lstm", "--demo", prompts=PROMPTS[:1])
    assert len(rows) == 9 and "this network has none" in capsys.readouterr().out


@pytest.mark.slow
def test_the_texts_of_a_run_on_pairs_of_words_end_with_their_line(tmp_path):
    rows = [{"prompt": f"What is {n} ?", "target": f"It is {n % 7} ."} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    variant = ROOT / "configs" / "variants" / "language_pairs.yaml"
    run(["fit", "--config", str(variant), "--data.path", "pairs.jsonl", "--data.tokenizer", "words", "--name", "pairs",
         "--report.bootstrap", "0"], system="language")  # fmt: skip
    folder = tmp_path / "runs" / "language" / "pairs"
    found = written(folder, "--strategy", "temperature", "--max_new_tokens", "400", prompts=["What is 3 ?"])
    assert [row["ended"] for row in found] == ["end of text"] and "\n" not in found[0]["text"]


def talked(fitted, monkeypatch, lines: list[str], *words: str) -> list[tuple[list[int], list[int], int]]:
    """Talk; return prompt, answer and ``top_k`` of each turn."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    seen = []

    def spy(net, texts, *more, **named):
        continue_texts(net, texts, *more, **named)
        seen.append((texts[0].prompt, texts[0].tokens, texts[0].sampling.top_k))

    monkeypatch.setattr(generate_talk, "continue_texts", spy)
    run(["generate", "--ckpt_path", str(fitted), "--interactive", "--device", "cpu", *words], config=False)
    return seen


def test_a_talk_keeps_its_turns_and_takes_settings(fitted, capsys, monkeypatch):
    lines = ["The town of", "config top_k 1", "config strategy top_k", "and", "config nix 3", "config temperature 0",
             "clear", "and", "quit", "not read"]  # fmt: skip
    seen = talked(fitted, monkeypatch, lines, "--max_new_tokens", "5")
    out = capsys.readouterr().out
    assert "top_k: 1" in out and "no setting 'nix'" in out and "temperature must be above 0" in out
    (first, answer, k), (second, _, other_k), (third, _, _) = seen
    assert second[: len(first) + len(answer)] == first + answer and len(second) > len(first) + len(answer)
    assert len(third) < len(first) + len(answer) and third[0] == first[0]  # the turns were forgotten
    assert (k, other_k) == (40, 1)


def test_what_was_said_is_read_though_the_answer_is_longer_than_the_window(fitted, monkeypatch):
    writer = Writer.of_run(str(fitted), device="cpu")
    said = writer.prompt("The town of")
    assert 2 < len(said) <= writer.window // 2 < 100
    ((prompt, answer, _),) = talked(fitted, monkeypatch, ["The town of"])  # 100 tokens by default
    assert prompt == said and answer


def test_turns_have_what_an_answer_leaves_of_the_window_or_half_of_it():
    assert [room_of(64, tokens) for tokens in (10, 32, 40, 64, 100)] == [54, 32, 32, 32, 32]
    assert room_of(2, 500) == 1


def test_turns_stay_inside_the_room():
    turns = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert within(turns, 9) == turns
    assert within(turns, 8) == turns[1:]
    assert within(turns, 4) == turns[2:]
    assert within(turns, 3) == [[7, 8, 9]]


def test_settings_of_a_talk_keep_their_kind():
    settings = Settings(Sampling(), 10)
    for name, value in (("temperature", "2"), ("stop", "."), ("max_new_tokens", "7"), ("strategy", "greedy")):
        settings.set(name, value)
    assert settings.sampling == Sampling("greedy", temperature=2.0)
    assert (settings.stop, settings.max_new_tokens) == (["."], 7)
    for name, value in (("top_k", "2.5"), ("max_new_tokens", "0"), ("strategy", "beam"), ("seed", "-1"), ("top_k", "")):
        with pytest.raises(ValueError, match=r"takes int|cannot be|unknown|at least"):
            settings.set(name, value)


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        ([], 2, "nothing to continue"),
        (["--prompt", "a", "--temperature", "0"], 2, "use strategy greedy"),
        (["--prompt", "a", "--top_k", "0"], 2, "top_k must be at least 1"),
        (["--prompt", "a", "--max_new_tokens", "0"], 2, "max_new_tokens must be at least 1"),
        (["--prompt", "a", "--batch_size", "0"], 2, "batch_size must be at least 1"),
        (["--prompt", "a", "--device", "abacus"], 2, "device 'abacus' is unknown"),
        (["--prompts", "nowhere.txt"], 3, "nowhere.txt: cannot be read"),
        (["--prompt", "a", "--strategy", "beam"], 2, "beam"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(fitted, words, exit_code, message, capsys):
    assert code(["generate", "--ckpt_path", str(fitted), *words], config=False) == exit_code
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_whole_is_refused(fitted, tmp_path, capsys):
    copy = tmp_path / "copy" / "checkpoints"
    copy.mkdir(parents=True)
    (copy / "best.ckpt").write_bytes((fitted / "checkpoints" / "best.ckpt").read_bytes())
    assert code(["generate", "--ckpt_path", str(copy.parent), "--prompt", "a"], config=False) == 3
    assert "config.yaml is missing" in capsys.readouterr().err
