"""Peak memory, with a separate process for each task."""

import multiprocessing
import os
import pathlib
from typing import Any, NamedTuple

from hvi_tf.benchmark.cells import Cell, Evaluation
from hvi_tf.runtime import startup
from hvi_tf.storage import files


class Peak(NamedTuple):
    """Peak memory in megabytes; `device` is 0 if there is no GPU."""

    host: float
    device: float


def measure(tasks: list[Cell | Evaluation]) -> list[Peak]:
    """Returns the peak of each task in a new process; two run at a time."""
    if not tasks:
        return []
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(2, os.cpu_count() or 1), maxtasksperchild=1) as pool:
        return pool.map(peak, tasks, chunksize=1)


def peak(task: Cell | Evaluation) -> Peak:
    """Returns the peak of this process after ten training steps, or one call of the scorer."""
    startup.quiet_tensorflow()
    import tensorflow as tf

    work = _work(task)
    work(1 if isinstance(task, Evaluation) else 10)
    device = 0.0
    if tf.config.list_physical_devices("GPU"):
        device = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    return Peak(resident(), device)


def _work(task: Cell | Evaluation) -> Any:
    from hvi_tf.benchmark import evaluation, training

    if isinstance(task, Evaluation):
        return evaluation.Scoring(task)
    return training.Step(task)


def resident() -> float:
    """Returns the largest resident memory of this process so far, in MB.

    It does not use `ru_maxrss`, which a child inherits from its parent.
    """
    status = files.read_text(pathlib.Path("/proc/self/status"))
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
