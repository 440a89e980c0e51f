"""A number of draws for each image, chosen by a pilot run to reach a tolerance.

Let CV be the coefficient of variation of the importance weights. The log of a mean of M weights has
a standard error of about CV / sqrt(M). It is below log p(x) by about CV^2 / (2 M). The pilot's
draws choose M and are never scored. Given M, a score is therefore an ordinary M-sample bound.
A rule that stops when the scored draws look good would choose M by the weights that it averages.
Such an average need not bound anything.

Weights of z that share psi depend on each other, so their error may exceed the pilot's estimate.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.evaluation import jobs, scorers
from hvi_tf.evaluation.jobs import Job, Scores
from hvi_tf.models.vae import VAE
from hvi_tf.storage.workdir import Workdir

# Draws of z in the pilot, and the smallest number that is scored.
PILOT = 100


def levels(most: int) -> list[int]:
    """Returns the numbers of draws to choose from: the pilot's, doubled until `most`."""
    counts = [min(PILOT, most)]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


def choose(ess: np.ndarray, tolerance: float, most: int) -> np.ndarray:
    """Returns the smallest level that reaches the tolerance, or else `most`; int64 `[N]`.

    Args:
        ess: effective sample size of each image's pilot `[N]`, between 1 and `PILOT`. A pilot
            underestimates the variance of weights with a heavy tail.
        tolerance: standard error to reach, nats.
        most: largest number of draws.
    """
    steps = np.array(levels(most))
    squared_variation = steps[0] / np.asarray(ess, np.float64) - 1.0
    needed = squared_variation / tolerance**2
    return steps[np.minimum(np.searchsorted(steps, needed), len(steps) - 1)]


def make_job(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int
) -> tuple[Job, dict[str, Any]]:
    """Runs the pilot; returns the job with the chosen draws, and its entries in the summary.

    Args:
        config: the run's configuration, with the evaluation's settings.
        model: the model with the weights to score.
        x: all observations of the split `[N, D]`.
        workdir: the run's workdir; the scores are stored in its evaluation folder.
        step: the checkpoint's training step.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM in the pilot, with its finished images saved.
    """
    e = config.evaluation
    largest, metadata = scorers.make_job(config, model, x, workdir, step)
    pilot, pilot_scores, seconds = _run_pilot(config, model, x, workdir, step)
    draws = choose(pilot_scores["ess_outer"], e.eval_tolerance, e.eval_M)
    by_draws = {
        M: scorers.by_sampling(_with_draws(config, M), model, x, max_images=1).score
        for M in map(int, set(draws))
    }

    def score(rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        M = int(draws[int(rows[0])])
        return (*by_draws[M](rows, seed), tf.constant([float(M)]))

    job = largest._replace(
        title=f"{largest.title} tolerance={e.eval_tolerance}",
        path=largest.path.with_name(f"{largest.path.stem}_tolerance{e.eval_tolerance:g}.npz"),
        identity={**largest.identity, "tolerance": e.eval_tolerance, "pilot": pilot.identity},
        names=(*largest.names, "draws"),
        images=1,  # because each image has its own number of draws
        score=score,
    )
    return job, metadata | {
        "eval_tolerance": e.eval_tolerance,
        "images_at_most_draws": int(np.sum(draws == e.eval_M)),
        "pilot_draws": levels(e.eval_M)[0],
        "pilot_seconds": round(seconds, 1),
    }


def _run_pilot(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int
) -> tuple[Job, Scores, float]:
    few = _with_draws(config, levels(config.evaluation.eval_M)[0])
    job, _ = scorers.make_job(few, model, x, workdir, step)
    pilot = job._replace(
        title=f"pilot {job.title}",
        path=job.path.with_name(f"{job.path.stem}_pilot.npz"),
        purpose=randomness.Purpose.PILOT,
    )
    return pilot, *jobs.run(pilot, config)


def _with_draws(config: Config, M: int) -> Config:
    e = config.evaluation
    return dataclasses.replace(config, evaluation=dataclasses.replace(e, eval_M=M))
