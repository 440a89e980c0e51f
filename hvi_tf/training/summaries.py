"""Scalars of every epoch, for TensorBoard and as JSON lines, and some images."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.bounds import diagnostics
from hvi_tf.config import strict_json
from hvi_tf.config.config import Config
from hvi_tf.config.schedules import ScheduleValues
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.models.pictures import image_grid
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas
from hvi_tf.storage import files
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import event_files

GRID = 8  # images per side of an image grid
AUTOREGRESSIVE_GRID = 4  # of images that are drawn pixel by pixel
LISTED = 5  # damaged lines that a warning lists
MAX_BYTES = 4 * 2**30  # of metrics.jsonl; a million epochs take 1.6 GB
MAX_LINE = 2**20  # bytes of a line of it; an epoch takes 1.6 kB
MAX_IMAGE_SUMMARIES = 50  # per run, for any number of epochs


class Summaries:
    """Writes event files keyed by the training step, and the scalars as JSON lines.

    Args:
        workdir: the run's workdir.
        config: the run's configuration, written once as text.
        image_shape: shape of one observation.
        step: the step to resume from; removes what was written of later steps.
    """

    def __init__(
        self, workdir: Workdir, config: Config, image_shape: tuple[int, ...], step: int
    ) -> None:
        self._workdir, self._path, self._metrics = workdir, workdir.tensorboard, workdir.metrics
        self._image_shape = image_shape
        self._trains_tau = config.chosen_method.has_tau
        t = config.training
        self._free_bits = t.inner_free_bits > 0 or t.outer_free_bits > 0
        if not replicas.is_chief():
            self._writer = tf.summary.create_noop_writer()
            return
        with self._writing():
            event_files.rewind(self._path, step or -1)  # step 0 writes the configuration again
            _rewind_lines(self._metrics, step)
            self._writer = tf.summary.create_file_writer(str(self._path))
        if step == 0:
            with self._events(0):
                indented = "\n".join(f"    {line}" for line in config.to_json().splitlines())
                tf.summary.text("config", indented)

    def epoch(
        self,
        step: int,
        means: dict[str, float],
        schedule: ScheduleValues,
        rate: float,
        scores: ImageScores | RefinedScores | None,
    ) -> None:
        """Writes one epoch's scalars.

        Args:
            step: training steps done.
            means: each metric's mean over the epoch's steps.
            schedule: the epoch's schedule values.
            rate: steps per second.
            scores: means over the validation images, if they were measured.
        """
        scalars = {f"train/{name}": value for name, value in means.items() if name != "objective"}
        warm = min(schedule.inner, schedule.outer, means.get("kl_weight", 1.0)) < 1
        if (warm or self._free_bits) and means:  # no means without a finite step
            # With a weight below 1 the objective is no bound, so it gets another name.
            scalars["train/warmup_objective"] = means["objective"]
        scalars |= {f"schedule/{k}": float(v) for k, v in schedule._asdict().items()}
        scalars["speed/steps_per_second"] = rate
        if scores is not None:
            scalars["validation/bound"] = scores.log_likelihood
            finite = {n: s for n, s in scores._asdict().items() if math.isfinite(s)}
            for name in ("log_likelihood", "bound"):
                finite.pop(name, None)
            scalars |= {f"diagnostics/{name}": score for name, score in finite.items()}
            if self._trains_tau and "kl_tau_mixing" in finite:
                collapsed = finite["kl_tau_mixing"] < diagnostics.COLLAPSED_NATS
                scalars["diagnostics/tau_collapsed"] = float(collapsed)
        with self._events(step):
            for name, value in scalars.items():
                tf.summary.scalar(name, np.float32(value))
        if replicas.is_chief():
            self._append({"step": step, **scalars})

    def images(self, step: int, model: VAE, x: tf.Tensor) -> None:
        """Writes reconstructions of `x` `[N, D]`, interleaved with it, and prior samples."""
        if not replicas.is_chief():
            return
        largest = AUTOREGRESSIVE_GRID if model.autoregressive else GRID
        side = min(largest, 2 * max(1, math.isqrt(len(x) // 2)))  # even, for pairs
        seed = randomness.fold(model.seed, randomness.Purpose.SAMPLE_IMAGES)
        half = side * side // 2
        rows = tf.stack([x[:half], model.reconstruct(x[:half], seed)], axis=1)
        grids = {
            "reconstructions": tf.reshape(rows, [-1, model.x_dim]),
            "prior_samples": model.sample_images(side * side, seed),
        }
        with self._events(step):
            for name, images in grids.items():
                tf.summary.image(name, image_grid(images.numpy(), self._image_shape)[np.newaxis])

    def _append(self, scalars: dict[str, float]) -> None:
        with self._writing(), files.open_to_append(self._metrics) as file:
            file.write(json.dumps(scalars) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _events(self, step: int) -> Iterator[None]:
        """Sets the step of the summaries in its block, and syncs them to the disk at its end."""
        self._workdir.check()
        with self._writing():
            # TensorFlow never frees the tensor of a Python number, but frees that of a NumPy one.
            with self._writer.as_default(step=np.int64(step)):
                yield
            self._writer.flush()
            for path in self._path.glob("events.*"):  # this writer's, and the gathered one
                files.sync(path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns the errors of a full disk into a `UserError`."""
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            raise files.write_error(self._path, error) from error


def _rewind_lines(path: pathlib.Path, step: int) -> None:
    """Removes the lines of later steps, and damaged ones with a warning.

    Does not report an unfinished last line, because a killed process leaves one.
    """
    if not path.exists():
        return
    kept, damaged = [], []
    try:
        with files.open_regular(path, MAX_BYTES) as file:
            for number, line in enumerate(_whole_lines(file), 1):
                try:
                    if _step_of(line) <= step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    damaged.append(str(number))
    except (OSError, ValueError) as error:
        raise files.read_error(path, error) from error
    if damaged:
        listed = ", ".join(damaged[:LISTED]) + ", ..." * (len(damaged) > LISTED)
        print(f"warning: {path} is damaged; removing line {listed}", flush=True)
    files.write_atomically(path, b"".join(kept))


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields the complete lines; replaces each one that is too long by an empty line."""
    while line := file.readline(MAX_LINE):
        end = line
        while end and not end.endswith(b"\n"):
            line, end = b"", file.readline(MAX_LINE)
        if end:
            yield line


def _step_of(line: bytes) -> int:
    """Returns a line's step; raises `ValueError`, `KeyError` or `TypeError` if it has none."""
    step = strict_json.parse(line.decode())["step"]
    if type(step) is not int:
        raise TypeError(f"step {step}")
    return step
