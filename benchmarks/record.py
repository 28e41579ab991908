"""Records: small JSON files that say how a claimed figure was made, and that stand while their files are unchanged."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "records"
PACKAGES = ("torch", "lightning", "jsonargparse", "torchmetrics", "numpy", "scikit-learn", "aeon")
Figures = Mapping[str, object]  # plain numbers, strings, and lists or mappings of them
KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "date": str,  # UTC, ISO 8601
    "command": str,
    "commit": str,  # "-dirty" appended when files differ from it
    "files": dict,  # path inside the project -> SHA-256: config and code that the figures depend on
    "data": dict,  # source -> SHA-256, or {"synthetic": seed}
    "versions": dict,
    "machine": dict,
    "seeds": list,
    "figures": dict,
}


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str:
    """The checkout's commit, ``-dirty`` when tracked files differ from it; ``unknown`` outside git."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Python's and the main packages' versions; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Processor and cores, and the GPU where there is one; nothing that names the host."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    found: dict[str, str | int] = {"cpu": names[0] if names else platform.processor() or platform.machine()}
    found |= {"cores": os.cpu_count() or 0, "threads": torch.get_num_threads(), "system": platform.system()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


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
        "commit": commit(),
        "files": {str(Path(f).resolve().relative_to(ROOT)): sha256(Path(f).resolve()) for f in files},
        "data": dict(data),
        "versions": versions(),
        "machine": machine(),
        "seeds": list(seeds),
        "figures": dict(figures),
    }
    if wrong := problems(record):
        raise ValueError(f"record {name!r} is not complete: {', '.join(wrong)}")
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / f"{name}.json", folder / f".{name}.json.part"
    part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path
