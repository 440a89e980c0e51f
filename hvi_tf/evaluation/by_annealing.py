"""The evaluation by annealed importance sampling: test images, then simulated ones."""

from typing import Any

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.evaluation import annealing, jobs, scorers, summary
from hvi_tf.evaluation.annealing import AnnealedScores, Annealing, BracketScores
from hvi_tf.evaluation.jobs import Job, Scorer
from hvi_tf.models.vae import VAE
from hvi_tf.storage.workdir import Workdir

# Annealed states per call: enough to fill the machine.
ANNEALED_STATES = 256
# This many simulated images give the bracket's width to about 0.1 nats.
MAX_SIMULATED = 100


def evaluate(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int
) -> tuple[Job, dict[str, Any]]:
    """Bounds log p(x) of real images from below, and of simulated images from both sides.

    Args:
        config: the run's configuration, with the evaluation's settings.
        model: the model with the weights to score.
        x: all observations of the split `[N, D]`.
        workdir: the run's workdir; the scores are stored in its evaluation folder.
        step: the checkpoint's training step.

    Returns:
        The job of the real images, and the summary of both.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if a score is not finite, or the disk is full.
    """
    e = config.evaluation
    settings = Annealing(e.ais_chains, e.ais_steps, e.ais_leapfrog_steps)
    name = f"step{step}_ais_C{settings.chains}_T{settings.steps}_leapfrog{settings.leapfrog_steps}"
    identity = scorers.run_identity(config, step) | {"annealing": settings._asdict()}
    real = jobs.make(
        _annealer(config, model, settings, x)._replace(identity=identity),
        path=workdir.evaluation / f"{e.eval_split}_{name}.npz",
        check=workdir.check,
        title=f"annealing, {e.eval_split}",
        purpose=randomness.Purpose.ANNEAL,
    )
    scores, seconds = jobs.run(real, config)
    simulated = jobs.make(
        _bracketer(config, model, settings)._replace(identity=identity),
        path=workdir.evaluation / f"simulated_{name}.npz",
        check=workdir.check,
        title="annealing, simulated",
        purpose=randomness.Purpose.BRACKET,
    )
    num_simulated = min(jobs.count(real, config), MAX_SIMULATED)
    brackets, more_seconds = jobs.score_all(simulated, num_simulated, config.training.seed)
    metadata = {"estimator": "ais", **settings._asdict()}
    of_real = summary.make(config, real, scores, seconds + more_seconds, step, metadata)
    of_simulated = summary.means(brackets)
    return real, of_real | {"simulated_images": num_simulated, "simulated": of_simulated}


def _annealer(config: Config, model: VAE, settings: Annealing, x: tf.Tensor) -> Scorer:
    anneal = annealing.make_annealer(model.callables, settings, scorers.jit(config))
    return Scorer(
        jobs.of_rows(anneal, x), AnnealedScores._fields, _images_per_call(settings), len(x), {}, {}
    )


def _bracketer(config: Config, model: VAE, settings: Annealing) -> Scorer:
    seed = randomness.fold(config.training.seed, randomness.Purpose.SIMULATE)
    simulated = annealing.simulate(model.callables, MAX_SIMULATED, seed)
    bracket = annealing.make_bracketer(model.callables, settings, scorers.jit(config))

    def score(rows: tf.Tensor, seed: tf.Tensor) -> BracketScores:
        return bracket(simulated.take(rows), seed)

    return Scorer(score, BracketScores._fields, _images_per_call(settings), MAX_SIMULATED, {}, {})


def _images_per_call(settings: Annealing) -> int:
    return max(1, ANNEALED_STATES // settings.chains)
