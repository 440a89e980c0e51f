"""Keras layers that map tensors to TFP distributions.

The networks here are multilayer perceptrons with softplus units, as in the experiments of
Sobolev & Vetrov 2019 (appendix F). Weights exist as soon as a network does.
"""

import itertools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf.models import distributions

# Keeps every standard deviation away from 0, where log-densities are unbounded.
MIN_SCALE = 1e-4
# Where the log of a variance is what a network says: standard deviations from 1e-12 to 1e12,
# far outside of any use, at which squares of what they divide are still within float32.
MAX_LOG_VARIANCE = 55.0


def uniform(inputs: int, units: int, rng: np.random.Generator, last: bool = False) -> tf.Tensor:
    """An initial kernel: He's scale, LeCun's for an output layer."""
    seed = int(rng.integers(2**31))
    scale = 1.0 if last else 2.0
    initializer = keras.initializers.VarianceScaling(scale, "fan_in", "uniform", seed=seed)
    return initializer((inputs, units))


def rounded(precision: str, *factors: tf.Tensor) -> list[tf.Tensor]:
    """The factors of a product in bfloat16 if that is the precision, else as they are."""
    if precision == "bfloat16":
        return [tf.cast(factor, tf.bfloat16) for factor in factors]
    return list(factors)


def product(a: tf.Tensor, b: tf.Tensor, precision: str) -> tf.Tensor:
    """`a @ b` of factors rounded to `precision`, in the dtype that they have."""
    return tf.cast(tf.matmul(*rounded(precision, a, b)), a.dtype)


class Dense(keras.layers.Dense):
    """A dense layer of which nothing but the factors of the product is rounded to `precision`.

    Keras's mixed policies round the bias, too, and sum its gradient over a batch in 8 bits.
    """

    def __init__(self, units: int, use_bias: bool, precision: str) -> None:
        super().__init__(units, use_bias=use_bias)
        self.precision = precision

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The linear outputs, float32."""
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
    """Every layer after the first; each sees `extra` inputs beside its softplus units."""
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
    """A layer with this initial kernel, whose first `softplus_inputs` inputs are softplus units.

    At the start softplus units have a mean of about log 2 each. The initial bias cancels
    what that adds to every unit of the next layer; with the He scale this saves several
    epochs against Glorot's scale and zero biases.
    """
    inputs, units = kernel.shape
    bias = -np.log(2.0) * np.sum(kernel[:softplus_inputs], axis=0)
    layer = Dense(units, use_bias, precision)
    layer.build((None, inputs))
    layer.set_weights([kernel, bias] if use_bias else [kernel])
    return layer


# Below it log sigmoid(x) nears the end of float32.
_SOFTPLUS_FLOOR = -80.0


@tf.custom_gradient
def softplus(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """log(1 + exp x) to 1e-5 in float32, as x - log sigmoid(x).

    With one sigmoid for the value and the gradient it takes two thirds of the time of
    `tf.nn.softplus`, or of a log1p, on CPUs; it is the larger part of what a network costs
    beside its matrix products.
    """
    clipped = tf.maximum(x, _SOFTPLUS_FLOOR)
    sigmoid = tf.sigmoid(clipped)
    return clipped - tf.math.log(sigmoid), lambda upstream: upstream * sigmoid


# Layers see matrices only: given more axes Keras may use TensorFlow's batched product,
# whose oneDNN kernel corrupted the heap (TensorFlow 2.18 to 2.21, Keras 3.6 to 3.12).
def flat(x: tf.Tensor) -> tf.Tensor:
    """`[..., D] -> [N, D]`."""
    return tf.reshape(x, [-1, x.shape[-1]])


def unflat(h: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """`[N, D] -> [..., D]` with the leading axes of `like`."""
    return tf.reshape(h, tf.concat([tf.shape(like)[:-1], [h.shape[-1]]], axis=0))


def _dense_of_pair(layer: Dense, h: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """`layer(concat([h, u], -1))` without the copies that concatenation and its gradient make."""
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
        """The output layer's linear activations."""
        h = self.first_layer(flat(x))
        for layer in self.later_layers:
            h = layer(softplus(h))
        return unflat(h, like=x)


class ConditionedMLP(keras.layers.Layer):
    """A perceptron of [x, u] for many u per x: `[B, Dx], [..., B, Du] -> [..., B, outputs]`.

    The product of x with the first layer is the same for all u of an image, so it is
    computed once per image and broadcast; x itself is never tiled.

    Args:
        x_dim: Dx.
        u_dim: Du.
        hidden: units of each hidden layer.
        outputs: units of the output layer.
        rng: source of the initializers' seeds.
        reinject: whether every later layer, the output one too, sees u again beside
            the previous layer's output.
        precision: of the factors of matrix products.
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
        # Drawn as the one kernel of [x, u] that these two stand for: with a scale of its
        # own u would drown x at the start.
        kernel = uniform(x_dim + u_dim, hidden[0], rng)
        self.x_layer = dense(kernel[:x_dim], precision=precision)
        self.u_layer = dense(kernel[x_dim:], use_bias=False, precision=precision)
        extra = u_dim if reinject else 0
        self.later_layers = _layers_after(hidden, outputs, extra, rng, precision)
        self.built = True

    def call(self, x: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """The output layer's linear activations."""
        return self.of_code(self.code(x), u)

    def code(self, x: tf.Tensor) -> tf.Tensor:
        """All that the outputs need of x: `[B, Dx] -> [B, hidden[0]]`."""
        return self.x_layer(x)

    def of_code(self, code: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """The outputs for x of this code."""
        flat_u = flat(u)
        h = flat(code + unflat(self.u_layer(flat_u), like=u))
        for layer in self.later_layers:
            h = softplus(h)
            h = _dense_of_pair(layer, h, flat_u) if self.reinject else layer(h)
        return unflat(h, like=u)


class Logits(keras.layers.Layer):
    """The logits of a categorical distribution that no input changes; uniform at first."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.logits = self.add_weight(shape=(count,), initializer="zeros", name="logits")
        self.built = True

    def log_probabilities(self) -> tf.Tensor:
        """`[count]`."""
        return tf.nn.log_softmax(self.logits)


def gaussian_head(outputs: tf.Tensor, scale: str = "softplus") -> tfd.Distribution:
    """Splits `[..., 2D]` into the mean and the raw scale of a Gaussian.

    The raw scale is that of a softplus (Sobolev & Vetrov 2019), or the log of the variance
    (Shu et al. 2019), on which steps of SVI do not depend on how wide the Gaussian is.
    """
    loc, raw_scale = tf.split(outputs, 2, axis=-1)
    if scale == "log_variance":
        log_variance = tf.clip_by_value(raw_scale, -MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return distributions.DiagonalNormal(loc, tf.exp(0.5 * log_variance))
    return distributions.DiagonalNormal(loc, tf.nn.softplus(raw_scale) + MIN_SCALE)


def gated_gaussian_head(outputs: tf.Tensor, gate_bias: float) -> tfd.Distribution:
    """As `gaussian_head`, from `[..., 3D]`, pulled toward N(0, I) by a gate g in (0, 1).

    Mean g mu and scale 1 + g (sigma - 1): at g near 0, that is at a very negative
    `gate_bias`, tau starts at the prior q(psi) = N(0, I) and so no worse than SIVI
    (Sobolev & Vetrov 2019, section 6.1).
    """
    loc, raw_scale, raw_gate = tf.split(outputs, 3, axis=-1)
    gate = tf.nn.sigmoid(raw_gate + gate_bias)
    scale = tf.nn.softplus(raw_scale) + MIN_SCALE
    return distributions.DiagonalNormal(gate * loc, 1.0 + gate * (scale - 1.0))
