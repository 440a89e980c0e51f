"""Observation models p(x|z): distributions of D pixels given a decoder's outputs `[..., D]`."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd
from tensorflow_probability import util as tfp_util

from hvi_tf.models import pixelcnn

# In units of intensity, from 0 to 1; neighboring levels are 0.0039 apart.
MIN_SCALE = 1e-3
INITIAL_SCALE = 0.1
MAX_LEVEL = 255


class Bernoulli(keras.layers.Layer):
    """Independent pixels in {0, 1} whose logits are the outputs; it has no weights."""

    values = "0 or 1 (binarize gray images)"

    @staticmethod
    def contains(x: np.ndarray) -> np.ndarray:
        """Returns for each value whether it is 0 or 1."""
        return (x == 0) | (x == 1)

    def __init__(self) -> None:
        super().__init__()
        self.built = True

    def call(self, outputs: tf.Tensor) -> tfd.Distribution:
        """Maps outputs `[..., D]` to a distribution: batch shape `[...]`, event shape `[D]`."""
        return tfd.Independent(tfd.Bernoulli(logits=outputs), reinterpreted_batch_ndims=1)


class DiscretizedLogisticDistribution(tfd.Distribution):
    """A logistic variable rounded to the 256 levels x = v/255, v = 0, ..., 255.

    P(x) = sigmoid((x + 1/510 - loc) / s) - sigmoid((x - 1/510 - loc) / s), where the first
    level extends to -infinity and the last one to infinity, so the probabilities sum to 1. This is
    the likelihood of Kingma et al. 2016, section 5. Events are scalars.

    Args:
        loc: location, in units of intensity; may be outside of 0 to 1.
        scale: s > 0, in the same units.
    """

    def __init__(self, loc: tf.Tensor, scale: tf.Tensor) -> None:
        parameters = dict(locals())
        self._loc, self._scale = tf.convert_to_tensor(loc), tf.convert_to_tensor(scale)
        super().__init__(
            dtype=self._loc.dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name="DiscretizedLogistic",
        )

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: int | None = None) -> dict:
        return {name: tfp_util.ParameterProperties() for name in ("loc", "scale")}

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        # Levels are integers. The rounding error of x = v/255 in float32 would change the
        # probabilities by about 1e-5 at the smallest scale.
        v = tf.round(MAX_LEVEL * x)
        centered = (v - MAX_LEVEL * self._loc) / (MAX_LEVEL * self._scale)
        width = 1.0 / (MAX_LEVEL * self._scale)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) avoids a difference of
        # nearly equal numbers. At the first and the last level one sigmoid is 0 or 1. Every term
        # is finite, so no `where` has a NaN in its gradient.
        log_below = -tf.nn.softplus(-centered - width / 2.0)
        log_above = -tf.nn.softplus(centered - width / 2.0)
        log_between = tf.math.log(-tf.math.expm1(-width))
        zero = tf.zeros([], x.dtype)
        at_first, at_last = v <= 0.0, v >= MAX_LEVEL
        return (
            tf.where(at_last, zero, log_below)
            + tf.where(at_first, zero, log_above)
            + tf.where(at_first | at_last, zero, log_between)
        )

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        smallest = np.finfo(self.dtype.as_numpy_dtype).tiny  # not 0, because log(0) is infinite
        u = tf.random.stateless_uniform(shape, seed, smallest, 1.0, self.dtype, alg="philox")
        x = self._loc + self._scale * (tf.math.log(u) - tf.math.log1p(-u))
        return tf.clip_by_value(tf.round(MAX_LEVEL * x), 0.0, MAX_LEVEL) / MAX_LEVEL

    def _mean(self) -> tf.Tensor:
        """Returns the mean of the logistic clipped to [0, 1], which differs by less than 1/510."""
        loc, scale = self._loc, self._scale
        return scale * (tf.nn.softplus(loc / scale) - tf.nn.softplus((loc - 1.0) / scale))


class DiscretizedLogistic(keras.layers.Layer):
    """Independent pixels of 256 levels v/255, with one learned scale per pixel.

    The location is output + 1/2. A sigmoid would restrict it to [0, 1], but saturates at the values
    of most pixels. An unbounded location can give the first or last level all the probability.

    Args:
        x_dim: D.
    """

    values = "v/255 for v = 0, ..., 255 (divide 8-bit images by 255)"

    @staticmethod
    def contains(x: np.ndarray) -> np.ndarray:
        """Returns for each value whether it is a level, up to a rounding error."""
        levels = MAX_LEVEL * x
        is_level = np.abs(levels - np.round(levels)) < 0.1
        return is_level & (levels > -0.1) & (levels < MAX_LEVEL + 0.1)

    def __init__(self, x_dim: int) -> None:
        super().__init__()
        initial = np.log(np.expm1(INITIAL_SCALE - MIN_SCALE))
        self.raw_scale = self.add_weight(
            shape=(x_dim,), initializer=keras.initializers.Constant(initial), name="raw_scale"
        )
        self.built = True

    @property
    def scale(self) -> tf.Tensor:
        """The scale of each pixel, `[D]`, at least `MIN_SCALE`."""
        return tf.nn.softplus(tf.convert_to_tensor(self.raw_scale)) + MIN_SCALE

    def call(self, outputs: tf.Tensor) -> tfd.Distribution:
        """Maps outputs `[..., D]` to a distribution: batch shape `[...]`, event shape `[D]`."""
        pixel = DiscretizedLogisticDistribution(outputs + 0.5, self.scale)
        return tfd.Independent(pixel, reinterpreted_batch_ndims=1)


class Autoregressive:
    """The distribution p(x|z) = prod_t p(x_t | x_1:t-1, z) of a PixelCNN.

    It has the methods of a TFP distribution that the bounds use. It has no mean, which would be a
    sum over all images.

    Args:
        network: maps x and z to one output per pixel.
        pixels: maps outputs to the distribution of the pixels.
        z: `[..., B, Dz]`.
    """

    def __init__(
        self,
        network: pixelcnn.PixelCNN,
        pixels: Callable[[tf.Tensor], tfd.Distribution],
        z: tf.Tensor,
    ) -> None:
        self._network, self._pixels, self._z = network, pixels, z
        self.batch_shape = z.shape[:-1]
        self.event_shape = tf.TensorShape([network.side**2])

    def log_prob(self, x: tf.Tensor) -> tf.Tensor:
        """Returns log p(x|z), `[B, D] -> [..., B]`, in nats."""
        return self._pixels(self._network(x, self._z)).log_prob(x)

    def sample(self, seed: tf.Tensor, progress: Callable[[int], None] | None = None) -> tf.Tensor:
        """Draws x, `[..., B, D]`, by `pixelcnn.sample`."""
        return pixelcnn.sample(self._network, self._pixels, self._z, seed, progress)
