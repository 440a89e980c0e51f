"""Multilayer perceptrons as Keras layers, and heads that map outputs to Gaussians.

Units are softplus, as in the experiments of Sobolev & Vetrov 2019 (appendix F). The weights of a
network are created when it is constructed.
"""

import itertools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf.models import distributions

# Keeps standard deviations away from 0, where log-densities are unbounded.
MIN_SCALE = 1e-4
# Limits the log of a variance: standard deviations are from 1e-12 to 1e12, far beyond any use,
# and squares of numbers divided by them stay finite in float32.
MAX_LOG_VARIANCE = 55.0


def uniform(inputs: int, units: int, rng: np.random.Generator, last: bool = False) -> tf.Tensor:
    """Returns an initial kernel with He's scale, or LeCun's scale for an output layer."""
    seed = int(rng.integers(2**31))
    scale = 1.0 if last else 2.0
    initializer = keras.initializers.VarianceScaling(scale, "fan_in", "uniform", seed=seed)
    return initializer((inputs, units))


def rounded(precision: str, *factors: tf.Tensor) -> list[tf.Tensor]:
    """Returns the factors of a product, cast to bfloat16 if that is the precision."""
    if precision == "bfloat16":
        return [tf.cast(factor, tf.bfloat16) for factor in factors]
    return list(factors)


def product(a: tf.Tensor, b: tf.Tensor, precision: str) -> tf.Tensor:
    """Returns `a @ b` of factors rounded to `precision`, in the dtype of `a`."""
    return tf.cast(tf.matmul(*rounded(precision, a, b)), a.dtype)


class Dense(keras.layers.Dense):
    """A dense layer that rounds only the factors of its product to `precision`.

    Keras's mixed policies also round the bias, and sum its gradient over a batch with 8 bits of
    precision.
    """

    def __init__(self, units: int, use_bias: bool, precision: str) -> None:
        super().__init__(units, use_bias=use_bias)
        self.precision = precision

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the linear outputs, float32."""
        if self.precision == "float32":
            return super().call(inputs, training)
        outputs = product(inputs, self.kernel, self.precision)
        return outputs + self.bias if self.use_bias else outputs


def _layers_after(
    hidden: Sequence[int],
    outputs: int,
    extra: int,
    rng: np.random.Generator,
    precision: str,
) -> list[Dense]:
    """Returns the layers after the first; each has `extra` inputs after its softplus units."""
    sizes = [*hidden, outputs]
    return [
        dense(
            uniform(a + extra, b, rng, last=i == len(hidden)),
            softplus_inputs=a,
            precision=precision,
        )
        for i, (a, b) in enumerate(itertools.pairwise(sizes), start=1)
    ]


def dense(
    kernel: tf.Tensor,
    softplus_inputs: int = 0,
    use_bias: bool = True,
    precision: str = "float32",
) -> Dense:
    """Returns a layer with an initial kernel, whose first `softplus_inputs` inputs are softplus.

    Softplus units initially have a mean of about log 2. The initial bias cancels their contribution
    to the next layer. Together with He's scale this saves several epochs, compared with Glorot's
    scale and zero biases.
    """
    inputs, units = kernel.shape
    bias = -np.log(2.0) * np.sum(kernel[:softplus_inputs], axis=0)
    layer = Dense(units, use_bias, precision)
    layer.build((None, inputs))
    layer.set_weights([kernel, bias] if use_bias else [kernel])
    return layer


# Below this, sigmoid(x) approaches the smallest number of float32.
_SOFTPLUS_FLOOR = -80.0


@tf.custom_gradient
def softplus(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns log(1 + exp x) to 1e-5 in float32, as x - log sigmoid(x).

    The value and the gradient share one sigmoid. On CPUs this takes two thirds of the time of
    `tf.nn.softplus` or of a log1p. After the matrix products, softplus is the largest cost of a
    network.
    """
    clipped = tf.maximum(x, _SOFTPLUS_FLOOR)
    sigmoid = tf.sigmoid(clipped)
    return clipped - tf.math.log(sigmoid), lambda upstream: upstream * sigmoid


# Layers get only matrices. With more axes Keras may use TensorFlow's batched product, whose oneDNN
# kernel corrupted the heap (TensorFlow 2.18 to 2.21, Keras 3.6 to 3.12).
def flat(x: tf.Tensor) -> tf.Tensor:
    """Flattens the leading axes: `[..., D] -> [N, D]`."""
    return tf.reshape(x, [-1, x.shape[-1]])


def unflat(h: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Restores the leading axes of `like`: `[N, D] -> [..., D]`."""
    return tf.reshape(h, tf.concat([tf.shape(like)[:-1], [h.shape[-1]]], axis=0))


def _dense_of_pair(layer: Dense, h: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """Returns `layer(concat([h, u], -1))` without the copies of concatenation and its gradient."""
    of_h, of_u = layer.kernel[: h.shape[-1]], layer.kernel[h.shape[-1] :]
    by_h, by_u = product(h, of_h, layer.precision), product(u, of_u, layer.precision)
    return by_h + tf.nn.bias_add(by_u, layer.bias)


class MLP(keras.layers.Layer):
    """A perceptron of x alone: `[..., inputs] -> [..., outputs]`."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        rng: np.random.Generator,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.first_layer = dense(uniform(inputs, hidden[0], rng), precision=precision)
        self.later_layers = _layers_after(hidden, outputs, 0, rng, precision)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the output layer's linear activations."""
        h = self.first_layer(flat(x))
        for layer in self.later_layers:
            h = layer(softplus(h))
        return unflat(h, like=x)


class ConditionedMLP(keras.layers.Layer):
    """A perceptron of [x, u] for many u per x: `[B, Dx], [..., B, Du] -> [..., B, outputs]`.

    The product of x with the first layer is the same for all u of an image. So it is computed once
    per image and broadcast, and x itself is never tiled.

    Args:
        x_dim: Dx.
        u_dim: Du.
        hidden: units of each hidden layer.
        outputs: units of the output layer.
        rng: source of the initializers' seeds.
        reinject: whether u is also an input of every later layer, including the output layer.
        precision: dtype of the factors of matrix products.
    """

    def __init__(
        self,
        x_dim: int,
        u_dim: int,
        hidden: Sequence[int],
        outputs: int,
        rng: np.random.Generator,
        reinject: bool,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.reinject = reinject
        # These two kernels are drawn as one kernel of [x, u]. If u had its own scale, its
        # contribution would initially dominate that of x.
        kernel = uniform(x_dim + u_dim, hidden[0], rng)
        self.x_layer = dense(kernel[:x_dim], precision=precision)
        self.u_layer = dense(kernel[x_dim:], use_bias=False, precision=precision)
        extra = u_dim if reinject else 0
        self.later_layers = _layers_after(hidden, outputs, extra, rng, precision)
        self.built = True

    def call(self, x: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Returns the output layer's linear activations."""
        return self.of_code(self.code(x), u)

    def code(self, x: tf.Tensor) -> tf.Tensor:
        """Returns all that the outputs need of x: `[B, Dx] -> [B, hidden[0]]`."""
        return self.x_layer(x)

    def of_code(self, code: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Returns the outputs for the x with this code."""
        flat_u = flat(u)
        h = flat(code + unflat(self.u_layer(flat_u), like=u))
        for layer in self.later_layers:
            h = softplus(h)
            h = _dense_of_pair(layer, h, flat_u) if self.reinject else layer(h)
        return unflat(h, like=u)


class Logits(keras.layers.Layer):
    """Learned logits of a categorical distribution without inputs; initially uniform."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.logits = self.add_weight(shape=(count,), initializer="zeros", name="logits")
        self.built = True

    def log_probabilities(self) -> tf.Tensor:
        """Returns the log-probabilities `[count]`."""
        return tf.nn.log_softmax(self.logits)


def gaussian_head(outputs: tf.Tensor, scale: str = "softplus") -> tfd.Distribution:
    """Splits `[..., 2D]` into the mean and the raw scale of a Gaussian.

    The raw scale is the input of a softplus (Sobolev & Vetrov 2019) or the log of the variance
    (Shu et al. 2019). With the latter, steps of SVI do not depend on the width of the Gaussian.
    """
    loc, raw_scale = tf.split(outputs, 2, axis=-1)
    if scale == "log_variance":
        log_variance = tf.clip_by_value(raw_scale, -MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return distributions.DiagonalNormal(loc, tf.exp(0.5 * log_variance))
    return distributions.DiagonalNormal(loc, tf.nn.softplus(raw_scale) + MIN_SCALE)


def gated_gaussian_head(outputs: tf.Tensor, gate_bias: float) -> tfd.Distribution:
    """Splits `[..., 3D]` as `gaussian_head`, with a gate g in (0, 1) that pulls toward N(0, I).

    The mean is g mu and the scale 1 + g (sigma - 1). With a very negative `gate_bias` g is near 0.
    Then tau starts at the prior q(psi) = N(0, I), so it is no worse than SIVI (Sobolev & Vetrov
    2019, section 6.1).
    """
    loc, raw_scale, raw_gate = tf.split(outputs, 3, axis=-1)
    gate = tf.nn.sigmoid(raw_gate + gate_bias)
    scale = tf.nn.softplus(raw_scale) + MIN_SCALE
    return distributions.DiagonalNormal(gate * loc, 1.0 + gate * (scale - 1.0))
