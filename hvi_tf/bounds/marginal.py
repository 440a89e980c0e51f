"""Bounds as pure reductions over arrays of log-densities.

Nothing here knows a model, a distribution or a configuration. Every named method is
the same formula on other arrays (notation of Sobolev & Vetrov 2019; all logs natural):

    beta[k,m] = log q(z_m|psi_mk,x) + c_in (log q(psi_mk|x) - log tau(psi_mk|z_m,x))
    U[m]      = logmeanexp_k beta[k,m]
    P[m]      = logmeanexp_l [log p(z_m,zeta_ml) - log rho(zeta_ml|z_m)]
    alpha[m]  = log p(x|z_m) + c_out (P[m] - U[m])
    bound     = logmeanexp_m alpha[m]

The warm-up weights c_in and c_out rise from 0 to 1. Below 1 the value bounds nothing:
it is a training objective only.
"""

from typing import NamedTuple

import tensorflow as tf


class LogDensities(NamedTuple):
    """Log-densities of one draw, in nats; M draws of z for each of B observations.

    An explicit q(z|x) has K=0, an explicit prior L=1, and what cancels is 0 on both
    sides (`log_q_psi` and `log_tau` where there is no psi or tau := q(psi|x)). So no
    reduction needs to ask which kind it was given.
    """

    log_likelihood: tf.Tensor  # [M, B]       log p(x|z_m)
    log_prior: tf.Tensor  # [L, M, B]         log p(z_m,zeta_ml) - log rho(zeta_ml|z_m)
    log_q_z: tf.Tensor  # [K+1, M, B]         log q(z_m|psi_mk,x)
    log_q_psi: tf.Tensor  # [K+1, M, B]       log q(psi_mk|x)
    log_tau: tf.Tensor  # [K+1, M, B]         log tau(psi_mk|z_m,x)


def log_sum_exp(values: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Returns the log of the sum of exp over an axis. `[N, ...] -> [...]`.

    Where all entries are -inf, or one is +inf, the result is that infinity and its gradient
    is 0. So a draw outside the support of a density has weight 0 and no gradient.
    """
    largest = tf.stop_gradient(tf.reduce_max(values, axis=axis, keepdims=True))
    infinite = tf.math.is_inf(largest)
    finite_values = tf.where(infinite, tf.zeros_like(values), values)
    found = tf.reduce_logsumexp(finite_values, axis=axis)
    return tf.where(tf.squeeze(infinite, axis), tf.squeeze(largest, axis), found)


def log_mean_exp(values: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Returns the log of the mean of exp over an axis, see `log_sum_exp`. `[N, ...] -> [...]`."""
    count = tf.cast(tf.shape(values)[axis], values.dtype)
    return log_sum_exp(values, axis) - tf.math.log(count)


def warmed_up(log_ratios: tf.Tensor, weight: float | tf.Tensor) -> tf.Tensor:
    """Returns `weight * log_ratios`, and 0 for a weight of 0 even where a ratio is infinite."""
    return tf.math.multiply_no_nan(log_ratios, as_weight(weight, log_ratios.dtype))


def as_weight(value: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """A warm-up weight in the dtype of the densities."""
    # tf.cast would send a Python float through float32.
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)


def inner_log_ratios(densities: LogDensities, inner: float | tf.Tensor = 1.0) -> tf.Tensor:
    """Beta `[K+1, M, B]`: log q(z,psi_k|x) - log tau(psi_k|z,x), warmed up by `inner`."""
    return densities.log_q_z + warmed_up(densities.log_q_psi - densities.log_tau, inner)


def log_marginal_upper(log_ratios: tf.Tensor) -> tf.Tensor:
    """U_K: at least log q(z|x) in expectation, for psi_0 from q(psi|z,x).

    Sobolev & Vetrov 2019, theorem A.1.

    Args:
        log_ratios: beta `[K+1, ...]`; index 0 belongs to the psi that generated z, the
            others to independent draws from tau(psi|z,x).

    Returns:
        `[...]`, nats.
    """
    return log_mean_exp(log_ratios)


def log_marginal_lower(log_ratios: tf.Tensor) -> tf.Tensor:
    """L_K: at most log q(z|x) in expectation (Burda et al. 2015, on psi).

    Args:
        log_ratios: beta `[K, ...]`, K >= 1, all of them of draws from tau: pass
            `beta[1:]`, without the psi that generated z.

    Returns:
        `[...]`, nats.
    """
    return log_mean_exp(log_ratios)


def outer_log_weights(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """Alpha `[M, B]`: log p(x|z_m) + c_out (P[m] - U[m]), the logs of the outer weights."""
    log_q = log_marginal_upper(inner_log_ratios(densities, inner))
    log_p = log_mean_exp(densities.log_prior)
    return densities.log_likelihood + warmed_up(log_p - log_q, outer)


def bound(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """At most log p(x) in expectation when both warm-ups are 1.

    Sobolev & Vetrov 2019, theorem A.4 (equations 5 and 6).

    Args:
        densities: the arrays of one draw.
        inner: warm-up c_in in [0, 1] of log q(psi|x) - log tau(psi|z,x).
        outer: warm-up c_out in [0, 1] of P - U.

    Returns:
        `[B]`, nats per observation.
    """
    return log_mean_exp(outer_log_weights(densities, inner, outer))
