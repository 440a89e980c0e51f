"""The training loop of the command line; one step is `VAE.train_step`."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import distribution, seeds
from hvi_tf.config import Config
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.interrupts import Interrupted, StopRequest
from hvi_tf.log_likelihood import ImageScores
from hvi_tf.models import vae
from hvi_tf.models.vae import VAE
from hvi_tf.progress import Progress
from hvi_tf.startup import StartUp
from hvi_tf.svi_scores import RefinedScores
from hvi_tf.training.checkpoints import Checkpoints
from hvi_tf.training.summaries import MAX_IMAGE_SUMMARIES, Summaries
from hvi_tf.workdir import Workdir


class TrainingResult(NamedTuple):
    """What a finished training is worth telling."""

    steps: int
    steps_per_second: float | None  # of the last epoch; None if nothing was left to do


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
        step: Callable = self._model.train_step
        if tf.distribute.has_strategy():
            step = self._replicated_step
        # Nothing in a step is for autograph to rewrite, and to look for it takes a second.
        step = tf.autograph.experimental.do_not_convert(step)

        @tf.function
        def loop(batches: Iterator[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
            rows = tf.TensorArray(tf.float32, size=count)
            for i in tf.range(count):
                metrics = step(next(batches))
                rows = rows.write(i, self._as_row(K, metrics))
            return rows.stack()

        return loop

    def _replicated_step(self, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        """`VAE.train_step` of a batch that the replicas share, each taking its own rows.

        Whether the weights are to change is decided for all of them, between its two halves.
        """
        strategy, model = tf.distribute.get_strategy(), self._model

        def ascent(batch: tf.Tensor) -> tuple:
            context = tf.distribute.get_replica_context()
            rows = batch.shape[0] // context.num_replicas_in_sync
            first = rows * tf.convert_to_tensor(context.replica_id_in_sync_group)
            return model.ascent(batch[first : first + rows])

        reported, direction = strategy.run(ascent, args=(batch,))
        reported = {n: strategy.experimental_local_results(v)[0] for n, v in reported.items()}
        vae.if_finite(reported, lambda: strategy.run(model.climb, args=(direction,)))
        return reported

    def _as_row(self, K: int, metrics: dict[str, tf.Tensor]) -> tf.Tensor:
        self._names[K] = tuple(metrics)
        return tf.stack(list(metrics.values()))


def check_data(config: Config, data: Dataset) -> None:
    """Raises `UserError` if these images cannot be trained on as configured."""
    pipeline.check_likelihood(data.train.dtype, config.data.dataset, config.model.likelihood)
    _check_batch_size(config.training.batch_size, distribution.replicas())
    if config.training.batch_size > len(data.train):
        raise UserError(
            f"--batch_size={config.training.batch_size}: {config.data.dataset} has only "
            f"{len(data.train)} training images; give at most that"
        )


def _check_batch_size(size: int, replicas: int) -> None:
    if size % replicas:
        lower = size // replicas * replicas
        fitting = f"{lower} or {lower + replicas}" if lower else f"{replicas}"
        raise UserError(
            f"--batch_size={size}: {replicas} replicas cannot share it evenly; give {fitting}"
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
        UserError: if a bound or gradient is not finite, or the disk is full.
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
        if t.max_steps:
            self._end = min(self._end, t.max_steps)
        self._likelihood = config.model.likelihood
        self._validation = pipeline.fixed_observation(
            data.validation, self._likelihood, t.seed, seeds.Purpose.VALIDATE
        )
        self._checkpoints = Checkpoints(model, workdir)
        self._run_steps = StepRunner(model)

    def run(self) -> TrainingResult:
        """See `train`."""
        t = self._config.training
        step = self._checkpoints.restore_latest()
        if step >= self._end or self._is_exhausted(step):
            return TrainingResult(step, None)
        if step:
            print(f"Resuming from step {step} of {self._end}.", flush=True)
        summaries = Summaries(self._workdir, self._config, self._data.image_shape)
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
            print(
                f"No better validation bound in {t.patience} epochs: training ends early.",
                flush=True,
            )
        return TrainingResult(step, rate)

    def _is_exhausted(self, step: int) -> bool:
        """Whether --patience epochs have passed since the best validation bound."""
        patience = self._config.training.patience
        since = step - self._checkpoints.best_step
        return bool(patience and step and since >= patience * self._per_epoch)

    def _epoch(
        self, step: int, batches: Iterator[tf.Tensor], summaries: Summaries, stop: StopRequest
    ) -> tuple[int, float]:
        """The rest of the epoch that `step` is in; returns the new step and steps/s.

        Raises:
            Interrupted: with a checkpoint saved; all workers together.
        """
        t = self._config.training
        epoch = step // self._per_epoch
        schedule = self._config.schedule(epoch)
        self._model.set_schedule(*schedule)
        title = f"epoch {epoch + 1}/{math.ceil(self._end / self._per_epoch)}"
        epoch_end = min((epoch + 1) * self._per_epoch, self._end)
        first = epoch * self._per_epoch
        progress = Progress(title, "step", epoch_end - first, done=step - first)
        means: dict[str, float] = {}
        tables = []
        while step < epoch_end and not distribution.any_worker(stop.requested):
            if self._start_up:
                metrics = self._first_step(batches, progress, self._start_up)
            else:
                metrics = self._run_steps(batches, min(t.steps_per_call, epoch_end - step))
            _check_finite(metrics, step, self._workdir)
            tables.append(metrics.values)
            step += len(metrics.values)
            means = dict(zip(metrics.names, np.mean(np.concatenate(tables), 0), strict=True))
            progress.update(len(metrics.values), self._end - epoch_end, train=means["bound"])
        rate = progress.rate
        if step < epoch_end:
            self._checkpoints.save()  # before anything is printed: the pipe may be gone
            progress.close(self._end - epoch_end)
            raise Interrupted(stop.signal)
        scores = self._validate(step)
        shown = {} if scores is None else {"validation": scores.log_likelihood}
        progress.close(self._end - step, train=means["bound"], **shown)
        summaries.epoch(step, means, schedule, rate, scores)
        if self._shows_images(step):
            summaries.images(step, self._model, self._validation)
        stopping = distribution.any_worker(stop.requested)
        if self._is_due(step, t.checkpoint_every) or stopping or self._is_exhausted(step):
            self._checkpoints.save()
        if stopping:
            raise Interrupted(stop.signal)
        return step, rate

    def _first_step(
        self, batches: Iterator[tf.Tensor], progress: Progress, start_up: StartUp
    ) -> StepMetrics:
        start_up.lap("model")
        metrics = self._run_steps(batches, 1)
        start_up.lap("compilation and step")
        progress.tell(str(start_up))
        self._start_up = None
        return metrics

    def _shows_images(self, step: int) -> bool:
        if self._model.autoregressive:  # whose images take long to draw
            return step == self._end or self._is_exhausted(step)
        epochs = math.ceil(self._end / self._per_epoch)
        return self._is_due(step, math.ceil(epochs / MAX_IMAGE_SUMMARIES))

    def _validate(self, step: int) -> ImageScores | RefinedScores | None:
        """The mean scores if validation is due; saves the checkpoint if it is the best."""
        if not self._is_due(step, self._config.training.eval_every):
            return None
        scores = validate(self._model, self._validation, self._config.training.seed)
        bound = scores.log_likelihood
        if not math.isfinite(bound):
            raise UserError(
                f"after step {step}: the validation bound is {bound}; training stopped and "
                f"the checkpoints in {self._workdir.checkpoints} are from before; try a smaller "
                "--learning_rate or a warm-up"
            )
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
        folded = seeds.fold(seed, seeds.Purpose.VALIDATE, i)
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


# In the order in which one spoils the next.
_CAUSES = (
    *("log_q_psi", "log_q_z_upper", "log_tau", "log_prior", "log_likelihood"),
    *("elbo_start", "elbo_end", "bound"),
)


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
