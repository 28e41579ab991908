"""Training a model further: another run's weights and vocabulary, pairs whose prompts are in no loss, and a student."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from callbacks.init_from import InitFrom
from callbacks.report_text import BEGAN_WITH
from datamodules.errors import DataError
from datamodules.language_layout import Corpus, TextBatches, TextSampler
from datamodules.language_pairs import LanguagePairs, read_pairs
from datamodules.language_tokenizer import read_tokenizer
from datamodules.samplers import BatchLoader
from modules.base import ClassMapError
from modules.language_teaching import Distillation, divergence, read_teacher
from tests.fake_data.language_teacher import write_teacher
from tests.running import ROOT, code, fitted_run, parameters, run

VARIANTS = ROOT / "configs" / "variants"


def pair_file(folder: Path, count: int = 40) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"prompt": f"What is {n} ?", "target": f" It is {n % 7} ."} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs_data(folder: Path, window: int = 16, **more) -> LanguagePairs:
    data = LanguagePairs(path=str(pair_file(folder)), tokenizer="bytes", window=window, batch_size=6, **more)
    data.setup("fit")
    table = data.records[["id", "group", "hash", "label"]].assign(part="train")
    table.loc[30:, "part"] = "val"
    data.apply_split(table)
    return data


@pytest.mark.parametrize("window", [8, 16, 64])
def test_every_token_of_a_target_is_learnt_once_and_none_of_a_prompt(tmp_path, window):
    data = pairs_data(tmp_path, window)
    for loader, rows in ((data.train_dataloader(), range(30)), (data.part_dataloader("val"), range(30, 40))):
        learnt, total, steps = [], 0.0, 0
        for batch in loader:
            learnt += batch["y"][batch["y"] >= 0].tolist()
            total += float((batch["weight"][:, None] * (batch["y"] >= 0)).sum())
            steps += bool((batch["y"] >= 0).any())  # a batch may hold parts of prompts alone
        expected = [b for n in rows for b in [*f" It is {n % 7} .".encode(), data.tokenizer.eos_id]]
        assert sorted(learnt) == sorted(expected)
        assert total == pytest.approx(steps)  # the weights of each batch add up to one


def test_a_pair_is_read_whole_in_a_row_of_its_own(tmp_path):
    data = pairs_data(tmp_path, 64)
    batch = next(iter(data.train_dataloader()))
    for tokens, y in zip(batch["tokens"], batch["y"], strict=True):
        first = int((y >= 0).nonzero()[0])
        text = data.tokenizer.decode(tokens[1 : first + 1].tolist())
        assert int(tokens[0]) == data.tokenizer.eos_id and text.startswith("What is ") and text.endswith("?")
        assert data.tokenizer.decode(y[y >= 0].tolist()).startswith(" It is ")


def test_counts_are_of_the_targets(tmp_path):
    counts = pairs_data(tmp_path).counts("val")
    assert counts["n_tokens"].tolist() == [len(" It is 1 .") + 1] * 10
    assert counts["n_bytes"].tolist() == [len(" It is 1 .")] * 10


def test_tokens_of_other_pairs_are_not_answered(tmp_path):
    data = pairs_data(tmp_path)
    assert data.corpus(None) is data.corpus(None) and len(data.corpus(None).context) == 40
    (tmp_path / "new").mkdir()
    data.predict_path = str(pair_file(tmp_path / "new", 5))
    data.setup("predict")
    assert len(data.corpus(None).documents) == len(data.corpus(None).context) == 5


def test_context_of_a_document_takes_no_part_in_an_evaluation_with_a_stride():
    corpus = Corpus(np.arange(100, 150), np.array([0, 30]), np.array([7, 9]), 99, np.array([4, 11]))
    batches = TextBatches(corpus, 8, 3, 2, None, 0)
    seen = torch.cat([
        batch["y_place"][batch["y_place"] >= 0] for batch in BatchLoader(batches, TextSampler(batches, 0, 1, 1))
    ])  # fmt: skip
    assert sorted(seen.tolist()) == [*range(4, 30), *range(41, 50)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "line 2 is no JSON"),
        ("[1]", "line 2 is no object"),
        ('{"prompt": "a"}', "line 2: target is missing"),
        ('{"prompt": 1, "target": "b"}', "line 2: prompt is missing or no text"),
        ('{"prompt": "a", "target": " "}', "line 2: the target is empty"),
        ('{"prompt": "a", "target": "b", "answer": "c"}', "line 2: unknown key 'answer'"),
        ('{"prompt": "a", "target": "b", "part": "dev"}', "line 2: part is 'dev'"),
        ('{"prompt": "a", "target": "b", "part": "val"}', "some pairs name a part"),
        ('{"prompt": "a", "target": "b", "id": "pair-1"}', "'pair-1' occurs twice"),
    ],
)
def test_lines_that_are_no_pairs_are_refused_by_number(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "target": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_pairs(str(path))


def test_the_form_of_pairs_in_the_readme_is_read(tmp_path):
    """The very line that the page shows, with a mark before it and an end of line of Windows."""
    path, line = tmp_path / "pairs.jsonl", '{"prompt": "Q : two and two ?", "target": " A : four ."}'
    assert f"`{line}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert read_pairs(str(path)) == [
        {"id": "pair-1", "part": "", "prompt": "Q : two and two ?", "target": " A : four ."}
    ]


def test_a_vocabulary_is_taken_from_a_run_or_refused(tmp_path):
    path = write_teacher(tmp_path)
    assert read_tokenizer(str(path)).kind == "bytes"
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"PK")
    cases = (("other.ckpt", "no vocabulary"), ("broken.ckpt", "no checkpoint of"), ("none", "no checkpoint at"))
    for name, message in cases:
        with pytest.raises(DataError, match=message):
            read_tokenizer(str(tmp_path / name))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fitted_run(tmp_path_factory, "language")


@pytest.mark.parametrize(("target", "closed"), [(" It is 3 .", 5), (" It is 3 .\n", 5), (" It\u2028is\x853 .", 5)])
def test_among_words_the_end_of_a_line_closes_a_target_once(tmp_path, target, closed):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"What {n} ?", "target": target} for n in range(12)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    data = LanguagePairs(path=str(path), tokenizer="words", window=16, batch_size=4)
    data.setup("fit")
    data.apply_split(data.records[["id", "group", "hash", "label"]].assign(part="train"))
    corpus = data.corpus("train")
    assert (corpus.lengths - corpus.context == closed).all()
    labels = corpus.labels.reshape(12, -1)
    assert (labels[:, -1] == data.tokenizer.eos_id).all() and (labels[:, :-1] != data.tokenizer.eos_id).all()
    assert (data.counts("train")["n_tokens"] == data.counts("train")["n_words"]).all()


def fit_words(fitted: Path, variant: str, *words: str) -> list[str]:
    config = ["--config", str(fitted / "config.yaml"), "--config", str(VARIANTS / f"{variant}.yaml")]
    return ["fit", *config, "--report.bootstrap", "0", *words]


@pytest.mark.slow
def test_a_run_is_trained_further_on_pairs(fitted, tmp_path):
    """The first loss is that of the given weights, so that one step of a rate near nothing leaves them as they are."""
    words = ["--init_from", str(fitted), "--data.path", str(pair_file(tmp_path)), "--trainer.max_epochs", "1"]
    run(fit_words(fitted, "language_pairs", *words, "--name", "same", "--model.optimizer.lr", "1e-12"), config=False)
    folder = Path("runs/language/same")
    before, after = (parameters(path / "checkpoints" / "best.ckpt") for path in (fitted, folder))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    saved = [torch.load(path / "checkpoints" / "best.ckpt", weights_only=True) for path in (fitted, folder)]
    assert saved[0]["class_names"] == saved[1]["class_names"]  # the vocabulary, too
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["vocabulary_from"] and "init_from" not in config
    facts, began = json.loads((folder / BEGAN_WITH).read_text(encoding="utf-8")), fitted / "checkpoints" / "best.ckpt"
    assert Path(facts["checkpoint"]).samefile(began)
    assert facts["sha256"] == hashlib.sha256(began.read_bytes()).hexdigest()
    assert f"--init_from {facts['checkpoint']} --name again" in (folder / "REPORT.md").read_text(encoding="utf-8")
    run(["test", "--ckpt_path", str(folder)], config=False)  # the run knows its vocabulary
    assert json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8"))["values"]["perplexity"] > 1


def test_a_run_that_is_resumed_keeps_its_own_weights(fitted, tmp_path):
    model = LightningModule.load_from_checkpoint(fitted / "checkpoints" / "best.ckpt", map_location="cpu")
    given = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.net.embedding.weight.zero_()
    start = InitFrom(str(fitted / "checkpoints" / "best.ckpt"))
    start.on_fit_start(SimpleNamespace(ckpt_path="last.ckpt", is_global_zero=True), model)
    assert not model.net.embedding.weight.any() and not (tmp_path / BEGAN_WITH).exists()
    start.on_fit_start(SimpleNamespace(ckpt_path=None, is_global_zero=True, default_root_dir=tmp_path), model)
    assert all(torch.equal(given[name], value) for name, value in model.state_dict().items())


def test_weights_to_begin_with_are_refused_where_they_do_not_fit(fitted, tmp_path, capsys):
    path = ["--data.path", str(pair_file(tmp_path))]
    other = ["--model.shape.width", "32", "--model.shape.heads", "2"]
    for more, expected, message in (
        (["--init_from", str(fitted), *other], 3, "another network than the checkpoint's"),
        (["--init_from", str(fitted), "--ckpt_path", "last", "--name", "x"], 2, "without --ckpt_path"),
        (["--init_from", "nowhere"], 2, "nowhere"),
    ):
        assert code(fit_words(fitted, "language_pairs", *path, *more), config=False) == expected
        assert message in capsys.readouterr().err


def test_the_divergence_is_that_of_torch():
    told, own = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    expected = torch.nn.functional.kl_div(
        (own / 2).log_softmax(-1), (told / 2).log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    torch.testing.assert_close(divergence(told, own, 2.0), 4 * expected)
    assert divergence(told, told, 1.0).abs().max() < 1e-6


def test_a_teacher_is_read_without_its_code_or_refused(tmp_path):
    path = write_teacher(tmp_path)
    names = [read_tokenizer(str(path)).fingerprint]
    net = read_teacher(str(path), names)
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())
    torch.save([1], tmp_path / "list.ckpt")
    torch.save({"x": Distillation("code")}, tmp_path / "code.ckpt")
    for run_, known, message in (
        (str(path), ["x"], "another vocabulary"),
        (None, names, "set model.distillation"),
        (str(tmp_path / "list.ckpt"), names, "no Transformer of `language`"),
        (str(tmp_path / "code.ckpt"), names, "tensors and plain values"),
    ):
        with pytest.raises(ClassMapError, match=message):
            read_teacher(run_, known)
    for settings in ({"share": 0.0}, {"share": 1.1}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="distillation needs"):
            Distillation("run", **settings)


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teacher_than_the_text_alone_brings_it(fitted):
    """Three fits of few steps, alike but for the teacher's share; and what a fit writes has no teacher in it."""
    teacher = ["--model.distillation.teacher", str(fitted)]
    common = ["--data.vocabulary_from", str(fitted), "--report.baselines", "false", "--model.shape.width", "24"]
    apart = {}
    for share in ("1e-9", "1.0"):
        words = [*teacher, *common, "--model.distillation.share", share, "--name", f"share{share}"]
        run(fit_words(fitted, "language_student", *words), config=False)
        folder = Path(f"runs/language/share{share}")
        assert all(name.startswith("net.") for name in parameters(folder / "checkpoints" / "last.ckpt"))
        apart[share] = distance(fitted, folder)
    assert apart["1.0"] < apart["1e-9"]


def distance(teacher: Path, student: Path) -> float:
    """Mean divergence of the student from the teacher on some tokens."""
    from lightning_project.writer import Writer

    nets = [Writer.of_run(str(folder), device="cpu").net for folder in (teacher, student)]
    tokens = torch.randint(60, 200, (8, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float(divergence(*(net(tokens)["logits"] for net in nets), 1.0).mean())
