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


def test_int8_is_near_and_smaller_and_leaves_the_original_alone():
    net, tokens = network(False), torch.randint(50, (2, 32))
    small = to_int8(net)
    full, rounded = (one(tokens)["logits"].log_softmax(-1) for one in (net, small))
    assert 0 < (full - rounded).abs().max() < 0.2
    assert sizes(small)[0] < 0.5 * sizes(net)[0]
    assert np.isnan(zero_share(small)) and zero_share(net) == 0
    assert all(type(part) is nn.Linear for part in net.modules() if isinstance(part, nn.Linear))


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


def test_a_way_has_to_win_to_be_recommended():
    sums = {"nll": np.full(20, 100.0), **{unit: np.full(20, 50.0) for unit in ("tokens", "words", "bytes")}}
    first = verb.Candidate("as trained", sums, 100, 90, 0.0, None)
    cases = [  # name, sums, bytes, seconds a token (the first has 1), whether it wins
        ("smaller", sums, 50, 1.0, True),
        ("faster", sums, 100, 0.5, True),
        ("no better", sums, 95, 0.95, False),
        ("worse text", {**sums, "nll": sums["nll"] * 1.05}, 50, 0.5, False),
    ]
    for name, own, size, seconds, expected in cases:
        row = verb.row_of(verb.Candidate(name, own, size, 45, 0.0, None), first, seconds, 1.0)
        assert verb.wins(row, worse=0.01) is expected, name


@pytest.mark.parametrize("words", [["--sparsity", "1"], ["--steps", "-1"], ["--lr", "0"], ["--worse", "-0.1"]])
def test_values_without_a_meaning_are_refused(words, capsys):
    assert code(["compress", *words], config=False) == 2
    assert "compress needs" in capsys.readouterr().err
