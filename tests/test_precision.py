"""bf16, fused optimizers and compiled networks at toy size."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from callbacks.report_files import Predictions
from tests.running import CLASSIFIERS, SYSTEMS, data_of_run, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Attribute 'loss' is an instance of `nn.Module`"),  # when reloaded without data
]
BEST = "checkpoints/best.ckpt"


def fit(system, name, config, *more):
    Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["--config", "config.yaml", "--name", name, "--report.baselines", "false", "--trainer.max_epochs", "1"]
    run(["fit", *words, *more], system=system)
    return Path("runs") / system / name


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")
def test_bf16_mixed_with_a_fused_optimizer_and_clipping_trains_float32_weights(system):
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "fused": True}}
    folder = fit(
        system,
        "bf16",
        {
            "trainer": {"precision": "bf16-mixed"},
            "model": {"init_args": {"optimizer": optimizer}},
            "gradient_clipping": {"max_norm": 0.1},
        },
    )
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert {value.dtype for value in saved["state_dict"].values()} == {torch.float32}
    before = LightningModule.load_from_checkpoint(folder / BEST, map_location="cpu")
    assert all(bool(value.isfinite().all()) for value in before.parameters())
    header, row = (folder / "training_log.csv").read_text(encoding="utf-8").splitlines()
    assert float(dict(zip(header.split(","), row.split(","), strict=True))["grad/clipped_share"]) > 0


@pytest.mark.parametrize("system", CLASSIFIERS)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler speaks of itself
def test_a_compiled_network_keeps_the_names_of_its_weights_and_loads_uncompiled(system):
    folder = fit(
        system, "compiled", {"model": {"init_args": {"compile_net": True}}}, "--trainer.limit_train_batches", "2"
    )
    kept = torch.load(folder / BEST, weights_only=True)
    saved = kept["state_dict"]
    assert not [name for name in saved if "_orig_mod" in name]
    model = LightningModule.load_from_checkpoint(folder / BEST, map_location="cpu").eval()
    assert model.net._compiled_call_impl is None
    stored = Predictions.load(folder / "fit" / "predictions_val.npz")  # made by the compiled network
    data = data_of_run(folder, kept)
    with torch.no_grad():
        outputs = [model.test_step(batch, 0) for batch in data.val_dataloader()]
    prob = torch.cat([part["prob"] for part in outputs])[torch.cat([part["id"] for part in outputs]).argsort()]
    np.testing.assert_allclose(prob, stored.prob, atol=1e-5)
