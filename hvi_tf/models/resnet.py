"""A residual network of images, the encoder of Shu et al. 2019, appendix D.

Images are square and have one channel. Arguments are flattened, `[..., D]`.
"""

import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from hvi_tf.errors import UserError
from hvi_tf.models import networks
from hvi_tf.models.convolution import Convolution

# Gain of the last convolution of a block: the sum of blocks stays O(1) without batch
# normalization.
BLOCK_GAIN = 0.01


def side_of(x_dim: int) -> int:
    """Returns the side of a square image of `x_dim` pixels.

    Raises:
        UserError: if `x_dim` is not a square.
    """
    side = math.isqrt(x_dim)
    if side**2 != x_dim:
        raise UserError(
            f"images of {x_dim} pixels are not square; choose --encoder=mlp and --decoder=mlp"
        )
    return side


def check_side(side: int, channels: Sequence[int]) -> None:
    """Checks that the side can be halved once per stage, that is per entry of `channels`.

    Raises:
        UserError: if a stage would be left without a pixel.
    """
    limit = side.bit_length() - 1
    if len(channels) > limit:
        raise UserError(
            f"--resnet_channels={','.join(map(str, channels))}: images of {side}x{side} pixels "
            f"cannot be halved {len(channels)} times; give at most {limit} stages"
        )


def _same(
    inputs: int, outputs: int, rng: np.random.Generator, gain: float, precision: str
) -> Convolution:
    pad = ((1, 1), (1, 1))
    return Convolution((3, 3), inputs, outputs, rng, gain, pad, precision=precision)


class _Stage(keras.layers.Layer):
    """A residual block and a halving: `[N, S, S, inputs] -> [N, S//2, S//2, outputs]`.

    Activations precede each convolution (He et al. 2016b), so the skip is linear.
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, precision: str) -> None:
        super().__init__()
        self.first = _same(inputs, outputs, rng, gain=2.0, precision=precision)
        self.second = _same(outputs, outputs, rng, gain=BLOCK_GAIN, precision=precision)
        self.skip = None
        if inputs != outputs:
            self.skip = Convolution((1, 1), inputs, outputs, rng, precision=precision)
        self.halve = Convolution(
            (2, 2), outputs, outputs, rng, gain=2.0, stride=2, precision=precision
        )
        self.built = True

    def call(self, h: tf.Tensor) -> tf.Tensor:
        block = self.second(tf.nn.elu(self.first(tf.nn.elu(h))))
        return self.halve(tf.nn.elu((h if self.skip is None else self.skip(h)) + block))


class ResNet(keras.layers.Layer):
    """Stages of a residual block and a halving, then a linear layer: `[..., D] -> [..., O]`.

    A stage has a block of two 3x3 convolutions and a 2x2 convolution of stride 2, which drops the
    last row and column of an odd side: 28, 14, 7, 3. Batch normalization is left out, because it
    would couple the images of a batch.

    Args:
        side: D = side^2.
        channels: of each stage.
        outputs: O.
        rng: source of the initializers' seeds.
        precision: dtype of the factors of products.

    Raises:
        UserError: if the side cannot be halved so often.
    """

    def __init__(
        self,
        side: int,
        channels: Sequence[int],
        outputs: int,
        rng: np.random.Generator,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        check_side(side, channels)
        self.side = side
        self.stages = [_Stage(a, b, rng, precision) for a, b in itertools.pairwise([1, *channels])]
        left = side >> len(channels)
        units = left**2 * [1, *channels][-1]
        kernel = networks.uniform(units, outputs, rng, last=True)
        self.output_layer = networks.dense(kernel, precision=precision)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the output layer's linear activations."""
        h = tf.reshape(x, [-1, self.side, self.side, 1])
        for stage in self.stages:
            h = stage(h)
        h = tf.reshape(h, [-1, self.output_layer.kernel.shape[0]])
        return networks.unflat(self.output_layer(tf.nn.elu(h)), like=x)
