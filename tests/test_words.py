"""Verbs without a config: words become the arguments of the function of that name, and the rest is passed on."""

import sys
from typing import Literal

import pytest

from lightning_project import words as under_test


@pytest.fixture
def seen(monkeypatch):
    """Put a function in place of a verb's and keep what it was called with."""
    found: dict = {}

    def toy(
        runs: list[str],
        out: str = "here",
        rules: list[Literal["a", "b"]] | None = None,
        bootstrap: int = 3,
        words: list[str] | None = None,
    ) -> None:
        """Do nothing.

        Args:
            runs: Folders, 100 % of them.
            out: Where to.
            rules: Which.
            bootstrap: How often.
            words: The rest.
        """
        found.update(runs=runs, out=out, rules=rules, bootstrap=bootstrap, words=words)

    module = type(sys)("lightning_project.toy")
    module.toy = toy
    monkeypatch.setitem(sys.modules, "lightning_project.toy", module)
    return found


def test_words_become_arguments_and_the_rest_is_passed_on(seen):
    given = ["a", "b", "--rules", "a", "b", "--data.path", "x.csv", "--bootstrap=9", "-c", "f.yaml", "--out", "there"]
    under_test.run_words("toy", given)
    assert seen == {
        **{"runs": ["a", "b"], "out": "there", "rules": ["a", "b"], "bootstrap": 9},
        "words": ["--data.path", "x.csv", "-c", "f.yaml"],
    }
    under_test.run_words("toy", ["a"])
    assert seen == {"runs": ["a"], "out": "here", "rules": None, "bootstrap": 3, "words": []}


@pytest.mark.parametrize("words", [["a", "--bootstrap", "many"], ["a", "--rules", "c"], []])
def test_a_mistake_is_a_usage_error(seen, words, capsys):
    with pytest.raises(SystemExit) as stop:
        under_test.run_words("toy", words)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: ")
    assert not seen


def test_help_says_what_the_docstring_says(seen, capsys):
    with pytest.raises(SystemExit):
        under_test.run_words("toy", ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "Folders, 100 % of them." in out and "Which." in out and "The rest" not in out


def test_a_called_command_reads_its_own_words_and_leaves_none_behind(monkeypatch):
    inside = []
    monkeypatch.setattr("lightning_project.cli.main", lambda: inside.append(list(sys.argv[1:])))
    before = list(sys.argv)
    under_test.call(["fit", "--name", "n"])
    assert inside == [["fit", "--name", "n"]] and sys.argv == before
