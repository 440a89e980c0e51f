"""A convolution of images `[N, H, W, channels]`, built when it is constructed."""

import keras
import numpy as np
import tensorflow as tf

from hvi_tf.models import networks

Pad = tuple[tuple[int, int], tuple[int, int]]


class Convolution(keras.layers.Layer):
    """A convolution: `[N, H, W, inputs] -> [N, H', W', outputs]`.

    Args:
        size: height and width of the kernel.
        inputs: channels.
        outputs: channels.
        rng: source of the initializer's seed.
        gain: variance of an initial output if inputs have a mean square of 1.
        pad: rows of zeros above and below, columns to the left and right.
        stride: of both axes.
        use_bias: whether there is a bias, initially 0.
        precision: dtype of images and kernel in their product; all else is float32.
    """

    def __init__(
        self,
        size: tuple[int, int],
        inputs: int,
        outputs: int,
        rng: np.random.Generator,
        gain: float = 1.0,
        pad: Pad = ((0, 0), (0, 0)),
        stride: int = 1,
        use_bias: bool = True,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        seed = int(rng.integers(2**31))
        initializer = keras.initializers.VarianceScaling(gain, "fan_in", "uniform", seed=seed)
        self.kernel = self.add_weight(
            shape=(*size, inputs, outputs), initializer=initializer, name="kernel"
        )
        self.bias = None
        if use_bias:
            self.bias = self.add_weight(shape=(outputs,), initializer="zeros", name="bias")
        self.pad, self.stride, self.precision = pad, stride, precision
        self.built = True

    def call(self, h: tf.Tensor) -> tf.Tensor:
        """Returns the linear outputs."""
        if any(map(any, self.pad)):
            h = tf.pad(h, [(0, 0), *self.pad, (0, 0)])
        factors = networks.rounded(self.precision, h, self.kernel)
        h = tf.cast(tf.nn.conv2d(*factors, self.stride, "VALID"), h.dtype)
        return h if self.bias is None else tf.nn.bias_add(h, self.bias)
