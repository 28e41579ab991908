"""The split callback: drawn once, kept in the run folder, audited, never drawn again."""

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from callbacks.stratified_split import StratifiedSplit
from datamodules.audit import Finding
from datamodules.errors import DataError
from datamodules.splits import make_split, read_split, split_hash


class TinyData(L.LightningDataModule):
    """Sixty samples in pairs, with the attributes that the callback relies on."""

    def __init__(self, twins=False, given_test=False, changed=False):
        super().__init__()
        ids = [f"s{i}" for i in range(60)]
        groups = ids if twins else [f"g{i // 2}" for i in range(60)]
        test = [given_test and i >= 48 for i in range(60)]
        self.records = pd.DataFrame(
            {
                "id": ids,
                "group": groups,
                "hash": [f"h{i}{'x' if changed and i == 7 else ''}" for i in range(60)],
                "label": [f"c{(i // 2) % 2}" for i in range(60)],
                "given": ["test" if held else "train" if given_test else "" for held in test],
            }
        )
        self.class_names, self.table, self.searched = [], None, 0

    def signatures(self):
        self.searched += 1
        x = np.repeat(np.random.default_rng(0).normal(size=(30, 24)), 2, axis=0)
        return x + 0.01 * np.random.default_rng(1).normal(size=x.shape)

    def findings(self):
        return [Finding("known_before", "info", "Found while reading.", 1)]

    def apply_split(self, table):
        self.table = table
        self.class_names = sorted(set(table["label"]))

    def _loader(self, part):
        x = torch.from_numpy(np.flatnonzero(self.table["part"] == part)).float()[:, None]
        return DataLoader(TensorDataset(x), batch_size=8)

    def train_dataloader(self):
        return self._loader("train")

    def val_dataloader(self):
        return self._loader("val")

    def test_dataloader(self):
        return self._loader("test")

    def predict_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=2)


class TinyModel(L.LightningModule):
    """Its network is built in ``setup``, which has to find the split applied."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.classes_at_setup = None

    def setup(self, stage):
        self.classes_at_setup = list(self.trainer.datamodule.class_names)

    def training_step(self, batch):
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch):
        self.log("val/loss", self.layer(batch[0]).square().mean())

    def test_step(self, batch):
        pass

    def predict_step(self, batch):
        return self.layer(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def make_trainer(folder, split, epochs=1):
    return L.Trainer(
        accelerator="cpu",
        callbacks=[split],
        default_root_dir=folder,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def fit(folder, split=None, data=None, **kwargs):
    split, data = split or StratifiedSplit(), data or TinyData()
    trainer, model = make_trainer(folder, split, kwargs.pop("epochs", 1)), TinyModel()
    trainer.fit(model, datamodule=data, weights_only=True, **kwargs)
    return trainer, model, split, data


def test_fit_draws_audits_applies_and_writes(tmp_path):
    trainer, model, split, data = fit(tmp_path)
    expected = make_split(
        data.records, fractions={"train": 0.64, "val": 0.16, "calib": 0.0, "test": 0.20}, seed=42, group_aware=True
    )
    assert split_hash(split.table) == split_hash(data.table) == split_hash(expected)
    assert split_hash(read_split(tmp_path / "split.csv", data.records)) == split_hash(expected)
    assert model.classes_at_setup == ["c0", "c1"]
    assert not split.report.leaks and split.findings is split.report.findings
    assert sorted(path.name for path in tmp_path.iterdir()) == ["split.csv"]
    before = (tmp_path / "split.csv").stat().st_mtime_ns
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    assert data.searched == 1 and (tmp_path / "split.csv").stat().st_mtime_ns == before


def test_every_setting_has_its_effect(tmp_path):
    hashes, base = set(), StratifiedSplit().draw(TinyData(given_test=True))
    for change in ({"train": 0.54, "val": 0.26}, {"seed": 1}, {"group_aware": False}, {"use_given": False},
                   {"train": 0.54, "calib": 0.1}):  # fmt: skip
        hashes.add(split_hash(StratifiedSplit(**change).draw(TinyData(given_test=True))))
    assert len(hashes - {split_hash(base)}) == 5
    path = tmp_path / "own.csv"
    base.to_csv(path, index=False)
    assert split_hash(StratifiedSplit(path=str(path), seed=9).draw(TinyData())) == split_hash(base)
    with pytest.raises(ValueError, match="on_leak"):
        StratifiedSplit(on_leak="ignore")


def test_twins_without_groups_stop_the_fit_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"near_duplicate: .*pairs(.|\n)*on_leak"):
        fit(tmp_path, data=TinyData(twins=True))
    assert list(tmp_path.iterdir()) == []


def test_a_leak_can_be_only_a_warning_and_the_search_can_be_left_out(tmp_path):
    with pytest.warns(UserWarning, match="cannot be trusted"):
        _, _, split, _ = fit(tmp_path, StratifiedSplit(on_leak="warn"), TinyData(twins=True))
    assert [finding.kind for finding in split.report.leaks] == ["near_duplicate"]
    data = TinyData(twins=True)
    report = StratifiedSplit(near_duplicates=False).check(data, make_table(data))
    assert not report.leaks and data.searched == 0


def make_table(data):
    return StratifiedSplit().draw(data)


def test_a_row_split_of_grouped_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="group_crosses_parts"):
        fit(tmp_path, StratifiedSplit(group_aware=False, near_duplicates=False))


def test_resume_reads_the_split_of_the_run(tmp_path):
    trainer, _, split, _ = fit(tmp_path, StratifiedSplit(seed=5))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert {"split_hash": split_hash(split.table)} in stored.values()
    _, _, again, _ = fit(tmp_path, StratifiedSplit(seed=6), ckpt_path=tmp_path / "last.ckpt", epochs=2)
    assert split_hash(again.table) == split_hash(split.table)


def test_resume_with_another_split_is_refused(tmp_path):
    trainer, _, _, data = fit(tmp_path / "one", StratifiedSplit(seed=5))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(DataError, match="resume with another split"):
        fit(tmp_path / "two", StratifiedSplit(seed=6), ckpt_path=tmp_path / "last.ckpt", epochs=2)
    fit(tmp_path / "six", StratifiedSplit(seed=6))
    with pytest.raises(DataError, match="resume with another split"):  # judged on rows it was trained on
        make_trainer(tmp_path / "six", StratifiedSplit()).test(
            TinyModel(), datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False
        )


def test_changed_data_and_a_foreign_table_in_the_folder_are_refused(tmp_path):
    fit(tmp_path, StratifiedSplit(seed=5))
    with pytest.raises(DataError, match=r"split\.csv holds another split"):
        fit(tmp_path, StratifiedSplit(seed=6))
    with pytest.raises(DataError, match=r"split\.csv, line 9: id 's7' has another hash"):
        fit(tmp_path, StratifiedSplit(seed=5), TinyData(changed=True))


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_judging_never_draws_a_split(tmp_path, stage):
    split, data = StratifiedSplit(), TinyData()
    with pytest.raises(DataError, match=r"split\.csv does not exist.*never on a new one"):
        getattr(make_trainer(tmp_path, split), stage)(TinyModel(), datamodule=data, verbose=False)
    assert data.table is None and list(tmp_path.iterdir()) == []
    _, _, ran, _ = fit(tmp_path, StratifiedSplit(seed=7))
    getattr(make_trainer(tmp_path, split), stage)(TinyModel(), datamodule=data, verbose=False)  # a new process
    assert split_hash(split.table) == split_hash(ran.table)
    elsewhere = StratifiedSplit(path=str(tmp_path / "split.csv"))
    getattr(make_trainer(tmp_path / "new", elsewhere), stage)(TinyModel(), datamodule=TinyData(), verbose=False)
    assert split_hash(elsewhere.table) == split_hash(ran.table) and not (tmp_path / "new").exists()


def test_predict_needs_no_split(tmp_path):
    split = StratifiedSplit()
    make_trainer(tmp_path, split).predict(TinyModel(), datamodule=TinyData())
    assert split.table is None and split.findings == [] and list(tmp_path.iterdir()) == []


def test_data_without_signatures_say_so(tmp_path):
    data = TinyData()
    data.signatures = lambda: None
    _, _, split, _ = fit(tmp_path, data=data)
    assert "near_duplicates_not_searched" in {finding.kind for finding in split.findings}


def test_what_the_data_found_while_reading_is_in_the_audit(tmp_path):
    _, _, split, _ = fit(tmp_path)
    assert "known_before" in {finding.kind for finding in split.findings}
