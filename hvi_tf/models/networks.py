"""Keras layers that map tensors to TFP distributions.

All networks are multilayer perceptrons with softplus units, as in the experiments of
Sobolev & Vetrov 2019 (appendix F). Weights exist as soon as a network does.
"""

import itertools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from hvi_tf.models import distributions

tfd = tfp.distributions

# Keeps every standard deviation away from 0, where log-densities are unbounded.
MIN_SCALE = 1e-4


def _dense(
    inputs: int, units: int, rng: np.random.Generator, use_bias: bool = True
) -> keras.layers.Dense:
    kernel = keras.initializers.GlorotUniform(seed=int(rng.integers(2**31)))
    layer = keras.layers.Dense(units, use_bias=use_bias, kernel_initializer=kernel)
    layer.build((None, inputs))
    return layer


class MLP(keras.layers.Layer):
    """A perceptron of x alone: `[..., inputs] -> [..., outputs]`."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, rng: np.random.Generator
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.hidden = [_dense(a, b, rng) for a, b in itertools.pairwise(sizes)]
        self.output_layer = _dense(sizes[-1], outputs, rng)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """The output layer's linear activations."""
        for layer in self.hidden:
            x = tf.nn.softplus(layer(x))
        return self.output_layer(x)


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
    """

    def __init__(
        self,
        x_dim: int,
        u_dim: int,
        hidden: Sequence[int],
        outputs: int,
        rng: np.random.Generator,
        reinject: bool,
    ) -> None:
        super().__init__()
        self.reinject = reinject
        self.x_layer = _dense(x_dim, hidden[0], rng)
        self.u_layer = _dense(u_dim, hidden[0], rng, use_bias=False)
        extra = u_dim if reinject else 0
        self.hidden = [_dense(a + extra, b, rng) for a, b in itertools.pairwise(hidden)]
        self.output_layer = _dense(hidden[-1] + extra, outputs, rng)
        self.built = True

    def call(self, x: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """The output layer's linear activations."""
        h = tf.nn.softplus(self.x_layer(x) + self.u_layer(u))
        for layer in self.hidden:
            h = tf.nn.softplus(layer(self._with_u(h, u)))
        return self.output_layer(self._with_u(h, u))

    def _with_u(self, h: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return tf.concat([h, u], axis=-1) if self.reinject else h


def gaussian_head(outputs: tf.Tensor) -> tfd.Distribution:
    """Splits `[..., 2D]` into the mean and the softplus-positive scale of a Gaussian."""
    loc, raw_scale = tf.split(outputs, 2, axis=-1)
    return distributions.diagonal_normal(loc, tf.nn.softplus(raw_scale) + MIN_SCALE)


def gated_gaussian_head(outputs: tf.Tensor, gate_bias: float) -> tfd.Distribution:
    """As `gaussian_head`, from `[..., 3D]`, pulled toward N(0, I) by a gate g in (0, 1).

    Mean g mu and scale 1 + g (sigma - 1): at g near 0, that is at a very negative
    `gate_bias`, tau starts at the prior q(psi) = N(0, I) and so no worse than SIVI
    (Sobolev & Vetrov 2019, section 6.1).
    """
    loc, raw_scale, raw_gate = tf.split(outputs, 3, axis=-1)
    gate = tf.nn.sigmoid(raw_gate + gate_bias)
    scale = tf.nn.softplus(raw_scale) + MIN_SCALE
    return distributions.diagonal_normal(gate * loc, 1.0 + gate * (scale - 1.0))
