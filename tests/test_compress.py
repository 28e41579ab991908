"""Smaller models: what int8 and pruning do to weights, and the verb that judges them beside a student."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lightning_project import compress as verb
from lightning_project.writer import Writer
from modules.compression import apply_masks, magnitude_masks, sizes, to_int8, zero_share
from modules.nets.language import LanguageTransformer, Shape
from modules.nets.language_lstm import LanguageLSTM
from modules.nets.memory import Slots
from tests.running import code, fitted_run, parameters, run


def network(tied: bool) -> LanguageTransformer:
    torch.manual_seed(0)
    return LanguageTransformer(50, Shape(64, 2, 2, 128, 32, norm="pre", tied=tied)).eval()


def test_the_smallest_weights_of_the_whole_network_go_and_embeddings_stay():
    for tied in (False, True):
        net = network(tied)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        masks = magnitude_masks(net, 0.3)
        assert ("head.weight" in masks) is not tied
        apply_masks(net, masks)
        kept = torch.cat([before[name][mask].abs() for name, mask in masks.items()])
        gone = torch.cat([before[name][~mask].abs() for name, mask in masks.items()])
        assert gone.max() <= kept.min()
        assert len(gone) / (len(gone) + len(kept)) == pytest.approx(0.3, abs=0.001) == zero_share(net)
        assert torch.equal(net.embedding.weight, before["embedding.weight"])
        for name, mask in masks.items():
            assert torch.equal(net.state_dict()[name], before[name] * mask)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_is_no_pruning(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        magnitude_masks(network(False), share)


MEMORIES = {"none": None, "keyed": Slots(8, 16, 4), "brief": Slots(8, 16, 4, kind="brief")}


def remembering(kind: str) -> LanguageTransformer:
    """A network with all parts, whose memory adds something to the states."""
    torch.manual_seed(0)
    shape = Shape(64, 2, 2, 128, 32, "pre", "rotary", gated=True, bias=False, tied=True, copy=16)
    net = LanguageTransformer(200, shape, memory=MEMORIES[kind]).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("memory.gate"):
                parameter.fill_(0.5)
    return net


def read_twice(net, tokens: torch.Tensor) -> torch.Tensor:
    """The log-probabilities (B, T, V) of a second segment, after a first one that the memory may hold."""
    with torch.inference_mode():
        half = tokens.shape[1] // 2
        state = net(tokens[:, :half], state=net.new_state(len(tokens), half)).get("state")
        return net(tokens[:, half:], state=state)["logits"].log_softmax(-1)


@pytest.mark.parametrize("kind", MEMORIES)
def test_int8_is_near_and_smaller_and_leaves_the_original_alone(kind):
    net, tokens = remembering(kind), torch.randint(200, (2, 64))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = to_int8(net)
    difference = (read_twice(net, tokens) - read_twice(small, tokens)).abs().max()
    assert 0 < difference < 0.05
    assert sizes(small)[0] < 0.5 * sizes(net)[0]
    assert small.head.weight is small.embedding.weight and small.head.weight.dtype == torch.int8
    assert np.isnan(zero_share(small)) and zero_share(net) < 0.01  # of the gates, which begin at zero
    assert all(type(part) is nn.Linear for part in net.modules() if isinstance(part, nn.Linear))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", MEMORIES)
def test_in_int8_a_text_is_the_same_in_any_batch_and_sees_nothing_later(kind):
    small, tokens = to_int8(remembering(kind)), torch.randint(200, (6, 64))
    together = read_twice(small, tokens)
    for i, row in enumerate(tokens):
        torch.testing.assert_close(read_twice(small, row[None])[0], together[i], atol=1e-5, rtol=0)
    changed = tokens.clone()
    changed[:, 50:] = (changed[:, 50:] + 7) % 200
    torch.testing.assert_close(read_twice(small, changed)[:, :18], together[:, :18], atol=1e-6, rtol=0)
    assert (read_twice(small, changed)[:, 18:] - together[:, 18:]).abs().max() > 0.01


def test_a_row_of_zeros_stays_zeros_in_int8():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight[0] = 0
    small = to_int8(nn.Sequential(layer))
    torch.testing.assert_close(small(torch.ones(1, 4))[0, 0], layer.bias[0])


def test_the_matrices_of_an_lstm_are_pruned_too():
    torch.manual_seed(0)
    net = LanguageLSTM(50, Shape(16, 2, max_len=32)).eval()
    masks = magnitude_masks(net, 0.5)
    assert {name.rpartition(".")[2] for name in masks} == {"weight_ih_l0", "weight_hh_l0"} and len(masks) == 4
    apply_masks(net, masks)
    assert zero_share(net) == pytest.approx(0.5, abs=0.01)
    assert net(torch.randint(50, (2, 8)))["logits"].isfinite().all()


def test_a_network_without_matrices_is_not_pruned():
    with pytest.raises(ValueError, match="Embedding has no weights of linear layers"):
        magnitude_masks(nn.Embedding(3, 4), 0.5)


def test_zeros_make_a_packed_file_smaller_only():
    net = network(False)
    whole, packed = sizes(net)
    apply_masks(net, magnitude_masks(net, 0.9))
    assert sizes(net)[0] == whole and sizes(net)[1] < 0.6 * packed


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fitted_run(tmp_path_factory, "language")


@pytest.fixture(scope="module")
def rows(fitted):
    run(["compress", "--ckpt_path", str(fitted), "--methods", "int8", "prune", "prune_int8", "--steps", "3",
         "--sparsity", "0.6", "--student", str(fitted)], config=False)  # fmt: skip
    return json.loads((fitted / "compress" / "compress.json").read_text(encoding="utf-8"))["rows"]


def test_each_way_is_a_row_beside_the_model(rows, fitted):
    assert [row["model"] for row in rows] == [
        *("as trained", "int8", "trained on, whole", "pruned 60%", "pruned 60%, int8"),
        f"student {fitted.name}",
    ]
    trained, int8, whole, pruned, _, student = rows
    assert whole["zeros"] == 0 and whole["ratio"] != 1  # the same steps, no weight away
    assert whole["recommended"] is False  # whatever its time: it is there to compare with
    assert pruned["zeros"] == pytest.approx(0.6, abs=0.01) and pruned["bytes"] == trained["bytes"]
    assert int8["ratio"] == pytest.approx(1, abs=0.05) and int8["zeros"] is None
    assert student["ratio"] == student["ratio_low"] == student["ratio_high"] == 1  # here it is the model itself
    assert all(row["ms_per_token"] > 0 and row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows[1:])
    assert trained["recommended"] is False


def test_the_perplexity_is_that_of_the_report(rows, fitted):
    reported = json.loads((fitted / "fit" / "metrics.json").read_text(encoding="utf-8"))["values"]
    assert rows[0]["perplexity"] == pytest.approx(reported["perplexity"], rel=1e-4)
    assert rows[0]["word_perplexity"] == pytest.approx(reported["word_perplexity"], rel=1e-4)


def test_the_page_says_what_was_found(rows, fitted):
    page = (fitted / "compress" / "COMPRESS.md").read_text(encoding="utf-8")
    assert all(f"| {row['model']} |" in page for row in rows)


def test_pruned_weights_are_a_checkpoint_like_any_other(rows, fitted):
    path = fitted / "checkpoints" / "pruned.ckpt"
    zeros = sum(int((value == 0).sum()) for name, value in parameters(path).items() if "blocks" in name)
    assert zeros > 0.3 * sum(value.numel() for name, value in parameters(path).items() if "blocks" in name)
    net = Writer.of_run(str(path), device="cpu").net
    assert zero_share(net) == pytest.approx(0.6, abs=0.01)


def test_an_lstm_is_made_smaller_like_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(["fit", "--name", "lstm", "--model.network", "lstm", "--model.memory", "null", "--trainer.max_epochs", "1",
         "--report.baselines=false", "--judgement.train_documents=0"], system="language")  # fmt: skip
    run(["compress", "--ckpt_path", "runs/language/lstm", "--methods", "int8", "prune", "--steps", "1",
         "--sparsity", "0.6"], config=False)  # fmt: skip
    found = json.loads((tmp_path / "runs/language/lstm/compress/compress.json").read_text(encoding="utf-8"))["rows"]
    assert [row["model"] for row in found] == ["as trained", "int8", "trained on, whole", "pruned 60%"]
    assert found[3]["zeros"] == pytest.approx(0.6, abs=0.01)


def test_a_student_of_a_shorter_window_is_timed_in_its_own():
    nets = [(LanguageTransformer(50, Shape(16, 1, 2, 32, length, norm="pre")).eval(), length) for length in (64, 24)]
    assert all(seconds > 0 for seconds in verb.seconds_per_token(nets, rounds=1))


def test_a_way_has_to_win_to_be_recommended():
    sums = {"nll": np.full(20, 100.0), **{unit: np.full(20, 50.0) for unit in ("tokens", "words", "bytes")}}
    first = verb.Candidate("as trained", sums, 100, 90, 0.0, None, 64)
    cases = [  # name, sums, bytes, seconds a token (the first has 1), whether it wins
        ("smaller", sums, 50, 1.0, True),
        ("faster", sums, 100, 0.5, True),
        ("no better", sums, 95, 0.95, False),
        ("worse text", {**sums, "nll": sums["nll"] * 1.05}, 50, 0.5, False),
    ]
    for name, own, size, seconds, expected in cases:
        row = verb.row_of(verb.Candidate(name, own, size, 45, 0.0, None, 64), first, seconds, 1.0)
        assert verb.wins(row, worse=0.01) is expected, name


@pytest.mark.parametrize("words", [["--sparsity", "1"], ["--steps", "-1"], ["--lr", "0"], ["--worse", "-0.1"]])
def test_values_without_a_meaning_are_refused(words, capsys):
    assert code(["compress", *words], config=False) == 2
    assert "compress needs" in capsys.readouterr().err
