"""Rows of papers to records: checks, merged labels, papers that occur twice, parts by time (pure).

Rows that are the same paper (same id apart from its version, or same normalised title) get one group, so that a split
keeps them together. Rows with the same id are one row. A paper under several labels is a conflict: a policy decides.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import pandas as pd

from datamodules.audit import STORED, Finding
from datamodules.errors import DataError
from datamodules.papers_file import Source

Policy = Literal["primary", "drop", "refuse"]
MENDS: dict[Policy, str] = {
    "primary": "each gets its primary category, or the label of its first row",
    "drop": "they are left out",
    "refuse": "they are refused",
}
SHOWN = 5  # problems of one kind in a message
COLUMNS = ("id", "group", "hash", "label", "given", "title", "abstract", "all_categories", "published")
_WORD = re.compile(r"[^\W_]+")
OPENING = 25  # words; two papers that begin with the same ones were written together


@dataclass(frozen=True)
class TimeSplit:
    """Parts by time: older papers to train on, newer ones to judge on. Values are compared as text.

    Attributes:
        test_from: First date or month of the test part, such as 2026-03 or 2603.
        val_from: First one of the validation part; None draws it from the older papers.
    """

    test_from: str
    val_from: str | None = None

    def __post_init__(self) -> None:
        if not self.test_from or (self.val_from is not None and not "" < self.val_from < self.test_from):
            raise ValueError(f"val_from={self.val_from!r} must come before test_from={self.test_from!r}")


@dataclass
class Facts:
    """What was found on the way.

    Attributes:
        rows: Rows of the source.
        repeated: Rows left out because an earlier one has the same id.
        duplicates: Rows that repeat the title (or id) of an earlier one, those left out included.
        conflicts: One line for each paper under several labels.
        conflict_ids: The ids of their rows.
        dropped: Rows left out by the policy "drop".
        twins: Other papers whose abstract begins with the same words as an earlier one's.
    """

    rows: int = 0
    repeated: int = 0
    duplicates: int = 0
    conflicts: list[str] = field(default_factory=list)
    conflict_ids: list[str] = field(default_factory=list)
    dropped: int = 0
    twins: int = 0

    def counts(self, policy: Policy) -> dict[str, int | str]:
        """Plain numbers for the report."""
        return {
            "rows": self.rows,
            "duplicates": self.duplicates,
            "repeated_ids_left_out": self.repeated,
            "label_conflicts": len(self.conflicts),
            "conflict_policy": policy,
            "dropped": self.dropped,
            "twins": self.twins,
        }

    def lines(self, policy: Policy) -> list[str]:
        """What a user should see at the start."""
        found = []
        if self.duplicates:
            found.append(f"{self.duplicates} of {self.rows} rows repeat a paper (same id or title); each paper is one "
                         f"group, {self.repeated} rows with the id of another one are left out")  # fmt: skip
        if self.conflicts:
            found.append(f"{len(self.conflicts)} papers carry several labels, such as {self.conflicts[0]}; "
                         f"{MENDS[policy]} (data.conflicts: {policy})")  # fmt: skip
        return found

    def findings(self, policy: Policy) -> list[Finding]:
        """The same for the audit."""
        found = []
        if self.conflicts:
            message = f"{len(self.conflicts)} papers carry several labels in the source; {MENDS[policy]}."
            found.append(Finding("label_conflict_in_source", "warning", message, len(self.conflicts),
                                 self.conflict_ids[:STORED], self.conflicts[:STORED]))  # fmt: skip
        if self.duplicates:
            message = (f"{self.duplicates} rows repeat a paper (same id or normalised title); they share its group and "
                       f"{self.repeated} with the same id are left out.")  # fmt: skip
            found.append(Finding("repeated_paper", "info", message, self.duplicates))
        if self.twins:
            message = (f"{self.twins} papers begin their abstract with the same {OPENING} words as another one (sister "
                       "papers of one group of authors); they keep their labels and share its group.")  # fmt: skip
            found.append(Finding("sister_paper", "info", message, self.twins))
        return found


def normal_title(title: str) -> str:
    """Lower case, letters and digits only, single blanks: the same for every way of typing a title."""
    text = _plain(title)
    return " ".join(_WORD.findall(text)) or text.strip()


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def content_hash(title: str, abstract: str) -> str:
    """SHA-256 of the normalised title and abstract."""
    return hashlib.sha256(f"{normal_title(title)}\n{normal_title(abstract)}".encode()).hexdigest()


def parse_merges(merge: Sequence[str]) -> dict[str, str]:
    """Read `old=new` words.

    Raises:
        ValueError: A word is not of that form, or names a label twice.
    """
    found: dict[str, str] = {}
    for word in merge:
        old, sign, new = (part.strip() for part in word.partition("="))
        if not (old and sign and new) or "=" in new:
            raise ValueError(f"merge: {word!r} is not of the form old=new, such as cs.LG=cs.AI-LG")
        if old in found:
            raise ValueError(f"merge: {old!r} is merged twice")
        found[old] = new
    return found


def make_records(
    source: Source,
    *,
    classes: Sequence[str] | None,
    merge: Sequence[str],
    policy: Policy,
    time_split: TimeSplit | None,
    multi: bool = False,
) -> tuple[pd.DataFrame, list[str], Facts]:
    """Check labelled rows and make records of them.

    Args:
        source: The rows.
        classes: Names and order of the classes; None takes those of the source, sorted.
        merge: `old=new` words; applied to labels and categories.
        policy: What happens to a paper under several labels.
        time_split: Parts by time; None leaves the parts that the source gives.
        multi: Several labels are wanted: a conflict is none, and `labels` holds all of them.

    Returns:
        Records with `COLUMNS`, and `labels` (all labels of the paper, separated by blanks) where `multi`; the classes;
        the facts.

    Raises:
        DataError: One error that names everything wrong, with the lines.
    """
    merges = parse_merges(merge)
    rows = source.rows.copy()
    rows["label"] = [merges.get(label, label) for label in rows["category"]]
    rows["all_categories"] = [_merged(text, merges) for text in rows["all_categories"]]
    _check(source, rows, classes, merges, time_split)
    names = list(classes) if classes is not None else sorted(set(rows["label"]))
    facts = Facts(rows=len(rows))
    rows["group"] = _groups(rows)
    facts.duplicates = len(rows) - rows["group"].nunique()
    labels_of = rows.groupby("group")["label"].agg(lambda labels: list(dict.fromkeys(labels)))
    if multi:
        rows["labels"] = _all_labels(rows, names)
    several = {str(group) for group, labels in labels_of.items() if len(labels) > 1}
    in_conflict = rows["group"].isin(several)
    if not multi:
        _note_conflicts(source, rows[in_conflict], facts, policy)
    if policy == "drop" and not multi:
        facts.dropped = int(in_conflict.sum())
        rows = rows[~in_conflict]
        if rows.empty:
            raise DataError(f"{source.name}: every paper has several labels; choose --data.conflicts primary")
    else:
        rows["label"] = _resolved(rows, several, set(names))
    papers = rows["group"].nunique()
    rows["group"] = _with_sisters(rows)
    facts.twins = papers - rows["group"].nunique()
    if time_split is not None:
        rows["given"] = _parts(rows, time_split)
    first = ~rows["id"].duplicated()
    facts.repeated = int((~first).sum())
    rows = rows[first]
    rows["hash"] = [content_hash(t, a) for t, a in zip(rows["title"], rows["abstract"], strict=True)]
    columns = [*COLUMNS, *(["labels"] if multi else [])]
    return rows[columns].reset_index(drop=True), names, facts


def make_predict_records(source: Source) -> pd.DataFrame:
    """Check rows without labels and make records of them.

    Raises:
        DataError: One error that names everything wrong, with the lines.
    """
    rows = source.rows.copy()
    problems = _blanks(source, rows)
    problems += _problem(source, rows, rows["id"].duplicated(), "the id occurs twice", "give each paper its own")
    _refuse(source, problems)
    rows["group"], rows["label"], rows["given"] = rows["id"], "", ""
    rows["hash"] = [content_hash(t, a) for t, a in zip(rows["title"], rows["abstract"], strict=True)]
    return rows[list(COLUMNS)].reset_index(drop=True)


def joined_groups(rows: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """Group of each row: that of a known record with its id, title or opening, else of an earlier row, else its id."""
    group: dict[tuple[str, str], str] = {}
    for name, title, abstract, own in zip(*(known[key] for key in ("id", "title", "abstract", "group")), strict=True):
        group |= dict.fromkeys([*_keys(name, title), *_opening(abstract)], own)
    found = []
    for name, title, abstract in zip(rows["id"], rows["title"], rows["abstract"], strict=True):
        keys = [*_keys(name, title), *_opening(abstract)]
        found.append(next((group[key] for key in keys if key in group), name))
        for key in keys:
            group.setdefault(key, found[-1])
    return found


def _keys(name: str, title: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """What makes two rows the same paper: the id without the number of a version, or the normalised title."""
    return ("id", re.sub(r"(?<=\d)v\d+$", "", name)), ("title", normal_title(title))


def _opening(abstract: str) -> list[tuple[str, str]]:
    """The first words of an abstract; none of a shorter one, which may be like another's by chance."""
    words = [found.group() for found in islice(_WORD.finditer(_plain(abstract)), OPENING)]
    return [("opening", " ".join(words))] if len(words) == OPENING else []


def _merged(categories: str, merges: dict[str, str]) -> str:
    return " ".join(dict.fromkeys(merges.get(name, name) for name in categories.split()))


def _check(
    source: Source,
    rows: pd.DataFrame,
    classes: Sequence[str] | None,
    merges: dict[str, str],
    time_split: TimeSplit | None,
) -> None:
    problems = _blanks(source, rows)
    problems += _problem(source, rows, rows["category"] == "", "no category", "give it one, or leave the row out")
    if classes is not None:
        odd = ~rows["label"].isin([*classes, ""])
        problems += _problem(source, rows, odd, "label {label!r} is not in data.classes", "add it, merge it, or leave "
                             "these rows out")  # fmt: skip
    unused = sorted(set(merges) - set(rows["category"]))
    if unused:
        problems.append(f"merge: no row has the category {unused[0]!r}; correct the word")
    if time_split is not None:
        if "published" not in source.has:
            problems.append("the column of the date is missing, which the split by time needs; name it with "
                            "--data.columns.published")  # fmt: skip
        else:
            undated = rows["published"] == ""
            problems += _problem(source, rows, undated, "no date, which the split by time needs", "give it one")
    _refuse(source, problems)


def _blanks(source: Source, rows: pd.DataFrame) -> list[str]:
    problems = []
    for key in ("id", "title", "abstract"):
        problems += _problem(source, rows, rows[key] == "", f"the {key} is blank", "fill it in, or leave the row out")
    return problems


def _problem(source: Source, rows: pd.DataFrame, bad: pd.Series, what: str, mend: str) -> list[str]:
    chosen = rows[bad]
    if chosen.empty:
        return []
    lines = ", ".join(map(str, chosen["line"].tolist()[:SHOWN])) + (", ..." if len(chosen) > SHOWN else "")
    label = what.format(label=chosen["label"].iat[0] if "label" in chosen else "")
    return [f"{source.unit} {lines}: {label} ({len(chosen)} such rows); {mend}"]


def _refuse(source: Source, problems: list[str]) -> None:
    if problems:
        raise DataError("\n".join([f"{source.name}: {len(problems)} problem(s)", *(f"  - {p}" for p in problems)]))


def _groups(rows: pd.DataFrame) -> list[str]:
    """Name of the paper of each row: the id of the first row that is joined to it by id or title."""
    parent = list(range(len(rows)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    seen: dict[tuple[str, str], int] = {}
    ids = rows["id"].tolist()
    for row, (name, title) in enumerate(zip(ids, rows["title"], strict=True)):
        for key in _keys(name, title):
            other = root(seen.setdefault(key, row))
            mine = root(row)
            parent[max(mine, other)] = min(mine, other)
    return [ids[root(row)] for row in range(len(ids))]


def _with_sisters(rows: pd.DataFrame) -> list[str]:
    """Group of each row, with papers joined whose abstracts begin with the same words.

    Authors of several papers at a time copy their first sentences: the twin of a test paper in training would tell more
    than the text of another paper does. They stay papers of their own, each with its label.
    """
    own = dict.fromkeys(rows["group"])
    parent = {name: name for name in own}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    place = {name: i for i, name in enumerate(own)}
    seen: dict[str, str] = {}
    for name, abstract in zip(rows["group"], rows["abstract"], strict=True):
        for _, words in _opening(abstract):
            first, second = sorted((root(seen.setdefault(words, name)), root(name)), key=place.__getitem__)
            parent[second] = first
    return [root(name) for name in rows["group"]]


def _note_conflicts(source: Source, rows: pd.DataFrame, facts: Facts, policy: Policy) -> None:
    for _, case in rows.groupby("group", sort=False):
        facts.conflicts.append(", ".join(f"{i} = {y}" for i, y in zip(case["id"], case["label"], strict=True)))
    facts.conflict_ids = rows["id"].tolist()
    if facts.conflicts and policy == "refuse":
        lines = ", ".join(map(str, rows["line"].tolist()[:SHOWN]))
        raise DataError(
            f"{source.name}: {len(facts.conflicts)} papers carry several labels ({source.unit} {lines}: "
            f"{facts.conflicts[0]}); correct them, or set --data.conflicts to primary or drop"
        )


def _resolved(rows: pd.DataFrame, several: set[str], classes: set[str]) -> list[str]:
    """One label a paper: its primary category where the source has it, else the label of its first row."""
    chosen: dict[str, str] = {}
    for group, case in rows[rows["group"].isin(several)].groupby("group", sort=False):
        primary = next((text.split()[0] for text in case["all_categories"] if text), "")
        chosen[str(group)] = primary if primary in classes else str(case["label"].iat[0])
    return [chosen.get(group, label) for group, label in zip(rows["group"], rows["label"], strict=True)]


def _all_labels(rows: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """All classes of each paper, over all rows of it: its label and its categories."""
    found: dict[str, set[str]] = {}
    for group, label, categories in zip(rows["group"], rows["label"], rows["all_categories"], strict=True):
        found.setdefault(group, set()).update([label, *categories.split()])
    return [" ".join(name for name in classes if name in found[group]) for group in rows["group"]]


def _parts(rows: pd.DataFrame, time_split: TimeSplit) -> list[str]:
    """Part of each row by the first date of its paper: what was known earlier is not judged on later."""
    first = rows.groupby("group")["published"].transform("min")

    def part(date: str) -> str:
        if date >= time_split.test_from:
            return "test"
        return "val" if time_split.val_from is not None and date >= time_split.val_from else "train"

    return [part(date) for date in first]
