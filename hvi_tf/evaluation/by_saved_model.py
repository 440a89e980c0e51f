"""The evaluation by a SavedModel, which may come from another run or another program."""

import pathlib
from typing import Any

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.config.config import Config
from hvi_tf.config.settings import MAX_COUNT, EvaluationConfig
from hvi_tf.errors import UserError
from hvi_tf.evaluation import jobs, summary
from hvi_tf.evaluation import saved_model as saved_models
from hvi_tf.evaluation.jobs import Job, Scorer
from hvi_tf.inference import plans
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.plans import Plan
from hvi_tf.models import architecture
from hvi_tf.storage.workdir import Workdir

_DEFAULT_K = EvaluationConfig().eval_K


def evaluate(
    config: Config, path: pathlib.Path, x: tf.Tensor, workdir: Workdir
) -> tuple[Job, dict[str, Any]]:
    """Scores images with the log-weights of a SavedModel.

    Args:
        config: configuration of the run that the data belong to, with the evaluation's settings.
        path: folder of the SavedModel, as returned by `saved_models.find`.
        x: all observations of the split `[N, D]`.
        workdir: the run's workdir; the scores are stored in its evaluation folder.

    Returns:
        The job and its summary.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if the SavedModel has no such log-weights, or a score is not finite.
    """
    log_weights, draws_psi = saved_models.load(path, int(x.shape[1]))
    if draws_psi is None:  # a foreign SavedModel, without this function
        draws_psi = config.chosen_method.draws_psi or path != workdir.saved_model.resolve()
    M, K = config.evaluation.eval_M, _draws_of_psi(config, workdir, draws_psi)
    plan = _plan(config, M, K)
    digest = saved_models.digest(path)
    identity: dict[str, Any] = {"saved_model": digest, "plan": plan.identity(), "K": K}
    scorer = Scorer(
        score=jobs.of_rows(saved_models.make_scorer(log_weights, plan, K), x),
        names=saved_models.SCORES,
        images=plan.images,
        available=len(x),
        identity=identity | {"seed": config.training.seed},
        metadata={},
    )
    name = f"{config.evaluation.eval_split}_saved_model_{digest[:12]}_M{M}_K{K}"
    job = jobs.make(
        scorer,
        path=workdir.evaluation / f"{name}.npz",
        check=workdir.check,
        title=f"evaluation of the SavedModel M={M}{f' K={K}' if K else ''}",
        purpose=randomness.Purpose.EVALUATE,
    )
    scores, seconds = jobs.run(job, config)
    metadata: dict[str, Any] = {
        "estimator": "saved_model",
        "saved_model": str(path),
        "sha256": digest,
    }
    return job, summary.make(config, job, scores, seconds, None, metadata | {"M": M, "K": K})


def _draws_of_psi(config: Config, workdir: Workdir, draws_psi: bool) -> int:
    """Returns the draws of psi for each z; 0 if the SavedModel draws none."""
    K = config.evaluation.eval_K
    if not draws_psi and K not in (workdir.config.evaluation.eval_K, _DEFAULT_K):
        raise UserError(f"--eval_K={K}: this SavedModel draws no psi; leave it out")
    if draws_psi and K > MAX_COUNT:
        raise UserError(
            f"--eval_K={K}: a SavedModel draws all psi of a z at once; give at most {MAX_COUNT}"
        )
    return K if draws_psi else 0


def _plan(config: Config, M: int, K: int) -> Plan:
    """Returns the plan of the run's own method, because a SavedModel usually is its export.

    With the same plan, an explicit q(z|x) draws the same z as the checkpoint's evaluation.
    """
    rows, method = architecture.rows_per_call(config.model), config.chosen_method
    if method.shares_psi:
        method = method._replace(mixture_size=plans.most_at_once(method, K))
    return plans.make(method, Counts(K=K, M=M, L=config.method.L), rows=rows)
