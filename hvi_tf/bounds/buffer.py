"""Bounds over a buffer of proposals that may depend on one another (Shu et al. 2019)."""

import tensorflow as tf

from hvi_tf.bounds.marginal import log_sum_exp
from hvi_tf.bounds.weights import normalized_weights


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
    return log_sum_exp(log_weights + _expand(log_pi, log_weights))


def buffer_responsibilities(log_weights: tf.Tensor, log_pi: tf.Tensor) -> tf.Tensor:
    """The r_i = pi_i w_i / sum_j pi_j w_j of lemma 1 of Shu et al. 2019. `[k+1, ...]`."""
    return normalized_weights(log_weights + _expand(log_pi, log_weights))


def _expand(log_pi: tf.Tensor, log_weights: tf.Tensor) -> tf.Tensor:
    """Gives log_pi the rank of the weights: `[k+1]` -> `[k+1, 1, ...]`."""
    ones = tf.ones([tf.rank(log_weights) - 1], tf.int32)
    return tf.reshape(log_pi, tf.concat([tf.shape(log_pi), ones], axis=0))
