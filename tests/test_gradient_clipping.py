"""Clipping equals torch's own, its numbers are logged, and nothing non-finite reaches the optimizer."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.gradient_clipping import GradientClipping, NonFiniteError


class Data(LightningDataModule):
    """Six batches of four samples; ``poison`` is the index of a sample whose input is not finite."""

    def __init__(self, poison: int | None = None, value: float = float("nan")) -> None:
        super().__init__()
        self.records = pd.DataFrame({"id": [f"clip-{index}" for index in range(24)]})
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
        if poison is not None:
            x[poison] = value
        self.rows = [{"id": torch.tensor(index), "x": x[index]} for index in range(24)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, batch_size=4)  # type: ignore[arg-type]


class Module(LightningModule):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1)
        self.scale = scale
        self.history: list[list[Tensor]] = []
        self.norms: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        return self.scale * self.net(batch["x"]).square().mean()

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """Runs after the callbacks, so sees clipped gradients."""
        self.norms.append(torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None]))
        self.history.append([parameter.detach().clone() for parameter in self.parameters()])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1, fused=True)


def fit(folder: Path, clipping: GradientClipping, module: Module, data: Data, **settings: object) -> Trainer:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        callbacks=[clipping],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,  # type: ignore[arg-type]
    )
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_norm_is_above_the_limit_and_the_share_is_exact(tmp_path: Path, precision: str) -> None:
    free, clipped = Module(3.0), Module(3.0)
    trainer = fit(tmp_path, GradientClipping(None), free, Data(), precision=precision)
    assert "grad/clipped_share" not in trainer.callback_metrics
    limit = 0.999 * float(sorted(free.norms)[3])
    trainer = fit(tmp_path, GradientClipping(limit), clipped, Data(), precision=precision)
    assert len(clipped.norms) == 6 and all(norm <= limit * 1.0001 for norm in clipped.norms)
    at_limit = sum(bool(torch.isclose(norm, torch.tensor(limit), rtol=1e-4)) for norm in clipped.norms)
    assert trainer.callback_metrics["grad/clipped_share"].item() == pytest.approx(at_limit / 6)
    assert 0 < trainer.callback_metrics["grad/clipped_share"] < 1


def test_equals_torch_and_logs_the_norm_before_clipping(tmp_path: Path) -> None:
    module, reference = Module(5.0), Module(5.0)
    trainer = fit(tmp_path, GradientClipping(0.5), module, Data())
    optimizer = torch.optim.AdamW(reference.net.parameters(), lr=0.1, fused=True)
    for batch in Data().train_dataloader():
        optimizer.zero_grad()
        (5.0 * reference.net(batch["x"]).square().mean()).backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.net.parameters(), 0.5)
        optimizer.step()
    for ours, theirs in zip(module.net.parameters(), reference.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(trainer.callback_metrics["grad/norm"], norm)


@pytest.mark.parametrize("max_norm", [1.0, None])
@pytest.mark.parametrize(("value", "loss"), [(float("nan"), "nan"), (1e30, "inf")])
def test_a_bad_sample_stops_before_the_step(tmp_path: Path, max_norm: float | None, value: float, loss: str) -> None:
    module = Module()
    with pytest.raises(NonFiniteError, match=r"the loss is not finite at global step 3, epoch 0.*clip-12, clip-13"):
        fit(tmp_path, GradientClipping(max_norm), module, Data(poison=14, value=value))
    good = Module()
    fit(tmp_path, GradientClipping(max_norm), good, Data(), limit_train_batches=3)
    for ours, theirs in zip(module.parameters(), good.parameters(), strict=True):
        assert torch.equal(ours, theirs), "the parameters are those after the last good step"
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report["global_step"] == 3 and report["ids"] == ["clip-12", "clip-13", "clip-14", "clip-15"]
    assert report["loss"] == [loss] and [path.name for path in tmp_path.iterdir()] == ["nonfinite.json"]


def test_all_batches_of_an_accumulated_step_are_named(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="global step 1"):
        fit(tmp_path, GradientClipping(), Module(), Data(poison=13), accumulate_grad_batches=2)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report["ids"] == [f"clip-{index}" for index in range(8, 16)] and len(report["loss"]) == 2


def test_the_reported_loss_is_the_one_of_the_step(tmp_path: Path) -> None:
    class Broken(Module):
        def on_after_backward(self) -> None:
            self.net.weight.grad.fill_(float("inf"))

    module = Broken()
    expected = module.training_step(next(iter(Data().train_dataloader())), 0).item()
    with pytest.raises(NonFiniteError, match="the gradient norm is not finite"):
        fit(tmp_path, GradientClipping(), module, Data(), accumulate_grad_batches=2)
    assert json.loads((tmp_path / "nonfinite.json").read_text())["loss"][0] == pytest.approx(expected)


def test_without_the_check_training_goes_on(tmp_path: Path) -> None:
    module = Module()
    fit(tmp_path, GradientClipping(check_finite=False), module, Data(poison=0))
    assert module.net.weight.isnan().any() and not (tmp_path / "nonfinite.json").exists()


def test_an_overflow_of_scaled_gradients_is_legal(tmp_path: Path) -> None:
    class Overflow(Module):
        def on_after_backward(self) -> None:
            if self.global_step == 0 and len(self.history) == 0:
                self.net.weight.grad.fill_(float("inf"))

    class HalfPrecision(GradientClipping):
        """Lightning has no 16-mixed on a CPU; the callback only asks whether there is a scaler."""

        def _check(self, trainer: Trainer, norm: Tensor, scaler: object) -> None:
            super()._check(trainer, norm, torch.amp.GradScaler("cpu", init_scale=1.0))

    fit(tmp_path, HalfPrecision(None), Overflow(), Data(), limit_train_batches=1)
    with pytest.raises(NonFiniteError, match="the loss is not finite"):
        fit(tmp_path, HalfPrecision(None), Module(), Data(poison=0), limit_train_batches=1)


def test_a_wrong_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_norm"):
        GradientClipping(0.0)
