"""Records: small JSON files that say how a claimed figure was made, and that stand while their files are unchanged."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from callbacks.report_environment import environment, git_commit
from callbacks.report_files import write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "records"
Figures = Mapping[str, object]  # plain numbers, strings, and lists or mappings of them
KEYS: dict[str, type] = {
    "name": str,
    "date": str,  # UTC, ISO 8601
    "command": str,
    "commit": str,  # "-dirty" appended when files differ from it
    "files": dict,  # path inside the project -> SHA-256: config and code that the figures depend on
    "data": dict,  # source -> SHA-256, or {"synthetic": seed}
    "environment": dict,  # versions, processor, cores, threads, GPUs
    "seeds": list,
    "figures": dict,
}


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; of a folder, of the names and hashes of its files."""
    if path.is_dir():
        lines = [f"{sha256(file)} {file.relative_to(path)}" for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problems(record: Mapping[str, object]) -> list[str]:
    """What is missing from a record or of the wrong type; an empty list for a complete one."""
    wrong = [f"{key}: missing" for key in KEYS if key not in record]
    wrong += [f"{key}: unknown" for key in record if key not in KEYS]
    for key in KEYS.keys() & record.keys():
        value = record[key]
        if not isinstance(value, KEYS[key]):
            wrong.append(f"{key}: {type(value).__name__}")
        elif not value:
            wrong.append(f"{key}: empty")
    return sorted(wrong)


def stands(record: Mapping[str, object]) -> list[str]:
    """Files that changed since the record was made; its figures should be measured again when the list is not empty."""
    files = record["files"]
    assert isinstance(files, dict)
    return [name for name, digest in files.items() if not (ROOT / name).is_file() or sha256(ROOT / name) != digest]


def write_record(
    name: str,
    command: str,
    files: Iterable[str | Path],
    data: Mapping[str, str | int],
    seeds: Sequence[int],
    figures: Figures,
    folder: Path = FOLDER,
) -> Path:
    """Write ``folder/NAME.json`` atomically.

    Args:
        name: File name without the ending; letters, digits, ``-`` and ``_``.
        command: The command that made the figures, without the paths of this machine.
        files: Configs and sources that the figures depend on; hashed.
        data: Source name to SHA-256, or ``{"synthetic": seed}``.
        seeds: Seeds of the runs behind the figures.
        figures: The numbers.
        folder: Where records live.

    Raises:
        ValueError: The name is not plain or something is missing.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"record name {name!r}: use letters, digits, '-' and '_' only")
    record: dict[str, object] = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": git_commit() or "unknown",
        "files": {str(Path(f).resolve().relative_to(ROOT)): sha256(Path(f).resolve()) for f in files},
        "data": dict(data),
        "environment": environment(),
        "seeds": list(seeds),
        "figures": dict(figures),
    }
    if wrong := problems(record):
        raise ValueError(f"record {name!r} is not complete: {', '.join(wrong)}")
    return write_json(folder / f"{name}.json", record)
