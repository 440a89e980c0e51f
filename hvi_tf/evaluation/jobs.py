"""Resumable jobs that score images batch by batch on all devices and workers."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config import strict_json
from hvi_tf.config.config import Config
from hvi_tf.config.settings import MAX_EVAL_COUNT
from hvi_tf.errors import UserError
from hvi_tf.runtime import replicas
from hvi_tf.runtime.interrupts import Interrupted, StopRequest
from hvi_tf.runtime.progress import Progress
from hvi_tf.storage import files, npz

SAVE_EVERY_SECONDS = 10.0
_BYTES_PER_IMAGE = 8  # upper limit for one score of one image in the file

Scores = dict[str, np.ndarray]
# Maps (rows int32 `[images]`, seed int32 `[2]`) to scores `[images]`.
ScoreRows = Callable[[tf.Tensor, tf.Tensor], tuple]


class Scorer(NamedTuple):
    """A function that scores images, with the settings that its scores depend on.

    Attributes:
        score: maps (rows int32 `[images]`, seed) to the scores `[images]` of these images.
        names: names of the scores.
        images: images per call.
        available: number of images that can be scored.
        identity: everything that the scores depend on.
        metadata: entries of the evaluation's summary.
    """

    score: ScoreRows
    names: tuple[str, ...]
    images: int
    available: int
    identity: dict[str, Any]
    metadata: dict[str, Any]


class Job(NamedTuple):
    """A scorer with the file that its scores are stored in.

    Attributes:
        title: title of the progress line.
        path: path of the npz file of the scores.
        check: called before each write; raises `UserError` if the folder was moved or deleted.
        identity: everything that the scores depend on. Stored scores of another identity are
            replaced.
        names: names of the scores. The progress line shows the first, which must be finite.
        purpose: purpose of the seeds; no other job draws with it.
        images: images per call.
        available: number of images that can be scored.
        score: maps (rows int32 `[images]`, seed) to the scores `[images]` of these images.
    """

    title: str
    path: pathlib.Path
    check: Callable[[], None]
    identity: dict[str, Any]
    names: tuple[str, ...]
    purpose: randomness.Purpose
    images: int
    available: int
    score: ScoreRows


def make(
    scorer: Scorer,
    *,
    path: pathlib.Path,
    check: Callable[[], None],
    title: str,
    purpose: randomness.Purpose,
) -> Job:
    """Returns the job that stores the scores of a scorer; see `Job` for the arguments."""
    return Job(
        title=title,
        path=path,
        check=check,
        identity=scorer.identity,
        names=scorer.names,
        purpose=purpose,
        images=scorer.images,
        available=scorer.available,
        score=scorer.score,
    )


def of_rows(score: Callable[[tf.Tensor, tf.Tensor], tuple], x: tf.Tensor) -> ScoreRows:
    """Returns `score`, a function of images `[images, D]`, as a function of rows of `x`."""
    return lambda rows, seed: score(tf.gather(x, rows), seed)


def count(job: Job, config: Config) -> int:
    """Returns the number of images to score: `eval_images`, or all if there are fewer."""
    return min(config.evaluation.eval_images, job.available)


def run(job: Job, config: Config) -> tuple[Scores, float]:
    """Scores as many images as the configuration requests; see `score_all`."""
    return score_all(job, count(job, config), config.training.seed)


def score_all(job: Job, num_images: int, seed: int) -> tuple[Scores, float]:
    """Scores the first `num_images` images, except those with stored scores.

    Args:
        job: the job to run.
        num_images: number of images, at most `job.available`.
        seed: the run's; each batch's seed is folded from it and the batch's first image.

    Returns:
        The scores `[num_images]` by name, and the seconds that they took in all commands.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if a score is not finite, or the disk is full.
    """
    scores, seconds = _load(job)
    headline = job.names[0]
    done = len(scores[headline])
    replicas.check_same("scores of an earlier evaluation, of images", done)
    if done >= num_images:
        return {name: values[:num_images] for name, values in scores.items()}, seconds
    progress = Progress(job.title, "images", num_images, done)
    started, saved = time.monotonic(), time.monotonic()
    with StopRequest() as stop:
        while done < num_images:
            before = done
            for batch in _next_batches(job, num_images, seed, done):
                _check_finite(batch, headline, done)
                scores = {name: np.concatenate([scores[name], batch[name]]) for name in job.names}
                done = len(scores[headline])
            mean: dict[str, Any] = {headline: float(np.mean(scores[headline][:num_images]))}
            progress.update(min(done, num_images) - before, **mean)
            stopping = replicas.any_worker(stop.requested)
            last = stopping or done >= num_images
            if last or time.monotonic() - saved > SAVE_EVERY_SECONDS:
                saved = time.monotonic()
                _save(job, scores, seconds + saved - started)
            if stopping:  # also after the last batch, because another job may follow
                progress.close(**mean)
                replicas.barrier()  # the chief has saved before any worker exits
                raise Interrupted(stop.signal)
    progress.close(**mean)
    seconds += saved - started  # as saved, so that a repeated command prints the same time
    return {name: values[:num_images] for name, values in scores.items()}, seconds


def _next_batches(job: Job, num_images: int, seed: int, done: int) -> list[Scores]:
    """Returns the scores of one batch per replica, from image `done` on.

    A batch starts at a multiple of `job.images` and is always full. So an image's score depends
    neither on the number of scored images nor on the number of replicas.
    """

    def score(first: int) -> tuple[tf.Tensor, ...]:
        rows = tf.range(first, first + job.images) % job.available
        return job.score(rows, randomness.fold(seed, job.purpose, first))

    starts = range(done, num_images, job.images)[: replicas.replicas()]
    return [
        dict(zip(job.names, (v[: job.available - start] for v in values), strict=True))
        for start, values in zip(starts, replicas.scores(score, starts, job.images), strict=True)
    ]


def _load(job: Job) -> tuple[Scores, float]:
    """Returns the stored scores and their seconds; none if they belong to another evaluation."""
    identity = job.identity | {"names": list(job.names)}
    empty = {name: np.zeros(0, np.float32) for name in job.names}
    if not job.path.exists():
        return empty, 0.0
    try:
        max_bytes = _BYTES_PER_IMAGE * (MAX_EVAL_COUNT + 1) * len(job.names)
        stored = str(npz.read_arrays(job.path, ["identity"], max_bytes)["identity"])
        if strict_json.parse(stored) != identity:
            print(f"warning: {job.path} holds scores of other settings; replacing them")
            return empty, 0.0
        scores = npz.read_arrays(job.path, [*job.names, "seconds"], max_bytes)
        seconds = float(scores.pop("seconds"))
        if {s.shape for s in scores.values()} != {(len(scores[job.names[0]]),)}:
            raise ValueError("the scores differ in their number of images")
        if any(s.dtype.kind not in "fiu" for s in scores.values()):
            raise ValueError("a score is not a number")
        return scores, seconds
    except (OSError, ValueError, TypeError) as error:
        print(f"warning: {job.path} is damaged ({error}); scoring all images again")
        return empty, 0.0


def _save(job: Job, scores: Scores, seconds: float) -> None:
    if not replicas.is_chief():
        return
    identity = json.dumps(job.identity | {"names": list(job.names)})
    arrays: dict[str, Any] = {"identity": identity, "seconds": seconds, **scores}
    job.check()
    try:
        job.path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise files.write_error(job.path, error) from error
    npz.write_arrays(job.path, arrays)


def _check_finite(batch: Scores, headline: str, first: int) -> None:
    for name, values in batch.items():
        if np.isnan(values).all() and name != headline:
            continue
        if not np.isfinite(values).all():
            image = first + int(np.argmin(np.isfinite(values)))
            raise UserError(f"image {image}: {name} is not finite; the model has diverged")
