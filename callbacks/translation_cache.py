"""Translations that were paid for are kept: one line each, appended, so that a killed run goes on where it was."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datamodules.errors import DataError
from datamodules.pretrained import locked


class TranslationCache:
    """A file of JSON lines ``{"key", "pivot", "text"}``.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, str] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the file for this process and read it; others wait, and then find everything."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_suffix(".lock")):
            self._read()
            yield

    def add(self, keys: Sequence[str], pivots: Sequence[str], texts: Sequence[str]) -> None:
        """Append translations, durably; what is known already stays as it is."""
        new = zip(keys, pivots, texts, strict=True)
        rows = [{"key": k, "pivot": pivot, "text": text} for k, pivot, text in new if k not in self.found]
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self.found |= {row["key"]: row["text"] for row in rows}

    def _read(self) -> None:
        self.found = {}
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # a run was killed while it wrote its last line
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                self.found[row["key"]] = row["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{self.path}, line {number}: not a translation ({error}); remove the line") from error
