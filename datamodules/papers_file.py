"""Reading papers from CSV, JSON Lines (both also `.gz`) or a hub data set into one table of texts.

A file has one paper a row. Columns of the default names (see `Columns`)::

    id              arXiv id or any other unique name; text, so that 2601.08950 keeps its zero
    title, abstract
    category        the label; not needed for papers to predict
    all_categories  all categories, primary first, separated by blanks or commas (or a JSON list)     [optional]
    published       date, or any text whose order is that of time                                     [optional]
"""

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from datamodules.errors import DataError

Row = tuple[int, dict[str, Any]]  # number of the line (or row), and its values by column
PARTS_OF_HUB = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
FORMATS = ".csv, .jsonl or .ndjson, also with .gz"


@dataclass(frozen=True)
class Columns:
    """Names of the columns in the source.

    Attributes:
        id: Unique name of a paper; None makes one of the row's number and its text, so that rows of two files differ.
        title: Title.
        abstract: Abstract.
        category: Label.
        all_categories: All categories, primary first; may be absent.
        published: Date or month, compared as text; may be absent unless the split needs it.
    """

    id: str | None = "id"
    title: str = "title"
    abstract: str = "abstract"
    category: str = "category"
    all_categories: str = "all_categories"
    published: str = "published"

    def __post_init__(self) -> None:
        given = [value for field in fields(self) if (value := getattr(self, field.name)) is not None]
        if len(set(given)) < len(given) or "" in given:
            raise ValueError(f"the names of the columns must be different and not empty, got {given}")


@dataclass(frozen=True)
class Source:
    """Rows of a source.

    Attributes:
        name: The path or the hub id, for messages.
        rows: Columns id, title, abstract, category, all_categories, published, given (text), line (int), row by row.
        has: Which of the optional columns the source has.
        unit: What `line` counts.
    """

    name: str
    rows: pd.DataFrame
    has: frozenset[str]
    unit: str = "line"


def read_papers(path: str | Path, columns: Columns, labels: bool = True) -> Source:
    """Read one file.

    Args:
        path: The file; its ending says the format.
        columns: Names of the columns.
        labels: Whether the column of the label is needed.

    Raises:
        DataError: One error that names file, line and mend.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a file of papers ({FORMATS})")
    ending = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    reader = readers.get(ending.removesuffix(".gz"))
    if reader is None:
        raise DataError(f"{path}: unknown ending {ending!r}; give {FORMATS}")
    try:
        with _open(path, ending.endswith(".gz")) as file:
            rows = list(reader(path, file))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or cut short ({error}); copy or download it again") from error
    return _take(str(path), rows, columns, labels, "line")


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file; "" for one that cannot be read, which `read_papers` then says."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def read_hub(name: str, columns: Columns) -> Source:
    """Read a data set of the hub, or a local folder of one; its splits become the given parts.

    Args:
        name: Id on the hub such as `owner/papers`, or a folder.
        columns: Names of the columns.

    Raises:
        DataError: It cannot be had, or has other columns.
    """
    from datasets import DatasetDict, load_dataset

    try:
        found = load_dataset(name)
    except Exception as error:  # many kinds, by format and network; all of them mean the same to the user
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"the data set {name!r} cannot be read ({first}); name one while online, or a folder, or use "
                        "--data.path") from error  # fmt: skip
    assert isinstance(found, DatasetDict)
    unknown = sorted(set(found) - set(PARTS_OF_HUB))
    if unknown:
        raise DataError(f"{name}: split {unknown[0]!r} is none of {', '.join(PARTS_OF_HUB)}; rename it")
    several = len(found) > 1  # one split alone says nothing about parts
    rows: list[Row] = []
    for split, part in found.items():
        given = {"\0given": PARTS_OF_HUB[str(split)] if several else ""}
        rows += [(len(rows) + number, dict(row) | given) for number, row in enumerate(part, 1)]
    return _take(name, rows, columns, True, "row")


def _open(path: Path, packed: bool) -> TextIO:
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")  # a byte order mark is no part of the first name


def _csv_rows(path: Path, file: TextIO) -> Iterator[Row]:
    reader = csv.reader(file, strict=True)
    header: list[str] | None = None
    try:
        for values in reader:
            if header is None:
                header = [name.strip() for name in values]
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise DataError(f"{path}, line 1: column {twice[0]!r} occurs twice; rename one")
            elif not values:
                continue  # an empty line at the end
            elif len(values) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(values)} fields, but the header has {len(header)}; quote "
                    'fields that hold commas, and write " inside of them twice'
                )
            else:
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}); a quote may be left open") from error
    if header is None:
        raise DataError(f"{path}: empty; the first line has to name the columns")


def _json_rows(path: Path, file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({error}); one object a line, none cut off"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a {type(row).__name__}, not an object with the columns as keys")
        yield number, row


def _take(name: str, rows: list[Row], columns: Columns, labels: bool, unit: str) -> Source:
    """Put the columns under our names; every value becomes text."""
    if not rows:
        raise DataError(f"{name}: no paper in it; give at least one row")
    present = {key for _, row in rows for key in row}
    needed = [columns.title, columns.abstract, *([columns.category] if labels else [])]
    needed += [columns.id] if columns.id is not None else []
    missing = [column for column in needed if column not in present]
    if missing:
        has = ", ".join(sorted(key for key in present if not key.startswith("\0")))
        raise DataError(f"{name}: column {missing} is missing (there are {has}); rename it there, or set the name with "
                        "--data.columns (columns.id: null numbers the rows)")  # fmt: skip
    wanted = {"title": columns.title, "abstract": columns.abstract, "category": columns.category}
    wanted |= {"all_categories": columns.all_categories, "published": columns.published, "given": "\0given"}
    table: dict[str, list[Any]] = {key: [] for key in ("id", *wanted, "line")}
    for line, row in rows:
        where = f"{name}, {unit} {line}"
        table["line"].append(line)
        for key, column in wanted.items():
            table[key].append(_text(row.get(column), where, column, key == "all_categories"))
        if columns.id is not None:
            table["id"].append(_id(row.get(columns.id), where))
        else:
            text = hashlib.sha256(f"{table['title'][-1]}\n{table['abstract'][-1]}".encode("utf-8", "surrogatepass"))
            table["id"].append(f"row-{len(table['id']):06d}-{text.hexdigest()[:8]}")
    has_columns = frozenset(key for key in ("category", "all_categories", "published") if wanted[key] in present)
    return Source(name, pd.DataFrame(table), has_columns, unit)


def _id(value: object, where: str) -> str:
    if isinstance(value, float):
        raise DataError(f"{where}: the id {value} is a number and has lost its zeros; write it as text, in quotes")
    return "" if value is None else str(value).strip()


def _text(value: object, where: str, column: str, several: bool) -> str:
    """Text with single blanks; a list of categories is joined."""
    if value is None:
        return ""
    if several and isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, list | dict | float | bool):
        raise DataError(f"{where}: {column} is a {type(value).__name__}, not text; write it in quotes")
    text = str(value)
    return " ".join((text.replace(",", " ") if several else text).split())
