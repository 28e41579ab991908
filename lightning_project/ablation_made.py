"""Cells of an ablation that are no single fit: ensembles, decisions by a threshold or cost rule, rounds of fits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from callbacks import report_files as files
from callbacks.report_files import Predictions
from datamodules.errors import DataError
from lightning_project.ablation_runs import Job
from lightning_project.ensemble import ensemble
from lightning_project.members import folds_of, pooled, stored
from lightning_project.words import call
from modules import thresholds

CANDIDATES = tuple(np.round(np.arange(0.10, 0.901, 0.02), 2).tolist())  # thresholds that are tried


def combined(members: Sequence[Path], target: Path, options: Mapping[str, Any], bootstrap: int) -> Predictions:
    """Combine run folders as the verb ``ensemble`` does; return the test predictions, joined over the folds.

    Args:
        members: Run folders; one with ``seed-S/`` inside stands for its seeds.
        target: Folder for what the verb writes.
        options: ``method``.
        bootstrap: Resamples for its intervals.
    """
    method = options.get("method", "mean")
    if method not in ("mean", "weighted", "stacking", "boosting"):
        raise DataError(f"ensemble method {method!r}: choose mean, weighted, stacking or boosting")
    ensemble([str(folder) for folder in members], str(target), method, bootstrap=bootstrap)
    return pooled([stored(folder, "test") for folder in folds_of(target).values()], True)


def decided(member: Path, options: Mapping[str, Any]) -> Predictions:
    """Apply a rule, tuned on the validation part of each fold, to the test part.

    Args:
        member: Run folder, with or without ``fold-K/`` inside.
        options: ``rule`` (a, b or cost), ``positive`` (class), ``target`` (accuracy, macro_f1 or f1), ``recall``
            (least recall of the positive class on validation), ``cost`` (C rows, truth by decision).

    Returns:
        Decisions as probabilities of 0 and 1.
    """
    return pooled([_decided(folder, options) for folder in folds_of(member).values()], True)


def in_rounds(job: Job, runs: Path, base: Path, options: Mapping[str, Any]) -> Predictions:
    """Run the verb ``rounds`` and return the test predictions of its result.

    Args:
        job: Folder and words of ``fit``.
        runs: Folder of all runs.
        base: Folder of the system's runs.
        options: ``method`` (boosting or pseudo), ``rounds``, and for pseudo ``unlabelled``, ``threshold``, ``quota``.
    """
    given = [f"--{key}={value}" for key, value in options.items()]
    call(["rounds", *job.words, "--runs", str(runs), "--name", str(job.folder.relative_to(base)), *given])
    return stored(job.folder / files.read_json(job.folder / "rounds.json")["result"], "test")


def _decided(folder: Path, options: Mapping[str, Any]) -> Predictions:
    val, test = stored(folder, "val").labelled(), stored(folder, "test")
    names = [str(name) for name in test.class_names]
    guess = _rule(val, test.prob, names, options)
    return Predictions(test.id, test.group, test.y, np.eye(len(names), dtype=np.float32)[guess], test.class_names)


def _rule(val: Predictions, prob: np.ndarray, names: list[str], options: Mapping[str, Any]) -> np.ndarray:
    rule = str(options["rule"]).lower()
    if rule == "cost":
        cost = np.array(options.get("cost", []), dtype=float)
        if cost.shape != (len(names), len(names)):
            raise DataError(f"the rule cost needs `cost`: {len(names)} rows of {len(names)} numbers, truth by decision")
        return thresholds.cost_decision(prob, cost)
    if rule not in ("a", "b"):
        raise DataError(f"rule {options['rule']!r}: choose a, b or cost")
    positive = str(options.get("positive", ""))
    if positive not in names:
        raise DataError(f"the rules a and b need `positive`, one of {', '.join(names)}; got {positive!r}")
    target = thresholds.Target(str(options.get("target", "macro_f1")), options.get("recall"))
    index = names.index(positive)
    if rule == "a":
        return thresholds.rule_a(prob, index, thresholds.tune_a(val.prob, val.y, index, CANDIDATES, target))
    return thresholds.rule_b(prob, thresholds.tune_b_greedy(val.prob, val.y, index, CANDIDATES, target))
