"""Log-densities of all pairs of a value and a component of a batch of distributions."""

import math

import tensorflow as tf
from tensorflow_probability import distributions as tfd

_LOG_2_PI = math.log(2.0 * math.pi)
# Largest sum over dimensions of ((mean - center) / scale)^2 of any component. The rounding error
# of the expanded square is about 1e-7 times twice that sum, which is 1e-4 nats.
_REACH_OF_FLOAT32 = 1_000.0


class Table:
    """Log-densities under components of batch shape `[M, B]`, prepared for many values.

    For diagonal Gaussians, one matrix product replaces N M D squares:

        log N(v|mu,s^2) = [v^2, v, 1] . [-1/(2 s^2), mu/s^2, c],
        c = -sum_d [mu^2/(2 s^2) + log s + 1/2 log 2 pi]

    Its large terms cancel if the scales are far smaller than the distances between the means.
    The product is computed in float32 if the error stays below 1e-3 nats, otherwise in float64.
    The dtype is chosen for each observation separately, so no result depends on the other
    observations of the batch. On a GPU the dtype is always float64.

    Args:
        components: a distribution of batch shape `[M, B]` and event shape `[D]`.

    Attributes:
        gaussian: means and standard deviations, each `[M, B, D]`. None if the components are
            not diagonal Gaussians.
    """

    def __init__(self, components: tfd.Distribution) -> None:
        self._components = components
        self.gaussian = _gaussian(components)
        if self.gaussian is not None:
            loc, scale = (tf.transpose(v, [1, 0, 2]) for v in self.gaussian)  # [B, M, D]
            self._center = tf.reduce_mean(loc, axis=1, keepdims=True)
            self._exact = _factors(tf.cast(loc, tf.float64), tf.cast(scale, tf.float64))
            offset = loc - self._center
            reach = tf.reduce_max(tf.reduce_sum(tf.square(offset / scale), axis=-1), axis=1)
            self._is_safe = (reach < _REACH_OF_FLOAT32)[:, tf.newaxis, tf.newaxis]
            safe_scale = tf.where(self._is_safe, scale, tf.ones_like(scale))
            self._factors = _factors(offset, safe_scale)

    def log_prob(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the log-density of each value under each component.

        Args:
            values: `[N, B, D]`.

        Returns:
            `[B, N, M]`, nats, in the dtype of the values.
        """
        if self.gaussian is None:
            return tf.transpose(self._components.log_prob(values[:, tf.newaxis]), [2, 0, 1])
        values = tf.transpose(values, [1, 0, 2])

        def exact() -> tf.Tensor:
            product = _product(tf.cast(values, tf.float64), self._exact)
            return tf.cast(product, values.dtype)

        if values.dtype == tf.float64 or tf.config.get_visible_devices("GPU"):
            return exact()  # A GPU may round float32 factors to 10 bits.
        fast = _product(values - self._center, self._factors)
        return tf.cond(
            tf.reduce_all(self._is_safe),
            lambda: fast,
            lambda: tf.where(self._is_safe, fast, exact()),
        )


def log_prob(components: tfd.Distribution, values: tf.Tensor) -> tf.Tensor:
    """Returns the log-density of each value under each component, by a `Table`.

    Args:
        components: a distribution of batch shape `[M, B]` and event shape `[D]`.
        values: `[N, B, D]`.

    Returns:
        `[M, N, B]`, nats, in the dtype of the values.
    """
    return tf.transpose(Table(components).log_prob(values), [2, 1, 0])


def _gaussian(components: tfd.Distribution) -> tuple[tf.Tensor, tf.Tensor] | None:
    """Returns means and standard deviations of diagonal Gaussians, None for other densities."""
    if isinstance(components, tfd.MultivariateNormalDiag):
        return components.mean(), components.stddev()
    if not isinstance(components, tfd.Independent) or components.event_shape.rank != 1:
        return None
    inner = components.distribution
    if not isinstance(inner, tfd.Normal):
        return None
    shape = tf.broadcast_dynamic_shape(tf.shape(inner.loc), tf.shape(inner.scale))
    return tf.broadcast_to(inner.loc, shape), tf.broadcast_to(inner.scale, shape)


def _factors(loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Returns [-1/(2 s^2), mu/s^2, c] `[B, M, 2 D + 1]` for mu and s `[B, M, D]`."""
    precision = 1.0 / tf.square(scale)
    constant = -0.5 * tf.reduce_sum(tf.square(loc) * precision, axis=-1, keepdims=True)
    constant -= tf.reduce_sum(tf.math.log(scale) + 0.5 * _LOG_2_PI, axis=-1, keepdims=True)
    return tf.concat([-0.5 * precision, loc * precision, constant], axis=-1)


def _product(values: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Returns [v^2, v, 1] . factors: `[B, N, D]`, `[B, M, 2 D + 1]` -> `[B, N, M]`."""
    powers = tf.concat([tf.square(values), values, tf.ones_like(values[..., :1])], axis=-1)
    return tf.matmul(powers, factors, transpose_b=True)
