"""Papers as cached states of a frozen encoder, or as one vector each."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from datamodules.encoder_states import EncoderStates
from datamodules.errors import DataError
from datamodules.papers import PapersData
from datamodules.papers_dataset import PapersDataset, StateInputs, VectorInputs
from datamodules.papers_encoded import Encoded
from datamodules.papers_fitted import Fitted
from datamodules.samplers import IndexBatch
from datamodules.text_augmentation import EDA
from tests.fake_data.papers import paper_rows, write_encoder, write_papers
from tests.test_papers_data import added, batches, split

ROWS = paper_rows()
H = 16


@pytest.fixture
def encoder(tmp_path):
    return write_encoder(tmp_path / "encoder")


@pytest.fixture
def ready(tmp_path, encoder):
    path = write_papers(tmp_path / "papers.csv")

    def make(pooled=False, **settings):
        states = EncoderStates(str(encoder), pooled=pooled, cache=str(tmp_path / "cache"), dtype="float32")
        data = PapersData(path=str(path), states=states, batch_size=5, **settings)
        data.setup("fit")
        return split(data)

    return make


def states_of(encoder, data, row, field):
    model = AutoModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    ids = data.fitted.tokenizer.tokenizer.encode(ROWS[row][field]).ids
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0]


def test_a_batch_holds_the_states_of_both_fields(ready, encoder):
    data = ready(keywords=3)
    assert (data.input_width, data.vocab_size) == (H, 0) and data.describe()["form"] == "states"
    batch = data.dataset(np.arange(32), False).__getitems__(IndexBatch([4, 7], 2, 0.5, 0, 0))
    for field in ("title", "abstract"):
        states, mask = batch[f"{field}_states"], batch[f"{field}_mask"]
        assert states.dtype == torch.float32 and mask.dtype == torch.bool and states.shape[:2] == mask.shape
        for place, row in enumerate((4, 7)):
            expected = states_of(encoder, data, row, field)
            torch.testing.assert_close(states[place][mask[place]], expected, atol=1e-5, rtol=1e-4)
            assert not states[place][~mask[place]].any()
    assert "keyword_ids" in batch and not any(key.endswith("s_ids") for key in batch if "title" in key)
    np.testing.assert_array_equal(
        data.lengths()[[4, 7]], (batch["title_mask"].sum(1) + batch["abstract_mask"].sum(1)).numpy()
    )
    assert isinstance(data.dataset(np.arange(3), True).inputs, StateInputs)


def test_a_vector_is_the_mean_of_the_title_beside_that_of_the_abstract(ready, encoder):
    data = ready(pooled=True)
    assert (data.input_width, data.vocab_size) == (2 * H, 0) and data.lengths() is None
    dataset = data.dataset(np.arange(32), True)
    assert isinstance(dataset, PapersDataset) and isinstance(dataset.inputs, VectorInputs)
    batch = dataset.__getitems__(IndexBatch([9], 1, 1.0, 0, 0))
    expected = torch.cat([states_of(encoder, data, 9, field).mean(0) for field in ("title", "abstract")])
    torch.testing.assert_close(batch["vector"][0], expected, atol=1e-5, rtol=1e-4)
    assert batch["vector"].dtype == torch.float32 and set(batch) == {"vector", "id", "y", "weight"}
    np.testing.assert_array_equal(data.vectors(np.array([9, 2])), dataset.inputs.vectors[[9, 2]])
    assert data.explain_words(9)["title"][0] == "[CLS]"


def test_states_and_vectors_tell_the_same(ready):
    states, vectors = ready(), ready(pooled=True)
    np.testing.assert_allclose(states._encoder().vectors(states.records), vectors.vectors(np.arange(32)), atol=1e-5)
    for data in (states, vectors):
        assert set(data.baselines("val")) == {"majority", "tfidf", "frozen_encoder"}
    np.testing.assert_allclose(
        states.baselines("val")["frozen_encoder"], vectors.baselines("val")["frozen_encoder"], atol=1e-3
    )


def test_workers_change_nothing(ready):
    def same(one, two):
        return all(torch.equal(a[key], b[key]) for a, b in zip(one, two, strict=True) for key in a)

    assert same(batches(ready().train_dataloader()), batches(ready(num_workers=2).train_dataloader()))


def test_added_texts_are_encoded_and_forgotten(ready):
    for pooled in (False, True):
        data = ready(pooled)
        rows = data.indices("train")[:2]
        data.dataset(data.indices("train"), True)
        data.extend_train(added(data))
        inputs = data.dataset(data.indices("train"), True).inputs
        before, after = inputs(rows.tolist(), 0), inputs([32, 33], 0)
        key = "vector" if pooled else "abstract_states"
        assert (before[key].shape[0] == after[key].shape[0] == 2 and before[key].shape != after[key].shape) or pooled
        if pooled:
            assert torch.allclose(before[key][:, :H], after[key][:, :H]) and not torch.equal(before[key], after[key])
        data.setup("validate")
        split(data)
        assert len(data._encoder().vectors(data.records)) == 32


def test_rows_that_are_vectors_only_join_the_vectors(ready):
    data = ready(pooled=True)
    made = added(data).assign(title="", abstract="", hash=["v1", "v2"])
    made["vector"] = list(np.arange(2 * 2 * H, dtype=np.float32).reshape(2, -1))
    data.extend_train(made)
    assert data.vectors(np.array([33]))[0].tolist() == list(range(2 * H, 4 * H))
    again = added(data).assign(id=["n1", "n2"], hash=["h1", "h2"])
    data.extend_train(again)
    assert data.vectors(np.arange(36)).shape == (36, 2 * H)
    narrow = made.assign(id=["w1", "w2"], hash=["k1", "k2"], vector=[np.zeros(3), np.zeros(3)])
    with pytest.raises(DataError, match=r"added vectors have shape \(2, 3\)"):
        data.extend_train(narrow)
    tokens = ready()
    with pytest.raises(DataError, match="need a network on vectors"):
        tokens.extend_train(made)


def test_what_has_no_vectors_says_so(ready, tmp_path):
    with pytest.raises(DataError, match="has no vectors"):
        ready().vectors(np.arange(2))
    plain = PapersData(path=str(tmp_path / "papers.csv"), vocab_size_wanted=300)
    plain.setup("fit")
    split(plain)
    assert isinstance(plain._encoder(), Encoded) and isinstance(plain.fitted, Fitted)
    with pytest.raises(DataError, match="no frozen encoder"):
        plain._encoder().vectors(plain.records)


def test_states_refuse_what_would_not_be_in_the_cache(encoder):
    states = EncoderStates(str(encoder))
    for setting in ({"single": True}, {"augmentations": [EDA()]}):
        with pytest.raises(ValueError, match="states are kept"):
            PapersData(states=states, **setting)
