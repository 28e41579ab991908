"""What stands beside a decoder of G-code: simple models on the same windows, and itself with sensors spoilt."""

import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.samplers import IndexBatch
from modules import line_metrics

Loose = Any  # a Trainer, a system, a datamodule or an answer of it, known by its attributes only
LEVEL = 0.95
MODES = ("zeroed", "permuted")  # how a kind of sensor is spoilt


def measured(sums: line_metrics.Sums) -> dict[str, float]:
    """Return each figure that anything was asked for."""
    return {name: value for name, value in line_metrics.measured(sums).items() if not np.isnan(value)}


def beside(sums: line_metrics.Sums, ours: line_metrics.Sums, group: np.ndarray, bootstrap: int) -> dict[str, Any]:
    """Return another model's figures on the same windows, and ours minus them, with intervals by recording.

    Args:
        sums: The other's figures by record.
        ours: Our own figures by record; those that the other has, too, are subtracted.
        group: (N,) recordings.
        bootstrap: Resamples, 0 = no intervals.
    """
    values, own = measured(sums), measured(ours)
    both = [name for name in values if name in own]
    entry: dict[str, Any] = {"values": values}
    if not bootstrap:
        return entry | {"difference": {name: [own[name] - values[name]] for name in both}}
    drawn = line_metrics.resampled(sums, group, bootstrap)
    mine = line_metrics.resampled({name: ours[name] for name in both}, group, bootstrap)  # of the same recordings
    ends = line_metrics.intervals({name: mine[name] - drawn[name] for name in both}, LEVEL)
    entry["intervals"] = line_metrics.intervals(drawn, LEVEL)
    entry["difference"] = {name: [own[name] - values[name], *ends.get(name, ())] for name in both}
    return entry


def simple_lines(
    data: Loose, part: str, ids: np.ndarray, fit: bool
) -> tuple[dict[str, line_metrics.Sums], dict[str, str]]:
    """Ask the data's simple models about the windows that a decoder was judged on.

    Args:
        data: The datamodule.
        part: Part of the data.
        ids: (N,) names of the windows.
        fit: Whether to fit the simple models at all.

    Returns:
        name -> figures by record, and name -> why there are none.
    """
    if not fit:
        return {}, {"simple models": "not run (report.baselines is off)"}
    try:
        answers = data.line_baselines(part)
    except Exception as error:  # a simple model must not cost the report of a long run, which says so, as this does
        warnings.warn(f"the simple models failed:\n{traceback.format_exc()}", stacklevel=2)
        return {}, {"simple models": f"not run ({type(error).__name__}: {error})"}
    asked = data.indices(part)
    place = {name: row for row, name in enumerate(data.records["id"].to_numpy(str)[asked])}
    order = np.array([place[name] for name in ids])
    true = [data.lines[record] for record in asked[order]]
    return {name: answer_sums(answer, true, data.y[asked[order]], order) for name, answer in answers.items()}, {}


def answer_sums(answer: Loose, true: Sequence[str], y: np.ndarray, order: np.ndarray) -> line_metrics.Sums:
    """Judge what a simple model said.

    Args:
        answer: Its answers, of which it may have none to some questions.
        true: (N) true lines.
        y: (N,) true operations.
        order: (N,) which of its answers belongs to each of these.
    """
    found: line_metrics.Sums = {}
    if answer.prob is not None:
        right = answer.prob[order].argmax(1) == y
        found["operation_accuracy"] = np.stack([right & (y != -1), y != -1], 1).astype(float)
    if answer.free is not None:
        found |= line_metrics.free_sums(true, [answer.free[row] for row in order])
    if answer.forced is not None:
        for name, hits in (("token_accuracy", answer.forced), ("token_accuracy_brief", answer.forced_by_id)):
            rows = [hits[row] for row in order]
            found[name] = np.array([[sum(row), len(row)] for row in rows], float).reshape(-1, 2)
    return found


@contextmanager
def judging(trainer: Loose, module: Loose) -> Iterator[None]:
    """Put a system into the state in which it is judged, with the precision of the Trainer; put it back afterwards."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode(), trainer.precision_plugin.test_step_context():
            yield
    finally:
        module.train(training)


def spoilt(
    trainer: Loose, module: Loose, data: Loose, part: str, judge: Callable[[list[dict[str, np.ndarray]]], Any]
) -> Iterator[tuple[str, str, int, Any]]:
    """Judge a system again with one kind of sensor at a time spoilt; nothing is trained anew.

    ``zeroed``: its columns hold the middle of the training values. ``permuted``: they hold those of another window of
    the same recording, so that what tells the recording apart stays, and what tells the moment apart goes.

    Args:
        trainer: For its precision.
        module: The system.
        data: The datamodule.
        part: Part of the data.
        judge: Makes figures of the outputs of all batches.

    Yields:
        Kind of sensor, mode, number of its columns, figures.
    """
    rows = data.indices(part)
    partner = other_window(np.asarray(data.recording_names(), dtype=str)[rows])
    dataset, size = data.dataset(rows, train=False), int(data.batch_size)
    kinds = {name: np.asarray(columns) for name, columns in data.channel_groups().items() if len(columns)}
    batches = [np.arange(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    with (
        judging(trainer, module),
        tqdm(total=len(kinds) * 2, desc="spoiling sensors", disable=None, leave=False) as bar,
    ):
        for kind, columns in kinds.items():
            for mode in MODES:
                outputs = []
                for step, places in enumerate(batches):
                    batch = _batch(dataset, rows[places], step)
                    chosen = torch.from_numpy(columns)
                    if mode == "zeroed":
                        batch["continuous"][..., chosen] = 0
                    else:
                        other = _batch(dataset, rows[partner[places]], step)
                        batch["continuous"][..., chosen] = other["continuous"][..., chosen]
                    out = module.test_step({name: x.to(module.device) for name, x in batch.items()}, step)
                    outputs.append(to_numpy(out))
                bar.update()
                yield kind, mode, len(columns), judge(outputs)


def _batch(dataset: Loose, rows: np.ndarray, step: int) -> dict[str, Tensor]:
    batch = dataset.__getitems__(IndexBatch(rows.tolist(), len(rows), 1 / len(rows), 0, step))
    return {name: value.clone() for name, value in batch.items()}


def other_window(group: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return for each window another one of its recording (N,), each once; a recording of one window keeps it."""
    found, rng = np.arange(len(group)), np.random.default_rng(seed)
    for name in np.unique(group):
        own = rng.permutation(np.flatnonzero(group == name))
        found[own] = np.roll(own, 1)
    return found


def to_numpy(outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the outputs of a step as arrays; half precision becomes float32."""
    floats = {name: x.detach().float() if x.is_floating_point() else x.detach() for name, x in outputs.items()}
    return {name: x.cpu().numpy() for name, x in floats.items()}
