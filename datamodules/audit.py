"""What is wrong with records and their split: leaks, conflicts, and classes too small to judge.

A pure file. A "leak" means that a number measured on this split cannot be trusted; a "warning" that it can be
misread; "info" is worth knowing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from datamodules.near_duplicates import near_pairs
from datamodules.splits import PARTS, split_hash

SHOWN = 10  # examples in a message or a list of the Markdown report
STORED = 200  # rows and examples kept per finding


@dataclass(frozen=True)
class Finding:
    """One thing the audit found.

    Attributes:
        kind: Short name such as "group_crosses_parts".
        severity: "leak", "warning" or "info".
        message: What is wrong and how to mend it.
        count: Number of cases (ids, groups, pairs or classes, by kind).
        rows: Ids of records concerned, at most 200.
        examples: One readable line per case, at most 200.
    """

    kind: str
    severity: Literal["leak", "warning", "info"]
    message: str
    count: int = 0
    rows: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = "; ".join(self.examples[:3]) + ("; ..." if self.count > 3 else "")
        return f"{self.kind}: {self.message}" + (f" [{shown}]" if shown else "")


@dataclass(frozen=True)
class AuditReport:
    """All findings, with the counts they rest on.

    Attributes:
        findings: Leaks first, then warnings, then info.
        parts: Rows, groups and classes of each part.
        class_counts: Rows = classes, columns = parts.
        imbalance: Largest over smallest class count in train.
        split_hash: Identifies the split.
    """

    findings: list[Finding]
    parts: pd.DataFrame
    class_counts: pd.DataFrame
    imbalance: float
    split_hash: str

    @property
    def leaks(self) -> list[Finding]:
        """The findings that make the test number untrustworthy."""
        return [finding for finding in self.findings if finding.severity == "leak"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "leaks": len(self.leaks),
            "findings": [vars(finding) for finding in self.findings],
            "parts": {str(name): row for name, row in self.parts.to_dict("index").items()},
            "class_counts": {str(name): row for name, row in self.class_counts.to_dict("index").items()},
            "imbalance": self.imbalance,
            "split_hash": self.split_hash,
        }

    def to_markdown(self) -> str:
        """The report as a page."""
        verdict = f"**{len(self.leaks)} leak(s): numbers on this split cannot be trusted.**" if self.leaks else (
            "No leak was found."
        )  # fmt: skip
        lines = ["# Data audit", "", verdict, "", "## Findings", ""]
        for finding in self.findings:
            lines.append(f"- **{finding.severity}** ({finding.kind}, {finding.count}): {finding.message}")
            lines += [f"    - {example}" for example in finding.examples[:SHOWN]]
            if len(finding.examples) > SHOWN:
                lines.append(f"    - and {finding.count - SHOWN} more")
        lines += ["" if self.findings else "Nothing.", "## Parts", "", _markdown_table(self.parts)]
        lines += [
            "",
            f"## Classes (imbalance in train {self.imbalance:.1f} : 1)",
            "",
            _markdown_table(self.class_counts),
        ]
        return "\n".join([*lines, "", f"Split hash: `{self.split_hash}`", ""])


def audit(
    records: pd.DataFrame,
    table: pd.DataFrame,
    signatures: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    known: Sequence[Finding] = (),
) -> AuditReport:
    """Check a split for everything that has made a headline number wrong before.

    Args:
        records: The records, as ``SplitDataModule`` documents them.
        table: Their split table, rows in any order; hashes, groups and labels are taken from the records.
        signatures: (N, D) in the row order of ``records``; ``None`` skips the search for near-duplicates.
        class_names: Order of the classes in the report; classes of the data that it lacks follow, sorted.
        known: What was found while the records were read, and can no longer be seen in them.
    """
    part_of = table.drop_duplicates("id").set_index("id")["part"]
    rows = records[["id", "group", "hash", "label"]].reset_index(drop=True)
    rows["part"] = rows["id"].map(part_of).fillna("dropped")
    used = rows[rows["part"] != "dropped"]
    counts = _class_counts(used, class_names)
    searched = any(finding.kind == "near_copies" for finding in known)  # by the data themselves, before the split
    checks: list[Callable[[], list[Finding]]] = [
        lambda: _duplicate_ids(records, table),
        lambda: _crossing(used, "group", "group_crosses_parts", "Split by group (group_aware: true)."),
        lambda: _crossing(
            used[used["hash"] != ""], "hash", "content_crosses_parts", "Remove the copies, or give them one group."
        ),
        lambda: _copies(used[used["hash"] != ""]),
        lambda: [] if signatures is None and searched else _near_duplicates(rows, signatures),
        lambda: _class_support(counts, table),
    ]
    found = [*known, *(finding for check in checks for finding in check())]
    found.sort(key=lambda finding: ("leak", "warning", "info").index(finding.severity))
    train = counts["train"][counts["train"] > 0]
    sizes = used.groupby("part").agg(rows=("id", "size"), groups=("group", "nunique"), classes=("label", "nunique"))
    return AuditReport(
        findings=found,
        parts=sizes.reindex([name for name in PARTS if name in sizes.index]),
        class_counts=counts,
        imbalance=float(train.max() / train.min()) if len(train) else 0.0,
        split_hash=split_hash(table),
    )


def _duplicate_ids(records: pd.DataFrame, table: pd.DataFrame) -> list[Finding]:
    found = []
    for name, frame in (("records", records), ("split table", table)):
        twice = frame["id"][frame["id"].duplicated()].unique().tolist()
        if twice:
            message = f"{len(twice)} ids occur more than once in the {name}. Give every sample an id of its own."
            found.append(Finding("duplicate_id", "leak", message, len(twice), twice[:STORED], twice[:STORED]))
    return found


def _crossing(used: pd.DataFrame, column: str, kind: str, mend: str) -> list[Finding]:
    """Groups, or identical contents, that lie in several parts."""
    several = used.groupby(column)["part"].transform("nunique") > 1
    if not several.any():
        return []
    cases = used[several].groupby(column)
    what = "groups lie" if column == "group" else "samples with identical content lie"
    message = f"{cases.ngroups} {what} in several parts, so the model is judged on what it was trained on. {mend}"
    examples = [_line(case) for _, case in list(cases)[:STORED]]
    if column == "group":
        examples = [f"{name}: {text}" for (name, _), text in zip(cases, examples, strict=False)]
    return [Finding(kind, "leak", message, cases.ngroups, used["id"][several].tolist()[:STORED], examples)]


def _line(case: pd.DataFrame) -> str:
    """Name the members of one case by id and part, a few of each part."""
    shown = [f"{i} ({part})" for part, ids in case.groupby("part")["id"] for i in ids.tolist()[:2]]
    rest = len(case) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _copies(used: pd.DataFrame) -> list[Finding]:
    """Identical contents under different labels, and copies inside one part."""
    found = []
    same = used[used["hash"].duplicated(keep=False)]
    conflict = same[same.groupby("hash")["label"].transform("nunique") > 1]
    if len(conflict):
        cases = conflict.groupby("hash")
        examples = [", ".join(f"{i} = {y}" for i, y in zip(case["id"], case["label"], strict=True))
                    for _, case in list(cases)[:STORED]]  # fmt: skip
        message = f"{cases.ngroups} contents carry several labels. Correct the labels, or treat them as multi-label."
        found.append(
            Finding("label_conflict", "warning", message, cases.ngroups, conflict["id"].tolist()[:STORED], examples)
        )
    inside = same[same.duplicated(["hash", "part"], keep=False)]
    if len(inside):
        several = inside.groupby(["hash", "part"])
        message = f"{several.ngroups} contents occur several times in one part. They count more than once there."
        examples = [_line(case) for _, case in list(several)[:STORED]]
        found.append(
            Finding("copies_in_part", "info", message, several.ngroups, inside["id"].tolist()[:STORED], examples)
        )
    return found


def _near_duplicates(rows: pd.DataFrame, signatures: np.ndarray | None) -> list[Finding]:
    if signatures is None:
        return [Finding("near_duplicates_not_searched", "info", "Near-duplicates were not searched (no signatures).")]
    values = np.asarray(signatures, dtype=np.float32).reshape(len(signatures), -1)
    if len(values) != len(rows):
        raise ValueError(f"{len(values)} signatures for {len(rows)} records; signatures() must give one row per record")
    finite = np.asarray(np.isfinite(values).all(axis=1))
    parts = np.where(finite, rows["part"].to_numpy(str), "dropped")
    pairs = near_pairs(
        np.where(finite[:, None], values, 0), rows["label"].to_numpy(str), rows["group"].to_numpy(str), parts
    )
    ids, labels = rows["id"].to_numpy(str), rows["label"].to_numpy(str)
    found: list[Finding] = []
    for leak in (True, False):
        chosen = np.flatnonzero(pairs.leak == leak)
        if not len(chosen):
            continue
        examples = []
        for (a, b), ratio in zip(pairs.rows[chosen][:STORED].tolist(), pairs.ratio[chosen].tolist(), strict=False):
            conflict = "" if labels[a] == labels[b] else f"; labels {labels[a]} and {labels[b]} differ"
            examples.append(f"{ids[a]} ({parts[a]}) ~ {ids[b]} ({parts[b]}), distance {ratio:.3f}{conflict}")
        message = (
            f"{len(chosen)} pairs of near-identical samples lie in different parts (distance 1 = typical for two "
            "different samples of a class). "
            + ("Give both takes one group and split by group, or remove one of them." if leak else
               "Some may be chance: look at them, and group those that are takes of one recording.")
        )  # fmt: skip
        members = ids[np.unique(pairs.rows[chosen])].tolist()[:STORED]
        kind, severity = ("near_duplicate", "leak") if leak else ("near_duplicate_suspected", "warning")
        found.append(Finding(kind, severity, message, len(chosen), members, examples))  # type: ignore[arg-type]
    return found


def _class_counts(used: pd.DataFrame, class_names: Sequence[str] | None) -> pd.DataFrame:
    present = sorted(set(used["label"]) - {""})
    order = list(dict.fromkeys([*(class_names or []), *present]))
    counts = pd.crosstab(used["label"], used["part"]).reindex(index=order, columns=list(PARTS), fill_value=0)
    return counts.rename_axis(index="class", columns=None).astype(int)


def _class_support(counts: pd.DataFrame, table: pd.DataFrame) -> list[Finding]:
    train, val, test = (counts[name] for name in ("train", "val", "test"))
    found: list[Finding] = []

    def note(severity: Literal["warning", "info"], kind: str, chosen: pd.Series, message: str) -> None:
        names = [str(name) for name in counts.index[chosen]]
        if names:
            examples = [f"{name}: train {train[name]}, val {val[name]}, test {test[name]}" for name in names[:STORED]]
            found.append(Finding(kind, severity, f"{len(names)} {message}", len(names), [], examples))

    only_val = ((val > 0) | (counts["calib"] > 0)) & (train == 0)
    note("warning", "class_only_in_val", only_val, "classes are validated or calibrated on but never trained. "
         "Move them to train.")  # fmt: skip
    note("warning", "class_only_in_test", (test > 0) & (train == 0), "classes occur in test but never in train; every "
         "such sample counts as an error. Add training samples, or leave these classes out.")  # fmt: skip
    if val.any():
        note("warning", "class_never_validated", (train > 0) & (val == 0), "classes are trained but never validated, "
             "so choices made on validation ignore them. Add groups of these classes.")  # fmt: skip
        note("info", "few_in_val", (val > 0) & (val < 3), "classes have fewer than 3 validation samples; their scores "
             "jump by a third or more. Read them with care.")  # fmt: skip
    if test.any():
        note("info", "few_in_test", (test > 0) & (test < 3), "classes have fewer than 3 test samples. "
             "Read their scores with care.")  # fmt: skip
    moved = table.attrs.get("moved_to_train", [])
    if moved:
        message = f"{len(moved)} classes were drawn for validation only and have been moved to train."
        found.append(Finding("class_moved_to_train", "info", message, len(moved), [], list(moved)[:STORED]))
    return found


def _markdown_table(frame: pd.DataFrame) -> str:
    header = [str(frame.index.name), *map(str, frame.columns)]
    rows = [[str(name), *map(str, row.values())] for name, row in frame.to_dict("index").items()]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
