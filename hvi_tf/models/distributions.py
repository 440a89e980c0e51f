"""Gaussians that sample at the same speed with and without XLA."""

import math

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import randomness

_LOG_SQRT_2_PI = 0.5 * math.log(2.0 * math.pi)


class Normal(tfd.Normal):
    """`tfd.Normal` with the package's own noise.

    The seed of `sample` must be an int32 tensor `[2]`.
    """

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        loc = tf.convert_to_tensor(self.loc)
        scale = tf.convert_to_tensor(self.scale)
        shape = tf.concat([[n], tf.broadcast_dynamic_shape(tf.shape(loc), tf.shape(scale))], axis=0)
        return loc + scale * randomness.normal(shape, seed, self.dtype)


class DiagonalNormal(tfd.Independent):
    """N(loc, diag(scale^2)) over the last axis; batch shape `[...]` for `[..., D]`.

    It replaces `MultivariateNormalDiag`, which caches its bijector, so that the gradient of
    log_prob with respect to its own sample is None.

    In float32 log_prob is -inf if x is 2e19 scales or more from loc, because the square is
    infinite. The bounds treat that as a weight of 0. Its own draws are never that far.
    """

    def __init__(self, loc: tf.Tensor, scale: tf.Tensor) -> None:
        super().__init__(Normal(loc, scale), reinterpreted_batch_ndims=1)

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        # Sums are taken separately, so that many x with one scale need its logs only once.
        loc, scale = self.distribution.loc, self.distribution.scale
        squares = tf.reduce_sum(tf.square((x - loc) / scale), axis=-1)
        return -0.5 * squares - tf.reduce_sum(tf.math.log(scale) + _LOG_SQRT_2_PI, axis=-1)


def standard_normal(batch_shape: tf.Tensor | list, dim: int) -> tfd.Distribution:
    """Returns N(0, I) in `dim` dimensions with the given batch shape."""
    shape = tf.concat([batch_shape, [dim]], axis=0) if len(batch_shape) else [dim]
    return DiagonalNormal(tf.zeros(shape), tf.ones(shape))
