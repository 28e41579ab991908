"""Decisions of a finished run: threshold rules, costs, temperature and abstention, fitted without test, judged on test.

Temperature and abstention come from the calibration part, which nothing was chosen on before, thresholds from
validation. Everything is fitted before the test predictions are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from callbacks import decision_plots
from callbacks import report_files as files
from callbacks.report_files import Predictions
from datamodules.errors import DataError
from lightning_project import decide_back_off, decide_report
from lightning_project.decide_report import Judged
from lightning_project.members import folds_of, of_classes, pooled
from modules import calibration, thresholds
from modules.thresholds import Target

Rule = Literal["a", "b", "cost"]


@dataclass(frozen=True)
class Settings:
    """What is asked for; indices of classes are those of the run."""

    rules: tuple[str, ...]
    positive: int
    target: Target
    search: str
    candidates: tuple[float, ...]
    order: list[int] | None
    cost: np.ndarray | None
    answers: float


@dataclass(frozen=True)
class Fitted:
    """What one fold learnt from calibration and validation."""

    folder: Path
    val: Predictions
    calib: Predictions | None
    temperature: calibration.Temperature | None
    a: float | None
    b: np.ndarray | None
    abstention: float | None

    def tempered(self, found: Predictions) -> Predictions:
        """Return labelled predictions at the fitted temperature."""
        real = found.labelled()
        if self.temperature is None:
            return real
        prob = calibration.temper(real.prob, self.temperature.value)
        return Predictions(real.id, real.group, real.y, prob, real.class_names)

    def decisions(self, prob: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
        """Return the decisions (N,) of each rule, argmax first."""
        made = {"argmax": prob.argmax(axis=1)}
        if self.a is not None:
            made["a"] = thresholds.rule_a(prob, settings.positive, self.a)
        if self.b is not None:
            made["b"] = thresholds.rule_b(prob, self.b)
        if "cost" in settings.rules and settings.cost is not None:
            made["cost"] = thresholds.cost_decision(prob, settings.cost)
        return made


def decide(
    run: str,
    rules: list[Rule] | None = None,
    positive: str | None = None,
    target: Literal["macro_f1", "accuracy", "f1"] = "macro_f1",
    recall: float | None = None,
    search: Literal["greedy", "grid"] = "greedy",
    candidates: list[float] | None = None,
    order: list[str] | None = None,
    cost: str | None = None,
    calibrate_on: Literal["calib", "val"] = "calib",
    answers: float = 0.9,
    new: str | None = None,
    out: str | None = None,
    bootstrap: int = 1000,
) -> None:
    """Choose thresholds, a temperature and a limit of abstention, and judge them on test.

    Args:
        run: Run folder or folder of an ensemble; one with ``fold-K/`` inside is fitted fold by fold and judged out of
            fold.
        rules: a = one class from a threshold on, b = a threshold for each class, cost = least expected cost; left out:
            a and b, and cost where a matrix is given.
        positive: Class of rule a, and of the target's recall and f1; left out: the class with the least recall on
            validation.
        target: What thresholds make as large as possible on validation: macro_f1, accuracy, or the positive class's f1.
        recall: Least recall of the positive class on validation; comes before the target.
        search: How rule b is tuned: greedy class by class, or every combination of the candidates.
        candidates: Thresholds to try; left out: 0.05 to 0.95 in steps of 0.01 (0.30 to 0.60 in steps of 0.05 for grid).
        order: Classes in the order in which greedy tunes them; left out: the positive class first.
        cost: CSV of costs: first column and header are class names, rows the truth, columns the decision.
        calibrate_on: Part for temperature and abstention; val was used for choices before.
        answers: Accuracy that the answers must reach; the rest is abstained from.
        new: Predictions of the run on new samples (``predict/predictions.csv``), which ``answers.csv`` then answers, or
            abstains from, by temperature and ``answers``; rules are not applied.
        out: Folder for the results; left out: ``decide`` inside the run folder.
        bootstrap: Resamples for the intervals, by group.

    Raises:
        DataError: Missing predictions, an unknown class, or settings that cannot be.
    """
    folds = folds_of(Path(run))
    own: list[Rule] = ["a", "b", "cost"] if cost else ["a", "b"]
    chosen = tuple(dict.fromkeys(rules or own))
    val = pooled([of_classes(folder, "val") for folder in folds.values()], False).labelled()
    names = [str(name) for name in val.class_names]
    if bootstrap < 1 or not 0 < answers <= 1:
        raise DataError(f"bootstrap must be at least 1 and answers in (0, 1], got {bootstrap} and {answers}")
    if ("cost" in chosen) != (cost is not None):
        raise DataError("the rule cost and a matrix (--cost FILE) go together: one was given without the other")
    grid = search == "grid" and "b" in chosen
    tried = candidates or (np.arange(0.30, 0.61, 0.05) if grid else np.arange(0.05, 0.955, 0.01)).round(2).tolist()
    try:
        settings = Settings(
            chosen,
            _index(positive, names) if positive is not None else _weakest(val),
            Target(target, recall),
            search,
            tuple(tried),
            None if order is None else [_index(name, names) for name in order],
            None if cost is None else read_cost(cost, names),
            answers,
        )
        fitted = {name: _fit(folder, settings, calibrate_on) for name, folder in folds.items()}
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(f"{run}: {error}") from error
    judged = _judge(fitted, settings)
    folder = Path(out) if out else Path(run) / "decide"
    facts = _facts(fitted, settings, names, calibrate_on)
    facts["back_off"] = decide_back_off.of_folds(_calibrated(fitted), answers)
    answered = None if new is None else _answers(new, fitted, names, facts)
    table = decide_report.table(judged, settings.positive, bootstrap)
    curves = [*judged.curves.items()]
    written = [files.write_csv(folder / f"{name}.csv", curve) for name, curve in curves]
    for rule, guess in judged.decisions.items():
        one_hot = np.eye(len(names), dtype=np.float32)[guess]
        made = Predictions(judged.test.id, judged.test.group, judged.test.y, one_hot, judged.test.class_names)
        written.append(made.save(folder / f"decisions_{rule}.npz"))
    written += [
        files.write_csv(folder / "decisions.csv", decide_report.decisions(judged)),
        files.write_csv(folder / "results.csv", table),
        files.write_json(folder / "decisions.json", {**facts, "test": table.to_dict("records")}),
        files.write_figure(folder / "decisions.png", decision_plots.decisions(judged.curves, facts)),
        files.write_text(folder / "DECISIONS.md", decide_report.page(judged, table, facts, bootstrap)),
    ]
    if answered is not None:
        written.append(files.write_csv(folder / "answers.csv", answered))
    print(decide_report.terminal(table, facts))
    print("written:\n" + "\n".join(f"  {path}" for path in written))


def _answers(new: str, fitted: dict[str, Fitted], names: list[str], facts: dict[str, Any]) -> pd.DataFrame:
    """Answer new samples by the only fold; how sure an answer has to be was fitted on its calibration part."""
    (name, fold), *others = fitted.items()
    if others or fold.temperature is None:
        mend = "fit with --split.calib 0.1 --split.train 0.54, or give --calibrate_on val"
        why = "has a network for each fold" if others else f"has no calibration part ({mend})"
        raise DataError(
            f"{fold.folder.parent if others else fold.folder} {why}, so that nothing can be answered with it"
        )
    limit = (facts["back_off"][name or "run"] or {}).get("threshold")
    return decide_back_off.answers_to(new, fold.folder, names, fold.temperature.value, limit, fold.abstention)


def _calibrated(fitted: dict[str, Fitted]) -> dict[str, tuple[Path, Predictions | None, Predictions]]:
    """Folder, calibration and test predictions of each fold, tempered."""
    return {
        name: (
            fold.folder,
            None if fold.calib is None else fold.tempered(fold.calib),
            fold.tempered(of_classes(fold.folder, "test")),
        )
        for name, fold in fitted.items()
    }


def read_cost(path: str, names: Sequence[str]) -> np.ndarray:
    """Read costs (C, C), rows = truth, columns = decision, in the order of the run's classes.

    Raises:
        DataError: Naming the file and the row or column that is missing, doubled or no cost.
    """
    try:
        frame = pd.read_csv(path, index_col=0, dtype={0: str})
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a table of costs ({error})") from error
    frame.index, frame.columns = frame.index.map(str).str.strip(), frame.columns.map(str).str.strip()
    for what, given in (("rows", list(frame.index)), ("columns", list(frame.columns))):
        if sorted(given) != sorted(names):
            raise DataError(f"{path}: the {what} are {given}, the classes are {list(names)}: give each class once")
    values = frame.apply(pd.to_numeric, errors="coerce").loc[list(names), list(names)].to_numpy(np.float64)
    if len(wrong := np.argwhere(~np.isfinite(values) | (values < 0))):
        row, column = (names[i] for i in wrong[0])
        raise DataError(f"{path}: row {row}, column {column}: a cost is a number from 0 on")
    return values


def _index(name: str, names: list[str]) -> int:
    if name not in names:
        raise DataError(f"no class {name!r}: the classes are {', '.join(names)}")
    return names.index(name)


def _weakest(val: Predictions) -> int:
    """Return the class with the least recall on validation."""
    present = np.unique(val.y[val.y >= 0])
    guess = val.prob.argmax(axis=1)
    return int(min(present, key=lambda k: float((guess[val.y == k] == k).mean())))


def _fit(folder: Path, settings: Settings, calibrate_on: str) -> Fitted:
    """Fit one fold on its calibration and validation parts."""
    calib = None
    if calibrate_on == "val" or (folder / "fit" / "predictions_calib.npz").is_file():
        calib = of_classes(folder, calibrate_on).labelled()
    temperature = calibration.fit_temperature(calib.prob, calib.y) if calib is not None else None
    raw = of_classes(folder, "val").labelled()
    prob = raw.prob if temperature is None else calibration.temper(raw.prob, temperature.value)
    tune = (prob, raw.y, settings.positive, settings.candidates, settings.target)
    b = None
    if "b" in settings.rules and settings.search == "grid":
        b = thresholds.tune_b_grid(*tune)
    elif "b" in settings.rules:
        b = thresholds.tune_b_greedy(*tune, settings.order)
    abstention = None
    if calib is not None and temperature is not None:
        curve = calibration.abstention_curve(calibration.temper(calib.prob, temperature.value), calib.y)
        abstention = calibration.abstention_threshold(curve, settings.answers)
    a = thresholds.tune_a(*tune) if "a" in settings.rules else None
    return Fitted(folder, raw, calib, temperature, a, b, abstention)


def _judge(fitted: dict[str, Fitted], settings: Settings) -> Judged:
    """Read the test predictions, decide on them, and draw the curves of every part."""
    parts = {"val": [fold.tempered(fold.val) for fold in fitted.values()]}
    raw = [of_classes(fold.folder, "test").labelled() for fold in fitted.values()]
    parts["test"] = [fold.tempered(found) for fold, found in zip(fitted.values(), raw, strict=True)]
    test = pooled(parts["test"], once=True)
    each = [fold.decisions(found.prob, settings) for fold, found in zip(fitted.values(), parts["test"], strict=True)]
    made = {rule: np.concatenate([one[rule] for one in each]) for rule in each[0]}
    curves: dict[str, pd.DataFrame] = {}
    if "a" in settings.rules:
        swept = [_swept_a(name, pooled(found, False), settings) for name, found in parts.items()]
        curves["curve_a"] = pd.concat(swept, ignore_index=True)
    if "b" in settings.rules:
        swept = [_swept_b(name, found, list(fitted.values()), settings) for name, found in parts.items()]
        curves["curve_b"] = pd.concat(swept, ignore_index=True)
    answered = None
    if all(fold.calib is not None for fold in fitted.values()):
        kept = pooled([fold.tempered(fold.calib) for fold in fitted.values() if fold.calib is not None], False)
        pairs = {"fitted": kept, "test": test}
        swept = [calibration.abstention_curve(p.prob, p.y).assign(part=name) for name, p in pairs.items()]
        curves["abstention"] = pd.concat(swept, ignore_index=True)
        limits = [np.inf if fold.abstention is None else fold.abstention for fold in fitted.values()]
        confident = [found.prob.max(axis=1) >= limit for found, limit in zip(parts["test"], limits, strict=True)]
        answered = np.concatenate(confident)
    costs = None
    if settings.cost is not None:
        costs = {rule: thresholds.mean_cost(guess, test.y, settings.cost) for rule, guess in made.items()}
    return Judged(test, pooled(raw, once=True).prob, made, curves, answered, costs)


def _swept_a(part: str, found: Predictions, settings: Settings) -> pd.DataFrame:
    return thresholds.curve_a(found.prob, found.y, settings.positive, sorted(settings.candidates)).assign(part=part)


def _swept_b(part: str, found: list[Predictions], fitted: list[Fitted], settings: Settings) -> pd.DataFrame:
    """Sweep the threshold of one class at a time, the others as they were fitted."""
    truth, rows = np.concatenate([one.y for one in found]), []
    for k, name in enumerate(found[0].class_names):
        for t in sorted({0.0, *settings.candidates}):
            guesses = []
            for one, fold in zip(found, fitted, strict=True):
                assert fold.b is not None
                guesses.append(thresholds.rule_b(one.prob, np.where(np.arange(len(fold.b)) == k, t, fold.b)))
            metrics = thresholds.decision_metrics(np.concatenate(guesses), truth, len(found[0].class_names), k)
            rows.append({"part": part, "class": str(name), "threshold": t, **metrics})
    return pd.DataFrame(rows)


def _facts(fitted: dict[str, Fitted], settings: Settings, names: list[str], calibrate_on: str) -> dict[str, Any]:
    """Return everything that was asked for and fitted, as plain values; a missing threshold of rule a is argmax."""
    return {
        "positive": names[settings.positive],
        "target": settings.target.metric,
        "recall": settings.target.recall,
        "search": settings.search,
        "rules": list(settings.rules),
        "calibrated_on": calibrate_on if all(fold.temperature for fold in fitted.values()) else None,
        "answers": settings.answers,
        "cost": settings.cost,
        "fitted": {
            name or "run": {
                "temperature": None if fold.temperature is None else vars(fold.temperature),
                "a": None if fold.a is None or np.isinf(fold.a) else fold.a,
                "b": None if fold.b is None else dict(zip(names, fold.b.tolist(), strict=True)),
                "abstention": fold.abstention,
            }
            for name, fold in fitted.items()
        },
    }
