"""The log-likelihood score of any method, computed in chunks over m, k and l.

The sums over m, k and l are accumulated as log-sum-exps. Up to rounding, the value is that of
`bounds.bound` on all draws at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf.bounds import diagnostics
from hvi_tf.bounds.streaming import Streamed, add_to_largest, no_largest
from hvi_tf.inference.draw_scores import DrawScores, nan_like, score_chunk
from hvi_tf.inference.group_scores import score_group
from hvi_tf.inference.methods import Method
from hvi_tf.inference.model import Model, Prepare, prepared
from hvi_tf.inference.plans import Plan


class ImageScores(NamedTuple):
    """Scores of each image, `[N]`, in nats except for sample sizes and tail shapes.

    A score that a method does not have is NaN. KLs and the diagnostics of inner weights are means
    over all draws of z, or over the first 64 of each group that shares psi.

    Attributes:
        log_likelihood: the M-sample bound on log p(x).
        bound: the M=1 bound with the same K and L, averaged over the M draws.
        kl_tau_mixing: estimate of KL(tau(psi|z,x) || q(psi|x)).
        kl_tau_posterior: lower estimate of KL(tau(psi|z,x) || q(psi|z,x)). For shared psi, tau
            is the mixture.
        kl_mixing_posterior: lower estimate of KL(q(psi|x) || q(psi|z,x)).
        ess_outer: effective sample size of the M weights.
        ess_inner: effective sample size of the K + 1 weights.
        pareto_k_outer: tail shape of the M weights.
        pareto_k_inner: tail shape of the K + 1 weights.
    """

    log_likelihood: tf.Tensor
    bound: tf.Tensor
    kl_tau_mixing: tf.Tensor
    kl_tau_posterior: tf.Tensor
    kl_mixing_posterior: tf.Tensor
    ess_outer: tf.Tensor
    ess_inner: tf.Tensor
    pareto_k_outer: tf.Tensor
    pareto_k_inner: tf.Tensor


def score_images(
    model: Model | Prepare,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    seed: tf.Tensor,
) -> ImageScores:
    """Returns M-sample bounds on log p(x) and their diagnostics for a batch of observations.

    Sobolev & Vetrov 2019, equation 6, which is the test log-likelihood of their section 6.2:

        E log 1/M sum_m exp(log p(x|z_m) + P_m - U_m) <= log p(x)

    For an explicit proposal it is the IWAE bound with M samples.

    Args:
        model: the callables, or a function that makes them for x.
        method: the method.
        plan: the counts and the chunks, where `plan.K` is `Method.psi_per_z`.
        x: observations `[B, ...]`.
        seed: int32 `[2]`. The scores are a pure function of it and the plan.

    Returns:
        Scores `[B]`. The expectation of `log_likelihood` is at most log p(x).
    """
    model = prepared(model, x)
    zeros = tf.zeros(tf.shape(x)[:1], _dtype(model, method, x))
    outer = Streamed.empty(zeros)
    tail = diagnostics.tail_length(plan.M)
    largest = no_largest(tail + 1 if tail else 0, zeros)
    sums = DrawScores(*[zeros] * len(DrawScores._fields))
    score, size, chunks = score_chunk, plan.chunk_m, plan.m_chunks
    if plan.group:
        score, size, chunks = score_group, plan.group, plan.groups
    for i in tf.range(chunks):
        scores = score(model, method, plan, x, seed, i)
        is_drawn = (i * size + tf.range(size) < plan.M)[:, tf.newaxis]
        alpha = tf.where(is_drawn, scores.alpha, -float("inf"))
        outer, largest = outer.add(alpha), add_to_largest(largest, alpha)
        sums = DrawScores(
            *(
                total + tf.reduce_sum(tf.where(is_drawn, score, 0.0), axis=0)
                for total, score in zip(sums, scores, strict=True)
            )
        )
    means = DrawScores(*(total / plan.M for total in sums))
    return ImageScores(
        log_likelihood=outer.log_mean(plan.M),
        bound=means.alpha,
        kl_tau_mixing=means.kl_tau_mixing,
        kl_tau_posterior=means.kl_tau_posterior,
        kl_mixing_posterior=means.kl_mixing_posterior,
        ess_outer=outer.effective_sample_size(),
        ess_inner=means.ess_inner,
        pareto_k_outer=diagnostics.pareto_k(largest) if tail else nan_like(zeros),
        pareto_k_inner=means.pareto_k_inner,
    )


def _dtype(model: Model, method: Method, x: tf.Tensor) -> tf.DType:
    """Returns the dtype of the densities, which is not that of x if x has whole numbers."""
    q = model.mixing(x) if method.hierarchical else model.conditional(None, x)
    return q.sample(1, seed=tf.constant([0, 0])).dtype


def make_scorer(
    model: Model | Prepare, method: Method, plan: Plan, jit_compile: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], ImageScores]:
    """Returns `score_images` as a compiled function of (x, seed).

    Args:
        model: the callables, or a function that makes them for x.
        method: the method.
        plan: the counts and the chunks.
        jit_compile: whether to compile by XLA.
    """

    @tf.function(jit_compile=jit_compile)
    def score(x: tf.Tensor, seed: tf.Tensor) -> ImageScores:
        return score_images(model, method, plan, x, seed)

    return score
