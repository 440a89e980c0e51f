"""Bounds on log p(x) and log q(z|x) as reductions over arrays of log-densities.

Every named method is the same formula on other arrays. The notation is that of Sobolev &
Vetrov 2019, and all logarithms are natural:

    beta[k,m] = log q(z_m|psi_mk,x) + c_in (log q(psi_mk|x) - log tau(psi_mk|z_m,x))
    U[m]      = logmeanexp_k beta[k,m]                                         (theorem A.1)
    P[m]      = logmeanexp_l [log p(z_m,zeta_ml) - log rho(zeta_ml|z_m)]
    alpha[m]  = log p(x|z_m) + c_out (P[m] - U[m])
    bound     = logmeanexp_m alpha[m]                                     (equations 5 and 6)

The warm-up weights c_in and c_out rise from 0 to 1. Below 1 the value is a training
objective and not a bound.
"""

from typing import NamedTuple

import tensorflow as tf


class LogDensities(NamedTuple):
    """Log-densities of one draw, in nats, with M draws of z for each of B observations.

    An explicit q(z|x) has K=0 and an explicit prior has L=1. Without psi, and where
    tau := q(psi|x), both `log_q_psi` and `log_tau` are 0. So every reduction has one form for
    all methods.

    Attributes:
        log_likelihood: log p(x|z_m), `[M, B]`.
        log_prior: log p(z_m,zeta_ml) - log rho(zeta_ml|z_m), `[L, M, B]`.
        log_q_z: log q(z_m|psi_mk,x), `[K+1, M, B]`.
        log_q_psi: log q(psi_mk|x), `[K+1, M, B]`.
        log_tau: log tau(psi_mk|z_m,x), `[K+1, M, B]`.
    """

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_q_z: tf.Tensor
    log_q_psi: tf.Tensor
    log_tau: tf.Tensor


def log_sum_exp(values: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Returns log sum_n exp(values_n).

    Where all entries are -inf, or one is +inf, the result is that infinity and its gradient
    is 0. So a draw outside the support of a density has weight 0 and no gradient.

    Args:
        values: logarithms `[N, ...]`.
        axis: the axis of length N.

    Returns:
        `[...]`, without that axis.
    """
    largest = tf.stop_gradient(tf.reduce_max(values, axis=axis, keepdims=True))
    infinite = tf.math.is_inf(largest)
    finite_values = tf.where(infinite, tf.zeros_like(values), values)
    log_sum = tf.reduce_logsumexp(finite_values, axis=axis)
    return tf.where(tf.squeeze(infinite, axis), tf.squeeze(largest, axis), log_sum)


def log_mean_exp(values: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Returns log 1/N sum_n exp(values_n), with the infinities of `log_sum_exp`.

    Args:
        values: logarithms `[N, ...]`.
        axis: the axis of length N.

    Returns:
        `[...]`, without that axis.
    """
    count = tf.cast(tf.shape(values)[axis], values.dtype)
    return log_sum_exp(values, axis) - tf.math.log(count)


def warmed_up(log_ratios: tf.Tensor, weight: float | tf.Tensor) -> tf.Tensor:
    """Returns weight * log_ratios, and 0 for a weight of 0 even where a ratio is infinite.

    Args:
        log_ratios: `[...]`, nats.
        weight: a warm-up weight in [0, 1].

    Returns:
        `[...]`, nats.
    """
    return tf.math.multiply_no_nan(log_ratios, as_weight(weight, log_ratios.dtype))


def as_weight(value: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns a warm-up weight as a scalar tensor.

    Args:
        value: a number or a scalar tensor.
        dtype: the dtype of the densities.
    """
    # tf.cast would round a Python float to float32 first.
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)


def inner_log_ratios(densities: LogDensities, inner: float | tf.Tensor = 1.0) -> tf.Tensor:
    """Returns beta, the logarithms of the inner weights.

        beta[k,m] = log q(z_m|psi_mk,x) + c_in (log q(psi_mk|x) - log tau(psi_mk|z_m,x))

    Args:
        densities: the arrays of one draw.
        inner: the warm-up c_in in [0, 1].

    Returns:
        `[K+1, M, B]`, nats.
    """
    return densities.log_q_z + warmed_up(densities.log_q_psi - densities.log_tau, inner)


def log_marginal_upper(log_ratios: tf.Tensor) -> tf.Tensor:
    """Returns U_K, an upper bound on log q(z|x) in expectation.

    Sobolev & Vetrov 2019, theorem A.1. For psi_0 ~ q(psi|z,x) and psi_1:K ~ tau(psi|z,x),

        E U_K = E log 1/(K+1) sum_k=0..K exp(beta_k) >= log q(z|x)

    Args:
        log_ratios: beta `[K+1, ...]`. Index 0 belongs to the psi that generated z, the
            others to independent draws from tau(psi|z,x).

    Returns:
        `[...]`, nats.
    """
    return log_mean_exp(log_ratios)


def log_marginal_lower(log_ratios: tf.Tensor) -> tf.Tensor:
    """Returns L_K, a lower bound on log q(z|x) in expectation.

    The bound of Burda et al. 2015, applied to psi. For psi_1:K ~ tau(psi|z,x),

        E L_K = E log 1/K sum_k=1..K exp(beta_k) <= log q(z|x)

    Args:
        log_ratios: beta `[K, ...]` of draws from tau, K >= 1. Pass `beta[1:]`, without the
            psi that generated z.

    Returns:
        `[...]`, nats.
    """
    return log_mean_exp(log_ratios)


def outer_log_weights(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """Returns alpha, the logarithms of the outer weights.

        alpha[m] = log p(x|z_m) + c_out (P[m] - U[m])

    Args:
        densities: the arrays of one draw.
        inner: the warm-up c_in in [0, 1] of log q(psi|x) - log tau(psi|z,x).
        outer: the warm-up c_out in [0, 1] of P - U.

    Returns:
        `[M, B]`, nats.
    """
    log_q = log_marginal_upper(inner_log_ratios(densities, inner))
    log_p = log_mean_exp(densities.log_prior)
    return densities.log_likelihood + warmed_up(log_p - log_q, outer)


def bound(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """Returns a lower bound on log p(x) in expectation, if both warm-ups are 1.

    Sobolev & Vetrov 2019, theorem A.4, which is equation 5 for M=1 and equation 6 for M>1:

        E log 1/M sum_m exp(alpha_m) <= log p(x)

    Args:
        densities: the arrays of one draw.
        inner: the warm-up c_in in [0, 1] of log q(psi|x) - log tau(psi|z,x).
        outer: the warm-up c_out in [0, 1] of P - U.

    Returns:
        `[B]`, nats per observation.
    """
    return log_mean_exp(outer_log_weights(densities, inner, outer))
