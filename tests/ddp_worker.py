"""What each process of a distributed test does; importable by the processes that are started."""

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import distributed

from callbacks.run_report import RunReport
from datamodules.samplers import BatchSampler
from modules.metrics import Mean, build_metrics

CLASSES, MOST = 5, 17


def evaluate(n: int, batch: int, rank: int, world: int) -> dict[str, Any]:
    """Judge n samples as a validation does; return the metrics, and the ids that the report gathered."""
    rng = np.random.default_rng(1)
    prob = torch.from_numpy(rng.dirichlet(np.ones(CLASSES), MOST).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, CLASSES, MOST))
    metrics, loss, report = build_metrics(CLASSES), Mean(), RunReport()
    for part in BatchSampler(np.arange(n), batch, rank=rank, world_size=world):
        rows = torch.tensor(part.indices)
        real = torch.arange(len(rows)) < part.real
        labels = torch.where(real, y[rows], -1)
        metrics.update(prob[rows], labels)
        loss.update(-prob[rows, y[rows]].log(), real.float())
        report._collect({"id": torch.where(real, rows, -1), "prob": prob[rows], "y": labels})
    records = pd.DataFrame({"id": [f"r{i:02d}" for i in range(n)], "group": "g"})
    trainer = SimpleNamespace(world_size=world, datamodule=SimpleNamespace(records=records))
    found = report._gather(trainer, SimpleNamespace(class_names=list("abcde")))
    values = {name: float(value) for name, value in metrics.compute().items()} | {"loss": float(loss.compute())}
    return {"values": values, "ids": found.id.tolist(), "y": found.y.tolist()}


def grid(rank: int, world: int) -> list[dict[str, Any]]:
    """Return the results of all sizes."""
    return [evaluate(n, batch, rank, world) for n in range(1, MOST + 1) for batch in range(1, 6)]


def work(rank: int, world: int, folder: str) -> None:
    """Join a process group, judge, and write what this process found."""
    store = f"file://{folder}/store"
    distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=120)
    )
    try:
        Path(folder, f"rank{rank}.json").write_text(json.dumps(grid(rank, world)), encoding="utf-8")
    finally:
        distributed.destroy_process_group()
