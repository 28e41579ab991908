"""Pictures of a data set of the hub, or of any local form that ``datasets`` reads: parquet, arrow, image folders."""

from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.errors import DataError
from datamodules.plants_records import PART_NAMES, Columns, frame


class HubImages:
    """Records of a data set, and the bytes of its pictures.

    Args:
        name: Name on the hub, a local folder (of files, or written by ``save_to_disk``), or a file.
        columns: Names of the fields; ``columns.image`` is the picture.

    Attributes:
        records: One row a picture.
        keys: Name of each picture.
        fingerprint: Changes with the content of the data set.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """

    def __init__(self, name: str, columns: Columns) -> None:
        from datasets import Image, concatenate_datasets

        parts = _load(name)
        first = next(iter(parts.values()))
        for field in (columns.image, columns.label):
            if field not in first.column_names:
                raise DataError(f"{name}: column {field!r} is missing (it has {', '.join(first.column_names)}); name "
                                "it with --data.columns.image or --data.columns.label")  # fmt: skip
        given = [_part(name, part) if len(parts) > 1 else "" for part, rows in parts.items() for _ in range(len(rows))]
        self._data = concatenate_datasets(list(parts.values())).cast_column(columns.image, Image(decode=False))
        self._image = columns.image
        self.fingerprint = "-".join(rows._fingerprint for rows in parts.values())
        self.records = self._records(name, columns, given)
        self.keys = [f"{name}#{i}" for i in range(len(self.records))]

    def read(self, i: int) -> bytes:
        """Return the bytes of a picture; none for a row without one."""
        found = self._data[i][self._image]
        if found is None or (found["bytes"] is None and not found["path"]):
            return b""
        if found["bytes"] is not None:
            return bytes(found["bytes"])
        return Path(found["path"]).read_bytes()

    def _records(self, name: str, columns: Columns, given: list[str]) -> pd.DataFrame:
        features, size = self._data.features, len(self._data)
        rows: dict[str, list[Any]] = {"given": given, "line": list(range(1, size + 1)), "source_file": [name] * size}
        texts = self._data.remove_columns([columns.image])
        for field, column in vars(columns).items():
            if field in ("image", "split") or column not in texts.column_names:
                continue
            values = texts[column]
            names = getattr(features[column], "int2str", None)
            rows[field] = ["" if v is None else names(v) if names and isinstance(v, int) else str(v) for v in values]
        rows.setdefault("id", [f"{number}" for number in rows["line"]])
        listed = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        return frame(listed)


def _load(name: str) -> dict[str, Any]:
    """Return the parts of a data set by name."""
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    place = Path(name)
    try:
        if place.is_dir() and ((place / "dataset_dict.json").exists() or (place / "state.json").exists()):
            found = load_from_disk(name)
        elif place.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow"}.get(place.suffix.lower())
            if kind is None:
                raise DataError(f"{name}: give a .parquet or .arrow file, a folder, or a name on the hub")
            found = load_dataset(kind, data_files=name)
        else:
            found = load_dataset(name)
    except DataError:
        raise
    except Exception as error:  # each reader raises its own kind
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"the data set {name!r} cannot be read ({first}); give a local folder, or a name on the hub "
                        "while online") from error  # fmt: skip
    if isinstance(found, Dataset):
        return {"train": found}
    assert isinstance(found, DatasetDict)
    return dict(found)


def _part(name: str, part: str) -> str:
    if part not in PART_NAMES:
        known = ", ".join(key for key in PART_NAMES if key)
        raise DataError(f"{name}: the part {part!r} is unknown; known are {known}")
    return PART_NAMES[part]
