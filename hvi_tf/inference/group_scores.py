"""Scores of every draw of z, at psi that a group of draws shares.

Each z and each psi passes through the networks once. All z of a group are in memory, and their
pairs with psi come in tiles.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.bounds import diagnostics
from hvi_tf.bounds.streaming import LogSum, Streamed, add_to_largest, no_largest
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import pairs, priors, sampling
from hvi_tf.inference.draw_scores import DrawScores, log_prior, nan_like
from hvi_tf.inference.methods import Counts, Method
from hvi_tf.inference.model import Density, Model
from hvi_tf.inference.plans import Plan
from hvi_tf.randomness import ChunkStream, GroupStream

# Number of z per group whose inner weights are diagnosed. The bound uses all z.
DIAGNOSED = 64


class _InnerSums(NamedTuple):
    """Sums over k for the diagnosed draws of a group.

    Attributes:
        inner: sums of the weights of psi_1:K, `[diagnosed, B]`.
        with_psi_0: sums of the weights of psi_0:K, `[diagnosed, B]`.
        beta_sum: the sum of beta_1:K, `[diagnosed, B]`, nats.
        largest: the largest log weights, `[tail + 1, diagnosed, B]`. Axis 0 is empty if there
            is no tail.
    """

    inner: Streamed
    with_psi_0: Streamed
    beta_sum: tf.Tensor
    largest: tf.Tensor

    def pareto_k(self) -> tf.Tensor | None:
        """Returns the tail shape of the weights `[diagnosed, B]`, or None for too few weights."""
        return diagnostics.pareto_k(self.largest) if self.largest.shape[0] else None


def score_group(
    model: Model,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    seed: tf.Tensor,
    i: tf.Tensor,
) -> DrawScores:
    """Draws one group of z that share psi, and scores it.

    The score of a draw is alpha = log p(x|z) + P - U_K, with sums over k and l in chunks. The z
    also share zeta if the method shares it. The pairs of z and psi come in tiles of all z of the
    group by `plan.chunk_k` psi.

    Args:
        model: the callables.
        method: the method, whose z share psi.
        plan: the counts and the chunks.
        x: observations `[B, ...]`.
        seed: int32 `[2]`. The scores are a pure function of it, i and the plan.
        i: the index of the group, a scalar.

    Returns:
        Scores `[plan.group, B]`, NaN for the diagnostics that the method does not have.
    """
    seed = tf.random.fold_in(seed, i)
    z, psi_0, log_likelihood, log_p, log_q_z, log_q_psi = _chunks(
        plan, lambda j: _draw_chunk(model, method, plan, x, tf.random.fold_in(seed, j))
    )
    if priors.adapt(model.prior).shares_zeta(method):
        log_p = _log_prior_of_shared_zeta(model, method, plan, z, seed)
    diagnosed = min(DIAGNOSED, plan.group)
    tau, beta_0, kl = None, log_q_z, tf.zeros_like(log_q_z[:diagnosed])
    if method.has_tau:
        tau = sampling.inverse(model, method, x, z)
        kl = _kl_tau_mixing(
            model, x, z[:diagnosed], randomness.substream(seed, GroupStream.TAU_DIAGNOSTIC)
        )
        beta_0 += log_q_psi - _in_tiles(plan, tau.log_prob, psi_0)
    total, sums = _stream_shared_psi(model, method, plan, x, z, tau, beta_0, seed)
    undefined = nan_like(beta_0)
    k = sums.pareto_k()
    scores = DrawScores(
        alpha=log_likelihood + log_p - tf.transpose(total.log_mean(plan.K + 1)),
        kl_tau_mixing=undefined,
        kl_tau_posterior=undefined,
        kl_mixing_posterior=undefined,
        ess_inner=_mean_over_draws(sums.with_psi_0.effective_sample_size(), beta_0),
        pareto_k_inner=undefined if k is None else _mean_over_draws(k, beta_0),
    )
    if plan.K == 0:
        return scores
    lower = sums.inner.log_mean(plan.K)
    log_q_z_of_other = densities_lib.log_conditional_of_other(
        model, x, z[:diagnosed], randomness.substream(seed, GroupStream.OTHER_POSTERIOR_DRAW)
    )
    gain = diagnostics.gain_over_one_draw(lower, sums.beta_sum / plan.K)
    return scores._replace(
        kl_tau_mixing=_mean_over_draws(kl, beta_0),
        kl_tau_posterior=_mean_over_draws(gain, beta_0),
        kl_mixing_posterior=_mean_over_draws(lower - log_q_z_of_other, beta_0),
    )


def _stream_shared_psi(
    model: Model,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    z: tf.Tensor,
    tau: Density | None,
    beta_0: tf.Tensor,
    seed: tf.Tensor,
) -> tuple[LogSum, _InnerSums]:
    """Sums the inner weights of every z over psi_0 and the shared psi_1:K.

    Args:
        model: the callables.
        method: decides which density proposes psi.
        plan: the counts and the chunks.
        x: observations `[B, ...]`.
        z: `[group, B, Dz]`.
        tau: the mixture, or None if psi come from q(psi|x).
        beta_0: the log weights of psi_0, `[group, B]`.
        seed: int32 `[2]`.

    Returns:
        The sum for each z, `[B, group]`, and the sums for the diagnostics.
    """
    diagnosed = min(DIAGNOSED, plan.group)
    total = LogSum.empty(tf.transpose(beta_0))  # [B, group]
    # The diagnostics use [..., diagnosed, B].
    inner = Streamed.empty(beta_0[:diagnosed])
    tail = diagnostics.tail_length(plan.K + 1)
    largest = no_largest(tail + 1 if tail else 0, beta_0[:diagnosed])
    beta_sum = tf.zeros_like(beta_0[:diagnosed])
    psi_seed = randomness.substream(seed, GroupStream.PSI)
    for j in tf.range(plan.k_chunks):
        psi = sampling.draw_psi(
            model,
            method,
            z,
            x,
            plan.chunk_k,
            randomness.substream(psi_seed, ChunkStream.PSI, j),
            tau,
        )
        log_ratio = tf.zeros_like(psi[:, 0, :, 0])  # log q(psi|x) - log tau_bar(psi), [chunk_k, B]
        if tau is not None:
            log_ratio = (model.mixing(x).log_prob(psi) - tau.log_prob(psi))[:, 0]
        is_drawn = (j * plan.chunk_k + tf.range(plan.chunk_k) < plan.K)[:, tf.newaxis]
        log_ratio = tf.transpose(tf.where(is_drawn, log_ratio, -float("inf")))
        table = pairs.Table(model.conditional(psi[:, 0], x))
        beta = table.log_prob(z) + log_ratio[:, tf.newaxis]  # [B, group, chunk_k]
        total = total.add(beta)
        beta = tf.transpose(beta[:, :diagnosed], [2, 1, 0])
        inner, largest = inner.add(beta), add_to_largest(largest, beta)
        beta_sum += tf.reduce_sum(tf.where(is_drawn[..., tf.newaxis], beta, 0.0), axis=0)
    total = total.add(tf.transpose(beta_0)[..., tf.newaxis])
    first = beta_0[tf.newaxis, :diagnosed]
    with_psi_0, largest = inner.add(first), add_to_largest(largest, first)
    return total, _InnerSums(inner, with_psi_0, beta_sum, largest)


def _kl_tau_mixing(model: Model, x: tf.Tensor, z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Estimates KL(tau(psi|z,x) || q(psi|x)) by one draw for each z: `[m, B, Dz]` -> `[m, B]`."""
    tau = model.tau(z, x)
    psi = tau.sample(seed=seed)
    return tau.log_prob(psi) - model.mixing(x).log_prob(psi)


def _draw_chunk(
    model: Model, method: Method, plan: Plan, x: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """Draws `plan.chunk_m` z and returns them, psi_0 and the densities without shared psi.

    Returns:
        z `[chunk_m, B, Dz]`, psi_0 `[chunk_m, B, Dpsi]`, and log p(x|z), P (0 if zeta is shared),
        log q(z|psi_0,x) and log q(psi_0|x) (0 without tau), each `[chunk_m, B]`.
    """
    sample = sampling.draw(model, method, x, Counts(M=plan.chunk_m), seed)
    z, psi_0 = tf.identity(sample.z), tf.identity(sample.psi_0)
    log_likelihood = model.likelihood(z).log_prob(x)
    log_q_z = model.conditional(psi_0, x).log_prob(z)
    log_q_psi = model.mixing(x).log_prob(psi_0) if method.has_tau else tf.zeros_like(log_q_z)
    log_p = tf.zeros_like(log_q_z)
    if not priors.adapt(model.prior).shares_zeta(method):
        log_p = log_prior(model, method, plan, sample, seed)
    return z, psi_0, log_likelihood, log_p, log_q_z, log_q_psi


def _log_prior_of_shared_zeta(
    model: Model, method: Method, plan: Plan, z: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Returns P `[group, B]`, the lower bound on log p(z) by L zeta that all z share."""
    adapted = priors.hierarchical(model.prior)
    rho, prior = adapted.rho(method, z), adapted.hierarchy
    total = LogSum.empty(tf.transpose(z[..., 0]))
    for j in tf.range(plan.l_chunks):
        zeta = rho.sample(plan.chunk_l, seed=randomness.substream(seed, GroupStream.ZETA, j))
        log_ratio = (prior.mixing.log_prob(zeta) - rho.log_prob(zeta))[:, 0]
        is_drawn = (j * plan.chunk_l + tf.range(plan.chunk_l) < plan.L)[:, tf.newaxis]
        log_ratio = tf.transpose(tf.where(is_drawn, log_ratio, -float("inf")))
        table = pairs.Table(prior.conditional(zeta[:, 0]))
        total = total.add(table.log_prob(z) + log_ratio[:, tf.newaxis])
    return tf.transpose(total.log_mean(plan.L))


def _chunks(plan: Plan, make: Callable[[tf.Tensor], tuple[tf.Tensor, ...]]) -> list[tf.Tensor]:
    """Concatenates the results of `make` for every chunk of a group, each to `[group, ...]`."""
    first = make(tf.constant(0))
    chunks = -(-plan.group // plan.chunk_m)
    if chunks == 1:
        return list(first)
    arrays = [tf.TensorArray(part.dtype, chunks, element_shape=part.shape) for part in first]
    arrays = [a.write(0, part) for a, part in zip(arrays, first, strict=True)]
    for j in tf.range(1, chunks):
        arrays = [a.write(j, part) for a, part in zip(arrays, make(j), strict=True)]
    return [a.concat()[: plan.group] for a in arrays]


def _in_tiles(
    plan: Plan, log_prob: Callable[[tf.Tensor], tf.Tensor], psi_0: tf.Tensor
) -> tf.Tensor:
    """Returns `log_prob` at psi_0, computed in tiles: `[group, B, D]` -> `[group, B]`."""
    size = plan.tile
    tiles = -(-plan.group // size)
    # The last tile is filled up with the first psi_0.
    indices = tf.reshape(tf.range(tiles * size) % plan.group, [tiles, size])
    values = tf.TensorArray(psi_0.dtype, tiles, element_shape=[size, psi_0.shape[1]])
    for j in tf.range(tiles):
        values = values.write(j, log_prob(tf.gather(psi_0, indices[j])[tf.newaxis])[0])
    return values.concat()[: plan.group]


def _mean_over_draws(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Broadcasts the mean over the diagnosed draws to all draws: `[m, B]` -> `[group, B]`."""
    return tf.reduce_mean(values, axis=0) + tf.zeros_like(like)
