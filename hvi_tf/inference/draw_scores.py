"""Scores of every draw of z, each with its own psi.

Sums over k and l are accumulated in chunks, in memory that does not grow with K and L.
"""

from typing import NamedTuple

import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.bounds import diagnostics
from hvi_tf.bounds.streaming import Streamed, add_to_largest, no_largest
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import priors, sampling
from hvi_tf.inference.methods import Counts, Method
from hvi_tf.inference.model import LatentSample, Model
from hvi_tf.inference.plans import Plan
from hvi_tf.randomness import ChunkStream


class DrawScores(NamedTuple):
    """Scores and diagnostics of m draws of z, each `[m, B]`.

    Attributes:
        alpha: log p(x|z) + P - U_K, the log of the outer weight, nats.
        kl_tau_mixing: estimate of KL(tau(psi|z,x) || q(psi|x)), nats.
        kl_tau_posterior: lower estimate of KL(tau(psi|z,x) || q(psi|z,x)), nats.
        kl_mixing_posterior: lower estimate of KL(q(psi|x) || q(psi|z,x)), nats.
        ess_inner: effective sample size of the K + 1 inner weights.
        pareto_k_inner: tail shape of the K + 1 inner weights.
    """

    alpha: tf.Tensor
    kl_tau_mixing: tf.Tensor
    kl_tau_posterior: tf.Tensor
    kl_mixing_posterior: tf.Tensor
    ess_inner: tf.Tensor
    pareto_k_inner: tf.Tensor


def nan_like(like: tf.Tensor) -> tf.Tensor:
    """Returns NaN in the shape and dtype of a tensor.

    Args:
        like: the tensor.
    """
    return tf.zeros_like(like) + float("nan")


def score_chunk(
    model: Model,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    seed: tf.Tensor,
    i: tf.Tensor,
) -> DrawScores:
    """Draws one chunk of z and scores it.

    The score of a draw is alpha = log p(x|z) + P - U_K, with sums over k and l in chunks.

    Args:
        model: the callables.
        method: the method, whose z do not share psi.
        plan: the counts and the chunks.
        x: observations `[B, ...]`.
        seed: int32 `[2]`. The scores are a pure function of it, i and the plan.
        i: the index of the chunk, a scalar.

    Returns:
        Scores `[plan.chunk_m, B]`, NaN for the diagnostics that the method does not have.
    """
    chunk_seed = tf.random.fold_in(seed, i)
    sample = sampling.draw(model, method, x, Counts(M=plan.chunk_m), chunk_seed)
    densities = densities_lib.log_densities(model, method, x, sample)
    beta_0 = bounds.inner_log_ratios(densities)
    inner = Streamed.empty(beta_0[0])
    tail = diagnostics.tail_length(plan.K + 1)
    largest = no_largest(tail + 1 if tail else 0, beta_0[0])
    beta_sum, kl_sum = tf.zeros_like(beta_0[0]), tf.zeros_like(beta_0[0])
    if plan.K > 0:  # An explicit proposal has no inverse model.
        for j in tf.range(plan.k_chunks):
            psi = sampling.draw_psi(
                model,
                method,
                sample.z,
                x,
                plan.chunk_k,
                randomness.substream(chunk_seed, ChunkStream.PSI, j),
            )
            log_q_z, log_q_psi, log_tau = densities_lib.inner_log_densities(
                model, method, x, sample.z, psi
            )
            is_drawn = j * plan.chunk_k + tf.range(plan.chunk_k) < plan.K
            is_drawn = is_drawn[:, tf.newaxis, tf.newaxis]
            beta = log_q_z + log_q_psi - log_tau
            masked = tf.where(is_drawn, beta, -float("inf"))
            inner, largest = inner.add(masked), add_to_largest(largest, masked)
            beta_sum += tf.reduce_sum(tf.where(is_drawn, beta, 0.0), axis=0)
            kl_sum += tf.reduce_sum(tf.where(is_drawn, log_tau - log_q_psi, 0.0), axis=0)
    with_psi_0, largest = inner.add(beta_0), add_to_largest(largest, beta_0)
    log_p = log_prior(model, method, plan, sample, chunk_seed)
    undefined = nan_like(beta_0[0])
    scores = DrawScores(
        alpha=densities.log_likelihood + log_p - with_psi_0.log_mean(plan.K + 1),
        kl_tau_mixing=undefined,
        kl_tau_posterior=undefined,
        kl_mixing_posterior=undefined,
        ess_inner=with_psi_0.effective_sample_size(),
        pareto_k_inner=diagnostics.pareto_k(largest) if tail else undefined,
    )
    if plan.K == 0:
        return scores
    lower = inner.log_mean(plan.K)
    log_q_z_of_other = densities_lib.log_conditional_of_other(
        model, x, sample.z, randomness.substream(chunk_seed, ChunkStream.OTHER_POSTERIOR_DRAW)
    )
    return scores._replace(
        kl_tau_mixing=kl_sum / plan.K,
        kl_tau_posterior=diagnostics.gain_over_one_draw(lower, beta_sum / plan.K),
        kl_mixing_posterior=lower - log_q_z_of_other,
    )


def log_prior(
    model: Model,
    method: Method,
    plan: Plan,
    sample: LatentSample,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Returns P, which is log p(z) or its L-sample lower bound.

        P = log 1/L sum_l p(z,zeta_l) / rho(zeta_l|z)

    Args:
        model: the callables.
        method: decides which density rho is.
        plan: the counts and the chunks.
        sample: the draws of z and psi_0.
        seed: int32 `[2]` of the draws of zeta.

    Returns:
        `[m, B]`, nats.
    """
    prior = priors.adapt(model.prior)
    if not prior.streams_zeta(method):
        return prior.log_ratios(method, tf.identity(sample.z), sample.zeta)[0]
    total = Streamed.empty(sample.z[..., 0])
    for j in tf.range(plan.l_chunks):
        zeta = prior.draw_zeta(
            method,
            sample.z,
            sample.psi_0,
            plan.chunk_l,
            randomness.substream(seed, ChunkStream.ZETA, j),
        )
        is_drawn = (j * plan.chunk_l + tf.range(plan.chunk_l) < plan.L)[:, tf.newaxis, tf.newaxis]
        ratios = prior.log_ratios(method, sample.z, zeta)
        total = total.add(tf.where(is_drawn, ratios, -float("inf")))
    return total.log_mean(plan.L)
