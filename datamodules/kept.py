"""The last result of something slow that follows from its inputs alone, kept for the next command of this process.

An ablation fits and tests many times in one process, on one file: it is read, checked and tokenised once.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Kept(Generic[Made]):
    """Holds one result, under the key of what it was made from; whoever takes it leaves it as it is."""

    def __init__(self) -> None:
        self._key: object = None
        self._made: Made | None = None

    def get(self, key: object, make: Callable[[], Made]) -> Made:
        """Return what was made under this key, or make it.

        Args:
            key: Everything that the result follows from, or a digest of it.
            make: Makes the result; an error is passed on, and nothing is kept then.
        """
        if self._made is None or key != self._key:
            self._key, self._made = None, None  # never two at a time in memory
            self._made, self._key = make(), key
        return self._made


def digest(texts: Iterable[str]) -> str:
    """Return the SHA-256 of some texts, one after the other."""
    total = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        total.update(len(raw).to_bytes(8, "little") + raw)
    return total.hexdigest()
