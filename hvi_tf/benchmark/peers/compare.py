"""Times of our training step and of that of other frameworks, measured in turn.

Each contestant has a separate process with its own threads and memory, and waits while another
one runs.
"""

import contextlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from hvi_tf.benchmark import memory, rounds
from hvi_tf.benchmark.cells import Cell
from hvi_tf.benchmark.peers import weights as weights_lib
from hvi_tf.benchmark.peers.weights import Weights
from hvi_tf.errors import UserError
from hvi_tf.runtime import startup


class Contestant(NamedTuple):
    """One way to write and run the step.

    Attributes:
        framework: tensorflow (this package), torch or jax.
        form: settings of our cell, or keywords of the framework's `make_step`.
        about: one line for the table.
    """

    framework: str
    form: dict[str, Any]
    about: str


OURS = "hvi_tf"
CONTESTANTS = {
    OURS: Contestant("tensorflow", {}, "`VAE.train_step`, ten steps a call"),
    "hvi_tf-xla": Contestant("tensorflow", dict(jit_compile="on"), "the same, `jit_compile=on`"),
    "hvi_tf-S8": Contestant(
        "tensorflow", dict(backward_samples=8), "the same, `backward_samples=8`"
    ),
    "torch": Contestant("torch", dict(shared=False), "eager, x tiled over K as users write it"),
    "torch-shared": Contestant("torch", dict(shared=True), "eager, x @ W once per image"),
    "jax": Contestant("jax", dict(shared=False), "jit, x tiled over K as users write it"),
    "jax-shared": Contestant("jax", dict(shared=True), "jit, x @ W once per image"),
}


def installed(names: list[str]) -> dict[str, Contestant]:
    """Returns the contestants whose framework is installed."""
    chosen = {name: CONTESTANTS[name] for name in names}
    return {n: c for n, c in chosen.items() if importlib.util.find_spec(c.framework) is not None}


def versions(contestants: Mapping[str, Contestant]) -> dict[str, str]:
    """Returns the versions of the frameworks."""
    names = {c.framework for c in contestants.values()}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def compare(
    contestants: Mapping[str, Contestant], cell: Cell, count: int, seconds: float
) -> tuple[rounds.Times, dict[str, float]]:
    """Returns the milliseconds per step and round, and the peak memory in MB, by contestant.

    Args:
        contestants: by name.
        cell: of iwhvi with M=1 and perceptrons.
        count: number of rounds.
        seconds: minimum duration of a measurement.
    """
    start = exported(cell)
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(_process(contestant, cell, start))
            for name, contestant in contestants.items()
        }
        for name, connection in running.items():  # they compile at the same time
            _await(name, connection)
        times = rounds.in_turn({name: _asker(c) for name, c in running.items()}, count, seconds)
        peaks = {}
        for name, connection in running.items():
            connection.send("memory")
            peaks[name] = connection.recv()
    return times, peaks


def _await(name: str, connection: Connection) -> None:
    try:
        connection.recv()
    except EOFError as error:
        raise UserError(f"--contestants: {name} did not start; its error is above") from error


def _asker(connection: Connection) -> Callable[[int], None]:
    def run(steps: int) -> None:
        connection.send(steps)
        connection.recv()

    return run


@contextlib.contextmanager
def _process(contestant: Contestant, cell: Cell, start: "Start") -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, contestant, cell, start), daemon=True)
    process.start()
    theirs.close()  # otherwise `recv` would not fail when the process ends
    try:
        yield ours
    finally:
        ours.close()
        process.join(timeout=10)
        if process.is_alive():
            process.terminate()


def _serve(connection: Connection, contestant: Contestant, cell: Cell, start: "Start") -> None:
    run = make_step(contestant, cell, start)
    run(2)
    with contextlib.suppress(EOFError, BrokenPipeError):
        connection.send("ready")
        while True:
            request = connection.recv()
            if request == "memory":
                connection.send(memory.resident())
            else:
                run(request)
                connection.send("done")


def make_step(contestant: Contestant, cell: Cell, start: "Start") -> Callable[[int], Any]:
    """Returns the step of a contestant in this process."""
    if contestant.framework == "tensorflow":
        startup.quiet_tensorflow()
        from hvi_tf.benchmark import training

        return training.Step(cell.but(**contestant.form))
    K, threads = cell.config.method.K, len(os.sched_getaffinity(0))
    if contestant.framework == "torch":
        from hvi_tf.benchmark.peers import torch_step

        return torch_step.make_step(start.weights, start.x, K, threads, **contestant.form)
    from hvi_tf.benchmark.peers import jax_step

    return jax_step.make_step(start.weights, start.x, K, **contestant.form)


class Start(NamedTuple):
    """The initial state that all contestants share."""

    weights: Weights  # the initial ones of our model
    x: np.ndarray  # [B, Dx]


def exported(cell: Cell) -> Start:
    """Returns the start, made in a process that ends to free TensorFlow's memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_export, (cell,))


def _export(cell: Cell) -> Start:
    from hvi_tf.benchmark.training import noise_images
    from hvi_tf.models.vae import make_vae

    model = make_vae(cell.config, cell.x_dim)
    images = noise_images(cell.config.training.batch_size, cell.x_dim)
    return Start(weights_lib.of_model(model), (images > 0).astype(np.float32))
