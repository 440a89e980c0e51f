"""The log-densities of a draw, which all bounds, gradients and diagnostics use."""

import tensorflow as tf

from hvi_tf.bounds import LogDensities
from hvi_tf.inference import pairs, priors, sampling
from hvi_tf.inference.methods import Method
from hvi_tf.inference.model import Density, LatentSample, Model


def log_densities(model: Model, method: Method, x: tf.Tensor, sample: LatentSample) -> LogDensities:
    """Returns every log-density that the bounds use, evaluated at one draw.

    Args:
        model: the callables.
        method: the method that `sample` was drawn with.
        x: observations `[B, ...]`.
        sample: the draw.

    Returns:
        The arrays of `LogDensities`, nats, which are deterministic given `sample`.
    """
    # TFP's bijectors cache the inverse of each tensor, also of their own draws. A density that
    # uses a cached inverse has no gradient for the draw. Copies are not in the cache.
    x, sample = tf.identity(x), sample.copy()
    z, psi_0, psi = sample.z, sample.psi_0, sample.psi
    log_likelihood = model.likelihood(z).log_prob(x)
    log_p = priors.adapt(model.prior).log_ratios(method, z, sample.zeta)
    if psi_0 is None:
        log_q_z = sample.log_q_z
        if log_q_z is None:
            log_q_z = model.conditional(None, x).log_prob(z)
        zeros = tf.zeros_like(log_q_z)[tf.newaxis]
        return LogDensities(log_likelihood, log_p, log_q_z[tf.newaxis], zeros, zeros)
    # Shared psi pass through the networks once and not once for every z.
    groups = [psi_0[tf.newaxis], psi]
    if not method.shares_psi:
        groups = [tf.concat(groups, axis=0)]
    tau = None if method.psi_from_mixing else sampling.inverse(model, method, x, z)
    parts = [inner_log_densities(model, method, x, z, group, tau) for group in groups]
    return LogDensities(
        log_likelihood, log_p, *(tf.concat(p, axis=0) for p in zip(*parts, strict=True))
    )


def inner_log_densities(
    model: Model,
    method: Method,
    x: tf.Tensor,
    z: tf.Tensor,
    psi: tf.Tensor,
    tau: Density | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns log q(z|psi,x), log q(psi|x) and log tau(psi|z,x).

    If tau := q(psi|x), the last two cancel. Then both are 0 and q(psi|x) may be implicit.

    Args:
        model: the callables, with a hierarchical proposal.
        method: decides which density tau is.
        x: observations `[B, ...]`.
        z: `[M, B, Dz]`.
        psi: `[K, M, B, Dpsi]` or `[K, 1, B, Dpsi]`, arbitrary draws.
        tau: `sampling.inverse(model, method, x, z)` if it is computed already, otherwise None.

    Returns:
        Three arrays `[K, M, B]`, nats.
    """
    is_shared = psi.shape[1] == 1 and z.shape[0] != 1
    if is_shared:
        log_q_z = pairs.log_prob(model.conditional(psi[:, 0], x), z)
    else:
        log_q_z = model.conditional(psi, x).log_prob(z)
    if method.psi_from_mixing:
        return log_q_z, tf.zeros_like(log_q_z), tf.zeros_like(log_q_z)
    log_q_psi = model.mixing(x).log_prob(psi)
    tau = sampling.inverse(model, method, x, z) if tau is None else tau
    log_tau = tau.log_prob(psi)
    if is_shared:  # one density for all z
        log_q_psi, log_tau = (v + tf.zeros_like(log_q_z) for v in (log_q_psi, log_tau))
    return log_q_z, log_q_psi, log_tau


def log_conditional_of_other(
    model: Model, x: tf.Tensor, z: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Returns log q(z|psi,x) for a psi ~ q(psi|x) that did not generate z.

    Args:
        model: the callables, with a hierarchical proposal.
        x: observations `[B, ...]`.
        z: `[M, B, Dz]`.
        seed: int32 `[2]` of the draw of psi.

    Returns:
        `[M, B]`, nats.
    """
    other_psi = model.mixing(x).sample(tf.shape(z)[0], seed=seed)
    return model.conditional(other_psi, x).log_prob(z)
