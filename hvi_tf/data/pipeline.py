"""The input pipeline: the batch of a step is a pure function of (seed, step)."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.errors import UserError


def binarize(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws pixels in {0, 1} with the intensities as probabilities.

    Args:
        images: `[..., D]`, uint8 0 to 255 or float32 0 to 1.
        seed: int32 `[2]`.

    Returns:
        float32 of the same shape.
    """
    intensities = images
    if images.dtype == tf.uint8:
        intensities = tf.cast(images, tf.float32) / 255.0
    noise = tf.random.stateless_uniform(tf.shape(images), seed)
    return tf.cast(noise < intensities, tf.float32)


def scale_levels(images: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
    """The 256 levels of 8-bit pixels as v / 255; nothing is drawn.

    Args:
        images: `[..., D]`, uint8.
        seed: ignored; an observation takes one.

    Returns:
        float32 of the same shape; times 255 and rounded, it is the level again.

    Raises:
        ValueError: if the images are not uint8.
    """
    if images.dtype != tf.uint8:
        raise ValueError(f"images of {images.dtype.name}: only uint8 has 256 levels")
    return tf.cast(images, tf.float32) / 255.0


_OBSERVATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "bernoulli": binarize,
    "discretized_logistic": scale_levels,
}


def check_likelihood(dtype: np.dtype, dataset: str, likelihood: str) -> None:
    """Raises `UserError` unless images of `dtype` can be observed under `likelihood`.

    Args:
        dtype: of the data set's images.
        dataset: its name, for the message.
        likelihood: bernoulli or discretized_logistic.
    """
    if likelihood == "discretized_logistic" and dtype != np.uint8:
        raise UserError(
            f"--likelihood={likelihood}: {dataset} has no 8-bit levels; choose bernoulli"
        )


def observe(images: tf.Tensor, likelihood: str, seed: tf.Tensor) -> tf.Tensor:
    """What a likelihood is asked about: pixels drawn in {0, 1}, or the levels v / 255.

    Args:
        images: `[..., D]`, uint8 0 to 255, or for bernoulli also float32 0 to 1.
        likelihood: bernoulli (stochastic) or discretized_logistic.
        seed: int32 `[2]`.

    Returns:
        float32 of the same shape.
    """
    return _OBSERVATIONS[likelihood](images, seed)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Full batches in an epoch; the rest of its shuffled images wait for another epoch."""
    return num_images // batch_size


def training_batch(
    images: tf.Tensor,
    batch_size: int,
    seed: int,
    step: tf.Tensor,
    *,
    likelihood: str = "bernoulli",
) -> tf.Tensor:
    """The observed batch `[batch_size, D]` of a step.

    Each epoch walks through a permutation of its own; each visit to an image observes it
    anew.
    """
    batch = tf.gather(images, training_rows(images.shape[0], batch_size, seed, step))
    return observe_step(batch, likelihood, seed, step)


def observe_step(images: tf.Tensor, likelihood: str, seed: int, step: tf.Tensor) -> tf.Tensor:
    """The images of a step `[batch_size, D]` as it observes them."""
    return observe(images, likelihood, randomness.fold(seed, randomness.Purpose.BINARIZE, step))


def training_rows(num_images: int, batch_size: int, seed: int, step: tf.Tensor) -> tf.Tensor:
    """Which images are the batch of a step, `[batch_size]`."""
    per_epoch = steps_per_epoch(num_images, batch_size)
    epoch, position = step // per_epoch, step % per_epoch
    return tf.random.experimental.index_shuffle(
        position * batch_size + tf.range(batch_size, dtype=step.dtype),
        seed=randomness.fold(seed, randomness.Purpose.SHUFFLE, epoch),
        max_index=num_images - 1,
    )


def training_batches(
    images: np.ndarray,
    batch_size: int,
    seed: int,
    first_step: int,
    end_step: int,
    *,
    likelihood: str = "bernoulli",
) -> tf.data.Dataset:
    """The batches of steps `first_step` to `end_step - 1`, in order, prefetched."""
    resident = tf.constant(images)
    options = tf.data.Options()
    # To optimize such a short pipeline gains nothing, and makes a graph that holds the images
    # once more: 620 MB for SVHN, kept as long as the iterator.
    options.experimental_optimization.apply_default_optimizations = False
    return (
        tf.data.Dataset.range(first_step, end_step)
        .map(
            lambda step: training_batch(resident, batch_size, seed, step, likelihood=likelihood),
            num_parallel_calls=2,
            deterministic=True,
        )
        .prefetch(4)
        .with_options(options)
    )


def fixed_observation(
    images: np.ndarray, likelihood: str, seed: int, purpose: randomness.Purpose
) -> tf.Tensor:
    """One observation `[N, D]` of a whole split, the same at every call."""
    folded = randomness.fold(
        seed, randomness.Purpose.BINARIZE, randomness.ObservationStream.FIXED, purpose
    )
    return observe(tf.constant(images), likelihood, folded)
