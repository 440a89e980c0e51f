"""Scores images batch by batch on all devices and workers; goes on where it was stopped."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config import strict_json
from hvi_tf.config.settings import MAX_EVAL_COUNT
from hvi_tf.errors import UserError
from hvi_tf.runtime import replicas as distribution
from hvi_tf.runtime.interrupts import Interrupted, StopRequest
from hvi_tf.runtime.progress import Progress
from hvi_tf.storage import files

SAVE_EVERY_SECONDS = 10.0
_BYTES_PER_IMAGE = 8  # of a score in its file

Scores = dict[str, np.ndarray]


class Job(NamedTuple):
    """What is to be scored.

    Attributes:
        title: of the progress line.
        path: of the scores, an npz file.
        check: called before anything is written there; raises `UserError` if the folder has gone.
        identity: what the scores are a function of; scores of another identity are dropped.
        names: of the scores; the first is shown as it goes, and must be finite.
        purpose: of the seeds, that no other job's draws share.
        images: per call.
        available: number of images that there are.
        score: (rows int32 `[images]`, seed) -> the scores `[images]` of these images.
    """

    title: str
    path: pathlib.Path
    check: Callable[[], None]
    identity: dict[str, Any]
    names: tuple[str, ...]
    purpose: randomness.Purpose
    images: int
    available: int
    score: Callable[[tf.Tensor, tf.Tensor], tuple]


def score_all(job: Job, num_images: int, seed: int) -> tuple[Scores, float]:
    """Scores the first `num_images` images, or takes them from an earlier run.

    Args:
        job: what to score.
        num_images: how many, at most `job.available`.
        seed: the run's; each batch's is folded from it and its first image.

    Returns:
        The scores `[num_images]` by name, and the seconds that they took in all runs.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if a score is not finite, or the disk is full.
    """
    scores, seconds = _load(job)
    headline = job.names[0]
    done = len(scores[headline])
    distribution.check_same("scores of an earlier evaluation, of images", done)
    if done >= num_images:
        return {name: values[:num_images] for name, values in scores.items()}, seconds
    progress = Progress(job.title, "images", num_images, done)

    def score(first: int) -> tuple[tf.Tensor, ...]:
        # Batches begin at multiples of job.images and are always full, so an image's score
        # does not depend on how many images are scored, nor on who else scores some.
        rows = tf.range(first, first + job.images) % job.available
        return job.score(rows, randomness.fold(seed, job.purpose, first))

    started, saved = time.monotonic(), time.monotonic()
    with StopRequest() as stop:
        while done < num_images:
            before, starts = done, range(done, num_images, job.images)[: distribution.replicas()]
            for new in distribution.scores(score, starts, job.images):
                kept = (s[: job.available - done] for s in new)
                batch = dict(zip(job.names, kept, strict=True))
                _check_finite(batch, headline, done)
                scores = {name: np.concatenate([scores[name], batch[name]]) for name in job.names}
                done = len(scores[headline])
            mean: dict[str, Any] = {headline: float(np.mean(scores[headline][:num_images]))}
            progress.update(min(done, num_images) - before, **mean)
            stopping = distribution.any_worker(stop.requested)
            last = stopping or done >= num_images
            if last or time.monotonic() - saved > SAVE_EVERY_SECONDS:
                saved = time.monotonic()
                _save(job, scores, seconds + saved - started)
            if stopping:  # also at the end: another job may be next
                progress.close(**mean)
                distribution.barrier()  # nobody leaves before the chief has saved
                raise Interrupted(stop.signal)
    progress.close(**mean)
    seconds += saved - started  # as it was saved: asked again, the same is told
    return {name: values[:num_images] for name, values in scores.items()}, seconds


def means(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Mean and standard error over images of every score that tells something.

    The error of a single image is None.
    """
    summary: dict[str, dict[str, float | None]] = {}
    for name, values in scores.items():
        values = values.astype(np.float64)
        if np.isnan(values).all():
            continue  # such as a KL without psi
        n = len(values)
        error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
        summary[name] = {"mean": float(values.mean()), "standard_error": error}
    return summary


def _load(job: Job) -> tuple[Scores, float]:
    """The scores of an interrupted evaluation, or none if it was another one."""
    identity = job.identity | {"names": list(job.names)}
    empty = {name: np.zeros(0, np.float32) for name in job.names}
    if not job.path.exists():
        return empty, 0.0
    try:
        most = _BYTES_PER_IMAGE * (MAX_EVAL_COUNT + 1) * len(job.names)
        stored = str(files.read_arrays(job.path, ["identity"], most)["identity"])
        if strict_json.parse(stored) != identity:
            print(f"warning: {job.path} holds scores of other settings; they are replaced")
            return empty, 0.0
        found = files.read_arrays(job.path, [*job.names, "seconds"], most)
        seconds = float(found.pop("seconds"))
        if {s.shape for s in found.values()} != {(len(found[job.names[0]]),)}:
            raise ValueError("scores of different images")
        if any(s.dtype.kind not in "fiu" for s in found.values()):
            raise ValueError("scores that are no numbers")
        return found, seconds
    except (OSError, ValueError, TypeError) as error:
        print(f"warning: {job.path} is damaged ({error}); scoring all images anew")
        return empty, 0.0


def _save(job: Job, scores: Scores, seconds: float) -> None:
    if not distribution.is_chief():
        return
    identity = json.dumps(job.identity | {"names": list(job.names)})
    arrays: dict[str, Any] = {"identity": identity, "seconds": seconds, **scores}
    job.check()
    try:
        job.path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise files.write_error(job.path, error) from error
    files.write_arrays(job.path, arrays)


def _check_finite(batch: Scores, headline: str, first: int) -> None:
    for name, values in batch.items():
        if np.isnan(values).all() and name != headline:
            continue
        if not np.isfinite(values).all():
            image = first + int(np.argmin(np.isfinite(values)))
            raise UserError(f"image {image}: {name} is not finite; the model has diverged")
