"""Sources of plant pictures to records: JSON Lines, given parts in files of their own, folders of classes (pure).

No picture is opened here. One record is one picture; its class is a name (never an index, which two files may count
differently), and what a line says besides - genus, family, region, licence - is kept as text.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from datamodules.audit import STORED, Finding
from datamodules.errors import DataError
from datamodules.image_cache import file_of
from datamodules.splits import PARTS

# What every record holds; "" = unknown.
COLUMNS = (
    *("id", "group", "hash", "label", "given", "file", "line", "source_file", "url"),
    *("common_name", "genus", "family", "region", "country", "license", "attribution", "image_source", "class_index"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PART_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
              "calib": "calib", "test": "test", "": ""}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Names of the fields in a user's file; only ``label`` and one of ``image`` and ``url`` have to be there.

    Args:
        label: Class of the picture, by name.
        image: Path of the picture, relative to the file that lists it.
        url: Address of the picture; it is then looked for in the image cache.
        id: Unique name; without it the path or address is the name.
        group: What may not be on two sides of a split (one plant, one observer).
        split: Part given by the source.
        common_name: Common name.
        genus: Genus.
        family: Family.
        region: Region; without it, it follows from the country.
        country: Two-letter code of the country.
        license: Licence of the picture, in any spelling.
        attribution: Whom to name.
        image_source: Where the picture comes from.
        class_index: Index of the class in the source; only compared between the parts, by the audit, and never used.
    """

    label: str = "latin_name"
    image: str = "path"
    url: str = "image_url"
    id: str = "id"
    group: str = "group"
    split: str = "split"
    common_name: str = "common_name"
    genus: str = "genus"
    family: str = "family"
    region: str = "region"
    country: str = "country"
    license: str = "license"
    attribution: str = "attribution"
    image_source: str = "image_source"
    class_index: str = "class_idx"


def read_source(
    path: str,
    columns: Columns,
    parts: dict[str, str | None] | None = None,
    image_cache: str | None = None,
    labels: bool = True,
) -> pd.DataFrame:
    """Read records from a file or a folder.

    Args:
        path: A JSON Lines file; a folder with ``train.jsonl``, ``val.jsonl``, ``test.jsonl``; or a folder with one
            folder of pictures per class, below folders named after the parts where the source gives them.
        columns: Names of the fields.
        parts: Further files by part; ``path`` is then the training part.
        image_cache: Folder of downloaded pictures, for records with an address and no path.
        labels: Whether each record needs a class.

    Returns:
        One row a line, all columns of :data:`COLUMNS`; ids may still repeat.

    Raises:
        DataError: Naming the file, the line and the mend.
    """
    further = {part: name for part, name in (parts or {}).items() if name is not None}
    place = Path(path)
    if not place.exists():
        raise DataError(f"{path} does not exist: give a JSON Lines file or a folder as --data.path")
    if place.is_file():
        files = [(place, "train" if further else ""), *((Path(name), part) for part, name in further.items())]
    elif further:
        raise DataError(f"{path} is a folder: with val_path or test_path, path has to be a JSON Lines file")
    else:
        files = [(file, PART_NAMES[file.stem]) for file in sorted(place.glob("*.jsonl")) if file.stem in PART_NAMES]
        if not files:
            return _folder(place, labels)
    rows = [row for file, part in files for row in _lines(file, part, columns, image_cache, labels)]
    if not rows:
        raise DataError(f"{path}: no line holds a record; one JSON object a line is expected")
    return frame(rows)


def frame(rows: Sequence[dict[str, str | int]]) -> pd.DataFrame:
    """Return records as a frame with all columns, in their order."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for name in COLUMNS:
        table[name] = table[name].fillna(0).astype("int64") if name == "line" else table[name].fillna("").astype(str)
    return table


def _lines(
    file: Path, part: str, columns: Columns, image_cache: str | None, labels: bool
) -> Iterator[dict[str, str | int]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number}: not a complete JSON object ({error.msg} at character "
                            f"{error.pos + 1}); restore or remove the line") from error  # fmt: skip
        if not isinstance(found, dict):
            raise DataError(f"{file}, line {number}: {type(found).__name__} in place of a JSON object with fields")
        yield _record(found, file, number, part, columns, image_cache, labels)


def _record(
    found: dict[str, object],
    file: Path,
    number: int,
    part: str,
    columns: Columns,
    image_cache: str | None,
    labels: bool,
) -> dict[str, str | int]:
    values = {one.name: _text(found.get(getattr(columns, one.name))) for one in fields(columns)}
    where = f"{file}, line {number}"
    if labels and not values["label"]:
        raise DataError(f"{where}: field {columns.label!r} is missing or empty; name the field of the class with "
                        f"--data.columns.label (the line has {', '.join(map(str, found)) or 'no field'})")  # fmt: skip
    picture, url = values["image"], values["url"]
    if picture:
        target = Path(picture) if Path(picture).is_absolute() else file.parent / picture
    elif url and image_cache is not None:
        target = file_of(image_cache, url)
    elif url:
        raise DataError(f"{where}: the picture is at an address; fill a cache with the verb `cache` and name its "
                        "folder with --data.image_cache")  # fmt: skip
    else:
        raise DataError(f"{where}: neither {columns.image!r} nor {columns.url!r} says where the picture is")
    given = values["split"].lower()
    if given not in PART_NAMES:
        raise DataError(f"{where}: the part {values['split']!r} is unknown; known are {', '.join(PARTS)}, or none")
    record: dict[str, str | int] = {name: values[name] for name in COLUMNS if name in values}
    record |= {"id": values["id"] or picture or url, "given": part or PART_NAMES[given], "file": str(target)}
    return record | {"line": number, "source_file": file.name, "hash": ""}


def _text(value: object) -> str:
    """Text of a field; ``None``, lists and objects are no text and count as unknown."""
    if value is None or isinstance(value, list | dict):
        return ""
    return str(value).strip()


def _folder(folder: Path, labels: bool) -> pd.DataFrame:
    """Records of a folder with one folder per class, below folders of parts where all its folders are named so."""
    inner = sorted(one for one in folder.iterdir() if one.is_dir())
    parts = {one: PART_NAMES.get(one.name.lower(), "") for one in inner}
    given = bool(inner) and all(parts.values())
    rows: list[dict[str, str | int]] = []
    for top in inner if given else [folder]:
        for file in sorted(top.rglob("*")):
            if file.suffix.lower() not in IMAGE_SUFFIXES or not file.is_file():
                continue
            steps = file.relative_to(top).parts
            if labels and len(steps) < 2:
                raise DataError(f"{file}: a picture outside of a folder of a class; use {folder}/CLASS/PICTURE")
            row: dict[str, str | int] = {"id": str(file.relative_to(folder)), "file": str(file), "line": len(rows) + 1}
            label = steps[-2] if len(steps) > 1 else ""
            part = parts.get(top, "") if given else ""
            rows.append(row | {"label": label, "given": part, "source_file": folder.name})
    if not rows:
        raise DataError(f"{folder}: neither train.jsonl nor a picture ({', '.join(IMAGE_SUFFIXES)}) in a folder of a "
                        "class was found")  # fmt: skip
    return frame(rows)


def untrained(records: pd.DataFrame) -> list[Finding]:
    """Say which records given for validation or calibration are of a class that no record can train.

    Args:
        records: Records with id, label, given, source_file and line.
    """
    trained = set(records["label"][records["given"].isin(["train", ""])])
    rows = records[records["given"].isin(["val", "calib"]) & ~records["label"].isin(trained) & (records["label"] != "")]
    if rows.empty:
        return []
    where = rows["source_file"] + ", line " + rows["line"].astype(str) + ": " + rows["label"]
    message = (f"{rows['label'].nunique()} classes are given for validation or calibration only and "
               f"cannot be learnt; move some of their pictures to train, or take the {len(rows)} out.")  # fmt: skip
    return [Finding("class_only_in_val", "warning", message, len(rows), rows["id"].tolist()[:STORED],
                    where.tolist()[:STORED])]  # fmt: skip


def largest_classes(records: pd.DataFrame, least: int) -> tuple[pd.DataFrame, int, int]:
    """Keep the classes with at least ``least`` different pictures.

    Args:
        records: Records with hashes.
        least: Pictures a class needs.

    Returns:
        The records kept, in their order, and how many classes and records were left out.

    Raises:
        DataError: No class has so many.
    """
    labelled = records[records["label"] != ""]
    counts = labelled.groupby("label")["hash"].nunique()
    small = set(counts.index[counts < least])
    kept = records[~records["label"].isin(small)]
    if not (kept["label"] != "").any():
        raise DataError(f"no class has {least} different pictures (the largest has {int(counts.max())}): lower "
                        "--data.min_images_per_class")  # fmt: skip
    return kept.reset_index(drop=True), len(small), len(records) - len(kept)
