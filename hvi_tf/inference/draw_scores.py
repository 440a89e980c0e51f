"""Scores every draw of z, with psi of its own or with psi that a group of draws shares.

Sums over k and l are accumulated chunk by chunk, in memory that does not grow with K and L. Of
z that share psi, those of a group are kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.bounds import diagnostics
from hvi_tf.bounds.streaming import LogSum, Streamed, add_to_largest, no_largest
from hvi_tf.inference import pairs, sampling
from hvi_tf.inference.hierarchy import Hierarchy
from hvi_tf.inference.methods import Method
from hvi_tf.inference.plans import Plan
from hvi_tf.randomness import ChunkStream, GroupStream

# Number of z per group whose inner weights are diagnosed. The bound needs no such diagnostics.
LOOKED_AT = 64


class DrawScores(NamedTuple):
    """Scores and diagnostics of every draw of z; each `[m, B]`."""

    alpha: tf.Tensor
    kl_tau_mixing: tf.Tensor
    kl_tau_posterior: tf.Tensor
    kl_mixing_posterior: tf.Tensor
    ess_inner: tf.Tensor
    pareto_k_inner: tf.Tensor


def nothing(like: tf.Tensor) -> tf.Tensor:
    """Returns NaN in the shape of `like`."""
    return tf.zeros_like(like) + float("nan")


def of_chunk(
    model: sampling.Model,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    seed: tf.Tensor,
    i: tf.Tensor,
) -> DrawScores:
    """Scores `plan.chunk_m` draws of z."""
    chunk_seed = tf.random.fold_in(seed, i)
    sample = sampling.draw(model, method, x, K=0, M=plan.chunk_m, L=1, seed=chunk_seed)
    densities = sampling.log_densities(model, method, x, sample)
    beta_0 = bounds.inner_log_ratios(densities)
    inner = Streamed.empty(beta_0[0])
    tail = diagnostics.tail_length(plan.K + 1)
    largest = no_largest(tail + 1 if tail else 0, beta_0[0])
    beta_sum, kl_sum = tf.zeros_like(beta_0[0]), tf.zeros_like(beta_0[0])
    if plan.K > 0:  # an explicit proposal has no inverse to call, not even zero times
        for j in tf.range(plan.k_chunks):
            psi = sampling.draw_psi(
                model,
                method,
                sample.z,
                x,
                plan.chunk_k,
                randomness.substream(chunk_seed, ChunkStream.PSI, j),
            )
            log_q_z, log_q_psi, log_tau = sampling.inner_log_densities(
                model, method, x, sample.z, psi
            )
            drawn = (j * plan.chunk_k + tf.range(plan.chunk_k) < plan.K)[:, tf.newaxis, tf.newaxis]
            beta = log_q_z + log_q_psi - log_tau
            masked = tf.where(drawn, beta, -float("inf"))
            inner, largest = inner.add(masked), add_to_largest(largest, masked)
            beta_sum += tf.reduce_sum(tf.where(drawn, beta, 0.0), axis=0)
            kl_sum += tf.reduce_sum(tf.where(drawn, log_tau - log_q_psi, 0.0), axis=0)
    both, largest = inner.add(beta_0), add_to_largest(largest, beta_0)
    log_p = _log_prior(model, method, plan, sample, chunk_seed)
    none = nothing(beta_0[0])
    scores = DrawScores(
        alpha=densities.log_likelihood + log_p - both.log_mean(plan.K + 1),
        kl_tau_mixing=none,
        kl_tau_posterior=none,
        kl_mixing_posterior=none,
        ess_inner=both.effective_sample_size(),
        pareto_k_inner=diagnostics.pareto_k(largest) if tail else none,
    )
    if plan.K == 0:
        return scores
    lower = inner.log_mean(plan.K)
    log_q_z_given_other = sampling.log_conditional_of_other(
        model, x, sample.z, randomness.substream(chunk_seed, ChunkStream.OTHER_POSTERIOR_DRAW)
    )
    return scores._replace(
        kl_tau_mixing=kl_sum / plan.K,
        kl_tau_posterior=diagnostics.gain_over_one_draw(lower, beta_sum / plan.K),
        kl_mixing_posterior=lower - log_q_z_given_other,
    )


def _log_prior(
    model: sampling.Model,
    method: Method,
    plan: Plan,
    sample: sampling.LatentSample,
    seed: tf.Tensor,
) -> tf.Tensor:
    """P `[m, B]`: log p(z), or its L-sample lower bound."""
    if not isinstance(model.prior, Hierarchy) or method.zeta == "psi_0":
        return sampling.log_prior(model, method, tf.identity(sample.z), sample.zeta)[0]
    total = Streamed.empty(sample.z[..., 0])
    for j in tf.range(plan.l_chunks):
        zeta = sampling.draw_zeta(
            model,
            method,
            sample.z,
            sample.psi_0,
            plan.chunk_l,
            randomness.substream(seed, ChunkStream.ZETA, j),
        )
        drawn = (j * plan.chunk_l + tf.range(plan.chunk_l) < plan.L)[:, tf.newaxis, tf.newaxis]
        ratios = sampling.log_prior(model, method, sample.z, zeta)
        total = total.add(tf.where(drawn, ratios, -float("inf")))
    return total.log_mean(plan.L)


def of_group(
    model: sampling.Model,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    seed: tf.Tensor,
    i: tf.Tensor,
) -> DrawScores:
    """Scores `plan.group` draws of z that share psi (and zeta, where the row says so).

    Each z and each psi passes through the networks once. All z of the group are kept; their
    pairs with psi come in tiles of all z by `plan.chunk_k`.
    """
    seed = tf.random.fold_in(seed, i)
    z, psi_0, log_likelihood, log_prior, log_q_z, log_q_psi = _chunks(
        plan, lambda j: _draw_chunk(model, method, plan, x, tf.random.fold_in(seed, j))
    )
    if _shares_zeta(model, method):
        log_prior = _log_prior_of_shared_zeta(model, method, plan, z, seed)
    looked = min(LOOKED_AT, plan.group)
    tau, beta_0, kl = None, log_q_z, tf.zeros_like(log_q_z[:looked])
    if method.has_tau:
        tau = sampling.inverse(model, method, x, z)
        kl = _kl_tau_mixing(
            model, x, z[:looked], randomness.substream(seed, GroupStream.TAU_DIAGNOSTIC)
        )
        beta_0 += log_q_psi - _in_tiles(plan, tau.log_prob, psi_0)
    total = LogSum.empty(tf.transpose(beta_0))  # [B, group]
    # For the diagnostics [..., looked, B].
    inner = Streamed.empty(beta_0[:looked])
    tail = diagnostics.tail_length(plan.K + 1)
    largest = no_largest(tail + 1 if tail else 0, beta_0[:looked])
    beta_sum = tf.zeros_like(beta_0[:looked])
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
        drawn = (j * plan.chunk_k + tf.range(plan.chunk_k) < plan.K)[:, tf.newaxis]
        log_ratio = tf.transpose(tf.where(drawn, log_ratio, -float("inf")))
        table = pairs.Table(model.conditional(psi[:, 0], x))
        beta = table.log_prob(z) + log_ratio[:, tf.newaxis]  # [B, group, chunk_k]
        total = total.add(beta)
        beta = tf.transpose(beta[:, :looked], [2, 1, 0])
        inner, largest = inner.add(beta), add_to_largest(largest, beta)
        beta_sum += tf.reduce_sum(tf.where(drawn[..., tf.newaxis], beta, 0.0), axis=0)
    total = total.add(tf.transpose(beta_0)[..., tf.newaxis])
    first = beta_0[tf.newaxis, :looked]
    both, largest = inner.add(first), add_to_largest(largest, first)
    none = nothing(beta_0)
    scores = DrawScores(
        alpha=log_likelihood + log_prior - tf.transpose(total.log_mean(plan.K + 1)),
        kl_tau_mixing=none,
        kl_tau_posterior=none,
        kl_mixing_posterior=none,
        ess_inner=_mean_over_draws(both.effective_sample_size(), beta_0),
        pareto_k_inner=_mean_over_draws(diagnostics.pareto_k(largest), beta_0) if tail else none,
    )
    if plan.K == 0:
        return scores
    lower = inner.log_mean(plan.K)
    log_q_z_of_other = sampling.log_conditional_of_other(
        model, x, z[:looked], randomness.substream(seed, GroupStream.OTHER_POSTERIOR_DRAW)
    )
    gain = diagnostics.gain_over_one_draw(lower, beta_sum / plan.K)
    return scores._replace(
        kl_tau_mixing=_mean_over_draws(kl, beta_0),
        kl_tau_posterior=_mean_over_draws(gain, beta_0),
        kl_mixing_posterior=_mean_over_draws(lower - log_q_z_of_other, beta_0),
    )


def _kl_tau_mixing(model: sampling.Model, x: tf.Tensor, z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Estimates KL(tau(psi|z,x) || q(psi|x)) by one draw for each z: `[m, B, Dz] -> [m, B]`."""
    tau = model.tau(z, x)
    psi = tau.sample(seed=seed)
    return tau.log_prob(psi) - model.mixing(x).log_prob(psi)


def _shares_zeta(model: sampling.Model, method: Method) -> bool:
    return method.shares_zeta and isinstance(model.prior, Hierarchy)


def _draw_chunk(
    model: sampling.Model, method: Method, plan: Plan, x: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """Draws `plan.chunk_m` z and scores them apart from the shared psi."""
    sample = sampling.draw(model, method, x, K=0, M=plan.chunk_m, L=1, seed=seed)
    z, psi_0 = tf.identity(sample.z), tf.identity(sample.psi_0)
    log_likelihood = model.likelihood(z).log_prob(x)
    log_q_z = model.conditional(psi_0, x).log_prob(z)
    log_q_psi = model.mixing(x).log_prob(psi_0) if method.has_tau else tf.zeros_like(log_q_z)
    log_prior = tf.zeros_like(log_q_z)
    if not _shares_zeta(model, method):
        log_prior = _log_prior(model, method, plan, sample, seed)
    return z, psi_0, log_likelihood, log_prior, log_q_z, log_q_psi


def _log_prior_of_shared_zeta(
    model: sampling.Model, method: Method, plan: Plan, z: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """P `[group, B]`, the lower bound on log p(z) by L zeta that all z share."""
    prior = model.prior
    rho = sampling.rho(prior, method, z)
    total = LogSum.empty(tf.transpose(z[..., 0]))
    for j in tf.range(plan.l_chunks):
        zeta = rho.sample(plan.chunk_l, seed=randomness.substream(seed, GroupStream.ZETA, j))
        log_ratio = (prior.mixing.log_prob(zeta) - rho.log_prob(zeta))[:, 0]
        drawn = (j * plan.chunk_l + tf.range(plan.chunk_l) < plan.L)[:, tf.newaxis]
        log_ratio = tf.transpose(tf.where(drawn, log_ratio, -float("inf")))
        table = pairs.Table(prior.conditional(zeta[:, 0]))
        total = total.add(table.log_prob(z) + log_ratio[:, tf.newaxis])
    return tf.transpose(total.log_mean(plan.L))


def _chunks(plan: Plan, make: Callable[[tf.Tensor], tuple[tf.Tensor, ...]]) -> list[tf.Tensor]:
    """Concatenates the results of `make` for every chunk of a group: `[group, ...]` each."""
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
    """Evaluates `log_prob` at psi_0 `[group, B, D]` in tiles: `[group, B]`."""
    size = plan.tile
    tiles = -(-plan.group // size)
    # The last tile is filled up with the first rows.
    rows = tf.reshape(tf.range(tiles * size) % plan.group, [tiles, size])
    found = tf.TensorArray(psi_0.dtype, tiles, element_shape=[size, psi_0.shape[1]])
    for j in tf.range(tiles):
        found = found.write(j, log_prob(tf.gather(psi_0, rows[j])[tf.newaxis])[0])
    return found.concat()[: plan.group]


def _mean_over_draws(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Broadcasts the mean over the diagnosed draws to all draws: `[m, B] -> [group, B]`."""
    return tf.reduce_mean(values, axis=0) + tf.zeros_like(like)
