"""The report of a run, made by real fits of a stand-in that honours the contract between system and report."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn import metrics as sk
from torch import Tensor, nn

from callbacks.report_files import Baselines, Predictions, write_json, write_npz, write_text
from callbacks.report_settings import config_hash
from callbacks.report_stage import mistakes
from callbacks.report_tables import terminal
from callbacks.run_report import RunReport, Target
from datamodules.errors import DataError
from datamodules.splits import split_hash
from modules import statistics

NAMES = ["Adiós", "Compañero", "Cómo está", "Lápiz"]
FEATURES = 6
# the stand-in's own checkpoint callback is left out of some runs, and resumed runs get a folder of their own
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Data(pl.LightningDataModule):
    """Clusters with noise; groups of two records; batches padded with rows of id -1."""

    def __init__(self, batch_size: int = 8, shuffle_test: bool = False) -> None:
        super().__init__()
        self.batch_size, self.shuffle_test = batch_size, shuffle_test
        rng = np.random.default_rng(0)
        n, part = 120, ["train"] * 60 + ["val"] * 30 + ["test"] * 30
        self.y = np.arange(n) % 4
        self.x = (np.eye(4, FEATURES)[self.y] + 0.45 * rng.normal(size=(n, FEATURES))).astype(np.float32)
        ids, groups = [f"r{i:03d}" for i in range(n)], [f"g{i // 2:02d}" for i in range(n)]
        labels = [NAMES[k] for k in self.y]
        self.records = pd.DataFrame({"id": ids, "group": groups, "hash": ids, "label": labels, "given": ""})
        self.table = self.records.drop(columns="given").assign(part=part)
        self.class_names, self.num_classes = NAMES, 4

    def indices(self, part):
        return np.flatnonzero(self.table["part"] == part)

    def class_counts(self, part):
        return np.bincount(self.y[self.indices(part)], minlength=4)

    def baselines(self, part):
        prob = np.full((len(self.indices(part)), 4), 0.1, np.float32)
        prob[np.arange(len(prob)), self.x[self.indices(part), :4].argmax(1)] = 0.7
        return {"largest_feature": prob, "minirocket": None}

    def facets(self):
        return {}

    def class_levels(self):
        return {}

    def pictures(self, indices):
        return None

    def describe(self):
        return {"source": "/srv/recordings/signs.npz", "records": len(self.records)}

    def _loader(self, part):
        order = self.indices(part)
        if self.shuffle_test and part == "test":
            order = np.random.default_rng(3).permutation(order)
        batches = []
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            pad = self.batch_size - len(some)
            index = torch.from_numpy(np.concatenate([some, np.full(pad, -1)]))
            real = index >= 0
            batches.append(
                {
                    "id": index,
                    "y": torch.from_numpy(self.y)[index].where(real, -1),
                    "x": torch.from_numpy(self.x)[index],
                }
            )
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def train_dataloader(self):
        return self._loader("train")

    def val_dataloader(self):
        return self._loader("val")

    def test_dataloader(self):
        return self._loader("test")


class SmoothedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.label_smoothing, self.class_weight = 0.1, "none"

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target, label_smoothing=0.1, ignore_index=-1, reduction="none")


class Toy(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.loss, self.class_names = nn.Linear(FEATURES, 4), SmoothedLoss(), NAMES

    def describe(self):
        return {"architecture": "Toy", "input_dim": FEATURES, "num_classes": 4}

    def _step(self, batch, stage):
        logits, y = self.net(batch["x"]), batch["y"]
        loss = self.loss(logits, y).sum() / (y >= 0).sum()
        if stage != "test":
            self.log(f"{stage}/loss", loss, on_step=stage == "train", on_epoch=True, batch_size=int((y >= 0).sum()))
            right = ((logits.argmax(1) == y) & (y >= 0)).sum() / (y >= 0).sum()
            self.log(f"{stage}/accuracy", right, on_step=False, on_epoch=True, batch_size=int((y >= 0).sum()))
        return loss, {"id": batch["id"], "prob": logits.softmax(1), "y": y}

    def training_step(self, batch):
        return self._step(batch, "train")[0]

    def validation_step(self, batch):
        return self._step(batch, "val")[1]

    def test_step(self, batch):
        return self._step(batch, "test")[1]

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.02, betas=(0.8, 0.99))
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


@dataclass
class Finding:
    kind: str
    severity: str
    message: str
    count: int
    examples: tuple[str, ...] = ()


class StratifiedSplit(pl.Callback):
    findings = (
        Finding("twins", "warning", "r001 and r002 have one content", 1),
        Finding("near_twins", "warning", "some are alike", 12, tuple(f"r{i} ~ r{i + 20}" for i in range(1, 10))),
    )


class Probes(pl.Callback):
    results = (
        {"name": "padding", "passed": True, "detail": "largest change 0"},
        {"name": "order", "passed": None, "detail": "off"},
    )


class EarlyStopping(pl.Callback):
    patience, monitor, reason = 8, "val/accuracy", "val/accuracy did not improve for 8 epochs"


class Checkpoint(pl.callbacks.ModelCheckpoint):
    best_epoch = 1


def trainer_for(folder, *callbacks, **options):
    options = {"max_epochs": 3, "logger": False, **options}
    return pl.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        **options,
    )


def fit_run(folder, targets=None, extra=()):
    torch.manual_seed(0)
    pl.seed_everything(7)
    write_text(
        folder / "config.yaml", "seed_everything: 7\nmodel:\n  class_path: Toy\n  lr: 0.05\ndata:\n  path: a.npz\n"
    )
    report = RunReport(targets=targets, bootstrap=200)
    checkpoint = Checkpoint(
        folder / "checkpoints", "best", monitor="val/accuracy", mode="max", enable_version_counter=False
    )
    trainer = trainer_for(folder, report, StratifiedSplit(), Probes(), EarlyStopping(), checkpoint, *extra)
    model, data = Toy(), Data()
    trainer.fit(model, datamodule=data)
    report.stage_folder = "fit"
    trainer.validate(model, datamodule=data, ckpt_path=checkpoint.best_model_path, verbose=False)
    report.stage_folder = None
    return trainer, model, data, report, checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy" / "first"
    targets = [
        Target("test/accuracy", 0.5),
        Target("test/accuracy", 0.999),
        Target("val/accuracy", 0.99, epoch=0),
        Target("train/loss", 5.0, epoch=1, mode="min"),
        Target("test/cost", 1.0),
    ]
    trainer, model, data, _report, checkpoint = fit_run(folder, targets)
    returned = trainer.test(model, datamodule=data, ckpt_path=checkpoint.best_model_path, verbose=False)[0]
    return folder, returned, model


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_file_of_the_run_folder_is_there(run):
    folder, _, _ = run
    stage_files = [
        "metrics.json",
        "results.csv",
        "per_class.csv",
        "confusion.csv",
        "confusion.png",
        "per_class.png",
        "calibration.png",
        "mistakes.csv",
    ]
    wanted = [
        "run.json",
        "environment.json",
        "training_log.csv",
        "curves.png",
        "weights.safetensors",
        "REPORT.md",
        "config.yaml",
        "checkpoints/best.ckpt",
        "fit/predictions_val.npz",
        "fit/baselines_val.npz",
        "test/predictions_test.npz",
        "test/baselines_test.npz",
    ]
    wanted += [f"{stage}/{name}" for stage in ("fit", "test") for name in stage_files]
    assert [name for name in wanted if not (folder / name).is_file()] == []
    assert not [path for path in folder.rglob(".*")], "temporary files are left over"


def test_what_the_simple_models_said_is_kept_sample_by_sample(run):
    folder, _, _ = run
    found, kept = (
        Predictions.load(folder / "test" / "predictions_test.npz"),
        Baselines.load(folder / "test" / "baselines_test.npz"),
    )
    assert list(kept.names) == ["majority", "largest_feature"] and kept.prob.shape == (2, 30, 4)
    written = read(folder / "test" / "metrics.json")["baselines"]
    for name in kept.names:
        answers = kept.of_model(name, found)
        assert statistics.measured(answers.prob, answers.y, ["macro_f1"]) == pytest.approx(
            {"macro_f1": written[name]["values"]["macro_f1"]}
        )
    other = Predictions(found.id[::-1], found.group, found.y, found.prob, found.class_names)
    with pytest.raises(DataError, match="other samples"):
        kept.of_model("majority", other)


def test_a_damaged_file_of_baselines_is_refused(tmp_path):
    with pytest.raises(DataError, match="run `test` again"):
        Baselines.load(tmp_path / "baselines_test.npz")


def test_the_surest_mistakes_are_listed_with_what_can_be_read():
    ids = np.array(["a", "b", "c", "d"])
    prob = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]], np.float32)
    found = Predictions(ids, ids, np.array([1, 1, 1, -2]), prob, np.array(["x", "y"]))
    records = pd.DataFrame({"id": ids[::-1], "label": "x", "title": ["D", "C", "B", "A"], "line": [4, 3, 2, 1]})
    table = mistakes(found, records)
    assert table["id"].tolist() == ["a", "d", "b"] and table["title"].tolist() == ["A", "D", "B"]
    assert table["truth"].tolist() == ["y", "(not in training)", "y"] and table["prediction"].tolist() == [
        "x",
        "y",
        "x",
    ]
    assert table["p(truth)"].tolist() == pytest.approx([0.1, 0.0, 0.4])
    assert "label" not in table.columns and "line" not in table.columns


def test_test_metrics_are_those_of_the_stored_predictions(run):
    folder, returned, _ = run
    found = Predictions.load(folder / "test" / "predictions_test.npz")
    guess = found.prob.argmax(1)
    logits = torch.from_numpy(found.prob).log()
    expected = {
        "accuracy": sk.accuracy_score(found.y, guess),
        "macro_f1": sk.f1_score(found.y, guess, average="macro"),
        "macro_precision": sk.precision_score(found.y, guess, average="macro", zero_division=0),
        "macro_recall": sk.recall_score(found.y, guess, average="macro"),
        "top3": sk.top_k_accuracy_score(found.y, found.prob, k=3),
        "nll": -np.log(found.prob[np.arange(30), found.y]).mean(),
        "loss": nn.functional.cross_entropy(logits, torch.from_numpy(found.y), label_smoothing=0.1).item(),
    }
    values = read(folder / "test" / "metrics.json")["values"]
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-5), name
        assert returned[f"test/{name}"] == pytest.approx(value, abs=1e-5), name
    with open(folder / "test" / "results.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["Metric", "Value"]
    written = {name: float(value) for name, value in rows[1:]}
    assert written["Accuracy"] == pytest.approx(expected["accuracy"])
    assert written["Macro-F1"] == pytest.approx(expected["macro_f1"])
    assert written["Top-3 Accuracy"] == pytest.approx(expected["top3"])
    assert written["Loss"] == pytest.approx(expected["loss"], abs=1e-5)


def test_predictions_hold_every_test_record_once_in_order_of_the_records(run):
    found = Predictions.load(run[0] / "test" / "predictions_test.npz")
    assert list(found.id) == [f"r{i:03d}" for i in range(90, 120)]
    assert list(found.group) == [f"g{i // 2:02d}" for i in range(90, 120)]
    assert list(found.y) == [i % 4 for i in range(90, 120)]
    assert list(found.class_names) == NAMES
    assert found.prob.dtype == np.float32


def test_intervals_baselines_and_paired_differences(run):
    folder, _, _ = run
    metrics = read(folder / "test" / "metrics.json")
    found, data = Predictions.load(folder / "test" / "predictions_test.npz"), Data()
    assert (metrics["n"], metrics["n_groups"], metrics["expected"]) == (30, 15, 30)
    low, high = metrics["intervals"]["accuracy"]
    assert low <= metrics["values"]["accuracy"] <= high
    right = (found.prob.argmax(1) == found.y).reshape(15, 2).sum(1)  # an independent bootstrap over the 15 pairs
    draws = np.random.default_rng(1).integers(0, 15, (4000, 15))
    assert [low, high] == pytest.approx(np.quantile(right[draws].sum(1) / 30, [0.025, 0.975]), abs=0.04)
    base = data.baselines("test")["largest_feature"].argmax(1)
    entry = metrics["baselines"]["largest_feature"]
    assert entry["values"]["accuracy"] == pytest.approx(sk.accuracy_score(found.y, base))
    difference = metrics["values"]["accuracy"] - entry["values"]["accuracy"]
    assert entry["difference"]["accuracy"][0] == pytest.approx(difference)
    majority = np.bincount(data.y[:60]).argmax()
    assert metrics["baselines"]["majority"]["values"]["accuracy"] == pytest.approx(np.mean(found.y == majority))
    assert metrics["baselines"]["chance"]["values"]["accuracy"] == 0.25
    assert metrics["baselines"]["chance"]["values"]["top3"] == 0.75
    assert metrics["baselines"]["minirocket"] == {"not_run": "not run (install the extra `baselines`)"}


def test_chance_is_what_random_guesses_give():
    from callbacks.report_metrics import chance

    y = np.repeat([0, 1, 2], [700, 200, 100]).repeat(100)
    guess = np.random.default_rng(0).integers(0, 3, len(y))
    expected = chance(y, 3, 2)
    assert expected["accuracy"] == pytest.approx(sk.accuracy_score(y, guess), abs=0.01)
    assert expected["macro_f1"] == pytest.approx(sk.f1_score(y, guess, average="macro"), abs=0.01)


def test_tables_of_classes_and_confusions(run):
    folder, _, _ = run
    found = Predictions.load(folder / "test" / "predictions_test.npz")
    guess = found.prob.argmax(1)
    matrix = np.loadtxt(folder / "test" / "confusion.csv", delimiter=",", dtype=int)
    assert (matrix == sk.confusion_matrix(found.y, guess, labels=range(4))).all()
    text = (folder / "test" / "per_class.csv").read_text(encoding="utf-8")
    assert text.startswith(",precision,recall,f1-score,support\nAdiós,")
    table = pd.read_csv(folder / "test" / "per_class.csv", index_col=0)
    expected = sk.classification_report(found.y, guess, target_names=NAMES, output_dict=True, zero_division=0)
    assert list(table.index) == [*NAMES, "accuracy", "macro avg", "weighted avg"]
    for name in [*NAMES, "macro avg", "weighted avg"]:
        assert table.loc[name].to_dict() == pytest.approx(expected[name])
    assert table.loc["accuracy", "f1-score"] == pytest.approx(expected["accuracy"])


def test_training_log_has_every_epoch_metric_of_both_stages(run):
    log = pd.read_csv(run[0] / "training_log.csv")
    assert list(log["epoch"]) == [0, 1, 2]
    assert list(log["step"]) == [8, 16, 24]
    assert list(log["lr"]) == pytest.approx([0.05, 0.025, 0.0125])
    assert {"seconds", "train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(log.columns)
    assert not [name for name in log if name.endswith("_step")]
    assert not log.isna().any().any()


def test_run_json_is_read_from_the_live_objects(run):
    facts = read(run[0] / "run.json")
    wanted = {
        "architecture": "Toy",
        "input_dim": 6,
        "total_params": 28,
        "trainable_params": 28,
        "optimizer": "AdamW",
        "lr": 0.05,
        "weight_decay": 0.02,
        "betas": [0.8, 0.99],
        "loss": "SmoothedLoss",
        "label_smoothing": 0.1,
        "batch_size": 8,
        "max_epochs": 3,
        "early_stopping_patience": 8,
        "dataset_type": "Data",
        "device": "cpu",
        "best_epoch": 1,
        "epochs_run": 3,
        "stop_reason": "val/accuracy did not improve for 8 epochs",
        "seed": 7,
        "monitor": "val/accuracy",
        "precision": "32-true",
        "use_class_weights": False,
        "split": {"train": 60, "val": 30, "test": 30},
    }
    assert {key: facts[key] for key in wanted} == wanted
    assert facts["schedule"]["class"] == "StepLR" and facts["schedule"]["gamma"] == 0.5
    log = pd.read_csv(run[0] / "training_log.csv")
    assert facts["best_val_acc"] == pytest.approx(log["val/accuracy"][1])
    assert facts["fit_seconds"] == pytest.approx(log["seconds"].sum(), abs=0.01)
    values = read(run[0] / "test" / "metrics.json")["values"]
    assert (facts["test_accuracy"], facts["test_top3_accuracy"]) == (values["accuracy"], values["top3"])
    assert facts["split_hash"] == split_hash(Data().table)


def test_targets_come_out_reached_not_reached_and_not_measured(run):
    values = read(run[0] / "test" / "metrics.json")["values"]
    log = pd.read_csv(run[0] / "training_log.csv")
    targets = read(run[0] / "run.json")["targets"]
    assert [t["reached"] for t in targets] == [True, False, False, True, None]
    assert targets[0]["value"] == values["accuracy"]
    assert targets[2]["value"] == pytest.approx(log["val/accuracy"][0])
    assert targets[3]["value"] == pytest.approx(log["train/loss"][:2].min())
    page = (run[0] / "REPORT.md").read_text(encoding="utf-8")
    said = terminal(read(run[0] / "test" / "metrics.json"), read(run[0] / "run.json"), "test")
    late = f"{targets[2]['value']:.4f}"
    assert f"| val/accuracy | ≥ 0.99 by epoch 0 | {late} | **not reached** |" in page
    assert f"target val/accuracy ≥ 0.99 by epoch 0: not reached ({late})" in said
    assert "| train/loss | ≤ 5 by epoch 1 |" in page and "target train/loss ≤ 5 by epoch 1: reached" in said
    assert "target test/cost ≥ 1: not measured yet" in said


def test_a_measure_of_the_best_weights_is_too_late_for_an_earlier_epoch():
    log = pd.DataFrame({"epoch": [0, 1], "val/accuracy": [0.2, 0.9]})
    by = {epoch: Target("test/accuracy", 0.5, epoch=epoch).judge(log, {"test/accuracy": 0.8}, 1) for epoch in (0, 1)}
    assert (by[0]["reached"], by[0]["value"]) == (False, None)
    assert (by[1]["reached"], by[1]["value"]) == (True, 0.8)


def test_generalisation_gap(run):
    fit, test = (read(run[0] / stage / "metrics.json") for stage in ("fit", "test"))
    assert test["generalisation_gap"]["gap"] == pytest.approx(fit["values"]["accuracy"] - test["values"]["accuracy"])
    assert fit["generalisation_gap"]["train_accuracy"] == pytest.approx(read(run[0] / "run.json")["best_train_acc"])


def test_weights_are_those_of_the_best_checkpoint(run):
    best = torch.load(run[0] / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    weights = load_file(run[0] / "weights.safetensors")
    assert set(weights) == {"weight", "bias"}
    assert all(torch.equal(best[f"net.{name}"], value) for name, value in weights.items())


def test_report_says_what_was_found(run):
    text = (run[0] / "REPORT.md").read_text(encoding="utf-8")
    values = read(run[0] / "test" / "metrics.json")["values"]
    for part in (
        f"{values['accuracy']:.3f} (",
        "largest_feature",
        "majority",
        "chance",
        "Compañero",
        "**not reached**",
        "not measured yet",
        "minirocket: not run (install the extra `baselines`)",
        "val/accuracy did not improve for 8 epochs",
        "15 groups",
        "warning twins: r001 and r002 have one content",
        "| padding | passed |",
        "| order | not run |",
        "training_curves.png",
        "--ckpt_path best",
    ):
        assert part in text, part
    assert text.count("| `") == 10, "the ten artifacts of the brief"
    assert str(run[0]) not in text and "/srv" not in text, "no absolute path"
    assert "source: signs.npz" in text
    near = text[text.index("- warning near_twins: some are alike") :].splitlines()[1:8]
    assert near == [*(f"    - r{i} ~ r{i + 20}" for i in range(1, 6)), "    - ... and 7 more", ""]


def test_environment_names_no_host_and_no_path(run):
    import socket

    text = (run[0] / "environment.json").read_text(encoding="utf-8")
    assert socket.gethostname() not in text and str(Path.home()) + "/" not in text
    assert read(run[0] / "environment.json")["packages"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize(("batch_size", "shuffled"), [(1, True), (7, False)])
def test_any_batch_size_and_order_gives_the_same_report(run, tmp_path, batch_size, shuffled):
    folder, _, model = run
    report = RunReport(bootstrap=200)
    trainer_for(tmp_path, report).test(
        model, datamodule=Data(batch_size, shuffled), ckpt_path=folder / "checkpoints" / "best.ckpt", verbose=False
    )
    ours, theirs = (read(root / "test" / "metrics.json") for root in (tmp_path, folder))
    assert ours["values"] == pytest.approx(theirs["values"], abs=1e-6)
    assert ours["intervals"]["macro_f1"] == pytest.approx(theirs["intervals"]["macro_f1"], abs=1e-6)


def test_no_report_on_untrained_weights(tmp_path):
    with pytest.raises(RuntimeError, match="untrained weights"):
        trainer_for(tmp_path, RunReport()).test(Toy(), datamodule=Data(), verbose=False)
    assert not (tmp_path / "REPORT.md").exists()


def test_a_resumed_fit_continues_the_training_log(tmp_path):
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    torch.manual_seed(0)
    trainer_for(whole, RunReport()).fit(Toy(), datamodule=Data())
    torch.manual_seed(0)
    trainer = trainer_for(first, RunReport(), max_epochs=2)
    trainer.fit(Toy(), datamodule=Data())
    trainer.save_checkpoint(first / "last.ckpt")
    trainer_for(second, RunReport()).fit(Toy(), datamodule=Data(), ckpt_path=first / "last.ckpt")
    logs = [pd.read_csv(folder / "training_log.csv").drop(columns="seconds") for folder in (whole, second)]
    pd.testing.assert_frame_equal(*logs)


def test_epochs_without_validation_have_no_validation_numbers(tmp_path):
    trainer_for(tmp_path, RunReport(), check_val_every_n_epoch=2).fit(Toy(), datamodule=Data())
    log = pd.read_csv(tmp_path / "training_log.csv")
    assert list(log["val/loss"].isna()) == [True, False, True]


def test_a_failing_baseline_is_stated_and_costs_nothing(run, tmp_path):
    class Broken(Data):
        def baselines(self, part):
            raise MemoryError("too many trees")

    with pytest.warns(UserWarning, match="too many trees"):
        trainer_for(tmp_path, RunReport(bootstrap=0)).test(
            run[2], datamodule=Broken(), ckpt_path=run[0] / "checkpoints" / "best.ckpt", verbose=False
        )
    text = (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    assert "strong baseline: not run (MemoryError: too many trees)" in text
    assert "No intervals: `report.bootstrap` is 0." in text


def test_wandb_gets_pictures_table_report_and_config_once(run, tmp_path, monkeypatch):
    from lightning_project.loggers import close_loggers, make_loggers

    monkeypatch.setenv("WANDB_MODE", "offline")
    write_text(tmp_path / "config.yaml", "seed_everything: 7\n")
    loggers = make_loggers(tmp_path, "test", "offline", "toy", "first")
    trainer = trainer_for(tmp_path, RunReport(bootstrap=10), logger=loggers)
    logged: list[str] = []
    send = loggers[1].experiment.log
    monkeypatch.setattr(
        loggers[1].experiment, "log", lambda values, **rest: (logged.extend(values), send(values, **rest))
    )
    trainer.test(run[2], datamodule=Data(), ckpt_path=run[0] / "checkpoints" / "best.ckpt", verbose=False)
    close_loggers(loggers)
    for name in ("test/confusion", "test/per_class", "test/calibration", "test/per_class_table", "report"):
        assert logged.count(name) == 1, name
    assert "test/accuracy" in logged
    (files,) = (tmp_path / "wandb").glob("offline-run-*/files")
    assert (files / "REPORT.md").read_text(encoding="utf-8") == (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    assert (files / "config.yaml").read_text(encoding="utf-8") == "seed_everything: 7\n"
    assert len(list(files.rglob("*.png"))) == 3
    assert list(files.rglob("*.table.json"))


def test_rare_classes_are_warned_about():
    from callbacks.report_metrics import evaluate

    prob = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]]
    found = Predictions(
        np.array(list("abcd")), np.array(list("abcd")), np.array([0, 0, 0, 1]), prob, np.array(["x", "y", "z"])
    )
    values = {"accuracy": 1.0, "macro_f1": 1.0, "top3": 1.0, "nll": 0.0}
    assert evaluate(found, values, {}, {}, 0, 3)["support_warnings"] == ["y: 1 sample", "z: 0 samples"]


def test_config_hash_is_shared_by_seeds_and_not_by_settings(tmp_path):
    def hashed(text):
        write_text(tmp_path / "config.yaml", text)
        return config_hash(tmp_path)

    base = hashed(
        "seed_everything: 1\ntrainer: {default_root_dir: runs/a}\ndata: {path: x.npz}\nmodel: {class_path: A, lr: 1}\n"
    )
    assert (
        hashed("seed_everything: 2\ntrainer: {default_root_dir: b}\ndata: {path: y}\nmodel: {lr: 1, class_path: A}\n")
        == base
    )
    assert hashed("seed_everything: 1\ntrainer: {}\ndata: {}\nmodel: {class_path: A, lr: 2}\n") != base
    assert hashed("seed_everything: 1\ntrainer: {}\ndata: {}\nmodel: {class_path: B, lr: 1}\n") != base


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "run.json", {"a": float("nan"), "b": np.float32(0.5)})
    assert read(tmp_path / "run.json") == {"a": None, "b": 0.5}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_json(tmp_path / "run.json", {"a": 2})
    assert read(tmp_path / "run.json")["b"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_predictions_files_hold_no_objects_and_broken_ones_are_refused(tmp_path):
    with pytest.raises(TypeError, match="holds Python objects"):
        write_npz(tmp_path / "p.npz", {"id": np.array(["a", None], dtype=object)})
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="run `test` again"):
        Predictions.load(tmp_path / "cut.npz")


def gloo_worker(rank: int, port: int, folder: str, checkpoint: str) -> None:
    import os

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)

    class Fake:
        world_size, datamodule = 2, Data()

    report, data = RunReport(), Data(batch_size=4)
    model = Toy()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    for number, batch in enumerate(data.test_dataloader()):
        if number % 2 == rank:
            with torch.no_grad():
                report._collect(model.test_step(batch))
    report._gather(Fake(), model).save(Path(folder) / f"rank{rank}.npz")
    torch.distributed.destroy_process_group()


def test_two_processes_gather_the_predictions_of_one(run, tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.start_processes(
        gloo_worker, (port, str(tmp_path), str(run[0] / "checkpoints" / "best.ckpt")), nprocs=2, start_method="fork"
    )
    assert context is None
    one = Predictions.load(run[0] / "test" / "predictions_test.npz")
    for rank in (0, 1):
        found = Predictions.load(tmp_path / f"rank{rank}.npz")
        assert list(found.id) == list(one.id)
        assert found.prob == pytest.approx(one.prob, abs=1e-6)


def test_only_the_first_process_resamples_fits_baselines_and_writes(run, tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("work of the first process")

    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    for name in ("bootstrap", "paired_bootstrap", "resampled"):
        monkeypatch.setattr(statistics, name, refuse)
    monkeypatch.setattr(Data, "baselines", refuse)
    trainer, report = trainer_for(tmp_path, RunReport(), enable_checkpointing=False), RunReport()
    trainer.fit(Toy(), datamodule=Data())
    best = run[0] / "checkpoints" / "best.ckpt"
    values = trainer_for(tmp_path, report).test(Toy(), datamodule=Data(), ckpt_path=best, verbose=False)[0]
    trainer_for(tmp_path, report).validate(Toy(), datamodule=Data(), ckpt_path=best, verbose=False)
    expected = read(run[0] / "test" / "metrics.json")["values"]["accuracy"]
    assert values["test/accuracy"] == pytest.approx(expected)
    assert list(tmp_path.rglob("*")) == []


def test_outputs_of_the_wrong_form_are_named():
    with pytest.raises(TypeError, match="id \\(B,\\), prob"):
        RunReport()._collect(Tensor([1.0]))


def test_the_table_of_classes_agrees_with_the_metrics_when_training_missed_a_class():
    from callbacks.report_files import Predictions
    from callbacks.report_stage import per_class_table
    from modules import statistics

    names = np.array(["a", "b"])
    prob = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9]], np.float32)
    y = np.array([0, 1, 1, 0, -2])
    found = Predictions(np.arange(5).astype(str), np.arange(5).astype(str), y, prob, names)
    table, metrics = per_class_table(found), statistics.classification_metrics(prob, y, ["a", "b"])
    assert table.loc["accuracy", "f1-score"] == pytest.approx(metrics["accuracy"]) == pytest.approx(0.6)
    assert table.loc["weighted avg", "f1-score"] == pytest.approx(metrics["weighted_f1"])
    assert table.loc["macro avg", "f1-score"] == pytest.approx(metrics["macro_f1"])
