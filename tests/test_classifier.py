"""The step that classifiers share and the data module under it: exact metrics, every knob, classes never trained on."""

import json
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from callbacks.checkpoint import Checkpoint
from callbacks.report_files import Predictions
from callbacks.run_report import RunReport
from datamodules.base import SplitDataModule
from datamodules.errors import DataError
from modules.base import ClassMapError
from modules.classifier import Classifier
from modules.losses import CrossEntropy

N, WIDTH = 60, 5


class Points(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __getitems__(self, batch):
        rows = np.array(batch.indices)
        real = np.arange(len(rows)) < batch.real
        return {
            "x": torch.from_numpy(self.x[rows]),
            "y": torch.from_numpy(np.where(real, self.y[rows], -1)),
            "id": torch.from_numpy(np.where(real, rows, -1)),
            "weight": torch.from_numpy(np.where(real, batch.weight, 0).astype(np.float32)),
        }


class PointData(SplitDataModule):
    """Records 0-39 train (every tenth without a label), 40-49 val, 50-59 test; class c occurs in test alone."""

    input_dim = WIDTH

    def read_records(self):
        self.source_classes = ["c", "b", "a"]
        self.x = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
        labels = np.where(self.x[:, 0] > 0.5, "a", "b").astype(object)
        labels[:40:10] = ""
        labels[55:58] = "c"
        ids = [f"p{i:02d}" for i in range(N)]
        return pd.DataFrame({"id": ids, "group": ids, "hash": ids, "label": labels, "given": ""})

    def setup(self, stage):
        super().setup(stage)
        if self.table is None:
            part = np.repeat(["train", "val", "test"], [40, 10, 10])
            self.apply_split(self.records.drop(columns="given").assign(part=part))

    def dataset(self, indices, train):
        return Points(self.x, self.y)


class Linear(Classifier):
    SIZES = ("input_dim", "num_classes")

    def __init__(self, *, input_dim=None, num_classes=None, loss=None, mixup_alpha=0.0, decay_all=False, top_k=3):
        super().__init__()
        self.save_hyperparameters(ignore="loss")
        self.loss, self.mixup_alpha, self.decay_all = loss or CrossEntropy(), mixup_alpha, decay_all
        self.optimizer, self.schedule, self.schedule_interval = partial(torch.optim.SGD, lr=0.5), None, "step"
        self.compile_net, self.top_k = False, top_k
        self.build_if_known()

    def build(self):
        self.net = Named(nn.Linear(self.hparams["input_dim"], self.hparams["num_classes"]))
        self.build_metrics(self.hparams["num_classes"])


class Named(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def trainer(*callbacks, **more):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    settings = {"max_epochs": 2, "enable_checkpointing": bool(callbacks), "default_root_dir": ".", "devices": 1}
    return pl.Trainer(callbacks=list(callbacks), use_distributed_sampler=False, **quiet, **(settings | more))


def fitted(model=None, data=None, callbacks=(), **more):
    pl.seed_everything(0, verbose=False)
    model, data, run = model or Linear(), data or PointData(batch_size=8), trainer(*callbacks, **more)
    run.fit(model, data)
    return model, data, run


def weight(model):
    return model.net.layer.weight.detach().clone()


def test_sizes_and_the_class_map_come_from_the_training_part():
    model, data, _ = fitted()
    assert data.class_names == model.class_names == ["b", "a"]  # the source's order, without the class never trained on
    assert dict(model.hparams)["num_classes"] == 2
    assert data.class_counts("train").sum() == 36
    assert data.y[55:58].tolist() == [-2] * 3
    assert data.y[[0, 10]].tolist() == [-1] * 2


def test_samples_without_a_label_are_not_trained_on():
    data = PointData(batch_size=8)
    data.setup("fit")
    seen = torch.cat([batch["id"] for batch in data.train_dataloader()]).tolist()
    assert sorted(seen) == sorted(set(range(40)) - {0, 10, 20, 30})


def test_padding_and_samples_without_a_label_take_part_in_no_mean():
    model, data, _ = fitted(max_epochs=1)
    batch = next(iter(data.val_dataloader()))
    model.validation_step(batch, 0)
    expected = model.val_loss.compute(), model.val_nll.compute()
    model.val_loss.reset(), model.val_nll.reset()
    padded = {name: torch.cat([value, value[:3]]) for name, value in batch.items()}
    padded["y"][-3:] = torch.tensor([-1, -1, -2])
    padded["x"][-1] = torch.nan
    model.validation_step(padded, 0)
    assert (model.val_loss.compute(), model.val_nll.compute()) == expected


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_epoch_metrics_are_those_of_all_samples_for_any_batch_size(size):
    model, data, _ = fitted(data=PointData(batch_size=8), max_epochs=1)
    data.batch_size = size
    found = trainer().validate(model, data, verbose=False)[0]
    logits = model.net(torch.from_numpy(data.x[40:50]))
    y = torch.from_numpy(data.y[40:50])
    assert found["val/nll"] == pytest.approx(functional.cross_entropy(logits, y).item(), abs=1e-6)
    assert found["val/loss"] == pytest.approx(found["val/nll"], abs=1e-6)
    assert found["val/accuracy"] == pytest.approx((logits.argmax(1) == y).float().mean().item(), abs=1e-6)
    assert {"val/macro_f1", "val/top2", "val/ece"} <= set(found)


def test_the_training_loss_is_the_mean_over_the_epochs_samples():
    _, data, run = fitted(data=PointData(batch_size=64), max_epochs=1)
    pl.seed_everything(0, verbose=False)
    fresh = Linear(input_dim=WIDTH, num_classes=2)
    rows = data.indices("train")[data.y[:40] >= 0]
    expected = functional.cross_entropy(fresh.net(torch.from_numpy(data.x[rows])), torch.from_numpy(data.y[rows]))
    assert run.callback_metrics["train/loss"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_class_that_training_never_saw_is_an_error_in_the_report():
    report = RunReport(bootstrap=10, baselines=False, top_k=2)
    model, data, run = fitted(callbacks=[Checkpoint(), report])
    run.test(model, data, ckpt_path=None, verbose=False)
    metrics = json.loads(Path("test/metrics.json").read_text(encoding="utf-8"))["values"]
    stored = Predictions.load("test/predictions_test.npz")
    assert stored.y[5:8].tolist() == [-2] * 3
    assert len(stored.y) == 10
    right = (stored.prob.argmax(1) == stored.y).sum()
    assert metrics["accuracy"] == pytest.approx(right / 10)
    assert metrics["top2"] == pytest.approx(7 / 10)
    known = stored.y >= 0
    nll = -np.log(stored.prob[known, stored.y[known]]).mean()
    assert metrics["loss"] == pytest.approx(nll, rel=1e-5)


def test_every_knob_changes_what_it_names():
    base, data, _ = fitted()
    assert torch.equal(weight(fitted()[0]), weight(base))  # same seed, same bytes
    for model, changed in (
        (Linear(mixup_alpha=0.5), PointData(batch_size=8)),
        (Linear(loss=CrossEntropy(label_smoothing=0.2)), PointData(batch_size=8)),
        (Linear(loss=CrossEntropy(class_weight="balanced")), PointData(batch_size=8)),
        (None, PointData(batch_size=8, balanced=True)),
        (None, PointData(batch_size=7)),
    ):
        assert not torch.equal(weight(fitted(model, changed)[0]), weight(base))
    assert [len(group["params"]) for group in base.configure_optimizers().param_groups if group["params"]] == [1, 1]
    flat = Linear(input_dim=WIDTH, num_classes=2, decay_all=True)
    assert sum(bool(group["params"]) for group in flat.configure_optimizers().param_groups) == 1
    assert any(name.startswith("top1") for name in fitted(Linear(top_k=1))[0].val_metrics)
    data.num_workers = 1
    assert data.val_dataloader()._loader.num_workers == 1


def test_other_sizes_or_classes_than_the_checkpoints_are_refused():
    with pytest.raises(ClassMapError, match="input_dim is 7, but the data have 5"):
        fitted(Linear(input_dim=7))
    model = fitted()[0]
    with pytest.raises(ClassMapError, match=r"only in the checkpoint: \['x'\]"):
        model.on_load_checkpoint({"class_names": ["b", "x"], "state_dict": model.state_dict()})
    with pytest.raises(ClassMapError, match="another order"):
        model.on_load_checkpoint({"class_names": ["a", "b"], "state_dict": model.state_dict()})
    smaller = {name: value for name, value in model.state_dict().items() if "bias" not in name}
    with pytest.raises(ClassMapError, match="1 weights are in only one"):
        model.on_load_checkpoint({"class_names": ["b", "a"], "state_dict": smaller})


def test_loaders_need_a_split_and_an_empty_part_says_so():
    data = PointData()
    data.records = data.read_records()
    with pytest.raises(DataError, match="no split was applied"):
        data.train_dataloader()
    table = data.records.drop(columns="given").assign(part="train")
    data.apply_split(table)
    with pytest.raises(DataError, match="the val part of the split is empty"):
        data.val_dataloader()
    with pytest.raises(DataError, match="does not list the records"):
        data.apply_split(table.iloc[::-1])
    with pytest.raises(DataError, match="no labelled sample"):
        data.apply_split(table.assign(part="test"))


def test_no_float64_reaches_the_device():
    model, data, _ = fitted(Linear(mixup_alpha=0.3, loss=CrossEntropy(class_weight="balanced")))
    tensors = {f"batch.{name}": value for name, value in next(iter(data.train_dataloader())).items()}
    tensors |= dict(model.named_parameters()) | dict(model.named_buffers())
    tensors["class_weights"] = model.loss.class_weights
    tensors |= model.validation_step(next(iter(data.val_dataloader())), 0)
    for part in model.modules():
        if hasattr(part, "metric_state") and hasattr(part, "update_count"):
            tensors |= {f"{type(part).__name__}.{key}": value for key, value in part.metric_state.items()}
    assert {"batch.weight", "net.layer.weight", "prob", "Mean.weight", "MacroF1.hits"} <= set(tensors)
    assert [name for name, value in tensors.items() if value.dtype == torch.float64] == []
