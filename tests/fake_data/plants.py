"""Tiny pictures on disk in the forms that `plants` reads."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 32, hue: float = 0.3) -> Image.Image:
    """A smooth picture with a disc, different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    values = np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 255 * hue)], 2)
    values = values + rng.normal(0, 12, values.shape)
    inside = (x - width * rng.uniform(0.3, 0.7)) ** 2 + (y - height * rng.uniform(0.3, 0.7)) ** 2 < (height / 4) ** 2
    values[inside] = rng.uniform(0, 255, 3)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def write_plants(
    folder: Path, species: int = 4, per_species: int = 6, name: str = "plants.jsonl", **changes: object
) -> Path:
    """Write pictures and the JSON Lines file that lists them, with all the fields of the brief.

    Args:
        folder: Where.
        species: Number of species.
        per_species: Pictures of each.
        name: Name of the file.
        changes: Fields of every line to replace; None leaves a field out.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(species * per_species):
        kind = number % species
        file = f"images/{number:03d}.jpg"
        picture(number, hue=kind / species).save(folder / file, quality=90)
        line = {
            "path": file,
            "latin_name": f"Genus{kind // 2} species{kind}",
            "common_name": f"plant {kind}",
            "genus": f"Genus{kind // 2}",
            "family": f"Family{kind // 4}",
            "image_url": f"https://images.example/{number}.jpg",
            "image_source": "inaturalist",
            "license": ("CC0", "CC-BY", "CC-BY-NC")[number % 3],
            "attribution": f"Observer {number % 5}",
            "country": ("ES", "DE", "US")[number % 3],
            "region": "",
        } | changes
        lines.append(json.dumps({key: value for key, value in line.items() if value is not None}))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
