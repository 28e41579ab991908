"""Every config under configs/ is found, has a header, parses through the launcher, and says all that it should say."""

import contextlib
import importlib
import inspect
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ABLATIONS = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))  # lists of runs, no config of one
CONFIGS = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path not in ABLATIONS]
BASES = [path for path in CONFIGS if path.parent.name == "configs"]
OVERLAYS = [path for path in CONFIGS if path.parent.name != "configs"]
SETTINGS_LIMIT = 15
# Ways to compute the same numbers: left to the library, which knows the device.
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable", "maximize", "last_epoch", "optimizer", "params"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def chains(paths: list[Path]) -> list:
    """The files that a user gives: a complete config alone, an overlay after the config of its system or of each."""
    found = []
    for path in paths:
        if path in BASES:
            found.append(pytest.param((path,), id=name_of(path)))
        elif path.parent.name == "variants":
            found.append(pytest.param((system_of(path), path), id=name_of(path)))
        else:
            found += [pytest.param((base, path), id=f"{name_of(path)}-{base.stem}") for base in BASES]
    return found


def system_of(variant: Path) -> Path:
    """The complete config that a variant is laid over: the longest one that its name begins with."""
    return max((base for base in BASES if variant.stem.startswith(f"{base.stem}_")), key=lambda base: len(base.stem))


@cache
def resolved(*paths: Path) -> str:
    """What the launcher makes of these files (`fit --print_config`)."""
    from lightning_project.cli import main

    out = io.StringIO()
    words = [word for path in paths for word in ("--config", str(path))]
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main(["fit", *words, "--print_config"])
    assert stop.value.code in (0, None)
    return out.getvalue()


def raw(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def walk(node: object, key: str = "") -> Iterator[tuple[str, dict]]:
    """Every mapping of a config with the key that it stands under."""
    if isinstance(node, dict):
        yield key, node
        for name, value in node.items():
            yield from walk(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value, key)


def load(class_path: str) -> type:
    module, name = class_path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_all_configs_are_tested():
    on_disk = {path for ending in ("*.yaml", "*.yml") for path in (ROOT / "configs").rglob(ending)}
    known = {*BASES, *OVERLAYS, *ABLATIONS}
    assert known == on_disk, "configs are .yaml files in configs/, variants/, machine/ or ablations/"
    assert len(BASES) >= 1 and len(OVERLAYS) >= 10
    assert {path.parent.name for path in OVERLAYS} == {"variants", "machine"}
    variants = [path for path in OVERLAYS if path.parent.name == "variants"]
    assert {system_of(path) for path in variants} == set(BASES), "the name of a variant begins with its system's"


@pytest.mark.parametrize("path", [*CONFIGS, *ABLATIONS], ids=name_of)
def test_a_header_says_purpose_command_and_result(path):
    text = path.read_text(encoding="utf-8")
    header = [line.lstrip("# ") for line in re.match(r"(#.*\n)*", text).group().splitlines()]
    assert len(header) >= 3 and len(header[0]) > 15, "the first line says what the file is for"
    command = [line for line in header if line.startswith("Command:")]
    assert command and f"lightning_project {'ablate' if path in ABLATIONS else 'fit'}" in command[0]
    assert name_of(path) in command[0], "the command is one that uses this file"
    assert any(line.startswith("Expected:") for line in header)


@pytest.mark.parametrize("files", chains(CONFIGS))
def test_it_parses_and_one_round_trip_changes_nothing(files, tmp_path):
    text = resolved(*files)
    stored = tmp_path / "config.yaml"
    stored.write_text(text, encoding="utf-8")
    assert yaml.safe_load(text)["model"]["class_path"]
    assert resolved(stored) == text


@pytest.mark.parametrize("files", chains(OVERLAYS))
def test_every_line_of_an_overlay_arrives(files):
    """An overlay's own settings are in the resolved config: nothing that it says is overruled or dropped."""

    def missing(asked: object, found: object, where: str) -> Iterator[str]:
        if isinstance(asked, dict) and isinstance(found, dict):
            for key, value in asked.items():
                name = key.rstrip("+")
                yield from missing(value, found.get(name, "absent"), f"{where}.{name}")
        elif isinstance(asked, list) and isinstance(found, list) and len(asked) == len(found):
            for one, other in zip(asked, found, strict=True):
                yield from missing(one, other, where)
        elif isinstance(asked, dict) and isinstance(found, list):  # one entry where several may stand
            yield from missing(asked, found[-1], where)
        elif asked != found:
            yield f"{where}: {asked!r} became {found!r}"

    assert not list(missing(raw(files[-1]), yaml.safe_load(resolved(*files)), ""))


@pytest.mark.parametrize("files", chains(CONFIGS))
def test_class_paths_are_public_and_exist(files):
    found = [mapping["class_path"] for _, mapping in walk(yaml.safe_load(resolved(*files))) if "class_path" in mapping]
    assert found
    for class_path in found:
        assert not any(part.startswith("_") for part in class_path.split(".")), class_path
        assert inspect.isclass(load(class_path)), class_path


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name != "machine"], ids=name_of)
def test_a_class_is_given_with_all_its_arguments(path):
    """Swapping a class keeps the old one's arguments of the same name, so whoever names one writes all of them out."""
    for key, mapping in walk(raw(path)):
        if key in {"optimizer", "schedule", "loss"} and "class_path" in mapping:
            parameters = inspect.signature(load(mapping["class_path"])).parameters
            given, needed = set(mapping.get("init_args", {})), set(parameters) - IMPLEMENTATION
            if key == "optimizer":  # flags that are off belong to variants of the algorithm
                needed = {name for name in needed if not isinstance(parameters[name].default, bool)}
            assert needed <= given, f"{mapping['class_path']} without {sorted(needed - given)}"


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_an_overlay_is_short(path):
    text = path.read_text(encoding="utf-8")
    if "class_path" in (yaml.safe_load(text).get("model") or {}):
        return  # another system's class is stated with all its arguments: it may inherit none from the one it replaces
    lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
    assert 0 < len(lines) <= SETTINGS_LIMIT


@pytest.mark.parametrize("path", BASES, ids=name_of)
def test_a_base_config_is_complete(path):
    """Whoever reads it sees every argument of the system and of the data."""
    config = raw(path)
    for part in ("model", "data"):
        parameters = inspect.signature(load(config[part]["class_path"])).parameters
        assert set(config[part]["init_args"]) == set(parameters)
    assert config["data"]["init_args"].get("path") is None, "paths are given by the user"


@pytest.mark.parametrize("path", ABLATIONS, ids=name_of)
def test_an_ablation_names_configs_that_exist_and_settings_that_parse(path, monkeypatch):
    from lightning_project.ablation_plan import Plan
    from lightning_project.ablation_runs import resolved

    monkeypatch.chdir(ROOT)  # its paths are a user's, from the checkout
    text, plan = path.read_text(encoding="utf-8"), Plan.read(name_of(path))
    assert f"lightning_project ablate {name_of(path)}" in text and "\n# Expected: " in text
    shared, seen = resolved(plan.words()), []
    for cell in plan.cells:
        if cell.kind == "fit":
            config = resolved([*plan.words(), *cell.words()])
            assert config not in seen, f"{cell.name} is the same as another cell"
            seen.append(config)
    assert shared in seen
    few = {"papers_states": 5, "gcode_windows": 5, "plants": 6, "plants_flowers102": 4}  # poolings, lengths, long tails
    assert len(plan.cells) >= few.get(path.stem, 13)  # the techniques of a brief


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_a_misspelt_key_is_refused(base, capsys, tmp_path):
    from lightning_project.cli import main

    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("trainer: {max_epoch: 3}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(base), "--config", str(wrong)])
    assert stop.value.code == 2
    assert "max_epoch" in capsys.readouterr().err
