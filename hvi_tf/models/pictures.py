"""Grids of a model's images, as PNG files."""

import math
import pathlib

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.models.autoencoder import Autoencoder
from hvi_tf.runtime.progress import Progress
from hvi_tf.storage import files


def image_grid(images: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Arranges images `[N, D]` row by row in the smallest square; empty cells are 0.

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

    They are the means of p(x|z) at draws of z from the prior. An autoregressive decoder has no
    mean: its images are draws of x, with a progress bar over the rows of pixels.

    Raises:
        UserError: if the file cannot be written.
    """
    seed = randomness.fold(model.seed, randomness.Purpose.SAMPLE_IMAGES)
    chunks = [min(model.rows_per_call, n - i) for i in range(0, n, model.rows_per_call)]
    rows = image_shape[0] if model.autoregressive else 1
    progress = Progress("sampling", "rows" if rows > 1 else "batches", rows * len(chunks))
    parts = []
    for i, chunk in enumerate(chunks):
        folded = tf.random.fold_in(seed, i)
        parts.append(model.sample_images(chunk, folded, lambda done: progress.update(1)).numpy())
        if not model.autoregressive:
            progress.update(1)
    progress.close()
    images = np.concatenate(parts)
    return write_grid(images, image_shape, path)


def write_grid(
    images: np.ndarray, image_shape: tuple[int, ...], path: pathlib.Path
) -> pathlib.Path:
    """Writes `image_grid` of pixels from 0 to 1 as a PNG file.

    Raises:
        UserError: if the file cannot be written.
    """
    grid = np.round(255.0 * np.clip(image_grid(images, image_shape), 0.0, 1.0))
    files.write_atomically(path, tf.io.encode_png(grid.astype(np.uint8)).numpy())
    return path
