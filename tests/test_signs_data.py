import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from jsonargparse import ArgumentParser

from datamodules.base import IGNORE, UNSEEN
from datamodules.errors import DataError
from datamodules.predictions import write_predictions
from datamodules.samplers import IndexBatch
from datamodules.sequences import Crop, FrameDrop, HandFeatures, Jitter, Resample, Rotate3D
from datamodules.signs import SignsData, SignsDataset
from tests.fake_data.signs import sign_arrays, write_signs

ARRAYS = sign_arrays(per_class=8, split=True)  # 24 sequences of 4-12 frames of 6 values
LENGTHS = ARRAYS["mask"].sum(1)


class Doubled:
    """A feature that appends a copy; counts its calls."""

    def __init__(self):
        self.calls = 0

    def output_dim(self, input_dim):
        return 2 * input_dim

    def __call__(self, x, rng):
        self.calls += 1
        return torch.cat([x, x], 1)


def split(data):
    table = data.records[["id", "group", "hash", "label"]].assign(part=data.records["given"].to_numpy())
    data.apply_split(table)
    return data


def ready(path, **settings):
    data = SignsData(path=str(path), **{"batch_size": 4, "minirocket": False, **settings})
    data.setup("fit")
    return split(data)


def batches(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return [{key: value.clone() for key, value in batch.items()} for batch in loader]


def equal(one, two):
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, two, strict=True)
    )


@pytest.fixture
def path(tmp_path):
    return write_signs(tmp_path / "signs.npz", ARRAYS)


@pytest.fixture
def hands(tmp_path):
    return write_signs(tmp_path / "hands.npz", sign_arrays(per_class=4, features=66, split=True))


def test_records_sizes_and_description(path):
    data = ready(path)
    assert list(data.records.columns) == ["id", "group", "hash", "label", "given"]
    assert data.records["id"][3] == "take_003.mp4" and data.records["label"][4] == "sign b"
    assert data.records["hash"].str.fullmatch("[0-9a-f]{64}").all()
    assert data.class_names == ["sign a", "sign b", "sign c"] and data.num_classes == 3
    assert data.input_dim == 6 and data.max_len == 12
    np.testing.assert_array_equal(data.lengths(), LENGTHS)
    facts = data.describe()
    assert facts["source"] == str(path) and facts["samples"] == 24 and facts["frames"] == LENGTHS.sum()
    assert facts["length"]["max"] == 12 and facts["groups"] == 12


def test_a_batch_holds_the_real_frames_and_is_padded_to_its_longest(path):
    data = ready(path)
    rows = [5, 2, 9]
    dataset = data.dataset(np.arange(24), train=False)
    assert isinstance(dataset, SignsDataset)
    batch = dataset.__getitems__(IndexBatch(rows, 2, 0.25, 0, 0))
    longest = LENGTHS[rows].max()
    assert (
        batch["x"].shape == (3, longest, 6) and batch["x"].dtype == torch.float32 and batch["mask"].dtype == torch.bool
    )
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(batch["x"][place, : LENGTHS[row]], ARRAYS["X"][row, : LENGTHS[row]])
        assert not batch["x"][place, LENGTHS[row] :].any() and batch["mask"][place].sum() == LENGTHS[row]
    assert batch["id"].tolist() == [5, 2, -1] and batch["y"].tolist() == [*ARRAYS["y"][[5, 2]], IGNORE]
    assert batch["weight"].tolist() == [0.25, 0.25, 0.0]
    assert batch["mask"].any(1).all(), "a padding row needs a frame too, or attention gives NaN"


def test_what_padding_contains_is_invisible(tmp_path, path):
    dirty = np.where(ARRAYS["mask"][..., None], ARRAYS["X"], np.nan).astype(np.float32)
    wider = np.pad(dirty, ((0, 0), (0, 9), (0, 0)), constant_values=7)
    mask = np.pad(ARRAYS["mask"], ((0, 0), (0, 9)))
    one, two = ready(path), ready(write_signs(tmp_path / "dirty.npz", ARRAYS, X=wider, mask=mask))
    assert equal(batches(one.train_dataloader()), batches(two.train_dataloader()))
    pd.testing.assert_frame_equal(one.records, two.records)
    np.testing.assert_array_equal(one.signatures(), two.signatures())
    assert one.max_len == two.max_len == 12


def test_the_class_map_is_what_training_sees(tmp_path):
    part = np.where(ARRAYS["y"] == 1, "test", ARRAYS["split"])
    data = ready(write_signs(tmp_path / "a.npz", ARRAYS, split=part))
    assert data.class_names == ["sign a", "sign c"] and data.class_counts("train").tolist() == [4, 4]
    ys = torch.cat([b["y"] for b in batches(data.test_dataloader())])
    assert set(ys.tolist()) == {0, 1, UNSEEN}


def test_augmentation_acts_on_training_batches_only(path):
    plain, noisy = ready(path), ready(path, augmentations=[Jitter(0.1)])
    assert equal(batches(plain.val_dataloader()), batches(noisy.val_dataloader()))
    assert torch.equal(plain.probe_batch(4)["x"], noisy.probe_batch(4)["x"])
    for one, two in zip(batches(plain.train_dataloader()), batches(noisy.train_dataloader()), strict=True):
        assert torch.equal(one["id"], two["id"]) and torch.equal(one["mask"], two["mask"])
        assert not torch.equal(one["x"], two["x"])
        assert torch.equal(one["x"] == 0, two["x"] == 0), "padding stays zero"


def test_augmentation_is_a_function_of_seed_epoch_and_record(path, monkeypatch):
    data = ready(path, augmentations=[Jitter(0.1), FrameDrop(0.3)])
    dataset = data.dataset(data.indices("train"), train=True)

    def row(index, epoch, others=(), source=dataset):
        batch = source.__getitems__(IndexBatch([*others, index], len(others) + 1, 1.0, epoch, 0))
        return batch["x"][-1][batch["mask"][-1]]

    assert torch.equal(row(1, 0), row(1, 0, others=[0, 3]))
    assert not torch.equal(row(1, 0), row(1, 1))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(row(1, 0), row(1, 0, source=data.dataset(data.indices("train"), train=True)))


def test_workers_change_nothing(path):
    settings = {"augmentations": [Jitter(0.1), Crop(0.5)], "features": [Doubled()]}
    own, workers = ready(path, **settings), ready(path, num_workers=2, **settings)
    loader = workers.train_dataloader()
    for epoch in (0, 1):
        assert equal(batches(own.train_dataloader(), epoch), batches(loader, epoch))


def test_features_without_augmentation_before_them_are_computed_once(path):
    feature = Doubled()
    data = ready(path, features=[feature])
    assert data.input_dim == 12
    for _ in range(3):
        assert batches(data.val_dataloader())[0]["x"].shape[2] == 12
        batches(data.train_dataloader())
        data.probe_batch(4)
    assert feature.calls <= len(data.indices("train")) + len(data.indices("val")) + 1


def test_features_come_after_augmentations(path):
    x = batches(ready(path, augmentations=[Jitter(0.1)], features=[Doubled()]).train_dataloader())[0]["x"]
    assert torch.equal(x[..., :6], x[..., 6:])


def test_hand_features_give_their_width(hands):
    data = ready(hands, features=[HandFeatures(streams=("shape", "motion"), lags=(1,))])
    batch = data.probe_batch(3)
    assert data.input_dim == 132 == batch["x"].shape[2] and torch.isfinite(batch["x"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": [HandFeatures()]}, r"do not fit these frames: expected frames of 66 values .* got 6"),
        ({"features": [Jitter()]}, "Jitter has no output_dim: it belongs to --data.augmentations"),
    ],
)
def test_transforms_that_do_not_fit_are_refused_while_reading(path, settings, message):
    with pytest.raises(DataError, match=message):
        SignsData(path=str(path), **settings).setup("fit")


def test_augmentations_are_tried_while_reading(tmp_path):
    path = write_signs(tmp_path / "odd.npz", sign_arrays(features=5))
    with pytest.raises(DataError, match="do not fit these frames"):
        SignsData(path=str(path), augmentations=[Rotate3D()]).setup("fit")


def test_a_wrong_output_dim_and_features_that_are_not_finite_are_refused(path):
    class Wrong(Doubled):
        def output_dim(self, input_dim):
            return 5

    class Broken(Doubled):
        def __call__(self, x, rng):
            return torch.cat([x, x / 0], 1)

    with pytest.raises(DataError, match="make 12 values a frame, but their output_dim says 5"):
        SignsData(path=str(path), features=[Wrong()]).setup("fit")
    with pytest.raises(DataError, match=r"features of take_\d+.mp4 are not finite"):
        SignsData(path=str(path), features=[Broken()]).setup("fit")


def test_max_len_picks_frames_evenly(path):
    data = ready(path, max_len=5)
    row = int(np.argmax(LENGTHS))
    batch = data.dataset(np.arange(24), train=False).__getitems__(IndexBatch([row], 1, 1.0, 0, 0))
    picked = np.linspace(0, LENGTHS[row] - 1, 5).round().astype(int)
    np.testing.assert_array_equal(batch["x"][0], ARRAYS["X"][row, picked])
    assert data.max_len == 5 and data.lengths().max() == 5
    assert ready(path, features=[Length(7)]).max_len == 7
    with pytest.raises(ValueError, match="max_len=0 must be at least 1"):
        SignsData(max_len=0)


class Length(Resample):
    """A feature that resamples to a fixed number of frames."""


def test_a_missing_path_is_an_error_and_no_path_is_said_to_be_synthetic(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        SignsData(path=str(tmp_path / "none.npz")).setup("fit")
    data = SignsData(synthetic_samples=200)
    data.setup("fit")
    assert data.describe()["source"] == "synthetic (generated, seed 0)" and len(data.source_classes) == 30
    assert data.records["group"].nunique() == 100 and set(data.records["given"]) == {""}


@pytest.mark.parametrize("change", [{"synthetic_seed": 1}, {"synthetic_noise": 0.5}, {"synthetic_samples": 202}])
def test_synthetic_knobs_act(change):
    one, two = SignsData(synthetic_samples=200), SignsData(**{"synthetic_samples": 200, **change})
    one.setup("fit")
    two.setup("fit")
    assert set(one.records["hash"]) != set(two.records["hash"])


def test_bucketing_and_balancing_act(path):
    lengths = [b["mask"].shape[1] for b in batches(ready(path, bucket=True).val_dataloader())]
    assert lengths == sorted(lengths)
    few = dict(ARRAYS, split=np.where((ARRAYS["y"] == 0) & (np.arange(24) > 0), "test", ARRAYS["split"]))
    few["split"] = np.where(np.arange(24) == 0, "train", few["split"])
    counts = []
    for balanced in (False, True):
        data = ready(write_signs(path, few), balanced=balanced)
        drawn = torch.cat([b["y"] for e in range(20) for b in batches(data.train_dataloader(), e)])
        counts.append((drawn == 0).float().mean().item())
    assert counts[0] == pytest.approx(1 / 9) and counts[1] == pytest.approx(1 / 3, abs=0.1)


def test_label_and_group_keys_act(tmp_path):
    path = write_signs(tmp_path / "a.npz", ARRAYS, y2=ARRAYS["y"] % 2, y2_names=np.array(["p", "q"]), video=ARRAYS["y"])
    data = ready(path, label_key="y2", group_key="video")
    assert data.class_names == ["p", "q"] and set(data.records["group"]) == {"0", "1", "2"}


def test_signatures_tell_recordings_apart(path):
    data = ready(path)
    found = data.signatures()
    assert found.shape == (24, 16 * 6) and found.dtype == np.float32
    np.testing.assert_allclose(found[3, :6], ARRAYS["X"][3, 0])
    np.testing.assert_allclose(found[3, -6:], ARRAYS["X"][3, LENGTHS[3] - 1])


def test_baselines_are_fitted_on_train_and_follow_the_class_map(tmp_path, path):
    data = ready(path)
    found = data.baselines("test")
    assert set(found) == {"majority", "extra_trees"}
    assert all(p.shape == (len(data.indices("test")), 3) for p in found.values())
    truth = data.y[data.indices("test")]
    assert (found["extra_trees"].argmax(1) == truth).mean() > 0.8
    np.testing.assert_allclose(found["majority"], 1 / 3)
    changed = ARRAYS["X"].copy()
    changed[ARRAYS["split"] == "val"] += 5  # nothing outside of train and the part asked for may matter
    again = ready(write_signs(tmp_path / "b.npz", ARRAYS, X=changed)).baselines("test")
    np.testing.assert_array_equal(again["extra_trees"], found["extra_trees"])
    table = data.table.copy()
    table.loc[table["label"] == "sign a", "part"] = "dropped"
    data.apply_split(table)
    assert data.baselines("test")["extra_trees"].shape[1] == 2, "a new split needs new baselines"


def test_minirocket_is_reported_as_not_installed(path, monkeypatch):
    monkeypatch.setattr("datamodules.signs.has_minirocket", lambda: False)
    assert ready(path, minirocket=True).baselines("val")["minirocket"] is None


def test_prediction_needs_no_labels_and_uses_the_transforms_of_training(tmp_path, path):
    new = write_signs(tmp_path / "new.npz", ARRAYS, y=None, class_names=None, groups=None, split=None)
    trained = ready(path, features=[Doubled()], augmentations=[Jitter(0.5)])
    data = SignsData(
        predict_path=str(new), features=[Doubled()], augmentations=[Jitter(0.5)], batch_size=30, bucket=False
    )
    data.setup("predict")
    (batch,) = batches(data.predict_dataloader())
    judged = trained.dataset(np.arange(24), train=False).__getitems__(IndexBatch(list(range(24)), 24, 1.0, 0, 0))
    assert torch.equal(batch["x"], judged["x"]) and torch.equal(batch["mask"], judged["mask"])
    assert batch["y"].tolist() == [IGNORE] * 24 and batch["id"].tolist() == list(range(24))
    assert data.records["id"].tolist() == trained.records["id"].tolist() and set(data.records["label"]) == {""}


def test_prediction_keeps_to_the_length_of_the_trained_network(tmp_path, path):
    data = SignsData(predict_path=str(path))
    data.setup("predict")
    data.max_len = 5
    assert max(b["x"].shape[1] for b in batches(data.predict_dataloader())) == 5
    with pytest.raises(DataError, match=r"set --data\.predict_path"):
        SignsData().setup("predict")


def test_transforms_can_be_named_in_a_config(path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SignsData, "data")
    hand = {"class_path": "datamodules.sequences.HandFeatures", "init_args": {"lags": [2]}}
    jitter = {"class_path": "datamodules.sequences.Jitter", "init_args": {"std": 0.5}}
    config = {"class_path": "datamodules.signs.SignsData", "init_args": {"features": [hand], "augmentations": [jitter]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a renamed method of jsonargparse
        data = parser.instantiate_classes(parser.parse_object({"data": config})).data
    assert data.features[0].lags == (2,) and data.augmentations[0].std == 0.5


def test_predictions_are_written_whole(tmp_path):
    path = tmp_path / "predict" / "predictions.csv"
    write_predictions(path, ["a, b", "c"], np.array([[0.25, 0.75], [1, 0]]), ["Adiós", "id"])
    table = pd.read_csv(path)
    names = ["id", "prediction", "probability", "second", "second_probability", "p(Adiós)", "p(id)"]
    assert table.columns.tolist() == names
    assert table.iloc[0].tolist() == ["a, b", "id", 0.75, "Adiós", 0.25, 0.25, 0.75]
    assert table.iloc[1][["prediction", "second"]].tolist() == ["Adiós", "id"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"prob has shape \(1, 2\), expected \(2, 2\)"):
        write_predictions(path, ["a", "b"], np.ones((1, 2)), ["x", "y"])
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["predictions.csv"]


@pytest.mark.real
def test_the_real_files_are_read(real_data):
    for name, sizes in {"shrec17": (2800, 66, 28, 171), "boston104": (888, 6, 113, 30)}.items():
        data = SignsData(path=str(real_data / "signs" / f"{name}.npz"))
        data.setup("fit")
        assert (len(data.records), data.input_dim, len(data.source_classes), data.max_len) == sizes
        assert data.records["given"].isin(["train", "test"]).all()
