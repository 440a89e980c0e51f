"""Factors that turn autodiff gradients into doubly reparameterized ones.

Equation 9 of Sobolev & Vetrov 2019 for tau, and the same step for rho and phi.
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

# Caps log r so that r stays finite in float32. psi_0 is any one of the K+1 with probability v
# (by the same symmetry), so a larger r has a probability below (K+1) e^-60.
_MAX_LOG_SWAP_RATIO = 60.0


def tau_path_factor(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
    shared: bool = False,
) -> tf.Tensor:
    """The factor from the autodiff gradient at beta_mk to psi_k's doubly reparameterized one.

    With w = softmax_m alpha and v = softmax_k beta, autodiff sends -c_out w v dbeta_mk
    along the path through psi_k. Equation 9 of Sobolev & Vetrov 2019, with warm-ups,
    sends c_out w v [c_in (1 - v (1 + c_out (1 - w))) - 1] dbeta_mk. This is their ratio,
    which needs no division; without warm-ups it is v (2 - w). Where all z share psi_k, the sum
    of w v over m takes the place of w v.

    Returns:
        `[K+1, M, B]`; the entry of psi_0 has no meaning, tau did not draw it.
    """
    log_ratios = inner_log_ratios(densities, inner)
    v = normalized_weights(log_ratios)
    w = normalized_weights(outer_log_weights(densities, inner, outer))
    inner = as_weight(inner, v.dtype)
    outer = as_weight(outer, v.dtype)
    if shared:
        of_bound = tf.reduce_sum(w * v, axis=1, keepdims=True)
        return 1.0 - inner * (1.0 - v - outer * (v - of_bound))
    return 1.0 - inner * (1.0 - v * (1.0 + outer * (1.0 - w)))


def rho_path_factor(
    densities: LogDensities,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """What turns the autodiff gradient at zeta_l into the doubly reparameterized one.

    With gamma_l = log p(z,zeta_l) - log rho(zeta_l|z) and u = softmax_l gamma, autodiff
    sends c_out w u dgamma_l along the path through zeta_l; dropping the direct dependence
    on rho and reparameterizing once more sends the first minus the second self-derivative
    of the bound in gamma_l, c_out w u^2 (1 - c_out (1 - w)). This is their ratio.

    Returns:
        `[L, M, B]`.
    """
    u = normalized_weights(densities.log_prior)
    w = normalized_weights(outer_log_weights(densities, inner, outer))
    return u * (1.0 - as_weight(outer, w.dtype) * (1.0 - w))


def swap_ratios(densities: LogDensities, inner: float | tf.Tensor = 1.0) -> tf.Tensor:
    """Factors r `[M, B]` that gather all direct terms of phi at psi_0, in expectation.

    The direct dependence of the bound on phi is -c_out sum_mk w_m v_mk s_mk, where s_mk is
    the score of log q(z_m|psi_mk) + c_in log q(psi_mk). The density of (psi_0, psi_1:K)
    given z is symmetric but for a factor v_0, v being taken without warm-up; trading psi_k
    for psi_0 therefore moves every term to k = 0 and leaves -c_out sum_m w_m r_m s_m0 with

        r_m = v_m0(c_in) / v_m0(1),

    which is 1 without an inner warm-up, and for K = 0. Since (z_m, psi_m0) is an exact
    draw from q(z,psi), s_m0 can then be reparameterized away. Holds where each z has
    psi_1:K of its own.
    """
    warmed, full = inner_log_ratios(densities, inner), inner_log_ratios(densities)
    log_r = _log_weight_of_first(warmed) - _log_weight_of_first(full)
    return tf.exp(tf.minimum(log_r, _MAX_LOG_SWAP_RATIO))


def _log_weight_of_first(log_weights: tf.Tensor) -> tf.Tensor:
    """Log of the first of the normalized weights; 0 where it is infinite. `[N, ...] -> [...]`."""
    infinite = tf.math.is_inf(log_weights[0])
    finite_weights = tf.where(infinite, tf.zeros_like(log_weights), log_weights)
    log_weight = log_weights[0] - log_sum_exp(finite_weights)
    return tf.where(infinite, tf.zeros_like(log_weight), log_weight)
