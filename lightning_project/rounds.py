"""Several fits in turn, each on what the one before it found: boosting, or pseudo-labels for an unlabelled file."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from callbacks import report_files as files
from callbacks.report_files import Predictions
from callbacks.report_tables import table
from datamodules.errors import DataError
from lightning_project.ablation_runs import Job, resolved
from lightning_project.ensemble import ensemble
from lightning_project.members import stored
from lightning_project.words import call
from modules import calibration, ensembling, statistics

SHOWN = ("macro_f1", "accuracy")
Line = dict[str, Any]


def rounds(
    words: list[str],
    name: str = "rounds",
    method: Literal["boosting", "pseudo"] = "boosting",
    rounds: int = 3,
    runs: str = "runs",
    unlabelled: str | None = None,
    threshold: float = 0.95,
    quota: int | None = None,
    bootstrap: int = 1000,
) -> None:
    """Fit several times, each round on what the one before it found; every other option goes to ``fit``.

    Boosting (SAMME): a round counts the training samples that the earlier ones got wrong for more, and votes with the
    weight of its own error; it ends with the ensemble. Pseudo-labels: a round is trained on the labels too that the one
    before it is sure of in an unlabelled file, its confidence calibrated on the calibration part (or on validation).

    Args:
        words: Words of ``fit``: configs and options.
        name: Name of the whole; the rounds are ``NAME/round-1`` and so on, done ones are left alone.
        method: boosting or pseudo.
        rounds: Rounds at most.
        runs: Folder of all runs.
        unlabelled: File of the samples that pseudo labels.
        threshold: Least calibrated confidence of a pseudo-label.
        quota: Most pseudo-labels of one class; left out: no limit.
        bootstrap: Resamples for the intervals, by group.

    Raises:
        DataError: Settings that do not belong together, or data that a round cannot work with.
    """
    if rounds < 2 or bootstrap < 1:
        raise DataError(f"rounds must be at least 2 and bootstrap at least 1, got {rounds} and {bootstrap}")
    if (method == "pseudo") != (unlabelled is not None):
        raise DataError("the method pseudo and a file (--unlabelled FILE) go together: one was given without the other")
    config = resolved(words)
    if method == "boosting" and config["data"]["init_args"].get("sample_weights"):
        raise DataError("boosting makes the sample weights itself: leave data.sample_weights out")
    base = Path(runs) / str(config["model"]["class_path"]).rsplit(".", 2)[-2]
    work = Work(words, base / name, Path(runs), name, rounds, bootstrap)
    if (work.folder / "config.yaml").is_file():
        raise DataError(f"{work.folder} is the folder of one run: choose another --name")
    if unlabelled is None:
        lines, result = work.boost()
    else:
        lines, result = work.label(config, unlabelled, threshold, quota)
    facts = {"method": method, "result": result, "rounds": lines}
    written = [
        files.write_json(work.folder / "rounds.json", facts),
        files.write_csv(work.folder / "rounds.csv", pd.DataFrame(lines)),
        files.write_text(work.folder / "ROUNDS.md", _page(method, lines, result, bootstrap)),
    ]
    print(pd.DataFrame(lines).to_string(index=False))
    print("written:\n" + "\n".join(f"  {path}" for path in written))


@dataclass(frozen=True)
class Work:
    """Rounds under way.

    Attributes:
        words: Words of ``fit``. folder: Holds the rounds. runs: Folder of all runs. name: Name of the whole.
        count: Rounds at most. bootstrap: Resamples.
    """

    words: list[str]
    folder: Path
    runs: Path
    name: str
    count: int
    bootstrap: int

    def _fit(self, number: int, more: list[str]) -> Path:
        """Fit and test one round, unless it is done already."""
        folder, words = self.folder / f"round-{number}", [*self.words, *more]
        job = Job(folder, tuple(words), resolved(words))
        if job.state() == "done":
            print(f"round {number}/{self.count}: done already", flush=True)
        else:
            print(f"round {number}/{self.count}: fitting", flush=True)
            job.run(self.runs, f"{self.name}/round-{number}")
        return folder

    def boost(self) -> tuple[list[Line], str]:
        """Fit on reweighted samples until the rounds are done, or one is no better than guessing or makes no error."""
        lines: list[Line] = []
        alphas: list[float] = []
        more: list[str] = []
        for number in range(1, self.count + 1):
            folder = self._fit(number, more)
            call(["predict", "--ckpt_path", str(folder), "--data.predict_part", "train"])
            found = Predictions.load(folder / "predict" / "predictions_train.npz")
            weights = _weights_of(more, found)
            wrong = (found.prob.argmax(axis=1) != found.y) & (found.y >= 0)
            known = found.y >= 0
            error = float(weights[wrong].sum() / weights[known].sum())
            line = {"round": number, "weighted_error": error, "alpha": 0.0, **_scores(folder)}
            lines.append(line)
            if error >= 1 - 1 / len(found.class_names):
                line["stopped"] = "no better than guessing on its samples; not used"
                break
            least = 0.5 / known.sum()  # of half a sample: a round without an error would rule alone
            line["alpha"] = ensembling.samme_alpha(max(error, float(least)), len(found.class_names))
            alphas.append(line["alpha"])
            if error <= 0:
                line["stopped"] = "no error left to learn from"
                break
            if number < self.count:
                moved = ensembling.samme_update(weights, wrong, line["alpha"])
                more = ["--data.sample_weights", str(self._write_weights(number + 1, found, moved))]
        used = [self.folder / f"round-{number}" for number in range(1, len(alphas) + 1)]
        if len(used) < 2:
            print(f"boosting ended after {len(lines)} round(s): there is nothing to combine")
            return lines, "round-1"
        ensemble([str(path) for path in used], str(self.folder), "boosting", weights=alphas, bootstrap=self.bootstrap)
        return lines, "."

    def _write_weights(self, number: int, found: Predictions, weights: np.ndarray) -> Path:
        frame = pd.DataFrame({"id": found.id, "weight": weights})
        # named by what it holds: a round whose weights have changed is another run, and is done again
        digest = hashlib.sha256(frame.to_csv().encode("utf-8")).hexdigest()[:8]
        return files.write_csv(self.folder / f"weights-{number}-{digest}.csv", frame)

    def label(
        self, config: dict[str, Any], unlabelled: str, threshold: float, quota: int | None
    ) -> tuple[list[Line], str]:
        """Fit on pseudo-labels of the round before."""
        methods = list((config.get("augmentation") or {}).get("methods") or [])
        lines: list[Line] = []
        more: list[str] = []
        first: Predictions | None = None
        for number in range(1, self.count + 1):
            folder = self._fit(number, more)
            test = stored(folder, "test").labelled()
            first = first or test
            added = folder / "augmented.csv"
            count = int((pd.read_csv(added)["method"] == "PseudoLabels").sum()) if added.is_file() else 0
            line = {"round": number, "pseudo_labels": count, **_scores(folder)}
            line |= _gain(test, first, self.bootstrap)
            lines.append(line)
            if number < self.count:
                call(["predict", "--ckpt_path", str(folder), "--data.predict_path", unlabelled])
                kept = stored(folder, "calib" if (folder / "fit" / "predictions_calib.npz").is_file() else "val")
                settings = {
                    "path": unlabelled,
                    "predictions": str(folder / "predict" / "predictions.csv"),
                    "threshold": threshold,
                    "quota": quota,
                    "temperature": round(calibration.fit_temperature(kept.prob, kept.y).value, 6),
                }
                line["temperature"] = settings["temperature"]
                made = {"class_path": "callbacks.pseudo_labels.PseudoLabels", "init_args": settings}
                overlay = yaml.safe_dump({"augmentation": {"methods": [*methods, made]}}, sort_keys=False)
                more = ["--config", str(files.write_text(self.folder / f"round-{number + 1}.yaml", overlay))]
        best = max(lines, key=lambda line: line["val_macro_f1"])  # the first of equals
        return lines, f"round-{best['round']}"


def _weights_of(more: list[str], found: Predictions) -> np.ndarray:
    """Return the weights (N,) that a round was trained with; the first round's are all 1."""
    if not more:
        return np.ones(len(found.id))
    frame = pd.read_csv(more[1], dtype={"id": str}, keep_default_na=False).set_index("id")
    return frame.loc[found.id, "weight"].to_numpy(np.float64)


def _scores(folder: Path) -> Line:
    values: Line = {}
    for part in ("val", "test"):
        found = stored(folder, part).labelled()
        every = statistics.classification_metrics(found.prob, found.y, [str(name) for name in found.class_names])
        values |= {f"{part}_{metric}": every[metric] for metric in SHOWN}
    return values


def _gain(test: Predictions, first: Predictions, bootstrap: int) -> Line:
    """Return the paired difference from the first round on test."""
    if list(test.id) != list(first.id):
        raise DataError("two rounds have different test samples: let all have one split")
    found = statistics.paired_bootstrap(test.prob, first.prob, test.y, test.group, ["macro_f1"], bootstrap)["macro_f1"]
    return dict(zip(("test_difference", "test_difference_low", "test_difference_high"), found, strict=True))


def _page(method: str, lines: list[Line], result: str, bootstrap: int) -> str:
    shown = list(dict.fromkeys(key for line in lines for key in line))
    body = [[_cell(line.get(key, "")) for key in shown] for line in lines]
    title = {"boosting": "Boosting (SAMME)", "pseudo": "Pseudo-labels"}[method]
    end = {
        "boosting": "The votes of the rounds are weighted by alpha: see `ENSEMBLE.md`, judged against the best round."
        if result == "."
        else "There was nothing to combine: the first round stands alone.",
        "pseudo": f"The best round on validation is `{result}`. Differences on test are from the first round, paired, "
        f"with 95% intervals from {bootstrap} resamples of the groups.",
    }[method]
    return f"# {title}: {len(lines)} rounds\n\n{table(shown, body)}\n\n{end}\n"


def _cell(value: object) -> str:
    shown: Callable[[float], str] = "{:.4g}".format
    return shown(value) if isinstance(value, float) and not math.isnan(value) else str(value)
