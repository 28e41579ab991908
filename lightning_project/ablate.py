"""The verb `ablate`: variants x seeds (x folds) from one file, and a table that says which of them helped."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from callbacks import report_files as files
from callbacks.report_differences import differences
from callbacks.report_files import Predictions
from datamodules.errors import DataError
from lightning_project import ablation_table
from lightning_project.ablation_apart import Task, in_processes
from lightning_project.ablation_made import combined, decided, in_rounds
from lightning_project.ablation_plan import Cell, Plan
from lightning_project.ablation_runs import Job, filled, recorded, resolved, with_leaf
from lightning_project.ablation_table import Outcome
from lightning_project.exits import CellsFailedError
from lightning_project.members import folds_of, ordered, pooled, stored


def ablate(
    file: str,
    name: str | None = None,
    runs: str = "runs",
    cells: list[str] | None = None,
    bootstrap: int = 1000,
    jobs: int = 1,
    words: list[str] | None = None,
) -> None:
    """Run a table of variants over seeds or folds and say which helped, by how much, and how certain that is.

    What is finished is left alone, what was interrupted goes on, and a cell whose config has changed is done anew.
    Any other option (--data.path FILE, --config configs/machine/gpu.yaml, ...) goes to all cells; what a cell itself
    changes wins over it. Writes ablation.csv, ABLATION.md, ablation.png and ablate.log to RUNS/SYSTEM/NAME.

    Args:
        file: The ablation, such as configs/ablations/papers.yaml.
        name: Name of the ablation's folder; left out: that of the file.
        runs: Folder of all runs.
        cells: Only these cells, with the base and what they are made of, are run and stand in the table; left out: all.
        bootstrap: Resamples for the intervals, by group.
        jobs: Fits at a time, each in a process of its own; they share the cores, and slow each other's clock down.
        words: Options for every cell.

    Raises:
        DataError: A file that cannot be read, or names what is not there.
        CellsFailedError: A cell failed; all others and the table are finished.
    """
    if bootstrap < 1 or jobs < 1:
        raise DataError(f"bootstrap and jobs must be at least 1, got {bootstrap} and {jobs}")
    plan, name = Plan.read(file), name or Path(file).stem
    if cells:
        plan = plan.only(cells)
    work = _Work(plan, Path(runs), name, [*plan.words(), *(words or [])], bootstrap)
    try:
        if jobs > 1:
            work.ahead(jobs)
        work.run()
    finally:
        work.write()
    failed = {outcome.cell.name: outcome.failures[0] for outcome in work.outcomes if outcome.failures}
    if failed:
        lines = "; ".join(f"{cell}: {line}" for cell, line in failed.items())
        raise CellsFailedError(f"{len(failed)} of {len(plan.cells)} cells failed ({lines}); see {work.log}")


class _Work:
    """An ablation under way."""

    def __init__(self, plan: Plan, runs: Path, name: str, common: list[str], bootstrap: int) -> None:
        self.plan, self.runs, self.name, self.common, self.bootstrap = plan, runs, name, common, bootstrap
        self.configs: dict[str, dict[str, Any]] = {}
        self.outcomes: list[Outcome] = []
        fits = [cell for cell in plan.cells if cell.kind in ("fit", "rounds")]
        print(f"checking the configs of {len(fits)} cells", flush=True)
        for cell in fits:  # a mistake in the last cell is said before the first is trained
            try:
                self.configs[cell.name] = resolved([*common, *cell.words()])
            except SystemExit:
                print(f"error: in cell {cell.name!r} (the message above)", file=sys.stderr)
                raise
        systems = {str(config["model"]["class_path"]).rsplit(".", 2)[-2] for config in self.configs.values()}
        if len(systems) > 1:
            raise DataError(f"the cells are of different systems: {', '.join(sorted(systems))}")
        self.folder = runs / systems.pop() / name
        self.log = self.folder / "ablate.log"
        self.failed: dict[Path, list[str]] = {}  # what was tried ahead
        self.rounds: dict[Path, Predictions] = {}  # what was made ahead in rounds

    def ahead(self, jobs: int) -> None:
        """Do all that trains in several processes; what they did is then found done."""
        first: list[Task] = []
        second: list[Task] = []  # cells that start from runs of others wait for all of these
        for cell in self.plan.cells:
            tasks = second if any("{seed}" in word or "{folder}" in word for word in cell.words()) else first
            for seed in self.plan.seeds if cell.kind in ("fit", "rounds") else ():
                for label, job in self._jobs(cell, seed):
                    if cell.kind == "fit" and job.state() == "done":
                        continue
                    work: partial[Any] = partial(job.run, self.runs, str(job.folder.relative_to(self.folder.parent)))
                    if cell.kind == "rounds":
                        work = partial(in_rounds, job, self.runs, self.folder.parent, cell.options)
                    name = str(job.folder.relative_to(self.folder)).replace("/", "-")
                    what = f"{cell.name} seed {seed}{label}"
                    tasks.append(Task(job.folder, what, self.folder / f"ablate-{name}.log", work))
        total = len(first) + len(second)
        ended = chain.from_iterable(in_processes(tasks, jobs, self.log) for tasks in (first, second))
        for number, (task, result, failures) in enumerate(ended, 1):
            self.failed[task.key] = failures
            if result is not None:
                self.rounds[task.key] = result
            print(f"{number}/{total} {task.what}: {failures[0] if failures else 'done'}", flush=True)

    def run(self) -> None:
        """Run every cell."""
        total = len(self.plan.cells)
        for number, cell in enumerate(self.plan.cells, 1):
            outcome = Outcome(cell, decided=cell.kind == "decide")
            self.outcomes.append(outcome)
            for seed in self._seeds(cell):
                self._one(outcome, seed, f"cell {number}/{total} {cell.name}")

    def _seeds(self, cell: Cell) -> list[int | None]:
        """Return the seeds of a cell; an ensemble of one cell takes all its seeds together."""
        return [None] if cell.kind == "ensemble" and len(cell.members) == 1 else [*self.plan.seeds]

    def path(self, cell: str, seed: int | None) -> Path:
        """Return the folder of a cell under one seed."""
        return self.folder / cell if seed is None else self.folder / cell / f"seed-{seed}"

    def _one(self, outcome: Outcome, seed: int | None, what: str) -> None:
        """Bring a cell under one seed to its end and read what it came to."""
        cell, before, began = outcome.cell, len(outcome.failures), time.monotonic()
        what += "" if seed is None else f" seed {seed}"
        if cell.kind == "fit":
            assert seed is not None
            for label, job in self._jobs(cell, seed):
                outcome.failures += self.failed.get(job.folder, [])
                if job.state() == "done" or self.failed.get(job.folder):
                    continue
                print(f"{what}{label}", flush=True)
                with recorded(self.log, outcome.failures, what + label):
                    job.run(self.runs, str(job.folder.relative_to(self.folder.parent)))
        if len(outcome.failures) > before:
            print(f"{what}: failed: {outcome.failures[-1]}", flush=True)
            return
        with recorded(self.log, outcome.failures, f"{what}: reading"):
            if cell.kind == "fit":
                outcome.found[seed] = self._read(outcome, seed)
            else:
                outcome.found[seed] = self._made(cell, seed, what)
        if seed in outcome.found:
            found = outcome.found[seed].labelled()
            said = f"accuracy {(found.prob.argmax(1) == found.y).mean():.3f}"
            print(f"{what}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
        else:
            print(f"{what}: failed: {outcome.failures[-1]}", flush=True)

    def _jobs(self, cell: Cell, seed: int) -> Iterator[tuple[str, Job]]:
        """Yield a label and the run for each fold."""
        values = {"seed": seed, "folder": self.folder}
        config = with_leaf(filled(self.configs[cell.name], values), "seed_everything", seed)
        words = filled([*self.common, *cell.words(), f"--seed_everything={seed}"], values)
        folder = self.path(cell.name, seed)
        if not self.plan.folds:
            yield "", Job(folder, tuple(words), config)
        for fold in range(self.plan.folds):
            own = {"split.folds": self.plan.folds, "split.fold": fold}
            one = config
            for key, value in own.items():
                one = with_leaf(one, key, value)
            more = [f"--{key}={value}" for key, value in own.items()]
            yield f" fold {fold + 1}/{self.plan.folds}", Job(folder / f"fold-{fold}", (*words, *more), one)

    def _read(self, outcome: Outcome, seed: int | None) -> Predictions:
        folds = folds_of(self.path(outcome.cell.name, seed))
        facts = [files.read_json(folder / "run.json") for folder in folds.values()]
        # the median epoch, for the first one of a process also pays for what is loaded and compiled
        spent = [fact.get("seconds_per_epoch", np.nan) * fact.get("epochs_run", np.nan) for fact in facts]
        outcome.seconds[seed] = float(sum(spent))
        outcome.trainable = facts[0].get("trainable_params")
        return ordered(pooled([stored(folder, "test") for folder in folds.values()], True))

    def _made(self, cell: Cell, seed: int | None, what: str) -> Predictions:
        """Make a cell from finished ones, or in rounds of fits."""
        if cell.kind == "rounds":
            assert seed is not None
            parts = []
            for label, job in self._jobs(cell, seed):
                if self.failed.get(job.folder):
                    raise DataError(self.failed[job.folder][0])
                print(f"=== {what}{label}", flush=True)
                made = self.rounds.get(job.folder)
                parts.append(made or in_rounds(job, self.runs, self.folder.parent, cell.options))
            return ordered(pooled(parts, True))
        members = [self.path(member, seed) for member in cell.members]
        if cell.kind == "decide":
            return ordered(decided(members[0], cell.options))
        return ordered(combined(members, self.path(cell.name, seed), cell.options, self.bootstrap))

    def write(self) -> None:
        """Write the table, the page and the picture of what there is."""
        if not any(outcome.found for outcome in self.outcomes) or not self.outcomes[0].found:
            return
        table = ablation_table.tabulate(self.plan, self.outcomes, self.bootstrap)
        metric = self.plan.metrics[0]
        written = [
            files.write_csv(self.folder / "ablation.csv", table),
            files.write_text(
                self.folder / "ABLATION.md",
                ablation_table.markdown(self.plan, table, self.outcomes, self.bootstrap),
            ),
            files.write_figure(self.folder / "ablation.png", differences(table, metric, self.plan.title)),
        ]
        shown = ["cell", "hoped", metric, f"{metric}_difference", f"{metric}_difference_low"]
        shown += [f"{metric}_difference_high", "time_ratio"]
        print(table[shown].to_string(index=False, na_rep="", float_format="{:.3f}".format))
        print("written:\n" + "\n".join(f"  {path}" for path in written))
