"""What a fresh machine installs: bounds with reasons, a lock with hashes and without hosts, complete records."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import record

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / "requirements" / "lock.txt"


def project() -> dict:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]


def direct() -> list[Requirement]:
    """All direct dependencies, those of the extras too, without the project itself."""
    listed = project()["dependencies"] + [
        name for extra in project()["optional-dependencies"].values() for name in extra
    ]
    return [r for r in map(Requirement, listed) if r.name != project()["name"]]


def locked() -> dict[str, list[str]]:
    """Name -> pinned versions (several where platforms differ)."""
    pins: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK.read_text(encoding="utf-8"), re.M):
        pins.setdefault(canonicalize_name(name), []).append(version)
    return pins


def test_every_locked_package_has_hashes():
    entries = LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    assert len(entries) > 100
    bad = [
        line for line in entries if not re.fullmatch(r"[\w.-]+==[^ ]+( ; .+?)?( +--hash=sha256:[0-9a-f]{64})+ *", line)
    ]
    assert not bad, bad[:3]


def test_the_lock_names_no_host_and_no_option():
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(-[a-z]|--(?!hash=))", text, re.M)
    assert "#" not in text


def test_the_lock_satisfies_every_bound():
    pins = locked()
    for requirement in direct():
        versions = pins.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not in the lock; see CONTRIBUTING.md"
        assert all(requirement.specifier.contains(version) for version in versions), (requirement, versions)


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_the_malicious_releases_of_lightning_are_excluded(version):
    bound = next(r for r in direct() if r.name == "lightning")
    assert not bound.specifier.contains(version)
    assert version not in locked()["lightning"] + locked().get("pytorch-lightning", [])


def test_every_bound_gives_its_reason():
    lines = PYPROJECT.read_text(encoding="utf-8").splitlines()
    bounds = [
        line for line in lines if re.match(r'\s+"[A-Za-z0-9_.-]+(\[.*\])?\s*[<>=!~]', line) or "requires-python" in line
    ]
    one_line_extras = [line for line in lines if re.match(r'\w+ = \["[A-Za-z0-9_.-]+[<>=!~]', line)]
    assert len(bounds) > 10
    obvious = {
        "pytest",
        "ruff",
        "mypy",
        "pandas-stubs",
        "types-PyYAML",
        "ipykernel",
    }  # tools at the version in use when added
    bare = [
        line.strip()
        for line in bounds + one_line_extras
        if not re.search(r"#\s*\S+.{5,}", line) and re.match(r'\s*"?([\w.-]+)', line).group(1) not in obvious
    ]
    assert not bare, bare


def test_the_installed_packages_are_ours_and_nothing_else():
    from setuptools import find_namespace_packages

    include = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]["find"]["include"]
    found = {name.split(".")[0] for name in find_namespace_packages(str(ROOT), include=include)}
    assert found == {"lightning_project", "datamodules", "modules", "callbacks"}


def test_the_committed_records_are_complete():
    paths = sorted(record.FOLDER.glob("*.json"))
    assert paths, "claims of the README need their records"
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert record.problems(content) == [], path.name
        assert content["name"] == path.stem


@pytest.fixture
def arguments():
    return {
        "command": "python -m x",
        "files": [PYPROJECT],
        "data": {"synthetic": 0},
        "seeds": [0],
        "figures": {"ratio": 1.0},
    }


def test_a_record_is_written_with_all_its_keys(tmp_path, arguments):
    path = record.write_record("some-claim", folder=tmp_path, **arguments)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.keys() == record.KEYS.keys()
    assert content["files"]["pyproject.toml"] == record.sha256(PYPROJECT)
    assert record.stands(content) == []
    assert [p.name for p in tmp_path.iterdir()] == ["some-claim.json"]


def test_a_record_falls_when_its_files_change(tmp_path, arguments):
    content = json.loads(record.write_record("some-claim", folder=tmp_path, **arguments).read_text(encoding="utf-8"))
    content["files"]["pyproject.toml"] = "0" * 64
    assert record.stands(content) == ["pyproject.toml"]


@pytest.mark.parametrize("change", [{"seeds": []}, {"figures": {}}, {"command": ""}])
def test_an_incomplete_record_is_refused(tmp_path, arguments, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        record.write_record("some-claim", folder=tmp_path, **(arguments | change))
    assert list(tmp_path.iterdir()) == []


def test_a_record_name_stays_inside_the_folder(tmp_path, arguments):
    with pytest.raises(ValueError, match="name"):
        record.write_record("../claim", folder=tmp_path, **arguments)
