"""Diagnostics of importance weights and of an inverse model, as pure reductions.

The effective sample size is in `weights`, because gradients use the same weights.
"""

import math

import tensorflow as tf

from hvi_tf.bounds import marginal

# Below this KL(tau||q(psi)), in nats, the draws of tau are like draws of q(psi|x).
COLLAPSED_NATS = 0.05
# Above this shape the variance of the weights' mean is infinite for all practical purposes.
RELIABLE_PARETO_K = 0.7
# The fit of a tail needs at least this many exceedances.
MIN_TAIL = 5


def kl_tau_posterior(log_ratios: tf.Tensor) -> tf.Tensor:
    """Returns a lower bound on KL(tau(psi|z,x) || q(psi|z,x)) in expectation.

    Sobolev & Vetrov 2019, section 6.3. The K-sample minus the 1-sample lower bound on
    log q(z|x) satisfies

        E [L_K - L_1] <= KL(tau(psi|z,x) || q(psi|z,x)),    L_1 = 1/K sum_k beta_k

    Args:
        log_ratios: beta `[K, ...]` of draws from tau, without the psi that generated z.

    Returns:
        `[...]`, nats; +inf if tau draws where q(psi|z,x) is 0.
    """
    return gain_over_one_draw(marginal.log_mean_exp(log_ratios), tf.reduce_mean(log_ratios, axis=0))


def gain_over_one_draw(lower: tf.Tensor, mean_log_ratio: tf.Tensor) -> tf.Tensor:
    """Returns L_K - L_1, and +inf where L_1 is -inf, even if L_K is also -inf.

    Args:
        lower: L_K `[...]`, nats.
        mean_log_ratio: L_1, the mean of beta over k, `[...]`, nats.

    Returns:
        `[...]`, nats.
    """
    infinite = tf.math.is_inf(mean_log_ratio)
    return tf.where(infinite, tf.abs(mean_log_ratio), lower - mean_log_ratio)


def tail_length(count: int) -> int:
    """Returns the number of weights in the tail that `pareto_k` fits.

    Vehtari et al. 2024 take ceil(min(S / 5, 3 sqrt(S))) of S weights.

    Args:
        count: S, the number of all weights.

    Returns:
        The length of the tail, or 0 if it is below `MIN_TAIL`.
    """
    length = math.ceil(min(count / 5, 3 * math.sqrt(count)))
    return length if length >= MIN_TAIL else 0


def pareto_k(largest: tf.Tensor) -> tf.Tensor:
    """Returns the shape of a generalized Pareto distribution fitted to the largest weights.

    Vehtari et al. 2024, "Pareto smoothed importance sampling", with the fit of Zhang &
    Stephens 2009 and the same weak prior toward 0.5:

        k = (n k_fit + 5) / (n + 10)

    Above `RELIABLE_PARETO_K` neither averages over the weights nor their standard errors are
    reliable.

    Args:
        largest: the n + 1 = `tail_length(count) + 1` largest log weights `[n + 1, ...]`, in
            decreasing order.

    Returns:
        `[...]`, dimensionless, or 0 where all weights are equal.
    """
    logs = tf.cast(largest, tf.float64)
    weights = tf.exp(logs - logs[0])
    # In increasing order. exp may round equal logs to different weights, hence the maximum.
    excess = tf.maximum(weights - weights[-1], 0.0)[-2::-1]
    n = excess.shape[0]
    scale = tf.maximum(excess[-1], 1e-300)
    quartile = tf.maximum(excess[int(n / 4 + 0.5) - 1], 1e-300)
    points = 30 + int(math.sqrt(n))
    grid = 1.0 - tf.sqrt(points / (tf.range(1, points + 1, dtype=tf.float64) - 0.5))
    grid = tf.reshape(grid, [-1, *[1] * (excess.shape.rank - 1)])
    theta = 1.0 / scale + grid / (3.0 * quartile)  # [points, ...]
    shape = tf.reduce_mean(tf.math.log1p(-theta[:, tf.newaxis] * excess), axis=1)
    # Where theta is 0 the distribution is exponential: theta / shape tends to -1 / mean.
    mean = tf.maximum(tf.reduce_mean(excess, axis=0), 1e-300)
    exponential = theta == 0.0
    slope = tf.where(
        exponential, 1.0 / mean, -theta / tf.where(exponential, tf.ones_like(shape), shape)
    )
    log_profile = n * (tf.math.log(slope) - shape - 1.0)
    posterior = tf.exp(log_profile - tf.reduce_logsumexp(log_profile, axis=0))
    theta = tf.reduce_sum(posterior * theta, axis=0)
    k = tf.reduce_mean(tf.math.log1p(-theta * excess), axis=0)
    k = (n * k + 5.0) / (n + 10.0)
    return tf.cast(tf.where(excess[-1] > 1e-12, k, 0.0), largest.dtype)
