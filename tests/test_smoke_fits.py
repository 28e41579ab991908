"""Every config of a system trains, judges, reloads and predicts at toy size, through the launcher."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from lightning_project.cli import main

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "fake_data" / "signs_tiny.yaml"
VARIANTS = sorted((ROOT / "configs" / "variants").glob("signs_*.yaml"))
SYNTHETIC = [path for path in VARIANTS if "--data.path" not in path.read_text(encoding="utf-8")]

RUN_FILES = (
    *("config.yaml", "run.json", "environment.json", "split.csv", "training_log.csv", "curves.png"),
    *("weights.safetensors", "REPORT.md", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    *("fit/metrics.json", "fit/predictions_val.npz"),
)
TEST_FILES = (
    *("metrics.json", "results.csv", "per_class.csv", "confusion.csv", "predictions_test.npz"),
    *("confusion.png", "per_class.png", "calibration.png"),
)


def fit(name: str, *more: str) -> Path:
    main(["fit", "--config", f"{ROOT}/configs/signs.yaml", "--config", str(TINY), *more, "--name", name])
    return Path("runs/signs") / name


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_there_are_variants_and_each_is_fitted_somewhere():
    others = {path.stem for path in VARIANTS} - {path.stem for path in SYNTHETIC}
    assert len(SYNTHETIC) >= 8
    assert others == {"signs_shrec17", "signs_boston104"}  # fitted below, on files of the same form


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One tiny fit with its test, in a folder of its own."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lightning_project"])
        fit("plain", "--trainer.max_epochs", "1")
        main(["test", "--ckpt_path", "runs/signs/plain"])
    return folder / "runs" / "signs" / "plain"


def test_a_run_leaves_every_file_that_is_promised(plain):
    assert [name for name in RUN_FILES if not (plain / name).is_file()] == []
    assert [name for name in TEST_FILES if not (plain / "test" / name).is_file()] == []


def test_the_config_of_a_run_repeats_the_run(plain):
    saved = yaml.safe_load((plain / "config.yaml").read_text(encoding="utf-8"))
    assert saved["model"]["init_args"]["width"] == 16  # the overlay's, not the system's
    main(["fit", "--config", str(plain / "config.yaml"), "--name", "again"])
    again = weights(Path("runs/signs/again/checkpoints/last.ckpt"))
    first = weights(plain / "checkpoints/last.ckpt")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_reloading_needs_no_data_and_gives_the_test_probabilities(plain, tmp_path):
    model = LightningModule.load_from_checkpoint(plain / "checkpoints/best.ckpt", map_location="cpu").eval()
    assert type(model).__name__ == "SignClassifier"
    assert model.loss.label_smoothing == 0.1
    stored = np.load(plain / "test" / "predictions_test.npz")
    assert model.class_names == stored["class_names"].tolist()

    from datamodules.signs import SignsData

    data = SignsData(synthetic_samples=240, max_len=96, minirocket=False)
    data.setup("fit")
    rows = {name: i for i, name in enumerate(data.records["id"])}
    for i in range(0, len(stored["id"]), 7):
        frames = torch.from_numpy(np.asarray(data._arrays.sequence(rows[stored["id"][i]])))[None]
        with torch.no_grad():
            prob = model.net(frames, torch.ones(frames.shape[:2], dtype=torch.bool)).softmax(1)[0]
        np.testing.assert_allclose(prob.numpy(), stored["prob"][i], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", SYNTHETIC, ids=lambda path: path.stem)
def test_each_variant_trains_and_differs_from_the_plain_recipe(variant, plain):
    run = fit("v", "--config", str(variant), "--trainer.max_epochs", "1")
    state = weights(run / "checkpoints/last.ckpt")
    base = weights(plain / "checkpoints/last.ckpt")
    assert state.keys() != base.keys() or any(not torch.equal(state[name], base[name]) for name in base)
    assert (
        json.loads((run / "run.json").read_text())["config_hash"]
        != json.loads((plain / "run.json").read_text())["config_hash"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signs_shrec17", "signs_boston104"])
def test_the_real_data_variants_fit_files_of_the_same_form(name, tmp_path):
    from tests.fake_data.signs import hand_file, word_file

    path = (hand_file if name == "signs_shrec17" else word_file)(tmp_path / "tiny.npz")
    overlay = {"trainer": {"max_epochs": 2, "log_every_n_steps": 1}, "report": {"bootstrap": 20}}
    overlay["data"] = {"init_args": {"minirocket": False, "batch_size": 16}}
    Path("tiny.yaml").write_text(yaml.safe_dump(overlay))
    main(
        [
            *("fit", "--config", f"{ROOT}/configs/signs.yaml"),
            *("--config", f"{ROOT}/configs/variants/{name}.yaml", "--config", "tiny.yaml"),
            *("--data.path", str(path), "--name", "real", "--model.num_classes", "4"),
        ]
    )
    main(["test", "--ckpt_path", "runs/signs/real"])
    judged = load_file("runs/signs/real/weights.safetensors")  # averaged weights, where the recipe averages
    best = weights(Path("runs/signs/real/checkpoints/best.ckpt"))
    assert judged and all(torch.equal(value, best[f"net.{name}"]) for name, value in judged.items())
    split = Path("runs/signs/real/split.csv").read_text()
    assert split.count(",test") == 16  # the test part of the file, and nothing else
    assert json.loads(Path("runs/signs/real/test/metrics.json").read_text())
    shutil.rmtree("runs")


@pytest.mark.slow
def test_planted_signal_is_learnt():
    """A small network on the synthetic signs: far above the largest class, and above the figure of chance alone."""
    run = fit(
        "learns",
        *("--data.synthetic_samples", "434", "--model.width", "48", "--model.optimizer.lr", "0.003"),
        *("--trainer.max_epochs", "12", "--report.bootstrap", "200"),
    )
    metrics = json.loads((run / "fit" / "metrics.json").read_text(encoding="utf-8"))
    majority = metrics["baselines"]["majority"]["values"]["accuracy"]
    assert metrics["intervals"]["accuracy"][0] > majority + 0.15
    assert metrics["values"]["top3"] > 0.5


def test_the_brief_s_network_has_its_parameter_count():
    from modules.nets.signs import SignTransformer

    assert sum(parameter.numel() for parameter in SignTransformer(128, 30).parameters()) == 2_203_294
