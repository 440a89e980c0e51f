"""Jackknife estimates of log q(z), which have less bias than U_K but are not bounds.

The bias of U_K is a power series in 1/(K+1). A weighted sum of U_K, ..., U_{K-J} cancels its
first J terms, where each is averaged over the subsets of the same draws (Sobolev & Vetrov
2019, appendix E, after Nowozin 2018).
"""

import math

import numpy as np
import tensorflow as tf

from hvi_tf import arguments
from hvi_tf.bounds import marginal

# Node distance of the trapezoid rule. Its error falls as exp(-pi^2/distance) and is therefore
# below the resolution of float64.
_NODE_DISTANCE = 0.27


def coefficients(K: int, order: int) -> np.ndarray:
    """Returns Sharot's weights of U_{K-j}, which sum to 1.

        c_j = (-1)^j (K + 1 - j)^J / ((J - j)! j!),    j = 0..J

    The base K + 1 - j is the number of terms in U_{K-j}. Equation 10 of Sobolev & Vetrov 2019
    prints K - j. That contradicts its own derivation at J = 1, (K+1) U_K - K U_{K-1}, and
    leaves a bias of order 1/K.

    Args:
        K: the number of psi besides psi_0, >= 0.
        order: J, from 0 to K.

    Returns:
        c, float64 `[J+1]`.

    Raises:
        ValueError: unless 0 <= order <= K.
    """
    K = arguments.count("K", K, lowest=0)
    order = arguments.count("order", order, lowest=0, highest=K)
    return np.array(
        [
            (-1.0) ** j
            * float(K + 1 - j) ** order
            / (math.factorial(order - j) * math.factorial(j))
            for j in range(order + 1)
        ]
    )


def jackknife(log_ratios: tf.Tensor, order: int) -> tf.Tensor:
    """Returns the order-J jackknife estimate of log q(z), with a bias of order 1/K^(J+1).

    Sobolev & Vetrov 2019, equation 10, with the corrected coefficients:

        J_K = sum_j=0..J c_j U_{K-j}

    J = 0 gives U_K. For J > 0 the estimate is neither an upper nor a lower bound. It costs
    O(J K Q) for the Q nodes of `subset_averages`. It is computed in float64, because the
    coefficients grow like K^J.

    Args:
        log_ratios: beta `[K+1, ...]` with static K. Index 0 belongs to the psi that
            generated z, the others to independent draws from tau(psi|z,x).
        order: J, from 0 to K.

    Returns:
        `[...]`, nats, in the dtype of `log_ratios`.

    Raises:
        ValueError: unless 0 <= order <= K.
    """
    weights = coefficients(log_ratios.shape[0] - 1, order)
    averages = subset_averages(log_ratios, order)
    # The weights have both signs, so infinite averages would add up to NaN.
    infinite = tf.math.is_inf(averages[0])
    estimate = tf.tensordot(weights, tf.where(infinite, tf.zeros_like(averages), averages), 1)
    return tf.cast(tf.where(infinite, averages[0], estimate), log_ratios.dtype)


def subset_averages(log_ratios: tf.Tensor, order: int) -> tf.Tensor:
    """Returns U_{K-j} averaged over all subsets of psi_1:K of size K - j, with psi_0 in each.

    The result is exact to about 1e-12 without an enumeration of the binomial(K, j) subsets.
    The log of a sum S = sum_k w_k is

        log S = int exp(-e^u) - exp(-S e^u) du

    and exp(-S e^u) is a product of the factors exp(-w_k e^u). Its average over subsets is an
    elementary symmetric polynomial, computed by a recursion over k in O(K J). The integrand is
    analytic and falls off doubly exponentially, so the trapezoid rule converges geometrically.
    All terms are positive and at most 1, so nothing cancels.

    An estimate costs O(J K Q) time and O(J Q) memory. Q is 150 plus 4 nodes per nat of the
    range of the log-sums. An enumeration costs O(binomial(K, j)), which is more from about
    j = 3, or from K = 1000 at j = 2.

    Args:
        log_ratios: beta `[K+1, ...]`, static K.
        order: J, from 0 to K.

    Returns:
        float64 `[J+1, ...]`, nats.

    Raises:
        ValueError: unless 0 <= order <= K.
    """
    beta = tf.cast(log_ratios, tf.float64)
    K = beta.shape[0] - 1
    order = arguments.count("order", order, lowest=0, highest=K)
    full = marginal.log_sum_exp(beta)
    infinite = tf.math.is_inf(full)
    # Weights w_k = exp(beta_k) that sum to 1.
    beta = tf.where(infinite, tf.zeros_like(beta), beta - full)
    sizes = tf.constant([K + 1 - j for j in range(order + 1)], tf.float64)
    shift = tf.reshape(tf.math.log(sizes), [-1, *[1] * (beta.shape.rank - 1)])
    if order == 0:
        return full[tf.newaxis] - shift
    smallest_log_sum = tf.reduce_logsumexp(
        tf.concat([beta[:1], tf.sort(beta[1:], axis=0)[: K - order]], axis=0), axis=0
    )
    # If the smallest subset has weight 0, the next one has at least the smallest positive weight.
    positive = tf.reduce_min(tf.where(tf.math.is_inf(beta), tf.zeros_like(beta), beta), axis=0)
    smallest = tf.reduce_min(tf.where(tf.math.is_inf(smallest_log_sum), positive, smallest_log_sum))
    # exp(-40) and exp(-exp(4)) are below the resolution of 1 in float64.
    nodes = tf.range(-40.0, 4.0 - smallest, _NODE_DISTANCE, dtype=tf.float64)
    nodes = tf.reshape(nodes, [-1, *[1] * (beta.shape.rank - 1)])  # [Q, 1, ...]

    # averages[j] is the mean product of the remaining factors when j of psi_1:k are left out.
    averages = [_factor(nodes + beta[0])] + [tf.zeros_like(nodes + beta[0])] * order
    for k in range(1, K + 1):
        factor = _factor(nodes + beta[k])
        averages = [
            (k - j) / k * factor * averages[j] + (j / k * averages[j - 1] if j else 0.0)
            if j <= k
            else averages[j]
            for j in range(order + 1)
        ]
    reference = _factor(nodes)
    integrals = [_NODE_DISTANCE * tf.reduce_sum(reference - a, axis=0) for a in averages]
    # If the weights of a subset are all 0, its log-sum is -inf and so is the average.
    zero_weights = tf.reduce_sum(tf.cast(tf.math.is_inf(beta[1:]), tf.float64), axis=0)
    has_zero_subset = tf.math.is_inf(beta[0]) & (zero_weights >= tf.exp(shift) - 1.0)
    minus_infinity = tf.constant(-float("inf"), tf.float64)
    return tf.where(has_zero_subset, minus_infinity, tf.stack(integrals) + full - shift)


def _factor(log_rates: tf.Tensor) -> tf.Tensor:
    """Returns exp(-e^t) for the log rates t."""
    # From t = 7 on the value is 0 in float64, and its gradient would be 0 times infinity.
    return tf.exp(-tf.exp(tf.minimum(log_rates, 7.0)))


def sampled_subset_averages(
    log_ratios: tf.Tensor, order: int, *, subsets: int, seed: tf.Tensor
) -> tf.Tensor:
    """Returns unbiased estimates of `subset_averages` from random subsets, in O(K) each.

    These serve where K J is too large for the exact averages. One random permutation of
    psi_1:K serves every j, because its first K - j entries are a uniformly drawn subset.

    Args:
        log_ratios: beta `[K+1, ...]`, static shape.
        order: J, from 0 to K.
        subsets: the number of random permutations, >= 1.
        seed: int32 `[2]`. The permutations are a pure function of it.

    Returns:
        float64 `[J+1, ...]`, nats.

    Raises:
        ValueError: if a number is out of range.
    """
    beta = tf.cast(log_ratios, tf.float64)
    K = beta.shape[0] - 1
    order = arguments.count("order", order, lowest=0, highest=K)
    subsets = arguments.count("subsets", subsets, lowest=1)
    seed = arguments.stateless_seed(seed)
    noise = tf.random.stateless_uniform([subsets, K], seed)
    permutations = tf.argsort(noise, axis=1)
    totals = tf.zeros_like(beta[: order + 1])
    for i in tf.range(subsets):
        shuffled = tf.concat([beta[:1], tf.gather(beta[1:], permutations[i])], axis=0)
        # The log-sum of psi_0 and the first K - j others is one entry of a cumulative sum.
        sums = tf.math.cumulative_logsumexp(shuffled, axis=0)[K - order :]
        totals += tf.reverse(sums, axis=[0])
    sizes = tf.constant([K + 1 - j for j in range(order + 1)], tf.float64)
    shift = tf.reshape(tf.math.log(sizes), [-1, *[1] * (beta.shape.rank - 1)])
    return totals / subsets - shift
