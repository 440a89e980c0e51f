"""The generalized IWAE bound over a buffer of dependent proposals (Shu et al. 2019)."""

import tensorflow as tf

from hvi_tf.bounds.marginal import log_sum_exp
from hvi_tf.bounds.weights import normalized_weights


def generalized_iwae(log_weights: tf.Tensor, log_pi: tf.Tensor) -> tf.Tensor:
    """Returns a lower bound on log p(x) in expectation, from draws that may be dependent.

    Shu et al. 2019, theorem 1. For z_i ~ q(z_i|z_v(i)),

        E log sum_i=0..k pi_i p(x,z_i) / q(z_i|z_v(i)) <= log p(x)

    Each term is an unbiased estimate of p(x), since z_i comes from the density in its
    denominator. The set v(i) of draws that this density depends on is arbitrary. Uniform pi
    and independent draws give the IWAE bound. All of pi on one index gives the ELBO of that
    proposal.

    Args:
        log_weights: log p(x,z_i) - log q(z_i|z_v(i)), `[k+1, ...]`, nats. The log of a positive
            unbiased estimate of 1/q(z_i|z_v(i)) may replace -log q(z_i|z_v(i)).
        log_pi: logs of the weights pi, `[k+1]`. The weights sum to 1 and may not depend on the
            draws. An entry of -inf leaves its term out.

    Returns:
        `[...]`, nats.
    """
    return log_sum_exp(log_weights + _expand(log_pi, log_weights))


def buffer_responsibilities(log_weights: tf.Tensor, log_pi: tf.Tensor) -> tf.Tensor:
    """Returns the responsibility of each proposal for the bound (Shu et al. 2019, lemma 1).

        r_i = pi_i w_i / sum_j pi_j w_j

    Args:
        log_weights: log w `[k+1, ...]`, nats.
        log_pi: log pi `[k+1]`.

    Returns:
        r `[k+1, ...]`, which sum to 1 over axis 0.
    """
    return normalized_weights(log_weights + _expand(log_pi, log_weights))


def _expand(log_pi: tf.Tensor, log_weights: tf.Tensor) -> tf.Tensor:
    """Reshapes log_pi to the rank of the weights: `[k+1]` -> `[k+1, 1, ...]`."""
    ones = tf.ones([tf.rank(log_weights) - 1], tf.int32)
    return tf.reshape(log_pi, tf.concat([tf.shape(log_pi), ones], axis=0))
