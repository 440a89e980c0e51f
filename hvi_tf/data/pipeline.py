"""The input pipeline: the batch of a step is a pure function of (seed, step)."""

import numpy as np
import tensorflow as tf

from hvi_tf import seeds


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


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Full batches in an epoch; the rest of its shuffled images wait for another epoch."""
    return num_images // batch_size


def training_batch(images: tf.Tensor, batch_size: int, seed: int, step: tf.Tensor) -> tf.Tensor:
    """The binarized batch `[batch_size, D]` of a step.

    Each epoch walks through a permutation of its own; each visit to an image draws its
    pixels anew.
    """
    num_images = images.shape[0]
    per_epoch = steps_per_epoch(num_images, batch_size)
    epoch, position = step // per_epoch, step % per_epoch
    rows = tf.random.experimental.index_shuffle(
        position * batch_size + tf.range(batch_size, dtype=step.dtype),
        seed=seeds.fold(seed, seeds.Purpose.SHUFFLE, epoch),
        max_index=num_images - 1,
    )
    batch = tf.gather(images, rows)
    return binarize(batch, seeds.fold(seed, seeds.Purpose.BINARIZE, step))


def training_batches(
    images: np.ndarray, batch_size: int, seed: int, first_step: int, end_step: int
) -> tf.data.Dataset:
    """The batches of steps `first_step` to `end_step - 1`, in order, prefetched."""
    resident = tf.constant(images)
    return (
        tf.data.Dataset.range(first_step, end_step)
        .map(
            lambda step: training_batch(resident, batch_size, seed, step),
            num_parallel_calls=2,
            deterministic=True,
        )
        .prefetch(4)
    )


def fixed_binarization(images: np.ndarray, seed: int, purpose: seeds.Purpose) -> tf.Tensor:
    """One binarization `[N, D]` of a whole split, the same at every call."""
    return binarize(tf.constant(images), seeds.fold(seed, seeds.Purpose.BINARIZE, -1, purpose))
