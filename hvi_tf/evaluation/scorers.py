"""Functions that score images with the networks of a trained model, and the jobs that run them."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.config.estimators import counts, estimator, scoring_method
from hvi_tf.evaluation import jobs
from hvi_tf.evaluation.jobs import Job, Scorer
from hvi_tf.inference import image_scores, plans, refined_scores
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.methods import MIXTURE_SIZE
from hvi_tf.inference.plans import Plan
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.inference.svi import SVI
from hvi_tf.models.vae import VAE
from hvi_tf.storage.workdir import Workdir

# The settings of SVI behind the published scores.
REFINEMENT_STEPS, MOMENTUM, CLIP_NORM = 500, 0.5, 1.0
# The published IWAE scores take 1 to 5 times as many draws as BSVI takes steps.
MULTIPLES = 5
# The scores of SVI without a buffer; the bound comes first.
_SCORES_WITHOUT_BUFFER = ("elbo", "kl", "reconstruction", "elbo_start")


def make_job(
    config: Config, model: VAE, x: tf.Tensor, workdir: Workdir, step: int
) -> tuple[Job, dict[str, Any]]:
    """Returns the job of the configured estimator, and its entries in the summary.

    Args:
        config: the run's configuration, with the evaluation's settings.
        model: the model with the weights to score.
        x: all observations of the split `[N, D]`.
        workdir: the run's workdir; the scores are stored in its evaluation folder.
        step: the checkpoint's training step.
    """
    name = estimator(config)
    make = by_refinement if scoring_method(config).refines else by_sampling
    scorer = make(config, model, x)
    identity = run_identity(config, step) | {"estimator": name} | scorer.identity
    settings = " ".join(f"{n}={c}" for n, c in _named_counts(config).items() if c)
    job = jobs.make(
        scorer._replace(identity=identity),
        path=scores_path(workdir, config, step),
        check=workdir.check,
        title=f"evaluation {settings}",
        purpose=randomness.Purpose.EVALUATE,
    )
    return job, {"estimator": name, **_reported_counts(config), **scorer.metadata}


def scores_path(workdir: Workdir, config: Config, step: int) -> pathlib.Path:
    """Returns the path of the per-image scores; evaluations with other settings have other paths.

    Args:
        workdir: the run's workdir.
        config: the run's configuration, with the evaluation's settings.
        step: the checkpoint's training step.
    """
    e = config.evaluation
    is_default = e.estimator == "auto" and not config.chosen_method.refines
    parts = [e.eval_split, f"step{step}", *([] if is_default else [estimator(config)])]
    parts += [f"{n}{c}" for n, c in _named_counts(config).items() if c or n in "MK"]
    if scoring_method(config).refines:
        parts.append(f"lr{e.eval_svi_learning_rate:g}")
    if e.eval_defensive:
        parts.append(f"defensive{e.eval_defensive:g}")
    if e.eval_mixture_size != MIXTURE_SIZE:
        parts.append(f"of{e.eval_mixture_size}")
    return workdir.evaluation / f"{'_'.join(parts)}.npz"


def by_sampling(config: Config, model: VAE, x: tf.Tensor, **limits: int) -> Scorer:
    """Returns the scorer that bounds log p(x) by importance sampling.

    With `eval_steps`, the scores are the bounds of M, 2 M, ..., 5 M draws.

    Args:
        config: the run's configuration, with the evaluation's settings.
        model: the model with the weights to score.
        x: all observations of the split `[N, D]`.
        **limits: passed to `plans.make`.
    """
    plan = make_plan(config, model.rows_per_call, **limits)
    score = image_scores.make_scorer(model.prepare, scoring_method(config), plan, jit(config))
    score_rows = jobs.of_rows(score, x)
    identity: dict[str, Any] = {"plan": plan.identity()}
    if config.evaluation.eval_defensive:
        identity["defensive"] = config.evaluation.eval_defensive
    names: tuple[str, ...] = ImageScores._fields
    metadata = {}
    if config.evaluation.eval_steps:
        score_rows, names = jobs.of_rows(_at_multiples(score), x), tuple(multiple_names(plan.M))
        metadata = {"multiples": MULTIPLES}
    return Scorer(score_rows, names, plan.images, len(x), identity, metadata)


def by_refinement(config: Config, model: VAE, x: tf.Tensor) -> Scorer:
    """Returns the scorer that refines q(z|x) by SVI for each image, with or without a buffer.

    Args:
        config: the run's configuration, with the evaluation's settings.
        model: the model with the weights to score.
        x: all observations of the split `[N, D]`.
    """
    settings, draws = refinement(config), config.evaluation.eval_M
    score = refined_scores.make_scorer(
        model.localize, model.method, settings, draws=draws, jit_compile=jit(config)
    )
    names: tuple[str, ...] = RefinedScores._fields
    if scoring_method(config).scores_last_proposal:
        names = _SCORES_WITHOUT_BUFFER

    def select(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        scores = score(x, seed)._asdict()
        return tuple(scores[name] for name in names)

    identity = {"svi": settings._asdict(), "draws": draws}
    metadata = {"steps": settings.steps, "svi_learning_rate": settings.learning_rate}
    metadata |= {"svi_momentum": MOMENTUM, "svi_clip_norm": CLIP_NORM}
    return Scorer(jobs.of_rows(select, x), names, model.refined_images, len(x), identity, metadata)


def make_plan(config: Config, rows: int = plans.ROWS, **limits: int) -> Plan:
    """Returns the plan of an evaluation's draws; `limits` are passed to `plans.make`."""
    K, M, L = counts(config)
    return plans.make(scoring_method(config), Counts(K, M, max(L, 1)), rows=rows, **limits)


def refinement(config: Config) -> SVI:
    """Returns the settings of the evaluation's SVI, which do not depend on the training."""
    e, (K, _, L) = config.evaluation, counts(config)
    steps = e.eval_steps or REFINEMENT_STEPS
    return SVI(steps, e.eval_svi_learning_rate, MOMENTUM, CLIP_NORM, K=K, L=max(L, 1))


def multiple_names(M: int) -> list[str]:
    """Returns the names of the scores of M, 2 M, ..., 5 M draws."""
    return [f"log_likelihood_{M * (j + 1)}" for j in range(MULTIPLES)]


def run_identity(config: Config, step: int) -> dict[str, Any]:
    """Returns the settings of a run that every score of its checkpoint depends on."""
    return {"step": step, "seed": config.training.seed, "jit_compile": jit(config)}


def jit(config: Config) -> bool:
    """Returns whether the run compiles with XLA."""
    return config.training.jit_compile == "on"


def _reported_counts(config: Config) -> dict[str, Any]:
    """Returns the counts in the order of file names and summaries."""
    K, M, L = counts(config)
    return {"M": M, "K": K, "L": L}


def _named_counts(config: Config) -> dict[str, int]:
    """Returns the counts that the title and the file name of an evaluation show."""
    steps = config.evaluation.eval_steps
    named = _reported_counts(config)
    if scoring_method(config).refines:
        return {"steps": steps or REFINEMENT_STEPS, **named}
    return {**named, "x": MULTIPLES} if steps else named


def _at_multiples(
    score: Callable[[tf.Tensor, tf.Tensor], ImageScores],
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """Returns a function for the bounds of M, 2 M, ..., 5 M draws.

    The weights of j M draws are those of j independent sets of M, so the bound is the
    log-mean-exp of their j bounds.
    """

    def at_multiples(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parts = [score(x, tf.random.fold_in(seed, j)).log_likelihood for j in range(MULTIPLES)]
        sums = tf.math.cumulative_logsumexp(tf.stack(parts), axis=0)
        return tuple(s - math.log(j + 1) for j, s in enumerate(tf.unstack(sums)))

    return at_multiples
