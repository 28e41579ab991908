"""Each planted defect is caught by its own probe, can be let through by name, and a sound network is left as it was."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from callbacks.gradient_clipping import GradientClipping
from callbacks.probes import ProbeError, Probes

FRAMES, WIDTH, CLASSES = 6, 5, 4


class Sound(nn.Module):
    """Project frames, mean over the real ones, dropout and batch norm with running statistics, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, CLASSES)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def features(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.dropout(self.norm(self.pool(functional.gelu(self.project(x)), mask)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        assert x.shape[1] <= FRAMES, "a network may have a largest length"
        return self.head(self.features(x, mask))


class IgnoresMask(Sound):
    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.mean(dim=1)


class DividesByLength(Sound):
    """Right about the values of padded frames, wrong about their number."""

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask.unsqueeze(2)).sum(dim=1) / x.shape[1]


class LeaksAcrossSamples(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def features(self, x: Tensor, mask: Tensor) -> Tensor:
        pooled = self.pool(self.project(x), mask)
        return self.norm(torch.cat([pooled, pooled.flip(0).roll(1, 0) * 2]))[: len(x)]


class UsesRowNumber(Sound):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, mask) + torch.arange(len(x), device=x.device).unsqueeze(1)


class UnusedParameter(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


class DetachedHead(Sound):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.features(x, mask).detach())


class ZeroGate(Sound):
    """The gate has a gradient; what it gates has one that is zero for ever, for the gate is never moved."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.side = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, mask) + self.gate * self.side(x[:, 0])


class StartsFarOff(Sound):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, mask) * 50


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        lengths = torch.randint(1, FRAMES + 1, (16, 1), generator=rng)
        self.batch = {
            "x": torch.randn(16, FRAMES, WIDTH, generator=rng),
            "mask": torch.arange(FRAMES) < lengths,
            "y": torch.arange(16) % CLASSES,
        }

    def indices(self, part: str) -> np.ndarray:
        return np.arange(16)

    def probe_batch(self, n: int) -> dict[str, Tensor]:
        np.random.rand(3), random.random(), torch.rand(3)  # reading data may draw numbers
        return {name: value[:n] for name, value in self.batch.items()}

    def train_dataloader(self) -> DataLoader:
        rows = [{name: value[index] for name, value in self.batch.items()} for index in range(16)]
        return DataLoader(rows, batch_size=4, shuffle=True)  # type: ignore[arg-type]


class Module(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.loss = nn.CrossEntropyLoss(reduction="none")

    def net_inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": batch["x"], "mask": batch["mask"]}

    def expected_initial_loss(self) -> float:
        return float(np.log(CLASSES))

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        return self.loss(self.net(**self.net_inputs(batch)), batch["y"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def fit(net: Callable[[], nn.Module], *callbacks: Probes | GradientClipping, **settings: object) -> Module:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    module = Module(net())
    trainer = Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, **settings},  # type: ignore[arg-type]
    )
    trainer.fit(module, datamodule=Data())
    return module


def outcome(probes: Probes) -> dict[str, bool | None]:
    return {row["name"]: row["passed"] for row in probes.results}


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
def test_a_sound_network_passes_all(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    probes = Probes()
    fit(Sound, probes, precision=precision)
    names = ["padding", "batch_order", "batch_size", "initial_loss", "gradients"]
    assert outcome(probes) == dict.fromkeys(names, True), probes.results
    table = capsys.readouterr().out
    assert table.count("Probes:") == 1 and all(f"{name} " in table for name in names) and table.count("passed") == 5


DEFECTS = [
    (IgnoresMask, "padding", "x, mask"),
    (DividesByLength, "padding", "x, mask"),
    (LeaksAcrossSamples, "batch_size", "BatchNorm"),
    (UsesRowNumber, "batch_order", "row number"),
    (UnusedParameter, "gradients", "no gradient at the first step: net.spare.weight, net.spare.bias"),
    (DetachedHead, "gradients", "no gradient at the first step: net.project.weight"),
    (ZeroGate, "gradients", "zero gradient in the first 5 steps: net.side.weight, net.side.bias"),
]


@pytest.mark.parametrize(("net", "probe", "message"), DEFECTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_defect_is_caught_by_its_probe_alone(net: type[nn.Module], probe: str, message: str) -> None:
    alone = dict.fromkeys(["padding", "batch_order", "batch_size", "initial_loss", "gradients"], False)
    probes = Probes(**{**alone, probe: True})  # type: ignore[arg-type]
    with pytest.raises(ProbeError, match=message) as error:
        fit(net, probes, GradientClipping())
    assert f"probe {probe}: " in str(error.value) and "Mend: " in str(error.value)
    assert outcome(probes) == {probe: False}


@pytest.mark.parametrize(
    ("net", "probe"), [row[:2] for row in DEFECTS], ids=lambda value: getattr(value, "__name__", "")
)
def test_each_probe_can_be_switched_off(net: type[nn.Module], probe: str) -> None:
    off = {probe: False}
    if net in (UsesRowNumber, LeaksAcrossSamples):  # the same defect seen from two sides
        off = {"batch_order": False, "batch_size": False}
    if net is LeaksAcrossSamples:
        off["gradients"] = False  # batch norm cancels the bias before it, in this network only
    probes = Probes(**off)  # type: ignore[arg-type]
    fit(net, probes)
    assert not set(outcome(probes)) & set(off)


def test_dead_parameters_can_be_allowed_by_name_and_are_printed() -> None:
    probes = Probes(allow_dead=["net.spare.*"])
    fit(UnusedParameter, probes)
    assert outcome(probes)["gradients"] is True
    assert "dead and allowed to be: net.spare.weight, net.spare.bias" in probes.results[-1]["detail"]
    with pytest.raises(ValueError, match="no trainable parameter is called"):
        fit(UnusedParameter, Probes(allow_dead=["net.spear"]))


def test_an_unexpected_initial_loss_is_only_reported() -> None:
    probes = Probes()
    fit(StartsFarOff, probes)
    row = next(row for row in probes.results if row["name"] == "initial_loss")
    assert row["passed"] is False and "expected 1.386" in row["detail"]


def test_a_short_run_reports_gradients_as_unfinished() -> None:
    probes = Probes()
    fit(ZeroGate, probes, max_steps=2)
    assert outcome(probes)["gradients"] is None and "after 2 steps" in probes.results[-1]["detail"]


def test_a_fit_ends_in_the_same_bytes_with_and_without_probes() -> None:
    """Dropout, shuffling and running statistics included; numpy and python streams too."""
    with_probes = fit(Sound, Probes())
    streams = np.random.rand(), random.random(), torch.rand(1)
    without = fit(Sound)
    assert streams == (np.random.rand(), random.random(), torch.rand(1))
    state = without.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in with_probes.state_dict().items())
    assert all(module.training for module in with_probes.net.modules())


@pytest.mark.filterwarnings("ignore:Found 1 module")
def test_training_flags_and_buffers_are_given_back() -> None:
    class Counts(Sound):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.norm.eval()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x, mask)

        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            self.norm.eval()
            return self

    module = fit(Counts, Probes(), max_steps=3)
    assert module.net.calls == 3 and not module.net.norm.training and module.net.head.training


def test_a_resumed_fit_is_not_probed_again(tmp_path) -> None:
    module = fit(UnusedParameter, max_epochs=1)
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    probes = Probes()
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[probes], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(UnusedParameter()), datamodule=Data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert [row["passed"] for row in probes.results] == [None]


def test_data_without_a_probe_batch_is_said_and_not_fatal() -> None:
    probes = Probes()
    module = Module(Sound())
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[probes], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, Data().train_dataloader())
    skipped = dict.fromkeys(["padding", "batch_order", "batch_size", "initial_loss"])
    assert outcome(probes) == {**skipped, "gradients": True}


@pytest.mark.parametrize("wrong", [{"n_samples": 1}, {"gradient_steps": 0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="probes need"):
        Probes(**wrong)


class Links(nn.Module):
    """A sum over linked positions; without the mask, over those of the padding, too."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, word_mask: Tensor, word_links: Tensor) -> Tensor:
        both = word_mask[:, None] & word_mask[..., None]
        return (word_links.masked_fill(~both, 0.0) if self.masked else word_links).sum((1, 2))[:, None]


@pytest.mark.parametrize("masked", [True, False])
def test_links_between_positions_are_padded_on_both_sides(masked: bool) -> None:
    from callbacks.probes import _padding

    inputs = {"word_mask": torch.arange(5) < torch.tensor([[5], [2]]), "word_links": torch.rand(2, 5, 5)}
    net = Links(masked)
    passed, detail = _padding(net, inputs, net(**inputs))
    assert passed is masked
    assert "word_mask, word_links" in detail


class Reader(nn.Module):
    """A score of every token for each token: causal, or with a mean over all of time as the brief had it."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal, self.table = causal, nn.Embedding(7, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return x if self.causal else x + x.mean(1, keepdim=True)


@pytest.mark.parametrize("causal", [True, False])
def test_a_look_at_later_tokens_is_caught(causal):
    from callbacks.probes import _causality, _logits

    net, inputs = Reader(causal).eval(), {"tokens": torch.randint(7, (3, 6))}
    with torch.no_grad():
        passed, detail = _causality(net, inputs, _logits(net, inputs))
    assert passed is causal, detail
