"""The training loop of the command line; one step is `VAE.train_step`."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import seeds
from hvi_tf.config import Config
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.training.checkpoints import Checkpoints
from hvi_tf.training.interrupts import Interrupted, StopRequest
from hvi_tf.training.progress import Progress
from hvi_tf.training.summaries import GRID, MAX_IMAGE_SUMMARIES, Summaries
from hvi_tf.workdir import Workdir

VALIDATION_BATCH = 250


class TrainingResult(NamedTuple):
    """What a finished training is worth telling."""

    steps: int
    steps_per_second: float | None  # None if nothing was left to do
    last_checkpoint: str | None


class StepMetrics(NamedTuple):
    """The metrics of consecutive steps, one row a step."""

    names: tuple[str, ...]
    values: np.ndarray  # [steps, len(names)]


class StepRunner:
    """Runs several training steps per call, one compiled loop for each K."""

    def __init__(self, model: VAE) -> None:
        self._model = model
        self._loops: dict[int, Callable] = {}
        self._names: dict[int, tuple[str, ...]] = {}

    def __call__(self, batches: Iterator[tf.Tensor], count: int) -> StepMetrics:
        """Takes `count` batches and does a step with each."""
        K = self._model.training_K
        if K not in self._loops:
            self._loops[K] = self._make_loop(K)
        values = self._loops[K](batches, tf.constant(count)).numpy()
        return StepMetrics(self._names[K], values)

    def _make_loop(self, K: int) -> Callable:
        @tf.function
        def loop(batches: Iterator[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
            rows = tf.TensorArray(tf.float32, size=count)
            for i in tf.range(count):
                metrics = self._model.train_step(next(batches))
                rows = rows.write(i, self._as_row(K, metrics))
            return rows.stack()

        return loop

    def _as_row(self, K: int, metrics: dict[str, tf.Tensor]) -> tf.Tensor:
        self._names[K] = tuple(metrics)
        return tf.stack(list(metrics.values()))


def check_batch_size(config: Config, data: Dataset) -> None:
    """Raises `UserError` if not even one full batch can be made."""
    if config.training.batch_size > len(data.train):
        raise UserError(
            f"--batch_size={config.training.batch_size}: {config.data.dataset} has only "
            f"{len(data.train)} training images; give at most that"
        )


def train(config: Config, model: VAE, data: Dataset, workdir: Workdir) -> TrainingResult:
    """Trains from the latest checkpoint, or from scratch, to the last epoch.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
        UserError: if a bound or gradient is not finite, or the disk is full.
    """
    t = config.training
    per_epoch = pipeline.steps_per_epoch(len(data.train), t.batch_size)
    end = t.epochs * per_epoch
    checkpoints = Checkpoints(model, workdir)
    step = checkpoints.restore_latest()
    if step >= end:
        return TrainingResult(step, None, tf.train.latest_checkpoint(str(workdir.checkpoints)))
    if step:
        print(f"Resuming from step {step} of {end}.", flush=True)
    summaries = Summaries(workdir, config, data.image_shape)
    validation = pipeline.fixed_binarization(data.validation, t.seed, seeds.Purpose.VALIDATE)
    batches = iter(pipeline.training_batches(data.train, t.batch_size, t.seed, step, end))
    run_steps = StepRunner(model)
    image_every = math.ceil(t.epochs / MAX_IMAGE_SUMMARIES)
    rate, path = 0.0, None
    with StopRequest() as stop:
        while step < end:
            epoch = step // per_epoch
            schedule = config.schedule(epoch)
            model.set_schedule(*schedule)
            progress = Progress(
                f"epoch {epoch + 1}/{t.epochs}", "step", per_epoch, done=step % per_epoch
            )
            tables = []
            epoch_end = (epoch + 1) * per_epoch
            while step < epoch_end and not stop.requested:
                metrics = run_steps(batches, min(t.steps_per_call, epoch_end - step))
                _check_finite(metrics, step, workdir)
                tables.append(metrics.values)
                step += len(metrics.values)
                means = dict(zip(metrics.names, np.mean(np.concatenate(tables), 0), strict=True))
                progress.update(len(metrics.values), end - epoch_end, train=means["objective"])
            if stop.requested and step < epoch_end:
                progress.close(end - epoch_end)
                checkpoints.save()
                raise Interrupted
            epoch += 1
            rate = progress.rate
            last = epoch == t.epochs
            bound = None
            if epoch % t.eval_every == 0 or last:
                bound = validate(model, validation, t.seed)
                checkpoints.save_if_best(bound)
            shown = {} if bound is None else {"validation": bound}
            progress.close(end - step, train=means["objective"], **shown)
            summaries.epoch(step, means, schedule, rate, bound)
            if epoch % image_every == 0 or last:
                summaries.images(step, model, validation[: GRID * GRID // 2])
            if epoch % t.checkpoint_every == 0 or last or stop.requested:
                path = checkpoints.save()
            if stop.requested and not last:
                raise Interrupted
    return TrainingResult(step, rate, path)


def validate(model: VAE, images: tf.Tensor, seed: int) -> float:
    """Mean bound over binarized `images` `[N, D]` at the model's fixed K and M, nats.

    The pixels and the draws are the same at every call, so two values compare.
    """
    bounds = [
        model.validation_bound(
            images[i : i + VALIDATION_BATCH], seeds.fold(seed, seeds.Purpose.VALIDATE, i)
        )
        for i in range(0, len(images), VALIDATION_BATCH)
    ]
    return float(tf.reduce_mean(tf.concat(bounds, axis=0)))


# In the order in which one spoils the next.
_CAUSES = ("log_q_psi", "log_q_z_upper", "log_tau", "log_prior", "log_likelihood", "bound")


def _check_finite(metrics: StepMetrics, first_step: int, workdir: Workdir) -> None:
    """Raises at the first step with a term that is not finite; its update was not applied."""
    bad = ~np.isfinite(metrics.values)
    if not bad.any():
        return
    row = int(np.argmax(bad.any(axis=1)))
    names = {name for name, b in zip(metrics.names, bad[row], strict=True) if b}
    term = next((c for c in _CAUSES if c in names), None) or sorted(names)[0]
    value = metrics.values[row][metrics.names.index(term)]
    raise UserError(
        f"step {first_step + row + 1}: {term} is {value}; training stopped and the checkpoints "
        f"in {workdir.checkpoints} are from before; try a smaller --learning_rate or a warm-up"
    )
