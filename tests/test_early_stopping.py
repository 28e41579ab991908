"""When training stops, what it says about it, and that a resumed run counts on."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.early_stopping import EarlyStopping
from callbacks.gradient_clipping import NonFiniteError


class Module(LightningModule):
    """Logs a given value after each epoch."""

    def __init__(self, values: list[float], fail: BaseException | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.values = values
        self.fail = fail

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        if self.fail is not None:
            raise self.fail
        loss = self.net(batch).sum()
        self.log("train/loss", self.values[self.current_epoch], on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Tensor, _: int) -> None:
        self.log("val/macro_f1", self.values[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(
    stopping: EarlyStopping,
    values: list[float],
    fail: BaseException | None = None,
    path: Path | None = None,
    **settings,
) -> Trainer:
    loader: DataLoader = DataLoader(torch.zeros(2, 1), batch_size=2)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[stopping],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": len(values), "num_sanity_val_steps": 0, **settings},
    )
    trainer.fit(Module(values, fail), loader, loader, ckpt_path=path, weights_only=True)
    return trainer


def test_stops_after_the_patience_and_says_so() -> None:
    stopping = EarlyStopping(patience=3)
    trainer = fit(stopping, [0.5, 0.7, 0.91, 0.9, 0.8, 0.91, 0.99, 0.99])
    assert trainer.current_epoch == 6, "the better epoch after the patience is never reached"
    assert stopping.reason == "val/macro_f1 did not improve for 3 validations; best 0.91 at epoch 2"


def test_runs_to_the_end_and_says_so() -> None:
    stopping = EarlyStopping(patience=3)
    fit(stopping, [0.5, 0.6, 0.55, 0.7])
    assert stopping.reason == "ran all 4 epochs; best 0.7 at epoch 3"
    fit(limited := EarlyStopping(), [0.5] * 9, max_steps=2)
    assert limited.reason == "ran all 2 steps; best 0.5 at epoch 0"


@pytest.mark.parametrize(("mode", "values"), [("max", [0.5, 0.5, 0.5]), ("min", [0.5, 0.5, 0.5])])
def test_a_tie_is_no_improvement(mode: str, values: list[float]) -> None:
    stopping = EarlyStopping(mode=mode, patience=2)  # type: ignore[arg-type]
    trainer = fit(stopping, [*values, 0.0, 0.0])
    assert trainer.current_epoch == 3 and stopping.best_epoch == 0


def test_lower_is_better_and_a_margin_counts() -> None:
    stopping = EarlyStopping("train/loss", "min", patience=2, min_delta=0.1)
    trainer = fit(stopping, [1.0, 0.8, 0.75, 0.71, 0.1])
    assert trainer.current_epoch == 4 and stopping.best_epoch == 1
    assert stopping.reason == "train/loss did not improve for 2 validations; best 0.8 at epoch 1"


def test_misses_before_the_start_epoch_do_not_count() -> None:
    stopping = EarlyStopping(patience=2, start_epoch=4)
    trainer = fit(stopping, [0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert trainer.current_epoch == 6 and stopping.best_epoch == 0


def test_without_patience_it_only_tracks() -> None:
    stopping = EarlyStopping(patience=None)
    fit(stopping, [0.9, *[0.1] * 12])
    assert stopping.reason == "ran all 13 epochs; best 0.9 at epoch 0" and stopping.wait_count == 12


def test_a_metric_that_is_not_finite_stops_at_once() -> None:
    stopping = EarlyStopping(patience=None)
    trainer = fit(stopping, [0.5, float("nan"), 0.6])
    assert trainer.current_epoch == 2
    assert stopping.reason == "non-finite: val/macro_f1 at epoch 1; best 0.5 at epoch 0"


@pytest.mark.parametrize(
    ("fault", "reason"), [(NonFiniteError("x"), "non-finite: "), (ZeroDivisionError(), "failed at epoch 0")]
)
def test_a_fault_is_a_reason(fault: Exception, reason: str) -> None:
    stopping = EarlyStopping()
    with pytest.raises(type(fault)):
        fit(stopping, [0.5], fail=fault)
    assert stopping.reason.startswith(reason)


@pytest.mark.parametrize("sanity", [0, 1])
def test_a_wrong_name_lists_the_right_ones(sanity: int) -> None:
    stopping = EarlyStopping("val/f1_macro")
    with pytest.raises(RuntimeError, match="val/macro_f1"):
        fit(stopping, [0.5, 0.5], num_sanity_val_steps=sanity)


def test_a_resumed_run_counts_on_with_its_own_patience(tmp_path: Path) -> None:
    values = [0.5, 0.9, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    trainer = fit(EarlyStopping(patience=4), values, max_epochs=4)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    same, longer = EarlyStopping(patience=4), EarlyStopping(patience=5)
    assert fit(same, values, path=tmp_path / "last.ckpt").current_epoch == 6
    assert same.reason == "val/macro_f1 did not improve for 4 validations; best 0.9 at epoch 1"
    assert fit(longer, values, path=tmp_path / "last.ckpt").current_epoch == 7


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"min_delta": -0.1}, {"start_epoch": -1}, {"mode": "up"}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(Exception, match=r"early stopping needs|mode"):
        EarlyStopping(**wrong)
