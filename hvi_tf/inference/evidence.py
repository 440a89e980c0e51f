"""Bounds on the evidence of any model, with standard errors.

For example:

    import hvi_tf as hvi

    model = hvi.Model(prior, likelihood, conditional, mixing, tau)
    print(hvi.evidence(model, x, bound="diwhvi", K=20, M=1000))
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import arguments, randomness
from hvi_tf.bounds import diagnostics
from hvi_tf.inference import (
    image_scores,
    methods,
    model_checks,
    plans,
    refined_scores,
    validation,
)
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.methods import METHODS, MIXTURE_SIZE
from hvi_tf.inference.model import Localize, LocalModel, Model
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.inference.svi import SVI


class Evidence(NamedTuple):
    """A lower bound on log p(x), estimated by independent replicates.

    Attributes:
        mean: the mean over the replicates, `[B]`, nats. Its expectation is at most log p(x).
        standard_error: the standard error of the mean, `[B]`, nats.
        replicates: the bound of each replicate, `[R, B]`, nats.
        diagnostics: means over the replicates, each `[B]`; see `ImageScores` and
            `RefinedScores`. NaN if a quantity is not defined, such as the tail shape of few
            draws. `draws` is the number of weights of each replicate, M or k+1.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    replicates: np.ndarray
    diagnostics: dict[str, np.ndarray]

    def __str__(self) -> str:
        return "\n".join(self._line(i) for i in range(len(self.mean)))

    def _line(self, i: int) -> str:
        """Returns the bound on observation i and its diagnostics in one line."""
        failed = int(np.sum(np.isneginf(self.replicates[:, i])))
        if failed:
            return (
                f"log p(x[{i}]) >= -inf nats: in {failed} of {len(self.replicates)} replicates no "
                "draw has a positive density"
            )
        line = f"log p(x[{i}]) >= {self.mean[i]:.3f} +- {self.standard_error[i]:.3f} nats"
        size = self.diagnostics.get("ess_outer", self.diagnostics.get("ess_buffer"))
        draws = int(self.diagnostics.get("draws", np.ones(len(self.mean)))[i])
        if draws > 1 and size is not None:
            line += f"; effective sample size {size[i]:.1f} of {draws}"
        k = self.diagnostics.get("pareto_k_outer", np.full(len(self.mean), np.nan))[i]
        if np.isfinite(k):
            line += f", Pareto k {k:.2f}"
        if k > diagnostics.RELIABLE_PARETO_K:
            line += (
                f", above {diagnostics.RELIABLE_PARETO_K}: few draws dominate, do not rely on the "
                "error; raise M"
            )
        return line


def evidence(
    model: Model,
    x: tf.Tensor,
    *,
    bound: str = "diwhvi",
    K: int | None = None,
    M: int | None = None,
    L: int | None = None,
    defensive: float = 0.0,
    mixture_size: int = MIXTURE_SIZE,
    replicates: int = 10,
    seed: int = 0,
    jit_compile: bool = False,
) -> Evidence:
    """Returns lower bounds on log p(x) of every observation, with standard errors.

    Sobolev & Vetrov 2019, equation 6 (see `bounds.bound`), with the draws of the method:

        log p(x) >= E log 1/M sum_m exp(log p(x|z_m) + P_m - U_m)

    The sums over m, k and l are computed in chunks, so memory does not grow with M, K and L.

    Args:
        model: the callables.
        x: observations `[B, ...]`, B static.
        bound: a key of `METHODS`, except svi and bsvi.
        K: draws of psi for each z besides psi_0. None takes the method's default.
        M: draws of z. None takes the method's default.
        L: draws of zeta for each z under a hierarchical prior. None takes the method's default.
        defensive: the share of q(psi|x) in the mixture of diwhvi-mixture, from 0 to below 1.
        mixture_size: the largest number of z that share K psi in diwhvi-mixture. More z are
            scored in groups, each with its own K psi. 0 means that all M share psi.
        replicates: the number of independent repetitions, >= 2.
        seed: the seed from which every draw is folded, from 0 to 2^31 - 1.
        jit_compile: whether to compile the score by XLA.

    Returns:
        The mean over the replicates, its standard error and diagnostics.

    Raises:
        ValueError: if a count differs from the one that the method fixes, a shape of the model
            is wrong, or the bound is NaN or +inf.
        TypeError: if a distribution lacks a function that the method needs.
        RuntimeError: inside a tf.function, or under `tf.debugging.enable_check_numerics`.
    """
    validation.can_run("evidence")
    # A standard error needs two replicates.
    replicates = arguments.count("replicates", replicates, lowest=2)
    seed = arguments.seed(seed)
    x = validation.observations(x)
    method = validation.method_of(bound, defensive, mixture_size)
    counts = validation.counts(method, model, K=K, M=M, L=L)
    model_checks.check_model(model, method, x)
    rows, pairs = (max(1, at_once // x.shape[0]) for at_once in (plans.ROWS, plans.PAIRS))
    plan = plans.make(method, counts, rows=rows, pairs=pairs, max_images=1)
    score = image_scores.make_scorer(model, method, plan, jit_compile)
    scores = [
        score(x, randomness.fold(seed, randomness.Purpose.EVALUATE, replicate))
        for replicate in range(replicates)
    ]
    return _as_evidence(scores, plan.M)


def refined_evidence(
    localize: Localize,
    x: tf.Tensor,
    *,
    steps: int,
    learning_rate: float,
    momentum: float = 0.5,
    clip_norm: float = 1.0,
    bound: str = "bsvi",
    K: int | None = None,
    L: int = 1,
    draws: int = 1,
    replicates: int = 10,
    seed: int = 0,
    jit_compile: bool = False,
) -> Evidence:
    """Returns lower bounds on log p(x) after SVI has refined the proposal of each observation.

    Shu et al. 2019, theorem 1, for the k+1 proposals of the SVI loop (bsvi):

        log p(x) >= E log 1/(k+1) sum_i=0..k p(x,z_i) / q_lambda_i(z_i|x)

    or the ELBO of the last proposal (svi). Memory does not grow with the steps.

    Args:
        localize: x `[B, ...]` -> `LocalModel`, with lambda_0 and the model at a lambda.
        x: observations `[B, ...]`, B static.
        steps: k >= 1, the number of SVI steps.
        learning_rate: the step size of lambda, on the ELBO of a single observation.
        momentum: the momentum of lambda, in [0, 1).
        clip_norm: the largest gradient norm of an observation. 0 does not clip.
        bound: bsvi, or svi for the ELBO of the last proposal.
        K: draws of psi besides psi_0 at every step. None if the proposal is explicit.
        L: draws of zeta at every step, for a hierarchical prior.
        draws: draws of z from the last proposal.
        replicates: the number of independent repetitions, >= 2.
        seed: the seed from which every draw is folded, from 0 to 2^31 - 1.
        jit_compile: whether to compile the score by XLA.

    Returns:
        The mean over the replicates, its standard error and diagnostics. The diagnostics include
        elbo, kl and reconstruction of the last proposal and the effective sample size of the
        buffer (see `RefinedScores`).

    Raises:
        ValueError: if a number is out of range, a shape of the model at lambda_0 is wrong, or
            the bound is NaN or +inf.
        TypeError: if `localize` does not return a LocalModel, or a distribution lacks a function
            that the method needs.
        RuntimeError: inside a tf.function, or under `tf.debugging.enable_check_numerics`.
    """
    validation.can_run("refined_evidence")
    settings = SVI(steps, learning_rate, momentum, clip_norm, K=0 if K is None else K, L=L)
    settings = settings.checked()
    draws = arguments.count("draws", draws, lowest=1)
    replicates = arguments.count("replicates", replicates, lowest=2)
    seed = arguments.seed(seed)
    refining_methods = [name for name, method in METHODS.items() if method.refines]
    if not isinstance(bound, str) or bound not in refining_methods:
        choices = " or ".join(sorted(refining_methods))
        raise ValueError(f"bound={arguments.shown(bound)}: choose {choices}")
    x = validation.observations(x)
    method = methods.look_up(bound, "gaussian" if K is None else "hierarchical")
    local = model_checks.call("localize", localize, x)
    if not isinstance(local, LocalModel):
        raise TypeError(f"localize(x): a {type(local).__name__}, wanted a LocalModel")
    if local.start.shape.rank != 2 or local.start.shape[0] != x.shape[0]:
        raise ValueError(
            f"localize(x): start has shape {tuple(local.start.shape)}, wanted ({x.shape[0]}, P), "
            "a row of local parameters per observation"
        )
    model_checks.check_model(local.at(local.start), method, x, gradient="reparameterized")
    score = refined_scores.make_scorer(
        localize, method, settings, draws=draws, jit_compile=jit_compile
    )
    scores = [
        score(x, randomness.fold(seed, randomness.Purpose.EVALUATE, replicate))
        for replicate in range(replicates)
    ]
    if method.scores_last_proposal:
        scores = [s._replace(log_likelihood=s.elbo) for s in scores]
    return _as_evidence(scores, settings.steps + 1)


def _as_evidence(scores: Sequence[ImageScores | RefinedScores], draws: int) -> Evidence:
    """Returns the mean and standard error over the scores `[B]` of the replicates."""
    stacked = {
        name: np.stack([getattr(s, name).numpy() for s in scores]) for name in scores[0]._fields
    }
    values = stacked.pop("log_likelihood").astype(np.float64)
    for invalid, text, reason in (
        (np.isnan(values), "NaN", "a density is NaN"),
        (np.isposinf(values), "+inf", "a draw has an infinite density, or none under the proposal"),
    ):
        if invalid.any():
            i = int(np.argmax(invalid.any(axis=0)))
            raise ValueError(f"x[{i}]: the bound is {text}; {reason}")
    with np.errstate(invalid="ignore"):  # The spread of -inf is NaN.
        standard_error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return Evidence(
        mean=values.mean(axis=0),
        standard_error=standard_error,
        replicates=values,
        diagnostics={
            **{name: v.mean(axis=0) for name, v in stacked.items()},
            "draws": np.full(values.shape[1], draws),
        },
    )
