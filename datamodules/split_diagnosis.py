"""What a split lets a perfect model reach, and which mistake takes it away (pure).

The plants brief saw 98.6 % in training and 0.03 % in validation and blamed its random split. That split costs 1.7
points. What ruins such a validation is that the two parts count their classes separately, so that class 17 of one is
another species than class 17 of the other. Here both are measured, for the split at hand and for a random one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.audit import STORED


@dataclass(frozen=True)
class Facts:
    """What can be said about a training and a validation part before anything is trained.

    Attributes:
        train_images: Images to train on.
        val_images: Images to validate on.
        train_classes: Classes in train.
        val_classes: Classes in val.
        shared_classes: Classes in both.
        val_only_classes: Classes in val that train lacks.
        val_only_images: Share of the validation images in such classes.
        never_validated: Share of the training classes that val lacks.
        train_singletons: Share of the training classes with one image there.
        val_singletons: Share of the validation classes with one image there.
        train_mean: Mean images of a class in train.
        val_mean: Mean images of a class in val.
        twins: Share of the validation images with a copy in train (same group): remembered, not recognised.
        ceiling: Accuracy of a perfect model on val, with one class map for both parts.
        same_index: Classes that keep their index where each part sorts and counts its own names.
        ceiling_separate: Accuracy of a perfect model on val, where its answers are read by val's own class map.
    """

    train_images: int
    val_images: int
    train_classes: int
    val_classes: int
    shared_classes: int
    val_only_classes: int
    val_only_images: float
    never_validated: float
    train_singletons: float
    val_singletons: float
    train_mean: float
    val_mean: float
    twins: float
    ceiling: float
    same_index: int
    ceiling_separate: float


def facts_of(table: pd.DataFrame) -> Facts:
    """Measure a split.

    Args:
        table: Columns label, group, part; rows of other parts than train and val, or without a label, are left alone.

    Raises:
        ValueError: One of the two parts has no labelled row.
    """
    labelled = table[table["label"] != ""]
    train, val = (labelled[labelled["part"] == part] for part in ("train", "val"))
    if train.empty or val.empty:
        raise ValueError("a split can be explained where train and val have labelled rows")
    counts, held = train["label"].value_counts(), val["label"].value_counts()
    of_train = {name: i for i, name in enumerate(sorted(counts.index))}
    of_val = {name: i for i, name in enumerate(sorted(held.index))}
    shared = [name for name in of_val if name in of_train]
    same = {name for name in shared if of_val[name] == of_train[name]}
    seen = val["label"].isin(counts.index)
    return Facts(
        train_images=len(train),
        val_images=len(val),
        train_classes=len(counts),
        val_classes=len(held),
        shared_classes=len(shared),
        val_only_classes=len(held) - len(shared),
        val_only_images=float(1 - seen.mean()),
        never_validated=float(1 - len(shared) / len(counts)),
        train_singletons=float((counts == 1).mean()),
        val_singletons=float((held == 1).mean()),
        train_mean=float(counts.mean()),
        val_mean=float(held.mean()),
        twins=float(val["group"].isin(set(train["group"])).mean()),
        ceiling=float(seen.mean()),
        same_index=len(same),
        ceiling_separate=float(val["label"].isin(same).mean()),
    )


def shuffled(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the same rows with their parts dealt out at random, the sizes of the parts as they are.

    This is the split of the brief: it knows neither classes nor groups.
    """
    rng = np.random.default_rng([seed, 17])
    return table.assign(part=rng.permutation(table["part"].to_numpy(str)))


def stated_indices(records: pd.DataFrame, parts: Sequence[str]) -> tuple[int, int, list[str]]:
    """Look for class indices in the source that mean one class in train and another in validation.

    Args:
        records: Columns label, class_index ("" = none stated).
        parts: Part of each record.

    Returns:
        Classes in both parts with an index stated; how many of them have another index in val; some of those as text.
    """
    stated = records[["label", "class_index"]].assign(part=np.asarray(parts, dtype=object))
    stated = stated[(stated["class_index"] != "") & (stated["label"] != "") & stated["part"].isin(["train", "val"])]
    first = stated.groupby(["label", "part"])["class_index"].first().unstack("part")
    if set(first.columns) != {"train", "val"}:
        return 0, 0, []
    both = first.dropna()
    moved = both[both["train"] != both["val"]]
    pairs = zip(moved.index, moved["train"], moved["val"], strict=True)
    return len(both), len(moved), [f"{name}: {one} in train, {other} in val" for name, one, other in pairs][:STORED]


def page(cases: dict[str, Facts], given_apart: tuple[int, int, list[str]]) -> str:
    """Explain in Markdown which of the cases ruins validation.

    Args:
        cases: The split at hand first, then others on the same images.
        given_apart: See :func:`stated_indices`.
    """
    rows = [
        ("images: train / val", lambda f: f"{f.train_images:,} / {f.val_images:,}"),
        ("classes: train / val / in both", lambda f: f"{f.train_classes:,} / {f.val_classes:,} / {f.shared_classes:,}"),
        ("classes in val only (share of val images)", lambda f: f"{f.val_only_classes:,} ({f.val_only_images:.1%})"),
        ("training classes never validated", lambda f: f"{f.never_validated:.1%}"),
        ("classes with one image: train / val", lambda f: f"{f.train_singletons:.1%} / {f.val_singletons:.1%}"),
        ("images of a class: train / val", lambda f: f"{f.train_mean:.1f} / {f.val_mean:.1f}"),
        ("val images with a copy in train", lambda f: f"{f.twins:.1%}"),
        ("**a perfect model reaches, one class map**", lambda f: f"**{f.ceiling:.2%}**"),
        ("classes that keep their index in separate maps", lambda f: f"{f.same_index:,} of {f.val_classes:,}"),
        ("**a perfect model reaches, separate class maps**", lambda f: f"**{f.ceiling_separate:.2%}**"),
    ]
    lines = ["## What ruins validation", "", "| | " + " | ".join(cases) + " |", "|---" * (len(cases) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(say(facts) for facts in cases.values()) + " |" for name, say in rows]
    return "\n".join([*lines, "", *_verdicts(cases, given_apart), ""])


def _verdicts(cases: dict[str, Facts], given_apart: tuple[int, int, list[str]]) -> list[str]:
    said = []
    for name, facts in cases.items():
        lost, apart = 1 - facts.ceiling, 1 - facts.ceiling_separate
        said.append(
            f"- {name[0].upper()}{name[1:]}: classes that training lacks cost at most {lost:.1%} of validation "
            f"accuracy; counting the classes of the two parts separately would cost {apart:.1%}."
        )
        if facts.twins > 0:
            said.append(f"    - {facts.twins:.1%} of its validation images have a copy in train: its figures flatter.")
    classes, moved, _ = given_apart
    if moved:
        said.append(
            f"- **The source counts its classes separately: {moved} of {classes} classes in both parts have another "
            "index in val than in train. A model scored by these indices fails whatever it has learnt.** Here classes "
            "are names, counted once, from train, and kept in the checkpoint; the indices are not used."
        )
    else:
        said.append("- Here both parts share one class map, made from train by name and kept in the checkpoint.")
    return said
