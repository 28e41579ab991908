"""States of a frozen encoder: the numbers of the model itself, computed once, read cheaply."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from datamodules import encoder_states
from datamodules.encoder_states import EncoderStates, States, pad_states
from datamodules.errors import DataError

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES, max_position_embeddings=20)).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def texts(n=9, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 40, size=length).tolist() for length in rng.integers(3, longest + 1, size=n)]


def expected(source, ids, layer):
    model = BertModel.from_pretrained(source, add_pooling_layer=False).eval()
    with torch.no_grad():
        return [model(torch.tensor([text]), output_hidden_states=True).hidden_states[layer][0].numpy() for text in ids]


def passes(monkeypatch):
    count = []
    forward = BertModel.forward
    monkeypatch.setattr(BertModel, "forward", lambda self, *a, **k: count.append(1) or forward(self, *a, **k))
    return count


@pytest.mark.parametrize("layer", [0, 1, 3, None])
def test_states_are_the_hidden_states_of_the_model_text_by_text(encoder, layer):
    ids = texts()
    source = EncoderStates(encoder, layer, batch_size=4, dtype="float32")
    found = source.get(ids)
    want = expected(encoder, ids, 3 if layer is None else layer)
    assert source.width == 16 and len(found) == 9
    for i, text in enumerate(want):  # padding of the passes changes nothing, nor does their order
        np.testing.assert_allclose(found.text(i), text, atol=2e-5)


def test_half_precision_is_the_rule_and_means_count_real_tokens_only(encoder):
    ids = texts()
    source = EncoderStates(encoder, 2, batch_size=3)
    found = source.get(ids)
    assert found.values.dtype == np.float16 and isinstance(found.values, np.memmap)
    means = np.stack([text.mean(0) for text in expected(encoder, ids, 2)])
    np.testing.assert_allclose(source.pooled(found), means, atol=2e-3)
    exact = EncoderStates(encoder, 2, pooled=True, dtype="float32")
    np.testing.assert_allclose(exact.vectors(ids), means, atol=1e-5)


def test_the_second_call_reads_the_file(encoder, monkeypatch):
    count = passes(monkeypatch)
    first = EncoderStates(encoder, 2, batch_size=4).get(texts())
    assert len(count) == 3
    again = EncoderStates(encoder, 2, batch_size=5).get(texts())  # the batch size is no part of the content
    EncoderStates(encoder, pooled=True).vectors(texts())
    EncoderStates(encoder, 3, pooled=True).vectors(texts())  # the last layer by its number
    assert len(count) == 4
    np.testing.assert_array_equal(first.values, again.values)


@pytest.mark.parametrize("change", ["layer", "text", "order", "weights", "dtype", "cut"])
def test_whatever_changes_the_states_makes_another_file(encoder, change, monkeypatch):
    EncoderStates(encoder, 2).get([[1, 2, 3], [4, 5]])
    count = passes(monkeypatch)
    ids, layer, dtype = [[1, 2, 3], [4, 5]], 2, "float16"
    if change == "layer":
        layer = 1
    elif change == "text":
        ids = [[1, 2, 3], [4, 6]]
    elif change == "order":
        ids = ids[::-1]
    elif change == "cut":
        ids = [[1, 2], [3, 4, 5]]
    elif change == "dtype":
        dtype = "float32"
    else:
        model = BertModel.from_pretrained(encoder)
        model.encoder.layer[0].output.dense.bias.data += 1
        model.save_pretrained(encoder)
    EncoderStates(encoder, layer, dtype=dtype).get(ids)
    assert len(count) == 1


def test_a_broken_computation_leaves_no_file_that_would_be_believed(encoder, tmp_path, monkeypatch):
    forward = BertModel.forward

    def broken(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.last_hidden_state[0, 0, 0] = float("nan")
        return out

    with monkeypatch.context() as patch:
        patch.setattr(BertModel, "forward", broken)
        with pytest.raises(DataError, match="not finite in float16"):
            EncoderStates(encoder).get(texts())
    assert not list((tmp_path / "cache").rglob("*.npy")) + list((tmp_path / "cache").rglob("*.part"))
    assert np.isfinite(EncoderStates(encoder).get(texts()).values).all()


def test_two_that_ask_at_the_same_time_compute_it_once(encoder, monkeypatch):
    count = passes(monkeypatch)
    with ThreadPoolExecutor(2) as pool:  # a lock of a file belongs to whoever opened it, so threads are as good
        found = list(pool.map(lambda _: EncoderStates(encoder).get(texts(60)).values, range(2)))
    assert len(count) == 1
    np.testing.assert_array_equal(*found)


def test_a_worker_gets_the_path_and_not_the_bytes(encoder):
    found = EncoderStates(encoder).get(texts(200))
    packed = pickle.dumps(found)
    assert len(packed) < found.values.nbytes / 4
    again = pickle.loads(packed)
    assert isinstance(again.values, np.memmap)
    np.testing.assert_array_equal(again.text(7), found.text(7))
    small = pickle.loads(pickle.dumps(States(np.ones((2, 3), np.float16), np.array([0, 2]))))
    assert small.text(0).shape == (2, 3)


def test_batches_are_padded_to_their_longest_text():
    x, mask = pad_states([np.ones((2, 4), np.float16), np.full((3, 4), 2, np.float16)])
    assert x.shape == (2, 3, 4) and x.dtype == torch.float32 and mask.dtype == torch.bool
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert x.sum(dim=(1, 2)).tolist() == [8, 24]


def test_encoders_without_a_pooler_argument_or_with_other_layers_give_the_last_layer(tmp_path):
    DistilBertModel(DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=24)).save_pretrained("d")
    assert EncoderStates("d", dtype="float32").get([[1, 2, 3]]).values.shape == (3, 16)
    with pytest.raises(DataError, match=r"no encoder\.layer that could be cut"):
        EncoderStates("d", layer=1).get([[1, 2, 3]])


def test_position_tables_that_begin_behind_the_padding_index(tmp_path):
    RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=12, pad_token_id=1)).save_pretrained("r")
    assert EncoderStates("r").get([[5] * 10]).values.shape == (10, 16)
    with pytest.raises(DataError, match="text 0 has more than 10 tokens"):
        EncoderStates("r").get([[5] * 11])


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([], "no text to encode"),
        ([[1], []], "text 1 has no token"),
        ([[1], [2] * 21], "text 1 has more than 20 tokens"),
        ([[1, 40]], "token id 40 is outside the 40"),
    ],
)
def test_texts_that_do_not_fit_are_refused(encoder, ids, said):
    with pytest.raises(DataError, match=said):
        EncoderStates(encoder).get(ids)


def test_unusable_encoders_are_refused(encoder, tmp_path):
    with pytest.raises(DataError, match=r"cannot be read .*; name a local folder"):
        EncoderStates("no/such-encoder").get([[1]])
    with pytest.raises(DataError, match=r"has 3 layers, so states\.layer=4 is too many"):
        EncoderStates(encoder, 4).get([[1]])
    small = BertModel.from_pretrained(encoder, num_hidden_layers=2)
    small.config.num_hidden_layers = 3
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(DataError, match="lacks weights of its encoder"):
        EncoderStates(str(tmp_path / "small")).get([[1]])
    (tmp_path / "bert" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"none of model.safetensors.* is there"):
        EncoderStates(encoder).get([[1]])


def test_a_damaged_file_is_named(encoder, tmp_path):
    EncoderStates(encoder).get([[1, 2]])
    path = next((tmp_path / "cache").rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"damaged .*remove it"):
        EncoderStates(encoder).get([[1, 2]])


def test_a_full_disk_is_said_before_the_work(encoder, monkeypatch):
    monkeypatch.setattr(encoder_states.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"the states need 0.0 GB and 0.0 GB are free"):
        EncoderStates(encoder).get([[1, 2]])


@pytest.mark.parametrize("wrong", [{"layer": -1}, {"batch_size": 0}, {"dtype": "float8"}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EncoderStates("x", **wrong)


def test_means_of_stored_states_need_no_pass_and_are_the_same(encoder, tmp_path, monkeypatch):
    ids = texts()
    fresh = EncoderStates(encoder, cache=str(tmp_path / "other")).vectors(ids)
    source = EncoderStates(encoder)
    source.get(ids)
    count = passes(monkeypatch)
    np.testing.assert_allclose(source.vectors(ids), fresh, atol=1e-6)
    assert not count
