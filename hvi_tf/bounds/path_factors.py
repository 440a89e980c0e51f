"""Factors that turn autodiff gradients into doubly reparameterized ones.

Equation 9 of Sobolev & Vetrov 2019 treats tau. The same step applies to rho and phi (Bauer &
Mnih 2021).
"""

import tensorflow as tf

from hvi_tf.bounds.marginal import (
    LogDensities,
    as_weight,
    inner_log_ratios,
    log_sum_exp,
    outer_log_weights,
)
from hvi_tf.bounds.weights import normalized_weights

# Caps log r so that r stays finite in float32. By the symmetry of `swap_ratios`, psi_0 is the
# k-th of K+1 draws with probability v_k. So a larger r has a probability below (K+1) e^-60.
_MAX_LOG_SWAP_RATIO = 60.0


def tau_path_factor(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
    shared: bool = False,
) -> tf.Tensor:
    """Returns the ratio of the doubly reparameterized to the autodiff gradient at psi_mk.

    Sobolev & Vetrov 2019, equation 9, generalized to warm-ups. Let w = softmax_m alpha and
    v = softmax_k beta. The coefficients of d beta_mk / d psi_mk are

        autodiff:                  -c_out w v
        doubly reparameterized:     c_out w v [c_in (1 - v (1 + c_out (1 - w))) - 1]

    and their ratio, computed without a division, is

        1 - c_in (1 - v (1 + c_out (1 - w)))

    It is v (2 - w) without warm-ups. If all z share psi_k, the sum of w v over m replaces w v.

    Args:
        densities: the arrays of one draw.
        inner: the warm-up c_in in [0, 1].
        outer: the warm-up c_out in [0, 1].
        shared: whether all z share psi_1:K.

    Returns:
        `[K+1, M, B]`. The entry of psi_0 has no meaning, since tau did not draw psi_0.
    """
    log_ratios = inner_log_ratios(densities, inner)
    v = normalized_weights(log_ratios)
    w = normalized_weights(outer_log_weights(densities, inner, outer))
    inner = as_weight(inner, v.dtype)
    outer = as_weight(outer, v.dtype)
    if shared:
        total_weight = tf.reduce_sum(w * v, axis=1, keepdims=True)
        return 1.0 - inner * (1.0 - v - outer * (v - total_weight))
    return 1.0 - inner * (1.0 - v * (1.0 + outer * (1.0 - w)))


def rho_path_factor(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """Returns the ratio of the doubly reparameterized to the autodiff gradient at zeta_ml.

    Let gamma_l = log p(z,zeta_l) - log rho(zeta_l|z) and u = softmax_l gamma. The doubly
    reparameterized gradient drops the direct dependence on rho. Its coefficient is the first
    minus the second derivative of the bound in gamma_l. The coefficients of
    d gamma_ml / d zeta_ml are

        autodiff:                   c_out w u
        doubly reparameterized:     c_out w u^2 (1 - c_out (1 - w))

    and their ratio is

        u (1 - c_out (1 - w))

    Args:
        densities: the arrays of one draw.
        inner: the warm-up c_in in [0, 1].
        outer: the warm-up c_out in [0, 1].

    Returns:
        `[L, M, B]`.
    """
    u = normalized_weights(densities.log_prior)
    w = normalized_weights(outer_log_weights(densities, inner, outer))
    return u * (1.0 - as_weight(outer, w.dtype) * (1.0 - w))


def swap_ratios(densities: LogDensities, inner: float | tf.Tensor = 1.0) -> tf.Tensor:
    """Returns the factors that move all direct terms of phi to psi_0, in expectation.

    Let s_mk be the gradient of log q(z_m|psi_mk) + c_in log q(psi_mk) for phi at fixed draws.
    Given z, the density of (psi_0, psi_1:K) is symmetric up to the factor v_0(1), the first
    normalized weight without warm-up. So psi_k and psi_0 can trade places:

        E sum_mk w_m v_mk(c_in) s_mk = E sum_m w_m r_m s_m0,    r_m = v_m0(c_in) / v_m0(1)

    The factor r is 1 without an inner warm-up, and for K = 0. Since (z_m, psi_m0) is an exact
    draw from q(z,psi), a second reparameterization then replaces s_m0. The identity holds if
    each z has its own psi_1:K.

    Args:
        densities: the arrays of one draw.
        inner: the warm-up c_in in [0, 1].

    Returns:
        r `[M, B]`.
    """
    warmed, full = inner_log_ratios(densities, inner), inner_log_ratios(densities)
    log_r = _log_weight_of_first(warmed) - _log_weight_of_first(full)
    return tf.exp(tf.minimum(log_r, _MAX_LOG_SWAP_RATIO))


def _log_weight_of_first(log_weights: tf.Tensor) -> tf.Tensor:
    """Returns the log of the first normalized weight, 0 where infinite: `[N, ...] -> [...]`."""
    infinite = tf.math.is_inf(log_weights[0])
    finite_weights = tf.where(infinite, tf.zeros_like(log_weights), log_weights)
    log_weight = log_weights[0] - log_sum_exp(finite_weights)
    return tf.where(infinite, tf.zeros_like(log_weight), log_weight)
