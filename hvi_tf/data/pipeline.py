"""The input pipeline: the batch of a step is a pure function of (seed, step)."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.errors import UserError


def binarize(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws pixels in {0, 1} whose probabilities of 1 are the intensities.

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
    """Returns the 256 levels v of 8-bit pixels as v / 255; nothing is drawn.

    Args:
        images: `[..., D]`, uint8.
        seed: ignored; `observe` passes one to every likelihood.

    Returns:
        float32 of the same shape; 255 times it, rounded, is the level v.

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
    """Checks that images of `dtype` can be observed under `likelihood`.

    Args:
        dtype: of the data set's images.
        dataset: name of the data set, for the message.
        likelihood: bernoulli or discretized_logistic.

    Raises:
        UserError: if discretized_logistic gets other pixels than 8-bit levels.
    """
    if likelihood == "discretized_logistic" and dtype != np.uint8:
        raise UserError(
            f"--likelihood={likelihood}: {dataset} has no 8-bit levels; choose bernoulli"
        )


def observe(images: tf.Tensor, likelihood: str, seed: tf.Tensor) -> tf.Tensor:
    """Returns the observations that a likelihood scores: pixels in {0, 1}, or levels v / 255.

    Args:
        images: `[..., D]`, uint8 0 to 255, or for bernoulli also float32 0 to 1.
        likelihood: bernoulli (stochastic) or discretized_logistic.
        seed: int32 `[2]`.

    Returns:
        float32 of the same shape.
    """
    return _OBSERVATIONS[likelihood](images, seed)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Returns the number of full batches in an epoch; the remaining images are left out."""
    return num_images // batch_size


def training_batch(
    images: tf.Tensor,
    batch_size: int,
    seed: int,
    step: tf.Tensor,
    *,
    likelihood: str = "bernoulli",
) -> tf.Tensor:
    """Returns the observed batch `[batch_size, D]` of a step.

    Each epoch has its own permutation of the images. Each visit to an image draws a new
    observation of it.
    """
    batch = tf.gather(images, training_rows(images.shape[0], batch_size, seed, step))
    return observe_step(batch, likelihood, seed, step)


def observe_step(images: tf.Tensor, likelihood: str, seed: int, step: tf.Tensor) -> tf.Tensor:
    """Returns the observations of a step's images, `[batch_size, D]`."""
    return observe(images, likelihood, randomness.fold(seed, randomness.Purpose.BINARIZE, step))


def training_rows(num_images: int, batch_size: int, seed: int, step: tf.Tensor) -> tf.Tensor:
    """Returns the indices of the images in the batch of a step, `[batch_size]`."""
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
    """Returns the batches of steps `first_step` to `end_step - 1`, in order, prefetched."""
    resident = tf.constant(images)
    options = tf.data.Options()
    # The optimizer of pipelines would copy the images into a graph: 620 MB for SVHN, kept as long
    # as the iterator. For such a short pipeline it gains nothing.
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
    """Returns one observation `[N, D]` of a whole split, the same at every call."""
    folded = randomness.fold(
        seed, randomness.Purpose.BINARIZE, randomness.ObservationStream.FIXED, purpose
    )
    return observe(tf.constant(images), likelihood, folded)
