"""The evaluation of a trained run: chooses the estimator, runs it and writes the summary."""

import pathlib
from typing import Any

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.evaluation import adaptive, by_annealing, by_saved_model, jobs, scorers
from hvi_tf.evaluation import summary as summaries
from hvi_tf.models.vae import VAE
from hvi_tf.storage.workdir import Workdir


def evaluate(
    config: Config, model: VAE, data: Dataset, workdir: Workdir, step: int
) -> dict[str, Any]:
    """Scores the first `eval_images` images of a split and writes the summary.

    Resumes an interrupted evaluation of the same checkpoint.

    Args:
        config: the run's configuration, with the evaluation's settings.
        model: the model with the weights to score.
        data: `eval_split` names the images to score.
        workdir: the run's workdir; scores and summary are stored in its evaluation folder.
        step: the checkpoint's training step, part of the scores' identity.

    Returns:
        The summary, as stored in JSON next to the scores.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if a score is not finite, or the disk is full.
    """
    x = _observe(config, data)
    if config.evaluation.estimator == "ais":
        job, summary = by_annealing.evaluate(config, model, x, workdir, step)
    else:
        make_job = adaptive.make_job if config.evaluation.eval_tolerance else scorers.make_job
        job, metadata = make_job(config, model, x, workdir, step)
        scores, seconds = jobs.run(job, config)
        seconds += metadata.get("pilot_seconds", 0.0)
        summary = summaries.make(config, job, scores, seconds, step, metadata)
    summaries.write(job, summary)
    return summary


def evaluate_saved_model(
    config: Config, path: pathlib.Path, data: Dataset, workdir: Workdir
) -> dict[str, Any]:
    """Scores the first `eval_images` images of a split with a SavedModel.

    `log_likelihood` is the log-mean-exp of its `log_weights`. It is a lower bound on log p(x) if
    they are log importance weights. The export of a run's own checkpoint gets the score of the
    run's own estimator, with other draws of psi.

    Args:
        config: configuration of the run that the data belong to, with the evaluation's settings.
        path: folder of the SavedModel, as returned by `saved_model.find`.
        data: `eval_split` names the images to score.
        workdir: the run's workdir; scores and summary are stored in its evaluation folder.

    Returns:
        The summary, as stored in JSON next to the scores.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if the SavedModel has no such log-weights, or a score is not finite.
    """
    job, summary = by_saved_model.evaluate(config, path, _observe(config, data), workdir)
    summaries.write(job, summary)
    return summary


def _observe(config: Config, data: Dataset) -> tf.Tensor:
    """Returns the split `[N, D]` as every estimator observes it: with the same noise."""
    images = getattr(data, config.evaluation.eval_split)
    return pipeline.fixed_observation(
        images, config.model.likelihood, config.training.seed, randomness.Purpose.EVALUATE
    )
