"""The gated PixelCNN of van den Oord et al. 2016, conditioned on z, and draws from it.

It is the decoder of Shu et al. 2019, appendix D. Images are square and have one channel. Arguments
and results are flattened in raster order, `[..., D]`.
"""

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf.models import networks
from hvi_tf.models.convolution import Convolution

KERNELS = (9, 9, 9, 7, 7, 7, 5, 5, 5, 3, 3, 3)
# tanh(a) sigmoid(b) of standard normals has a mean square of 0.116; this compensates for it.
GATED_GAIN = 8.6
# Gain of the output layer, so that the initial probabilities are near 1/2.
OUTPUT_GAIN = 0.01


class PixelCNN(keras.layers.Layer):
    """A network whose output t sees z and x_1:t-1: `[B, D], [..., B, Dz] -> [..., B, D]`.

    It has two stacks of gated convolutions. The vertical stack sees all rows above a pixel. The
    horizontal stack sees the pixels to the left and, by a 1x1 convolution in every layer, the
    vertical stack. Together they have no blind spot. z is mapped linearly to a few images, which
    are inputs of the first layer. There they are also seen at the current pixel, so the first
    pixel depends on z.

    Kernels have no masks. They cover only visible pixels: k//2 + 1 rows of k pixels, and k//2 + 1
    pixels of the row itself, one less of x in the first layer. At the default sizes that is 0.64
    million multiply-adds per pixel, or 0.50 billion per image of 28x28 pixels. Masked kernels
    would take 1.06 million and 0.83 billion.

    The first layer is linear in x and z. So its part in x is computed once per image and broadcast
    over the leading axes of z, and x itself is never tiled.

    Args:
        side: D = side^2.
        z_dim: Dz.
        rng: source of the initializers' seeds.
        channels: of every layer of both stacks.
        kernels: side k of each layer's kernel, odd.
        z_maps: number of images that z is mapped to.
        precision: dtype of the factors of products.

    Raises:
        ValueError: if there is no kernel, or if one is even or below 3.
    """

    def __init__(
        self,
        side: int,
        z_dim: int,
        rng: np.random.Generator,
        channels: int = 32,
        kernels: Sequence[int] = KERNELS,
        z_maps: int = 4,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        if not kernels or any(k < 3 or k % 2 == 0 for k in kernels):
            raise ValueError(f"kernels must be odd and >= 3, got {tuple(kernels)}")
        self.side = side
        first, *later = kernels
        half, C = first // 2, channels
        above, left, convolution = (
            functools.partial(kind, rng=rng, precision=precision)
            for kind in (_above, _left, Convolution)
        )
        kernel = networks.uniform(z_dim, side**2 * z_maps, rng, last=True)
        self.z_layer = networks.dense(kernel, precision=precision)
        self.x_above = above(half, first, 1, C, gain=2.0)
        self.x_left = left(half, first, 1, C, gain=1.0)
        self.z_above = above(half + 1, first, z_maps, C, gain=0.5, use_bias=False)
        self.z_left = left(half + 1, first, z_maps, C, gain=0.5, use_bias=False)
        self.vertical = [above(k // 2 + 1, k, C, C, gain=GATED_GAIN) for k in later]
        self.horizontal = [left(k // 2 + 1, k, C, C, gain=0.5) for k in later]
        self.across = [convolution((1, 1), 2 * C, 2 * C, gain=0.5, use_bias=False) for _ in kernels]
        # The sum over all layers starts at a mean square of about 2.
        gains = [GATED_GAIN, *(GATED_GAIN / len(kernels) for _ in later)]
        self.residual = [convolution((1, 1), C, C, gain=gain) for gain in gains]
        self.output_layer = convolution((1, 1), C, 1, gain=OUTPUT_GAIN)
        self.built = True

    def call(self, x: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        """Returns one unbounded output per pixel."""
        x = tf.reshape(x, [-1, self.side, self.side, 1])
        maps = self.maps_of(z)
        return networks.unflat(self.along_rows(x, maps, self.from_above(x, maps)), like=z)

    def maps_of(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the images of z: `[..., B, Dz] -> [N, side, side, z_maps]`, N = prod [..., B]."""
        maps = self.z_layer(networks.flat(z))
        return tf.reshape(maps, [-1, self.side, self.side, maps.shape[-1] // self.side**2])

    def from_above(self, x: tf.Tensor, maps: tf.Tensor) -> list[tf.Tensor]:
        """Applies the vertical stack: for each layer, the features of x's rows above each row.

        Args:
            x: `[B, side, side, 1]`.
            maps: `[N, side, side, z_maps]`, N a multiple of B.

        Returns:
            One tensor `[N, side, side, 2 channels]` per layer.
        """
        units = _add_per_image(self.z_above(maps), self.x_above(x[:, :-1]))
        features = [self.across[0](units)]
        for vertical, across in zip(self.vertical, self.across[1:], strict=True):
            units = vertical(_gate(units))
            features.append(across(units))
        return features

    def along_rows(self, x: tf.Tensor, maps: tf.Tensor, above: list[tf.Tensor]) -> tf.Tensor:
        """Applies the horizontal stack and the output layer to each row separately.

        Args:
            x: `[B, R, side, 1]`, for any number R of rows.
            maps: `[N, R, side, z_maps]`.
            above: `from_above` at these rows.

        Returns:
            `[N, R side]`.
        """
        units = _add_per_image(self.z_left(maps), self.x_left(x[:, :, :-1])) + above[0]
        h = self.residual[0](_gate(units))
        for horizontal, residual, from_above in zip(
            self.horizontal, self.residual[1:], above[1:], strict=True
        ):
            h += residual(_gate(horizontal(h) + from_above))
        outputs = self.output_layer(tf.nn.elu(h))
        return tf.reshape(outputs, [-1, outputs.shape[1] * outputs.shape[2]])


def _above(
    rows: int,
    k: int,
    inputs: int,
    channels: int,
    rng: np.random.Generator,
    gain: float,
    use_bias: bool = True,
    precision: str = "float32",
) -> Convolution:
    """Returns a convolution over `rows` rows, up to the current row, and k centered columns.

    If the input lacks its last row, the kernel sees only rows above the current one.
    """
    pad, outputs = ((k // 2, 0), (k // 2, k // 2)), 2 * channels
    return Convolution(
        (rows, k), inputs, outputs, rng, gain, pad, use_bias=use_bias, precision=precision
    )


def _left(
    columns: int,
    k: int,
    inputs: int,
    channels: int,
    rng: np.random.Generator,
    gain: float,
    use_bias: bool = True,
    precision: str = "float32",
) -> Convolution:
    """Returns a convolution over one row, up to the current pixel; see `_above`."""
    pad, outputs = ((0, 0), (k // 2, 0)), 2 * channels
    return Convolution(
        (1, columns), inputs, outputs, rng, gain, pad, use_bias=use_bias, precision=precision
    )


def _add_per_image(h: tf.Tensor, per_image: tf.Tensor) -> tf.Tensor:
    """Returns `[M B, ...] + [B, ...]`, without M copies of the latter."""
    by_image = tf.reshape(h, tf.concat([[-1], tf.shape(per_image)], axis=0))
    return tf.reshape(by_image + per_image, tf.shape(h))


def _gate(units: tf.Tensor) -> tf.Tensor:
    """Returns tanh(a) sigmoid(b) of `[..., 2 C] = [a, b]`; van den Oord et al. 2016, eq 2."""
    a, b = tf.split(units, 2, axis=-1)
    return tf.tanh(a) * tf.sigmoid(b)


def sample(
    network: PixelCNN,
    pixels: Callable[[tf.Tensor], tfd.Distribution],
    z: tf.Tensor,
    seed: tf.Tensor,
    progress: Callable[[int], None] | None = None,
) -> tf.Tensor:
    """Draws x ~ p(x|z) = prod_t p(x_t | x_1:t-1, z), pixel by pixel in raster order.

    The vertical stack runs once per row. The horizontal stack runs once per pixel, but only on its
    row. Together this costs `side` passes of the network, not side^2.

    Args:
        network: the decoder.
        pixels: maps outputs `[N, D]` to a distribution of N images with independent pixels.
        z: `[..., Dz]`.
        seed: int32 `[2]`; the seed of pixel t is folded from it and t.
        progress: called after every row with the number of rows done; does not change the draw.
            In a `tf.function` it is called only during tracing.

    Returns:
        `[..., D]`, float.
    """
    side, maps = network.side, network.maps_of(z)

    def draw_row(row: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        above = [tf.gather(h, [row], axis=1) for h in network.from_above(x, maps)]
        row_maps = tf.gather(maps, [row], axis=1)

        def draw_pixel(column: tf.Tensor, line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            outputs = network.along_rows(line[:, tf.newaxis, :, tf.newaxis], row_maps, above)
            t = row * side + column
            # Weights of `pixels` may depend on the position, so each output must be at its own.
            images = pixels(tf.tile(outputs, [1, side])).sample(seed=tf.random.fold_in(seed, t))
            drawn = tf.cast(tf.gather(images, [t], axis=1), line.dtype)
            return column + 1, tf.where(tf.range(side) == column, drawn, line)

        line = tf.zeros_like(x[:, 0, :, 0])
        _, line = tf.while_loop(
            lambda column, _: column < side, draw_pixel, [0, line], maximum_iterations=side
        )
        is_row = tf.range(side)[:, tf.newaxis, tf.newaxis] == row
        return row + 1, tf.where(is_row, line[:, tf.newaxis, :, tf.newaxis], x)

    @tf.function(autograph=False)
    def draw_rows(start: tf.Tensor, stop: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(
            lambda row, _: row < stop, draw_row, [start, x], maximum_iterations=side
        )[1]

    x = tf.zeros_like(maps[..., :1])
    rows_per_call = side if progress is None else 1
    for row in range(0, side, rows_per_call):
        x = draw_rows(tf.constant(row), tf.constant(row + rows_per_call), x)
        if progress is not None:
            progress(row + rows_per_call)
    return networks.unflat(tf.reshape(x, [-1, side**2]), like=z)
