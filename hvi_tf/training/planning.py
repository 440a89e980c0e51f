"""The number of epochs that fit into `--minutes`, measured when a run begins."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.config.settings import MAX_EPOCHS
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas
from hvi_tf.runtime.progress import counted
from hvi_tf.training.steps import StepRunner
from hvi_tf.training.validation import validate

SECONDS = 4.0  # spent on timing the steps of one K
_MIN_CALLS = 3
_REST = 0.02  # share of the time for checkpoints and summaries


class Costs(NamedTuple):
    """The durations of the parts of a run on this machine, in seconds."""

    steps: dict[int, float]  # of a training step, by K
    validation: float
    start: float = 0.0  # of tracing the loop of every K again


def plan(config: Config, model: VAE, data: Dataset) -> Config:
    """Returns `config` with as many epochs as fit into its `minutes`, and prints the plan.

    Times training steps of every K, then restores the model. So the run is the same as one with
    this number of `--epochs` and the same `--jit_compile`.

    Args:
        config: configuration of a run that has not begun.
        model: the run's compiled model.
        data: the images to train on.

    Raises:
        UserError: if not even one epoch fits.
    """
    began = time.monotonic()
    costs = _measure(config, model, data)
    per_epoch = pipeline.steps_per_epoch(len(data.train), config.training.batch_size)
    minutes = config.training.minutes
    left = minutes * 60.0 - (time.monotonic() - began)
    epochs = replicas.least(_fitting_epochs(config, costs, per_epoch, left))
    if not epochs:
        needed = (_seconds(config, costs, per_epoch, 1) + minutes * 60.0 - left) / 60.0
        raise UserError(
            f"--minutes={minutes}: one epoch and its preparation take {needed:.1f} minutes here; "
            "give more"
        )
    steps = ", ".join(f"{1e3 * s:.1f} ms at K={K}" for K, s in costs.steps.items())
    print(f"Plan: {counted(epochs, 'epoch')} in {minutes:g} minutes; a step {steps}", flush=True)
    return _with_epochs(config, epochs)


def _measure(config: Config, model: VAE, data: Dataset) -> Costs:
    t = config.training
    variables = [*model.variables, *(v for o in model.all_optimizers for v in o.variables)]
    values = [v.numpy() for v in variables]
    model.set_run_length(1)
    run_steps = StepRunner(model)
    batches = iter(
        pipeline.training_batches(
            data.train, t.batch_size, t.seed, 0, 2**31 - 1, likelihood=config.model.likelihood
        )
    )
    steps, start = {}, 0.0
    for K in dict.fromkeys(K for _, K in config.k_steps):
        model.set_schedule(*config.schedule(0)._replace(K=K))
        run_steps(batches, 1)  # compiles
        first = _seconds_of(lambda: run_steps(batches, t.steps_per_call))
        calls = replicas.least(max(_MIN_CALLS, round(SECONDS / first)))
        times = [_seconds_of(lambda: run_steps(batches, t.steps_per_call)) for _ in range(calls)]
        steps[K] = float(np.median(times)) / t.steps_per_call
        model.set_run_length(1)
        start += _seconds_of(functools.partial(StepRunner(model), batches, 1))  # a second trace
    images = pipeline.fixed_observation(
        data.validation, config.model.likelihood, t.seed, randomness.Purpose.VALIDATE
    )
    validate(model, images[: model.validation_images], t.seed)  # compiles
    validation = _seconds_of(lambda: validate(model, images, t.seed))
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return Costs(steps, validation, start)


def _seconds_of(function: Callable[[], Any]) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


def _fitting_epochs(config: Config, costs: Costs, per_epoch: int, seconds: float) -> int:
    """Returns the largest number of epochs that take at most `seconds`; 0 if one takes more."""
    low, high = 0, MAX_EPOCHS
    while low < high:
        middle = (low + high + 1) // 2
        if _seconds(config, costs, per_epoch, middle) <= seconds:
            low = middle
        else:
            high = middle - 1
    return low


def _seconds(config: Config, costs: Costs, per_epoch: int, epochs: int) -> float:
    """Returns the seconds that a run of this many epochs takes."""
    pairs = _with_epochs(config, epochs).k_steps
    ends = [*(start for start, _ in pairs[1:]), epochs]
    steps = sum(
        max(min(end, epochs) - start, 0) * per_epoch * costs.steps[K]
        for (start, K), end in zip(pairs, ends, strict=True)
    )
    validations = -(-epochs // config.training.eval_every)
    return costs.start + (steps + validations * costs.validation) / (1.0 - _REST)


def _with_epochs(config: Config, epochs: int) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))
