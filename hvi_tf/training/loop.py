"""The training loop of the command line; one step is `VAE.train_step`."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.data import pipeline, pixels
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas as distribution
from hvi_tf.runtime.interrupts import Interrupted, StopRequest
from hvi_tf.runtime.progress import Progress, counted
from hvi_tf.runtime.startup import StartUp
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import recovery
from hvi_tf.training.checkpoints import Checkpoints
from hvi_tf.training.recovery import Recovery
from hvi_tf.training.steps import StepMetrics, StepRunner
from hvi_tf.training.summaries import MAX_IMAGE_SUMMARIES, Summaries

# More epochs than these are not all told, or a run of millions would fill a disk with it.
MAX_EPOCHS_TOLD = 10_000


class TrainingResult(NamedTuple):
    """What a finished training is worth telling."""

    steps: int
    steps_per_second: float | None  # of the last epoch; None if nothing was left to do


def check_data(config: Config, data: Dataset) -> None:
    """Raises `UserError` if these images cannot be trained on as configured."""
    name = config.data.dataset
    pixels.check(data, name)
    pixels.check_networks(data.image_shape, name, config.model)
    pipeline.check_likelihood(data.train.dtype, name, config.model.likelihood)
    _check_batch_size(config.training.batch_size, distribution.replicas())
    _check_free_bits(config, distribution.replicas())
    if config.training.batch_size > len(data.train):
        raise UserError(
            f"--batch_size={config.training.batch_size}: {name} has only "
            f"{counted(len(data.train), 'training image')}; give at most that"
        )


def _check_batch_size(size: int, replicas: int) -> None:
    if size % replicas:
        lower = size // replicas * replicas
        fitting = f"{lower} or {lower + replicas}" if lower else f"{replicas}"
        raise UserError(
            f"--batch_size={size}: {replicas} replicas cannot share it evenly; give {fitting}"
        )


def _check_free_bits(config: Config, replicas: int) -> None:
    for name in ("inner_free_bits", "outer_free_bits"):
        value = getattr(config.training, name)
        if value and replicas > 1:
            raise UserError(
                f"--{name}={value}: compares the mean of a whole batch, which no replica sees; "
                "leave out --strategy"
            )


def train(
    config: Config,
    model: VAE,
    data: Dataset,
    workdir: Workdir,
    start_up: StartUp | None = None,
) -> TrainingResult:
    """Trains from the latest checkpoint, or from scratch, to the last epoch.

    Args:
        config: of the run.
        model: compiled.
        data: what to train on.
        workdir: of the run.
        start_up: for a line at the first step that tells what took how long.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
        UserError: if the disk is full, or a step is not finite and --on_nonfinite is to stop.
    """
    return Trainer(config, model, data, workdir, start_up).run()


class Trainer:
    """The epochs of one run: steps, then validation, checkpoints and summaries."""

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
        self._likelihood = config.model.likelihood
        self._validation = pipeline.fixed_observation(
            data.validation, self._likelihood, t.seed, randomness.Purpose.VALIDATE
        )
        self._checkpoints = Checkpoints(
            model, workdir, keep=self._is_kept, regular=self._is_regular
        )
        self._state = self._checkpoints.state
        self._recovery = Recovery(config, model, data, workdir, self._checkpoints)
        self._run_steps = StepRunner(model)

    def run(self) -> TrainingResult:
        """See `train`."""
        t = self._config.training
        step = self._checkpoints.restore_latest()
        if step >= self._end or self._is_exhausted(step):
            return TrainingResult(step, None)
        if step:
            print(f"Resuming from step {step} of {self._end}.", flush=True)
        elif t.on_nonfinite == "rollback":
            self._checkpoints.save()  # to roll back to
        summaries = Summaries(self._workdir, self._config, self._data.image_shape, step)
        batches = iter(
            pipeline.training_batches(
                self._data.train,
                t.batch_size,
                t.seed,
                step,
                self._end,
                likelihood=self._likelihood,
            )
        )
        rate = 0.0
        with StopRequest() as stop:
            while step < self._end and not self._is_exhausted(step):
                step, rate = self._epoch(step, batches, summaries, stop)
        if step < self._end:
            waited = counted(t.patience, "epoch")
            print(f"No better validation bound in {waited}: training ends early.", flush=True)
        return TrainingResult(step, rate)

    def _is_exhausted(self, step: int) -> bool:
        """Whether --patience epochs have passed since the best validation bound."""
        patience = self._config.training.patience
        since = step - self._state.best_step
        return bool(patience and step and since >= patience * self._per_epoch)

    def _epoch(
        self, step: int, batches: Iterator[tf.Tensor], summaries: Summaries, stop: StopRequest
    ) -> tuple[int, float]:
        """The rest of the epoch that `step` is in; returns the new step and steps/s.

        Raises:
            Interrupted: with a checkpoint saved; all workers together.
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
            self._checkpoints.save()  # before anything is printed: the pipe may be gone
            progress.close(self._end - end)
            raise Interrupted(stop.signal)
        scores = self._validate(step)
        told = self._is_due(step, math.ceil(self._epochs / MAX_EPOCHS_TOLD))
        if told:
            told_schedule = schedule._replace(learning_rate=self._model.learning_rate)
            summaries.epoch(step, self._state.means, told_schedule, rate, scores)
        if self._shows_images(step):
            with self._model.averaged():
                summaries.images(step, self._model, self._validation)
        stopping = distribution.any_worker(stop.requested)
        due = self._is_due(step, self._config.training.checkpoint_every) or self._is_kept(step)
        if due or stopping or self._is_exhausted(step):
            self._checkpoints.save()
        shown = {} if scores is None else {"validation": scores.log_likelihood}
        progress.close(self._end - step, told, **self._shown(), **shown)
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
        """The steps to the end of an epoch, or until it is to stop; returns the last one."""
        while step < end and not distribution.any_worker(stop.requested):
            if self._start_up:
                metrics = self._first_step(batches, progress, self._start_up)
            else:
                count = min(self._config.training.steps_per_call, end - step)
                metrics = self._run_steps(batches, count)
            step += len(metrics.values)
            self._count(metrics, step, progress)
            progress.update(len(metrics.values), self._end - end, **self._shown())
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

    def _shows_images(self, step: int) -> bool:
        if self._model.autoregressive:  # whose images take long to draw
            return step == self._end or self._is_exhausted(step)
        return self._is_due(step, math.ceil(self._epochs / MAX_IMAGE_SUMMARIES))

    @property
    def _epochs(self) -> int:
        return math.ceil(self._end / self._per_epoch)

    def _is_kept(self, step: int) -> bool:
        """Whether --keep_every wants the checkpoint of a step to stay."""
        every = self._config.training.keep_every * self._per_epoch
        return bool(every) and step % every == 0

    def _is_regular(self, step: int) -> bool:
        """Whether a run that nobody interrupts has a checkpoint of a step, its last one aside."""
        every = self._config.training.checkpoint_every * self._per_epoch
        return step % every == 0 or self._is_kept(step)

    def _shown(self) -> dict[str, float]:
        """What the progress line tells of the training."""
        means = self._state.means  # none if no step of the epoch was finite
        return {"train": means["bound"]} if means else {}

    def _count(self, metrics: StepMetrics, step: int, progress: Progress) -> None:
        """Takes in the metrics of steps up to `step`, of which the last may not be finite."""
        rows = [dict(zip(metrics.names, map(float, row), strict=True)) for row in metrics.values]
        finite = np.isfinite(metrics.values[-1]).all()
        for row in rows if finite else rows[:-1]:
            self._state.add(row)
        if not finite:
            progress.print_line(self._recovery.recover(rows[-1], step))

    def _validate(self, step: int) -> ImageScores | RefinedScores | None:
        """The mean scores if validation is due; saves the checkpoint if it is the best."""
        if not self._is_due(step, self._config.training.eval_every):
            return None
        with self._model.averaged():
            scores = validate(self._model, self._validation, self._config.training.seed)
        bound = scores.log_likelihood
        if not math.isfinite(bound) and self._config.training.on_nonfinite == "stop":
            raise UserError(
                f"after step {step}: the validation bound is {bound}; "
                f"{recovery.what_now(self._workdir)}"
            )
        if math.isfinite(bound):
            self._checkpoints.save_if_best(bound)
        return scores

    def _is_due(self, step: int, every: int) -> bool:
        """Whether the epoch that ends at `step` is an `every`-th one or the last."""
        return step == self._end or step // self._per_epoch % every == 0


def validate(model: VAE, images: tf.Tensor, seed: int) -> ImageScores | RefinedScores:
    """Mean scores over observed `images` `[N, D]` at the model's fixed counts.

    The pixels and the draws are the same at every call, so two values compare. Every device
    and every worker takes batches of its own; all return the same.
    """
    batch, replicas = model.validation_images, distribution.replicas()
    kind = RefinedScores if model.method.refines else ImageScores

    def score(i: int) -> ImageScores | RefinedScores:
        folded = randomness.fold(seed, randomness.Purpose.VALIDATE, i)
        return model.validation_scores(images[i : i + batch], folded)

    starts = range(0, len(images), batch)
    scores = [
        found
        for i in range(0, len(starts), replicas)
        for found in distribution.scores(score, starts[i : i + replicas], batch)
    ]
    return kind(
        *(float(tf.reduce_mean(tf.concat(s, 0)[: len(images)])) for s in zip(*scores, strict=True))
    )
