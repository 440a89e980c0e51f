"""TensorBoard: scalars per epoch, a few images, and the configuration as text."""

import math

import numpy as np
import tensorflow as tf

from hvi_tf import diagnostics, distribution, files, seeds
from hvi_tf.config import Config
from hvi_tf.log_likelihood import ImageScores
from hvi_tf.models.vae import VAE
from hvi_tf.pictures import image_grid
from hvi_tf.svi_scores import RefinedScores
from hvi_tf.training.schedules import ScheduleValues
from hvi_tf.workdir import Workdir

GRID = 8  # images per side of an image grid
AUTOREGRESSIVE_GRID = 4  # of those that are drawn pixel by pixel
MAX_IMAGE_SUMMARIES = 50  # in a run, however many epochs it has


class Summaries:
    """Writes event files keyed by the training step.

    Args:
        workdir: of the run.
        config: the run's configuration, written once as text.
        image_shape: of one observation.
    """

    def __init__(self, workdir: Workdir, config: Config, image_shape: tuple[int, ...]) -> None:
        self._path = workdir.tensorboard
        self._image_shape = image_shape
        self._trains_tau = config.row.inverse == "tau"
        if not distribution.is_chief():
            self._writer = tf.summary.create_noop_writer()
            return
        try:
            self._writer = tf.summary.create_file_writer(str(self._path))
        except (tf.errors.OpError, OSError) as error:
            raise files.write_error(self._path, error) from error
        with self._writer.as_default(step=0):
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
        if min(schedule.inner, schedule.outer, means.get("kl_weight", 1.0)) < 1:
            # With a warm-up below 1 the objective bounds nothing, so it gets another name.
            scalars["train/warmup_objective"] = means["objective"]
        scalars |= {f"schedule/{k}": float(v) for k, v in schedule._asdict().items()}
        scalars["speed/steps_per_second"] = rate
        if scores is not None:
            scalars["validation/bound"] = scores.log_likelihood
            told = {n: s for n, s in scores._asdict().items() if math.isfinite(s)}
            del told["log_likelihood"]
            told.pop("bound", None)
            scalars |= {f"diagnostics/{name}": score for name, score in told.items()}
            if self._trains_tau and "kl_tau_mixing" in told:
                collapsed = told["kl_tau_mixing"] < diagnostics.COLLAPSED_NATS
                scalars["diagnostics/tau_collapsed"] = float(collapsed)
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self.flush()

    def images(self, step: int, model: VAE, x: tf.Tensor) -> None:
        """Writes reconstructions of `x` `[N, D]`, interleaved with it, and prior samples."""
        if not distribution.is_chief():
            return
        largest = AUTOREGRESSIVE_GRID if model.autoregressive else GRID
        side = min(largest, 2 * math.isqrt(len(x) // 2))  # even, for there to be pairs
        seed = seeds.fold(model.seed, seeds.Purpose.SAMPLE_IMAGES)
        half = side * side // 2
        rows = tf.stack([x[:half], model.reconstruct(x[:half], seed)], axis=1)
        grids = {
            "reconstructions": tf.reshape(rows, [-1, model.x_dim]),
            "prior_samples": model.sample_images(side * side, seed),
        }
        with self._writer.as_default(step=step):
            for name, images in grids.items():
                tf.summary.image(name, image_grid(images.numpy(), self._image_shape)[np.newaxis])

    def flush(self) -> None:
        """Puts everything on disk.

        Raises:
            UserError: if the disk is full.
        """
        try:
            self._writer.flush()
        except (tf.errors.OpError, OSError) as error:
            raise files.write_error(self._path, error) from error
