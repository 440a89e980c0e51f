"""Statistics of weights that come in chunks, in memory that does not grow with them."""

from typing import NamedTuple

import tensorflow as tf


class LogSum(NamedTuple):
    """The running sum of weights over one axis, relative to the largest so far; each `[...]`."""

    log_largest: tf.Tensor
    total: tf.Tensor  # sum of w / largest

    @staticmethod
    def empty(like: tf.Tensor) -> "LogSum":
        """No weights yet."""
        zeros = tf.zeros_like(like)
        return LogSum(zeros - float("inf"), zeros)

    def add(self, log_weights: tf.Tensor) -> "LogSum":
        """Adds `[..., chunk]`; an entry of -inf adds nothing."""
        largest = tf.maximum(self.log_largest, tf.reduce_max(log_weights, axis=-1))
        # Where every weight so far is 0, -inf - (-inf) would be NaN.
        reference = tf.where(tf.math.is_inf(largest), tf.zeros_like(largest), largest)
        sums = tf.reduce_sum(tf.exp(log_weights - reference[..., tf.newaxis]), axis=-1)
        return LogSum(largest, tf.exp(self.log_largest - reference) * self.total + sums)

    def log_mean(self, count: int) -> tf.Tensor:
        """The log of the mean of `count` weights."""
        return self.log_largest + tf.math.log(self.total / count)


class Streamed(NamedTuple):
    """Running sums of weights over one axis, relative to the largest so far; each `[...]`."""

    log_largest: tf.Tensor
    total: tf.Tensor  # sum of w / largest
    squares: tf.Tensor  # sum of (w / largest)^2

    @staticmethod
    def empty(like: tf.Tensor) -> "Streamed":
        """No weights yet."""
        zeros = tf.zeros_like(like)
        return Streamed(zeros - float("inf"), zeros, zeros)

    def add(self, log_weights: tf.Tensor) -> "Streamed":
        """Adds `[chunk, ...]`; an entry of -inf adds nothing."""
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
        """The log of the mean of `count` weights."""
        return self.log_largest + tf.math.log(self.total / count)

    def effective_sample_size(self) -> tf.Tensor:
        """Returns `bounds.effective_sample_size` of all weights."""
        found = tf.math.divide_no_nan(tf.square(self.total), self.squares)
        return tf.where(tf.math.is_inf(self.log_largest), tf.zeros_like(found), found)


def no_largest(count: int, like: tf.Tensor) -> tf.Tensor:
    """The `count` largest of no weights, `[count, ...]`."""
    return tf.fill(
        tf.concat([[count], tf.shape(like)], axis=0), tf.constant(-float("inf"), like.dtype)
    )


def add_to_largest(largest: tf.Tensor, log_weights: tf.Tensor) -> tf.Tensor:
    """The largest, decreasing, of `largest` `[n, ...]` and a chunk `[chunk, ...]`."""
    n = largest.shape[0]
    if n == 0:
        return largest
    last_axis = tf.concat([tf.range(1, tf.rank(largest)), [0]], axis=0)
    together = tf.transpose(tf.concat([largest, log_weights], axis=0), last_axis)
    kept = tf.math.top_k(together, n).values
    kept = tf.transpose(
        kept, tf.concat([[tf.rank(largest) - 1], tf.range(tf.rank(largest) - 1)], 0)
    )
    return tf.ensure_shape(kept, largest.shape)
