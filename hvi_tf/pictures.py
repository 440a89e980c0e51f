"""Images of a model as one picture."""

import math
import pathlib

import numpy as np
import tensorflow as tf

from hvi_tf import seeds
from hvi_tf import workdir as workdirs
from hvi_tf.models.autoencoder import Autoencoder
from hvi_tf.progress import Progress


def image_grid(images: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Images `[N, D]` row by row in the smallest square; what is left over is 0.

    Returns:
        `[n H, n W, channels]`.
    """
    side = math.ceil(math.sqrt(len(images)))
    height, width, channels = image_shape
    missing = side * side - len(images)
    cells = np.pad(images, ((0, missing), (0, 0))).reshape(side, side, height, width, channels)
    return cells.transpose(0, 2, 1, 3, 4).reshape(side * height, side * width, channels)


def sample(
    model: Autoencoder, n: int, image_shape: tuple[int, ...], path: pathlib.Path
) -> pathlib.Path:
    """Draws `n` images from the model and writes them as one PNG file.

    They are the means of p(x|z) at draws of z from the prior, or, of an autoregressive
    decoder, draws of x, with a progress bar over the rows of pixels.

    Raises:
        UserError: if the file cannot be written.
    """
    seed = seeds.fold(model.seed, seeds.Purpose.SAMPLE_IMAGES)
    progress = Progress("sampling", "row", image_shape[0])
    images = model.sample_images(n, seed, lambda rows: progress.update(1)).numpy()
    if not model.autoregressive:
        progress.update(image_shape[0])
    progress.close()
    grid = np.round(255.0 * np.clip(image_grid(images, image_shape), 0.0, 1.0))
    workdirs.write_atomically(path, tf.io.encode_png(grid.astype(np.uint8)).numpy())
    return path
