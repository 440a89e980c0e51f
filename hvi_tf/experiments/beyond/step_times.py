"""Times of training steps and validations, and the epochs that fit into a number of minutes."""

import collections
import os
import time
from typing import Any

import numpy as np

from hvi_tf import randomness
from hvi_tf.benchmark import cells as steps
from hvi_tf.benchmark import rounds
from hvi_tf.benchmark.training import Step, noise_images
from hvi_tf.config import config as config_lib
from hvi_tf.data import pipeline
from hvi_tf.experiments.harness.experiment import Settings
from hvi_tf.experiments.harness.rows import Row, row, select, values
from hvi_tf.models.vae import make_vae
from hvi_tf.training import loop

TRAINING_IMAGES, VALIDATION_IMAGES, PIXELS = 55_000, 5_000, 784
SECONDS = 0.3  # minimum duration of a time measurement


class _Validation:
    """A validation of as many images as MNIST has."""

    def __init__(self, settings: Settings) -> None:
        config = config_lib.derive(settings)
        self._seed, likelihood = config.training.seed, config.model.likelihood
        self._model = make_vae(config, PIXELS)
        self._images = pipeline.fixed_observation(
            noise_images(VALIDATION_IMAGES, PIXELS),
            likelihood,
            self._seed,
            randomness.Purpose.VALIDATE,
        )
        self(1)

    def __call__(self, repeats: int) -> None:
        for _ in range(repeats):
            loop.validate(self._model, self._images, self._seed)


def measure(flags: dict[str, Settings], changes: dict[str, str], round_count: int) -> list[Row]:
    """Measures the seconds of a step and of a validation of every contestant, all in turn.

    Args:
        flags: settings of each contestant, by its method and lever.
        changes: text of the settings in which each differs from the base.
        round_count: rounds in which every contestant is timed once.
    """
    load = os.getloadavg()[0]
    print(f"Load before: {load:.2f}. Other work on this machine distorts the times.")
    rows = [row("machine", "load", load)]
    contestants: dict[str, Any] = {}
    where: dict[str, dict[str, Any]] = {}
    for name, own in flags.items():
        method, _, lever = name.partition(" ")
        label: dict[str, Any] = dict(method=method, dataset="noise", lever=lever)
        started = time.monotonic()
        for K, share in shares(own).items():
            key = f"{name}, K={K}"
            contestants[key] = Step(steps.Cell("", own | {"K": K, "K_schedule": ""}))
            where[key] = label | dict(quantity="seconds_per_step", K=K, share=share)
        contestants[name] = _Validation(own)
        seconds = time.monotonic() - started
        rows.append(row(**label, quantity="seconds_to_start", value=seconds))
        where[name] = label | dict(quantity="seconds_per_validation", change=changes[name])
    for key, milliseconds in rounds.in_turn(contestants, round_count, SECONDS).items():
        measured = np.divide(milliseconds, 1e3)
        ends: dict[str, Any] = dict(low=float(measured.min()), high=float(measured.max()))
        rows.append(row(**where[key], value=float(np.median(measured)), **ends))
    return rows


def shares(settings: Settings) -> dict[int, float]:
    """Returns the share of a run's steps that its schedule gives to each K."""
    epochs = 100
    config = config_lib.derive(settings | {"epochs": epochs})
    counts = collections.Counter(config.schedule(epoch).K for epoch in range(epochs))
    return {K: count / epochs for K, count in sorted(counts.items())}


def epochs_of(times: list[Row], minutes: float, batch_size: int) -> int:
    """Returns the epochs that fit into the minutes with compilation and validations, at least 1."""
    (start,) = values(times, quantity="seconds_to_start")
    (validation,) = values(times, quantity="seconds_per_validation")
    per_epoch = pipeline.steps_per_epoch(TRAINING_IMAGES, batch_size)
    seconds = per_epoch * seconds_per_step(times) + validation
    return max(1, int((60.0 * minutes - start) / seconds))


def seconds_per_step(times: list[Row]) -> float:
    """Returns the mean seconds of one contestant's steps over its schedule of K."""
    return sum(r["share"] * r["value"] for r in select(times, quantity="seconds_per_step"))
