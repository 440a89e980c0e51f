"""The training loop of the command line; one step is `VAE.train_step`."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.config.schedules import ScheduleValues
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas
from hvi_tf.runtime.interrupts import Interrupted, StopRequest
from hvi_tf.runtime.progress import Progress, counted
from hvi_tf.runtime.startup import StartUp
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import recovery
from hvi_tf.training.checkpoints import Checkpoints
from hvi_tf.training.recovery import Recovery
from hvi_tf.training.steps import StepMetrics, StepRunner
from hvi_tf.training.summaries import MAX_IMAGE_SUMMARIES, Summaries
from hvi_tf.training.validation import validate

# A longer run prints and logs a part of its epochs, so that its log cannot fill the disk.
MAX_EPOCHS_PRINTED = 10_000


class TrainingResult(NamedTuple):
    """The length and the speed of a finished training."""

    steps: int
    steps_per_second: float | None  # of the last epoch; None if the training was complete before


def train(
    config: Config,
    model: VAE,
    data: Dataset,
    workdir: Workdir,
    start_up: StartUp | None = None,
) -> TrainingResult:
    """Trains to the last epoch, from the latest checkpoint if there is one.

    Args:
        config: the run's configuration.
        model: the compiled model.
        data: the images to train on.
        workdir: the run's workdir.
        start_up: prints the durations of the start at the first step.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
        UserError: if the disk is full, or a step is not finite under --on_nonfinite=stop.
    """
    return Trainer(config, model, data, workdir, start_up).run()


class Trainer:
    """The epochs of one run: steps, then validation, checkpoints and summaries.

    Args: see `train`.
    """

    def __init__(
        self,
        config: Config,
        model: VAE,
        data: Dataset,
        workdir: Workdir,
        start_up: StartUp | None = None,
    ) -> None:
        t = config.training
        self._start_up = start_up
        self._config, self._model, self._data, self._workdir = config, model, data, workdir
        self._per_epoch = pipeline.steps_per_epoch(len(data.train), t.batch_size)
        self._end = t.epochs * self._per_epoch
        model.set_run_length(self._end)
        if t.max_steps:
            self._end = min(self._end, t.max_steps)
        self._validation = pipeline.fixed_observation(
            data.validation, config.model.likelihood, t.seed, randomness.Purpose.VALIDATE
        )
        self._checkpoints = Checkpoints(
            model, workdir, keep=self._is_kept, regular=self._is_regular
        )
        self._state = self._checkpoints.state
        self._recovery = Recovery(config, model, data, workdir, self._checkpoints)
        self._run_steps = StepRunner(model)

    def run(self) -> TrainingResult:
        """Trains to the last epoch; see `train`."""
        step = self._checkpoints.restore_latest()
        if step >= self._end or self._is_exhausted(step):
            return TrainingResult(step, None)
        if step:
            print(f"Resuming from step {step} of {self._end}.", flush=True)
        elif self._config.training.on_nonfinite == "rollback":
            self._checkpoints.save()  # the first checkpoint to roll back to
        summaries = Summaries(self._workdir, self._config, self._data.image_shape, step)
        batches = self._batches(step)
        rate = 0.0
        with StopRequest() as stop:
            while step < self._end and not self._is_exhausted(step):
                step, rate = self._epoch(step, batches, summaries, stop)
        if step < self._end:
            waited = counted(self._config.training.patience, "epoch")
            print(f"No better validation bound in {waited}: training ends early.", flush=True)
        return TrainingResult(step, rate)

    def _batches(self, step: int) -> Iterator[tf.Tensor]:
        t = self._config.training
        return iter(
            pipeline.training_batches(
                self._data.train,
                t.batch_size,
                t.seed,
                step,
                self._end,
                likelihood=self._config.model.likelihood,
            )
        )

    def _epoch(
        self, step: int, batches: Iterator[tf.Tensor], summaries: Summaries, stop: StopRequest
    ) -> tuple[int, float]:
        """Trains to the end of the epoch that `step` is in; returns the new step and steps/s.

        Raises:
            Interrupted: with a checkpoint saved; in all workers together.
        """
        epoch = step // self._per_epoch
        schedule = self._config.schedule(epoch)
        self._model.set_schedule(*schedule)
        first = epoch * self._per_epoch
        end = min(first + self._per_epoch, self._end)
        if step == first:
            self._state.begin_epoch()
        title = f"epoch {epoch + 1}/{self._epochs}"
        progress = Progress(title, "steps", end - first, done=step - first)
        step = self._steps(step, end, batches, progress, stop)
        rate = progress.rate
        if step < end:
            self._checkpoints.save()  # before printing, because the output pipe may be closed
            progress.close(self._end - end)
            raise Interrupted(stop.signal)
        scores = self._validate(step)
        printed = self._is_due(step, math.ceil(self._epochs / MAX_EPOCHS_PRINTED))
        if printed:
            self._write_scalars(summaries, step, schedule, rate, scores)
        self._write_images(summaries, step)
        stopping = replicas.any_worker(stop.requested)
        if stopping or self._saves_checkpoint(step):
            self._checkpoints.save()
        bound = {} if scores is None else {"validation": scores.log_likelihood}
        progress.close(self._end - step, printed, **self._training_bound(), **bound)
        if stopping:
            raise Interrupted(stop.signal)
        return step, rate

    def _steps(
        self,
        step: int,
        end: int,
        batches: Iterator[tf.Tensor],
        progress: Progress,
        stop: StopRequest,
    ) -> int:
        """Takes the steps to the end of an epoch or to a stop request; returns the last one."""
        while step < end and not replicas.any_worker(stop.requested):
            if self._start_up:
                metrics = self._first_step(batches, progress, self._start_up)
            else:
                count = min(self._config.training.steps_per_call, end - step)
                metrics = self._run_steps(batches, count)
            step += len(metrics.values)
            self._count(metrics, step, progress)
            progress.update(len(metrics.values), self._end - end, **self._training_bound())
        return step

    def _first_step(
        self, batches: Iterator[tf.Tensor], progress: Progress, start_up: StartUp
    ) -> StepMetrics:
        start_up.lap("model")
        metrics = self._run_steps(batches, 1)
        start_up.lap("compilation and step")
        progress.print_line(str(start_up))
        self._start_up = None
        return metrics

    def _count(self, metrics: StepMetrics, step: int, progress: Progress) -> None:
        """Adds the metrics of the steps up to `step`; recovers if the last one is not finite."""
        rows = [dict(zip(metrics.names, map(float, row), strict=True)) for row in metrics.values]
        finite = np.isfinite(metrics.values[-1]).all()
        for row in rows if finite else rows[:-1]:
            self._state.add(row)
        if not finite:
            progress.print_line(self._recovery.recover(rows[-1], step))

    def _validate(self, step: int) -> ImageScores | RefinedScores | None:
        """Returns the mean scores if validation is due; saves the best checkpoint."""
        if not self._is_due(step, self._config.training.eval_every):
            return None
        with self._model.averaged():
            scores = validate(self._model, self._validation, self._config.training.seed)
        bound = scores.log_likelihood
        if not math.isfinite(bound) and self._config.training.on_nonfinite == "stop":
            raise UserError(
                f"after step {step}: the validation bound is {bound}; "
                f"{recovery.advice(self._workdir)}"
            )
        if math.isfinite(bound):
            self._checkpoints.save_if_best(bound)
        return scores

    def _write_scalars(
        self,
        summaries: Summaries,
        step: int,
        schedule: ScheduleValues,
        rate: float,
        scores: ImageScores | RefinedScores | None,
    ) -> None:
        schedule = schedule._replace(learning_rate=self._model.learning_rate)
        summaries.epoch(step, self._state.means, schedule, rate, scores)

    def _write_images(self, summaries: Summaries, step: int) -> None:
        if self._model.autoregressive:  # drawing its images takes long
            due = step == self._end or self._is_exhausted(step)
        else:
            due = self._is_due(step, math.ceil(self._epochs / MAX_IMAGE_SUMMARIES))
        if due:
            with self._model.averaged():
                summaries.images(step, self._model, self._validation)

    @property
    def _epochs(self) -> int:
        return math.ceil(self._end / self._per_epoch)

    def _is_due(self, step: int, every: int) -> bool:
        """Returns whether `step` ends the last epoch, or one whose number `every` divides."""
        return step == self._end or step // self._per_epoch % every == 0

    def _is_exhausted(self, step: int) -> bool:
        """Returns whether --patience epochs have passed since the best validation bound."""
        patience = self._config.training.patience
        since = step - self._state.best_step
        return bool(patience and step and since >= patience * self._per_epoch)

    def _saves_checkpoint(self, step: int) -> bool:
        every = self._config.training.checkpoint_every
        return self._is_due(step, every) or self._is_kept(step) or self._is_exhausted(step)

    def _is_kept(self, step: int) -> bool:
        """Returns whether --keep_every keeps the checkpoint of a step for good."""
        every = self._config.training.keep_every * self._per_epoch
        return bool(every) and step % every == 0

    def _is_regular(self, step: int) -> bool:
        """Returns whether an uninterrupted run saves a checkpoint at a step before its end."""
        every = self._config.training.checkpoint_every * self._per_epoch
        return step % every == 0 or self._is_kept(step)

    def _training_bound(self) -> dict[str, float]:
        """Returns the mean training bound, by its name in the progress line."""
        means = self._state.means  # empty if no step of the epoch was finite
        return {"train": means["bound"]} if means else {}
