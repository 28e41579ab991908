"""Every config of a system trains, judges, reloads and predicts at toy size, through the launcher."""

import contextlib
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from datamodules.samplers import IndexBatch
from lightning_project.cli import main
from tests.running import CLASSIFIERS, DATA, ROOT, SYSTEMS, data_of_run, is_stage, run, toy, variants

VARIANTS = [(system, path) for system in SYSTEMS for path in variants(system)]

RUN_FILES = (
    *("config.yaml", "run.json", "environment.json", "split.csv", "training_log.csv", "curves.png"),
    *("weights.safetensors", "REPORT.md", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    *("fit/metrics.json", "fit/predictions_val.npz"),
)
TEST_FILES = ("metrics.json", "results.csv", "predictions_test.npz")
OF_CLASSES = ("per_class.csv", "confusion.csv", "confusion.png", "per_class.png", "calibration.png")
OF_TEXT = ("panel.csv", "by_position.csv", "by_distance.csv")
OF_LINES = (
    *("heads.csv", "kinds.csv", "lengths.csv", "operations.csv", "recordings.csv", "examples.csv"),
    *("confusion.csv", "confusion.png", "recordings.png"),
)


def fit(name: str, *more: str, system: str = "signs") -> Path:
    run(["fit", *more, "--name", name], system=system)
    return Path("runs") / system / name


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_brings_what_the_shared_tests_need(system):
    assert (DATA / f"{system}_tiny.yaml").is_file()
    assert callable(toy(system).write) and callable(toy(system).words)
    assert len(variants(system)) >= (3 if is_stage(system) else 8)  # a stage shares the techniques of its system


@cache
def fitted(system: str, folder: Path) -> Path:
    """One tiny fit with its test, in a folder of its own; return the run."""
    folder.mkdir()
    with contextlib.chdir(folder):
        fit("plain", "--trainer.max_epochs", "1", system=system)
        main(["test", "--ckpt_path", f"runs/{system}/plain"])
    return folder / "runs" / system / "plain"


@pytest.fixture
def plain(system, tmp_path_factory):
    return fitted(system, tmp_path_factory.getbasetemp() / f"plain {system}")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_leaves_every_file_that_is_promised(system, plain):
    assert [name for name in RUN_FILES if not (plain / name).is_file()] == []
    kind = OF_CLASSES if system in CLASSIFIERS else {"language": OF_TEXT, "gcode_decoder": OF_LINES}[system]
    assert [name for name in TEST_FILES + kind if not (plain / "test" / name).is_file()] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_config_of_a_run_repeats_the_run(system, plain):
    saved = yaml.safe_load((plain / "config.yaml").read_text(encoding="utf-8"))
    overlay = yaml.safe_load((DATA / f"{system}_tiny.yaml").read_text(encoding="utf-8"))["data"]["init_args"]
    assert saved["data"]["init_args"]["synthetic_samples"] == overlay["synthetic_samples"]  # not the system's
    main(["fit", "--config", str(plain / "config.yaml"), "--name", "again"])
    again = weights(Path(f"runs/{system}/again/checkpoints/last.ckpt"))
    first = weights(plain / "checkpoints/last.ckpt")
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("system", CLASSIFIERS)
def test_reloading_needs_no_data_and_gives_the_test_probabilities(system, plain):
    model = LightningModule.load_from_checkpoint(plain / "checkpoints/best.ckpt", map_location="cpu").eval()
    assert f"modules.{system}" in type(model).__module__
    assert model.loss.label_smoothing == 0.1
    stored = np.load(plain / "test" / "predictions_test.npz")
    assert model.class_names == stored["class_names"].tolist()

    data = data_of_run(plain, torch.load(plain / "checkpoints/best.ckpt", weights_only=True))
    rows = {name: i for i, name in enumerate(data.records["id"])}
    chosen = [rows[name] for name in stored["id"]]
    for row, expected in list(zip(chosen, stored["prob"], strict=True))[::7]:  # alone: without the padding of a batch
        batch = data.dataset(np.array([row]), train=False).__getitems__(IndexBatch([row], 1, 1.0, 0, 0))
        with torch.no_grad():
            prob = model(batch).softmax(1)[0]
        np.testing.assert_allclose(prob.numpy(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the split leaks")  # what the leaky variants are for
@pytest.mark.parametrize(("system", "variant"), VARIANTS, ids=lambda value: getattr(value, "stem", None) or "")
def test_each_variant_trains_and_differs_from_the_plain_recipe(system, variant, plain, tmp_path_factory):
    models = tmp_path_factory.getbasetemp() / f"models of {system}"
    models.mkdir(exist_ok=True)
    words = ["--config", str(variant), *toy(system).words(variant, models), "--trainer.max_epochs", "1"]
    made = fit("v", *words, system=system)
    state = weights(made / "checkpoints/last.ckpt")
    base = weights(plain / "checkpoints/last.ckpt")
    other = state.keys() != base.keys() or any(
        state[name].shape != base[name].shape or not torch.equal(state[name], base[name]) for name in base
    )
    assert other or files(made) - files(plain)  # several sets of weights are kept, and trained as ever
    assert json.loads((made / "fit" / "metrics.json").read_text(encoding="utf-8"))["values"]
    assert (
        json.loads((made / "run.json").read_text())["config_hash"]
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
