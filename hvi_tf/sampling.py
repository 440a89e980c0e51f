"""Draws from a hierarchical proposal, and the log-densities of a draw.

A model is a handful of callables that return TFP distributions. Axes follow TFP's
sample + batch + event order: k, then m, then the batch of observations.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf.bounds import LogDensities
from hvi_tf.methods import Method


class Model(NamedTuple):
    """A latent variable model p(x,z) and a proposal q(z|x), hierarchical or explicit.

    Attributes:
        prior: p(z), batch shape `[]`.
        likelihood: z `[M, B, Dz]` -> p(x|z), batch shape `[M, B]`.
        conditional: (psi `[..., B, Dpsi]`, x) -> q(z|psi,x), batch shape `[..., B]`.
            For an explicit proposal: (None, x) -> q(z|x), batch shape `[B]`.
        mixing: x -> q(psi|x), batch shape `[B]`; not called for an explicit proposal.
        tau: (z `[M, B, Dz]`, x) -> tau(psi|z,x), batch shape `[M, B]`; called
            only by methods whose row names it.
    """

    prior: tfd.Distribution
    likelihood: Callable[[tf.Tensor], tfd.Distribution]
    conditional: Callable[[tf.Tensor | None, tf.Tensor], tfd.Distribution]
    mixing: Callable[[tf.Tensor], tfd.Distribution] = None  # type: ignore[assignment]
    tau: Callable[[tf.Tensor, tf.Tensor], tfd.Distribution] = None  # type: ignore[assignment]


class LatentSample(NamedTuple):
    """One draw of every latent variable; all axes before the last are k or m, then B."""

    z: tf.Tensor  # [M, B, Dz]
    psi: tf.Tensor | None  # [K+1, M, B, Dpsi], psi[0] generated z; None if q is explicit


def draw(
    model: Model,
    method: Method,
    x: tf.Tensor,
    *,
    K: int | tf.Tensor,
    M: int | tf.Tensor,
    seed: tf.Tensor,
) -> LatentSample:
    """Draws psi_0 ~ q(psi|x), z ~ q(z|psi_0,x), psi_1:K from the method's inverse.

    The generative process of theorem A.4 of Sobolev & Vetrov 2019.

    Args:
        model: the callables.
        method: the row of the table; decides what proposes psi_1:K.
        x: observations `[B, ...]`.
        K: number of psi besides psi_0, >= 0. Ignored for an explicit proposal.
        M: number of z, >= 1.
        seed: int32 `[2]`; the draw is a pure function of it.

    Returns:
        The draw, reparameterized wherever the distributions are.
    """
    psi_seed, z_seed, inverse_seed = tf.unstack(tf.random.split(seed, 3))
    if not method.hierarchical:
        return LatentSample(z=model.conditional(None, x).sample(M, seed=z_seed), psi=None)
    psi_0 = model.mixing(x).sample(M, seed=psi_seed)
    z = model.conditional(psi_0, x).sample(seed=z_seed)
    psi_1_K = inverse(model, method, z, x).sample(K, seed=inverse_seed)
    return LatentSample(z=z, psi=tf.concat([psi_0[tf.newaxis], psi_1_K], axis=0))


def inverse(model: Model, method: Method, z: tf.Tensor, x: tf.Tensor) -> tfd.Distribution:
    """The distribution of psi_1:K given z `[M, B, Dz]`, with batch shape `[M, B]`."""
    if method.inverse == "tau":
        return model.tau(z, x)
    draws = tf.shape(z)[:-1]
    return tfd.BatchBroadcast(model.mixing(x), to_shape=draws)


def log_densities(model: Model, method: Method, x: tf.Tensor, sample: LatentSample) -> LogDensities:
    """Evaluates every log-density that the bounds need at one draw.

    Args:
        model: the callables.
        method: the row of the table that `sample` was drawn with.
        x: observations `[B, ...]`.
        sample: the draw.

    Returns:
        The arrays of `LogDensities`, deterministic given `sample`.
    """
    z, psi = sample
    log_likelihood = model.likelihood(z).log_prob(x)
    log_prior = model.prior.log_prob(z)[tf.newaxis]
    if psi is None:
        log_q_z = model.conditional(None, x).log_prob(z)[tf.newaxis]
        zeros = tf.zeros_like(log_q_z)
        return LogDensities(log_likelihood, log_prior, log_q_z, zeros, zeros)
    return LogDensities(log_likelihood, log_prior, *inner_log_densities(model, method, x, z, psi))


def inner_log_densities(
    model: Model, method: Method, x: tf.Tensor, z: tf.Tensor, psi: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Log q(z|psi,x), log q(psi|x) and log tau(psi|z,x), each `[K, M, B]`.

    Args:
        model: the callables, with a hierarchical proposal.
        method: the row of the table; decides what tau is.
        x: observations `[B, ...]`.
        z: `[M, B, Dz]`.
        psi: `[K, M, B, Dpsi]`, any draws.
    """
    return (
        model.conditional(psi, x).log_prob(z),
        model.mixing(x).log_prob(psi),
        inverse(model, method, z, x).log_prob(psi),
    )
