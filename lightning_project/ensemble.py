"""Combine finished runs of one system: fitted on validation (or calibration), judged on test against the best of them.

The folder that is written holds predictions as a run's folder does, so that ``decide`` and ``compare`` take it too.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from callbacks import report_files as files
from callbacks.report_files import Predictions
from datamodules.errors import DataError
from lightning_project import ensemble_report
from lightning_project.ensemble_simple import beside, simple_models
from lightning_project.members import Together, folds_of, inside, of_classes, pooled, together
from modules import ensembling, statistics

Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """How members become one."""

    method: str
    by: str
    strength: float
    weights: list[float] | None

    def check(self, members: int) -> None:
        """Refuse settings that do not belong together.

        Raises:
            DataError: Weights for a method without any, of another number, negative, or all zero.
        """
        if self.weights is None:
            return
        if self.method not in ("weighted", "boosting"):
            raise DataError(f"--weights belong to the methods weighted and boosting, not to {self.method}")
        if len(self.weights) != members or min(self.weights) < 0 or not sum(self.weights) > 0:
            raise DataError(f"--weights must be {members} numbers, none negative, not all zero; got {self.weights}")

    @property
    def fitted(self) -> bool:
        """Whether anything is learnt from labels."""
        return self.method != "mean" and self.weights is None

    def fit(self, members: np.ndarray, y: np.ndarray) -> tuple[Answer, dict[str, Any]]:
        """Return the function from members (M, N, C) to probabilities (N, C), and its plain parameters."""
        if self.method == "stacking":
            stack = ensembling.Stacking.fit(members, y, self.strength)
            return stack.predict, {"coefficients": stack.coefficients, "intercept": stack.intercept}
        if self.method == "boosting":
            alphas = ensembling.samme_alphas(members, y) if self.weights is None else np.array(self.weights)
            if not alphas.sum() > 0:
                raise DataError("no run is better than guessing: boosting has nothing to vote with")
            return lambda prob: ensembling.samme_vote(prob, alphas), {"weights": alphas}
        weights = np.full(len(members), 1 / len(members))
        if self.method == "weighted":
            weights = np.array(self.weights) if self.weights else ensembling.fit_weights(members, y, self.by)
            weights = weights / weights.sum()
        return lambda prob: ensembling.mean(prob, weights), {"weights": weights}


def ensemble(
    runs: list[str],
    out: str = "runs/ensemble",
    method: Literal["mean", "weighted", "stacking", "boosting"] = "mean",
    part: Literal["val", "calib"] = "val",
    by: Literal["nll", "macro_f1"] = "nll",
    weights: list[float] | None = None,
    strength: float = 1.0,
    metric: str = "macro_f1",
    bootstrap: int = 1000,
) -> None:
    """Combine two or more finished runs of one system and judge them on test against the best member.

    Args:
        runs: Run folders; one with ``seed-S/`` inside stands for its seeds, runs with ``fold-K/`` inside are combined
            fold by fold and judged out of fold.
        out: Folder for the predictions, ``ensemble.csv``, ``ensemble.json``, ``ensemble.png`` and ``ENSEMBLE.md``.
        method: mean of the probabilities, weighted mean, stacking (logistic regression on the log-probabilities), or
            boosting (votes weighted by SAMME, in the order of the runs).
        part: Part of the data that weights are fitted on; calib was used for no choice before.
        by: What the weights of ``weighted`` are fitted by.
        weights: Fixed weights for ``weighted`` or ``boosting`` in place of fitted ones.
        strength: Inverse strength of the penalty of ``stacking``.
        metric: Metric that chooses the best member (on validation) and is drawn: accuracy, macro_f1, top3, nll, ece,
            or f1, precision or recall of one class (``f1:cs.AI``).
        bootstrap: Resamples for the intervals, by group.

    Raises:
        DataError: Runs that do not belong together, missing predictions, or settings that do not.
    """
    if metric not in ensemble_report.SHOWN and ":" not in metric:
        raise DataError(f"unknown metric {metric!r}; choose one of {', '.join(ensemble_report.SHOWN)}, f1:CLASS")
    if bootstrap < 1 or strength <= 0:
        raise DataError(f"bootstrap must be at least 1 and strength above 0, got {bootstrap} and {strength}")
    members = [seed for name in runs for seed in (inside(Path(name), "seed") or [Path(name)])]
    if len(members) < 2 or len({path.resolve() for path in members}) < len(members):
        raise DataError("give two or more different run folders (or one with several seed-S/ inside)")
    recipe, target = Recipe(method, by, strength, weights), Path(out)
    recipe.check(len(members))
    by_fold = [folds_of(path) for path in members]
    for folder in [target, *(target / name for name in by_fold[0])]:
        if (folder / "run.json").is_file() and "members" not in files.read_json(folder / "run.json"):
            raise DataError(f"{folder} is a run's own folder: choose another --out")
    if any(folds.keys() != by_fold[0].keys() for folds in by_fold):
        listed = "; ".join(f"{path} {list(folds)}" for path, folds in zip(members, by_fold, strict=True))
        raise DataError(f"the runs have different folds: {listed}")
    try:
        statistics.by_index(metric, of_classes(next(iter(by_fold[0].values())), "test").class_names.tolist())
    except ValueError as error:
        raise DataError(str(error)) from error
    made = [_one(recipe, [folds[name] for folds in by_fold], part, target / name) for name in by_fold[0]]
    names = ensemble_report.short_names(members)
    judged = ensemble_report.Judged(
        names,
        [pooled([fold.member("val", m) for fold in made], False) for m in range(len(members))],
        pooled([fold.own["val"] for fold in made], False),
        [pooled([fold.member("test", m) for fold in made], True) for m in range(len(members))],
        pooled([fold.own["test"] for fold in made], True),
    )
    table = ensemble_report.table(judged, f"{method} of {len(members)}", metric, bootstrap)
    settings = {"method": method, "part": part, "by": by, "strength": strength, "given_weights": weights}
    parameters = {name or "run": fold.parameters for name, fold in zip(by_fold[0], made, strict=True)}
    facts = {"members": [str(path) for path in members], **settings, "folds": len(made), "fitted": parameters}
    simple = simple_models(by_fold)
    facts["simple_models"] = beside(judged.test, simple, ensemble_report.shown(metric), bootstrap)
    written = [
        files.write_json(target / "ensemble.json", facts),
        files.write_csv(target / "ensemble.csv", table),
        files.write_figure(target / "ensemble.png", ensemble_report.picture(table, metric)),
        files.write_text(target / "ENSEMBLE.md", ensemble_report.page(judged, table, facts, metric, bootstrap)),
    ]
    print(ensemble_report.terminal(table, metric))
    print("written:\n" + "\n".join(f"  {path}" for path in written))


@dataclass(frozen=True)
class Fold:
    """One fold's members and their ensemble, by part."""

    members: dict[str, Together]
    own: dict[str, Predictions]
    parameters: dict[str, Any]

    def member(self, part: str, index: int) -> Predictions:
        """Return the predictions of one member."""
        found = self.members[part]
        return found.with_prob(found.prob[index])


def _one(recipe: Recipe, folders: list[Path], part: str, target: Path) -> Fold:
    """Combine the runs of one fold and store the predictions.

    The fitted part itself is answered out of fold, so that its stored numbers are of samples that were not fitted on.
    """
    parts = ["val", "test"] if part == "val" else ["calib", "val", "test"]
    found = {name: together(folders, name) for name in parts}
    given = found[part]
    try:
        answer, parameters = recipe.fit(given.prob, given.first.y)
        own = {name: answer(each.prob) for name, each in found.items()}
        if recipe.fitted:
            own[part] = ensembling.out_of_fold(
                lambda prob, y: recipe.fit(prob, y)[0], given.prob, given.first.y, given.first.group
            )
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folders[0]} and others, {part} predictions: {error}") from error
    made = {name: each.with_prob(own[name]) for name, each in found.items()}
    first = files.read_json(folders[0] / "run.json")
    settings = [recipe.method, recipe.by, recipe.strength, recipe.weights, part]
    hashes = [files.read_json(folder / "run.json").get("config_hash") or str(folder) for folder in folders]
    stamp = hashlib.sha256(json.dumps([settings, hashes]).encode("utf-8")).hexdigest()[:16]
    for name, predictions in made.items():
        predictions.save(target / ("test" if name == "test" else "fit") / f"predictions_{name}.npz")
    facts = {"system": first.get("system"), "split_hash": first.get("split_hash"), "config_hash": stamp, "seed": None}
    architecture = f"{recipe.method} ensemble of {len(folders)} runs"
    members = [str(folder) for folder in folders]
    files.write_json(target / "run.json", {**facts, "architecture": architecture, "members": members})
    return Fold(found, made, parameters)
