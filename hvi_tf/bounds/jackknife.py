"""Jackknife estimates of log q(z): less bias than U_K, and no bound any more.

The bias of U_K is a power series in 1/(K+1); a weighted sum of U_K, ..., U_{K-J}, each
averaged over the subsets of the same draws, cancels its first J terms (Sobolev & Vetrov
2019, appendix E, after Nowozin 2018).
"""

import math

import numpy as np
import tensorflow as tf

from hvi_tf import arguments
from hvi_tf.bounds import marginal

# Node distance of the trapezoid rule. Its error falls as exp(-pi^2/distance) and so is
# below float64's.
_NODE_DISTANCE = 0.27


def coefficients(K: int, order: int) -> np.ndarray:
    """Sharot's weights c_j of U_{K-j}, j = 0..J; they sum to 1.

    (-1)^j n^J / ((J - j)! j!) with n = K + 1 - j, the number of terms in U_{K-j}. Equation
    10 prints K - j, which contradicts its own derivation at J = 1, (K+1) U_K - K U_{K-1},
    and leaves a bias of order 1/K.

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
    """The order-J jackknife estimate of log q(z), with a bias of order 1/K^(J+1).

    Sobolev & Vetrov 2019, equation 10, with the corrected coefficient. Neither an upper
    nor a lower bound for J > 0; J = 0 is U_K. Costs O(J K Q) for Q nodes, see
    `subset_averages`, and is computed in float64: the coefficients grow like K^J.

    Args:
        log_ratios: beta `[K+1, ...]` with static K; index 0 belongs to the psi that
            generated z, the others to independent draws from tau(psi|z,x).
        order: J, from 0 to K.

    Returns:
        `[...]`, nats, in the dtype of `log_ratios`.
    """
    weights = coefficients(log_ratios.shape[0] - 1, order)
    averages = subset_averages(log_ratios, order)
    infinite = tf.math.is_inf(averages[0])  # and so for every j: the weights have both signs
    estimate = tf.tensordot(weights, tf.where(infinite, tf.zeros_like(averages), averages), 1)
    return tf.cast(tf.where(infinite, averages[0], estimate), log_ratios.dtype)


def subset_averages(log_ratios: tf.Tensor, order: int) -> tf.Tensor:
    """U_{K-j} averaged over all subsets of psi_1:K of size K - j, psi_0 always kept.

    Exact to about 1e-12 without enumerating the binomial(K, j) subsets. The log of a sum is

        log S = int exp(-e^u) - exp(-S e^u) du,

    in which averaging over subsets acts on a product of factors exp(-w_k e^u) alone: an
    elementary symmetric polynomial, by a recursion over k in O(K J). The integrand is
    analytic and falls off doubly exponentially, where the trapezoid rule converges
    geometrically. All terms are positive and at most 1, so nothing cancels.

    Costs O(J K Q) and memory O(J Q) per estimate, Q being 4 nodes per nat of the range of
    the log-sums plus 150, against O(binomial(K, j)): cheaper from about j = 3, or K = 1000
    at j = 2, and the only way at j = 10.

    Args:
        log_ratios: beta `[K+1, ...]`, static K.
        order: J, from 0 to K.

    Returns:
        float64 `[J+1, ...]`, nats.
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
    kept_smallest = tf.reduce_logsumexp(
        tf.concat([beta[:1], tf.sort(beta[1:], axis=0)[: K - order]], axis=0), axis=0
    )
    # exp(-40) and exp(-exp(4)) are below float64's resolution of 1.
    # Where the smallest subset has no weight, the next one has that of the smallest positive.
    positive = tf.reduce_min(tf.where(tf.math.is_inf(beta), tf.zeros_like(beta), beta), axis=0)
    smallest = tf.reduce_min(tf.where(tf.math.is_inf(kept_smallest), positive, kept_smallest))
    nodes = tf.range(-40.0, 4.0 - smallest, _NODE_DISTANCE, dtype=tf.float64)
    nodes = tf.reshape(nodes, [-1, *[1] * (beta.shape.rank - 1)])  # [Q, 1, ...]

    # averages[j]: over the j-subsets dropped from psi_1:k, of the product of what is kept.
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
    # A subset whose weights are all 0 has the log-sum -inf, and so has the average.
    zero_weights = tf.reduce_sum(tf.cast(tf.math.is_inf(beta[1:]), tf.float64), axis=0)
    nowhere = tf.math.is_inf(beta[0]) & (zero_weights >= tf.exp(shift) - 1.0)
    nothing = tf.constant(-float("inf"), tf.float64)
    return tf.where(nowhere, nothing, tf.stack(integrals) + full - shift)


def _factor(log_rates: tf.Tensor) -> tf.Tensor:
    """exp(-e^t); in float64 it is 0 from t = 7 on, where the gradient would be 0 times infinity."""
    return tf.exp(-tf.exp(tf.minimum(log_rates, 7.0)))


def sampled_subset_averages(
    log_ratios: tf.Tensor, order: int, *, subsets: int, seed: tf.Tensor
) -> tf.Tensor:
    """`subset_averages` estimated, without bias, from random subsets in O(K) each.

    For K J too large for the exact averages. One random order of psi_1:K serves every j:
    its first K - j entries are a uniformly drawn subset.

    Args:
        log_ratios: beta `[K+1, ...]`, static shape.
        order: J, from 0 to K.
        subsets: random orders, >= 1.
        seed: int32 `[2]`.

    Returns:
        float64 `[J+1, ...]`, nats.
    """
    beta = tf.cast(log_ratios, tf.float64)
    K = beta.shape[0] - 1
    order = arguments.count("order", order, lowest=0, highest=K)
    subsets = arguments.count("subsets", subsets, lowest=1)
    seed = arguments.stateless_seed(seed)
    noise = tf.random.stateless_uniform([subsets, K], seed)
    orders = tf.argsort(noise, axis=1)
    totals = tf.zeros_like(beta[: order + 1])
    for i in tf.range(subsets):
        shuffled = tf.concat([beta[:1], tf.gather(beta[1:], orders[i])], axis=0)
        # Kept: psi_0 and the first K - j, whose log-sums accumulate from one side.
        sums = tf.math.cumulative_logsumexp(shuffled, axis=0)[K - order :]
        totals += tf.reverse(sums, axis=[0])
    sizes = tf.constant([K + 1 - j for j in range(order + 1)], tf.float64)
    shift = tf.reshape(tf.math.log(sizes), [-1, *[1] * (beta.shape.rank - 1)])
    return totals / subsets - shift
