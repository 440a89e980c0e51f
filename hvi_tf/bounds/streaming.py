"""Statistics of weights that arrive in chunks, in memory that does not grow with their number."""

from typing import NamedTuple

import tensorflow as tf


class LogSum(NamedTuple):
    """The running sum of weights over one axis, relative to the largest weight so far.

    Attributes:
        log_largest: the log of the largest weight, `[...]`.
        total: sum of w / largest, `[...]`.
    """

    log_largest: tf.Tensor
    total: tf.Tensor

    @staticmethod
    def empty(like: tf.Tensor) -> "LogSum":
        """Returns the sum of no weights.

        Args:
            like: a tensor of the shape `[...]` and dtype of the sum.
        """
        zeros = tf.zeros_like(like)
        return LogSum(zeros - float("inf"), zeros)

    def add(self, log_weights: tf.Tensor) -> "LogSum":
        """Returns the sum with a chunk of weights added.

        Args:
            log_weights: `[..., chunk]`, nats. An entry of -inf adds 0.
        """
        largest = tf.maximum(self.log_largest, tf.reduce_max(log_weights, axis=-1))
        # Where every weight so far is 0, -inf - (-inf) would be NaN.
        reference = tf.where(tf.math.is_inf(largest), tf.zeros_like(largest), largest)
        sums = tf.reduce_sum(tf.exp(log_weights - reference[..., tf.newaxis]), axis=-1)
        return LogSum(largest, tf.exp(self.log_largest - reference) * self.total + sums)

    def log_mean(self, count: int) -> tf.Tensor:
        """Returns the log of the mean of the weights so far, `[...]`, nats.

        Args:
            count: the number of weights so far.
        """
        return self.log_largest + tf.math.log(self.total / count)


class Streamed(NamedTuple):
    """The running sums of weights and of their squares, relative to the largest so far.

    Attributes:
        log_largest: the log of the largest weight, `[...]`.
        total: sum of w / largest, `[...]`.
        squares: sum of (w / largest)^2, `[...]`.
    """

    log_largest: tf.Tensor
    total: tf.Tensor
    squares: tf.Tensor

    @staticmethod
    def empty(like: tf.Tensor) -> "Streamed":
        """Returns the sums of no weights.

        Args:
            like: a tensor of the shape `[...]` and dtype of the sums.
        """
        zeros = tf.zeros_like(like)
        return Streamed(zeros - float("inf"), zeros, zeros)

    def add(self, log_weights: tf.Tensor) -> "Streamed":
        """Returns the sums with a chunk of weights added.

        Args:
            log_weights: `[chunk, ...]`, nats. An entry of -inf adds 0.
        """
        largest = tf.maximum(self.log_largest, tf.reduce_max(log_weights, axis=0))
        # Where every weight so far is 0, -inf - (-inf) would be NaN.
        reference = tf.where(tf.math.is_inf(largest), tf.zeros_like(largest), largest)
        shrink = tf.exp(self.log_largest - reference)
        weights = tf.exp(log_weights - reference)
        return Streamed(
            largest,
            shrink * self.total + tf.reduce_sum(weights, axis=0),
            tf.square(shrink) * self.squares + tf.reduce_sum(tf.square(weights), axis=0),
        )

    def log_mean(self, count: int) -> tf.Tensor:
        """Returns the log of the mean of the weights so far, `[...]`, nats.

        Args:
            count: the number of weights so far.
        """
        return self.log_largest + tf.math.log(self.total / count)

    def effective_sample_size(self) -> tf.Tensor:
        """Returns `bounds.effective_sample_size` of all weights so far, `[...]`."""
        size = tf.math.divide_no_nan(tf.square(self.total), self.squares)
        return tf.where(tf.math.is_inf(self.log_largest), tf.zeros_like(size), size)


def no_largest(count: int, like: tf.Tensor) -> tf.Tensor:
    """Returns the initial value of `add_to_largest`, which is -inf.

    Args:
        count: the number of weights to keep.
        like: a tensor of the shape `[...]` and dtype of one weight.

    Returns:
        `[count, ...]`.
    """
    return tf.fill(
        tf.concat([[count], tf.shape(like)], axis=0), tf.constant(-float("inf"), like.dtype)
    )


def add_to_largest(largest: tf.Tensor, log_weights: tf.Tensor) -> tf.Tensor:
    """Returns the n largest of the weights so far and a chunk of weights.

    Args:
        largest: the n largest log weights so far, `[n, ...]`.
        log_weights: a chunk of log weights, `[chunk, ...]`.

    Returns:
        `[n, ...]`, in decreasing order.
    """
    n = largest.shape[0]
    if n == 0:
        return largest
    last_axis = tf.concat([tf.range(1, tf.rank(largest)), [0]], axis=0)
    candidates = tf.transpose(tf.concat([largest, log_weights], axis=0), last_axis)
    top = tf.math.top_k(candidates, n).values
    top = tf.transpose(top, tf.concat([[tf.rank(largest) - 1], tf.range(tf.rank(largest) - 1)], 0))
    return tf.ensure_shape(top, largest.shape)
