"""`language` as a system: trained is reloaded; streams, vocabularies, faults; and what a memory can do."""

import contextlib
import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule

from callbacks.report_language_files import TextPredictions
from datamodules.language import LanguageData
from modules.language import LanguageModel
from modules.nets.language import Dropouts, LanguageTransformer, Shape
from modules.nets.memory import Slots
from tests.running import NAME, code, data_of, data_of_run, digest, fitted_run, run, toy

QUICK = ("--report.baselines", "false", "--judgement.train_documents", "0")


@pytest.fixture
def fitted(tmp_path_factory):
    return fitted_run(tmp_path_factory, "language")


@pytest.fixture
def copied(fitted, tmp_path):
    folder = tmp_path / "runs" / "language" / NAME
    shutil.copytree(fitted, folder)
    return folder


def test_reloading_needs_no_data_and_gives_the_losses_of_the_test(copied, fitted):
    run(["test", "--name", NAME, "--ckpt_path", "best", *QUICK, *data_of(fitted)], system="language")
    stored = TextPredictions.load(copied / "test" / "predictions_test.npz")
    checkpoint = torch.load(copied / "checkpoints" / "best.ckpt", weights_only=True)
    model = LightningModule.load_from_checkpoint(copied / "checkpoints" / "best.ckpt", map_location="cpu").eval()
    data = data_of_run(copied, checkpoint)
    assert model.class_names == [data.tokenizer.fingerprint]
    nll = torch.zeros(len(data.tokens("test")))
    with torch.no_grad():
        model.on_test_epoch_start()
        for batch in data.part_dataloader("test"):
            out = model.test_step(batch, 0)
            real = out["place"] >= 0
            nll[out["place"][real]] = out["nll"][real]
    starts = [*data.starts("test"), len(nll)]
    sums = [nll[a:b].double().sum().item() for a, b in pairwise(starts)]
    ids = data.records["id"].iloc[data.documents("test")].tolist()
    place = {name: i for i, name in enumerate(ids)}
    assert sorted(stored.id) == sorted(ids)
    np.testing.assert_allclose(stored.sums()["nll"], [sums[place[name]] for name in stored.id], rtol=1e-5)


def test_another_vocabulary_than_the_checkpoint_s_is_refused(copied, tmp_path, capsys):
    """The same documents with one word more often: other pieces under the same ids."""
    data = toy("language").write(tmp_path, rename={"winter": "zzyzx"})
    table = (copied / "split.csv").read_text(encoding="utf-8").splitlines()
    other = LanguageData(path=str(data), cache=None)
    other.setup("fit")
    hashes = dict(zip(other.records["id"], other.records["hash"], strict=True))
    header, rows = table[0].split(","), [line.split(",") for line in table[1:]]
    at = {name: header.index(name) for name in ("id", "hash")}
    for row in rows:
        row[at["hash"]] = hashes[row[at["id"]]]
    (copied / "split.csv").write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")
    words = ["test", "--name", NAME, "--ckpt_path", "best", "--data.path", str(data)]
    assert code(words, system="language") == 3
    err = capsys.readouterr().err
    assert "vocabulary of the data" in err and "other words" in err and len(err.strip().splitlines()) == 1
    assert not (copied / "test").exists()


def test_a_memory_on_shuffled_windows_and_a_window_without_positions_are_refused(capsys):
    assert code(["fit", "--name", "a", "--data.order", "windows"], system="language") == 3
    assert "set data.order to streams" in capsys.readouterr().err
    assert code(["fit", "--name", "a", "--data.window", "65"], system="language") == 3
    assert "max_len" in capsys.readouterr().err


class Poison(Callback):
    """Makes the third batch's loss no number, by a weight that is none."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            with torch.no_grad():
                pl_module.net.norm.weight.fill_(float("nan"))


def test_a_loss_that_is_no_number_stops_the_run_and_names_documents(tmp_path, capsys):
    words = ["fit", "--name", "nan", "--trainer.callbacks+", "tests.test_language_system.Poison", *QUICK]
    assert code([*words, "--checkpoint.every_n_steps", "1"], system="language") == 4
    folder = tmp_path / "runs" / "language" / "nan"
    found = json.loads((folder / "nonfinite.json").read_text(encoding="utf-8"))
    assert found["global_step"] == 2 and found["ids"][0].startswith("articles-")
    assert found["ids"][0] in capsys.readouterr().err


def test_checkpoints_of_an_end_carry_no_memory(fitted):
    for name in ("best", "last"):
        state = torch.load(fitted / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert "carry" not in state["processes"][0]
        assert not [key for key in state["state_dict"] if "hidden" in key or "slots" in key]
        assert state["LanguageData"]["tokenizer"]["kind"] == "bpe"


def test_last_is_written_every_so_many_epochs_and_at_the_end():
    words = ["--trainer.max_epochs", "3", "--checkpoint.every_n_epochs", "2", *QUICK]
    run(["fit", "--name", "a", *words, "--trainer.callbacks+", "tests.test_language_system.Seen"], system="language")
    assert Seen.steps == [None, None, 2]
    assert torch.load("runs/language/a/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


class Seen(Callback):
    """Notes which epoch `last` holds when an epoch starts."""

    steps: ClassVar[list] = []

    def on_train_epoch_start(self, trainer, pl_module):
        path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        held = torch.load(path, weights_only=True)["epoch"] + 1 if path.exists() else None
        Seen.steps = [*(Seen.steps if trainer.current_epoch else []), held]

    def on_train_start(self, trainer, pl_module):
        Seen.steps = []


SHORT = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "8", "--trainer.limit_val_batches", "1.0")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    with contextlib.chdir(folder):
        run(["fit", "--name", "a", *SHORT, *QUICK], system="language")
    return digest(folder / "runs/language/a/checkpoints/last.ckpt")


@pytest.mark.parametrize(
    "words",
    [
        ("--model.memory.writes", "2"),
        ("--model.memory.slots", "5"),
        ("--model.memory.width", "4"),
        ("--model.memory.heads", "2"),
        ("--model.memory", "null"),
        ("--model.exploration", "{initial: 0.2, maximum: 0.5, kind: uniform, end: 1.0, steps: 0}"),
        ("--model.dropouts.word_dropout", "0.3"),
        ("--data.window", "16"),
        ("--data.boundary", "blank"),
        ("--data.tokenizer", "bytes"),
    ],
    ids=lambda words: words[0],
)
def test_each_setting_changes_the_weights(words, plain):
    run(["fit", "--name", "a", *SHORT, *QUICK, *words], system="language")
    changed = digest(Path("runs/language/a/checkpoints/last.ckpt"))
    assert (changed != plain) == (words[0] != "--data.boundary")  # the embedded text comes in documents


def test_the_noise_follows_its_schedule_in_a_fit():
    digests = set()
    for steps in (0, 4):
        noise = f"{{initial: 0.2, maximum: 0.5, kind: uniform, end: 0.0, steps: {steps}}}"
        run(["fit", "--name", f"a{steps}", *SHORT, *QUICK, "--model.exploration", noise], system="language")
        digests.add(digest(Path(f"runs/language/a{steps}/checkpoints/last.ckpt")))
    assert len(digests) == 2


def trained(net: LanguageTransformer, data: LanguageData, steps: int, lr: float = 3e-3) -> LanguageTransformer:
    """Train in a bare loop, the memory carried along the streams."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    loader, done, epoch = data.train_dataloader(), 0, 0
    while done < steps:
        loader.sampler.set_epoch(epoch)
        state = None
        for batch in loader:
            inputs = {name: batch[name] for name in ("tokens", "starts", "write")}
            state = state if state is not None else net.new_state(*batch["tokens"].shape)
            out = net(**inputs, state=state, targets=batch["y"])
            state = out.get("state")
            optimizer.zero_grad()
            (out["nll"].sum(1) * batch["weight"]).sum().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, (done + 1) / 40) * max(0.05, 1 - done / steps)
            optimizer.step()
            done += 1
        epoch += 1
    return net.eval()


def split(data: LanguageData) -> LanguageData:
    data.setup("fit")
    records = data.records
    part = np.where(
        np.arange(len(records)) % 8 == 0, "val", np.where(np.arange(len(records)) % 8 == 1, "test", "train")
    )
    data.apply_split(records[["id", "group", "hash", "label"]].assign(part=part))
    return data


@pytest.mark.slow
def test_the_recall_task_is_answered_with_a_memory_and_guessed_without():
    """The sizes of configs/variants/language_recall.yaml: an answer is over 60 words away, the window is 32."""
    kind = {"tokenizer": "words", "window": 32, "order": "streams", "batch_size": 16, "cache": None}
    data = split(LanguageData(synthetic="recall", synthetic_samples=100_000, **kind))
    question = data.tokenizer.encode("?")[0]
    torch.manual_seed(0)
    shape = Shape(64, 2, 2, 128, 32, "pre", "rotary", True, False, True, 16)
    net = trained(LanguageTransformer(data.vocab_size, shape, Dropouts(0.0), Slots(192, 32, 31, 1, 1.0)), data, 600)

    def right(memory: bool) -> float:
        hits, count, state = 0, 0, None
        for batch in data.part_dataloader("val"):
            state = state if state is not None and memory else net.new_state(*batch["tokens"].shape)
            out = net(batch["tokens"], batch["starts"], batch["write"], state)
            state, asked = out["state"], (batch["tokens"] == question) & (batch["y"] >= 0)
            hits += int((out["logits"].argmax(2) == batch["y"])[asked].sum())
            count += int(asked.sum())
        return hits / count

    with torch.no_grad():
        assert right(memory=True) > 0.9
        assert right(memory=False) < 0.15  # 16 values


@pytest.mark.slow
def test_words_without_structure_stay_at_the_perplexity_of_their_number():
    """A look at the answer would show here as a perplexity below that of guessing (the brief's network: 28 of 50)."""
    kind = {"tokenizer": "words", "window": 32, "order": "streams", "batch_size": 16, "cache": None}
    data = split(LanguageData(synthetic="random", synthetic_samples=20_000, **kind))
    torch.manual_seed(0)
    shape = Shape(32, 2, 2, 64, 32, "pre", "rotary", True, False, True, 16)
    net = trained(LanguageTransformer(data.vocab_size, shape, Dropouts(0.0), Slots(32, 16, 8)), data, 200)
    total, count, state = 0.0, 0, None
    with torch.no_grad():
        for batch in data.part_dataloader("val"):
            state = state if state is not None else net.new_state(*batch["tokens"].shape)
            out = net(batch["tokens"], batch["starts"], batch["write"], state, batch["y"])
            state, words = out["state"], batch["y"] != data.tokenizer.eos_id
            total += out["nll"][words & (batch["y"] >= 0)].sum().item()
            count += int((words & (batch["y"] >= 0)).sum())
    assert 0.97 * 50 <= math.exp(total / count) <= 1.15 * 50


@pytest.mark.parametrize(("documents", "rows"), [(3, 3), (2, 4), (1, 2)])
def test_a_shuffled_memory_is_that_of_another_document_also_beside_empty_rows(documents, rows):
    torch.manual_seed(0)
    shape = Shape(16, 2, 2, 32, 16, "pre", "rotary", True, False, True, 8)
    model = LanguageModel(optimizer=torch.optim.AdamW, vocab_size=30, shape=shape, memory=Slots(8, 8, 4)).eval()
    model.memory_mode = "shuffled"
    with torch.no_grad():
        model.net.memory.gate.bias.fill_(0.5)
    there = torch.arange(rows) < documents

    def second_segment(tokens: torch.Tensor) -> torch.Tensor:
        model.on_test_epoch_start()
        for i, part in enumerate(tokens):
            starts = torch.zeros(rows, 12, dtype=torch.bool)
            starts[:, 0] = there & (i == 0)
            write = there[:, None].expand(-1, 12).clone()
            with torch.no_grad():
                nll = model.judge({"tokens": part, "starts": starts, "write": write, "y": part})["nll"]
        return nll

    tokens = torch.randint(1, 30, (2, rows, 12))
    before = second_segment(tokens)
    for changed in range(documents):
        other = tokens.clone()
        other[0, changed] = other[0, changed].flip(0)  # what this document's memory holds of its first segment
        after = second_segment(other)
        readers = {row for row in range(rows) if not torch.equal(after[row], before[row])}
        assert readers == ({(changed + 1) % documents} if documents > 1 else set())


def test_evaluation_modes_of_the_memory_differ_and_off_is_no_state(fitted):
    checkpoint = torch.load(fitted / "checkpoints" / "best.ckpt", weights_only=True)
    model = LightningModule.load_from_checkpoint(fitted / "checkpoints" / "best.ckpt", map_location="cpu").eval()
    assert isinstance(model, LanguageModel)
    with torch.no_grad():
        model.net.memory.gate.bias.fill_(0.5)
    data, found = data_of_run(fitted, checkpoint), {}
    for mode in ("on", "off", "shuffled", "on"):
        model.memory_mode = mode
        model.on_test_epoch_start()
        with torch.no_grad():
            losses = torch.stack([model.validation_step(batch, 0)["nll"] for batch in data.val_dataloader()])
        if mode == "on" and "on" in found:
            assert torch.equal(found["on"], losses)  # the same again, whatever came between
        found[mode] = losses
    assert not torch.equal(found["on"], found["off"]) and not torch.equal(found["on"], found["shuffled"])
    model.memory_mode = "on"
    batch = next(iter(data.val_dataloader()))
    inputs = {name: batch[name] for name in ("tokens", "starts", "write")}
    with torch.no_grad():
        logits = model.net(**inputs)["logits"]
    expected = F.cross_entropy(logits.flatten(0, 1), batch["y"].flatten(), ignore_index=-1, reduction="none")
    torch.testing.assert_close(found["off"][0].flatten(), expected, atol=1e-4, rtol=1e-4)
