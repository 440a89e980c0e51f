"""Normalized importance weights and their effective sample size.

The weights over draws of z (axis m) are called w, those over draws of psi (axis k) v.
"""

import tensorflow as tf


def normalized_weights(log_weights: tf.Tensor) -> tf.Tensor:
    """Returns the softmax w_n = exp(a_n) / sum_n' exp(a_n') over axis 0.

    All weights are 0 where the largest log weight is infinite, since the bound has no
    gradient there.

    Args:
        log_weights: a `[N, ...]`, nats.

    Returns:
        `[N, ...]`, which sum to 1 over axis 0 or are all 0.
    """
    # tf.nn.softmax would transpose.
    largest = tf.stop_gradient(tf.reduce_max(log_weights, axis=0))
    minus_infinity = tf.constant(-float("inf"), log_weights.dtype)
    weights = tf.exp(tf.where(tf.math.is_inf(largest), minus_infinity, log_weights - largest))
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=0))


def effective_sample_size(log_weights: tf.Tensor) -> tf.Tensor:
    """Returns the effective sample size (sum_n w_n)^2 / sum_n w_n^2 over axis 0.

    Args:
        log_weights: log w `[N, ...]`, nats.

    Returns:
        `[...]`, from 1 to N, or 0 if all weights are 0.
    """
    squares = tf.reduce_sum(tf.square(normalized_weights(log_weights)), axis=0)
    return tf.math.reciprocal_no_nan(squares)
