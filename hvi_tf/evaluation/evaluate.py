"""Evaluates a run on its test split by the estimator that its configuration names."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import log_likelihood, sampling, seeds
from hvi_tf import workdir as workdirs
from hvi_tf.config import Config
from hvi_tf.data import datasets, pipeline
from hvi_tf.evaluation import annealing, resumable
from hvi_tf.evaluation.annealing import AnnealedScores, Annealing, BracketScores
from hvi_tf.evaluation.resumable import Job
from hvi_tf.log_likelihood import ImageScores, Plan
from hvi_tf.methods import METHODS, Method
from hvi_tf.models.vae import VAE
from hvi_tf.workdir import Workdir

# Annealed states per call: enough to fill the machine.
ANNEALED_STATES = 256
# Simulated images tell the bracket's width to 0.1 nats or so; their number need not grow.
MAX_SIMULATED = 100


class Counts(NamedTuple):
    """The counts of an evaluation as they are reported; 0 where there is nothing to draw."""

    M: int
    K: int
    L: int


def estimator_row(config: Config) -> Method:
    """The row that bounds log p(x): the one that was trained, unless another was asked for."""
    name = config.evaluation.estimator
    return METHODS.get(name, config.row)


def counts(config: Config) -> Counts:
    """The configured eval_M, eval_K and eval_L, where the estimator has a use for them."""
    e, row = config.evaluation, estimator_row(config)
    # A run of hvm is scored with eval_K as the paper does; --estimator=hvm asks for K=0.
    draws_psi = row.inverse in ("tau", "mixing") and (e.estimator == "auto" or row.K.free)
    draws_zeta = config.method.prior == "hierarchical" and row.zeta != "psi_0"
    return Counts(e.eval_M, e.eval_K if draws_psi else 0, e.eval_L if draws_zeta else 0)


def make_plan(config: Config) -> Plan:
    """The plan for these counts."""
    M, K, L = counts(config)
    return log_likelihood.make_plan(M, sampling.psi_per_z(estimator_row(config), K, M), max(L, 1))


def scores_path(workdir: Workdir, config: Config) -> pathlib.Path:
    """Where the per-image scores of an evaluation lie."""
    M, K, L = counts(config)
    name = config.evaluation.estimator
    parts = ["test", *([] if name == "auto" else [name]), f"M{M}", f"K{K}", *([f"L{L}"] * (L > 0))]
    return workdir.evaluation / f"{'_'.join(parts)}.npz"


def evaluate(
    config: Config, model: VAE, test: np.ndarray, workdir: Workdir, step: int
) -> dict[str, Any]:
    """Scores the first `eval_images` test images and writes the summary.

    Continues where an interrupted evaluation of the same checkpoint stopped.

    Args:
        config: of the run, with the wanted evaluation settings.
        model: with the weights to be scored.
        test: `[N, D]`, uint8 0 to 255 or float32 0 to 1.
        workdir: where scores and summary go.
        step: the checkpoint's training step, part of the scores' identity.

    Returns:
        The summary, as stored in JSON beside the scores.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if a score is not finite, or the disk is full.
    """
    x = pipeline.fixed_binarization(test, config.training.seed, seeds.Purpose.EVALUATE)
    num_images = min(config.evaluation.eval_images, len(test))
    if config.evaluation.estimator == "ais":
        return _evaluate_by_annealing(config, model, x, workdir, step, num_images)
    plan, row = make_plan(config), estimator_row(config)
    score = log_likelihood.make_scorer(model.callables, row, plan, _jit(config))
    job = Job(
        title="evaluation "
        + " ".join(f"{name}={n}" for name, n in counts(config)._asdict().items() if n),
        path=scores_path(workdir, config),
        identity=_identity(config, step) | {"estimator": row.name, "plan": plan._asdict()},
        names=ImageScores._fields,
        purpose=seeds.Purpose.EVALUATE,
        images=plan.images,
        available=len(test),
        score=lambda rows, seed: score(tf.gather(x, rows), seed),
    )
    scores, seconds = resumable.score_all(job, num_images, config.training.seed)
    summary = _summary(config, job, num_images, seconds, step)
    summary |= {"estimator": row.name, **counts(config)._asdict(), **resumable.means(scores)}
    workdirs.write_json(job.path.with_name(f"{job.path.stem}_N{num_images}.json"), summary)
    return summary


def _evaluate_by_annealing(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int, num_images: int
) -> dict[str, Any]:
    """Bounds test images from below, then simulated ones from both sides."""
    e = config.evaluation
    settings = Annealing(e.ais_chains, e.ais_steps, e.ais_leapfrog_steps)
    images = max(1, ANNEALED_STATES // settings.chains)
    name = f"ais_C{settings.chains}_T{settings.steps}_leapfrog{settings.leapfrog_steps}"
    identity = _identity(config, step) | {"annealing": settings._asdict()}
    anneal = annealing.make_annealer(model.callables, settings, _jit(config))
    test_job = Job(
        title="annealing, test",
        path=workdir.evaluation / f"test_{name}.npz",
        identity=identity,
        names=AnnealedScores._fields,
        purpose=seeds.Purpose.ANNEAL,
        images=images,
        available=len(x),
        score=lambda rows, seed: anneal(tf.gather(x, rows), seed),
    )
    scores, seconds = resumable.score_all(test_job, num_images, config.training.seed)

    simulated = annealing.simulate(
        model.callables, MAX_SIMULATED, seeds.fold(config.training.seed, seeds.Purpose.SIMULATE)
    )
    num_simulated = min(num_images, MAX_SIMULATED)
    bracket = annealing.make_bracketer(model.callables, settings, _jit(config))
    simulated_job = test_job._replace(
        title="annealing, simulated",
        path=workdir.evaluation / f"simulated_{name}.npz",
        names=BracketScores._fields,
        purpose=seeds.Purpose.BRACKET,
        available=MAX_SIMULATED,
        score=lambda rows, seed: bracket(simulated.take(rows), seed),
    )
    brackets, more_seconds = resumable.score_all(simulated_job, num_simulated, config.training.seed)
    summary = _summary(config, test_job, num_images, seconds + more_seconds, step)
    summary |= {"estimator": "ais", **settings._asdict(), **resumable.means(scores)}
    summary |= {"simulated_images": num_simulated, "simulated": resumable.means(brackets)}
    path = test_job.path.with_name(f"{test_job.path.stem}_N{num_images}.json")
    workdirs.write_json(path, summary)
    return summary


def _jit(config: Config) -> bool:
    return config.training.jit_compile == "on"


def _identity(config: Config, step: int) -> dict[str, Any]:
    return {"step": step, "seed": config.training.seed, "jit_compile": _jit(config)}


def _summary(
    config: Config, job: Job, num_images: int, seconds: float, step: int
) -> dict[str, Any]:
    return {
        "dataset": datasets.describe(config.data.dataset, config.data.data_digest),
        "bound": config.method.bound,
        "split": "test",
        "images": num_images,
        "step": step,
        "seconds": round(seconds, 1),
        "scores": str(job.path),
    }
