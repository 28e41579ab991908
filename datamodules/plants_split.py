"""A split of plants explained, and written as JSON Lines files that can be given back as data."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from datamodules.errors import DataError
from datamodules.plants_filters import write_attributions
from datamodules.plants_records import Columns
from datamodules.split_diagnosis import facts_of, page, shuffled, stated_indices
from datamodules.splits import PARTS, make_split

_FIELDS = ("common_name", "genus", "family", "region", "country", "license", "attribution", "image_source")


def explain(records: pd.DataFrame, table: pd.DataFrame, seed: int) -> tuple[str, dict[str, Any]]:
    """Compare a split with a random and a stratified one of the same sizes (see ``split_diagnosis``).

    Args:
        records: Records of the data.
        table: Their split, in the same order.
        seed: Of the two other splits.

    Returns:
        A section in Markdown, and the numbers in it; nothing where there is no validation part.
    """
    used = table[table["part"] != "dropped"]
    if not {"train", "val"} <= set(used.loc[used["label"] != "", "part"]):
        return "", {}
    sizes = used["part"].value_counts()
    cases = {"this split": facts_of(used), "a random split": facts_of(shuffled(used, seed))}
    pool = records[["id", "group", "hash", "label"]].assign(given="")[(table["part"] != "dropped").to_numpy()]
    try:
        rule = make_split(pool, fractions={str(part): n / len(used) for part, n in sizes.items()}, seed=seed)
    except DataError:  # too few groups to draw these parts: then there is no such split to compare with
        rule = None
    if rule is not None:
        cases["the stratified split, copies together"] = facts_of(rule)
    apart = stated_indices(records, table["part"].tolist())
    numbers = {name: asdict(facts) for name, facts in cases.items()}
    return page(cases, apart), numbers | {
        "source_indices": {"classes": apart[0], "moved": apart[1], "examples": apart[2]}
    }


def write_parts(
    folder: Path, records: pd.DataFrame, table: pd.DataFrame, pixels: np.ndarray, columns: Columns
) -> dict[str, int]:
    """Write ``train.jsonl`` and the other parts, and whom the licences oblige to name (``ATTRIBUTION.csv``).

    Records without a file (of the hub, or synthetic) get one below ``images/``: the stored picture as PNG. Paths are
    relative to the folder. Read back by ``--data.path FOLDER``: groups, fields and parts are as they were.

    Args:
        folder: Where; made when missing.
        records: Records of the data.
        table: Their split, in the same order.
        pixels: (M, 3, S, S) uint8.
        columns: Names of the fields in the files.

    Returns:
        Records by part, and the lines of the file of attributions.

    Raises:
        DataError: The folder holds such files already.
    """
    stale = [part for part in PARTS if (folder / f"{part}.jsonl").exists()]
    if stale:
        raise DataError(f"{folder / stale[0]}.jsonl exists: name another folder, or remove the old split")
    folder.mkdir(parents=True, exist_ok=True)
    names = vars(columns)
    written = {}
    for part in PARTS:
        rows = records[(table["part"] == part).to_numpy()]
        if rows.empty:
            continue
        lines = []
        for record in rows.to_dict("records"):
            file = Path(record["file"]) if record["file"] else _picture(folder, record, pixels)
            line = {names["id"]: record["id"], names["image"]: os.path.relpath(file.absolute(), folder.absolute()),
                    names["label"]: record["label"], names["group"]: record["group"], names["split"]: part}  # fmt: skip
            line |= {names[field]: record[field] for field in _FIELDS if record[field]}
            lines.append(
                json.dumps(line | ({names["url"]: record["url"]} if record["url"] else {}), ensure_ascii=False)
            )
        _write(folder / f"{part}.jsonl", "\n".join(lines) + "\n")
        written[f"{part}.jsonl"] = len(lines)
    kept = records[table["part"].isin(PARTS).to_numpy()]
    return written | {"ATTRIBUTION.csv": write_attributions(kept, folder / "ATTRIBUTION.csv")}


def _picture(folder: Path, record: dict[Any, Any], pixels: np.ndarray) -> Path:
    path = folder / "images" / f"{record['hash'][:32]}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            Image.fromarray(pixels[record["row"]].transpose(1, 2, 0)).save(part, "PNG")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
