"""The fits of an ablation in several processes at a time."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_project.ablation_runs import recorded


@dataclass(frozen=True)
class Task:
    """What one process does at a time.

    Attributes:
        key: Folder that it fills.
        what: What is being done, for the log.
        log: File of its own, for what it prints.
        work: Called without an argument; it and its result go from process to process.
    """

    key: Path
    what: str
    log: Path
    work: Callable[[], Any]


def in_processes(tasks: Sequence[Task], count: int, log: Path) -> Iterator[tuple[Task, Any, list[str]]]:
    """Run tasks in several processes; yield each with its result and the lines of its failures as it ends.

    Processes are started afresh and not forked, so that each may use a device, and share out the cores of this one.

    Args:
        tasks: What to do; they are begun in this order.
        count: Processes at a time.
        log: File that the log of each finished task is added to.
    """
    if not tasks:
        return
    threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
    pool = ProcessPoolExecutor(min(count, len(tasks)), multiprocessing.get_context("spawn"))
    with _threads_of_children(threads), pool:
        try:
            begun = {pool.submit(_done, task): task for task in tasks}
            for ended in as_completed(begun):
                task = begun[ended]
                result, failures = ended.result()
                with open(log, "a", encoding="utf-8") as file:
                    file.write(task.log.read_text(encoding="utf-8"))
                task.log.unlink()
                yield task, result, failures
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Let processes that are started meanwhile use so many threads, each library of them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _done(task: Task) -> tuple[Any, list[str]]:
    failures: list[str] = []
    result = None
    with recorded(task.log, failures, task.what):
        result = task.work()
    return result, failures
