"""What the shared tests need of `plants`: the file of a user, and what each variant needs to run offline."""

import json
from pathlib import Path

import torch
import yaml
from PIL import Image

SIZE = 37  # stored pictures of 32 pixels


def write(folder: Path, labels: bool = True, rename: dict[str, str] | None = None) -> Path:
    """Write the synthetic plants of the tiny config as a user's file, with its pictures.

    Args:
        folder: Where.
        labels: Whether the file holds species.
        rename: New names of species.
    """
    from datamodules.synthetic.plants import make_plants

    made = make_plants(240, 8, SIZE)
    images = folder / ("fotos" if labels else "new pictures")
    images.mkdir(exist_ok=True)
    lines = []
    for row in made.records.to_dict("records"):
        file = images / f"{row['id']}.png"
        Image.fromarray(made.pixels[row["row"]].transpose(1, 2, 0)).save(file, compress_level=1)
        line = {"id": row["id"], "path": f"{images.name}/{file.name}"}
        if labels:
            line["latin_name"] = (rename or {}).get(row["label"], row["label"])
            line |= {key: row[key] for key in ("genus", "family", "region", "country", "license", "attribution")}
        lines.append(json.dumps(line, ensure_ascii=False))
    path = folder / ("plantas.jsonl" if labels else "new.jsonl")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def words(variant: Path, folder: Path) -> list[str]:
    """Return what a variant needs besides the tiny config: a small backbone, and weights to start from."""
    config = yaml.safe_load(variant.read_text(encoding="utf-8"))
    model = config.get("model", {}).get("init_args", {})
    data = config.get("data", {}).get("init_args", {})
    given = ["--model.backbone", "test_vit"] if "backbone" in model else []
    if "image_size" in data or "timm_config" in data:
        given += ["--data.image_size", "32"]
    given += ["--model.num_classes", "8"] if model.get("num_classes") else []
    given += ["--model.image_size", "32"] if model.get("image_size") else []
    given += ["--model.pretrained", "false"] if model.get("pretrained") else []
    if "init_from" in model or "reset_head" in model:
        given += ["--model.init_from", str(_weights(folder))]
    if "start" in model.get("loss", {}).get("init_args", {}):
        given += ["--model.loss.start", "0"]  # a smoke fit has one epoch
    return given


def _weights(folder: Path) -> Path:
    """Save weights of the tiny network, as a run leaves them."""
    from modules.nets.plants import PlantsNet

    torch.manual_seed(0)
    path = folder / "plants.ckpt"
    torch.save({"state_dict": {f"net.{k}": v for k, v in PlantsNet("test_vit", 8, 32).state_dict().items()}}, path)
    return path
