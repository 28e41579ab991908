"""What the README tells a newcomer to type exists and parses, and its set-up is what the build runs."""

import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml

from lightning_project.verbs import VERBS, WITHOUT_CONFIG
from tests.running import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
BARE = set(WITHOUT_CONFIG)  # verbs over run folders, which take no config


def launched() -> list[list[str]]:
    """Words after `-m lightning_project` of every launcher command, the set-up's own included."""
    found = [line.split("-m lightning_project ", 1)[1] for line in LINES if "-m lightning_project " in line]
    return [shlex.split(rest) for rest in found]


def test_set_up_is_two_commands_and_the_build_runs_the_second():
    setup = README.split("## Set-up")[1].split("\n## ")[0]
    commands = re.findall(r"^```bash\n(.*?)\n```$", setup, re.M | re.S)
    assert len(commands) == 2 and not any("\n" in command for command in commands)
    first, second = commands
    assert all("--require-hashes -r requirements/lock.txt" in command for command in commands)
    assert first.endswith(".venv/bin/python -m lightning_project fit --config configs/signs.yaml")
    build = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert second in [line.strip() for line in build.splitlines()]


def test_every_verb_has_an_example():
    assert {words[0] for words in launched()} == set(VERBS)


@pytest.mark.parametrize("words", [w for w in launched() if w[0] not in BARE], ids=" ".join)
def test_a_launcher_command_parses(words, capsys, monkeypatch):
    """`--print_config` stops after parsing; a wrong option, key, class or file would have been refused before."""
    from lightning_project.cli import main

    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main([*words, *([] if "--print_config" in words else ["--print_config"])])
    assert stop.value.code in (0, None)
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"]


@pytest.mark.parametrize("words", [w for w in launched() if w[0] in BARE], ids=" ".join)
def test_a_command_without_a_config_names_files_and_options_that_exist(words):
    own = set(inspect.signature(getattr(importlib.import_module(f"lightning_project.{words[0]}"), words[0])).parameters)
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))
    given = {word[2:] for word in words if word.startswith("--")}
    if "words" in own:  # what is not the verb's own goes to `fit`, which the commands with a config try
        given = {name for name in given if "." not in name and name != "config"}
    assert given <= own


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("npz", "tiny.npz"),
        ("csv", "tiny.csv"),
        ("tiny.txt", "tiny.txt"),
        ("plants(", "tiny/plants.jsonl"),
        ("folder(", "tiny/face_001_aligned.csv"),
    ],
)
def test_the_tiny_sample_can_be_made(word, name):
    code = next(shlex.split(line)[2] for line in LINES if line.startswith("python -c") and word in line)
    exec(code, {})
    assert Path(name).stat().st_size > 1000


def test_other_commands_name_modules_that_exist():
    from importlib.util import find_spec

    modules = {name for line in LINES for name in re.findall(r"python -m ([\w.]+)", line)} - {"venv", "pytest"}
    names = {"loop", "ngram", "images", "student", "gcode_latency", "language", "generation"}
    assert modules == {"lightning_project", "lightning_project.dashboard", *(f"benchmarks.{name}" for name in names)}
    assert all(find_spec(name) for name in modules)


def test_every_file_that_it_names_exists():
    named = set(re.findall(r"`((?:configs|notebooks|datamodules|benchmarks|requirements)/[\w./-]+)`", README))
    machine = set(re.findall(r"`(\w+\.yaml)`", README.split("## Machines")[1].split("\n## ")[0]))
    assert len(named) > 4
    assert not [name for name in named if not (ROOT / name.rstrip("/")).exists()]
    assert machine - {"config.yaml"} == {path.name for path in (ROOT / "configs" / "machine").glob("*.yaml")}


def test_exit_codes_are_those_of_the_code():
    from lightning_project import exits

    line = next(line for line in README.splitlines() if line.startswith("Exit codes:"))
    codes = {exits.DONE, exits.FAULT, exits.USAGE, exits.REFUSED, exits.NON_FINITE, exits.INTERRUPTED, exits.TERMINATED}
    assert {int(number) for number in re.findall(r"\d+", line)} == codes
