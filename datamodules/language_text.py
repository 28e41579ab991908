"""Text of a language model as documents: local files, the hub's `wikitext`, or the embedded text."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd

from datamodules.errors import DataError
from datamodules.near_texts import near_text_groups
from datamodules.synthetic.language import Text, count_words, make_articles, make_random, make_recall

Boundary = Literal["heading", "blank", "line", "file"]
Synthetic = Literal["articles", "recall", "random"]
PARTS = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}
_HEADING = re.compile(r"^ ?= [^=].* = ?$")
ENDINGS = (".txt", ".tokens", ".raw")


def read_text(path: Path) -> str:
    """Read a UTF-8 file as it is; line ends become line feeds.

    Raises:
        DataError: It cannot be read, is no UTF-8, or holds nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8 text: convert the file to UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if not text.strip():
        raise DataError(f"{path} holds no text")
    return text


def cut(text: str, boundary: Boundary) -> Iterator[tuple[str, str]]:
    """Cut a text into documents; joined again they are the text, and blank lines alone are none.

    Args:
        text: The text.
        boundary: Where a document begins: at a heading `` = Title = `` between blank lines (a formula in the text may
            look like one), after a blank line, at each line, or only with the file.

    Yields:
        Title ("" where there is none) and text of a document.
    """
    lines = text.splitlines(keepends=True)
    blank = [not line.strip() for line in lines] + [True]
    last = max((number for number, empty in enumerate(blank) if not empty), default=0)
    first, title = 0, ""
    for number, line in enumerate(lines):
        begins = (
            boundary == "line"
            or (
                boundary == "heading"
                and blank[number - 1]
                and blank[number + 1]
                and bool(_HEADING.match(line.rstrip("\n")))
            )
            or (boundary == "blank" and number > 0 and blank[number - 1] and not blank[number])
        )
        if begins and first < number <= last and "".join(lines[first:number]).strip():
            yield title, "".join(lines[first:number])
            first = number
        if begins and boundary == "heading":
            title = line.strip(" =\n")
    if first < len(lines):
        yield title, "".join(lines[first:])


def documents_of_path(path: str, boundary: Boundary) -> list[tuple[str, str, str, str]]:
    """Read a file, or a folder of files; ``train``, ``valid`` and ``test`` files state the parts of a split.

    Args:
        path: File or folder.
        boundary: See :func:`cut`.

    Returns:
        Id, title, text and stated part ("" = none) of each document.
    """
    given = Path(path)
    files = [given]
    if given.is_dir():
        files = sorted(file for file in given.iterdir() if file.suffix in ENDINGS)
        if not files:
            raise DataError(f"{path} holds no text file ({', '.join(ENDINGS)})")
    elif not given.is_file():
        raise DataError(f"{path} does not exist: --data.path names a text file or a folder of them")
    parts = {file: PARTS.get(re.split(r"[._]", file.name.removeprefix("wiki."))[0], "") for file in files}
    if "train" not in parts.values():  # names of one kind only mean something together
        parts = dict.fromkeys(files, "")
    found = []
    for file in files:
        for number, (title, text) in enumerate(cut(read_text(file), boundary)):
            found.append((f"{file.name}:{number}", title, text, parts[file]))
    return found


def check_enough(documents: list[tuple[str, str, str, str]], source: str) -> None:
    """Refuse a text that is to be split and has fewer documents than a split has parts.

    Args:
        documents: Id, title, text and stated part of each.
        source: Where they are from.

    Raises:
        DataError: There are fewer than three, and none is stated to be held out.
    """
    if len(documents) < 3 and not {part for *_, part in documents} & {"val", "test"}:
        raise DataError(
            f"{source}: {len(documents)} document{'s' * (len(documents) != 1)}, a split needs 3: cut it at other "
            "places with --data.boundary (blank or line), or give a folder with train.txt, valid.txt and test.txt"
        )


def documents_of_hub(name: str, boundary: Boundary) -> list[tuple[str, str, str, str]]:
    """Read a data set of the hub with a column ``text``, through ``datasets``; its splits state the parts.

    Args:
        name: ``DATASET/CONFIG``, such as ``wikitext/wikitext-2-raw-v1``.
        boundary: See :func:`cut`.

    Raises:
        DataError: The data set cannot be had, or has no such column.
    """
    from datasets import load_dataset

    data, _, config = name.rpartition("/")
    try:
        splits = load_dataset(data, config)
    except (OSError, ValueError) as error:
        raise DataError(f"hub data {name} cannot be had ({error}): check the name and the network, or give a local "
                        "file with --data.path") from error  # fmt: skip
    found = []
    for split, rows in splits.items():
        if "text" not in rows.column_names:
            raise DataError(f"hub data {name} has no column text, but {', '.join(rows.column_names)}: choose another "
                            "data set, or write its text to a local file for --data.path")  # fmt: skip
        text = "".join(line if line.endswith("\n") else f"{line}\n" for line in rows["text"])
        for number, (title, document) in enumerate(cut(text, boundary)):
            found.append((f"{split}:{number}", title, document, PARTS.get(str(split), "")))
    return found


def synthetic_texts(kind: Synthetic, words: int, seed: int) -> list[Text]:
    """Write the embedded text of a kind."""
    if kind == "articles":
        return make_articles(words, seed)
    if kind == "recall":
        return make_recall(max(10, words // 100), seed)
    return make_random(words, seed)


def as_records(documents: list[tuple[str, str, str, str]]) -> tuple[pd.DataFrame, list[str]]:
    """Return the records of documents (id, title, text, given) and their texts; copies of each other are one group.

    The search for near copies gets each text once: to it, a line that stands in very many documents proves nothing.
    """
    texts = [text for _, _, text, _ in documents]
    names = [name for name, _, _, _ in documents]
    words = [" ".join(text.split()) for text in texts]
    once: dict[str, str] = {}
    for name, same in zip(names, words, strict=True):
        once.setdefault(same, name)
    group = dict(zip(once, near_text_groups(list(once), list(once.values())), strict=True))
    records = pd.DataFrame(
        {
            "id": names,
            "group": [group[same] for same in words],
            "hash": [hashlib.sha256(text.encode("utf-8")).hexdigest() for text in texts],
            "label": "text",
            "given": [part for _, _, _, part in documents],
            "title": [title for _, title, _, _ in documents],
            "n_words": [count_words(text) for text in texts],
            "n_bytes": [len(text.encode("utf-8")) for text in texts],
        }
    )
    return records, texts
