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


def generalized_iwae(log_weights: tf.Tensor, log_pi: tf.Tensor) -> tf.Tensor:
    """At most log p(x) in expectation, for draws that may depend on one another.

    Shu et al. 2019, theorem 1: log sum_i pi_i p(x,z_i) / q(z_i|z_v(i)). Each term alone is
    unbiased for p(x) as long as its z_i was drawn from the density that it is divided by,
    whatever other draws v(i) that density was chosen by: all, none, or those before it.
    With uniform pi and independent draws it is the IWAE bound; with all of pi on one index
    the ELBO of that proposal.

    Args:
        log_weights: log p(x,z_i) - log q(z_i|z_v(i)) `[k+1, ...]`; the log of any positive
            unbiased estimate of 1/q(z_i|z_v(i)) will do in place of -log q.
        log_pi: logs of the weights pi `[k+1]`, which sum to 1 and may not depend on the
            draws; -inf leaves a term out.

    Returns:
        `[...]`, nats.
    """
    return log_sum_exp(log_weights + _beside(log_pi, log_weights))


def buffer_responsibilities(log_weights: tf.Tensor, log_pi: tf.Tensor) -> tf.Tensor:
    """The r_i = pi_i w_i / sum_j pi_j w_j of lemma 1 of Shu et al. 2019. `[k+1, ...]`."""
    return normalised_weights(log_weights + _beside(log_pi, log_weights))


def _beside(log_pi: tf.Tensor, log_weights: tf.Tensor) -> tf.Tensor:
    """`[k+1]` -> `[k+1, 1, ...]`."""
    ones = tf.ones([tf.rank(log_weights) - 1], tf.int32)
    return tf.reshape(log_pi, tf.concat([tf.shape(log_pi), ones], axis=0))


def normalised_weights(log_weights: tf.Tensor) -> tf.Tensor:
    """Returns the softmax over axis 0. `[N, ...] -> [N, ...]`.

    All weights are 0 where the largest log weight is infinite: the bound has no gradient there.
    """
    # Not tf.nn.softmax, which transposes.
    largest = tf.stop_gradient(tf.reduce_max(log_weights, axis=0))
    nothing = tf.constant(-float("inf"), log_weights.dtype)
    weights = tf.exp(tf.where(tf.math.is_inf(largest), nothing, log_weights - largest))
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=0))


def effective_sample_size(log_weights: tf.Tensor) -> tf.Tensor:
    """Returns (sum w)^2 / sum w^2 over axis 0, from 1 to N; 0 if all weights are 0.

    `[N, ...] -> [...]`.
    """
    squares = tf.reduce_sum(tf.square(normalised_weights(log_weights)), axis=0)
    return tf.math.reciprocal_no_nan(squares)


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
    v = normalised_weights(log_ratios)
    w = normalised_weights(outer_log_weights(densities, inner, outer))
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
    u = normalised_weights(densities.log_prior)
    w = normalised_weights(outer_log_weights(densities, inner, outer))
    return u * (1.0 - as_weight(outer, w.dtype) * (1.0 - w))


# Of r, that it stay within float32. By the same symmetry psi_0 is any one of the K+1 with the
# probability v, so a larger r has a probability below (K+1) e^-60: no draw has ever been near.
_MAX_LOG_SWAP_RATIO = 60.0


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
