"""Evaluates a run by the estimator, and on the split, that its configuration names."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.config.estimators import counts, estimator, estimator_row
from hvi_tf.config.settings import MAX_COUNT, EvaluationConfig
from hvi_tf.data import datasets, pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.evaluation import adaptive as tolerance
from hvi_tf.evaluation import annealing
from hvi_tf.evaluation import jobs as resumable
from hvi_tf.evaluation import saved_model as saved_models
from hvi_tf.evaluation.annealing import AnnealedScores, Annealing, BracketScores
from hvi_tf.evaluation.jobs import Job
from hvi_tf.inference import image_scores as log_likelihood
from hvi_tf.inference import plans
from hvi_tf.inference import refined_scores as svi_scores
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.methods import MIXTURE_SIZE, Counts
from hvi_tf.inference.plans import Plan
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.inference.svi import SVI
from hvi_tf.models import architecture
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas as distribution
from hvi_tf.storage import files
from hvi_tf.storage.workdir import Workdir

# Of SVI in the published scores.
REFINEMENT_STEPS, MOMENTUM, CLIP_NORM = 500, 0.5, 1.0
# IWAE is published beside BSVI with up to 5 times as many draws as BSVI has steps.
MULTIPLES = 5
# What SVI tells without a buffer; the bound comes first.
_REFINED_ALONE = ("elbo", "kl", "reconstruction", "elbo_start")
# Annealed states per call: enough to fill the machine.
ANNEALED_STATES = 256
# Simulated images tell the bracket's width to 0.1 nats or so; their number need not grow.
MAX_SIMULATED = 100
_DEFAULT_K = EvaluationConfig().eval_K


def make_plan(config: Config, rows: int = plans.ROWS, **limits: int) -> Plan:
    """The plan for these counts; `limits` as of `plans.make`."""
    M, K, L = counts(config)
    return plans.make(estimator_row(config), Counts(K=K, M=M, L=max(L, 1)), rows=rows, **limits)


def refinement(config: Config) -> SVI:
    """The inner loop of the evaluation, the same for every model however it was trained."""
    e, (_, K, L) = config.evaluation, counts(config)
    steps = e.eval_steps or REFINEMENT_STEPS
    return SVI(steps, e.eval_svi_learning_rate, MOMENTUM, CLIP_NORM, K=K, L=max(L, 1))


def scores_path(workdir: Workdir, config: Config, step: int) -> pathlib.Path:
    """Returns the path of an evaluation's per-image scores; each setting has its own file."""
    e = config.evaluation
    own = e.estimator == "auto" and not config.row.refines
    parts = [e.eval_split, f"step{step}", *([] if own else [estimator(config)])]
    parts += [f"{n}{c}" for n, c in _shown_counts(config).items() if c or n in "MK"]
    if estimator_row(config).refines:
        parts.append(f"lr{e.eval_svi_learning_rate:g}")
    if e.eval_defensive:
        parts.append(f"defensive{e.eval_defensive:g}")
    if e.eval_mixture_size != MIXTURE_SIZE:
        parts.append(f"of{e.eval_mixture_size}")
    return workdir.evaluation / f"{'_'.join(parts)}.npz"


def _shown_counts(config: Config) -> dict[str, int]:
    steps = config.evaluation.eval_steps
    shown = counts(config)._asdict()
    if estimator_row(config).refines:
        return {"steps": steps or REFINEMENT_STEPS, **shown}
    return {**shown, "x": MULTIPLES} if steps else shown


def evaluate(
    config: Config, model: VAE, data: Dataset, workdir: Workdir, step: int
) -> dict[str, Any]:
    """Scores the first `eval_images` images of a split and writes the summary.

    Continues where an interrupted evaluation of the same checkpoint stopped.

    Args:
        config: of the run, with the wanted evaluation settings.
        model: with the weights to be scored.
        data: of which `eval_split` names the images.
        workdir: where scores and summary go.
        step: the checkpoint's training step, part of the scores' identity.

    Returns:
        The summary, as stored in JSON beside the scores.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if a score is not finite, or the disk is full.
    """
    x, num_images = _observed(config, data)
    if config.evaluation.estimator == "ais":
        return _evaluate_by_annealing(config, model, x, workdir, step, num_images)
    make = _adaptive_job if config.evaluation.eval_tolerance else _job
    job, told = make(config, model, x, workdir, step, num_images)
    scores, seconds = resumable.score_all(job, num_images, config.training.seed)
    seconds += told.get("pilot_seconds", 0.0)
    summary = _summary(config, job, num_images, seconds, step) | told | resumable.means(scores)
    return _written(summary, job, num_images)


def _observed(config: Config, data: Dataset) -> tuple[tf.Tensor, int]:
    """The split as every estimator observes it, and how many of its images to score."""
    images = getattr(data, config.evaluation.eval_split)
    x = pipeline.fixed_observation(
        images, config.model.likelihood, config.training.seed, randomness.Purpose.EVALUATE
    )
    return x, min(config.evaluation.eval_images, len(images))


class _Estimator(NamedTuple):
    """A way to score images; what its scores are a function of, and what is told of it."""

    score: Callable[[tf.Tensor, tf.Tensor], tuple]
    names: tuple[str, ...]
    images: int  # per call
    identity: dict[str, Any]
    told: dict[str, Any]


def _job(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int, num_images: int
) -> tuple[Job, dict[str, Any]]:
    """How the configured estimator scores the images, and what the summary says of it."""
    del num_images  # what an image's score is does not depend on how many there are
    name = estimator(config)
    make = _refining if estimator_row(config).refines else _sampling
    found = make(config, model)
    job = Job(
        title="evaluation " + " ".join(f"{n}={c}" for n, c in _shown_counts(config).items() if c),
        path=scores_path(workdir, config, step),
        check=workdir.check,
        identity=_identity(config, step) | {"estimator": name} | found.identity,
        names=found.names,
        purpose=randomness.Purpose.EVALUATE,
        images=found.images,
        available=len(x),
        score=lambda rows, seed: found.score(tf.gather(x, rows), seed),
    )
    return job, {"estimator": name, **counts(config)._asdict(), **found.told}


def _adaptive_job(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int, num_images: int
) -> tuple[Job, dict[str, Any]]:
    """As `_job`, with as many draws for each image as a pilot finds it to need."""
    e = config.evaluation

    def with_draws(M: int) -> Config:
        return dataclasses.replace(config, evaluation=dataclasses.replace(e, eval_M=M))

    steps = tolerance.levels(e.eval_M)
    pilot, _ = _job(with_draws(steps[0]), model, x, workdir, step, num_images)
    pilot = pilot._replace(
        title=f"pilot {pilot.title}",
        path=pilot.path.with_name(f"{pilot.path.stem}_pilot.npz"),
        purpose=randomness.Purpose.PILOT,
    )
    found, seconds = resumable.score_all(pilot, num_images, config.training.seed)
    draws = tolerance.choose(found["ess_outer"], e.eval_tolerance, e.eval_M)
    scorers = {M: _sampling(with_draws(M), model, max_images=1).score for M in map(int, set(draws))}

    def score(rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        M = int(draws[int(rows[0])])
        return (*scorers[M](tf.gather(x, rows), seed), tf.constant([float(M)]))

    largest, told = _job(config, model, x, workdir, step, num_images)
    job = largest._replace(
        title=f"{largest.title} tolerance={e.eval_tolerance}",
        path=largest.path.with_name(f"{largest.path.stem}_tolerance{e.eval_tolerance:g}.npz"),
        identity={**largest.identity, "tolerance": e.eval_tolerance, "pilot": pilot.identity},
        names=(*largest.names, "draws"),
        images=1,  # for each has a number of draws of its own
        score=score,
    )
    at_most = int(np.sum(draws == e.eval_M))
    told |= {"eval_tolerance": e.eval_tolerance, "images_at_most_draws": at_most}
    return job, told | {"pilot_draws": steps[0], "pilot_seconds": round(seconds, 1)}


def _sampling(config: Config, model: VAE, **limits: int) -> _Estimator:
    plan = make_plan(config, model.rows_per_call, **limits)
    score = log_likelihood.make_scorer(model.prepare, estimator_row(config), plan, _jit(config))
    identity: dict[str, Any] = {"plan": plan.identity()}
    if config.evaluation.eval_defensive:
        identity["defensive"] = config.evaluation.eval_defensive
    if not config.evaluation.eval_steps:
        return _Estimator(score, ImageScores._fields, plan.images, identity, {})
    names = tuple(multiple_names(plan.M))
    told = {"multiples": MULTIPLES}
    return _Estimator(_at_multiples(score), names, plan.images, identity, told)


def _refining(config: Config, model: VAE) -> _Estimator:
    settings, draws = refinement(config), config.evaluation.eval_M
    score = svi_scores.make_scorer(
        model.localize, model.method, settings, draws=draws, jit_compile=_jit(config)
    )
    names: tuple[str, ...] = RefinedScores._fields
    if estimator_row(config).scores_last_proposal:
        names = _REFINED_ALONE

    def named(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        scores = score(x, seed)._asdict()
        return tuple(scores[name] for name in names)

    identity = {"svi": settings._asdict(), "draws": draws}
    told = {"steps": settings.steps, "svi_learning_rate": settings.learning_rate}
    told |= {"svi_momentum": MOMENTUM, "svi_clip_norm": CLIP_NORM}
    return _Estimator(named, names, model.refined_images, identity, told)


def multiple_names(M: int) -> list[str]:
    """The scores of M, 2 M, ..., 5 M draws."""
    return [f"log_likelihood_{M * (j + 1)}" for j in range(MULTIPLES)]


def _at_multiples(
    score: Callable[[tf.Tensor, tf.Tensor], ImageScores],
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """The bounds of M, 2 M, ..., 5 M draws: means of the weights of independent M."""

    def at_multiples(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parts = [score(x, tf.random.fold_in(seed, j)).log_likelihood for j in range(MULTIPLES)]
        sums = tf.math.cumulative_logsumexp(tf.stack(parts), axis=0)
        return tuple(s - math.log(j + 1) for j, s in enumerate(tf.unstack(sums)))

    return at_multiples


def _evaluate_by_annealing(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int, num_images: int
) -> dict[str, Any]:
    """Bounds real images from below, then simulated ones from both sides."""
    e = config.evaluation
    settings = Annealing(e.ais_chains, e.ais_steps, e.ais_leapfrog_steps)
    images = max(1, ANNEALED_STATES // settings.chains)
    name = f"step{step}_ais_C{settings.chains}_T{settings.steps}_leapfrog{settings.leapfrog_steps}"
    identity = _identity(config, step) | {"annealing": settings._asdict()}
    anneal = annealing.make_annealer(model.callables, settings, _jit(config))
    real_job = Job(
        title=f"annealing, {e.eval_split}",
        path=workdir.evaluation / f"{e.eval_split}_{name}.npz",
        check=workdir.check,
        identity=identity,
        names=AnnealedScores._fields,
        purpose=randomness.Purpose.ANNEAL,
        images=images,
        available=len(x),
        score=lambda rows, seed: anneal(tf.gather(x, rows), seed),
    )
    scores, seconds = resumable.score_all(real_job, num_images, config.training.seed)

    simulated = annealing.simulate(
        model.callables,
        MAX_SIMULATED,
        randomness.fold(config.training.seed, randomness.Purpose.SIMULATE),
    )
    num_simulated = min(num_images, MAX_SIMULATED)
    bracket = annealing.make_bracketer(model.callables, settings, _jit(config))
    simulated_job = real_job._replace(
        title="annealing, simulated",
        path=workdir.evaluation / f"simulated_{name}.npz",
        names=BracketScores._fields,
        purpose=randomness.Purpose.BRACKET,
        available=MAX_SIMULATED,
        score=lambda rows, seed: bracket(simulated.take(rows), seed),
    )
    brackets, more_seconds = resumable.score_all(simulated_job, num_simulated, config.training.seed)
    summary = _summary(config, real_job, num_images, seconds + more_seconds, step)
    summary |= {"estimator": "ais", **settings._asdict(), **resumable.means(scores)}
    summary |= {"simulated_images": num_simulated, "simulated": resumable.means(brackets)}
    return _written(summary, real_job, num_images)


def evaluate_saved_model(
    config: Config, path: pathlib.Path, data: Dataset, workdir: Workdir
) -> dict[str, Any]:
    """Scores the first `eval_images` images of a split by what a SavedModel says of them.

    `log_likelihood` is the log-mean-exp of its `log_weights`, a lower bound on log p(x) if they
    are what they are called. With the export of a run's own checkpoint it is the score of the
    run's own estimator, of other draws where there are psi.

    Args:
        config: of the run whose data are scored, with the wanted evaluation settings.
        path: of the SavedModel, as `saved_models.find` has found it.
        data: of which `eval_split` names the images.
        workdir: where scores and summary go.

    Returns:
        The summary, as stored in JSON beside the scores.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if it is no SavedModel with such log-weights, or a score is not finite.
    """
    x, num_images = _observed(config, data)
    log_weights, draws_psi = saved_models.load(path, int(x.shape[1]))
    if draws_psi is None:
        draws_psi = config.row.draws_psi or path != workdir.saved_model.resolve()
    e = config.evaluation
    if not draws_psi and e.eval_K not in (workdir.config.evaluation.eval_K, _DEFAULT_K):
        raise UserError(f"--eval_K={e.eval_K}: this SavedModel draws no psi; leave it out")
    M, K = e.eval_M, e.eval_K if draws_psi else 0
    if K > MAX_COUNT:
        raise UserError(
            f"--eval_K={K}: a SavedModel draws all psi of a z at once; give at most {MAX_COUNT}"
        )
    # As for the run's own row, whose export it mostly is: then explicit q(z|x) draw the same z.
    rows, row = architecture.rows_per_call(config.model), config.row
    if row.shares_psi:
        row = row._replace(mixture_size=plans.most_at_once(row, K))
    plan = plans.make(row, Counts(K=K, M=M, L=config.method.L), rows=rows)
    score = saved_models.make_scorer(log_weights, plan, K)
    digest, seed = saved_models.digest(path), config.training.seed
    name = f"{config.evaluation.eval_split}_saved_model_{digest[:12]}_M{M}_K{K}"
    job = Job(
        title=f"evaluation of the SavedModel M={M}{f' K={K}' if K else ''}",
        path=workdir.evaluation / f"{name}.npz",
        check=workdir.check,
        identity={"saved_model": digest, "plan": plan.identity(), "K": K, "seed": seed},
        names=saved_models.SCORES,
        purpose=randomness.Purpose.EVALUATE,
        images=plan.images,
        available=len(x),
        score=lambda rows, seed: score(tf.gather(x, rows), seed),
    )
    scores, seconds = resumable.score_all(job, num_images, seed)
    told = {"estimator": "saved_model", "saved_model": str(path), "sha256": digest, "M": M, "K": K}
    summary = _summary(config, job, num_images, seconds, None) | told | resumable.means(scores)
    return _written(summary, job, num_images)


def _written(summary: dict[str, Any], job: Job, num_images: int) -> dict[str, Any]:
    if distribution.is_chief():
        files.write_json(job.path.with_name(f"{job.path.stem}_N{num_images}.json"), summary)
    return summary


def _jit(config: Config) -> bool:
    return config.training.jit_compile == "on"


def _identity(config: Config, step: int) -> dict[str, Any]:
    return {"step": step, "seed": config.training.seed, "jit_compile": _jit(config)}


def _summary(
    config: Config, job: Job, num_images: int, seconds: float, step: int | None
) -> dict[str, Any]:
    return {
        "dataset": datasets.describe(config.data.dataset, config.data.data_digest),
        "bound": config.method.bound,
        "split": config.evaluation.eval_split,
        "images": num_images,
        "step": step,
        "seconds": round(seconds, 1),
        "scores": str(job.path),
    }
