"""Other causal models under a run's protocol: a tiny GPT-2 from a folder, against a loop over its own forward."""

import math

import numpy as np
import pytest
import torch

from datamodules.errors import DataError

TEXTS = ["The river Alba runs north .\n It rises in Mora .\n", "Mora is a town .\n", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of a few thousand parameters with a byte-level BPE of its own."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("gpt2")
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(TEXTS * 3, vocab_size=280, special_tokens=["<|endoftext|>"], show_progress=False)
    end = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **end)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, initializer_range=0.5)).save_pretrained(path)
    return path


@pytest.mark.parametrize(("window", "stride", "closed"), [(8, 8, False), (8, 3, True), (99, 99, False), (99, 99, True)])
def test_a_model_is_scored_token_by_token(folder, window, stride, closed):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from callbacks.causal_lm import score

    found = score(str(folder), TEXTS, window, stride, torch.device("cpu"), closed, batch_size=3)
    window, stride = min(window, 16), min(stride, 16)
    assert (found.window, found.stride, found.closed) == (window, stride, closed)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    for text, nll, count in zip(TEXTS, found.nll, found.tokens, strict=True):
        end = [tokenizer.eos_token_id] if closed else []  # what closes a document is predicted and counted, too
        ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"], *end]
        assert count == len(ids) - 1
        total, done = 0.0, 1
        while done < len(ids):
            end = min(done + (window if done == 1 else stride), len(ids))
            start = max(0, end - 1 - window)
            with torch.no_grad():
                logs = model(torch.tensor([ids[start : end - 1]])).logits[0].log_softmax(1)
            total -= sum(logs[t - start - 1, ids[t]].item() for t in range(done, end))
            done = end
        assert nll == pytest.approx(total, rel=1e-5)


def test_more_context_by_a_shorter_stride_changes_the_figure_but_not_the_count(folder):
    from callbacks.causal_lm import score

    wide, dense = (score(str(folder), TEXTS, 8, stride, torch.device("cpu"), False) for stride in (8, 1))
    np.testing.assert_array_equal(wide.tokens, dense.tokens)
    assert not math.isclose(wide.nll[0], dense.nll[0])
    assert wide.nll[2] == pytest.approx(dense.nll[2]), "a text within one window has one way of being scored"


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    from callbacks.causal_lm import score

    with pytest.raises(DataError, match="cannot be read"):
        score(str(tmp_path), TEXTS, 8, 8, torch.device("cpu"), False)


def test_a_model_without_an_end_of_text_says_that_it_closed_nothing(folder, tmp_path):
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from callbacks.causal_lm import score

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    tokenizer = {"tokenizer_file": str(folder / "tokenizer.json"), "bos_token": "<|endoftext|>"}
    PreTrainedTokenizerFast(**tokenizer).save_pretrained(tmp_path)
    found, open_ended = (score(str(tmp_path), TEXTS, 8, 8, torch.device("cpu"), closed) for closed in (True, False))
    assert not found.closed
    np.testing.assert_array_equal(found.tokens, open_ended.tokens)
