"""What the shared tests need of `plants_student`: the file of a user, and what each variant needs to run offline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from tests.fake_data import plants_toy

ROOT = Path(__file__).resolve().parents[2]
write = plants_toy.write


def words(variant: Path, folder: Path) -> list[str]:
    """Return what a variant needs besides the tiny config: a small backbone, a teacher, and weights to start from."""
    config = yaml.safe_load(variant.read_text(encoding="utf-8"))
    model = config.get("model", {}).get("init_args", {})
    given = ["--model.backbone", "test_vit"] if "backbone" in model else []
    if "init_from" in model:
        given += ["--model.init_from", str(_weights(folder))]
    if "teachers" in config.get("data", {}).get("init_args", {}):
        given += ["--data.teachers.files", f"[{_teacher(folder)}]"]
    return given


def _weights(folder: Path) -> Path:
    """Save weights of the tiny network, as a run leaves them."""
    from modules.nets.plants import PlantsNet

    torch.manual_seed(0)
    path = folder / "student.ckpt"
    torch.save({"state_dict": {f"net.{k}": v for k, v in PlantsNet("test_vit", 8, 32).state_dict().items()}}, path)
    return path


def _teacher(folder: Path) -> Path:
    """Write what a teacher, sure and mostly right, says about the training part of the tiny data."""
    from callbacks.stratified_split import StratifiedSplit
    from datamodules.plants import PlantsData

    settings = yaml.safe_load((ROOT / "configs" / "plants_student.yaml").read_text(encoding="utf-8"))["split"]
    data = PlantsData(image_size=32, synthetic_samples=240, synthetic_species=8)
    data.setup("fit")
    data.apply_split(StratifiedSplit(**settings).draw(data))
    train = data.indices("train")
    prob = np.full((len(train), data.num_classes), 0.05)
    prob[np.arange(len(train)), data.y[train]] = 1 - 0.05 * (data.num_classes - 1)
    return predictions(folder / "teacher.npz", data.records["id"].to_numpy()[train], prob, data.class_names)


def predictions(path: Path, ids: Sequence[str], prob: np.ndarray, class_names: Sequence[str]) -> Path:
    """Write stored predictions (n, C) of samples, as `predict --data.predict_part train` does."""
    arrays = {"id": np.array(ids, dtype=str), "class_names": np.array(class_names, dtype=str)}
    labels = {"group": arrays["id"], "y": np.zeros(len(ids), np.int64)}
    np.savez(path, **arrays, **labels, prob=np.asarray(prob, dtype=np.float32))
    return path
