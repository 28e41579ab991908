"""The report of a language model, each figure computed again by another way; predict and compare agree with it."""

import contextlib
import importlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule

from callbacks import report_language_page
from callbacks.causal_lm import Scored as Others
from callbacks.report_language import LanguageJudgement, by_epoch, causal_name
from callbacks.report_language_baselines import counting_models
from callbacks.report_language_files import TextPredictions
from callbacks.report_language_score import look
from callbacks.report_language_targets import panel
from datamodules.errors import DataError
from datamodules.language_layout import Corpus, TextBatches, TextSampler
from datamodules.ngram import KneserNey
from datamodules.samplers import BatchLoader
from modules.nets.language import LanguageTransformer, Shape
from modules.nets.memory import Slots
from modules.perplexity import attention_use
from tests.running import code, data_of_run, run

ALL = ("--judgement.metrics", "all", "--judgement.cache_size", "60", "--judgement.published", "wikitext-2")
WORDS = "the of a in and river town hill north old runs from by stone".split()


def figures(folder: Path, stage: str = "test") -> dict:
    return json.loads((folder / stage / "metrics.json").read_text(encoding="utf-8"))


def tiny_gpt2(folder: Path) -> Path:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(WORDS, vocab_size=270, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    size = {"vocab_size": len(tokenizer), "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 1}
    GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tested runs on the same text: one with a memory, one without; the first judged by everything."""
    base = tmp_path_factory.mktemp("language")
    with contextlib.chdir(base):
        gpt2 = tiny_gpt2(base / "gpt2")
        for name, words in (("plain", ["--model.memory", "null"]), ("memory", [])):
            run(["fit", "--name", name, *words], system="language")
            more = [] if name == "plain" else ["--judgement.beside", "[runs/language/plain]", *ALL]
            more += [] if name == "plain" else ["--judgement.causal_models", f"[{gpt2}]", "--judgement.maps", "true"]
            run(["test", "--name", name, "--ckpt_path", "best", *words, *more], system="language")
    return base


@pytest.fixture(scope="module")
def memory(runs):
    return runs / "runs" / "language" / "memory"


@pytest.fixture(scope="module")
def data(memory):
    return data_of_run(memory, torch.load(memory / "checkpoints" / "best.ckpt", weights_only=True))


@pytest.fixture(scope="module")
def model(memory):
    importlib.import_module("modules.language")
    return LightningModule.load_from_checkpoint(memory / "checkpoints" / "best.ckpt", map_location="cpu").eval()


def loss_alone(model, data, labels: np.ndarray, memory: bool = True) -> float:
    """The loss of one document, window by window, in a batch of its own and from its logits."""
    inputs = torch.tensor(np.concatenate([[data.tokenizer.eos_id], labels[:-1]]))[None]
    total, state = 0.0, None
    for first in range(0, len(labels), data.window):
        tokens = inputs[:, first : first + data.window]
        starts = torch.zeros_like(tokens, dtype=torch.bool)
        starts[0, 0] = first == 0
        with torch.no_grad():
            out = model.net(tokens, starts=starts, state=state if memory else None)
        state = out["state"]
        logs = out["logits"][0].log_softmax(1)
        chosen = torch.tensor(labels[first : first + data.window].astype(np.int64))
        total -= logs.gather(1, chosen[:, None]).sum().item()
    return total


def documents(data, part: str) -> list[np.ndarray]:
    return np.split(np.asarray(data.tokens(part)), np.asarray(data.starts(part))[1:])


def test_reloaded_and_alone_each_document_costs_what_is_stored(memory, model, data):
    found = TextPredictions.load(memory / "test" / "predictions_test.npz")
    texts = documents(data, "test")
    assert len(texts) == len(found.id) >= 2
    for labels, nll, tokens in zip(texts, found.nll, found.n_tokens, strict=True):
        assert tokens == len(labels) > 2 * data.window
        assert loss_alone(model, data, labels) == pytest.approx(nll, rel=1e-5)


def test_the_figures_are_sums_by_counts_of_the_text_itself(memory, data):
    found, values = TextPredictions.load(memory / "test" / "predictions_test.npz"), figures(memory)["values"]
    texts = [data.text(row) for row in data.documents("test")]
    words = sum(len(line.split()) + 1 for text in texts for line in text.removesuffix("\n").split("\n"))
    size = sum(len(text.encode()) for text in texts)
    total = found.nll.sum()
    assert values["perplexity"] == pytest.approx(math.exp(total / len(data.tokens("test"))))
    assert values["word_perplexity"] == pytest.approx(math.exp(total / words))
    assert values["bits_per_byte"] == pytest.approx(total / size / math.log(2))
    stored = pd.read_csv(memory / "test" / "results.csv").set_index("Metric")["Value"]
    assert stored["word_perplexity"] == pytest.approx(values["word_perplexity"])
    low, high = figures(memory)["intervals"]["word_perplexity"]
    assert low <= values["word_perplexity"] <= high and figures(memory)["n_groups"] == len(texts)


def test_without_its_memory_the_model_is_the_same_network_with_an_empty_one(memory, model, data):
    off = figures(memory)["memory"]["off"]
    nll = sum(loss_alone(model, data, labels, memory=False) for labels in documents(data, "test"))
    assert off["values"]["nll"] == pytest.approx(nll / len(data.tokens("test")), rel=1e-5)
    difference = off["difference"]["word_perplexity"]
    ours = figures(memory)["values"]["word_perplexity"]
    assert difference[0] == pytest.approx(ours - off["values"]["word_perplexity"])
    assert difference[1] <= difference[0] <= difference[2]
    assert figures(memory)["memory"]["shuffled"]["values"]["nll"] != off["values"]["nll"]
    assert "memory" not in figures(memory.parent / "plain")


def test_counting_models_stand_beside_on_the_same_documents(memory, data):
    train, starts = np.asarray(data.tokens("train"), np.int64), np.asarray(data.starts("train"))
    logs = (
        KneserNey(data.vocab_size, 5)
        .fit(train, starts)
        .log_prob(np.asarray(data.tokens("test"), np.int64), np.asarray(data.starts("test")))
    )
    entry = figures(memory)["baselines"]["Kneser-Ney 5-gram, tokens"]
    assert entry["values"]["nll"] == pytest.approx(-logs.mean())
    assert entry["values"]["nll"] < figures(memory)["baselines"]["unigram"]["values"]["nll"]
    assert "not in the training text" in figures(memory)["baselines"]["Kneser-Ney 5-gram, words"]["not_run"]


def test_other_runs_and_other_models_stand_beside(memory):
    baselines, plain = figures(memory)["baselines"], figures(memory.parent / "plain")
    assert baselines["run plain"]["values"] == plain["values"]
    name = next(name for name in baselines if name.startswith("gpt2"))
    assert "window 24" in name and "without" not in name and baselines[name]["values"]["word_perplexity"] > 1
    report = (memory / "REPORT.md").read_text(encoding="utf-8")
    assert "AWD-LSTM" in report and "65.80" in report, "published figures stand as they are"


def test_losses_by_distance_and_position_count_each_label(memory, data):
    found = figures(memory)
    total = found["counts"]["tokens"]
    for mode in ("on", "off", "shuffled"):
        assert sum(row["tokens"] for row in found["by_distance"][mode]) == total == len(data.tokens("test"))
        nll = sum(row["tokens"] * math.log(row["perplexity"]) for row in found["by_distance"][mode])
        values = found["values"] if mode == "on" else found["memory"][mode]["values"]
        assert nll / total == pytest.approx(values["nll"])
    assert sum(row["tokens"] for row in found["by_position"]) == total
    first = found["by_position"][0]
    windows = sum(-(-len(labels) // data.window) for labels in documents(data, "test"))
    assert (first["low"], first["tokens"]) == (1, windows)


def test_the_gap_compares_train_and_validation_judged_alike(memory, model, data):
    fit = figures(memory, "fit")
    nll = sum(loss_alone(model, data, labels) for labels in documents(data, "train"))
    assert fit["train"]["values"]["nll"] == pytest.approx(nll / len(data.tokens("train")), rel=1e-5)
    rows = {row["name"]: row for row in figures(memory)["panel"]}
    gap = fit["values"]["perplexity"] / fit["train"]["values"]["perplexity"] - 1
    assert rows["gap of validation to train"]["value"] == pytest.approx(gap)
    assert rows["gap of validation to train"]["reached"] == (gap <= 0.1)


def test_everything_is_measured_where_it_is_asked_for(memory):
    found = figures(memory)
    assert 1 <= found["slots"]["effective_slots"] <= found["slots"]["slots"] == 8
    assert 0 < found["slots"]["written_share"] <= 0.5, "at most 4 of 8 slots a segment"
    assert 0 < found["attention"]["attention_distance"] < 24
    assert found["cache"]["chosen_on"] == "val" and found["cache"]["setting"]["size"] == 60
    assert found["generation"]["repetition_1"] > 0 and 0 <= found["generation"]["bleu_4"] < 1
    samples = pd.read_csv(memory / "test" / "samples.csv", keep_default_na=False)
    assert len(samples) and (samples["true"].str.len() > 0).all()
    assert all((memory / "test" / f"{name}.png").stat().st_size > 5000 for name in ("attention", "slots", "distance"))
    report = (memory / "REPORT.md").read_text(encoding="utf-8")
    for said in (
        "## Limits",
        "No person has judged",
        "memory off",
        "the generator itself",
        "## The brief's hopes",
        "hoped for this on WikiText-2",
    ):
        assert said in report
    assert "generation" not in figures(memory.parent / "plain"), "only where it is asked for"


def test_wandb_gets_curves_pictures_tables_and_samples_offline(memory, tmp_path, monkeypatch):
    from callbacks.report_wandb import send
    from lightning_project.loggers import close_loggers, make_loggers

    monkeypatch.setenv("WANDB_MODE", "offline")
    root = Path(shutil.copytree(memory, tmp_path / "run"))
    loggers = make_loggers(root, "test", "offline", "toy", "first")
    logged: list[str] = []
    keep = loggers[1].experiment.log
    monkeypatch.setattr(
        loggers[1].experiment, "log", lambda values, **rest: (logged.extend(values), keep(values, **rest))
    )
    send(loggers, root, "test")
    close_loggers(loggers)
    pictures = {"test/distance", "test/attention", "test/slots"}
    tables = {f"test/{name}_table" for name in ("results", "by_distance", "by_position", "panel", "samples")}
    assert pictures | tables | {"report"} <= set(logged)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"metrics": "some"}, "perplexity or all"),
        ({"order": 0}, "order >= 1"),
        ({"cache_size": -1}, "cache_size >= 0"),
        ({"published": "wikitext-103"}, "there are: wikitext-2"),
    ],
)
def test_settings_without_a_meaning_are_refused(setting, said):
    with pytest.raises(ValueError, match=said):
        LanguageJudgement(**setting)


def hopes(vocabulary: int = 50_257, entropy: float | None = None, **more) -> dict[str, dict]:
    """The panel by name, of a run on text of people in GPT-2's pieces, or on another."""
    facts = {"protocol": {"vocabulary": vocabulary}, "entropy_per_word": entropy}
    metrics = facts | {"part": "test", "values": {"perplexity": 90.0}} | more
    val = {"part": "val", "values": {"perplexity": 66.0}, "train": {"values": {"perplexity": 55.0}}}
    return {row["name"]: row for row in panel(metrics, facts | val)}


def test_a_hope_is_reached_or_not_by_its_own_definition():
    found = hopes(slots={"active_share": 0.5}, generation={"bleu_4": 0.03})
    assert {name: row["reached"] for name, row in found.items()} == {
        "perplexity per token, train": True,
        "perplexity per token, validation": True,
        "perplexity per token, test": False,
        "gap of validation to train": False,
        "BLEU-4": False,
        "slots with a share of the reads": True,
    }


def test_the_brief_s_hopes_by_epoch_stand_beside_the_validations_of_the_fit(tmp_path):
    log = tmp_path / "training_log.csv"
    assert by_epoch(log) == {}
    log.write_text("epoch,val/ppl\n0,700.5\n1,\n4,249.0\n", encoding="utf-8")
    assert by_epoch(log) == {"1": 700.5, "5": 249.0}
    facts = {"protocol": {"vocabulary": 50_257}, "entropy_per_word": None, "part": "val", "by_epoch": by_epoch(log)}
    rows = {row["name"]: (row["hope"], row["value"], row["reached"]) for row in panel(facts, {})}
    assert rows == {
        "perplexity per token, validation, epoch 1": ("at most 650.62", 700.5, False),
        "perplexity per token, validation, epoch 5": ("at most 250", 249.0, True),
    }


@pytest.mark.parametrize(
    ("vocabulary", "entropy", "why"),
    [(8000, None, "another vocabulary"), (50_257, 1.5, "made text"), (8000, 1.5, "made text")],
)
def test_a_perplexity_per_token_is_judged_only_where_the_brief_meant_it(tmp_path, vocabulary, entropy, why):
    found = hopes(vocabulary, entropy, slots={"active_share": 0.5})
    for part, value in (("train", 55.0), ("validation", 66.0), ("test", 90.0)):
        row = found[f"perplexity per token, {part}"]
        assert (row["reached"], row["note"], row["value"]) == (None, why, value)
    assert (
        found["gap of validation to train"]["reached"] is False and found["slots with a share of the reads"]["reached"]
    )
    rows = list(found.values())
    said = report_language_page._panel_lines(rows)
    assert said[2] == "brief: perplexity per token, test, at most 85: 90.000 –"
    assert f"| 90.000 | – | {why} |" in report_language_page._panel({"panel": rows})
    plain = {"values": {}, "by_distance": {}, "by_position": [{"low": 1}], "panel": rows}
    report_language_page.write_tables(tmp_path, plain)
    stored = pd.read_csv(tmp_path / "panel.csv").set_index("name")["reached"]
    assert stored["perplexity per token, test"] == "–" and stored["gap of validation to train"] == "False"


def test_exploration_is_judged_where_the_model_was_trained_with_it():
    name = "tokens other than the likeliest"
    for share, reached in ((0.2, False), (0.25, True), (0.35, True), (0.4, False)):
        assert hopes(explored=True, generation={"off_likeliest": share})[name]["reached"] is reached
    assert name not in hopes(explored=False, generation={"off_likeliest": 0.3})
    assert name not in hopes(explored=True)


def stand_in(net) -> SimpleNamespace:
    """What `look` needs of a system: the network, the memory that it carries, and the state that it is judged in."""
    module = SimpleNamespace(net=net, training=False, memory_mode="on", device=torch.device("cpu"), state=None)
    module.eval, module.train = net.eval, net.train

    def judge(batch, look=False):
        module.looked.append(look)
        given = {name: batch[name] for name in ("tokens", "starts", "write")}
        state = net.new_state(*batch["tokens"].shape) if module.state is None else module.state
        out = net(**given, state=state, look=look)
        module.state = out.get("state")
        return out

    module.judge, module.looked = judge, []
    module.on_test_epoch_start = lambda: setattr(module, "state", None)
    return module


def text_loader(lengths: list[int], rows: int = 2, window: int = 8, stride: int = 8) -> tuple[BatchLoader, Corpus]:
    rng = np.random.default_rng(0)
    starts = np.cumsum([0, *lengths[:-1]])
    corpus = Corpus(rng.integers(0, 20, sum(lengths)), starts, np.arange(len(lengths)), 20)
    batches = TextBatches(corpus, window, stride, rows, None, 0)
    return BatchLoader(batches, TextSampler(batches, 0, 1, 1)), corpus


TRAINER = SimpleNamespace(precision_plugin=SimpleNamespace(val_step_context=contextlib.nullcontext))


def test_slots_are_followed_to_the_end_of_each_document_and_empty_ones_are_left_out():
    """40 slots, 4 a segment: full after ten. Each document again alone: a slot is written where its value changes."""
    torch.manual_seed(0)
    net = LanguageTransformer(21, Shape(8, 1, 1, 8, 8), memory=Slots(slots=40, width=8, writes=4)).eval()
    loader, corpus = text_loader([120, 97, 130, 30, 125])
    found = look(TRAINER, stand_in(net), loader).slots
    written, overwritten, importance = [], [], []
    for labels in np.split(corpus.labels, corpus.starts[1:]):
        inputs, state = torch.tensor(np.concatenate([[20], labels[:-1]]))[None], None
        for first in range(0, len(labels), 8):
            tokens = inputs[:, first : first + 8]
            starts = torch.zeros_like(tokens, dtype=torch.bool)
            starts[0, 0] = first == 0
            before = state
            with torch.no_grad():
                state = net(tokens, starts=starts, state=state)["state"]
            if before is not None:
                changed = (state["value"] != before["value"]).any(2)[0]
                written.append(changed.float().mean().item())
                overwritten.append((changed & (before["importance"][0] > 0)).float().mean().item())
                importance += state["importance"][state["importance"] > 0].tolist()
    assert max(overwritten) > 0, "otherwise the test shows nothing"
    assert found["written_share"] == pytest.approx(np.mean(written))
    assert found["overwritten_share"] == pytest.approx(np.mean(overwritten))
    assert found["importance_mean"] == pytest.approx(np.mean(importance), rel=1e-5)
    assert found["importance_std"] == pytest.approx(np.std(importance), rel=1e-3)


def test_attention_and_reads_are_looked_at_in_batches_spread_over_the_part():
    torch.manual_seed(0)
    module = stand_in(LanguageTransformer(21, Shape(8, 1, 1, 8, 8), memory=Slots(slots=8, width=8, writes=4)).eval())
    loader, _ = text_loader([200, 200, 120, 120, 80, 80])
    found = look(TRAINER, module, loader)
    assert len(loader) == len(module.looked) == 50
    assert [i for i, seen in enumerate(module.looked) if seen] == [0, 7, 14, 21, 28, 35, 42, 49]
    assert found.read_map is not None and found.read_map.sum() > 0
    plain = stand_in(LanguageTransformer(21, Shape(8, 1, 1, 8, 8)).eval())
    assert look(TRAINER, plain, loader).slots == {} and plain.looked == [True] * 8, "nothing is carried"


def test_every_window_that_is_looked_at_weighs_the_same():
    """With a short stride, too, where only the last labels of a window count."""
    torch.manual_seed(0)
    net = LanguageTransformer(21, Shape(8, 1, 1, 8, 8)).eval()
    loader, corpus = text_loader([16, 8, 12], rows=2, stride=4)
    found = look(TRAINER, stand_in(net), loader).attention
    windows = []
    for labels in np.split(corpus.labels, corpus.starts[1:]):
        inputs = torch.tensor(np.concatenate([[20], labels[:-1]]))
        windows += [inputs[first : first + 8] for first in range(0, len(labels) - 7, 4)]
    with torch.no_grad():
        used = [attention_use(net(tokens[None], look=True)["attention"].numpy()) for tokens in windows]
    assert len(windows) == 3 + 1 + 2
    for name, value in found.items():
        assert value == pytest.approx(np.mean([use[name] for use in used]), rel=1e-5)


def made_of_lines(closes: bool, tokens: dict[str, list[int]]) -> SimpleNamespace:
    """A datamodule of two training documents and two to judge, by words."""
    texts = ["a b a\n", "b a\n a\n", "a a b\n", "b\n"]
    rows = {"train": np.array([0, 1]), "test": np.array([2, 3])}
    starts = {"train": np.array([0, 4]), "test": np.array([0, 4])}
    return SimpleNamespace(
        records=pd.DataFrame({"id": [f"d{i}" for i in range(4)]}), vocab_size=3, text=lambda i: texts[i],
        documents=rows.get, tokens=tokens.get, starts=starts.get, tokenizer=SimpleNamespace(closes=closes),
    )  # fmt: skip


@pytest.mark.parametrize("closes", [True, False])
def test_the_n_gram_of_words_says_where_a_document_ends_if_the_model_does(closes):
    a, b, line, end = 0, 1, 2, 3
    data = made_of_lines(closes, {"train": [a, b, a, line, b, a, line, a, line], "test": [a, a, b, line, b, line]})
    counts = np.array([4, 2])
    names = np.array(["d2", "d3"])
    judged = TextPredictions(names, names, np.zeros(2), counts, counts, 2 * counts)
    found = counting_models(data, "test", judged, 2)[0]["Kneser-Ney 2-gram, words"]
    last = [end] if closes else []
    model = KneserNey(4 if closes else 3, 2).fit(
        np.array([a, b, a, line, *last, b, a, line, a, line, *last]), np.array([0, 4 + closes])
    )
    logs = [model.log_prob(np.array([*words, *last]), np.array([0])).sum() for words in ([a, a, b, line], [b, line])]
    assert found.nll == pytest.approx([-log for log in logs])
    assert found.n_tokens.tolist() == [4 + closes, 2 + closes] and found.n_words.tolist() == [4, 2]


def test_a_model_that_cannot_close_a_document_says_so_in_its_name():
    scored = Others(np.zeros(2), np.ones(2), 24, 8, 3_400_000, closed=True)
    assert causal_name("a/gpt2", scored, True) == "gpt2 (3M, window 24, stride 8)"
    scored = replace(scored, closed=False)
    assert causal_name("a/gpt2", scored, True) == "gpt2 (3M, window 24, stride 8, without the end of each document)"
    assert causal_name("a/gpt2", scored, False) == "gpt2 (3M, window 24, stride 8)", "no model says it here"


def test_a_run_on_other_documents_does_not_stand_beside(runs, memory):
    with contextlib.chdir(runs):
        other = runs / "runs" / "language" / "other" / "test"
        other.mkdir(parents=True, exist_ok=True)
        found = TextPredictions.load(memory / "test" / "predictions_test.npz")
        TextPredictions(found.id[::-1], found.group, found.nll, found.n_tokens, found.n_words, found.n_bytes).save(
            other / "predictions_test.npz"
        )
        with pytest.raises(DataError, match="other documents"):
            run(["test", "--name", "memory", "--ckpt_path", "best", "--judgement.beside", f"[{other.parent}]"],
                system="language")  # fmt: skip


def test_compare_pairs_documents_and_scores_again_on_one_text(runs, memory, data):
    with contextlib.chdir(runs):
        folders = ["runs/language/memory", "runs/language/plain"]
        run(["compare", *folders, "--out", "stored", "--bootstrap", "50"], config=False)
        text = Path("one.txt")
        text.write_text(data.text(int(data.documents("test")[0])), encoding="utf-8")
        again = ["--text", str(text), "--metrics", "perplexity,repetition,bleu", "--bootstrap", "50"]
        run(["compare", *folders, "--out", "again", *again], config=False)
        words = ["--name", "memory", "--ckpt_path", "best", "--data.predict_path", str(text)]
        run(["predict", *words], system="language")
    stored = json.loads((runs / "stored" / "comparison.json").read_text(encoding="utf-8"))["rows"]
    ours, theirs = (figures(memory.parent / row["run"])["values"]["word_perplexity"] for row in stored)
    assert stored[1]["word_perplexity_difference"] == pytest.approx(theirs - ours)
    scored = pd.read_csv(runs / "again" / "comparison.csv")
    found = TextPredictions.load(memory / "test" / "predictions_test.npz")
    expected = math.exp(found.nll[0] / found.n_words[0])
    assert scored["word_perplexity"][0] == pytest.approx(expected, rel=1e-4)
    assert {"repetition_2", "bleu_4", "bleu_4_low", "repetition_2_difference_high"} <= set(scored)
    predicted = pd.read_csv(memory / "predict" / "predictions.csv")
    assert predicted["word_perplexity"][0] == pytest.approx(expected, rel=1e-4)
    assert "documents of one.txt" in (runs / "again" / "comparison.md").read_text(encoding="utf-8")


def test_folds_are_one_run_whose_documents_are_judged_once(runs, memory, capsys):
    found = TextPredictions.load(memory / "test" / "predictions_test.npz")
    halves = [np.arange(len(found.id)) % 2 == k for k in (1, 0)]
    for k, rows in enumerate(halves):
        fold = memory.parent / "folds" / f"fold-{k}"
        shutil.copytree(memory, fold, ignore=shutil.ignore_patterns("checkpoints"), dirs_exist_ok=True)
        part = TextPredictions(**{name: getattr(found, name)[rows] for name in TextPredictions.__dataclass_fields__})
        part.save(fold / "test" / "predictions_test.npz")
    with contextlib.chdir(runs):
        words = ["compare", "runs/language/folds", "runs/language/plain", "--out", "folds", "--bootstrap", "50"]
        run(words, config=False)
        assert code([*words, "--text", "one.txt"], config=False) == 3
        said = capsys.readouterr().err
        assert "a network for each fold" in said and "runs/language/folds/fold-0" in said
        found.save(memory.parent / "folds" / "fold-1" / "test" / "predictions_test.npz")
        assert code(words, config=False) == 3 and "occurs in two folds" in capsys.readouterr().err
    line = json.loads((runs / "folds" / "comparison.json").read_text(encoding="utf-8"))["rows"][0]
    assert line["word_perplexity"] == pytest.approx(figures(memory)["values"]["word_perplexity"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "accuracy"], "unknown metric"),
        (["--metrics", "bleu"], "nothing to continue"),
        (["--metric", "macro_f1"], "unknown metric"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, capsys, words, said):
    with contextlib.chdir(runs):
        assert code(["compare", "runs/language/memory", "runs/language/plain", *words], config=False) == 3
    assert said in capsys.readouterr().err


def write_parts(folder: Path, parts: dict[str, list[str]]) -> Path:
    folder.mkdir()
    for name, texts in parts.items():
        (folder / f"{name}.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return folder


def test_the_audit_finds_a_document_on_both_sides_and_text_without_order(tmp_path, capsys):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=300)) for _ in range(12)]
    parts = {"train": texts[:8], "valid": texts[8:10], "test": [*texts[10:], texts[0].replace("river", "brook", 1)]}
    path = write_parts(tmp_path / "text", parts)
    words = ["--data.path", str(path), "--data.tokenizer", "words", "--data.boundary", "line"]
    assert code(["audit", *words], system="language") == 3
    shown = capsys.readouterr()
    assert "groups lie in several parts" in shown.out + shown.err
    assert "random text" in shown.out


def test_a_random_corpus_stays_at_the_size_of_the_vocabulary(tmp_path):
    """Fifty independent words, twenty a line: less than their entropy would mean that labels are seen."""
    words = ["--data.synthetic", "random", "--data.tokenizer", "words", "--trainer.max_epochs", "2"]
    run(["fit", "--name", "random", *words, "--data.synthetic_samples", "12000"], system="language")
    found = figures(Path("runs/language/random"), "fit")
    floor = math.exp(found["entropy_per_word"])
    assert floor == pytest.approx(50 ** (20 / 21), rel=1e-6), "a line's end is known"
    assert 0.97 * floor < found["values"]["word_perplexity"] < 1.5 * floor


def test_questions_are_judged_by_the_likeliest_word_with_and_without_the_memory(tmp_path):
    words = ["--data.synthetic", "recall", "--data.tokenizer", "words", "--trainer.max_epochs", "1"]
    run(["fit", "--name", "recall", *words, "--report.baselines", "false"], system="language")
    folder = Path("runs/language/recall")
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    data = data_of_run(folder, best)
    model = LightningModule.load_from_checkpoint(folder / "checkpoints" / "best.ckpt", map_location="cpu").eval()
    right = asked = 0
    for labels in documents(data, "val"):
        inputs, state = torch.tensor(np.concatenate([[data.tokenizer.eos_id], labels[:-1]]))[None], None
        for first in range(0, len(labels), data.window):
            tokens = inputs[:, first : first + data.window]
            starts = torch.zeros_like(tokens, dtype=torch.bool)
            starts[0, 0] = first == 0
            with torch.no_grad():
                out = model.net(tokens, starts=starts, state=state)
            state = out["state"]
            for place, token in enumerate(tokens[0].tolist()):
                if data.tokenizer.decode([token]).strip() == "?":
                    asked += 1
                    right += out["logits"][0, place].argmax().item() == labels[first + place]
    found = figures(folder, "fit")["recall"]
    assert found["on"]["asked"] == found["off"]["asked"] == asked >= 8
    assert found["on"]["accuracy"] == pytest.approx(right / asked)
    assert 1 / 16 <= found["on"]["chance"] < 1
    assert "another text's memory" in (folder / "REPORT.md").read_text(encoding="utf-8")
