"""What a training step costs: time and memory against the steps of the inner SVI loop.

    python -m hvi_tf.benchmark --out=runs/benchmark.json

Times are of one process, round by round in turn, so that a slow minute of the machine
falls on all cells alike. Each peak of memory is that of a process of its own.
"""

import gc
import multiprocessing
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from hvi_tf import config as config_lib
from hvi_tf import workdir as workdirs
from hvi_tf.experiments.provenance import provenance

FLAGS = flags.FLAGS

METHODS: dict[str, dict[str, Any]] = {
    "svi": dict(bound="svi"),
    "bsvi": dict(bound="bsvi"),
    "bsvi --sir": dict(bound="bsvi", sir=True),
}
PIXELS = 784


class Cell(NamedTuple):
    """One training step to measure, as settings of `config.make`."""

    method: str
    svi_steps: int
    batch_size: int
    hidden: tuple[int, ...]
    jit_compile: str


def make_runner(cell: Cell) -> Callable[[int], None]:
    """A compiled function that does so many training steps on noise."""
    import tensorflow as tf

    from hvi_tf.models.vae import make_vae

    settings = {k: v for k, v in cell._asdict().items() if k != "method"}
    model = make_vae(config_lib.make(**METHODS[cell.method], **settings), PIXELS)
    noise = tf.random.stateless_uniform([cell.batch_size, PIXELS], [1, 2])
    x = tf.cast(noise < 0.2, tf.float32)

    @tf.function
    def steps(count: tf.Tensor) -> tf.Tensor:
        bound = tf.zeros([])
        for _ in tf.range(count):
            bound = model.train_step(x)["bound"]
        return bound

    def run(count: int, model: Any = model) -> None:  # which has to outlive its graph
        steps(tf.constant(count)).numpy()

    run(2)
    return run


def peak_memory(cell: Cell) -> float:
    """Peak of resident memory of this process after a few training steps, MB."""
    make_runner(cell)(10)
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure_memory(cells: list[Cell]) -> list[float]:
    """`peak_memory` of each cell in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        return pool.map(peak_memory, cells, chunksize=1)


def measure_times(cells: list[Cell], rounds: int, repeats: int) -> np.ndarray:
    """Milliseconds per training step, `[cells, rounds]`."""
    runners = [make_runner(cell) for cell in cells]
    times = np.zeros([len(cells), rounds])
    gc.disable()
    for r in range(rounds):
        for i, run in enumerate(runners):
            started = time.perf_counter()
            run(repeats)
            times[i, r] = 1e3 * (time.perf_counter() - started) / repeats
    gc.enable()
    return times


def table(cells: list[Cell], times: np.ndarray, memory: list[float]) -> str:
    """A Markdown table, and per method the line through the medians."""
    lines = ["| method | k | ms per step: median (min to max) | peak MB |", "|---|---|---|---|"]
    for cell, row, peak in zip(cells, times, memory, strict=True):
        spread = f"{np.median(row):.1f} ({row.min():.1f} to {row.max():.1f})"
        lines.append(f"| {cell.method} | {cell.svi_steps} | {spread} | {peak:.0f} |")
    lines.append("")
    for method in METHODS:
        chosen = [i for i, cell in enumerate(cells) if cell.method == method]
        k = np.array([cells[i].svi_steps for i in chosen])
        medians = np.median(times[chosen], axis=1)
        slope, start = np.polyfit(k, medians, 1)
        residual = np.abs(medians - start - slope * k).max()
        growth = memory[chosen[-1]] - memory[chosen[0]]
        lines.append(
            f"* {method}: {start:.1f} + {slope:.2f} k ms, at most {residual:.1f} ms off; "
            f"{growth:+.0f} MB from k={k[0]} to k={k[-1]}"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measures, prints the table and stores the numbers."""
    del argv
    cells = [
        Cell(method, int(k), FLAGS.batch_size, tuple(map(int, FLAGS.hidden)), FLAGS.jit_compile)
        for method in METHODS
        for k in FLAGS.svi_steps
    ]
    memory = measure_memory(cells)
    times = measure_times(cells, FLAGS.rounds, FLAGS.repeats)
    print(table(cells, times, memory))
    print(f"\nBatch {FLAGS.batch_size}, layers of {','.join(FLAGS.hidden)}. {provenance()}.")
    if FLAGS.out:
        measured = [
            {**cell._asdict(), "milliseconds": list(row), "peak_megabytes": peak}
            for cell, row, peak in zip(cells, times, memory, strict=True)
        ]
        path = pathlib.Path(FLAGS.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        workdirs.write_json(path, {"measured": measured, "provenance": provenance()})


def define_flags() -> None:
    """Only for a run of this module: other modules have flags of these names."""
    flags.DEFINE_list("svi_steps", "1,2,5,10,20,50", "Steps k of the inner loop.")
    flags.DEFINE_integer("rounds", 7, "Measurements of every cell.")
    flags.DEFINE_integer("repeats", 20, "Training steps in a measurement.")
    flags.DEFINE_integer("batch_size", 50, "Images per step.")
    flags.DEFINE_list("hidden", "200,200", "Units of the hidden layers.")
    flags.DEFINE_string("jit_compile", "off", "XLA: on or off.")
    flags.DEFINE_string("out", "", "JSON file for the numbers.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
