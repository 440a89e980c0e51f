"""Normalized importance weights and their effective sample size.

Notation: w are the weights over draws of z (axis m), v those over draws of psi (axis k).
"""

import tensorflow as tf


def normalized_weights(log_weights: tf.Tensor) -> tf.Tensor:
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
    squares = tf.reduce_sum(tf.square(normalized_weights(log_weights)), axis=0)
    return tf.math.reciprocal_no_nan(squares)
